"""What does Ray Train cost, and what does a second process bring? Prints one JSON object on the last line.

    python -m benchmarks.scaling [--jets 6000] [--batch-size 64] [--rounds 7] [--folder FOLDER]

On the jets of `benchmarks.jets` (50 constituents, Delaunay edges) with the default calibrator, one thread of torch in each
process. Contestants take turns, each time in new processes; every training makes an epoch to warm up and then two that count;
a ratio is the median over the rounds.

- `ray_overhead_fraction`: time of a step of `distjet train` in one Ray Train worker over that of a bare loop, minus one. The
  bare loop is forward, loss, backward, clipping and AdamW on the same batches in a process without Ray; what distjet does
  besides (looks at the host, notes for a diagnosis, watchdog, progress, Ray's own processes on the same cores) is the overhead.
- `speedup_two_workers`: time of a step with one Ray Train worker over that with two that share the same global batch.
- `max_abs_difference_ddp_vs_single`: largest difference of any weight after ten steps of two processes from one process.
- `details`: times in milliseconds; what a step of distjet takes longer than a bare one in the same process, batch by batch in
  turns, without Ray (`loop_overhead_fraction`); the ratios of each round; what all-reduces of a number and of the gradient cost
  between two processes; the load of the machine before each round (what others do meanwhile makes all of this worthless).
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks import jets
from distjet.config import validate
from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.dataset.streaming.batch import GraphBatch
from distjet.execution import in_process
from distjet.ranks import SINGLE, RankInfo
from distjet.training.history import read_rows
from distjet.training.loop import Trainer
from distjet.training.optim import build_optimizer
from distjet.training.settings import TrainConfig
from distjet.training.task import Task, build_task

NUM_EPOCHS = 3
"The first one warms up."
NUM_STEPS_COMPARED = 10
NUM_STEPS_IN_TURNS = 60
CPU = torch.device("cpu")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jets", type=int, default=6_000, help="jets in the dataset, of which 90 %% are trained on")
    parser.add_argument("--batch-size", type=int, default=64, help="jets in a global batch")
    parser.add_argument("--rounds", type=int, default=7, help="times that everything is measured")
    parser.add_argument("--folder", type=Path, help="where the dataset is kept; without it, it is removed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        manifest = dataset((arguments.folder or Path(temporary)).resolve(), arguments.jets)
        runs = Path(temporary) / "runs"
        result = measure(manifest, runs, arguments.batch_size, arguments.rounds)
    sys.stdout.write(json.dumps(result) + "\n")


def report(message: str) -> None:
    """Tell what is being done."""
    sys.stderr.write(f"{message}\n")


def dataset(folder: Path, num_jets: int) -> Manifest:
    """Make jets whose truth is what was measured, and convert them; what is there already stays."""
    report(f"make {num_jets} jets and convert them")
    inputs = jets.write_files(folder / "ntuples", num_jets, workers=os.cpu_count() or 1)
    output = folder / f"dataset_{num_jets}"
    settings = jets.config([str(path) for path in inputs], output, rows_per_shard=4000, row_group_size=500)
    content = settings.model_dump(mode="json") | {"split": {"train": 0.9, "val": 0.1}}
    content["recipe"]["truth"] = {"pt": "jet_pt", "eta": "jet_eta", "phi": "jet_phi", "mass": "jet_sdmass"}
    prepare(validate(PrepareConfig, content), in_process)
    return Manifest.load(output)


def configure(manifest: Manifest, output: Path, batch_size: int, num_workers: int) -> TrainConfig:
    """Return the training that is measured."""
    resources = {"num_workers": num_workers, "use_gpu": False, "cpus_per_worker": 1}
    closure = {"num_log_energy_bins": 2, "min_entries": 30}
    content = {"dataset": str(manifest.path), "output": str(output), "num_epochs": NUM_EPOCHS, "batch_size": batch_size}
    return validate(TrainConfig, content | {"resources": resources, "closure": closure, "checkpoint_minutes": 60})


# --- contestants -------------------------------------------------------------------------------------------------------------


def measure(manifest: Manifest, runs: Path, batch_size: int, num_rounds: int) -> dict[str, Any]:
    """Let all take turns."""
    times: dict[str, list[float]] = {"bare": [], "one_worker": [], "two_workers": []}
    loads = []
    for number in range(num_rounds):
        loads.append(os.getloadavg()[0])
        report(f"round {number + 1} of {num_rounds}")
        places = [configure(manifest, runs / f"{number}_{workers}", batch_size, workers) for workers in (0, 1, 2)]
        times["bare"].append(in_processes(1, bare_loop, places[0])[0])
        times["one_worker"].append(on_ray(places[1]))
        times["two_workers"].append(on_ray(places[2]))
    config = configure(manifest, runs / "compared", batch_size, 0)
    [single] = in_processes(1, weights_after_some_steps, config)
    double = in_processes(2, weights_after_some_steps, config)[0]
    return {
        "ray_overhead_fraction": ratio(times, "one_worker", "bare") - 1,
        "speedup_two_workers": ratio(times, "one_worker", "two_workers"),
        "max_abs_difference_ddp_vs_single": float((single - double).abs().max()),
        "details": {f"step_ms_{name}": 1e3 * statistics.median(values) for name, values in times.items()}
        | {"overheads": [b / a - 1 for a, b in zip(times["bare"], times["one_worker"], strict=True)]}
        | {"speedups": [a / b for a, b in zip(times["one_worker"], times["two_workers"], strict=True)]}
        | {"loop_overhead_fraction": in_processes(1, loop_overhead, config)[0]}
        | {"load_averages": loads, "num_cores": os.cpu_count()}
        | in_processes(2, all_reduce_ms, len(single))[0],
    }


def ratio(times: dict[str, list[float]], numerator: str, denominator: str) -> float:
    """Return the median over the rounds of a ratio."""
    return statistics.median(a / b for a, b in zip(times[numerator], times[denominator], strict=True))


def on_ray(config: TrainConfig) -> float:
    """Train on Ray, and return the seconds of a step in the epochs that count."""
    from distjet.cluster.train import train

    train(config)
    rows = read_rows(config.output / "history.jsonl")[1:]
    num_steps = len(Trainer(config, SINGLE, CPU, lambda row: None, lambda: False).streams["train"])
    num_jets = Manifest.load(config.dataset).num_rows("train")
    return statistics.median(num_jets / row["jets_per_s"] / num_steps for row in rows)


def bare_loop(ranks: RankInfo, config: TrainConfig) -> float:
    """Train with nothing but torch, and return the seconds of a step in the epochs that count."""
    torch.manual_seed(config.seed)
    stream = Trainer(config, ranks, CPU, lambda row: None, lambda: False).streams["train"]
    task = build_task(config, Manifest.load(config.dataset), CPU)
    model = task.build_model()
    optimizer = build_optimizer(model, config.optimizer)
    seconds = []
    for _ in range(NUM_EPOCHS):
        started = time.monotonic()
        for batch in stream:
            bare_step(task, model, optimizer, batch, config)
        seconds.append((time.monotonic() - started) / len(stream))
    return statistics.median(seconds[1:])


def bare_step(
    task: Task, model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: GraphBatch, config: TrainConfig
) -> None:
    """Make a step with nothing but torch."""
    optimizer.zero_grad(set_to_none=True)
    sums = task.loss(model(batch), batch)
    (sums.total / sums.weight).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.clip_norm)
    optimizer.step()


def loop_overhead(ranks: RankInfo, config: TrainConfig) -> float:
    """Return what a step of distjet costs over a bare one, minus one: in one process, batch by batch in turns, without Ray."""
    run = Trainer(config, ranks, CPU, lambda row: None, lambda: False)
    task = build_task(config, Manifest.load(config.dataset), CPU)
    model = task.build_model()
    optimizer = build_optimizer(model, config.optimizer)

    def ours(batch: GraphBatch) -> None:
        run._enter(run.streams["train"], batch, "makes a step")
        run._seed(0, 1)
        run._step(batch)
        run.suspects.forget()

    ratios = []
    for batch in islice(run.streams["train"], NUM_STEPS_IN_TURNS):
        bare_s = seconds_of(lambda: bare_step(task, model, optimizer, batch.map(torch.clone), config))  # noqa: B023
        ratios.append(seconds_of(lambda: ours(batch.map(torch.clone))) / bare_s)  # noqa: B023
    return statistics.median(ratios[5:]) - 1


def seconds_of(function: Callable[[], None]) -> float:
    """Time a call."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def weights_after_some_steps(ranks: RankInfo, config: TrainConfig) -> torch.Tensor:
    """Make some steps of a training as one of several processes, and return all weights."""
    run = Trainer(config, ranks, CPU, lambda row: None, lambda: False)
    for batch in islice(run.streams["train"], NUM_STEPS_COMPARED):
        run._step(batch)
    return torch.cat([parameter.detach().flatten() for parameter in run.model.parameters()])


