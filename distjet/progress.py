"""How does a verb say how far it is?

On a terminal a bar, elsewhere a line now and then; both say how many tasks are done, what they have counted, its rate and the
time that remains. That time assumes that the tasks to come take as long as those that are done, as tasks of equal size do;
results that were on disk already come fast and make it short at first.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

logger = logging.getLogger(__name__)

LOG_INTERVAL_S = 30.0
"A log file gets a line when a task ends and the last line is so old."

Advance = Callable[[Mapping[str, int]], None]
"Counts one step and what it has brought, by name."


@dataclass
class Tally:
    """What a list of tasks has done so far.

    Attributes:
        total: Number of tasks.
        clock: Time in seconds.
        unit: What a task is called.
    """

    total: int
    clock: Callable[[], float] = time.monotonic
    unit: str = "tasks"
    done: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.started = self.clock()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return self.clock() - self.started

    def add(self, counts: Mapping[str, int]) -> None:
        """Count one task and what it has brought."""
        self.done += 1
        self.counts.update(counts)

    def line(self) -> str:
        """Say how far the tasks are, e.g. `12/40 tasks, 240000 jets (18300/s), 3 quarantined, 0:00:31 left`."""
        elapsed_s = self.elapsed_s
        parts = [f"{self.done}/{self.total} {self.unit}"]
        for number, (name, count) in enumerate(self.counts.items()):
            rate = f" ({count / elapsed_s:.0f}/s)" if number == 0 and elapsed_s > 0 else ""
            parts.append(f"{count} {name}{rate}")
        if self.done == self.total:
            parts.append(f"in {duration(elapsed_s)}")
        elif self.done > 0:
            parts.append(f"{duration(elapsed_s / self.done * (self.total - self.done))} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """Write a time as hours:minutes:seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


@contextmanager
def bar(description: str, total: int, *, unit: str = "tasks", enabled: bool = True) -> Iterator[Advance]:
    """Show the progress of `total` tasks.

    Args:
        description: What the tasks do.
        total: Their number.
        unit: What they are called.
        enabled: Whether a bar or lines in between are wanted; the line at the end is always logged.

    Yields:
        A function that counts one task.
    """
    console = Console(stderr=True)
    tally = Tally(total, unit=unit)
    if enabled and console.is_terminal:
        with _drawn(description, tally, console) as advance:
            yield advance
    else:
        yield _logged(description, tally) if enabled else tally.add
    logger.info("%s: %s", description, tally.line())


@contextmanager
def _drawn(description: str, tally: Tally, console: Console) -> Iterator[Advance]:
    name = TextColumn("{task.description}", table_column=Column(no_wrap=False))  # gives way on a narrow terminal
    columns = (name, BarColumn(bar_width=None), TextColumn("{task.fields[line]}"))
    with Progress(*columns, console=console, transient=True, expand=True) as progress:
        task = progress.add_task(description, total=tally.total, line=tally.line())

        def advance(counts: Mapping[str, int]) -> None:
            tally.add(counts)
            progress.update(task, completed=tally.done, line=tally.line())

        yield advance


def _logged(description: str, tally: Tally) -> Advance:
    last_s = tally.elapsed_s

    def advance(counts: Mapping[str, int]) -> None:
        nonlocal last_s
        tally.add(counts)
        if tally.done < tally.total and tally.elapsed_s - last_s >= LOG_INTERVAL_S:
            last_s = tally.elapsed_s
            logger.info("%s: %s", description, tally.line())

    return advance
