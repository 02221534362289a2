"""How do rows from many places become a batch?

One compiled function per batch copies what is in each row's record to its places; it releases the interpreter lock, and
converts or standardises features on the way. Its outputs are the batch's tensors, in page-locked memory if a GPU will read
them, so nothing is copied again before it travels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload

from distjet.dataset.graphs.edges import MAX_BYTE_NODES
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import JET_COLUMNS, GraphBatch
from distjet.dataset.streaming.layout import NUM_BYTES, NUM_NODES, START, WORD, Layout, Store
from distjet.dataset.streaming.prefetch import LINE_BYTES, prefetch


class Piece(NamedTuple):
    """Those rows of a batch that are in one store.

    Attributes:
        store: The store.
        rows: Their numbers in the batch, int64, shape (K,).
        place: Place of each one's row group in the store, shape (K,).
        number: Number of each in its row group, shape (K,).
    """

    store: Store
    rows: np.ndarray
    place: np.ndarray
    number: np.ndarray


class Scale(NamedTuple):
    """`(value - mean) * inverse_std` for every feature, repeated for every node of the largest graph; empty for no change."""

    mean: np.ndarray
    inverse_std: np.ndarray


class Outputs(NamedTuple):
    """What the compiled function writes, flat: scalars of graphs, momenta and features of nodes, degrees and ends of edges."""

    scalars: np.ndarray
    p4: np.ndarray
    x: np.ndarray
    degrees: np.ndarray
    ends: np.ndarray


NO_SCALE = Scale(*np.zeros((2, 0), np.float32))


@dataclass(frozen=True)
class Gatherer:
    """Makes batches of rows.

    Attributes:
        layout: Of the records.
        is_complete: Whether graphs without stored edges are complete.
        pin_memory: Whether tensors are page-locked.
        node_scale: Of node features.
        graph_scale: Of graph features; empty, or of shape (G,).
    """

    layout: Layout
    is_complete: bool = False
    pin_memory: bool = False
    node_scale: Scale = NO_SCALE
    graph_scale: Scale = NO_SCALE

    def gather(self, pieces: Sequence[Piece], num_rows: int, rows: dict[str, np.ndarray]) -> GraphBatch:
        """Make a batch.

        Args:
            pieces: The rows of the batch, by the store in which they are; together, every row once.
            num_rows: Number of rows.
            rows: Columns that are passed along.
        """
        index, edge_ptr, ptr = np.empty((num_rows, 3), np.int64), np.empty(num_rows + 1, np.int64), self._empty(num_rows + 1)
        for piece in pieces:
            _find_rows(piece.store.bank.records, piece.store.first_row, piece.store.first_word, *piece[1:], index)
        is_wide, num_complete = _measure(index, bool(self.layout.edge), ptr.numpy(), edge_ptr)
        tensors = self._allocate(num_rows, int(ptr[-1]), int(edge_ptr[-1]), torch.int32 if is_wide else torch.uint8)
        outputs = Outputs(*(tensor.numpy().reshape(-1) for tensor in tensors))
        for piece in pieces:
            bank = piece.store.bank
            features = bank.halves if self.layout.is_half else bank.words
            _copy_rows(bank, features, piece.rows, (index, ptr.numpy(), edge_ptr), self.node_scale, outputs)
        scalars, p4, x, degrees, ends = tensors
        stored: dict[str, Any] = {"edge_degrees": degrees, "edge_ends": ends} if self.layout.edge else {}
        num_edges = 2 * len(ends) if self.layout.edge else num_complete * self.is_complete
        return GraphBatch(x=x, p4=p4, ptr=ptr, **self._named(scalars), **stored, num_edges=num_edges, rows=rows)

    def _allocate(self, num_rows: int, nodes: int, edges: int, dtype: torch.dtype) -> list[torch.Tensor]:
        """Make the tensors of `Outputs`."""
        layout = self.layout
        return [
            self._empty(len(layout.scalars), num_rows, dtype=torch.float32),
            self._empty(nodes, len(layout.p4), dtype=torch.float32),
            self._empty(nodes, len(layout.node), dtype=torch.float32),
            self._empty(nodes if layout.edge else 0, dtype=dtype),
            self._empty(edges, dtype=dtype),
        ]

    def _empty(self, *shape: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, pin_memory=self.pin_memory)

    def _named(self, scalars: torch.Tensor) -> dict[str, Any]:
        """Divide scalars of shape (S, B) into the tensors of a batch; those of one number each share the memory."""
        row_of = dict(zip(self.layout.scalars, scalars, strict=True))
        targets = {name: row_of[name] for name in self.layout.target}
        u = self._columns(scalars, self.layout.graph)
        if len(self.graph_scale.mean):
            u.sub_(torch.from_numpy(self.graph_scale.mean)).mul_(torch.from_numpy(self.graph_scale.inverse_std))
        return {"u": u, "jet": self._columns(scalars, JET_COLUMNS), "targets": targets, "weight": row_of["weight"]}

    def _columns(self, scalars: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        """Copy some scalars into a tensor of shape (B, len(names))."""
        numbers = [self.layout.scalars.index(name) for name in names]
        result = self._empty(scalars.shape[1], len(names), dtype=torch.float32)
        result.numpy()[...] = scalars.numpy()[numbers].T
        return result


def pieces_of(where: np.ndarray, number: np.ndarray, arena: Store, cached: Store | None, group: np.ndarray) -> list[Piece]:
    """Divide the rows of a batch by store.

    Args:
        where: Place of each row's row group in the arena, -1 for one that is in the cache; shape (B,).
        number: Number of each row in its row group, shape (B,).
        arena: Row groups in memory.
        cached: Row groups on disk, where the place is the row group.
        group: Row group of each row, shape (B,).
    """
    if cached is None:
        return [Piece(arena, np.arange(len(where)), where, number)]
    divided = ((arena, np.flatnonzero(where >= 0), where), (cached, np.flatnonzero(where < 0), group))
    return [Piece(store, rows, place[rows], number[rows]) for store, rows, place in divided if len(rows)]


def scale_of(manifest: Manifest, names: Sequence[str], num_repeats: int = 1) -> Scale:
    """Read mean and deviation of features; one that is constant in the training split is only centred."""
    found = [manifest.statistics(name) for name in names]
    inverse = [1 / item["std"] if item["std"] > 0 else 1.0 for item in found]
    means = [item["mean"] for item in found]
    return Scale(*(np.tile(np.array(values, np.float32), num_repeats) for values in (means, inverse)))


@njit(cache=True, nogil=True)
def _find_rows(records, first_row, first_word, rows, place, number, out):  # type: ignore[no-untyped-def]
    """Look records up, and write where they are in the whole bank."""
    for k in range(len(rows)):
        found, row = records[first_row[place[k]] + number[k]], rows[k]
        out[row, START] = first_word[place[k]] + found[START]
        out[row, NUM_NODES], out[row, NUM_BYTES] = found[NUM_NODES], found[NUM_BYTES]


@njit(cache=True, nogil=True)
def _measure(index, has_edges, ptr, edge_ptr):  # type: ignore[no-untyped-def]
    """Write the first node and the first stored edge of each graph.

    Returns:
        Whether local numbers need more than a byte, and how many directed edges complete graphs would have.
    """
    largest = num_complete = 0
    ptr[0] = edge_ptr[0] = 0
    for row in range(len(index)):
        size = index[row, NUM_NODES]
        width = 2 if size > MAX_BYTE_NODES else 1
        ptr[row + 1] = ptr[row] + size
        edge_ptr[row + 1] = edge_ptr[row] + (index[row, NUM_BYTES] // width - size if has_edges else 0)
        largest, num_complete = max(largest, size), num_complete + size * (size - 1)
    return largest > MAX_BYTE_NODES, num_complete


@njit(cache=True, nogil=True)
def _copy_rows(bank, features, rows, where, scale, out):  # type: ignore[no-untyped-def]
    """Copy records to their places in a batch; loops run over slices of equal length, which is what makes them vectorised."""
    index, ptr, edge_ptr = where
    num_rows, num_nodes = len(index), max(ptr[-1], 1)
    num_scalars, num_momenta, num_features = len(out.scalars) // num_rows, len(out.p4) // num_nodes, len(out.x) // num_nodes
    per_word = WORD // features.itemsize
    for k in range(len(rows)):
        row = rows[k]
        if k + 1 < len(rows):
            _ask_for(bank, index[rows[k + 1]], num_momenta + num_features // per_word)
        word, size, node = index[row, START], index[row, NUM_NODES], ptr[row]
        for number in range(num_scalars):
            out.scalars[number * num_rows + row] = bank.words[word + number]
        word += num_scalars
        _copy(bank.words[word : word + num_momenta * size], out.p4[num_momenta * node : num_momenta * (node + size)])
        first = per_word * (word + num_momenta * size)
        last = first + num_features * size
        _scale(features[first:last], scale, out.x[num_features * node : num_features * (node + size)])
        if len(out.degrees):
            width, byte = 2 if size > MAX_BYTE_NODES else 1, last * features.itemsize
            _copy_numbers(bank.bytes[byte : byte + width * size], width, out.degrees[node : node + size])
            ends = out.ends[edge_ptr[row] : edge_ptr[row + 1]]
            _copy_numbers(bank.bytes[byte + width * size : byte + width * (size + len(ends))], width, ends)


@njit(cache=True, nogil=True)
def _ask_for(bank, found, words_of_node):  # type: ignore[no-untyped-def]
    """Ask for the nodes of a record, which is most of it, while another is copied."""
    step = LINE_BYTES // WORD
    for word in range(found[START], found[START] + found[NUM_NODES] * words_of_node, step):
        prefetch(bank.words, word)


@njit(cache=True, nogil=True)
def _copy(source, target):  # type: ignore[no-untyped-def]
    for k in range(len(target)):
        target[k] = source[k]


@njit(cache=True, nogil=True)
def _copy_numbers(source, width, target):  # type: ignore[no-untyped-def]
    """Copy whole numbers of one or two bytes."""
    if width == 1:
        _copy(source, target)
    else:
        for k in range(len(target)):
            target[k] = np.int32(source[2 * k]) + np.int32(256) * np.int32(source[2 * k + 1])


@njit(cache=True, nogil=True)
def _scale(features, scale, target):  # type: ignore[no-untyped-def]
    if len(scale.mean):
        mean, inverse_std = scale.mean[: len(target)], scale.inverse_std[: len(target)]
        for k in range(len(target)):
            target[k] = (_as_float(features[k]) - mean[k]) * inverse_std[k]
    else:
        for k in range(len(target)):
            target[k] = _as_float(features[k])


def _as_float(value: Any) -> Any:
    """Stand for `_compile_as_float` in compiled functions."""
    raise NotImplementedError


@overload(_as_float)
def _compile_as_float(value):  # type: ignore[no-untyped-def]
    """Convert a feature to float32: a number is one; 16 bits are a finite float16, whose exponent is too small by 112."""
    if isinstance(value, types.Float):
        return lambda value: value

    def widen(value):  # type: ignore[no-untyped-def]
        bits = np.uint32(value)
        magnitude = np.uint32((bits & np.uint32(0x7FFF)) << np.uint32(13)).view(np.float32) * np.float32(2.0**112)
        return -magnitude if bits & np.uint32(0x8000) else magnitude

    return widen
