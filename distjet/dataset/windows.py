"""How do row groups become arrays, and rows become a batch, without touching a graph in Python?

A window holds some row groups in memory: scalars by name, nodes and edges flat with offsets. Rows are gathered by index
arithmetic, edges are doubled and shifted into the flat nodes by one addition.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from distjet.dataset.batch import JET_COLUMNS, GraphBatch
from distjet.dataset.edges import decode_edges
from distjet.dataset.manifest import Manifest, repair_hint
from distjet.errors import ConfigError, DataError


@dataclass(frozen=True)
class Window:
    """Rows in memory: scalars by name, and ragged node and edge arrays with their offsets."""

    scalars: dict[str, np.ndarray]
    nodes: np.ndarray
    node_offsets: np.ndarray
    edges: np.ndarray
    edge_offsets: np.ndarray

    @property
    def num_rows(self) -> int:
        """Number of graphs."""
        return len(self.node_offsets) - 1

    def take(self, rows: np.ndarray) -> "Window":
        """Gather rows in the given order."""
        nodes, node_offsets = take_ragged(self.nodes, self.node_offsets, rows)
        edges, edge_offsets = take_ragged(self.edges, self.edge_offsets, rows)
        scalars = {name: values[rows] for name, values in self.scalars.items()}
        return Window(scalars, nodes, node_offsets, edges, edge_offsets)


class ShardReader:
    """Reads row groups of one split into windows, and windows into batches."""

    def __init__(self, manifest: Manifest, split: str, row_columns: Sequence[str] = ()) -> None:
        self.row_columns = list(row_columns)
        self.p4 = manifest.names("p4")
        self.node = manifest.names("node")
        self.edge = manifest.names("edge")
        self.graph = manifest.names("graph")
        self.target = manifest.names("target")
        known = {name for role in ("identifier", "weight", "spectator", "label") for name in manifest.names(role)}
        if missing := set(self.row_columns) - known:
            raise ConfigError(f"{manifest.path} has no column {sorted(missing)}; it has {sorted(known)}")
        self.scalar = list(dict.fromkeys([*JET_COLUMNS, *self.graph, *self.target, "weight", *self.row_columns]))
        self.row_groups = [
            (manifest.path / shard.path, group, rows)
            for shard in manifest.shards(split)
            for group, (rows, _, _) in enumerate(shard.row_groups)
        ]
        self.num_rows = sum(rows for _, _, rows in self.row_groups)

    def rows_in(self, groups: Sequence[int]) -> int:
        """Count the rows of some row groups."""
        return sum(self.row_groups[index][2] for index in groups)

    def read(self, groups: Sequence[int]) -> Window:
        """Decode row groups, in the given order."""
        return concatenate([self._decode(*self.row_groups[index]) for index in groups])

    def _decode(self, path: Path, group: int, num_rows: int) -> Window:
        columns = [*self.scalar, *self.p4, *self.node, *self.edge]
        hint = repair_hint(path.parents[1])
        try:
            with pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
                table = file.read_row_group(group, columns=columns, use_threads=False)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{path}: row group {group} cannot be read: {error}; if it is damaged, {hint}") from error
        if table.num_rows != num_rows:
            raise DataError(f"{path}: row group {group} has {table.num_rows} rows, the manifest says {num_rows}; {hint}")
        nodes, node_offsets = _ragged(table, [*self.p4, *self.node], np.float32)
        edges, edge_offsets = (
            _edges(table, node_offsets) if self.edge else (np.zeros((0, 2), np.int64), np.zeros(num_rows + 1, np.int64))
        )
        return Window({n: _scalar(table[n]) for n in self.scalar}, nodes, node_offsets, edges, edge_offsets)

    def to_batch(self, rows: Window) -> GraphBatch:
        """Assemble a batch; edges become directed, both ways, and point into the flat nodes."""
        num_p4 = len(self.p4)
        p4 = rows.nodes[:, :num_p4]
        edge_index = directed_edges(rows)
        sizes = np.diff(rows.node_offsets)
        scalars = {name: torch.from_numpy(values) for name, values in rows.scalars.items() if values.dtype == np.float32}
        return GraphBatch(
            x=torch.from_numpy(np.ascontiguousarray(rows.nodes[:, num_p4:])),
            p4=torch.from_numpy(np.ascontiguousarray(p4)),
            edge_index=torch.from_numpy(edge_index),
            edge_attr=torch.from_numpy(edge_distance(p4, edge_index)),
            batch=torch.from_numpy(np.repeat(np.arange(len(sizes)), sizes)),
            ptr=torch.from_numpy(rows.node_offsets),
            u=_stack(scalars, self.graph, len(sizes)),
            jet=_stack(scalars, JET_COLUMNS, len(sizes)),
            targets={name: scalars[name] for name in self.target},
            weight=torch.from_numpy(rows.scalars["weight"].astype(np.float32)),
            rows={name: rows.scalars[name] for name in self.row_columns},
        )


def take_ragged(values: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gather rows of variable length.

    Args:
        values: Flat values, shape (N, ...).
        offsets: First value of each row and, last, N; shape (R + 1,).
        rows: Rows to take, in order, shape (K,).

    Returns:
        The gathered values and their offsets, shape (K + 1,).
    """
    sizes = offsets[rows + 1] - offsets[rows]
    new_offsets = np.zeros(len(rows) + 1, np.int64)
    np.cumsum(sizes, out=new_offsets[1:])
    index = np.arange(new_offsets[-1]) + np.repeat(offsets[rows] - new_offsets[:-1], sizes)
    return values[index], new_offsets


