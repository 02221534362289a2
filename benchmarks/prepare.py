"""How fast are the triangulation and the stages of `distjet prepare`? Prints one JSON object.

    python -m benchmarks.prepare [--graphs 3000] [--jets 20000] [--ntuples FOLDER]

Times are CPU seconds of this process (one core). The jets of the second part are random, in the format of `distjet simulate`,
unless a folder of ntuples is given.
"""

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial import Delaunay

from distjet.config import load
from distjet.dataset.graphs import GRID, delaunay_edges
from distjet.dataset.prepare import prepare
from distjet.dataset.recipe import PrepareConfig


def cpu_seconds(function: Callable[[], Any], repeat: int) -> float:
    """Return the shortest CPU time of a few calls."""
    best = float("inf")
    for _ in range(repeat):
        start = time.process_time()
        function()
        best = min(best, time.process_time() - start)
    return best


def scipy_edges(points: np.ndarray) -> set[tuple[int, int]]:
    """Return the edges that scipy (Qhull) finds; None of its handling of fewer than three points is needed here."""
    simplices = np.sort(Delaunay(points).simplices, axis=1)
    pairs = np.concatenate([simplices[:, [0, 1]], simplices[:, [1, 2]], simplices[:, [0, 2]]])
    return set(map(tuple, np.unique(pairs, axis=0).tolist()))


def measure_triangulation(num_graphs: int) -> dict[str, Any]:
    """Compare with scipy on the same jets of 3 to 95 constituents (49 in the mean)."""
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 96, num_graphs)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    points = np.rint(rng.normal(0, 0.25, (offsets[-1], 2)) * GRID) / GRID
    eta, phi = np.ascontiguousarray(points.T)
    parts = [points[start:stop] * GRID for start, stop in itertools.pairwise(offsets)]
    edges = delaunay_edges(eta, phi, offsets)  # compile
    ours = cpu_seconds(lambda: delaunay_edges(eta, phi, offsets), 7)
    theirs = cpu_seconds(lambda: [scipy_edges(part) for part in parts], 1)
    pairs = list(zip(edges.source.tolist(), edges.target.tolist(), strict=True))
    found = [set(pairs[start:stop]) for start, stop in zip(edges.offsets, edges.offsets[1:], strict=False)]
    return {
        "num_graphs": num_graphs,
        "mean_constituents": float(sizes.mean()),
        "delaunay_us_per_graph": ours / num_graphs * 1e6,
        "scipy_us_per_graph": theirs / num_graphs * 1e6,
        "speedup_vs_scipy": theirs / ours,
        "max_difference": sum(mine != scipy_edges(part) for mine, part in zip(found, parts, strict=True)),
    }


def measure_prepare(ntuples: Path, output: Path) -> dict[str, Any]:
    """Convert ntuples, timing each stage; the first conversion, which compiles, is not counted."""
    seconds: dict[str, float] = {}

    def timed(function: Any, tasks: Any, *, description: str) -> Iterator[tuple[int, dict[str, Any]]]:
        start = time.process_time()
        results = [(index, function(task)) for index, task in enumerate(tasks)]
        seconds[description] = time.process_time() - start
        return iter(results)

    for name in ("warm", "measured"):
        config = load(PrepareConfig, ["conf/dataset/distjet.yaml"], [f"inputs={ntuples}", f"output={output / name}"])
        start = time.process_time()
        summary = prepare(config, timed)
        total = time.process_time() - start
    accounting = summary["accounting"]
    size = sum(path.stat().st_size for path in (output / "measured").rglob("*.parquet"))
    return {
        "jets_read": accounting["read"],
        "rows": accounting["rows"],
        "jets_read_per_second": accounting["read"] / total,
        "us_per_jet_read": {name: value / accounting["read"] * 1e6 for name, value in seconds.items()},
        "bytes_per_row": size / accounting["rows"],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=3000)
    parser.add_argument("--jets", type=int, default=20_000)
    parser.add_argument("--ntuples", type=Path)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"triangulation": measure_triangulation(arguments.graphs)}
    with tempfile.TemporaryDirectory() as folder:
        ntuples = arguments.ntuples
        if ntuples is None:
            from tests.dataset.files import random_ntuple, write_ntuple

            ntuples = Path(folder) / "ntuples"
            write_ntuple(ntuples / "random/part_0.root", random_ntuple(arguments.jets // 2, seed=1), parts=4)
        result["prepare"] = measure_prepare(ntuples, Path(folder))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
