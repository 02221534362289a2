"""How do Dask workers run in the jobs of a batch system?

dask-jobqueue writes and submits the jobs; two things are ours. A refused submission is an error at once: left alone, it is a
line in a log while the tasks wait forever. And a job that ended, at its wall time or with its node, is replaced. Adaptive
scaling does not do that: it counts the jobs that it asked for, and does not notice the end of one with several workers.

The scheduler runs in this process and listens on one address only. Whoever reaches it can run code as this user; on a network
that others use, `jobqueue.extra: {security: true, shared_temp_directory: ...}` encrypts and authenticates.
"""

import importlib
import inspect
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import distjet
from distjet.cluster.settings import MALLOC, TasksConfig
from distjet.config import unknown
from distjet.errors import ConfigError, MissingExtraError

logger = logging.getLogger(__name__)

CLUSTERS = {"slurm": "SLURMCluster", "htcondor": "HTCondorCluster"}
ENVIRONMENT = (
    f"export NUMBA_CACHE_DIR=${{TMPDIR:-/tmp}}/distjet-{distjet.__version__}-{os.getuid()}",
    f"export {'='.join(MALLOC)}",
)
"""First lines of a job. Compiled kernels are kept on the node: in a folder that all nodes see, hundreds of processes would
write the same files at once, some of them code that not all processors can run."""

CHECK_INTERVAL_S, CHECKS_PER_REMINDER = 20.0, 15
"How often ended jobs are looked for (a worker that is restarted within its job comes back faster), and waiting is mentioned."


@contextmanager
def job_cluster(config: TasksConfig, *, dashboard: bool) -> Iterator[Any]:
    """Submit jobs, keep up their number, and cancel them at the end.

    Yields:
        A `dask_jobqueue.JobQueueCluster`.

    Raises:
        ConfigError: If dask-jobqueue or the batch system is not there, or the jobs are refused.
    """
    with make_cluster(config, dashboard=dashboard) as cluster:
        command = cluster.job_cls.submit_command
        if shutil.which(command) is None:
            raise ConfigError(f"tasks.scheduler={config.scheduler} needs the command {command}, which is not on the PATH")
        keeper = JobKeeper(cluster, config.jobqueue.num_jobs)
        try:
            keeper.submit_missing()
        except (RuntimeError, ValueError) as error:
            raise ConfigError(f"{config.scheduler} refused the jobs: {error}\n{cluster.job_script()}") from error
        logger.info("%d jobs of %d workers are in the queue", config.jobqueue.num_jobs, config.jobqueue.cores)
        with keeper.keeping():
            yield cluster


def make_cluster(config: TasksConfig, *, dashboard: bool = False) -> Any:
    """Start a scheduler whose workers will be jobs; none is submitted yet.

    Raises:
        MissingExtraError: If dask-jobqueue is not installed.
        ConfigError: If it does not know or not accept an argument.
    """
    try:
        dask_jobqueue = importlib.import_module("dask_jobqueue")
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"tasks.scheduler={config.scheduler} needs {error.name}", "jobqueue") from error
    kind = getattr(dask_jobqueue, CLUSTERS[config.scheduler])
    for name in config.jobqueue.extra:
        if name not in (known := _known_arguments(kind)):
            raise ConfigError(f"tasks.jobqueue.extra: {unknown(f'argument of {kind.__name__}', name, known)}")
    try:
        return kind(**cluster_arguments(config, dashboard=dashboard))
    except ValueError as error:
        raise ConfigError(f"tasks.jobqueue: {error}") from error


def _known_arguments(kind: type) -> set[str]:
    """Collect what a cluster takes itself and passes on to its jobs; Dask finds a wrong name only when it is half built."""
    constructors = [cls.__init__ for part in (kind, kind.job_cls) for cls in part.__mro__ if "__init__" in vars(cls)]  # type: ignore
    return {name for function in constructors for name in inspect.signature(function).parameters} - {"self"}


