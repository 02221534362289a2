"""What is lost when things are killed? Prints one JSON object on the last line.

    python -m benchmarks.faults [--faults N] [--seed SEED] [--verbs VERB ...]

Faults are injected at random moments into `distjet prepare` (two Dask workers), `distjet train` (in one process, and on two Ray
workers) and `distjet tune`: SIGKILL of the driver with all that it started, of the driver alone, of one worker, of a raylet;
SIGTERM of the driver or of a worker; SIGSTOP of a worker, which then hangs; a bit flipped in what the killed run left. Then the
same command goes on, is hit again, and in the end is left alone. The result is compared with that of a run that nobody touched:
of a dataset all bytes, of a training the history and the weights to the last bit, of a sweep what every trial went through.

- `faults_injected`: what was done to processes or files that were there to be hit.
- `survived`: those after which the same command came to the result of the untouched run.
- `lost`: the others. `details` counts both by verb and fault, and names what was different.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import xxhash
import yaml

from benchmarks import jets
from distjet.dataset.manifest import FILE_NAME as MANIFEST_FILE
from distjet.run_directory import LOCK_FILE, read_json
from distjet.training.checkpoint import CheckpointStore, decode
from distjet.training.history import HISTORY_FILE, read_rows
from distjet.training.settings import METRICS_FILE

NUM_JETS = 20_000
SHARES = {"prepare": 0.5, "train": 0.2, "train_on_ray": 0.15, "tune": 0.15}
"Part of the faults that each job gets: those that take long get fewer."
PATIENCE_S = 300.0
"A run that takes longer than this after its last fault has lost its way."

STOP_S = 60.0
"A driver that is asked to end must have ended by then, on a machine that has other things to do as well."

Driver = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        name: What it is called in the result.
        inject: Does it to a driver and its output; returns whether there was something to hit.
        ends: Whether the driver ends by it.
        code: With which exit code, as a shell sees it, a driver ends that is not done by then; None where it has no say in it.
    """

    name: str
    inject: Callable[[Driver, Path, random.Random], bool]
    ends: bool
    code: int | None = None


@dataclass(frozen=True)
class Job:
    """A verb that is hit until it has had enough.

    Attributes:
        name: What it is called in the result.
        arguments: Verb and arguments, without `output=`.
        faults: What can go wrong.
        result: Reads from the output what two runs must have in common, by name.
    """

    name: str
    arguments: tuple[str, ...]
    faults: tuple[Fault, ...]
    result: Callable[[Path], dict[str, Any]]


@dataclass
class Tally:
    """What was injected into a job, and what came of it."""

    survived: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)

    @property
    def injected(self) -> int:
        """Number of faults of finished runs."""
        return self.survived.total() + self.lost.total()

    def judge(self, faults: Sequence[str], differences: Sequence[str]) -> None:
        """Count the faults of one run by what is different about its result."""
        (self.lost if differences else self.survived).update(faults)
        self.differences += differences


