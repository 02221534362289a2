"""How do many trainings share a cluster?

Members of an ensemble and trials of a sweep are the same here: a source says which training comes next, hears of every
finished epoch, and may stop one. Ray Tune gives each its place: one that trains in one process (resources.num_workers=0) is
packed by cores and (parts of) GPUs; one with workers of its own is a gang, for which Train asks as a whole. Tune itself holds
nothing for a gang, and so many are let in as there is room for, so gangs cannot wait for each other.

A training is stopped early by its own hand: the driver leaves a mark in its directory before it answers the report of an epoch,
and the training, which waits for that answer, ends and gives its workers back. What Tune writes is not read again, because all
that a later driver needs is in the runs' own directories and with the source.
"""

import json
import logging
import os
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from distjet.cluster.board import Board
from distjet.cluster.connect import Liveness, cluster, wants_gpu
from distjet.cluster.failures import outcome_of
from distjet.cluster.signals import NOBODY_FOR_S, STOP_FILE, Stopped, stop_on_signal
from distjet.cluster.train import train
from distjet.config import validate
from distjet.errors import ConfigError, HinderedError, UserError
from distjet.run_directory import locked, write_atomically
from distjet.training.settings import ResourcesConfig, TrainConfig

logger = logging.getLogger(__name__)

PRUNED_FILE = "pruned"
"Mark in the directory of a run that is to end early."
NOT_ITS_FAULT = ("lost", "hindered")
"Its processes died time and again; its directory was taken, or its disk full."
TRACEBACK_FILE = "traceback.txt"
"Where the traceback of a failure stands that was no user's problem."
GANG_MEMORY = 300 * 2**20
"What Tune reserves for the process that waits for a gang; cores would be taken from the gangs."


@dataclass(frozen=True)
class Run:
    """One of many trainings; `config.output` is absolute."""

    number: int
    config: TrainConfig


@dataclass(frozen=True)
class Ending:
    """What became of a run.

    Attributes:
        outcome: `completed`, `pruned`, `stopped` (by a signal, to be continued), or how failure.json calls a failure, of which
            those in `NOT_ITS_FAULT` are to be continued as well.
        message: What went wrong.
        seconds: How long it took, in the part of it that ended now.
        metrics: Content of metrics.json, of a run that was completed.
    """

    outcome: str
    message: str = ""
    seconds: float = 0.0
    metrics: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Keys:
    """How the user's configuration names what decides about room, for messages."""

    resources: str
    max_concurrent: str


class Source(Protocol):
    """Decides which runs there are, and hears what becomes of them."""

    keys: Keys

    def next(self) -> Run | None:
        """Return the next run; None if there is none, now and later."""
        ...

    def report(self, run: Run, row: Mapping[str, float]) -> bool:
        """Take the row of a finished epoch, return whether the run goes on."""
        ...

    def end(self, run: Run, ending: Ending) -> None:
        """Take what became of a run."""
        ...


WAIT_FOR_OTHERS_S = 60
"Ray ends the processes of a driver that has died in less."


class NotWorthIt(Exception):
    """Raised out of a training's report to end it early."""


def run_all(source: Source, board: Board, folder: Path, resources: ResourcesConfig, max_concurrent: int | None) -> None:
    """Train all runs that a source has.

    Args:
        source: Which runs.
        board: Shows them.
        folder: Where a request to stop is left.
        resources: What one run takes.
        max_concurrent: Runs at the same time; None: as many as there is room for; 0: one after the other in this process.

    Raises:
        ConfigError: If the cluster has no room for a single run.
        Stopped: If a signal interrupted them; all are in checkpoints.
    """
    runs = WatchedRuns(source, board)
    if max_concurrent == 0:
        _in_process(runs)
    else:
        _on_tune(runs, folder, resources, max_concurrent)


def run_one(config: TrainConfig, report: Callable[[Mapping[str, float]], bool]) -> Ending:
    """Train one run and say what became of it; a failure is an ending like others, and leaves its traceback.

    Raises:
        Stopped: If a signal interrupted it.
    """
    started = time.monotonic()

    def hand_over(row: dict[str, float]) -> None:
        if not report(row):
            raise NotWorthIt("other runs are better")

    def ending(outcome: str, message: str = "", **content: Any) -> Ending:
        return Ending(outcome, message, time.monotonic() - started, **content)

    try:
        with alone(config.output):
            return ending("completed", metrics=train(config, hand_over))
    except NotWorthIt:
        return ending("pruned")
    except Stopped:
        raise
    except UserError as error:
        return ending(outcome_of(error), str(error))
    except Exception as error:
        return ending(*_unexpected(config.output, error))


