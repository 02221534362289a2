"""How fast are the graphs, and are the triangulations those of scipy? Prints one JSON object on the last line.

    python -m benchmarks.delaunay [--graphs 2000] [--size 50] [--repeats 9] [--compared 10000]

Times are CPU seconds of this process (one core), medians of the repeats, in which all contestants take turns on the same
points. These are spread like a wide jet and rounded to our grid, so that scipy (Qhull) sees the same numbers. scipy is called
once a graph, because that is what it offers; its edges are the unique pairs of ends of its triangles, as most code makes them
and, for comparison, with each pair packed into one number, which is the fastest way that we know. Our time is that of the
public function: it includes the check and the rounding of the coordinates, and all edges in order.

Edge sets are compared on random graphs of 1 to 64 points. scipy defines none below three points, where the only possible answer
is expected instead; a graph of which scipy leaves out a point (`left_out_by_scipy`) is not compared.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from scipy.spatial import Delaunay, cKDTree

from distjet.dataset.graphs.delaunay import delaunay_edges
from distjet.dataset.graphs.edges import Edges
from distjet.dataset.graphs.grid import GRID
from distjet.dataset.graphs.neighbours import knn_edges, radius_edges

SPREAD = 0.25
"Standard deviation of the points in eta and phi."
LARGEST_COMPARED = 64


def random_points(sizes: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Make points on the grid, shape (P, 2) in steps, and offsets."""
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return np.rint(np.random.default_rng(seed).normal(0, SPREAD, (offsets[-1], 2)) * GRID), offsets


def triangle_sides(points: np.ndarray) -> np.ndarray:
    """Return the sides of scipy's triangles as pairs, smaller end first; inner ones twice."""
    triangles = np.sort(Delaunay(points).simplices, axis=1)
    return np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [0, 2]]])


def scipy_edges(points: np.ndarray) -> np.ndarray:
    """Return scipy's edges, sorted, each once."""
    return np.unique(triangle_sides(points), axis=0)


def scipy_edges_packed(points: np.ndarray) -> np.ndarray:
    """Return the same through single numbers."""
    sides = triangle_sides(points)
    packed = np.unique(sides[:, 0].astype(np.int64) << 32 | sides[:, 1])
    return np.stack([packed >> 32, packed & 0xFFFFFFFF], axis=1)


def median_seconds(contestants: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median CPU time of each contestant; they take turns, and the first turn, which compiles, is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(repeats + 1):
        for name, run in contestants.items():
            start = time.process_time()
            run()
            seconds[name].append(time.process_time() - start)
        print(f"repeat {repeat} of {repeats}", file=sys.stderr)
    return {name: float(np.median(found[1:])) for name, found in seconds.items()}


def measure(num_graphs: int, size: int, repeats: int) -> dict[str, float]:
    """Return the CPU time per graph of every way to connect the same points, in microseconds."""
    points, offsets = random_points(np.full(num_graphs, size), seed=0)
    eta, phi = np.ascontiguousarray(points.T) / GRID
    parts = [points[start:stop] for start, stop in itertools.pairwise(offsets)]
    contestants: dict[str, Callable[[], Any]] = {
        "delaunay": lambda: delaunay_edges(eta, phi, offsets),
        "scipy": lambda: [Delaunay(part) for part in parts],
        "scipy_edges": lambda: [scipy_edges(part) for part in parts],
        "scipy_edges_packed": lambda: [scipy_edges_packed(part) for part in parts],
        "knn_8": lambda: knn_edges(eta, phi, offsets, 8),
        "knn_16": lambda: knn_edges(eta, phi, offsets, 16),
        "scipy_knn_16": lambda: [cKDTree(part).query(part, min(17, size)) for part in parts],
        "radius_0.2": lambda: radius_edges(eta, phi, offsets, 0.2),
        "scipy_radius_0.2": lambda: [cKDTree(part).query_pairs(0.2 * GRID, output_type="ndarray") for part in parts],
    }
    return {name: seconds / num_graphs * 1e6 for name, seconds in median_seconds(contestants, repeats).items()}


def expected_edges(points: np.ndarray) -> np.ndarray | None:
    """Return the edges of one graph, sorted; none where scipy leaves out a point."""
    if len(points) < 3:
        return np.array([[0, 1]])[: len(points) - 1]
    if len(Delaunay(points).coplanar):
        return None
    return scipy_edges(points)


def compare(num_graphs: int) -> dict[str, int]:
    """Count the random graphs whose edges are not those of scipy."""
    sizes = np.random.default_rng(1).integers(1, LARGEST_COMPARED + 1, num_graphs)
    points, offsets = random_points(sizes, seed=2)
    found: Edges = delaunay_edges(*np.ascontiguousarray(points.T) / GRID, offsets)
    pairs = np.stack([found.source, found.target], axis=1)
    differing = left_out = 0
    for graph, (start, stop) in enumerate(itertools.pairwise(offsets)):
        expected = expected_edges(points[start:stop])
        if expected is None:
            left_out += 1
        else:
            mine = pairs[found.offsets[graph] : found.offsets[graph + 1]]
            differing += not np.array_equal(mine, expected)
        if (graph + 1) % 2500 == 0:
            print(f"{graph + 1} of {num_graphs} graphs compared, {differing} differ", file=sys.stderr)
    return {"graphs_compared": num_graphs - left_out, "edge_sets_differing": differing, "left_out_by_scipy": left_out}


def main() -> None:
    """Measure, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--graphs", type=int, default=2000)
    parser.add_argument("--size", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--compared", type=int, default=10_000)
    arguments = parser.parse_args()
    result: dict[str, Any] = {"constituents": arguments.size, **compare(arguments.compared)}
    microseconds = measure(arguments.graphs, arguments.size, arguments.repeats)
    for key, name in (("", "scipy"), ("_edges", "scipy_edges"), ("_edges_packed", "scipy_edges_packed")):
        result[f"speedup_vs_scipy{key}"] = round(microseconds[name] / microseconds["delaunay"], 2)
    result["us_per_graph"] = {name: round(value, 2) for name, value in microseconds.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
