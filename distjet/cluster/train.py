"""One training, in this process or on a Ray cluster, resumed if it was begun before.

Checkpoints are distjet's own files in the run's directory, found by whoever continues: a restarted worker, a new driver,
another number of workers. Ray starts processes, connects them and starts them again; only plain dicts cross its boundary. A
request to stop travels as a file, because the driver's signals do not reach workers on other nodes.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
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
from distjet.run_directory import claim, read_json, write_atomically, write_json
from distjet.training.settings import TrainConfig

logger = logging.getLogger(__name__)

STOP_FILE = "stop"
FAILURE_FILE = "failure.json"


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
    for leftover in (STOP_FILE, FAILURE_FILE):
        (config.output / leftover).unlink(missing_ok=True)
    run = _in_process if config.resources.num_workers == 0 else _on_ray
    with show(config.output):
        received = run(config)
    if (failure := config.output / FAILURE_FILE).is_file():
        raise UserError(read_json(failure)["message"])
    if not metrics.is_file():
        if received:
            raise Stopped(received[0])
        raise RuntimeError(f"the training ended without {metrics}")
    return read_json(metrics)


def run_worker(config: TrainConfig, ranks: RankInfo, report: Callable[[dict[str, float]], None]) -> None:
    """Train in the calling process, as one of `ranks.world_size`.

    A problem of the user is written down before it is raised: where workers are started again after a failure, they find it and
    leave at once, because trying again would not help.
    """
    import torch

    from distjet.training.loop import Interrupted, Trainer

    use_gpu = config.resources.use_gpu if config.resources.use_gpu is not None else torch.cuda.is_available()
    device = torch.device("cuda", ranks.local_rank) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(device)
    torch.set_num_threads(config.resources.cpus_per_worker)
    stop, failure = config.output / STOP_FILE, config.output / FAILURE_FILE
    if failure.exists():
        return
    try:
        Trainer(config, ranks, device, report, should_stop=stop.exists).fit()
    except Interrupted as interruption:
        logger.info("%s", interruption)
    except UserError as error:
        write_json(failure, {"message": str(error), "world_rank": ranks.world_rank})
        raise


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
    with cluster(config) as is_own, _stop_on_signal(config.output / STOP_FILE) as received:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        resources = config.resources
        logger.info("starting %d Ray workers", resources.num_workers)
        use_gpu = _use_gpu(config, ray.cluster_resources(), is_own_cluster=is_own)
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
        error = _run_in_thread(trainer.fit)
    if error is not None and not (config.output / FAILURE_FILE).is_file():
        raise error
    return received


def _run_in_thread(function: Callable[[], Any]) -> BaseException | None:
    """Run a function in a daemon thread, which a second signal in the main thread leaves behind; return its exception."""
    outcome: list[BaseException | None] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:  # handed to the caller, who raises it
            outcome.append(error)
        else:
            outcome.append(None)

    thread = threading.Thread(target=run, name="distjet-ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(timeout=0.5)
    return outcome[0]


def _ray_worker(plain: Mapping[str, Any]) -> None:
    """Body of a Ray Train worker: validate again, find the rank, train."""
    from ray import train as ray_train

    from distjet.cluster.ranks import from_ray

    run_worker(validate(TrainConfig, dict(plain)), from_ray(), report=lambda metrics: ray_train.report(dict(metrics)))


@contextmanager
def cluster(config: TrainConfig) -> Iterator[bool]:
    """Connect to the Ray cluster that is wanted, or start one on this machine for the time of the run.

    Yields:
        Whether the cluster is this machine alone.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = config.resources.address or os.environ.get("RAY_ADDRESS")
    if not address and "ray" not in sys.modules:  # read on import; Ray listens on more than the loopback address
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    if ray.is_initialized():
        yield False
        return
    if address:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    else:
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, 2),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address="127.0.0.1",
        )
    try:
        yield not address
    finally:
        ray.shutdown()


def _use_gpu(config: TrainConfig, available: Mapping[str, float], *, is_own_cluster: bool) -> bool:
    """Decide on GPUs from what the cluster has; a cluster that was joined may grow when workers are asked for.

    Raises:
        ConfigError: If the cluster cannot hold the workers, or it is not known whether it will have GPUs.
    """
    resources = config.resources
    num_gpus, num_cpus = int(available.get("GPU", 0)), int(available.get("CPU", 0))
    if not is_own_cluster:
        if resources.use_gpu is None and num_gpus == 0:
            raise ConfigError("the Ray cluster has no GPU now; say resources.use_gpu=true (it will grow) or false (use CPUs)")
        return num_gpus > 0 if resources.use_gpu is None else resources.use_gpu
    use_gpu = num_gpus > 0 if resources.use_gpu is None else resources.use_gpu
    if use_gpu and num_gpus < resources.num_workers:
        raise ConfigError(
            f"{resources.num_workers} workers x 1 GPU requested, this machine has {num_gpus} GPUs; "
            f"set resources.use_gpu=false{f' or resources.num_workers={num_gpus}' if num_gpus else ''}"
        )
    if num_cpus < resources.num_workers * resources.cpus_per_worker:
        raise ConfigError(
            f"{resources.num_workers} workers x {resources.cpus_per_worker} cores requested, this machine has {num_cpus}; "
            "set resources.num_workers or resources.cpus_per_worker lower"
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
        sys.stderr.write(f"{signal.Signals(number).name}: writing a checkpoint, then stopping (again: stop at once)\n")

    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    previous = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        stop_file.unlink(missing_ok=True)
