"""One training, in this process or on a Ray cluster, resumed if it was begun before.

Checkpoints are distjet's own files in the run's directory, found by whoever continues: a restarted worker, a new driver,
another number of workers. Ray starts processes, connects them and starts them again; only plain dicts cross its boundary. A
request to stop travels as a file, because the driver's signals do not reach workers on other nodes.
"""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import yaml

from distjet.cluster.display import show
from distjet.config import validate
from distjet.dataset.manifest import Manifest
from distjet.errors import ConfigError, UserError
from distjet.ranks import SINGLE, RankInfo
from distjet.run_directory import claim, read_json, write_atomically
from distjet.training.settings import TrainConfig

logger = logging.getLogger(__name__)

STOP_FILE = "stop"


class Stopped(Exception):
    """The training was interrupted by a signal; the same command continues it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}; the same command continues")
        self.exit_code = 128 + signal_number


def train(config: TrainConfig) -> dict[str, Any]:
    """Train, or continue a training, or return the result of a finished one.

    Args:
        config: The training.

    Returns:
        The content of the run's metrics.json.

    Raises:
        ConfigError: If the directory belongs to another run, or the resources do not exist.
        Stopped: If a signal interrupted it; the state is in a checkpoint.
    """
    config = config.model_copy(update={"output": config.output.resolve(), "dataset": config.dataset.resolve()})
    manifest = Manifest.load(config.dataset)
    claim(config.output, "train", config.identity(manifest.fingerprint))
    if (metrics := config.output / "metrics.json").is_file():
        logger.info("%s is finished; nothing to do", config.output)
        return read_json(metrics)
    write_atomically(config.output / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    (config.output / STOP_FILE).unlink(missing_ok=True)
    run = _in_process if config.resources.num_workers == 0 else _on_ray
    with show(config.output):
        received = run(config)
    if not metrics.is_file():
        if received:
            raise Stopped(received[0])
        raise RuntimeError(f"the training ended without {metrics}")
    return read_json(metrics)


def run_worker(config: TrainConfig, ranks: RankInfo, report: Callable[[dict[str, float]], None]) -> None:
    """Train in the calling process, as one of `ranks.world_size`."""
    import torch

    from distjet.training.loop import Interrupted, Trainer

    use_gpu = config.resources.use_gpu if config.resources.use_gpu is not None else torch.cuda.is_available()
    device = torch.device("cuda", ranks.local_rank) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(device)
    torch.set_num_threads(config.resources.cpus_per_worker)
    stop = config.output / STOP_FILE
    try:
        Trainer(config, ranks, device, report, should_stop=stop.exists).fit()
    except Interrupted as interruption:
        logger.info("%s", interruption)


def _in_process(config: TrainConfig) -> list[int]:
    """Train here; return the signals that asked to stop."""
    import torch

    threads = torch.get_num_threads()
    try:
        with _stop_on_signal(config.output / STOP_FILE) as received:
            run_worker(config, SINGLE, report=lambda metrics: None)
    finally:
        torch.set_num_threads(threads)
    return received


def _on_ray(config: TrainConfig) -> list[int]:
    """Train on Ray workers; return the signals that asked to stop.

    Ray takes the signal handlers of a process twice: when it connects, and when a trainer is fitted in the main thread. So ours
    are installed after it has connected, and the trainer is fitted in another thread.
    """
    # entered in this order: the handlers must come after the connection
    with cluster(config), _stop_on_signal(config.output / STOP_FILE) as received, ThreadPoolExecutor(1) as thread:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer
        from ray.train.v2.api.exceptions import TrainingFailedError

        resources = config.resources
        use_gpu = _use_gpu(config, ray.cluster_resources())
        trainer = TorchTrainer(
            _ray_worker,
            train_loop_config=config.model_dump(mode="json") | {"resources": {**resources.model_dump(), "use_gpu": use_gpu}},
            scaling_config=ScalingConfig(
                num_workers=resources.num_workers,
                use_gpu=use_gpu,
                resources_per_worker={"CPU": resources.cpus_per_worker} | ({"GPU": 1} if use_gpu else {}),
            ),
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=resources.timeout_s),
            run_config=RunConfig(
                name="ray",
                storage_path=str(config.output),
                failure_config=FailureConfig(max_failures=resources.max_failures),
            ),
        )
        try:
            thread.submit(trainer.fit).result()
        except TrainingFailedError as error:
            _raise_cause(error)
    return received


def _ray_worker(plain: Mapping[str, Any]) -> None:
    """Body of a Ray Train worker: validate again, find the rank, train."""
    from ray import train as ray_train

    from distjet.cluster.ranks import from_ray

    run_worker(validate(TrainConfig, dict(plain)), from_ray(), report=lambda metrics: ray_train.report(dict(metrics)))


def _raise_cause(error: Exception) -> None:
    """Raise the user's problem that made workers fail, if it is one; else Ray's own error with all tracebacks."""
    for failure in getattr(error, "worker_failures", {}).values():
        cause: BaseException | None = failure
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause from error
            cause = getattr(cause, "cause", None) or cause.__cause__
    raise error


@contextmanager
def cluster(config: TrainConfig) -> Iterator[None]:
    """Connect to the Ray cluster that is wanted, or start one on this machine for the time of the run."""
    import ray

    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = config.resources.address or os.environ.get("RAY_ADDRESS")
    if ray.is_initialized():
        yield
        return
    if address:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    else:
        needed = config.resources.num_workers * config.resources.cpus_per_worker
        ray.init(
            address="local",
            num_cpus=max(needed, os.cpu_count() or 1),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
        )
    try:
        yield
    finally:
        ray.shutdown()


def _use_gpu(config: TrainConfig, available: Mapping[str, float]) -> bool:
    """Decide on GPUs from what the cluster has.

    Raises:
        ConfigError: If the cluster cannot hold the workers.
    """
    resources = config.resources
    num_gpus = int(available.get("GPU", 0))
    use_gpu = resources.use_gpu if resources.use_gpu is not None else num_gpus > 0
    if use_gpu and num_gpus < resources.num_workers:
        raise ConfigError(
            f"{resources.num_workers} workers x 1 GPU requested, the cluster has {num_gpus} GPUs; "
            f"set resources.num_workers={num_gpus}, resources.use_gpu=false, or start more nodes"
        )
    num_cpus = int(available.get("CPU", 0))
    if num_cpus < resources.num_workers * resources.cpus_per_worker:
        raise ConfigError(
            f"{resources.num_workers} workers x {resources.cpus_per_worker} cores requested, the cluster has {num_cpus}; "
            "set resources.num_workers or resources.cpus_per_worker lower, or start more nodes"
        )
    return use_gpu


@contextmanager
def _stop_on_signal(stop_file: Path) -> Iterator[list[int]]:
    """Turn the first SIGTERM, SIGINT or SIGUSR1 into a request to checkpoint and stop; a second one ends at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # signals reach the main thread alone
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if received:
            signal.default_int_handler(number, frame)
        received.append(number)
        stop_file.touch()

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        stop_file.unlink(missing_ok=True)