@contextmanager
def alone(run: Path) -> Iterator[None]:
    """Keep others out of a run's directory; wait for a process that is left of a killed driver and about to end.

    Raises:
        HinderedError: If another process stays.
    """
    with ExitStack() as stack:
        for second in range(WAIT_FOR_OTHERS_S + 1):
            try:
                stack.enter_context(locked(run))
                break
            except ConfigError as error:
                if second == WAIT_FOR_OTHERS_S:
                    raise HinderedError(str(error)) from error
                time.sleep(1)
        yield


def _unexpected(run: Path, error: Exception) -> tuple[str, str]:
    """Tell a run that was asked to stop, where no signal reached its process, from a defect, whose traceback is kept."""
    if (run / STOP_FILE).exists():
        return "stopped", ""
    logger.exception("the run in %s failed", run)
    write_atomically(run / TRACEBACK_FILE, traceback.format_exc())
    return "error", f"{type(error).__name__}: {error} (see {run / TRACEBACK_FILE})"


def _in_process(runs: "WatchedRuns") -> None:
    """The reference implementation; each training shows its epochs itself."""
    runs.board.shows_epochs = False
    while (run := runs.next()) is not None:
        runs.end(run, run_one(run.config, partial(runs.report, run)))
    if runs.raised:
        raise runs.raised[0]


class WatchedRuns:
    """A source, with the board that shows its runs; keeps what the source raises apart from what happens to a run.

    Args:
        source: Which runs.
        board: Shows them.
    """

    def __init__(self, source: Source, board: Board) -> None:
        self.source, self.board = source, board
        self.running: dict[int, Run] = {}
        self.begun: set[int] = set()
        self.is_closed = False
        self.unheard_since_s: float | None = None
        self.raised: list[Exception] = []

    def next(self) -> Run | None:
        """Return the next run, if there is one and nobody asked to stop."""
        run = None if self.is_closed or self.raised else self._asked(self.source.next)
        if run is not None:
            self.running[run.number] = run
            self.board.start(run.number, run.config)
        return run

    def begin(self, run: Run) -> None:
        """Note that a run has a process, which finds a request to stop."""
        self.begun.add(run.number)

    def recover(self, run: Run) -> None:
        """Note that a run's process has died, and another one is to take its place."""
        self.begun.discard(run.number)
        self.board.recover(run.number)

    def report(self, run: Run, row: Mapping[str, float]) -> bool:
        """Take the row of an epoch, return whether the run goes on."""
        self.board.epoch(run.number, row)
        return bool(self._asked(lambda: self.source.report(run, row)))

    def end(self, run: Run, ending: Ending) -> None:
        """Take what became of a run; one that was stopped by a signal is not over for its source."""
        del self.running[run.number]
        self.begun.discard(run.number)
        if ending.outcome != "stopped" and not self.raised:
            self._asked(lambda: self.source.end(run, ending))
        self.board.end(run.number, ending.outcome, ending.message)

    def ask_to_stop(self) -> None:
        """Let no further run begin, and the running ones write a checkpoint and end."""
        self.is_closed = True
        for run in list(self.running.values()):
            write_atomically(run.config.output / STOP_FILE, b"")

    def nobody_hears(self) -> bool:
        """Whether the request to stop has reached nobody for a while, because all runs wait for room on the cluster."""
        if not self.is_closed or not self.running or self.begun:
            self.unheard_since_s = None
            return False
        self.unheard_since_s = self.unheard_since_s or time.monotonic()
        return time.monotonic() - self.unheard_since_s >= NOBODY_FOR_S

    def _asked(self, question: Callable[[], Any]) -> Any:
        try:
            return question()
        except Exception as error:  # raised again when the runs have ended
            self.raised.append(error)
            return None