def concatenate(windows: Sequence[Window]) -> Window:
    """Append windows to each other."""
    if len(windows) == 1:
        return windows[0]
    return Window(
        {name: np.concatenate([w.scalars[name] for w in windows]) for name in windows[0].scalars},
        np.concatenate([w.nodes for w in windows]),
        _append_offsets([w.node_offsets for w in windows]),
        np.concatenate([w.edges for w in windows]),
        _append_offsets([w.edge_offsets for w in windows]),
    )


def directed_edges(rows: Window) -> np.ndarray:
    """Turn stored edges (local, once per pair) into flat directed ones, shape (2, 2 E), sorted by graph."""
    shift = np.repeat(rows.node_offsets[:-1], np.diff(rows.edge_offsets))
    pairs = rows.edges + shift[:, None]
    return np.ascontiguousarray(np.stack([pairs, pairs[:, ::-1]], axis=1).reshape(-1, 2).T)


def edge_distance(p4: np.ndarray, edge_index: np.ndarray) -> np.ndarray:
    """Distance Delta R of the ends of each edge in the (eta, phi) plane, shape (E, 1)."""
    if p4.shape[1] == 0:
        return np.zeros((edge_index.shape[1], 1), np.float32)
    px, py, pz = (p4[:, i].astype(np.float64) for i in range(3))
    eta = np.arcsinh(pz / np.maximum(np.hypot(px, py), 1e-12))
    phi = np.arctan2(py, px)
    source, target = edge_index
    delta_phi = np.remainder(phi[source] - phi[target] + np.pi, 2 * np.pi) - np.pi
    return np.hypot(eta[source] - eta[target], delta_phi).astype(np.float32)[:, None]


def _append_offsets(offsets: Sequence[np.ndarray]) -> np.ndarray:
    shifts = np.cumsum([0, *(part[-1] for part in offsets[:-1])])
    return np.concatenate([offsets[0][:1], *(part[1:] + shift for part, shift in zip(offsets, shifts, strict=True))])


def _scalar(column: pa.ChunkedArray) -> np.ndarray:
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.combine_chunks().to_numpy(zero_copy_only=False)


def _ragged(table: pa.Table, names: Sequence[str], dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Stack list columns that share their offsets into (N, len(names)) values and int64 offsets that start at 0."""
    if not names:  # a dataset without constituents, or without edges
        return np.zeros((0, 0), dtype), np.zeros(table.num_rows + 1, np.int64)
    lists = [table[name].combine_chunks() for name in names]
    lists = [part.chunk(0) if isinstance(part, pa.ChunkedArray) else part for part in lists]
    offsets = lists[0].offsets.to_numpy().astype(np.int64)
    values = np.empty((offsets[-1] - offsets[0], len(names)), dtype)
    for index, part in enumerate(lists):
        start, stop = part.offsets[0].as_py(), part.offsets[-1].as_py()
        values[:, index] = part.values.to_numpy(zero_copy_only=False)[start:stop]
    return values, offsets - offsets[0]


def _edges(table: pa.Table, node_offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if "edges" not in table.column_names:
        return np.zeros((0, 2), np.int64), np.zeros(table.num_rows + 1, np.int64)
    column = table["edges"].combine_chunks()
    column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    byte_offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset : column.offset + len(column) + 1]
    edges = decode_edges(np.frombuffer(column.buffers()[2], np.uint8), byte_offsets, node_offsets)
    return np.stack([edges.source, edges.target], axis=1).astype(np.int64), edges.offsets


def _stack(scalars: Mapping[str, torch.Tensor], names: Sequence[str], num_rows: int) -> torch.Tensor:
    if not names:  # a dataset without constituents, or without edges
        return torch.zeros(num_rows, 0)
    return torch.stack([scalars[name] for name in names], dim=1)
