"""How are rows stored: on the way (spills) and in the end (shards)? The second of the two passes of `distjet prepare`.

A shard owns an equal share of the range of shuffle keys. It takes that range from every spill, where rows are sorted by
key, so it reads only its own bytes, and sorts what it found. The shards in order are then the whole split in the order of
the keys: a uniform shuffle over all inputs, with the memory of one shard, and the same bytes for any division of the inputs
into tasks.

Parquet is written so that nothing depends on the machine: one row group at a time of fixed size, zstd level 1 and byte
stream split for floats (smaller and as fast to read), dictionaries for edges and names, a checksum on each page (without
it, most flipped bits in zstd data are read back as wrong numbers).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from distjet.dataset.edges import num_edges
from distjet.dataset.schema import ColumnSpec, arrow_schema, columns_from_manifest
from distjet.dataset.statistics import summarise_shard
from distjet.run_directory import appearing_whole, identity_hash, read_json, write_json

SHARD_VERSION = 2
"Raised when the bytes of a shard change for the same task."

SORT_COLUMNS = ("key", "sample", "run", "event", "jet_index")


@dataclass(frozen=True)
class ShardTask:
    """One shard of a split.

    Attributes:
        output: Folder of the dataset.
        path: Of the shard, relative to the dataset.
        number: Of the shard within its split.
        num_shards: Shards in the split.
        spills: File in `work` that lists [name, sample, first row, one past the last row] of the split's rows in each spill;
            a file, because a large run has too many spills to send along with each task. Its name is a hash of its content.
        columns: Of the dataset, as in the manifest.
        row_group_size: Rows in a row group.
        pt_edges_gev: Of the (pT, mass) histogram.
        mass_edges_gev: Of the (pT, mass) histogram.
        num_classes: Number of labels, 0 without labels.
        work: Folder for the record.
    """

    output: str
    path: str
    number: int
    num_shards: int
    spills: str
    columns: tuple[dict[str, str], ...]
    row_group_size: int
    pt_edges_gev: tuple[float, ...]
    mass_edges_gev: tuple[float, ...]
    num_classes: int
    work: str

    def record_path(self) -> Path:
        """Return where the record of this shard stands."""
        inputs = asdict(self) | {"version": SHARD_VERSION, "output": "", "work": ""}
        return Path(self.work) / f"shard-{identity_hash(inputs)}.json"


def build_shard(task: ShardTask) -> dict[str, Any]:
    """Write one shard.

    Returns:
        The record: `shard` as in the manifest, `repeated` (rows whose identity another row has), and `summary` (statistics).
    """
    path = Path(task.output) / task.path
    record_path = task.record_path()
    if record_path.exists() and path.exists():
        record = read_json(record_path)
        if path.stat().st_size == record["shard"]["size_bytes"]:
            return record
    columns = columns_from_manifest(task.columns)
    table, repeated = _gather(task, columns)
    write_shard(path, table, columns, task.row_group_size)
    record = {
        "shard": describe_shard(path, task.path, table),
        "repeated": repeated,
        "summary": summarise_shard(table, columns, (task.pt_edges_gev, task.mass_edges_gev), task.num_classes),
    }
    write_json(record_path, record)
    return record


def key_range(number: int, num_shards: int) -> tuple[int, int]:
    """Return the first key of a shard and the last one (inclusive)."""
    return number * 2**64 // num_shards, (number + 1) * 2**64 // num_shards - 1


def _gather(task: ShardTask, columns: Sequence[ColumnSpec]) -> tuple[pa.Table, int]:
    """Collect the rows of a shard from all spills and sort them; also count rows that repeat an identity."""
    low, high = key_range(task.number, task.num_shards)
    parts = []
    for name, sample, start, stop in read_json(Path(task.work) / task.spills):
        with pa.memory_map(str(Path(task.work) / name)) as source:
            spill = pa.ipc.open_file(source).read_all().slice(start, stop - start)
            keys = spill["key"].to_numpy()
            first = int(np.searchsorted(keys, np.uint64(low), side="left"))
            last = int(np.searchsorted(keys, np.uint64(high), side="right"))
            if last > first:
                rows = spill.slice(first, last - first)
                parts.append(rows.append_column("sample", pa.array([sample] * (last - first), pa.string())))
    schema = arrow_schema(columns)
    if not parts:
        return schema.empty_table(), 0
    table = pa.concat_tables(parts).combine_chunks()
    order, repeated = _order(table)
    return table.take(pa.array(order)).select(schema.names).cast(schema).combine_chunks(), repeated


def _order(table: pa.Table) -> tuple[np.ndarray, int]:
    """Sort by key and identity; rows that share both stay in the order of the inputs."""
    samples = table["sample"].to_numpy()
    _, rank = np.unique(samples.astype(str), return_inverse=True)
    fields = [rank if name == "sample" else table[name].to_numpy() for name in SORT_COLUMNS]
    order = np.lexsort(fields[::-1])
    same = np.logical_and.reduce([field[order][1:] == field[order][:-1] for field in fields])
    return order, int(same.sum())


def write_spill(path: Path, table: pa.Table) -> None:
    """Write rows as one uncompressed Arrow batch, to be memory-mapped."""
    with appearing_whole(path) as temporary, pa.ipc.new_file(str(temporary), table.schema) as writer:
        writer.write_table(table.combine_chunks())


def write_shard(path: Path, table: pa.Table, columns: Sequence[ColumnSpec], row_group_size: int) -> None:
    """Write a Parquet file atomically."""
    leaf = {column.name: f"{column.name}.list.element" if column.is_list else column.name for column in columns}
    floats = [leaf[column.name] for column in columns if column.dtype in ("float32", "float64")]
    with appearing_whole(path) as temporary:
        pq.write_table(
            table,
            temporary,
            compression="zstd",
            compression_level=1,
            use_dictionary=[column.name for column in columns if column.dtype == "string"],
            use_byte_stream_split=floats,
            write_statistics=[column.name for column in columns if not column.is_list and column.dtype != "binary"],
            write_page_checksum=True,
            row_group_size=row_group_size,
        )


def describe_shard(path: Path, name: str, table: pa.Table) -> dict[str, Any]:
    """Return what the manifest says about a shard."""
    metadata = pq.read_metadata(path)
    rows = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
    nodes, edges = _graph_sizes(table)
    starts = np.concatenate([[0], np.cumsum(rows)]).astype(np.int64)
    sums = [[int(sizes[low:high].sum()) for low, high in pairwise(starts)] for sizes in (nodes, edges)]
    return {
        "path": name,
        "rows": table.num_rows,
        "nodes": int(nodes.sum()),
        "edges": int(edges.sum()),
        "largest_graph": int(nodes.max(initial=0)),
        "row_groups": [list(group) for group in zip(rows, *sums, strict=True)],
        "size_bytes": path.stat().st_size,
        "xxh3_128": file_hash(path),
    }


def _graph_sizes(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Count the nodes and the undirected edges of each row; zero where the dataset has none."""
    zeros = np.zeros(table.num_rows, np.int64)
    nodes = table["num_nodes"].to_numpy().astype(np.int64) if "num_nodes" in table.column_names else zeros
    if "edges" not in table.column_names:
        return nodes, zeros
    return nodes, num_edges(pc.binary_length(table["edges"]).to_numpy().astype(np.int64), nodes)


def file_hash(path: Path) -> str:
    """Hash the bytes of a file (xxh3, 128 bits)."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as handle:
        while block := handle.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
