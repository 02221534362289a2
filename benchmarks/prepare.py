"""What does `distjet prepare` cost, compared with reading its input? Prints one JSON object on the last line.

    python -m benchmarks.prepare [--quick] [--folder FOLDER]

All on the jets of `benchmarks.jets` (50 constituents, 16 numbers each, zstd TTree), with everything that the verb does:
Delaunay edges, global shuffle, statistics, fingerprints, checksums. CPU seconds are those of one process with one thread; each
process that is measured is a fresh one, has compiled before, and is measured for its memory as well.

- `cpu_ratio_to_uproot_read`: CPU time of a preparation over that of uproot alone to bring the same branches of the same file
  into flat arrays; the median over rounds in which one follows the other.
- `jets_per_s_per_core`, `bytes_per_jet`: in the same rounds; `two_pass_over_one_pass`: over the CPU time with `shuffle: local`.
- `bytes_per_jet_10_bits`: with 10 bits of mantissa for every constituent's numbers.
- `cost_growth_10x_rows`: CPU time per jet for 2 000 000 jets over that for 200 000.
- `peak_rss_gib_per_worker`: the most memory that one of these processes has had, or a Dask worker in the next measurement.
- `speedup_two_workers`: wall time with one Dask worker over that with two, for 400 000 jets; needs two idle cores.
- `details`: among others CPU time in microseconds per jet of each stage.

With --quick, 200 000 jets take the place of 2 000 000, and 20 000 of 200 000: two minutes instead of six.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import uproot

from benchmarks import jets
from distjet.cluster.dask import executor
from distjet.cluster.settings import TasksConfig
from distjet.dataset import convert, rows, shards
from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.dataset.statistics import Summary
from distjet.execution import Execute, in_process

ROUNDS = 5
WORKER_ROUNDS = 4
JETS_OF_A_ROUND = 100_000
CLUSTERS_PER_READ = 20

STAGES: dict[str, tuple[tuple[Any, str], ...]] = {
    "read": ((convert, "read_branches"),),
    "evaluate": ((convert, "open_scope"), (convert, "apply_cuts"), (convert, "evaluate_columns"), (convert, "identify")),
    "check": ((convert, "find_bad_jets"),),
    "graphs": ((rows, "build_edges"), (rows, "encode_edges")),
    "fingerprint": ((convert, "row_hashes"), (shards, "row_hashes")),
    "sort": ((convert, "place_rows"), (convert, "pack_rows")),
    "spill": ((convert, "write_spill"), (shards, "read_spills")),
    "gather": ((shards, "_order"), (shards, "unpack_rows")),
    "encode": ((shards.pq.ParquetWriter, "write_table"),),
    "statistics": ((Summary, "add"),),
    "hash_shards": ((shards, "file_hash"),),
}
"What is timed: functions and methods, by the place through which they are called."


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the jets")
    parser.add_argument("--folder", type=Path, help="where the input files are kept; without it, they are removed")
    arguments = parser.parse_args()
    few, many = (20_000, 200_000) if arguments.quick else (200_000, 2_000_000)
    with tempfile.TemporaryDirectory() as temporary:
        work, inputs = Path(temporary), arguments.folder or Path(temporary) / "inputs"
        report(f"write {many} jets")
        files = {size: jets.write_files(inputs, size, workers=os.cpu_count() or 1) for size in (few, JETS_OF_A_ROUND, many)}
        parts = [
            in_fresh_process(measure_rounds, files[JETS_OF_A_ROUND], work),
            measure_growth(files[few], files[many], work),
            measure_workers(files[many][:4], work),
        ]
    details = {name: value for part in parts for name, value in part.pop("details").items()}
    result = {name: value for part in parts for name, value in part.items()}
    result["peak_rss_gib_per_worker"] = max(value for name, value in details.items() if name.startswith("peak_rss_gib"))
    print(json.dumps(result | {"details": details | {"quick": arguments.quick}}))


def measure_rounds(files: Sequence[Path], work: Path) -> dict[str, Any]:
    """Compare preparing with reading, and the ways of preparing with each other."""
    ways: dict[str, dict[str, Any]] = {"two_pass": {}, "one_pass": {"shuffle": "local"}}
    seconds: dict[str, list[float]] = {"read": [], **{name: [] for name in ways}}
    for number in range(ROUNDS + 1):  # the first round compiles
        report(f"round {number} of {ROUNDS}")
        seconds["read"].append(cpu_seconds(lambda: read_with_uproot(files)))
        for name, changes in ways.items():
            seconds[name].append(cpu_seconds(lambda changes=changes: prepare_all(files, work / "dataset", **changes)))
    with stages() as spent:
        total = cpu_seconds(lambda: prepare_all(files, work / "dataset"))
    size = bytes_per_jet(prepare_all(files, work / "dataset"))
    rounded = bytes_per_jet(prepare_all(files, work / "dataset", mantissa_bits=10))
    rest = {"rest": total - sum(spent.values()), "total": total}
    cpu = {name: statistics.median(found[1:]) for name, found in seconds.items()}
    return {
        "cpu_ratio_to_uproot_read": median_ratio(seconds["two_pass"][1:], seconds["read"][1:]),
        "two_pass_over_one_pass": median_ratio(seconds["two_pass"][1:], seconds["one_pass"][1:]),
        "jets_per_s_per_core": JETS_OF_A_ROUND / cpu["two_pass"],
        "bytes_per_jet": size,
        "bytes_per_jet_10_bits": rounded,
        "details": {
            "cpu_us_per_jet": {name: value / JETS_OF_A_ROUND * 1e6 for name, value in cpu.items()},
            "stages_cpu_us_per_jet": {name: value / JETS_OF_A_ROUND * 1e6 for name, value in (spent | rest).items()},
            "input_bytes_per_jet": sum(path.stat().st_size for path in files) / JETS_OF_A_ROUND,
            "rounds": ROUNDS,
            "jets_of_a_round": JETS_OF_A_ROUND,
        },
    }


def measure_growth(few: Sequence[Path], many: Sequence[Path], work: Path) -> dict[str, Any]:
    """Compare the cost of a jet in a small and in a large dataset."""
    small = min(in_fresh_process(measure_once, few, work)["cpu_us_per_jet"] for _ in range(2))
    found = {name: in_fresh_process(measure_once, files, work) for name, files in (("few", few), ("many", many))}
    small = min(small, found["few"]["cpu_us_per_jet"])
    return {
        "cost_growth_10x_rows": found["many"]["cpu_us_per_jet"] / small,
        "details": {
            "jets": [found[name]["jets"] for name in found],
            "cpu_us_per_jet_by_jets": [small, found["many"]["cpu_us_per_jet"]],
            **{f"peak_rss_gib_{item['jets']}_jets": item["peak_rss_gib"] for item in found.values()},
        },
    }


def measure_once(files: Sequence[Path], work: Path) -> dict[str, Any]:
    """Prepare once in this process."""
    report(f"prepare {len(files)} files")
    prepare_all(files[:1], work / "dataset")  # what is loaded and compiled once
    start = time.process_time()
    manifest = prepare_all(files, work / "dataset")
    seconds = time.process_time() - start
    num_jets = sum(manifest.content["rows"].values())
    return {"jets": num_jets, "cpu_us_per_jet": seconds / num_jets * 1e6, "peak_rss_gib": peak_rss_gib()}


def measure_workers(files: Sequence[Path], work: Path) -> dict[str, Any]:
    """Compare one Dask worker with two; the shortest of some rounds, because wall time depends on all that a machine does."""
    seconds, peaks = {}, []
    for num_workers in (1, 2):
        report(f"prepare with {num_workers} workers")
        with executor(TasksConfig(num_workers=num_workers, progress="off")) as execute:
            times = []
            for _ in range(WORKER_ROUNDS):  # the first one loads and compiles
                start = time.perf_counter()
                prepare_all(files, work / "dataset", execute=execute)
                times.append(time.perf_counter() - start)
            seconds[num_workers] = min(times)
            found = dict(execute(worker_memory, range(8 * num_workers), description="ask workers for their memory"))
            peaks.append(max(item["peak_rss_gib"] for item in found.values()))
    return {
        "speedup_two_workers": seconds[1] / seconds[2],
        "details": {"wall_s_one_and_two_workers": [seconds[1], seconds[2]], "peak_rss_gib_dask_worker": max(peaks)},
    }


def prepare_all(files: Sequence[Path], output: Path, *, execute: Execute = in_process, **changes: Any) -> Manifest:
    """Prepare files from nothing."""
    shutil.rmtree(output, ignore_errors=True)
    prepare(jets.config([str(path) for path in files], output, **changes), execute)
    return Manifest.load(output)


def read_with_uproot(files: Sequence[Path]) -> int:
    """Bring all branches into flat native arrays, some clusters at a time; returns the number of values."""
    num_values = 0
    for path in files:
        with uproot.open(path, array_cache=None, object_cache=None) as file:
            tree = file[jets.TREE]
            edges = [*tree.common_entry_offsets()[::CLUSTERS_PER_READ], tree.num_entries]
            for start, stop in pairwise(sorted(set(edges))):
                arrays = tree.arrays(list(jets.BRANCHES), entry_start=start, entry_stop=stop, how=dict)
                num_values += sum(len(flat_values(array)[0]) for array in arrays.values())
    return num_values


def flat_values(array: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Return the values of a branch in the byte order of the machine, and where each list begins."""
    layout, offsets = array.layout, None
    if hasattr(layout, "offsets"):
        ends = np.asarray(layout.offsets.data)
        layout, offsets = layout.content[ends[0] : ends[-1]], ends - ends[0]
    values = np.asarray(layout.data)
    return values.astype(values.dtype.newbyteorder("=")), offsets


