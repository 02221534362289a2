"""What is a training doing right now?

The main process writes one small file; whoever started the run shows it. So the display is the same whether the training runs
in this process or on a cluster, and a second terminal can look at it too.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

from distjet.run_directory import write_json

PROGRESS_FILE = "progress.json"


@dataclass(frozen=True)
class Progress:
    """A moment of a training."""

    epoch: int
    num_epochs: int
    step: int
    num_steps: int
    batch_size: int
    graphs_per_s: float
    learning_rate: float


@dataclass
class ProgressWriter:
    """Writes the progress file at most once a second."""

    directory: Path
    enabled: bool
    last_write_s: float = 0.0

    def due(self) -> bool:
        """Whether a second has passed since the last write."""
        return self.enabled and time.monotonic() - self.last_write_s > 1.0

    def write(self, progress: Progress) -> None:
        """Write the file."""
        if self.enabled:
            write_json(self.directory / PROGRESS_FILE, asdict(progress))
            self.last_write_s = time.monotonic()
