"""How does a row group of a Parquet file become records in memory?

Arrow decodes the columns, which is most of the work, and its buffers are read where they are. Four columns of nodes at a time
are woven into records: enough to fill the lines of memory that are being written, and one compiled function for any number of
columns. Checksums of pages are compared on the way.
"""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba import njit

from distjet.dataset.graphs.edges import num_edges
from distjet.dataset.manifest import repair_hint
from distjet.dataset.streaming.layout import NUM_BYTES, NUM_NODES, START, WORD, Bank, Layout, RowGroup
from distjet.dataset.streaming.remote_shard import RemoteShard
from distjet.errors import ConfigError, DataError
from distjet.storage import is_remote

MAX_OPEN_FILES = 32
"Of a decoder. A parsed footer saves its reading, but takes memory in proportion to row groups times columns."


class Decoder:
    """Decodes row groups; for one thread."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.files: OrderedDict[Path, pq.ParquetFile | RemoteShard] = OrderedDict()

    def decode(self, group: RowGroup, bank: Bank) -> dict[str, np.ndarray]:
        """Read a row group as records into a bank that has room for it.

        Returns:
            The columns that are passed along, by name, each of shape (rows,).

        Raises:
            DataError: If it cannot be read, or does not hold what the manifest says.
            ConfigError: If a feature does not fit in float16.
        """
        table = self._read(group)
        self._check(group, "rows", table.num_rows, group.rows)
        columns, offsets = self._nodes(group, table)
        edges, edge_offsets = self._edges(group, table, offsets)
        start = self._starts(group, bank, offsets, edge_offsets)
        for number, name in enumerate(self.layout.scalars):
            bank.words[start + number] = _numbers(table[name])
        momenta, num_momenta = start + len(self.layout.scalars), len(self.layout.p4)
        features = momenta + num_momenta * np.diff(offsets)
        per_word = WORD // self.layout.feature_bytes
        weave(columns[:num_momenta], offsets, momenta, bank.words)
        weave(columns[num_momenta:], offsets, per_word * features, bank.halves if self.layout.is_half else bank.words)
        if self.layout.edge:
            first_byte = WORD * features + self.layout.feature_bytes * len(self.layout.node) * np.diff(offsets)
            _copy_lists(edges, edge_offsets, first_byte, bank.bytes)
        return {name: _numbers(table[name]) for name, _ in self.layout.rows}

    def close(self) -> None:
        """Close all files."""
        while self.files:
            self.files.popitem()[1].close()

    def _read(self, group: RowGroup) -> pa.Table:
        try:
            return self._open(group.path).read_row_group(group.number, columns=self.layout.columns, use_threads=False)
        except ConnectionError:  # no fault of the dataset: a worker that is started again may succeed
            raise
        except (OSError, pa.ArrowInvalid) as error:
            hint = f"if it is damaged, {repair_hint(group.path.parents[1])}"
            raise DataError(f"{group} cannot be read: {error}; {hint}") from error

    def _open(self, path: Path) -> pq.ParquetFile | RemoteShard:
        if path not in self.files:
            if len(self.files) >= MAX_OPEN_FILES:
                self.files.popitem(last=False)[1].close()
            self.files[path] = _open_shard(path)
        self.files.move_to_end(path)
        return self.files[path]

    def _nodes(self, group: RowGroup, table: pa.Table) -> tuple[list[np.ndarray], np.ndarray]:
        """Return the values of the columns of nodes, and the first node of each graph, shape (rows + 1,)."""
        names = [*self.layout.p4, *self.layout.node]
        if not names:
            return [], np.zeros(group.rows + 1, np.int32)
        lists = [_ragged(table[name]) for name in names]
        offsets = lists[0][1]
        for name, (values, other) in zip(names, lists, strict=True):
            self._check(group, f"values of {name}", len(values), group.nodes)
            if not np.array_equal(other, offsets):
                raise self._damaged(group, f"the lists of {name} have other lengths than those of {names[0]}")
        columns = [values for values, _ in lists]
        if self.layout.is_half:
            momenta, features = columns[: len(self.layout.p4)], columns[len(self.layout.p4) :]
            columns = momenta + [self._halved(group, *item) for item in zip(self.layout.node, features, strict=True)]
        return columns, offsets

    def _edges(self, group: RowGroup, table: pa.Table, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the bytes of all edges, and where those of each graph begin, shape (rows + 1,)."""
        if not self.layout.edge:
            return np.zeros(0, np.uint8), np.zeros(group.rows + 1, np.int32)
        values, starts = _ragged(table[self.layout.edge[0]])
        if len(values) > group.edge_bytes:
            raise self._damaged(group, f"its edges have {len(values)} bytes, at most {group.edge_bytes} were expected")
        if (num_edges(np.diff(starts), np.diff(offsets)) < 0).any():
            raise self._damaged(group, "a graph has fewer bytes of edges than nodes")
        return values, starts

    def _starts(self, group: RowGroup, bank: Bank, offsets: np.ndarray, edge_offsets: np.ndarray) -> np.ndarray:
        """Write down where the records are; return the first word of each, int64, shape (rows,)."""
        num_nodes, num_bytes = np.diff(offsets).astype(np.int64), np.diff(edge_offsets)
        of_node = WORD * len(self.layout.p4) + self.layout.feature_bytes * len(self.layout.node)
        num_words = -(-(WORD * len(self.layout.scalars) + of_node * num_nodes + num_bytes) // WORD)
        ends = np.cumsum(num_words)
        start = ends - num_words
        # what pads records, and what is left, is zero: a row group has the same bytes whoever decodes it
        bank.words[ends - 1] = 0
        bank.words[int(num_words.sum()) : self.layout.num_words(group)] = 0
        for column, values in ((START, start), (NUM_NODES, num_nodes), (NUM_BYTES, num_bytes)):
            bank.records[:, column] = values
        return start

    def _halved(self, group: RowGroup, name: str, values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if not np.isfinite(half).all():
            raise ConfigError(
                f"{group}: {name} reaches {np.abs(values).max():g}, float16 ends at {np.finfo(np.float16).max:g}; "
                "set stream.cache.dtype=float32, or prepare the dataset with this feature in other units"
            )
        return half.view(np.uint16)

    def _check(self, group: RowGroup, what: str, found: int, expected: int) -> None:
        if found != expected:
            raise self._damaged(group, f"it has {found} {what}, the manifest says {expected}")

    def _damaged(self, group: RowGroup, problem: str) -> DataError:
        return DataError(f"{group}: {problem}; {repair_hint(group.path.parents[1])}")


def _open_shard(path: Path) -> pq.ParquetFile | RemoteShard:
    if is_remote(path):
        return RemoteShard(path)
    return pq.ParquetFile(path, memory_map=True, pre_buffer=False, page_checksum_verification=True)


def _ragged(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the flat values of a list or binary column and their offsets from 0, without a copy."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if pa.types.is_binary(array.type):
        _, raw_offsets, data = array.buffers()
        offsets = np.frombuffer(raw_offsets, np.int32)[array.offset : array.offset + len(array) + 1]
        values = np.frombuffer(data, np.uint8) if data else np.zeros(0, np.uint8)
    else:
        offsets, values = array.offsets.to_numpy(), array.values.to_numpy()
    return values[offsets[0] : offsets[-1]], offsets - offsets[0] if offsets[0] else offsets


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return column.combine_chunks().to_numpy(zero_copy_only=False)


def weave(columns: Sequence[np.ndarray], offsets: np.ndarray, places: np.ndarray, out: np.ndarray) -> None:
    """Write the nodes of graphs as rows of len(columns) numbers.

    Args:
        columns: Values of all nodes, each of shape (N,).
        offsets: First node of each graph and, last, N; shape (G + 1,).
        places: Where in `out` the nodes of each graph begin, int64, shape (G,).
        out: The memory, of the type of the columns.
    """
    width = len(columns)
    for first in range(0, width - 3, 4):
        _weave_four(tuple(columns[first : first + 4]), offsets, places, out[first:], width)
    for number in range(width - width % 4, width):
        _weave_one(columns[number], offsets, places, out[number:], width)


@njit(cache=True, nogil=True)
def _weave_four(columns, offsets, places, out, width):  # type: ignore[no-untyped-def]
    a, b, c, d = columns
    for graph in range(len(places)):
        place = np.uint64(places[graph])  # unsigned: no index counts from the end
        for i in range(np.uint64(offsets[graph]), np.uint64(offsets[graph + 1])):
            out[place] = a[i]
            out[place + np.uint64(1)] = b[i]
            out[place + np.uint64(2)] = c[i]
            out[place + np.uint64(3)] = d[i]
            place += np.uint64(width)


@njit(cache=True, nogil=True)
def _weave_one(a, offsets, places, out, width):  # type: ignore[no-untyped-def]
    for graph in range(len(places)):
        place = np.uint64(places[graph])
        for i in range(np.uint64(offsets[graph]), np.uint64(offsets[graph + 1])):
            out[place] = a[i]
            place += np.uint64(width)


@njit(cache=True, nogil=True)
def _copy_lists(values, offsets, places, out):  # type: ignore[no-untyped-def]
    for graph in range(len(places)):
        source = values[offsets[graph] : offsets[graph + 1]]
        target = out[places[graph] : places[graph] + len(source)]
        for i in range(len(target)):
            target[i] = source[i]
