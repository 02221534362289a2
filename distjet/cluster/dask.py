"""How does a list of pure tasks run on Dask workers?

One thread per process: the tasks are compiled kernels and ROOT decompression, which two processes do twice as fast as two
threads. Results are small dicts; data go through files. The same tasks run in this process where no cluster is wanted.
"""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from distjet.cluster.settings import TasksConfig
from distjet.execution import Execute, in_process
from distjet.progress import bar

logger = logging.getLogger(__name__)

Function = Callable[[Any], dict[str, Any]]


@contextmanager
def executor(config: TasksConfig) -> Iterator[Execute]:
    """Open the workers that a configuration asks for, and close them at the end.

    Yields:
        A function that runs tasks on them.
    """
    if config.scheduler == "in_process":
        yield _with_progress(in_process, config)
        return
    import dask

    dask.config.set({"logging.distributed": "error"})  # read once, when distributed is imported
    from distributed import Client, LocalCluster

    if config.scheduler != "local":
        with Client(config.scheduler) as client:
            yield _with_progress(_OnDask(client, config.retries), config)
        return
    num_workers = config.num_workers or os.cpu_count() or 1
    with (
        LocalCluster(
            n_workers=num_workers,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield _with_progress(_OnDask(client, config.retries), config)


class _OnDask:
    """Runs tasks on a Dask cluster; a worker that dies loses its task to another."""

    def __init__(self, client: Any, retries: int) -> None:
        self.client, self.retries = client, retries

    def __call__(self, function: Function, tasks: Sequence[Any], *, description: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """Submit all tasks and yield results as they finish; a task that keeps failing raises its exception here."""
        del description
        from distributed import as_completed

        futures = self.client.map(function, tasks, pure=False, retries=self.retries)
        index_of = {future.key: index for index, future in enumerate(futures)}
        try:
            for future in as_completed(futures):
                yield index_of[future.key], future.result()
                future.release()
        finally:
            self.client.cancel(futures)


def _with_progress(execute: Execute, config: TasksConfig) -> Execute:
    def run(function: Function, tasks: Sequence[Any], *, description: str) -> Iterator[tuple[int, dict[str, Any]]]:
        with bar(description, len(tasks), enabled=config.progress == "auto") as advance:
            for result in execute(function, tasks, description=description):
                advance()
                yield result

    return run
