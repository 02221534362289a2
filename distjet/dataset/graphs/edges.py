"""How are the edges of a graph stored? As a few bytes that are local to the graph and can be expanded where they are used.

The edges of a graph with n nodes are written as n degrees followed by the larger ends of the edges. The degree of a node counts
the edges that begin there, an undirected edge beginning at its smaller end; the larger ends are sorted by (smaller, larger).
Each number is one byte, or two (little-endian) in a graph of more than 255 nodes. A Delaunay graph of 50 nodes takes 190 bytes
this way, its directed edges as pairs of 64-bit integers 4500.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numba import njit

from distjet.errors import DataError

MAX_BYTE_NODES = 255
"Largest graph whose numbers are stored in one byte."
MAX_NODES = 65535
"Largest graph: local indices have 16 bits."


class Edges(NamedTuple):
    """Undirected edges of many graphs.

    Attributes:
        source: Local index of the smaller end, uint16, shape (E,).
        target: Local index of the larger end, uint16, shape (E,); sorted by (source, target) within a graph.
        offsets: Where each graph's edges start, int64, shape (J + 1,).
    """

    source: np.ndarray
    target: np.ndarray
    offsets: np.ndarray


def encode_edges(edges: Edges, node_offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pack edges into bytes.

    Args:
        edges: Of the graphs.
        node_offsets: Where each graph's nodes start, shape (J + 1,).

    Returns:
        The bytes of all graphs, uint8, and where each graph's bytes start, int64, shape (J + 1,).
    """
    sizes = np.diff(node_offsets)
    widths = np.where(sizes > MAX_BYTE_NODES, 2, 1)
    byte_offsets = np.zeros(len(node_offsets), np.int64)
    np.cumsum((sizes + np.diff(edges.offsets)) * widths, out=byte_offsets[1:])
    packed = np.empty(byte_offsets[-1], np.uint8)
    _pack(edges.source, edges.target, edges.offsets, np.ascontiguousarray(node_offsets, np.int64), byte_offsets, packed)
    return packed, byte_offsets


def decode_edges(packed: np.ndarray, byte_offsets: np.ndarray, node_offsets: np.ndarray) -> Edges:
    """Unpack what `encode_edges` has packed.

    Args:
        packed: The bytes of all graphs, uint8.
        byte_offsets: Where each graph's bytes start, shape (J + 1,).
        node_offsets: Where each graph's nodes start, shape (J + 1,).

    Raises:
        DataError: If the bytes of a graph are not the edges of a graph of its size.
    """
    starts = np.ascontiguousarray(byte_offsets, np.int64)
    nodes = np.ascontiguousarray(node_offsets, np.int64)
    edge_offsets = np.zeros(len(starts), np.int64)
    np.cumsum(np.maximum(num_edges(np.diff(starts), np.diff(nodes)), 0), out=edge_offsets[1:])
    source, target = np.empty(edge_offsets[-1], np.uint16), np.empty(edge_offsets[-1], np.uint16)
    bad = _unpack(packed, starts, nodes, edge_offsets, source, target)
    if bad >= 0:
        size = nodes[bad + 1] - nodes[bad]
        raise DataError(f"row {bad}: its {starts[bad + 1] - starts[bad]} bytes of edges do not fit a graph of {size} nodes")
    return Edges(source, target, edge_offsets)


def read_edges(blobs: Iterable[bytes], num_nodes: Iterable[int]) -> Edges:
    """Unpack the edges of rows as any reader of Parquet gives them.

    Args:
        blobs: Column `edges` of J rows.
        num_nodes: Column `num_nodes` of the same rows.

    Raises:
        DataError: If they do not belong together.
    """
    parts = list(blobs)
    byte_offsets, node_offsets = (np.cumsum([0, *sizes]) for sizes in (map(len, parts), num_nodes))
    return decode_edges(np.frombuffer(b"".join(parts), np.uint8), byte_offsets, node_offsets)


def num_edges(num_bytes: np.ndarray, num_nodes: np.ndarray) -> np.ndarray:
    """Count the undirected edges of graphs from the length of their bytes and their number of nodes, shapes (J,)."""
    return num_bytes // np.where(num_nodes > MAX_BYTE_NODES, 2, 1) - num_nodes


@njit(cache=True, nogil=True)
def _read(packed, start, width, index):  # type: ignore[no-untyped-def]
    """Read a number of one or two bytes."""
    place = start + width * index
    return np.int64(packed[place]) if width == 1 else np.int64(packed[place]) + 256 * np.int64(packed[place + 1])


@njit(cache=True, nogil=True)
def _write(packed, start, width, index, number):  # type: ignore[no-untyped-def]
    place = start + width * index
    packed[place] = number & 0xFF
    if width == 2:
        packed[place + 1] = number >> 8


@njit(cache=True, nogil=True)
def _pack(source, target, edge_offsets, node_offsets, byte_offsets, packed):  # type: ignore[no-untyped-def]
    for graph in range(len(node_offsets) - 1):
        size, start = node_offsets[graph + 1] - node_offsets[graph], byte_offsets[graph]
        width = 2 if size > MAX_BYTE_NODES else 1
        packed[start : start + width * size] = 0
        for e in range(edge_offsets[graph], edge_offsets[graph + 1]):
            _write(packed, start, width, source[e], _read(packed, start, width, source[e]) + 1)
            _write(packed, start, width, size + e - edge_offsets[graph], target[e])


@njit(cache=True, nogil=True)
def _unpack(packed, byte_offsets, node_offsets, edge_offsets, source, target):  # type: ignore[no-untyped-def]
    """Write the edges; returns the first graph whose bytes make no sense, or -1."""
    for graph in range(len(node_offsets) - 1):
        size, start = node_offsets[graph + 1] - node_offsets[graph], byte_offsets[graph]
        width = 2 if size > MAX_BYTE_NODES else 1
        first, last = edge_offsets[graph], edge_offsets[graph + 1]
        if byte_offsets[graph + 1] - start != width * (size + last - first):
            return graph
        if not _unpack_graph(packed, start, width, size, source[first:last], target[first:last]):
            return graph
    return -1


@njit(cache=True, nogil=True)
def _unpack_graph(packed, start, width, size, source, target):  # type: ignore[no-untyped-def]
    edge = 0
    for node in range(size):
        degree = _read(packed, start, width, node)
        if edge + degree > len(source):
            return False
        for _ in range(degree):
            end = _read(packed, start, width, size + edge)
            if end <= node or end >= size:
                return False
            source[edge], target[edge] = node, end
            edge += 1
    return edge == len(source)
