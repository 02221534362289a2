"""How fast do shards become batches, and what does that cost others? Prints one JSON object on the last line.

    python -m benchmarks.stream [--jets 200000] [--rounds 5] [--folder FOLDER] [--device cpu]

All on the jets of `benchmarks.jets` (50 constituents, 16 numbers each, Delaunay edges), converted by `distjet prepare`, in
batches of 512. The process and all that it starts are pinned to one core, and times are CPU seconds of all threads; contestants
take turns, and a ratio is the median over the rounds. Files are in the page cache for everyone. The stream runs with one
decoding thread, and with a tenth as many lanes as row groups, so that row groups come and go. A round of it is the first epoch
of a new stream, to which those row groups are charged too that it decodes ahead for a second epoch.

- `jets_per_s`: of the stream, uncached. `ratio_to_pyarrow_decode`: its CPU time over that of pyarrow alone to read the same
  columns into Arrow tables, row group by row group, without comparing checksums, which the stream does.
- `speedup_vs_weaver`: weaver-core's SimpleIterDataset on the same Parquet files in torch's DataLoader without workers: the same
  16 numbers and a mask, 12 of them standardised, padded to 128, shuffled within a file, no edges.
- `speedup_vs_pyg`: torch_geometric's DataLoader over Data objects that are in memory already, shuffled. Its batches have
  `edge_index`, ours make it on the device; `speedup_vs_pyg_with_edges_on_cpu`: after ours have made it on the CPU.
- `speedup_vs_ray_data`: Ray Data's iter_batches over the same files and columns, not shuffled, not collated, in its default
  format, which is numpy; `speedup_vs_ray_data_arrow`: as Arrow tables, which nothing can be trained on. The CPU time of all its
  processes counts, less what they use while nothing happens.
- `speedup_cached`: the stream without a cache over the stream when its cache on disk holds all row groups.
- `details`: CPU time in microseconds per jet by stage, bytes per jet, and how well an epoch is mixed: chi squared per degree of
  freedom of the classes in a batch (1: as drawn at random), here and if the dataset were sorted by class.

With --device cuda, also the stall of a training step: its time when fed by the stream over that with batches that are on the
GPU already, minus one. Nothing is pinned to a core then.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from benchmarks import jets
from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.dataset.streaming.lanes import LanePlan, Lanes, cut_equal_rows
from distjet.dataset.streaming.pipeline import Counters
from distjet.dataset.streaming.settings import CacheConfig
from distjet.dataset.streaming.stream import JetStream, StreamConfig
from distjet.execution import in_process
from distjet.nn.normalise import Standardise
from distjet.ranks import SINGLE

BATCH_SIZE = 512
ROW_GROUPS_PER_LANE = 10
PADDED_LENGTH = 128
JETS_IN_MEMORY = 10_000
"Of torch_geometric: its cost does not depend on their number."
IDLE_S = 5.0
"For which Ray's processes are watched while nothing happens."
WARM_UP_STEPS = 20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jets", type=int, default=200_000, help="jets in the training split")
    parser.add_argument("--rounds", type=int, default=5, help="times that everything is measured")
    parser.add_argument("--folder", type=Path, help="where files are kept; without it, they are removed")
    parser.add_argument("--device", default="cpu", help="cuda: measure the stall of a training step, too")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.folder or Path(temporary)).resolve()
        manifest = dataset(folder, arguments.jets)
        result = stall(manifest, torch.device(arguments.device)) if arguments.device != "cpu" else {}
        pin()
        result |= compare(manifest, folder, arguments.rounds)
    sys.stdout.write(json.dumps(result) + "\n")


def report(message: str) -> None:
    """Tell what is being done."""
    sys.stderr.write(f"{message}\n")


def pin() -> None:
    """Bind this process, and what it starts, to one core, with one thread wherever there are pools of them."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


def dataset(folder: Path, num_jets: int) -> Manifest:
    """Make the jets and convert them; what is there already stays."""
    report(f"make {num_jets} jets and convert them")
    inputs = jets.write_files(folder / "ntuples", num_jets, workers=os.cpu_count() or 1)
    changes: dict[str, Any] = {"rows_per_shard": 50_000, "split": {"train": 1.0, "val": 0.0}}
    settings = jets.config([str(path) for path in inputs], folder / f"dataset_{num_jets}", **changes)
    prepare(settings, in_process)
    return Manifest.load(folder / f"dataset_{num_jets}")


# --- contestants -------------------------------------------------------------------------------------------------------------


