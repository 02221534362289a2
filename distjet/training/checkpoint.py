"""How is the state of a training kept, so that it is whole or absent?

A checkpoint is one file and a small JSON beside it with its hash; the JSON is written last, a file without one does not count.
Files are read with `weights_only=True`, and only after their hash agrees: nothing is unpickled, nothing damaged is used. The
JSON also names the best model so far, which stays as long as any checkpoint that names it: a damaged one falls back to the one
before, whose best model may be another.
"""

import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xxhash

from distjet.errors import DataError
from distjet.run_directory import is_temporary, read_json, write_atomically, write_json

NO_BEST = -1
"The best epoch before the end of the first one."
NAME = r"(epoch-\d+-step-\d+|best-\d+)\.(pt|json)"
"What all files of the checkpoints are called."


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one run: the newest ones, and the best models that they name."""

    directory: Path
    num_kept: int = 2

    def save(self, state: dict[str, Any], epoch: int, step: int, best_epoch: int = NO_BEST) -> Path:
        """Write a checkpoint, and remove all but the newest ones and the best models that these name.

        Args:
            state: What to write.
            epoch: The epoch under way.
            step: Steps of it that are done.
            best_epoch: The epoch whose model is the best so far.

        Returns:
            The file.
        """
        path = self._write(f"epoch-{epoch:04d}-step-{step:07d}", state, best_epoch=best_epoch)
        kept = self._complete()[-self.num_kept :]
        best = [read_json(_meta_path(kept_path)).get("best_epoch", NO_BEST) for kept_path in kept]
        self._remove_all_but({kept_path.stem for kept_path in kept} | {best_name(epoch) for epoch in best})
        return path

    def save_best(self, state: dict[str, Any], epoch: int) -> None:
        """Write the model of `epoch` beside those before it: which one counts is said by the checkpoint that is saved next."""
        self._write(best_name(epoch), state)

    def newest(self) -> bytes | None:
        """Read the newest checkpoint that is whole, or return None; `decode` turns it into a state.

        Raises:
            DataError: If there are checkpoints, and every one of them is damaged.
        """
        damaged: list[str] = []
        for path in reversed(self._complete()):
            try:
                return read_verified(path)
            except DataError as error:
                damaged.append(str(error))
        if damaged:
            raise DataError("no checkpoint is usable: " + "; ".join(damaged))
        return None

    def best(self, epoch: int) -> dict[str, Any]:
        """Read the best model, that of `epoch` (counted from 0).

        Raises:
            DataError: If it is absent or damaged.
        """
        return decode(read_verified(self.directory / f"{best_name(epoch)}.pt"))

    def _complete(self) -> list[Path]:
        return [meta.with_suffix(".pt") for meta in sorted(self.directory.glob("epoch-*.json"))]

    def _remove_all_but(self, stems: set[str]) -> None:
        """Remove other checkpoints, and what a killed process had begun to write: files without a JSON, temporary files."""
        for path in sorted(self.directory.iterdir()):  # a JSON goes before its file
            if (re.fullmatch(NAME, path.name) and path.stem not in stems) or is_temporary(path, NAME):
                path.unlink(missing_ok=True)

    def _write(self, name: str, state: dict[str, Any], **about: int) -> Path:
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
        path = self.directory / f"{name}.pt"
        write_atomically(path, data)
        write_json(_meta_path(path), {"size_bytes": len(data), "xxh3_128": xxhash.xxh3_128_hexdigest(data)} | about)
        return path


def best_name(epoch: int) -> str:
    """Name of the file of a best model, without suffix."""
    return f"best-{epoch:04d}"


def decode(data: bytes) -> dict[str, Any]:
    """Turn the bytes of a checkpoint into a state on the CPU; tensors and plain values alone are accepted."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def read_verified(path: Path) -> bytes:
    """Read the bytes of a checkpoint, if they are what was written.

    Raises:
        DataError: If the file or its JSON is absent, or the hash differs.
    """
    if not path.is_file() or not _meta_path(path).is_file():
        raise DataError(f"there is no checkpoint {path} (with its {_meta_path(path).name} beside it)")
    data = path.read_bytes()
    if xxhash.xxh3_128_hexdigest(data) != read_json(_meta_path(path))["xxh3_128"]:
        raise DataError(f"checkpoint {path} is damaged: its hash is not the one that was written")
    return data


def _meta_path(path: Path) -> Path:
    return path.with_suffix(".json")