def _on_tune(runs: WatchedRuns, folder: Path, resources: ResourcesConfig, max_concurrent: int | None) -> None:
    """Let Tune run them in a thread, while this one waits for signals."""
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # its banner
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = str(10**9)
    with stop_on_signal(folder / STOP_FILE) as received, cluster(resources) as is_own, runs.board.shown():
        import ray

        use_gpu = wants_gpu(resources, ray.cluster_resources(), is_own_cluster=is_own)
        room = capacity([node["Resources"] for node in ray.nodes() if node["Alive"]], resources, use_gpu=use_gpu)
        num_concurrent = concurrency(room, max_concurrent, runs.source.keys, is_own_cluster=is_own)
        settled = resources.model_copy(update={"use_gpu": use_gpu, "address": None})
        error = _wait(lambda: _fit(runs, settled, num_concurrent), runs, received, Liveness(is_own=is_own))
    if runs.raised:
        raise runs.raised[0]
    if received:
        raise Stopped(received[0])
    if error is not None:
        raise error


def capacity(nodes: Sequence[Mapping[str, float]], resources: ResourcesConfig, *, use_gpu: bool) -> int:
    """Say how many runs fit on a cluster at the same time.

    Args:
        nodes: Resources of each node.
        resources: What one run takes; a process of a run has all its cores and GPUs on one node.
        use_gpu: Whether processes take GPUs.
    """
    num_processes = 0
    for node in nodes:
        fits = int(node.get("CPU", 0)) // resources.cpus_per_worker
        if use_gpu:
            gpus = int(node.get("GPU", 0))
            fits = min(fits, gpus * int(1 / resources.gpus_per_worker + 1e-9))  # a part is a part of one GPU
        num_processes += fits
    return num_processes // max(resources.num_workers, 1)


def concurrency(room: int, wanted: int | None, keys: Keys, *, is_own_cluster: bool) -> int:
    """Decide how many runs are let in at the same time.

    Raises:
        ConfigError: If there is no room for one, on a cluster that does not grow or is not told to.
    """
    if room == 0 and (is_own_cluster or wanted is None):
        grow = "" if is_own_cluster else f" now; if it grows, set {keys.max_concurrent}"
        raise ConfigError(f"the Ray cluster has no room for a single run{grow}; lower {keys.resources}")
    if wanted is None:
        return room
    if is_own_cluster and wanted > room:
        logger.info("%d runs at a time, not %d: there is no room for more", room, wanted)
        return room
    return wanted


def _wait(function: Callable[[], None], runs: WatchedRuns, received: list[int], liveness: Liveness) -> BaseException | None:
    """Run a function in a daemon thread, pass signals on to the runs, return what it raised.

    The thread is left behind by a request to stop while no run has a process that could obey.
    """
    outcome: list[BaseException | None] = [None]

    def body() -> None:
        try:
            function()
        except BaseException as error:  # handed to the caller, who raises it
            outcome[0] = error

    thread = threading.Thread(target=body, name="distjet-ray-tune", daemon=True)
    thread.start()
    while thread.is_alive() and not runs.nobody_hears():
        thread.join(timeout=0.2)
        liveness.check()
        if received or runs.raised:
            runs.ask_to_stop()
    return outcome[0]


def _fit(runs: WatchedRuns, resources: ResourcesConfig, num_concurrent: int) -> None:
    from ray import tune

    from distjet.cluster.feed import Deaths, Feed

    if not logger.isEnabledFor(logging.DEBUG):
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a death is told in one line, see Deaths
    feed = Feed(runs, resources)
    with tempfile.TemporaryDirectory(prefix="distjet-tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(_trial, tune.PlacementGroupFactory([_reserved(resources)])),
            tune_config=tune.TuneConfig(
                search_alg=feed, num_samples=-1, max_concurrent_trials=num_concurrent, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name="runs",
                storage_path=scratch,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=resources.max_failures),
                callbacks=[Deaths(feed)],
            ),
        )
        tuner.fit()


def _reserved(resources: ResourcesConfig) -> dict[str, float]:
    """Say what Tune reserves for a run: all of one that trains in its process, next to nothing for one that has workers."""
    if resources.num_workers > 0:
        return {"memory": GANG_MEMORY}
    gpu = {"GPU": resources.gpus_per_worker} if resources.use_gpu else {}
    return {"CPU": resources.cpus_per_worker} | gpu


def _trial(plain: Mapping[str, Any]) -> None:
    """Body of a trial: say that it begins, train here or start a gang, report every epoch, and at last what became of it."""
    from ray import tune

    config = validate(TrainConfig, dict(plain["train"]))
    tune.report({"begun": True})

    def report(row: Mapping[str, float]) -> bool:
        tune.report({"row": json.dumps(row)})  # returns when the driver has seen it
        return not (config.output / PRUNED_FILE).exists()

    tune.report({"ending": json.dumps(asdict(run_one(config, report)))})
