"""How far would a training scale on GPUs? Prints a table for 1 to 256 of them, and one JSON object on the last line.

    python -m benchmarks.scaling_on_paper [--batch-size 2048] [--config conf/calibration/constituent_gnn.yaml] [...]

What can be counted or timed here is: parameters, floating-point operations and calls of operators of a step (counted while the
model of a configuration makes one), bytes of a jet on disk, and the work of the worker with the most nodes (drawn from the
sizes of jets of `benchmarks.jets`). What belongs to GPUs and networks is assumed; `--help` lists each
assumption with where it comes from, and each can be given another value.

The time of a step is the longest of three that go on at the same time, plus what waits:

    max(host, device, stream) + communication
    host            = operators * launch time               does not shrink with more GPUs
    device          = operations * share of the largest worker / speed
    stream          = the longer of decoding (jets of a worker * time of a jet / threads) and reading (all bytes / file system)
    communication   = the part of the gradient's all-reduce that the backward pass does not hide, and that of the weights' sum
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import scaling
from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import GraphBatch
from distjet.nn import edge_attention
from distjet.ranks import SINGLE
from distjet.training.loop import Trainer
from distjet.training.settings import TrainConfig

NUM_GPUS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
COUNTED_BATCH = 128
"Jets of the step in which operations are counted: they grow with the number of jets, calls do not."
EPOCH_JETS = 100_000_000


@dataclass(frozen=True)
class Assumptions:
    """What is not measured here; each with its source."""

    launch_us: float = 5.0
    "us to launch an operator from Python; order of magnitude of PyTorch's eager mode (4 to 10 us on current hosts)"
    peak_tflops: float = 989.0
    "dense bfloat16 operations of a GPU in 1e12 per second; NVIDIA's data sheet of the H100 SXM"
    utilisation: float = 0.05
    "share of the peak that graph networks reach, which wait for memory; a guess, to be replaced by a measurement"
    gpus_per_node: int = 8
    "GPUs of a machine"
    nvlink_gb_s: float = 350.0
    "GB/s of an all-reduce within a machine; about what nccl-tests show on 8 H100 with NVLink 4"
    network_gb_s: float = 40.0
    "GB/s of a machine's way out for all its GPUs together; one 400 Gb/s port less a fifth"
    hop_us: float = 15.0
    "us that each level of NCCL's tree adds between machines; order of magnitude of nccl-tests for small messages"
    local_us: float = 20.0
    "us of the smallest all-reduce within a machine; order of magnitude of nccl-tests"
    hidden: float = 0.7
    "share of the backward pass behind which DDP hides the gradient's all-reduce; a guess"
    stream_us_per_jet: float = 7.1
    "us of a core to decode and gather a jet; `python -m benchmarks.stream` on this project's machine"
    stream_threads: int = 2
    "threads that decode for each worker; the default of stream.num_threads"
    file_system_gb_s: float = 20.0
    "GB/s that a shared file system gives to all readers together; a middling Lustre; a cache on local disks replaces it"


@dataclass(frozen=True)
class Counted:
    """What a step of the model needs.

    Attributes:
        num_parameters: Of the model, in float32.
        num_operators: Calls of operators in forward, backward and update, whatever the number of jets.
        flop_per_node: Floating-point operations for each node of the batch, forward and backward.
        node_counts: Nodes of the jets of some real steps.
        bytes_per_jet: On disk.
    """

    num_parameters: int
    num_operators: int
    flop_per_node: float
    node_counts: np.ndarray
    bytes_per_jet: float


def main() -> None:
    """Count, compute and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("conf/calibration/constituent_gnn.yaml"), help="a training")
    parser.add_argument("--batch-size", type=int, nargs="+", default=[2048, 16384], help="jets in a global batch")
    parser.add_argument("--folder", type=Path, default=Path("outputs/bench_scaling"), help="where the dataset is kept")
    for name, (default, source) in assumptions().items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default, help=f"{source} ({default:g})")
    arguments = vars(parser.parse_args())
    assumed = Assumptions(**{name: arguments[name] for name in assumptions()})
    manifest = scaling.dataset(arguments["folder"].resolve(), 4000)
    counted = count(manifest, arguments["config"])
    result: dict[str, Any] = {"num_parameters": counted.num_parameters, "num_operators": counted.num_operators}
    result["bytes_per_jet"] = counted.bytes_per_jet
    result["mflop_per_jet"] = 1e-6 * counted.flop_per_node * float(counted.node_counts.mean())
    sys.stdout.write("\n| assumption | value | source |\n|---|---|---|\n")
    for name, (_, source) in assumptions().items():
        sys.stdout.write(f"| `--{name.replace('_', '-')}` | {getattr(assumed, name):g} | {source} |\n")
    for batch_size in arguments["batch_size"]:
        rows = [step(counted, assumed, batch_size, num_gpus) for num_gpus in NUM_GPUS]
        sys.stdout.write(table(f"global batch of {batch_size} jets", rows))
        result[f"batch_{batch_size}"] = rows
    rows = [step(counted, assumed, arguments["batch_size"][0] * num_gpus, num_gpus) for num_gpus in NUM_GPUS]
    sys.stdout.write(table(f"{arguments['batch_size'][0]} jets for each GPU", rows))
    sys.stdout.write(json.dumps(result | {"jets_per_gpu": rows}) + "\n")


def assumptions() -> dict[str, tuple[Any, str]]:
    """Return default and source of each assumption, from the lines of its class."""
    text = Path(__file__).read_text().split("class Assumptions")[1].split("@dataclass")[0].splitlines()
    sources = {
        line.split(":")[0].strip(): text[number + 1].strip().strip('"') for number, line in enumerate(text) if " = " in line
    }
    return {field.name: (field.default, sources[field.name]) for field in fields(Assumptions)}


