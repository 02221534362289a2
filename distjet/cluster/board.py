"""How does a user see many trainings at once?

On a terminal one live table with a line for each run that is under way, from the same progress files that each of them shows
itself; everywhere one line for each finished run, and in a log one for each finished epoch.
"""

import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from distjet.training.progress import Progress, read_progress
from distjet.training.settings import TrainConfig

logger = logging.getLogger(__name__)

DASH = "\N{EN DASH}"


@dataclass
class Line:
    """A run that is under way."""

    output: Path
    num_epochs: int
    label: str
    epoch: int = 0
    last: float | None = None
    best: float | None = None


class Board:
    """Shows runs that share a cluster.

    Args:
        what: What a run is, e.g. `trial`.
        total: Number of runs.
        metric: The metric of an epoch that is shown.
        sign: 1 where less of it is better, -1 where more is.
        label: Says what is special about a run.
    """

    def __init__(
        self,
        what: str,
        total: int,
        metric: str,
        sign: int = 1,
        label: Callable[[int], str] = lambda number: "",
    ) -> None:
        self.what, self.total, self.metric, self.sign, self.label = what, total, metric, sign, label
        self.console = Console(file=sys.stderr, highlight=False)
        self.lines: dict[int, Line] = {}
        self.ended: Counter[str] = Counter()
        self.shows_epochs, self.is_live = True, False

    def start(self, number: int, config: TrainConfig) -> None:
        """Show a run from now on."""
        self.lines[number] = Line(config.output, config.num_epochs, self.label(number))
        self._say(f"{self.what} {number}: {self.lines[number].label or config.output}")

    def epoch(self, number: int, row: Mapping[str, float]) -> None:
        """Show a finished epoch."""
        line = self.lines[number]
        line.epoch = int(row["epoch"])
        if (value := row.get(self.metric)) is not None:
            line.last = value
            line.best = value if line.best is None else self.sign * min(self.sign * value, self.sign * line.best)
        if self.shows_epochs:
            self._say(f"{self.what} {number}: epoch {line.epoch}/{line.num_epochs}  {self._values(line)}")

    def recover(self, number: int) -> None:
        """Say that a run's process died and another one takes over."""
        self._say(f"{self.what} {number}: its process died; it goes on from its newest checkpoint")

    def end(self, number: int, outcome: str, message: str = "") -> None:
        """Show what became of a run."""
        line = self.lines.pop(number)
        self.ended[outcome] += 1
        values = f"  {self._values(line)}" if line.best is not None else ""
        text = (
            f"{self.what} {number}: {outcome}{f' after epoch {line.epoch}' if line.epoch else ''}{values}  ({self.summary()})"
        )
        self._say(f"{text}{f': {message}' if message else ''}")

    def summary(self) -> str:
        """Count the runs by what became of them, e.g. `12/50: 5 completed, 7 pruned`."""
        counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self.ended.items()))
        return f"{self.ended.total()}/{self.total}: {counts}" if counts else f"0/{self.total}"

    def table(self) -> Table:
        """Draw the runs that are under way."""
        table = Table(title=f"{self.what}s {self.summary()}", title_justify="left", box=None, pad_edge=False)
        for title in (self.what, "epoch", "step", "jets/s", self.metric, "best", ""):
            table.add_column(title, justify="left" if not title else "right", no_wrap=bool(title))
        for number, line in sorted(self.lines.items()):
            moment = read_progress(line.output)
            table.add_row(
                str(number),
                f"{line.epoch}/{line.num_epochs}",
                *_moment(moment),
                _number(line.last),
                _number(line.best),
                line.label,
            )
        return table

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the table on a terminal while the block runs; elsewhere there are only lines."""
        if not self.console.is_terminal:
            yield
            return
        closed = threading.Event()
        thread = threading.Thread(target=self._draw, args=(closed,), name="distjet-board", daemon=True)
        self.shows_epochs, self.is_live = False, True
        thread.start()
        try:
            yield
        finally:
            closed.set()
            thread.join()
            self.is_live = False

    def _draw(self, closed: threading.Event) -> None:
        with Live(console=self.console, transient=True, auto_refresh=False) as live:
            while not closed.wait(0.5):
                live.update(self.table(), refresh=True)

    def _say(self, text: str) -> None:
        """Write a line, above the table where there is one."""
        if self.is_live:
            self.console.print(text, soft_wrap=True, markup=False)
        else:
            logger.info("%s", text)

    def _values(self, line: Line) -> str:
        return f"{self.metric} {_number(line.last)} (best {_number(line.best)})"


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.4g}"


def _moment(moment: Progress | None) -> tuple[str, str]:
    if moment is None:
        return DASH, DASH
    return f"{moment.step}/{moment.num_steps}", f"{moment.graphs_per_s:.0f}"
