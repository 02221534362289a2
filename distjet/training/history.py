"""The record of a training, one row an epoch: a JSON line for machines, TensorBoard for people.

TensorBoard also shows the resolved configuration as text. A run that is resumed tells it from which epoch on to forget what the
interrupted one had drawn: a row that is made again must not appear twice. It appends to its files, which an object store
does not know: there, a copy of the whole file follows each epoch.
"""

import json
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from distjet.run_directory import write_atomically
from distjet.storage import is_remote, put_file

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

HISTORY_FILE = "history.jsonl"
SPEED_KEYS = ("epoch_seconds", "jets_per_s", "stall_fraction", "gpu_memory_gib")
"What a row says about the machine; all else in it is a function of configuration, data and seed."


def read_rows(file: Path) -> list[dict[str, float]]:
    """Read all rows; none where the file does not exist yet."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


class History:
    """Metrics of the finished epochs; only the main process appends."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / HISTORY_FILE
        self.config_file = directory / "config.yaml"
        self.events = directory / "tensorboard"
        self.seconds = 0.0
        "Time spent in training steps, over all parts of an interrupted run."
        self.tensorboard: SummaryWriter | None = None

    def rows(self) -> list[dict[str, float]]:
        """Read all rows."""
        return read_rows(self.file)

    def last(self) -> dict[str, float]:
        """Read the last row; empty before the end of the first epoch."""
        rows = self.rows()
        return rows[-1] if rows else {}

    def append(self, metrics: Mapping[str, float]) -> None:
        """Add a row, here and for TensorBoard; rows of this epoch or later ones are those of a process that died since."""
        self._write([*(row for row in self.rows() if row["epoch"] < metrics["epoch"]), dict(metrics)])
        self.tensorboard = self.tensorboard or self._open_tensorboard(int(metrics["epoch"]))
        for name in metrics.keys() - {"epoch"}:
            self.tensorboard.add_scalar(name, metrics[name], int(metrics["epoch"]))
        self.tensorboard.flush()
        if is_remote(self.events):
            for file in Path(self.tensorboard.log_dir).iterdir():
                put_file(file, self.events / file.name)

    def forget_after(self, num_epochs: int) -> None:
        """Drop rows of epochs that a resumed run makes again."""
        self._write([row for row in self.rows() if row["epoch"] <= num_epochs])

    def of_epoch(self, epoch: int) -> dict[str, float]:
        """Read the row of a finished epoch, counted from 1."""
        return next(row for row in self.rows() if row["epoch"] == epoch)

    def add_time(self, seconds: float) -> None:
        """Count time spent in training."""
        self.seconds += seconds

    def _open_tensorboard(self, first_epoch: int) -> "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(str(self._events_here()), purge_step=first_epoch)
        if self.config_file.is_file():
            text = self.config_file.read_text()
            writer.add_text("configuration", f"```yaml\n{text}\n```", first_epoch)
        return writer

    def _events_here(self) -> Path:
        """Return where TensorBoard can append to files."""
        if not is_remote(self.events):
            return self.events
        folder = tempfile.mkdtemp(prefix="distjet-tensorboard-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        return Path(folder)

    def _write(self, rows: list[dict[str, float]]) -> None:
        write_atomically(self.file, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