def all_reduce_ms(ranks: RankInfo, num_parameters: int) -> dict[str, float]:
    """Time the two collective operations of a step."""
    del ranks
    sizes = {"all_reduce_ms_number": 1, "all_reduce_ms_gradient": num_parameters}
    return {name: 1e3 * timed(torch.zeros(size)) for name, size in sizes.items()} | {"num_parameters": num_parameters}


def timed(tensor: torch.Tensor, num_times: int = 200) -> float:
    """Return the median time of an all-reduce in seconds."""
    seconds = []
    for _ in range(num_times):
        started = time.perf_counter()
        dist.all_reduce(tensor)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


# --- processes ---------------------------------------------------------------------------------------------------------------


def in_processes(num_processes: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call a function in new processes of one thread, connected by gloo if there are several; return what they return."""
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = f"file://{folder}/rendezvous"
        with ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn")) as pool:
            futures = [
                pool.submit(_call, RankInfo(rank, num_processes, rank), rendezvous, function, arguments)
                for rank in range(num_processes)
            ]
            return [future.result() for future in futures]


def _call(ranks: RankInfo, rendezvous: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    torch.set_num_threads(1)
    if ranks.world_size > 1:
        dist.init_process_group("gloo", init_method=rendezvous, rank=ranks.world_rank, world_size=ranks.world_size)
    return function(ranks, *arguments)


if __name__ == "__main__":
    main()
