"""How do rows lie in memory while they wait to be put into a batch?

Each row is a record: its scalars, the four-momenta of its nodes, their features node by node, its edges, in one stretch of
memory. A batch takes its rows from many places at random, and memory is fast in stretches alone; so columns are brought into
this form once, when they are decoded. The same form serves an arena in memory and a mapped file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from distjet.config import unknown
from distjet.dataset.graphs.edges import MAX_BYTE_NODES
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import JET_COLUMNS
from distjet.errors import ConfigError, DataError

ROW_ROLES = ("identifier", "weight", "spectator", "label")
"Columns that can be passed along beside a batch."
WORD = 4
"Bytes; records begin at multiples of it."
START, NUM_NODES, NUM_BYTES = range(3)
"What is known of a record: its first word, its nodes, the bytes of its edges."


class RowGroup(NamedTuple):
    """A row group of a split: where it is, and what the manifest says is in it."""

    path: Path
    number: int
    rows: int
    nodes: int
    edge_bytes: int
    "Most bytes that its edges can take."

    def __str__(self) -> str:
        return f"{self.path}: row group {self.number}"


class Bank(NamedTuple):
    """Memory with records, and where they are.

    Attributes:
        records: First word, nodes, bytes of the edges of each record; int32, shape (R, 3).
        words: The memory as float32, in which scalars and momenta are numbers, shape (W,).
        halves: The same memory as uint16, in which features of 16 bits are numbers, shape (2 W,).
        bytes: The same memory as uint8, shape (4 W,).
    """

    records: np.ndarray
    words: np.ndarray
    halves: np.ndarray
    bytes: np.ndarray

    @classmethod
    def over(cls, records: np.ndarray, words: np.ndarray) -> "Bank":
        """View some memory as a bank."""
        return cls(records, words, words.view(np.uint16), words.view(np.uint8))


@dataclass(frozen=True)
class Layout:
    """The columns of a dataset that a stream needs, and their places in a record."""

    p4: tuple[str, ...]
    node: tuple[str, ...]
    edge: tuple[str, ...]
    graph: tuple[str, ...]
    target: tuple[str, ...]
    rows: tuple[tuple[str, str], ...]
    "Name and type of the columns that are passed along, which are not in the record."
    is_half: bool
    "Whether features are float16."

    @classmethod
    def of(cls, manifest: Manifest, row_columns: Sequence[str] = (), *, is_half: bool = False) -> "Layout":
        """Lay out the columns of a dataset.

        Raises:
            ConfigError: If it has no such row column.
        """
        known = {column.name: column.dtype for column in manifest.columns if column.role in ROW_ROLES}
        for name in row_columns:
            if name not in known:
                raise ConfigError(f"{manifest.path}: " + unknown("column", name, known))
        roles = {role: manifest.names(role) for role in ("p4", "node", "edge", "graph", "target")}
        roles["target"] += manifest.names("label")  # a small whole number, which a float32 holds
        return cls(**roles, rows=tuple((name, known[name]) for name in row_columns), is_half=is_half)

    @property
    def scalars(self) -> tuple[str, ...]:
        """Names of the scalars in the order of a record."""
        return tuple(dict.fromkeys([*JET_COLUMNS, *self.graph, *self.target, "weight"]))

    @property
    def columns(self) -> list[str]:
        """Names of all columns that are read."""
        return list(dict.fromkeys([*self.p4, *self.node, *self.edge, *self.scalars, *(name for name, _ in self.rows)]))

    @property
    def feature_bytes(self) -> int:
        """Bytes of a feature."""
        return 2 if self.is_half else 4

    def num_words(self, group: RowGroup) -> int:
        """Return the most words that the records of a row group can take."""
        of_rows = group.rows * (WORD * len(self.scalars) + WORD - 1)
        of_nodes = group.nodes * (WORD * len(self.p4) + self.feature_bytes * len(self.node))
        return -(-(of_rows + of_nodes + group.edge_bytes) // WORD)

    def num_bytes(self, group: RowGroup) -> int:
        """Return the most bytes that a row group can take in a bank."""
        return WORD * (self.num_words(group) + 3 * group.rows)


@dataclass(frozen=True)
class Store:
    """A bank that is divided into places, each for one row group.

    Attributes:
        bank: The memory.
        first_row: Of each place and, last, the end; int64, shape (P + 1,).
        first_word: Of each place and, last, the end; int64, shape (P + 1,).
    """

    bank: Bank
    first_row: np.ndarray
    first_word: np.ndarray

    def part(self, place: int, num_rows: int) -> Bank:
        """Return a view of one place, for a row group with so many rows."""
        row = int(self.first_row[place])
        words = self.bank.words[self.first_word[place] : self.first_word[place + 1]]
        return Bank.over(self.bank.records[row : row + num_rows], words)


def row_groups(manifest: Manifest, split: str) -> list[RowGroup]:
    """List the row groups of a split in the order of the shards.

    Raises:
        DataError: If it has none.
    """
    groups = []
    for shard in manifest.shards(split):
        width = (1 if shard.largest_graph <= MAX_BYTE_NODES else 2) if manifest.names("edge") else 0
        for number, (rows, nodes, edges) in enumerate(shard.row_groups):
            groups.append(RowGroup(manifest.path / shard.path, number, rows, nodes, width * (nodes + edges)))
    if not sum(group.rows for group in groups):
        raise DataError(f"{manifest.path}: the split {split!r} has no rows")
    return groups
