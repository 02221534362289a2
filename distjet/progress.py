"""How does a verb say how far it is?

A bar with rate and remaining time on a terminal, a line at the start and at the end in a log file.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)


@contextmanager
def bar(description: str, total: int, *, enabled: bool = True) -> Iterator[Callable[[], None]]:
    """Show the progress of `total` steps.

    Yields:
        A function that counts one step.
    """
    console = Console(stderr=True)
    if not (enabled and console.is_terminal):
        started = time.monotonic()
        logger.info("%s: %d tasks", description, total)
        yield lambda: None
        logger.info("%s: done in %.1f s", description, time.monotonic() - started)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(description, total=total)
        yield lambda: progress.advance(task)
