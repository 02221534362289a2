"""How do rows become a shard? The second of the two passes of `distjet prepare`.

A shard owns an equal share of the range of shuffle keys. It takes that range from every spill, where rows are sorted by
key, so it reads only its own bytes, and sorts what it found. The shards in order are then the whole split in the order of
the keys: a uniform shuffle over all inputs, with the memory of one shard, and the same bytes for any division of the inputs
into tasks. A row group at a time is brought into order, hashed, summarised and encoded, while it is in the processor's cache.

Parquet is written so that nothing depends on the machine: row groups of fixed size, zstd level 1 and byte stream split for
floats (smaller and as fast to read), a dictionary for names, a checksum on each page (without it, most flipped bits in zstd
data are read back as wrong numbers).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from distjet.dataset.fingerprint import row_hashes, sums_by_sample, total, totals_by_sample
from distjet.dataset.graphs.edges import num_edges
from distjet.dataset.schema import SPLITS, ColumnSpec, arrow_schema, columns_from_manifest
from distjet.dataset.spills import PackedRows, RowLayout, leave_memory, read_spills, unpack_rows
from distjet.dataset.statistics import Summary
from distjet.run_directory import appearing_whole, identity_hash, read_json, write_json
from distjet.storage import as_location, is_remote, within

SHARD_VERSION = 3
"Raised when the bytes of a shard change for the same task."

SORT_COLUMNS = (".key", ".sample", "run", "event", "jet_index")


@dataclass(frozen=True)
class ShardStyle:
    """What all shards of a dataset have in common.

    Attributes:
        columns: Of the dataset, as in the manifest.
        row_group_size: Rows in a row group.
        pt_edges_gev: Of the (pT, mass) histogram.
        mass_edges_gev: Of the (pT, mass) histogram.
        num_classes: Number of labels, 0 without labels.
    """

    columns: tuple[dict[str, Any], ...]
    row_group_size: int
    pt_edges_gev: tuple[float, ...]
    mass_edges_gev: tuple[float, ...]
    num_classes: int

    @cached_property
    def layout(self) -> RowLayout:
        """The columns of a row, and how it is packed."""
        return RowLayout(columns_from_manifest(self.columns))

    def summary(self) -> Summary:
        """Return a summary of no rows."""
        return Summary(self.layout.columns, (self.pt_edges_gev, self.mass_edges_gev), self.num_classes)


@dataclass(frozen=True)
class ShardTask:
    """One shard of a split.

    Attributes:
        output: Folder of the dataset.
        path: Of the shard, relative to the dataset.
        number: Of the shard within its split.
        num_shards: Shards in the split.
        spills: File in `work` that lists [name, sample] of each spill with rows of the split; a file, because a large run has
            too many spills to send along with each task. Its name is a hash of its content.
        style: Of all shards.
        work: Folder for the record.
    """

    output: str
    path: str
    number: int
    num_shards: int
    spills: str
    style: ShardStyle
    work: str

    @property
    def split(self) -> str:
        """Name of the split."""
        return self.path.partition("/")[0]

    def record_path(self) -> Path:
        """Return where the record of this shard stands."""
        inputs = asdict(self) | {"version": SHARD_VERSION, "output": "", "work": ""}
        return as_location(self.work) / f"shard-{identity_hash(inputs)}.json"


def build_shard(task: ShardTask) -> dict[str, Any]:
    """Write one shard.

    Returns:
        The record: `shard` as in the manifest, `content` (fingerprint of the rows of each sample), `repeated` (rows whose
        identity another row has), and `summary` (statistics of training rows; None in the other splits).
    """
    record_path, output, work = task.record_path(), as_location(task.output), as_location(task.work)
    if record_path.exists() and is_whole(output, (record := read_json(record_path))["shard"]):
        return record
    spills = read_json(work / task.spills)
    samples = sorted({sample for _, sample in spills})
    files = [(within(work, name), samples.index(sample)) for name, sample in spills]
    rows = read_spills(task.style.layout, files, SPLITS.index(task.split), *key_range(task.number, task.num_shards))
    record = write_shard(output, task.path, task.style, rows, samples)
    write_json(record_path, record)
    return record


def count_rows(record: Mapping[str, Any]) -> dict[str, int]:
    """Return what a record of `build_shard` adds to the counts that are shown meanwhile."""
    return {"rows": record["shard"]["rows"]}


def is_whole(output: Path, shard: Mapping[str, Any]) -> bool:
    """Tell whether a shard is there as it was written."""
    path = within(output, shard["path"])
    return path.exists() and path.stat().st_size == shard["size_bytes"] and file_hash(path) == shard["xxh3_128"]


def key_range(number: int, num_shards: int) -> tuple[int, int]:
    """Return the first key of a shard and the last one (inclusive)."""
    return number * 2**64 // num_shards, (number + 1) * 2**64 // num_shards - 1


def write_shard(output: Path, name: str, style: ShardStyle, rows: PackedRows, samples: Sequence[str]) -> dict[str, Any]:
    """Write packed rows, which all belong to one split, in the order of their keys as a Parquet file that appears whole.

    Args:
        output: Folder of the dataset.
        name: Path of the shard in that folder; it begins with the split.
        style: Of the shard.
        rows: The rows, in any order.
        samples: Names of the samples that the rows refer to, sorted.

    Returns:
        The record, as `build_shard` returns it.
    """
    order, repeated = _order(rows.records)
    summary = style.summary() if name.startswith("train/") else None
    starts = range(0, len(order), style.row_group_size)
    tables = (unpack_rows(style.layout, rows, order[start : start + style.row_group_size], samples) for start in starts)
    with appearing_whole(output / name) as temporary:
        groups = _write_row_groups(temporary, style, tables, summary)
        size_bytes, digest = temporary.stat().st_size, file_hash(temporary)
    content = totals_by_sample(group.content for group in groups)
    counts = Counter(rows.records[".sample"].tolist())
    shard = {
        "path": name,
        "rows": len(order),
        "sample_rows": {samples[number]: counts[number] for number in sorted(counts)},
        "nodes": sum(group.nodes for group in groups),
        "edges": sum(group.edges for group in groups),
        "largest_graph": max((group.largest_graph for group in groups), default=0),
        "row_groups": [[group.rows, group.nodes, group.edges] for group in groups],
        "size_bytes": size_bytes,
        "xxh3_128": digest,
        "content": total(content.values()),
    }
    if not is_remote(output):
        leave_memory(output / name)
    described = summary.as_dict() if summary is not None else None
    return {"shard": shard, "content": content, "repeated": repeated, "summary": described}


class _RowGroup(NamedTuple):
    """What was written: numbers of rows, nodes and edges, most nodes of a row, fingerprint of the rows of each sample."""

    rows: int
    nodes: int
    edges: int
    largest_graph: int
    content: dict[str, str]


def _write_row_groups(path: Path, style: ShardStyle, tables: Iterable[pa.Table], summary: Summary | None) -> list[_RowGroup]:
    """Write tables as row groups of one file, and summarise each while it is at hand."""
    groups, columns = [], style.layout.columns
    with pq.ParquetWriter(path, arrow_schema(columns), **_encodings(columns)) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=style.row_group_size)
            nodes, edges = graph_sizes(table)
            content = sums_by_sample(table, row_hashes(table, columns))
            groups.append(_RowGroup(len(table), int(nodes.sum()), int(edges.sum()), int(nodes.max()), content))
            if summary is not None:
                summary.add(table)
    return groups


def _order(records: np.ndarray) -> tuple[np.ndarray, int]:
    """Sort by key and identity (rows that share both stay in the order of the inputs); count rows that repeat an identity."""
    keys = np.ascontiguousarray(records[".key"])
    order = np.argsort(keys, kind="stable")
    if not (keys[order][1:] == keys[order][:-1]).any():
        return order, 0
    fields = [records[name] for name in SORT_COLUMNS]
    order = np.lexsort(fields[::-1])
    same = np.logical_and.reduce([field[order][1:] == field[order][:-1] for field in fields])
    return order, int(same.sum())


def _encodings(columns: Sequence[ColumnSpec]) -> dict[str, Any]:
    """Return how Parquet stores the columns."""
    leaf = {column.name: f"{column.name}.list.element" if column.is_list else column.name for column in columns}
    return {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": [column.name for column in columns if column.dtype == "string"],
        "use_byte_stream_split": [leaf[column.name] for column in columns if column.dtype in ("float32", "float64")],
        "write_statistics": [column.name for column in columns if not column.is_list and column.dtype != "binary"],
        "write_page_checksum": True,
    }


def graph_sizes(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
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