def main() -> None:
    """Inject and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=60, help="how many, over all verbs")
    parser.add_argument("--seed", type=int, default=None, help="of what is injected and when; by default another each time")
    parser.add_argument("--verbs", nargs="+", choices=list(SHARES), default=list(SHARES), help="which jobs are hit")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if arguments.seed is None else arguments.seed
    rng, whole = random.Random(seed), sum(SHARES[name] for name in arguments.verbs)
    with tempfile.TemporaryDirectory() as temporary:
        tallies = {
            job.name: hit(job, max(round(arguments.faults * SHARES[job.name] / whole), 1), Path(temporary), rng)
            for job in make_jobs(Path(temporary), arguments.verbs)
        }
    survived, lost = (
        sum(counts) for counts in zip(*((t.survived.total(), t.lost.total()) for t in tallies.values()), strict=True)
    )
    details = {name: {"survived": t.survived, "lost": t.lost, "differences": t.differences} for name, t in tallies.items()}
    print(
        json.dumps(
            {"faults_injected": survived + lost, "survived": survived, "lost": lost, "details": {"seed": seed, **details}}
        )
    )


def hit(job: Job, wanted: int, work: Path, rng: random.Random) -> Tally:
    """Run a job again and again, with faults at random moments, until enough have been injected."""
    tally, output, started = Tally(), work / job.name, time.monotonic()
    run_to_the_end(job, output)
    duration_s, expected = time.monotonic() - started, job.result(output)
    shutil.rmtree(output)  # runs are compared in the same folder, whose name is in their configuration
    report(f"{job.name}: {duration_s:.0f} s untouched; {wanted} faults to come")
    while tally.injected < wanted:
        faults: list[str] = []
        try:
            while tally.injected + len(faults) < wanted:
                before = len(faults)
                run_with_faults(job, output, Moments(rng, duration_s, wanted - tally.injected), faults)
                if len(faults) == before:
                    break  # over before anything was hit
            run_to_the_end(job, output)
            differences = what_differs(expected, job.result(output))
        except subprocess.SubprocessError as error:
            differences = [str(error)]
        report(f"{job.name}: {', '.join(faults) or 'no fault'}: {differences or 'as if untouched'}")
        tally.judge(faults, differences)
        shutil.rmtree(output, ignore_errors=True)
    return tally


def what_differs(expected: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Name what is not as it is after an untouched run."""
    return [name for name in sorted(expected.keys() | found.keys()) if found.get(name) != expected.get(name)]


def run_to_the_end(job: Job, output: Path) -> None:
    """Run the command until it is done.

    Raises:
        subprocess.SubprocessError: If it fails, or takes too long.
    """
    with driver_of(job, output) as driver:
        wait_for_success(job, driver, log_of(output))


def wait_for_success(job: Job, driver: Driver, log: Path) -> None:
    """Wait for a driver that should come to its end."""
    if (code := driver.wait(timeout=PATIENCE_S)) != 0:
        raise subprocess.SubprocessError(f"{job.name} ended with {code}: {log.read_text()[-1500:]}")


def wait_for_the_end(job: Job, driver: Driver, fault: Fault, log: Path) -> None:
    """Wait for a driver that ends by a fault.

    Raises:
        subprocess.SubprocessError: If it ends too late, or as it should not.
    """
    code = driver.wait(timeout=STOP_S)
    code = code if code >= 0 else 128 - code  # a shell tells no difference between ending by a signal and with its code
    if fault.code is not None and code not in (0, fault.code):  # 0: it was done before the signal came
        raise subprocess.SubprocessError(f"{job.name} ended with {code} after {fault.name}: {log.read_text()[-1500:]}")


def run_with_faults(job: Job, output: Path, moments: "Moments", faults: list[str]) -> None:
    """Run the command once, injecting faults until one ends the driver or it is done; their names are added to `faults`.

    Raises:
        subprocess.SubprocessError: If a driver that should have survived did not.
    """
    with driver_of(job, output) as driver:
        while len(faults) < moments.wanted and not moments.pass_one(driver):
            fault = moments.rng.choice(job.faults)
            was_hit = fault.inject(driver, output, moments.rng)
            if was_hit or driver.poll() is not None:
                faults.append(fault.name if was_hit else KILLED_ALL.name)
                if fault.ends:
                    wait_for_the_end(job, driver, fault, log_of(output))
                    return
        wait_for_success(job, driver, log_of(output))


@dataclass(frozen=True)
class Moments:
    """When faults come: after a time between zero and what an untouched run takes."""

    rng: random.Random
    duration_s: float
    wanted: int

    def pass_one(self, driver: Driver) -> bool:
        """Wait for the next moment; returns whether the driver has ended before."""
        try:
            driver.wait(timeout=self.rng.uniform(0, self.duration_s))
        except subprocess.TimeoutExpired:
            return False
        return True