def compare(manifest: Manifest, folder: Path, num_rounds: int) -> dict[str, Any]:
    """Let all take turns."""
    cached = open_stream(manifest, CacheConfig(directory=folder / "cache"))
    half = open_stream(manifest, CacheConfig(directory=folder / "cache", dtype="float16"))
    stages = Counters()
    contestants: dict[str, Callable[[], int]] = {
        "pyarrow": lambda: decode_alone(manifest, cached.layout.columns),
        "stream": lambda: consume(open_stream(manifest, counters=stages)),
        "stream_with_edges_on_cpu": lambda: consume(open_stream(manifest), lambda batch: batch.edge_index),
        "cached": lambda: consume(cached),
        "cached_float16": lambda: consume(half),
        "pyg": in_memory_loader(open_stream(manifest)),
        "weaver": weaver_loader(manifest, folder),
    }
    for name, contestant in contestants.items():  # compiles, fills the cache, brings all files into memory
        report(f"warm up: {name}")
        contestant()
    vars(stages).update(vars(Counters()))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(num_rounds):
        report(f"round {number + 1} of {num_rounds}")
        for name, contestant in contestants.items():
            times[name].append(cpu_us_per_jet(contestant))
    results = summary(times) | summary_of_ray_data(ray_data_times(manifest, cached.layout.columns, num_rounds))
    return results | {"details": details(manifest, times, stages)}


