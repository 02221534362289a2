"""Which Ray cluster does a training run on, and does it have what is asked for?

Ray is quiet unless distjet is verbose: what a user needs of it is said by distjet. The dashboard of a cluster of our own is on,
bound to this machine: it costs a second, and Ray needs it to give back what a stopped trial of a sweep has reserved.
"""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from distjet.cluster.signals import Stopped
from distjet.cluster.worker_setup import tell_which_cluster
from distjet.errors import ConfigError, UserError
from distjet.training.settings import ResourcesConfig

logger = logging.getLogger(__name__)

LIVENESS_LOOK_S = 5.0
LEAST_CORES = 2
"Of a cluster of our own: the two workers that are the default also run, taking turns, where there is one core."
SAID_BY_US = "A worker died or was killed while executing a task"
"What Ray's nodes tell every driver, whatever it asked for; distjet says it with the cause, in one line."


@contextmanager
def cluster(resources: ResourcesConfig) -> Iterator[bool]:
    """Connect to the Ray cluster that is wanted, or start one on this machine for the time of the run.

    Yields:
        Whether the cluster is this machine alone.

    Raises:
        Stopped: If SIGTERM came meanwhile.
    """
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = resources.address or os.environ.get("RAY_ADDRESS")
    if not address and "ray" not in sys.modules:  # read on import; Ray listens on more than the loopback address
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    is_verbose = logger.isEnabledFor(logging.DEBUG)
    if not is_verbose:
        os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", SAID_BY_US)  # read on import
    import ray

    if ray.is_initialized():
        yield False
        return
    own = {
        "num_cpus": cores_for_workers(),
        "include_dashboard": True,
        "_node_ip_address": "127.0.0.1",
        "runtime_env": {"worker_process_setup_hook": f"{tell_which_cluster.__module__}.{tell_which_cluster.__name__}"},
    }
    level = logging.INFO if is_verbose else logging.ERROR
    wanted = {"address": address} if address else {"address": "local", **own}
    with _own_handler_of_sigterm():
        context = ray.init(**wanted, log_to_driver=is_verbose, logging_level=level)
    _point_to_dashboard(context, is_own=not address)
    try:
        yield not address
    finally:
        ray.shutdown()


@contextmanager
def _own_handler_of_sigterm() -> Iterator[None]:
    """Give the signal back to whoever had it: Ray takes it when it connects, and ends the process with a code of its own."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    except SystemExit:
        raise Stopped(signal.SIGTERM) from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


class Liveness:
    """Finds out whether a cluster of our own is still there, for those whom Ray lets wait for ever.

    Args:
        is_own: Whether the cluster is this machine alone; another one may get new machines.
    """

    def __init__(self, *, is_own: bool) -> None:
        self.is_own, self.last_look_s = is_own, time.monotonic()

    def check(self) -> None:
        """Look now and then.

        Raises:
            UserError: If Ray has died on this machine.
        """
        if not self.is_own or time.monotonic() - self.last_look_s < LIVENESS_LOOK_S:
            return
        import ray

        self.last_look_s = time.monotonic()
        if not any(node["Alive"] for node in ray.nodes()):
            raise UserError("Ray has died on this machine, or was killed; the same command continues")


def cores_for_workers() -> int:
    """Count the cores that this process may use, which a batch system or a container may hold to a part of the machine's."""
    from dask.system import cpu_count

    return max(cpu_count(), LEAST_CORES)


def _point_to_dashboard(context: Any, *, is_own: bool) -> None:
    """Say where to look at the cluster, also from a machine that is not its head."""
    logger.debug("Ray's logs, and those of its workers: %s/logs", context.address_info["session_dir"])
    if url := context.dashboard_url:
        head = socket.gethostname() if is_own else context.address_info["gcs_address"].rsplit(":", 1)[0]
        token = "; token: ray get-auth-token" if os.environ.get("RAY_AUTH_MODE") == "token" else ""
        tunnel = f"ssh -N -L {url.rsplit(':', 1)[1]}:{url} {head}"
        logger.info("Ray dashboard: http://%s (from elsewhere: %s%s)", url, tunnel, token)


def wants_gpu(resources: ResourcesConfig, available: Mapping[str, float], *, is_own_cluster: bool) -> bool:
    """Decide on GPUs from what the cluster has; a cluster that was joined may grow when workers are asked for.

    Args:
        resources: What is asked for.
        available: Ray's resources of the cluster, by name.
        is_own_cluster: Whether the cluster is this machine alone.

    Raises:
        ConfigError: If the cluster cannot hold the workers, or it is not known whether it will have GPUs.
    """
    num_gpus, num_cpus = int(available.get("GPU", 0)), int(available.get("CPU", 0))
    if not is_own_cluster:
        if resources.use_gpu is None and num_gpus == 0:
            raise ConfigError("the Ray cluster has no GPU now; say resources.use_gpu=true (it will grow) or false (use CPUs)")
        return num_gpus > 0 if resources.use_gpu is None else resources.use_gpu
    use_gpu = num_gpus > 0 if resources.use_gpu is None else resources.use_gpu
    least = resources.min_workers or resources.num_workers
    if use_gpu and num_gpus < least * resources.gpus_per_worker:
        raise ConfigError(
            f"{least} workers x {resources.gpus_per_worker:g} GPU requested, this machine has {num_gpus} GPUs; "
            f"set resources.use_gpu=false{f' or resources.num_workers={num_gpus}' if num_gpus else ''}"
        )
    if num_cpus < least * resources.cpus_per_worker:
        raise ConfigError(
            f"{least} workers x {resources.cpus_per_worker} cores requested, this machine has {num_cpus}; "
            "set resources.num_workers or resources.cpus_per_worker lower"
        )
    return use_gpu
