"""How does a user see a training, wherever it runs?

The driver shows what the main worker writes. On a terminal one live line, and a line for each epoch above it; in a log the
lines of the epochs, and one a minute while an epoch is long. A line in which nothing moves says for how long: a worker that
hangs looks like a slow one otherwise.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from distjet.cluster.deaths import read_deaths
from distjet.progress import duration
from distjet.storage import poll_interval_s
from distjet.training.history import HISTORY_FILE, read_rows
from distjet.training.progress import Progress, read_progress

logger = logging.getLogger(__name__)

LOG_INTERVAL_S = 60.0
"A log gets a line when the last one is so old."
SILENCE_S = 30.0
"After so long without a look of the training, the line says so: looks are many steps apart, checkpoints take their time."


@contextmanager
def show(run: Path) -> Iterator[None]:
    """Show the progress of the training in `run` while the block runs."""
    console = Console(file=sys.stderr, highlight=False)
    closed = threading.Event()
    follow = _follow_on_terminal if console.is_terminal else _follow_in_log
    thread = threading.Thread(target=follow, args=(Watched(run), console, closed), name="distjet-display", daemon=True)
    thread.start()
    try:
        yield
    finally:
        closed.set()
        thread.join()


class Watched:
    """What there is to say about a run, since this object was made.

    Args:
        run: Directory of the training.
        clock: Time in seconds.
    """

    def __init__(self, run: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.run, self.clock = run, clock
        self.num_shown, self.num_deaths = len(read_rows(run / HISTORY_FILE)), len(read_deaths(run))
        self.moment, self.changed_s = read_progress(run), clock()
        self.has_begun = False

    def news(self) -> list[str]:
        """Describe the epochs that were finished, and the workers that died, since the last call."""
        rows, deaths = read_rows(self.run / HISTORY_FILE), read_deaths(self.run)
        new, self.num_shown = rows[self.num_shown :], max(self.num_shown, len(rows))
        dead, self.num_deaths = deaths[self.num_deaths :], len(deaths)
        return [epoch_line(row) for row in new] + [line for death in dead for line in death.lines()]

    def line(self) -> str:
        """Describe the moment; what an interrupted part of the training left behind is not shown."""
        moment = read_progress(self.run)
        if moment != self.moment:
            self.moment, self.changed_s, self.has_begun = moment, self.clock(), True
        silent_s = self.clock() - self.changed_s
        if self.moment is None or not self.has_begun:
            return f"starting  {duration(silent_s)}"
        if self.num_shown >= self.moment.num_epochs:
            return "finishing"
        silence = f"  no news for {duration(silent_s)}" if silent_s > SILENCE_S else ""
        return step_line(self.moment) + silence


def _follow_on_terminal(watched: Watched, console: Console, closed: threading.Event) -> None:
    with Live(console=console, transient=True, auto_refresh=False) as live:
        is_last = False
        while not is_last:
            is_last = closed.wait(poll_interval_s(watched.run, 0.5))
            for line in watched.news():
                console.print(line, soft_wrap=True)
            if not is_last:
                live.update(Text(watched.line()), refresh=True)


def _follow_in_log(watched: Watched, console: Console, closed: threading.Event) -> None:
    del console
    said_s, is_last = time.monotonic(), False
    while not is_last:
        is_last = closed.wait(poll_interval_s(watched.run, 0.5))
        lines = watched.news()
        if not lines and not is_last and time.monotonic() - said_s > LOG_INTERVAL_S:
            lines = [watched.line()]
        for line in lines:
            logger.info("%s", line)
            said_s = time.monotonic()


def epoch_line(row: dict[str, float]) -> str:
    """Describe a finished epoch."""
    rate = f"  {row['jets_per_s']:.0f} jets/s" if "jets_per_s" in row else ""  # it was stopped between steps and validation
    return (
        f"epoch {int(row['epoch']):3d}  loss {row['train_loss']:.4f} (val {row['val_loss']:.4f})  {_quality(row)}  "
        f"{row['epoch_seconds']:.1f} s{rate}"
    )


def _quality(row: dict[str, float]) -> str:
    """Describe what the validation found."""
    if "val_auc" in row:
        rejection = f"1/eps_B {row['val_rejection_50']:.3g} at eps_S 0.5"
        return f"area under the curve {row['val_auc']:.4f}  accuracy {row['val_accuracy']:.4f}  {rejection}"
    closure = f"closure mean {100 * row['val_mean_abs_bias']:.2f} % worst {100 * row['val_max_abs_bias']:.2f} %"
    if row["val_num_bins"] == 0:
        closure = f"closure {100 * row['val_mean_abs_bias']:.2f} % over all jets (no bin has more than closure.min_entries)"
    return f"{closure}  resolution {row['val_mean_resolution']:.4f}"


def step_line(moment: Progress) -> str:
    """Describe a moment, the most important first: a narrow terminal wraps the rest."""
    parts = [f"epoch {moment.epoch}/{moment.num_epochs}"]
    parts.append("validating" if moment.step == moment.num_steps else f"step {moment.step}/{moment.num_steps}")
    parts += [f"{duration(moment.seconds_left)} left", f"{moment.graphs_per_s:.0f} jets/s", f"loss {moment.loss:.4f}"]
    if moment.best is not None:
        parts.append(f"best {moment.metric} {moment.best:.4f}")
    parts.append(f"waited for data {100 * moment.stall_fraction:.0f} %")
    if moment.gpu_memory_gib is not None:
        use = f" {100 * moment.gpu_utilisation:.0f} %" if moment.gpu_utilisation is not None else ""
        parts.append(f"GPU {moment.gpu_memory_gib:.1f} GiB{use}")
    return "  ".join([*parts, f"lr {moment.learning_rate:.1e}"])