def cluster_arguments(config: TasksConfig, *, dashboard: bool) -> dict[str, Any]:
    """Return the arguments of dask-jobqueue's cluster: what is null is left to its own configuration."""
    import dask
    from distributed.utils import get_ip

    settings = config.jobqueue.model_dump(mode="json", exclude={"num_jobs", "extra"}, exclude_none=True)
    address: dict[str, Any] = {} if config.jobqueue.interface else {"host": get_ip()}
    scheduler = {**address, "dashboard": dashboard, "dashboard_address": "127.0.0.1:0"}
    extra = dict(config.jobqueue.extra)
    scheduler |= extra.pop("scheduler_options", {})
    prologue = extra.pop("job_script_prologue", None) or dask.config.get(f"jobqueue.{config.scheduler}.job-script-prologue")
    ours = {
        "processes": config.jobqueue.cores,
        "scheduler_options": scheduler,
        "job_script_prologue": [*ENVIRONMENT, *prologue],
    }
    return settings | ours | extra


class JobKeeper:
    """Sees to it that a number of jobs is in the queue or running."""

    def __init__(self, cluster: Any, num_jobs: int) -> None:
        self.cluster, self.num_jobs = cluster, num_jobs
        self.arrived: set[str] = set()
        self.absent: set[str] = set()
        self.num_checks = self.num_workers = 0
        cluster.scheduler.add_plugin(_note_arrivals(self.arrived))

    def submit_missing(self) -> None:
        """Cancel jobs that are not wanted any more and submit as many as are missing.

        Raises:
            RuntimeError: If the batch system refuses one.
            ValueError: If its answer is not understood.
        """
        self.cluster.sync(self.cluster._correct_state)  # a new job may get the name of one that was dropped
        while len(self.cluster.worker_spec) < self.num_jobs:
            self.cluster.worker_spec.update(self.cluster.new_worker_spec())
        try:
            self.cluster.sync(self.cluster._correct_state)
        finally:
            self._forget_refused()

    def _forget_refused(self) -> None:
        from distributed.core import Status

        for name in [name for name, job in self.cluster.workers.items() if job.job_id is None]:
            self.cluster.workers[name].status = Status.failed
            self.cluster.worker_spec.pop(name)

    def check(self) -> None:
        """Replace jobs that have ended: workers of theirs have been there, and none was at the last check and now."""
        connected = {str(worker["name"]) for worker in list(self.cluster.scheduler_info["workers"].values())}
        self._report(len(connected))
        jobs = {name: _worker_names(name, spec) for name, spec in self.cluster.worker_spec.items()}
        absent = {name for name, workers in jobs.items() if self.arrived & workers and not connected & workers}
        ended, self.absent = absent & self.absent, absent
        for name in ended:
            self.cluster.worker_spec.pop(name)
            self.arrived -= jobs[name]
        if missing := self.num_jobs - len(self.cluster.worker_spec):
            logger.warning("%d jobs have ended; new ones are submitted", missing)
            self.submit_missing()

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Check now and then, in a thread, as long as the block lasts."""
        closed = threading.Event()

        def keep() -> None:
            while not closed.wait(CHECK_INTERVAL_S):
                try:
                    self.check()
                except (RuntimeError, ValueError) as error:  # a batch system that does not answer may do so the next time
                    logger.warning("no job could be submitted: %s", error)

        thread = threading.Thread(target=keep, name="distjet-jobs", daemon=True)
        thread.start()
        try:
            yield
        finally:
            closed.set()
            thread.join()

    def _report(self, num_workers: int) -> None:
        if num_workers != self.num_workers:
            logger.info("%d workers are connected", num_workers)
        elif num_workers == 0 and self.num_checks % CHECKS_PER_REMINDER == CHECKS_PER_REMINDER - 1:
            logger.warning("no worker is connected: the jobs wait in the queue, or have failed (their output says why)")
        self.num_workers, self.num_checks = num_workers, self.num_checks + 1


def _note_arrivals(names: set[str]) -> Any:
    """Make a plugin of the scheduler that adds the name of each worker that connects, however short it lives."""
    from distributed import SchedulerPlugin

    class Arrivals(SchedulerPlugin):
        def add_worker(self, scheduler: Any, worker: str) -> None:
            names.add(str(scheduler.workers[worker].name))

    return Arrivals()


def _worker_names(job: str, spec: dict[str, Any]) -> set[str]:
    """Return the names of the workers in a job: its own, with a suffix for each process if there are several."""
    return {f"{job}{suffix}" for suffix in spec.get("group", [""])}
