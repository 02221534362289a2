"""How are calibrated jets written, so that they stand beside the jets of the input?

Parquet has one row a jet, with its constituents in lists and the reason in words. A friend tree has the entries of the input:
where an entry is an event, its jets are lists, and the constituents of all its jets one list, cut by `num_constituents`. ROOT
gets the reason as a number, the CRC-32 of the text, so that it is the same in all files without an agreement among tasks; 0 is
a calibrated jet. Each file has the texts of its numbers in the string `reasons`, and predictions.json counts the jets of each.
"""

import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

COMPRESSION_LEVEL = 5


@dataclass(frozen=True)
class CalibratedRange:
    """All jets of a range of entries.

    Attributes:
        identity: run, event and jet_index of each jet, shape (J,).
        sample: Name of the sample.
        jets_per_entry: Shape (entries,).
        reason: Why a jet is not calibrated, empty for one that is, shape (J,), strings.
        columns: Numbers of each jet, (J,) or (J, K), float32; NaN where it is not calibrated.
        num_constituents: Of each jet, shape (J,); None without constituents.
        constituents: Numbers of each constituent, jet after jet, float32.
    """

    identity: dict[str, np.ndarray]
    sample: str
    jets_per_entry: np.ndarray
    reason: np.ndarray
    columns: dict[str, np.ndarray]
    num_constituents: np.ndarray | None
    constituents: dict[str, np.ndarray]


class Output(Protocol):
    """A file that is being written."""

    def write(self, found: CalibratedRange) -> None:
        """Append a range."""
        ...


@contextmanager
def open_output(path: Path, settings: dict[str, Any], recipe: dict[str, Any]) -> Iterator[Output]:
    """Open a file of predictions.

    Args:
        path: Local path.
        settings: Of `PredictConfig`: format and name.
        recipe: With the layout of the input.
    """
    if settings["format"] == "parquet":
        parquet = ParquetOutput(path, settings["name"])
        try:
            yield parquet
        finally:
            parquet.close()
    else:
        import uproot

        with uproot.recreate(path, compression=uproot.ZSTD(COMPRESSION_LEVEL)) as file:
            tree = FriendTree(file, settings["name"], has_events=recipe["layout"] == "event")
            yield tree
            file["reasons"] = json.dumps(tree.reasons)


class ParquetOutput:
    """One row a jet."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        self.writer: pq.ParquetWriter | None = None

    def write(self, found: CalibratedRange) -> None:
        """Append a row group."""
        table = self._table(found)
        if self.writer is None:
            self.writer = pq.ParquetWriter(self.path, table.schema, compression="zstd")
        self.writer.write_table(table)

    def close(self) -> None:
        """Finish the file."""
        if self.writer is not None:
            self.writer.close()

    def _table(self, found: CalibratedRange) -> pa.Table:
        columns: dict[str, Any] = {name: pa.array(values, pa.int64()) for name, values in found.identity.items()}
        columns["sample"] = pa.array([found.sample] * len(found.reason), pa.string())
        columns[f"{self.name}_reason"] = pa.array(found.reason, pa.string())
        columns |= {name: _arrow(values) for name, values in found.columns.items()}
        if found.num_constituents is not None:
            offsets = pa.array(np.concatenate([[0], np.cumsum(found.num_constituents)]), pa.int32())
            for name, values in found.constituents.items():
                columns[f"{self.name}_constituent_{name}"] = pa.ListArray.from_arrays(offsets, pa.array(values))
        return pa.table(columns)


def _arrow(values: np.ndarray) -> pa.Array:
    if values.ndim == 1:
        return pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])


class FriendTree:
    """As many entries as the input."""

    def __init__(self, file: Any, name: str, *, has_events: bool) -> None:
        self.file, self.name, self.has_events = file, name, has_events
        self.tree: Any = None
        self.reasons: dict[str, str] = {}

    def write(self, found: CalibratedRange) -> None:
        """Append entries."""
        import awkward as ak

        branches = self._branches(found)
        if self.tree is None:
            self.tree = self.file.mktree(
                self.name, {name: ak.type(ak.Array(values)).content for name, values in branches.items()}
            )
        self.tree.extend(branches)

    def _branches(self, found: CalibratedRange) -> dict[str, Any]:
        """Arrange one number, or a list of them, for each entry."""
        jets = found.identity | {"reason": self._numbers(found.reason)}
        for column, values in found.columns.items():
            name = column.removeprefix(f"{self.name}_")
            parts = {f"{name}_{k}": part for k, part in enumerate(values.T)} if values.ndim > 1 else {name: values}
            jets |= {key: np.ascontiguousarray(part) for key, part in parts.items()}
        branches: dict[str, Any] = jets
        per_entry = found.num_constituents
        if self.has_events:
            if per_entry is not None:
                jets["num_constituents"] = per_entry
                entry = np.repeat(np.arange(len(found.jets_per_entry)), found.jets_per_entry)
                per_entry = np.bincount(entry, weights=per_entry, minlength=len(found.jets_per_entry)).astype(np.int64)
            branches = {"jet": _lists(jets, found.jets_per_entry)}
        if per_entry is not None:
            branches["constituent"] = _lists(found.constituents, per_entry)
        return branches

    def _numbers(self, reasons: np.ndarray) -> np.ndarray:
        codes = {text: zlib.crc32(text.encode()) if text else 0 for text in set(reasons.tolist())}
        self.reasons |= {str(code): text for text, code in codes.items() if text}
        return np.array([codes[text] for text in reasons.tolist()], np.int64)


def _lists(columns: dict[str, np.ndarray], counts: np.ndarray) -> Any:
    """Cut columns into lists that share a counter."""
    import awkward as ak

    return ak.zip({name: ak.unflatten(values, counts) for name, values in columns.items()})
