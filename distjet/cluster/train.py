"""One training, in this process or on a Ray cluster, resumed if it was begun before.

Checkpoints are distjet's own files in the run's directory, found by whoever continues: a restarted worker, a new driver,
another number of workers. Ray starts processes, connects them and starts them again; only plain dicts cross its boundary.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from distjet.cluster.connect import Liveness, cluster, wants_gpu
from distjet.cluster.deaths import DEATHS_FILE
from distjet.cluster.display import show
from distjet.cluster.failures import FAILURE_FILE, lost_workers, oom_kills, recorded
from distjet.cluster.signals import AT_WORK_FILE, STOP_FILE, NobodyHears, Stopped, stop_on_signal
from distjet.cluster.worker import Report, run_worker
from distjet.dataset.manifest import Manifest
from distjet.ranks import SINGLE
from distjet.run_directory import claim, read_json, write_atomically
from distjet.storage import poll_interval_s
from distjet.training.history import HISTORY_FILE, read_rows
from distjet.training.settings import METRICS_FILE, TrainConfig
from distjet.training.tracking import tracked

logger = logging.getLogger(__name__)

T = TypeVar("T")


def train(config: TrainConfig, report: Report | None = None) -> dict[str, Any]:
    """Train, or continue a training, or return the result of a finished one.

    Args:
        config: The training.
        report: Called in this process with the row of each finished epoch, in order and once each, also for epochs that were
            finished before. What it raises stops the training, with a checkpoint, and is raised here.

    Returns:
        The content of the run's metrics.json.

    Raises:
        ConfigError: If the directory belongs to another run, or the resources do not exist.
        NonFiniteError: If the loss or the calibrated energies are not finite.
        OutOfMemoryError: If a device or a machine has too little memory.
        Stopped: If a signal interrupted it; the state is in a checkpoint.
    """
    config = config.model_copy(update={"output": config.output.resolve(), "dataset": config.dataset.resolve()})
    manifest = Manifest.load(config.dataset)
    claim(config.output, "train", config.identity(manifest.fingerprint))
    epochs = FinishedEpochs(config.output, report)
    epochs.hand_over()
    if (metrics := config.output / METRICS_FILE).is_file():
        logger.info("%s is finished; nothing to do", config.output)
        return read_json(metrics)
    write_atomically(config.output / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    for leftover in (STOP_FILE, AT_WORK_FILE, FAILURE_FILE, DEATHS_FILE):
        (config.output / leftover).unlink(missing_ok=True)
    run = _in_process if config.resources.num_workers == 0 else _on_ray
    with tracked(config, manifest.fingerprint), show(config.output):
        received = run(config, epochs)
        if (failure := recorded(config.output)) is not None:
            raise failure
        if not metrics.is_file():
            if received:
                raise Stopped(received[0])
            raise RuntimeError(f"the training ended without {metrics}")
    return read_json(metrics)


@dataclass
class FinishedEpochs:
    """Hands the rows of a run's history to a function, wherever they are written.

    A worker that is started again may write the row of an epoch for a second time; rows are counted, so it is not handed over
    again.
    """

    run: Path
    report: Report | None
    num_reported: int = 0

    def hand_over(self) -> None:
        """Report the rows that are new."""
        if self.report is None:
            return
        for row in read_rows(self.run / HISTORY_FILE)[self.num_reported :]:
            self.num_reported += 1
            self.report(row)


def _in_process(config: TrainConfig, epochs: FinishedEpochs) -> list[int]:
    """Train here; return the signals that asked to stop."""
    import torch

    from distjet.training.loop import Interrupted

    raised: list[Exception] = []

    def hand_over(metrics: dict[str, float]) -> None:
        """Keep what the caller's function raises apart from problems of the training."""
        del metrics
        try:
            epochs.hand_over()
        except Exception as error:
            raised.append(error)
            raise Interrupted(f"stopped by {error!r}") from error

    threads = torch.get_num_threads()
    try:
        with stop_on_signal(config.output / STOP_FILE) as received:
            run_worker(config, SINGLE, report=hand_over)
    finally:
        torch.set_num_threads(threads)
    if raised:
        raise raised[0]
    return received


def _on_ray(config: TrainConfig, epochs: FinishedEpochs) -> list[int]:
    """Train on Ray workers; return the signals that asked to stop.

    Ray takes the signal handlers of a process when a trainer is fitted in the main thread, so that is done in another one.
    """
    with stop_on_signal(config.output / STOP_FILE) as received, cluster(config.resources) as is_own:
        import ray

        from distjet.cluster.ray_trainer import build_trainer

        logger.info("starting %d Ray workers", config.resources.num_workers)
        use_gpu = wants_gpu(config.resources, ray.cluster_resources(), is_own_cluster=is_own)
        is_over, before, liveness = False, oom_kills(), Liveness(is_own=is_own)
        while not is_over:  # else a worker was told to go, and a checkpoint was written
            trainer = build_trainer(config, use_gpu=use_gpu)
            try:
                result = run_in_thread(trainer.fit, epochs.hand_over, config.output, liveness)
                is_over = result is None or result.return_value
            except Exception as error:
                if recorded(config.output) is not None:
                    break  # a worker has said why
                if (loss := lost_workers(error, config, oom_kills() - before)) is None:
                    raise
                raise loss from error
    return received


def run_in_thread(function: Callable[[], T], meanwhile: Callable[[], None], output: Path, liveness: Liveness) -> T | None:
    """Run a function that starts workers in a daemon thread; return or raise what it does.

    The thread is left behind by a second signal in the main thread, and by a request to stop while there is no worker to obey.

    Args:
        function: What to run.
        meanwhile: Called now and then in this thread. If it raises, the workers are asked to stop, and the exception is raised
            when they have.
        output: Directory of the run.
        liveness: Of the cluster where the workers are.

    Returns:
        What the function returns; None if it was left behind.

    Raises:
        UserError: If the cluster is no longer there.
    """
    outcome: Future[T] = Future()
    stop_file, nobody_hears = output / STOP_FILE, NobodyHears(output)

    def run() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # handed to the caller, who raises it
            outcome.set_exception(error)

    def is_over() -> bool:
        liveness.check()
        return bool(wait([outcome], timeout=poll_interval_s(stop_file, 0.5)).done) or nobody_hears()

    threading.Thread(target=run, name="distjet-ray-train", daemon=True).start()
    try:
        while not is_over():
            meanwhile()
        meanwhile()
    except Exception:
        write_atomically(stop_file, "")
        while not is_over():
            continue
        if outcome.done():  # else it stays for workers that start later
            stop_file.unlink(missing_ok=True)  # nobody else does where signals are not ours
        raise
    return outcome.result() if outcome.done() else None
