"""How does a list of pure tasks run on Dask workers?

One thread per process: the tasks are compiled kernels and ROOT decompression, which two processes do twice as fast as two
threads. Results are small dicts; data go through files. The same tasks run in this process where no cluster is wanted.

Tasks are handed out a few per worker at a time: what the scheduler holds does not grow with their number.
"""

import importlib.util
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice
from typing import Any

from distjet.cluster.settings import MALLOC, TasksConfig
from distjet.errors import ConfigError, MissingExtraError, UserError
from distjet.execution import Execute, Measure, in_process, measure_nothing
from distjet.progress import bar

logger = logging.getLogger(__name__)

TASKS_PER_WORKER, FEWEST_TASKS = 4, 64
"Tasks at the scheduler for each worker (one runs, the others keep it from waiting for this process), and while workers start."

START_ATTEMPTS = 3

Function = Callable[[Any], dict[str, Any]]


@contextmanager
def executor(config: TasksConfig) -> Iterator[Execute]:
    """Open the workers that a configuration asks for, and close them at the end.

    Yields:
        A function that runs tasks on them.

    Raises:
        MissingExtraError: If what the configuration needs is not installed.
        ConfigError: If a batch system refuses the jobs.
    """
    if config.scheduler == "in_process":
        yield _with_progress(in_process, config)
        return
    _check_bokeh(config)
    import dask

    dask.config.set({"logging.distributed": "error"})  # read once, when distributed is imported
    name, value = MALLOC
    dask.config.set({f"distributed.nanny.pre-spawn-environ.{name}": value})
    from distributed import performance_report

    with ExitStack() as stack:
        client = _open_client(config, stack)
        if _wants_dashboard(config):
            logger.info("Dask's dashboard: %s", client.dashboard_link)
        if config.performance_report is not None:
            config.performance_report.parent.mkdir(parents=True, exist_ok=True)
            config.performance_report.touch()  # finds out now whether it can be written
            stack.enter_context(performance_report(filename=str(config.performance_report)))
        yield _with_progress(_OnDask(client, config.retries), config)
    if config.performance_report is not None:
        logger.info("what the workers did when: %s", config.performance_report)


def _open_client(config: TasksConfig, stack: ExitStack) -> Any:
    """Connect to the workers; whatever was started is closed with the stack."""
    from distributed import Client

    if config.scheduler == "local":
        return stack.enter_context(Client(stack.enter_context(_local_cluster(config))))
    if config.is_batch:
        from distjet.cluster.jobqueue import job_cluster

        return stack.enter_context(Client(stack.enter_context(job_cluster(config, dashboard=_wants_dashboard(config)))))
    try:
        return stack.enter_context(Client(config.scheduler))
    except OSError as error:
        raise ConfigError(f"tasks.scheduler: no Dask scheduler answers at {config.scheduler} ({error})") from error


def _local_cluster(config: TasksConfig) -> Any:
    """Start workers on this machine, each with an equal share of its memory.

    Once they run, Dask replaces one that dies; one that dies while they start ends the start, which is tried again.

    Raises:
        UserError: If they die every time.
    """
    from dask.system import CPU_COUNT  # what a batch system or a container leaves of the machine's
    from distributed import LocalCluster
    from distributed.system import MEMORY_LIMIT

    num_workers = config.num_workers or CPU_COUNT
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            with _ignoring_interrupts():
                return LocalCluster(
                    n_workers=num_workers,
                    threads_per_worker=1,
                    processes=True,
                    memory_limit=MEMORY_LIMIT // num_workers,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    scheduler_kwargs={"dashboard": _wants_dashboard(config)},
                    silence_logs=logging.ERROR,
                )
        except RuntimeError as error:
            problem = error
            logger.warning("the workers could not be started (%s), attempt %d of %d", error, attempt, START_ATTEMPTS)
    hint = "with tasks.num_workers lower, each has more memory"
    raise UserError(f"the workers cannot be started ({problem}); {hint}") from problem


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Start processes that Ctrl-C does not end: it reaches all of a terminal, but this process closes the others in order."""
    if threading.current_thread() is not threading.main_thread():  # which alone may set a handler
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _wants_dashboard(config: TasksConfig) -> bool:
    """Whether the dashboard is asked for, or -v and it can be shown."""
    return config.dashboard or (logger.isEnabledFor(logging.DEBUG) and importlib.util.find_spec("bokeh") is not None)


def _check_bokeh(config: TasksConfig) -> None:
    """Find out before the work, not after it, that its report cannot be drawn."""
    wanted = {"performance_report": config.performance_report is not None, "dashboard": config.dashboard}
    if any(wanted.values()) and importlib.util.find_spec("bokeh") is None:
        key = next(name for name, value in wanted.items() if value)
        raise MissingExtraError(f"tasks.{key} needs bokeh", "report")


class _OnDask:
    """Runs tasks on a Dask cluster; a worker that dies loses its task to another."""

    def __init__(self, client: Any, retries: int) -> None:
        self.client, self.retries = client, retries

    def __call__(
        self, function: Function, tasks: Sequence[Any], *, description: str, measure: Measure = measure_nothing
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield results as tasks finish; a task that keeps failing raises its exception here."""
        del measure
        from distributed import KilledWorker, as_completed

        waiting = iter(enumerate(tasks))
        running: dict[Any, int] = {}
        finished = as_completed()

        def hand_out(window: int) -> None:
            """Bring the tasks at the scheduler up to their number, in one message."""
            batch = list(islice(waiting, max(window - len(running), 0)))
            futures = self.client.map(function, [task for _, task in batch], pure=False, retries=self.retries)
            running.update(zip(futures, (index for index, _ in batch), strict=True))
            finished.update(futures)

        window = self._window()
        hand_out(window)
        try:
            for future in finished:
                index, result = running.pop(future), future.result()
                future.release()
                yield index, result
                if len(running) <= window // 2:
                    window = self._window()
                    hand_out(window)
        except KilledWorker as error:
            raise UserError(
                f"{description}: one task has ended {error.allowed_failures + 1} workers in a row, the last at "
                f"{error.last_worker.address}. Mostly their memory is too small: give them more (fewer workers, or "
                "tasks.jobqueue.memory), or make the tasks smaller."
            ) from error
        finally:
            self.client.cancel(list(running))

    def _window(self) -> int:
        """Return how many tasks to keep at the scheduler, for the workers that there are now."""
        return max(TASKS_PER_WORKER * sum(self.client.nthreads().values()), FEWEST_TASKS)


def _with_progress(execute: Execute, config: TasksConfig) -> Execute:
    def run(
        function: Function, tasks: Sequence[Any], *, description: str, measure: Measure = measure_nothing
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        if not tasks:
            return
        with bar(description, len(tasks), enabled=config.progress == "auto") as advance:
            for index, result in execute(function, tasks, description=description):
                advance(measure(result))
                yield index, result

    return run