# --- what is counted ---------------------------------------------------------------------------------------------------------


def count(manifest: Manifest, path: Path) -> Counted:
    """Make a step on this machine and count, with the operations that a GPU would make instead of a CPU's own loops."""
    edge_attention.attend = edge_attention.attend_by_operations
    overrides = [f"dataset={manifest.path}", "output=/nowhere", f"batch_size={COUNTED_BATCH}", "precision=float32"]
    config = load(TrainConfig, [path], overrides)
    run = Trainer(config, SINGLE, torch.device("cpu"), lambda row: None, lambda: False)
    batches = list(islice(run.streams["train"], 8))
    run._step(batches[0])
    with FlopCounterMode(display=False) as counter:
        run._step(batches[1])
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        run._step(batches[1])
    files = [manifest.path / shard.path for split in ("train", "val") for shard in manifest.shards(split)]
    return Counted(
        num_parameters=sum(parameter.numel() for parameter in run.model.parameters()),
        num_operators=sum(1 for event in profiled.events() if is_outermost(event)),
        flop_per_node=counter.get_total_flops() / batches[1].num_nodes,
        node_counts=np.concatenate([nodes_of(batch) for batch in batches]),
        bytes_per_jet=sum(file.stat().st_size for file in files) / sum(manifest.num_rows(split) for split in ("train", "val")),
    )


def is_outermost(event: Any) -> bool:
    """Whether an event is an operator that no other operator called: about one kernel on a GPU."""
    parent = event.cpu_parent
    return event.name.startswith("aten::") and (parent is None or not parent.name.startswith("aten::"))


def nodes_of(batch: GraphBatch) -> np.ndarray:
    """Number of nodes of each jet."""
    return batch.ptr.diff().numpy()


# --- what is computed --------------------------------------------------------------------------------------------------------


def step(counted: Counted, assumed: Assumptions, batch_size: int, num_gpus: int) -> dict[str, float]:
    """Return the parts of a step's time in milliseconds, and what follows from them."""
    share = batch_size / num_gpus
    host_ms = 1e-3 * counted.num_operators * assumed.launch_us
    device_ms = (
        1e-9 * counted.flop_per_node * nodes_of_largest(counted, share, num_gpus) / (assumed.peak_tflops * assumed.utilisation)
    )
    decoding_ms = 1e-3 * share * assumed.stream_us_per_jet / assumed.stream_threads
    stream_ms = max(decoding_ms, 1e-6 * batch_size * counted.bytes_per_jet / assumed.file_system_gb_s)
    alone = max(host_ms, device_ms)
    gradient_ms, number_ms = (all_reduce_ms(assumed, size, num_gpus) for size in (4 * counted.num_parameters, 4))
    exposed_ms = max(gradient_ms - assumed.hidden * 2 / 3 * alone, 0) + number_ms if num_gpus > 1 else 0.0
    total_ms = max(alone, stream_ms) + exposed_ms
    return {
        "gpus": num_gpus, "jets_per_gpu": share, "host_ms": host_ms, "device_ms": device_ms, "stream_ms": stream_ms,
        "all_reduce_ms": gradient_ms + number_ms, "exposed_ms": exposed_ms, "step_ms": total_ms,
        "jets_per_s": 1e3 * batch_size / total_ms, "epoch_minutes": EPOCH_JETS / batch_size * total_ms / 60e3,
    }  # fmt: skip


def nodes_of_largest(counted: Counted, share: float, num_gpus: int, num_steps: int = 200) -> float:
    """Return the mean over steps of the nodes of the worker that has most, for whom all wait."""
    rng = np.random.default_rng(1)
    mean, deviation = counted.node_counts.mean() * share, counted.node_counts.std() * math.sqrt(share)
    return float(rng.normal(mean, deviation, (num_steps, num_gpus)).max(axis=1).mean())


def all_reduce_ms(assumed: Assumptions, num_bytes: int, num_gpus: int) -> float:
    """Time of a hierarchical all-reduce: in a ring within machines, in a tree between them."""
    local, nodes = min(num_gpus, assumed.gpus_per_node), math.ceil(num_gpus / assumed.gpus_per_node)
    if num_gpus == 1:
        return 0.0
    inside_ms = 1e-3 * assumed.local_us + 2 * (local - 1) / local * num_bytes / assumed.nvlink_gb_s * 1e-6
    if nodes == 1:
        return inside_ms
    hops_ms = 2e-3 * math.ceil(math.log2(nodes)) * assumed.hop_us
    return inside_ms + hops_ms + 2 * (nodes - 1) / nodes * num_bytes / assumed.network_gb_s * 1e-6


def table(title: str, rows: list[dict[str, float]]) -> str:
    """Write rows as a table of Markdown, with what the GPUs bring over what as many times the first would bring."""
    names = [name for name in rows[0] if name != "jets_per_s"]
    first = rows[0]["jets_per_s"]
    lines = [f"\n{title}\n", f"| {' | '.join(names)} | efficiency |", "|" + "---|" * (len(names) + 1)]
    for row in rows:
        efficiency = row["jets_per_s"] / (first * row["gpus"])
        lines.append(f"| {' | '.join(short(row[name]) for name in names)} | {efficiency:.2g} |")
    return "\n".join(lines) + "\n"


def short(value: float) -> str:
    """Write a number with about three digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


if __name__ == "__main__":
    main()