def open_stream(manifest: Manifest, cache: CacheConfig | None = None, counters: Counters | None = None) -> JetStream:
    """Open the stream that is measured."""
    num_groups = sum(len(shard.row_groups) for shard in manifest.shards("train"))
    lanes = max(num_groups // ROW_GROUPS_PER_LANE, 1)
    stream = JetStream(manifest, "train", StreamConfig(batch_size=BATCH_SIZE, lanes=lanes, num_threads=1, cache=cache))
    stream.counters = counters or stream.counters
    return stream


def cpu_us_per_jet(contestant: Callable[[], int]) -> float:
    """Measure the CPU time of all threads of this process."""
    started = time.process_time()
    num_jets = contestant()
    return 1e6 * (time.process_time() - started) / num_jets


def consume(stream: JetStream, look: Callable[[Any], Any] = lambda batch: None) -> int:
    """Read an epoch."""
    num_jets = 0
    for batch in stream:
        look(batch)
        num_jets += batch.num_graphs
    return num_jets


def decode_alone(manifest: Manifest, columns: list[str]) -> int:
    """Read the columns into Arrow tables, and forget them."""
    num_jets = 0
    for shard in manifest.shards("train"):
        with pq.ParquetFile(manifest.path / shard.path, memory_map=True, pre_buffer=False) as file:
            for group in range(file.num_row_groups):
                num_jets += file.read_row_group(group, columns=columns, use_threads=False).num_rows
    return num_jets


def in_memory_loader(stream: JetStream) -> Callable[[], int]:
    """Hold some jets as Data objects with features, edges, momenta and a label, and return what reads them."""
    from torch_geometric.data import Data
    from torch_geometric.loader import DataLoader

    held: list[Any] = []
    for batch in stream:
        whole = batch.to_pyg()
        for jet in whole.to_data_list():
            tensors = {name: jet[name].clone() for name in ("x", "p4", "edge_index", "u")}
            held.append(Data(**tensors, y=jet["label"].clone()))
        if len(held) >= JETS_IN_MEMORY:
            break
    return lambda: sum(batch.num_graphs for batch in DataLoader(held, batch_size=BATCH_SIZE, shuffle=True))


def weaver_loader(manifest: Manifest, folder: Path) -> Callable[[], int]:
    """Describe the dataset to weaver-core, and return what reads it."""
    from weaver.utils.dataset import SimpleIterDataset  # type: ignore[import-untyped]

    def variable(name: str) -> list[Any]:
        statistics = manifest.statistics(name)
        return [name, statistics["mean"], 1 / max(statistics["std"], 1e-6), -1e9, 1e9]

    padding = {"length": PADDED_LENGTH, "pad_mode": "constant"}
    description = {
        "preprocess": {"method": "manual"},
        "new_variables": {"mask": f"ak.ones_like({manifest.names('p4')[0]})"},
        "inputs": {
            "features": padding | {"vars": [variable(name) for name in manifest.names("node")]},
            "vectors": padding | {"vars": [[name, None] for name in manifest.names("p4")]},
            "mask": padding | {"vars": [["mask", None]]},
        },
        "labels": {"type": "custom", "value": {"truth": "label"}},
    }
    path = folder / "weaver.yaml"
    path.write_text(yaml.safe_dump(description))
    files = {"jets": [str(manifest.path / shard.path) for shard in manifest.shards("train")]}

    def read() -> int:
        loader = SimpleIterDataset(files, str(path), for_training=True, fetch_by_files=True, fetch_step=1, name="train")
        return sum(len(labels["truth"]) for _, labels, _ in torch.utils.data.DataLoader(loader, batch_size=BATCH_SIZE))

    return read


def ray_data_times(manifest: Manifest, columns: list[str], num_rounds: int) -> dict[str, list[float]]:
    """Let Ray Data and the stream take turns; CPU time of all processes of each, in microseconds per jet."""
    import ray

    report("Ray Data")
    files = [str(manifest.path / shard.path) for shard in manifest.shards("train")]
    times: dict[str, list[float]] = {"stream": [], "pyarrow": [], "numpy": []}
    with local_ray():
        ray.data.DataContext.get_current().enable_progress_bars = False

        def read(batch_format: str) -> int:
            rows = ray.data.read_parquet(files).select_columns(columns)
            batches = rows.iter_batches(batch_size=BATCH_SIZE, batch_format=batch_format)
            return sum(len(batch["weight"]) for batch in batches)

        read("numpy")
        started = cpu_of_all_processes()
        time.sleep(IDLE_S)
        idle_per_s = (cpu_of_all_processes() - started) / IDLE_S
        for _ in range(num_rounds):
            times["stream"].append(cpu_us_per_jet(lambda: consume(open_stream(manifest))))
            for batch_format in ("pyarrow", "numpy"):
                started, wall = cpu_of_all_processes(), time.monotonic()
                num_jets = read(batch_format)
                used = cpu_of_all_processes() - started - idle_per_s * (time.monotonic() - wall)
                times[batch_format].append(1e6 * used / num_jets)
    return times


@contextmanager
def local_ray() -> Iterator[None]:
    """Start Ray on one core, for the time of the block."""
    import ray

    ray.init(
        address="local",
        num_cpus=1,
        object_store_memory=2 * 1024**3,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _node_ip_address="127.0.0.1",
    )
    try:
        yield
    finally:
        ray.shutdown()


def cpu_of_all_processes() -> float:
    """Return the CPU seconds of this process and all that it started."""
    total = 0.0
    for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


# --- results -----------------------------------------------------------------------------------------------------------------


def summary(times: dict[str, list[float]]) -> dict[str, float]:
    """Return the numbers that are asked for."""
    return {
        "jets_per_s": round(1e6 / statistics.median(times["stream"])),
        "ratio_to_pyarrow_decode": ratio(times["stream"], times["pyarrow"]),
        "speedup_vs_weaver": ratio(times["weaver"], times["stream"]),
        "speedup_vs_pyg": ratio(times["pyg"], times["stream"]),
        "speedup_vs_pyg_with_edges_on_cpu": ratio(times["pyg"], times["stream_with_edges_on_cpu"]),
        "speedup_cached": ratio(times["stream"], times["cached"]),
        "speedup_cached_float16": ratio(times["stream"], times["cached_float16"]),
    }


def summary_of_ray_data(times: dict[str, list[float]]) -> dict[str, Any]:
    """Return the numbers that are asked for, and the times behind them."""
    return {
        "speedup_vs_ray_data": ratio(times["numpy"], times["stream"]),
        "speedup_vs_ray_data_arrow": ratio(times["pyarrow"], times["stream"]),
        "us_per_jet_ray_data": {name: round(statistics.median(values), 2) for name, values in times.items()},
    }


def ratio(some: list[float], others: list[float]) -> float:
    """Return the median of ratios, each within a round."""
    return round(statistics.median(a / b for a, b in zip(some, others, strict=True)), 3)


def details(manifest: Manifest, times: dict[str, list[float]], stages: Counters) -> dict[str, Any]:
    """Return where the time goes, what a jet weighs and how well they are mixed."""
    stream, shards = open_stream(manifest), manifest.shards("train")
    num_rows = manifest.num_rows("train")
    num_epochs = stages.batches / len(stream)
    return {
        "num_jets": num_rows,
        "us_per_jet": {name: round(statistics.median(values), 2) for name, values in times.items()},
        "us_per_jet_decoding": round(1e6 * stages.cpu_seconds_decoding / num_epochs / num_rows, 2),
        "us_per_jet_gathering": round(1e6 * stages.cpu_seconds_gathering / num_epochs / num_rows, 2),
        "row_groups": len(stream.groups),
        "row_groups_decoded": stages.row_groups_decoded / num_epochs,
        "bytes_per_jet_on_disk": round(sum(shard.size_bytes for shard in shards) / num_rows),
        "bytes_per_jet_travelling": round(stages.bytes / num_epochs / num_rows),
        "shuffle_chi2": chi2_of_classes(stream),
        "shuffle_chi2_if_sorted_240_lanes": chi2_if_sorted(num_groups=1000, group_size=2000, num_lanes=240),
    }


def chi2_of_classes(stream: JetStream) -> float:
    """Return chi squared per degree of freedom of the numbers of each class in the batches of an epoch."""
    labels = [batch.targets["label"].long().numpy() for batch in stream]
    return _chi2(labels, jets.NUM_CLASSES)


def chi2_if_sorted(num_groups: int, group_size: int, num_lanes: int) -> float:
    """Return the same for a dataset whose rows are sorted by class, by index arithmetic."""
    num_rows = num_groups * group_size
    lanes = Lanes(num_rows, num_lanes)
    epoch = LanePlan(np.full(num_groups, group_size), lanes, -(-num_rows // BATCH_SIZE), 1, cut_equal_rows).epoch(0)
    steps = [epoch.rows(step, SINGLE) for step in range(epoch.num_steps)]
    return _chi2([(group * group_size + row) * jets.NUM_CLASSES // num_rows for group, row in steps], jets.NUM_CLASSES)


def _chi2(labels: list[np.ndarray], num_classes: int) -> float:
    counts = np.array([np.bincount(batch, minlength=num_classes) for batch in labels])
    share = counts.sum(axis=0) / counts.sum()
    expected = counts.sum(axis=1, keepdims=True) * share
    return round(float(((counts - expected) ** 2 / expected).sum(axis=1).mean() / (num_classes - 1)), 3)


# --- GPU ---------------------------------------------------------------------------------------------------------------------


def stall(manifest: Manifest, device: torch.device, num_steps: int = 300) -> dict[str, Any]:
    """Compare training steps fed by the stream with the same steps on batches that are on the GPU already."""
    from distjet.models.calibrator import ConstituentCalibrator
    from distjet.models.configs import ConstituentGnnConfig, CorrectionConfig
    from distjet.models.constituent_gnn import ConstituentGnn
    from distjet.models.network import InputSpec

    report("stall of a training step")
    node, graph = manifest.names("node"), manifest.names("graph")
    node_scale, graph_scale = (standardise(manifest, names) for names in (node, graph))
    spec = InputSpec(len(node), num_edge=1, num_graph=len(graph), num_outputs=2)
    network = ConstituentGnn(ConstituentGnnConfig(), spec)
    model = ConstituentCalibrator(network, node_scale, graph_scale, CorrectionConfig()).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step(batch: Any) -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            energy = model(batch.to(device)).jets.energy
        (energy / batch.jet[:, 3].to(device, non_blocking=True) - 1).square().mean().backward()
        optimizer.step()

    stream = JetStream(manifest, "train", StreamConfig(batch_size=BATCH_SIZE), pin_memory=device.type == "cuda")
    first = [batch for batch, _ in zip(stream, range(32), strict=False)]
    on_device = [batch.to(device) for batch in first]
    repeated = seconds_per_step(step, (on_device[i % len(on_device)] for i in range(num_steps + WARM_UP_STEPS)), device)
    fed = seconds_per_step(step, endless(stream, num_steps + WARM_UP_STEPS), device)
    return {
        "stall": round(fed / repeated - 1, 4),
        "gpu_step_ms": round(1e3 * repeated, 3),
        "gpu_jets_per_s_fed": round(BATCH_SIZE / fed),
        "gpu_name": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def standardise(manifest: Manifest, names: Sequence[str]) -> Standardise:
    """Return the layer that standardises these columns."""
    found = [manifest.statistics(name) for name in names]
    return Standardise([item["mean"] for item in found], [item["std"] for item in found])


def endless(stream: JetStream, num_batches: int) -> Iterator[Any]:
    """Yield batches of as many epochs as it takes."""
    while num_batches > 0:
        for batch in stream:
            yield batch
            num_batches -= 1
            if not num_batches:
                return


def seconds_per_step(step: Callable[[Any], None], batches: Iterator[Any], device: torch.device) -> float:
    """Return the mean time of a step, after some to warm up."""
    started, count = 0.0, -WARM_UP_STEPS
    for batch in batches:
        if count == 0:
            wait_for(device)
            started = time.monotonic()
        step(batch)
        count += 1
    wait_for(device)
    return (time.monotonic() - started) / count


def wait_for(device: torch.device) -> None:
    """Wait until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
