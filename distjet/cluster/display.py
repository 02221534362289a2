"""One readable progress line for a training, wherever it runs: the driver shows what the main worker writes."""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from distjet.run_directory import read_json
from distjet.training.history import HISTORY_FILE, read_rows
from distjet.training.progress import PROGRESS_FILE

logger = logging.getLogger(__name__)


@contextmanager
def show(run: Path) -> Iterator[None]:
    """Show the progress of the training in `run`: a live line on a terminal, and one line for each epoch."""
    console = Console(file=sys.stderr, highlight=False)
    closed = threading.Event()
    shown = len(read_rows(run / HISTORY_FILE))

    def follow() -> None:
        nonlocal shown
        with Live(console=console, transient=True, auto_refresh=False) as live:
            while True:
                last = closed.wait(0.5)
                rows = read_rows(run / HISTORY_FILE)
                for row in rows[shown:]:
                    console.print(epoch_line(row), soft_wrap=True)
                shown = max(shown, len(rows))
                if last:
                    return
                if console.is_terminal and (run / PROGRESS_FILE).is_file():
                    live.update(Text(step_line(read_json(run / PROGRESS_FILE))), refresh=True)

    thread = threading.Thread(target=follow, name="distjet-display", daemon=True)
    thread.start()
    try:
        yield
    finally:
        closed.set()
        thread.join()


def epoch_line(row: dict[str, float]) -> str:
    """Describe a finished epoch."""
    closure = f"closure mean {100 * row['val_mean_abs_bias']:.2f} % worst {100 * row['val_max_abs_bias']:.2f} %"
    if row["val_num_bins"] == 0:
        closure = f"closure {100 * row['val_mean_abs_bias']:.2f} % over all jets (no bin has more than closure.min_entries)"
    return (
        f"epoch {int(row['epoch']):3d}  loss {row['train_loss']:.4f} (val {row['val_loss']:.4f})  {closure}  "
        f"resolution {row['val_mean_resolution']:.4f}  {row['epoch_seconds']:.1f} s"
    )


def step_line(progress: dict[str, float]) -> str:
    """Describe the moment."""
    steps_left = (progress["num_epochs"] - progress["epoch"]) * progress["num_steps"] + progress["num_steps"] - progress["step"]
    eta_s = steps_left * progress["batch_size"] / max(progress["graphs_per_s"], 1e-9)
    return (
        f"epoch {progress['epoch']}/{progress['num_epochs']}  step {progress['step']}/{progress['num_steps']}  "
        f"{progress['graphs_per_s']:.0f} jets/s  lr {progress['learning_rate']:.2e}  {eta_s / 60:.1f} min left"
    )
