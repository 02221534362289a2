"""Datasets of graphs that are given one by one, for cases that no jet generator makes: empty, huge, complete, without edges."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distjet.dataset.graphs.edges import Edges, encode_edges
from distjet.dataset.manifest import Manifest
from distjet.dataset.schema import ColumnSpec, arrow_schema

NUM_FEATURES = 5
"One more than the number of columns that are woven together."
P4 = ("px", "py", "pz", "energy")
JET = ("jet_pt", "jet_eta", "jet_phi", "jet_energy", "jet_mass")


class Graph(NamedTuple):
    """A graph: nodes, and undirected edges between local numbers."""

    num_nodes: int
    pairs: tuple[tuple[int, int], ...] = ()


def path_graph(num_nodes: int) -> Graph:
    """A graph whose nodes form a path."""
    return Graph(num_nodes, tuple((i, i + 1) for i in range(num_nodes - 1)))


def make(
    folder: Path,
    graphs: Sequence[Graph],
    *,
    edges: str = "delaunay",
    row_group_size: int = 10,
    with_nodes: bool = True,
    values: Mapping[str, np.ndarray] | None = None,
) -> Manifest:
    """Write the graphs as the training split of a dataset; values are random, those of `event` count the graphs.

    Args:
        folder: Where to write.
        graphs: The graphs.
        edges: What the manifest says about the graphs: without stored edges for none and fully_connected.
        row_group_size: Rows in a row group.
        with_nodes: Whether there are constituents at all.
        values: Instead of random ones, by the name of the column.
    """
    rng = np.random.default_rng(len(graphs))
    columns = _columns(with_nodes=with_nodes, with_edges=with_nodes and edges not in ("none", "fully_connected"))
    sizes = np.array([graph.num_nodes for graph in graphs])
    offsets = np.cumsum([0, *sizes])
    flat = np.array([pair for graph in graphs for pair in graph.pairs], np.uint16).reshape(-1, 2)
    edge_offsets = np.cumsum([0, *(len(graph.pairs) for graph in graphs)])
    packed, byte_offsets = encode_edges(Edges(flat[:, 0].copy(), flat[:, 1].copy(), edge_offsets), offsets)
    arrays = {
        "event": np.arange(len(graphs)),
        "num_nodes": sizes,
        "edges": [packed[a:b].tobytes() for a, b in pairwise(byte_offsets)],
    }

    def array(column: ColumnSpec) -> pa.Array:
        if column.name in arrays:
            return pa.array(arrays[column.name], column.arrow_type())
        if column.is_list:
            flat_values = (values or {}).get(column.name, rng.normal(1, 5, offsets[-1])).astype(np.float32)
            starts = pa.array(offsets.astype(np.int32))
            return pa.ListArray.from_arrays(starts, pa.array(flat_values), type=column.arrow_type())
        return pa.array(rng.normal(1, 5, len(graphs)).astype(column.dtype))

    table = pa.Table.from_arrays([array(column) for column in columns], schema=arrow_schema(columns))
    (folder / "train").mkdir(parents=True)
    pq.write_table(table, folder / "train" / "part.parquet", row_group_size=row_group_size, write_page_checksum=True)
    return Manifest(folder, _content(columns, table, graphs, edges, row_group_size))


def _columns(*, with_nodes: bool, with_edges: bool) -> list[ColumnSpec]:
    def column(name: str, role: Any, dtype: str = "float32") -> ColumnSpec:
        return ColumnSpec(name, role, "", name, dtype)

    columns = [column("event", "identifier", "int64"), column("weight", "weight", "float64")]
    if with_nodes:
        columns += [column("num_nodes", "size", "int32"), *(column(name, "p4") for name in P4)]
        columns += [column(f"f{i}", "node") for i in range(NUM_FEATURES)]
    if with_edges:
        columns.append(column("edges", "edge", "binary"))
    columns += [column(name, "jet") for name in JET]
    return [*columns, column("g0", "graph"), column("g1", "graph"), column("true_energy", "target")]


def _content(
    columns: Sequence[ColumnSpec], table: pa.Table, graphs: Sequence[Graph], edges: str, row_group_size: int
) -> dict[str, Any]:
    groups = [graphs[i : i + row_group_size] for i in range(0, len(graphs), row_group_size)]
    triples = [[len(g), sum(x.num_nodes for x in g), sum(len(x.pairs) for x in g)] for g in groups]
    shard = {
        "path": "train/part.parquet",
        "rows": len(graphs),
        "sample_rows": {"all": len(graphs)},
        "nodes": sum(nodes for _, nodes, _ in triples),
        "edges": sum(pairs for _, _, pairs in triples),
        "largest_graph": max(graph.num_nodes for graph in graphs),
        "row_groups": triples,
        "size_bytes": 0,
        "xxh3_128": "",
        "content": "",
    }
    statistics = {c.name: {"mean": 0.5, "std": 2.0 if c.name != "f1" else 0.0} for c in columns if c.role in ("node", "graph")}
    return {
        "fingerprint": f"{table.nbytes:032x}",
        "columns": [column.as_dict() for column in columns],
        "classes": [],
        "graph": {"name": edges},
        "shards": {"train": [shard]},
        "statistics": statistics,
    }
