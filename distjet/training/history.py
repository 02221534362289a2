"""The record of a training, one row an epoch: a JSON line for machines, TensorBoard for people."""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from distjet.run_directory import write_atomically

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

HISTORY_FILE = "history.jsonl"


def read_rows(file: Path) -> list[dict[str, float]]:
    """Read all rows; none where the file does not exist yet."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


class History:
    """Metrics of the finished epochs; only the main process appends."""

    def __init__(self, directory: Path) -> None:
        self.file = directory / HISTORY_FILE
        self.events = directory / "tensorboard"
        self.seconds = 0.0
        "Time spent in training steps, over all parts of an interrupted run."

    @cached_property
    def tensorboard(self) -> "SummaryWriter":
        """The writer of TensorBoard's events, opened when the first epoch is finished."""
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter(str(self.events))

    def rows(self) -> list[dict[str, float]]:
        """Read all rows."""
        return read_rows(self.file)

    def last(self) -> dict[str, float]:
        """Read the last row; empty before the end of the first epoch."""
        rows = self.rows()
        return rows[-1] if rows else {}

    def append(self, metrics: Mapping[str, float]) -> None:
        """Add a row, here and for TensorBoard."""
        self._write([*self.rows(), dict(metrics)])
        for name, value in metrics.items():
            self.tensorboard.add_scalar(name, value, int(metrics["epoch"]))
        self.tensorboard.flush()

    def forget_after(self, num_epochs: int) -> None:
        """Drop rows of epochs that a resumed run makes again."""
        self._write(self.rows()[:num_epochs])

    def add_time(self, seconds: float) -> None:
        """Count time spent in training."""
        self.seconds += seconds

    def _write(self, rows: list[dict[str, float]]) -> None:
        write_atomically(self.file, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
