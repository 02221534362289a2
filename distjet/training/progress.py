"""What is a training doing right now?

The main process writes one small file; whoever started the run shows it. So the display is the same whether the training runs
in this process or on a cluster, and a second terminal, or a table of many runs, can look at it too.
"""

import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from distjet.run_directory import read_json, write_json
from distjet.storage import poll_interval_s

PROGRESS_FILE = "progress.json"


@dataclass(frozen=True)
class Progress:
    """A moment of a training; rate, loss and stall are means over the epoch so far.

    Attributes:
        epoch: The epoch under way, counted from 1.
        num_epochs: Epochs of the whole training, if it does not stop earlier.
        step: Steps of the epoch that are done; when it is `num_steps`, the validation is under way.
        num_steps: Steps of an epoch.
        batch_size: Graphs in a global batch.
        graphs_per_s: Of all processes together.
        learning_rate: Now.
        loss: Weighted mean over all processes.
        best: The best value of the selection metric so far; None before the end of the first epoch.
        metric: The name of the selection metric.
        seconds_left: Until the last epoch is over, validations included as soon as one was timed.
        stall_fraction: Share of the time in which a step waited for its batch, of the process that waited most.
        gpu_memory_gib: Most memory of tensors on any GPU; None without GPUs.
        gpu_utilisation: Share of the last second in which the main process's GPU was busy; None where nobody can tell.
        updated_s: When this was written, in seconds since 1970.
    """

    epoch: int
    num_epochs: int
    step: int
    num_steps: int
    batch_size: int
    graphs_per_s: float
    learning_rate: float
    loss: float
    best: float | None
    metric: str
    seconds_left: float
    stall_fraction: float
    gpu_memory_gib: float | None
    gpu_utilisation: float | None
    updated_s: float


def read_progress(run: Path) -> Progress | None:
    """Read what the training in `run` is doing, or did last.

    Returns:
        None if it has made no step yet, or another version of distjet wrote the file.
    """
    file = run / PROGRESS_FILE
    content = read_json(file) if file.is_file() else {}
    return Progress(**content) if set(content) == {field.name for field in fields(Progress)} else None


@dataclass
class ProgressWriter:
    """Writes the progress file, at most once a second but for the end of an epoch."""

    directory: Path
    enabled: bool
    last_write_s: float = 0.0

    def due(self, *, at_end: bool = False) -> bool:
        """Whether a second has passed since the last write (on an object store, some seconds), or the epoch is over."""
        interval_s = poll_interval_s(self.directory, 1.0)
        return self.enabled and (at_end or time.monotonic() - self.last_write_s > interval_s)

    def write(self, progress: Progress) -> None:
        """Write the file."""
        write_json(self.directory / PROGRESS_FILE, asdict(progress))
        self.last_write_s = time.monotonic()