def bytes_per_jet(manifest: Manifest) -> float:
    """Return the size of all shards over the number of rows."""
    found = [shard for split in manifest.content["shards"] for shard in manifest.shards(split)]
    return sum(shard.size_bytes for shard in found) / sum(shard.rows for shard in found)


@contextmanager
def stages() -> Iterator[dict[str, float]]:
    """Watch all stages; yields the dictionary in which their CPU seconds add up."""
    spent = dict.fromkeys(STAGES, 0.0)
    originals = [(owner, name, getattr(owner, name)) for places in STAGES.values() for owner, name in places]
    for stage, places in STAGES.items():
        for owner, name in places:
            setattr(owner, name, _timed(getattr(owner, name), stage, spent))
    try:
        yield spent
    finally:
        for owner, name, original in originals:
            setattr(owner, name, original)


def _timed(function: Callable[..., Any], stage: str, spent: dict[str, float]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent[stage] += time.process_time() - start

    return timed


def cpu_seconds(function: Callable[[], Any]) -> float:
    """Return the CPU time of a call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median of ratios of the same round."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def in_fresh_process(function: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """Call a function in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def peak_rss_gib() -> float:
    """Return the most memory that this process has had since it was started."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 2**20
    raise RuntimeError("/proc/self/status has no VmHWM; this benchmark needs Linux")


def worker_memory(task: int) -> dict[str, Any]:
    """Return the same of the worker that runs this."""
    return {"task": task, "peak_rss_gib": peak_rss_gib()}


def report(step: str) -> None:
    """Say what is being done."""
    print(f"{time.strftime('%H:%M:%S')} {step}", file=sys.stderr)


if __name__ == "__main__":
    main()