@contextmanager
def driver_of(job: Job, output: Path) -> Iterator[Driver]:
    """Start the command in a session of its own; at the end, end what is left of it."""
    verb, *arguments = job.arguments
    command = [sys.executable, "-m", f"jobs.{verb}", *arguments, f"output={output}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}
    with log_of(output).open("wb") as log:
        driver = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            yield driver
        finally:
            kill_session(driver)
            driver.wait(timeout=PATIENCE_S)


def log_of(output: Path) -> Path:
    """Return where the messages of a job's runs are."""
    return output.with_suffix(".log")


# --- faults ----------------------------------------------------------------------------------------------------------


def kill_session(driver: Driver, *_: Any) -> bool:
    """SIGKILL everything that a driver has started, and the driver first."""
    alive = driver.poll() is None
    for process in [process for process in psutil.process_iter() if _session_of(process) == driver.pid]:
        _send(process, signal.SIGKILL)
    return alive


def kill_driver(driver: Driver, *_: Any) -> bool:
    """SIGKILL the driver alone: what it has started finds out by itself, or meets the next driver."""
    driver.kill()
    return True


def terminate_driver(driver: Driver, *_: Any) -> bool:
    """SIGTERM, as a batch system sends it."""
    driver.terminate()
    return True


def hit_process(what: str, number: signal.Signals) -> Callable[[Driver, Path, random.Random], bool]:
    """Return a fault that sends a signal to one of the processes that a driver has started, with a text in its command line."""

    def inject(driver: Driver, output: Path, rng: random.Random) -> bool:
        del output
        targets = [process for process in _descendants(driver) if what in _command_line(process)]
        return bool(targets) and _send(rng.choice(targets), number)

    return inject


def flip_bit(pattern: str, at_least: int = 1) -> Callable[[Driver, Path, random.Random], bool]:
    """Return a fault that kills a run with all that it started, and flips a bit in the newest file of a pattern.

    Args:
        pattern: Below the output.
        at_least: With fewer files, nothing is done: a damaged checkpoint is worth nothing, so one before it must be there.
    """

    def inject(driver: Driver, output: Path, rng: random.Random) -> bool:
        if len(list(output.glob(pattern))) < at_least:
            return False
        kill_session(driver)
        driver.wait(timeout=PATIENCE_S)
        files = sorted(output.glob(pattern), key=lambda path: path.stat().st_mtime_ns)
        if len(files) < at_least or any((output / name).exists() for name in (MANIFEST_FILE, METRICS_FILE)):
            return False  # it has just finished, which `distjet verify` watches over
        content = bytearray(files[-1].read_bytes())
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        files[-1].write_bytes(content)
        return True

    return inject


def _descendants(driver: Driver) -> list[psutil.Process]:
    try:
        return psutil.Process(driver.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


def _session_of(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return 0


def _send(process: psutil.Process, number: signal.Signals) -> bool:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True


KILLED_ALL = Fault("SIGKILL of everything", kill_session, ends=True)
KILLED = (KILLED_ALL, Fault("SIGKILL of the driver", kill_driver, ends=True))
STOPPED = Fault("SIGTERM of the driver", terminate_driver, ends=True, code=128 + signal.SIGTERM)
LOST_NODE = Fault("SIGKILL of the raylet", hit_process("raylet/raylet", signal.SIGKILL), ends=True)
FAULTS = {
    "prepare": (
        *KILLED,
        STOPPED,
        Fault("SIGKILL of a Dask worker", hit_process("spawn_main", signal.SIGKILL), ends=False),
        Fault("a bit flipped in a spill", flip_bit("**/*.rows"), ends=True),
        Fault("a bit flipped in a shard", flip_bit("**/*.parquet"), ends=True),
    ),
    "train": (
        *KILLED,
        STOPPED,
        Fault("a bit flipped in the newest checkpoint", flip_bit("checkpoints/epoch-*.pt", at_least=2), ends=True),
    ),
    "train_on_ray": (
        *KILLED,
        STOPPED,
        LOST_NODE,
        Fault("SIGKILL of a Ray worker", hit_process("RayTrainWorker", signal.SIGKILL), ends=False),
        Fault("SIGTERM of a Ray worker", hit_process("RayTrainWorker", signal.SIGTERM), ends=False),
        Fault("SIGSTOP of a Ray worker", hit_process("RayTrainWorker", signal.SIGSTOP), ends=False),
    ),
    "tune": (
        *KILLED,
        STOPPED,
        LOST_NODE,
        Fault("SIGKILL of a trial", hit_process("ray::ImplicitFunc", signal.SIGKILL), ends=False),
    ),
}


# --- jobs ------------------------------------------------------------------------------------------------------------


def make_jobs(work: Path, names: Sequence[str]) -> list[Job]:
    """Write the configurations of the jobs, and the dataset that the trainings read."""
    report("make jets")
    inputs = [str(path) for path in jets.write_files(work / "inputs", NUM_JETS)]
    recipe = jets.config(inputs, work / "dataset").recipe.model_dump(mode="json", exclude_unset=True)
    recipe["truth"] = {"pt": "1.1 * jet_pt", "eta": "jet_eta", "phi": "jet_phi", "energy": "1.1 * jet_energy"}
    prepare = {
        "inputs": inputs,
        "recipe": recipe,
        "entries_per_task": 1000,
        "rows_per_shard": 1000,
        "tasks": {"num_workers": 2},
    }
    network = {"width": 8, "num_blocks": 1, "num_heads": 1, "graph_width": 4}
    train = {
        "dataset": str(work / "dataset"),
        "num_epochs": 8,
        "model": network,
        "ema_decay": 0.9,
        "resources": {"num_workers": 0},
    }
    rates = {"optimizer.lr": {"name": "choice", "values": [0.001, 0.002, 0.004, 0.008]}}
    scheduler = {"name": "asha", "reduction_factor": 2}
    tune = {"base": train | {"num_epochs": 4}, "space": rates, "sampler": "grid", "scheduler": scheduler, "max_concurrent": 1}
    for name, content in (("prepare", prepare), ("train", train), ("tune", tune)):
        (work / f"{name}.yaml").write_text(yaml.safe_dump(content))
    dataset = Job("dataset", ("prepare", str(work / "prepare.yaml")), (), bytes_of)
    run_to_the_end(dataset, work / "dataset")
    settings = str(work / "train.yaml")
    arguments = {
        "prepare": ("prepare", str(work / "prepare.yaml")),
        "train": ("train", settings),
        "train_on_ray": ("train", settings, "resources.num_workers=2", "resources.max_failures=20", "resources.timeout_s=20"),
        "tune": ("tune", str(work / "tune.yaml"), "base.resources.max_failures=20"),
    }
    results = {"prepare": bytes_of, "train": course_of, "train_on_ray": course_of, "tune": trials_of}
    return [Job(name, arguments[name], FAULTS[name], results[name]) for name in names]


def bytes_of(dataset: Path) -> dict[str, Any]:
    """Hash every file of a dataset."""
    files = [path for path in dataset.rglob("*") if path.is_file() and path.name != LOCK_FILE]
    return {str(path.relative_to(dataset)): xxhash.xxh3_128_hexdigest(path.read_bytes()) for path in files}


def course_of(run: Path) -> dict[str, Any]:
    """What a training went through but for the time that it took, the weights that it ended with, and its best ones."""
    found: dict[str, Any] = {}
    for row in read_rows(run / HISTORY_FILE):
        found[f"epoch {row['epoch']}"] = {key: value for key, value in row.items() if key.startswith(("train_", "val_"))}
    store = CheckpointStore(run / "checkpoints")
    found["weights"] = numbers_of(decode(store.newest())["model"])
    if (metrics := run / METRICS_FILE).is_file():
        found["best weights"] = numbers_of(store.best(read_json(metrics)["best_epoch"] - 1)["model"])
    return found


def numbers_of(weights: dict[str, Any]) -> dict[str, Any]:
    """Turn tensors into lists, which can be compared."""
    return {name: value.tolist() for name, value in weights.items()}


def trials_of(sweep: Path) -> dict[str, Any]:
    """What every trial of a sweep went through, by what it had of the space; one that was trained twice stands there twice."""
    found: dict[str, list[Any]] = {}
    for trial in read_json(sweep / METRICS_FILE)["trials"]:
        run = sweep / "trials" / f"{trial['number']:04d}"
        found.setdefault(str(trial["settings"]), []).append((trial["outcome"], trial["values"], course_of(run)))
    return found


def report(step: str) -> None:
    """Say what is being done."""
    print(f"{time.strftime('%H:%M:%S')} {step}", file=sys.stderr)


if __name__ == "__main__":
    main()
