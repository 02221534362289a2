"""Is a shard the one that was written, and does each of its rows stand where it belongs? One task of `verify`.

A shard is read one row group at a time, with the checksums of all pages. What is wrong is collected, also in a file whose hash
is wrong already: the rows that are damaged say more than a hash.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distjet.dataset import hashing
from distjet.dataset.fingerprint import column_values, row_hashes, sums_by_sample, total, totals_by_sample
from distjet.dataset.graphs.edges import Edges, decode_edges
from distjet.dataset.manifest import Manifest, Shard
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.dataset.schema import SPLITS, arrow_schema
from distjet.dataset.shards import file_hash, graph_sizes, key_range
from distjet.dataset.statistics import Summary
from distjet.errors import DataError
from distjet.storage import local_copy

UNREADABLE = (OSError, pa.ArrowException, UnicodeDecodeError)
"What pyarrow raises for bytes that make no sense."

NAMED_ROWS = 5
"Rows that are named of those of a row group that fail a check."


@dataclass(frozen=True)
class ShardCheck:
    """One shard of a dataset.

    Attributes:
        dataset: Folder of the dataset.
        split: That the shard belongs to.
        number: Of the shard in the manifest's list.
    """

    dataset: str
    split: str
    number: int


def check_shard(task: ShardCheck) -> dict[str, Any]:
    """Check a shard against the manifest, and its rows against the seed of the shuffle.

    Returns:
        `problems` (texts), `content` (fingerprint of the rows of each sample), `repeated` (rows whose identity another row has)
        and `summary` (statistics of training rows; None in the other splits).
    """
    manifest = Manifest.load(task.dataset, check_shards=False)
    shard = manifest.shards(task.split)[task.number]
    checker = ShardChecker(manifest, task.split, shard)
    if (path := manifest.path / shard.path).is_file():
        with local_copy(path) as file:
            checker.read(file)
    else:
        checker.problems.append("is missing")
    return {
        "problems": [f"{shard.path}: {text}" for text in checker.problems],
        "content": totals_by_sample(checker.contents),
        "repeated": checker.repeated,
        "summary": checker.summary.as_dict() if task.split == "train" else None,
    }


class Rows:
    """Rows of a row group and where they belong; all arrays have shape (R,)."""

    def __init__(self, table: pa.Table, seed: int, samples: Sequence[str]) -> None:
        self.table, self.seed, self.samples = table.combine_chunks(), seed, samples

    def column(self, name: str) -> pa.Array:
        """Return a column in one piece."""
        return self.table[name].chunk(0)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Number of constituents; zero in a dataset without."""
        return graph_sizes(self.table)[0]

    @cached_property
    def identity(self) -> tuple[np.ndarray, ...]:
        """Run, event and number of the jet."""
        return tuple(self.column(name).to_numpy() for name in ("run", "event", "jet_index"))

    @cached_property
    def sample(self) -> np.ndarray:
        """Number of the sample in the list of the dataset; one past the last where it is not in the list."""
        names = self.column("sample").dictionary_encode()
        known = {name: number for number, name in enumerate(self.samples)}
        numbers = np.array([known.get(name, len(known)) for name in names.dictionary.to_pylist()], np.int64)
        return numbers[names.indices.to_numpy()]

    @cached_property
    def split_key(self) -> np.ndarray:
        """Hash that decides on the split."""
        run, event, _ = self.identity
        return self._by_sample(hashing.split_keys, run, event)

    @cached_property
    def key(self) -> np.ndarray:
        """Place in the shuffle."""
        return self._by_sample(hashing.shuffle_keys, *self.identity)

    def _by_sample(self, function: Any, *fields: np.ndarray) -> np.ndarray:
        keys = np.zeros(self.table.num_rows, np.uint64)
        for number, name in enumerate(self.samples):
            rows = self.sample == number
            keys[rows] = function(self.seed, name, *(field[rows] for field in fields))
        return keys

    def edges(self) -> Edges:
        """Decode the edges; none in a dataset without.

        Raises:
            DataError: If they are not those of graphs of these sizes.
        """
        if "edges" not in self.table.column_names:
            return Edges(np.zeros(0, np.uint16), np.zeros(0, np.uint16), np.zeros(self.table.num_rows + 1, np.int64))
        content, starts = column_values(self.column("edges"))
        return decode_edges(content, starts, np.concatenate([[0], np.cumsum(self.sizes)]))


class ShardChecker:
    """Reads a shard and collects what is wrong with it.

    Attributes:
        problems: What is wrong.
        contents: Fingerprint of the rows of each sample in each row group.
        summary: Statistics, of training rows only.
        repeated: Rows whose identity another row has.
    """

    def __init__(self, manifest: Manifest, split: str, shard: Shard) -> None:
        config = PrepareConfig.model_validate(manifest.content["config"])
        self.manifest, self.split, self.shard, self.config = manifest, split, shard, config
        self.problems: list[str] = []
        self.contents: list[dict[str, str]] = []
        self.summary = Summary(manifest.columns, (config.pt_edges_gev, config.mass_edges_gev), len(config.recipe.labels))
        self.repeated = 0
        self._groups: list[tuple[int, int, int]] = []
        self._sample_rows: Counter[str] = Counter()
        self._largest_graph = 0
        self._last_row: list[np.ndarray] | None = None

    def read(self, path: Path) -> None:
        """Check the file, each of its row groups, and their sums."""
        self._compare("size in bytes", path.stat().st_size, self.shard.size_bytes)
        self._compare("hash", file_hash(path), self.shard.xxh3_128)
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                self._check_schema(file.schema_arrow)
                for number in range(file.num_row_groups):
                    self._read_row_group(file, number)
        except UNREADABLE as error:
            self.problems.append(f"cannot be read: {error}")
            return
        self._compare("row groups [rows, nodes, edges]", self._groups, list(self.shard.row_groups))
        sums = [sum(group[place] for group in self._groups) for place in range(3)]
        self._compare("rows, nodes, edges", sums, [self.shard.rows, self.shard.nodes, self.shard.edges])
        self._compare("largest graph", self._largest_graph, self.shard.largest_graph)
        self._compare("rows by sample", dict(self._sample_rows), dict(self.shard.sample_rows))
        self._compare("content", total(totals_by_sample(self.contents).values()), self.shard.content)

    def _compare(self, what: str, found: Any, stated: Any) -> None:
        if found != stated:
            self.problems.append(f"{what}: {found}, the manifest says {stated}")

    def _check_schema(self, found: pa.Schema) -> None:
        wanted = arrow_schema(self.manifest.columns)
        self._compare("columns", found.names, wanted.names)
        for field in wanted:
            if field.name in found.names and not found.field(field.name).equals(field, check_metadata=True):
                self.problems.append(f"column {field.name!r} is {found.field(field.name)}, the manifest says {field}")

    def _read_row_group(self, file: pq.ParquetFile, number: int) -> None:
        first_row = sum(rows for rows, _, _ in self._groups)
        try:
            table = file.read_row_group(number, use_threads=False)
            if not table.schema.equals(arrow_schema(self.manifest.columns)):
                raise pa.ArrowInvalid(f"its columns are {', '.join(map(str, table.schema))}")
            if not table.num_rows:
                raise pa.ArrowInvalid("it has no rows")
        except UNREADABLE as error:
            self.problems.append(f"row group {number} cannot be read: {error}")
            self._last_row = None
            self._groups.append((file.metadata.row_group(number).num_rows, 0, 0))
            return
        rows = Rows(table, self.config.seed, self.manifest.samples)
        found = [f"{_name_rows(first_row + np.flatnonzero(bad))}: {text}" for bad, text in self._row_checks(rows) if bad.any()]
        self.problems += found or self._edge_problems(rows, first_row)
        self._add_up(rows)

    def _row_checks(self, rows: Rows) -> Iterator[tuple[np.ndarray, str]]:
        """Yield which rows fail a check, shape (R,), and what is wrong with them."""
        for column in self.manifest.columns:
            if column.is_list:
                yield (
                    np.diff(column_values(rows.column(column.name))[1]) != rows.sizes,
                    f"{column.name!r} has not num_nodes values",
                )
        yield rows.sample == len(self.manifest.samples), f"'sample' is none of {list(self.manifest.samples)}"
        if self.split not in self.config.recipe.split:  # else a condition decides, on numbers that are not kept
            splits = hashing.split_numbers(rows.split_key, *self.config.fractions)
            yield splits != SPLITS.index(self.split), "run and event belong to another split"
        low, high = self._key_range
        yield (rows.key < np.uint64(low)) | (rows.key > np.uint64(high)), "run, event and jet_index belong to another shard"
        disordered, repeats = self._compare_with_row_before(rows)
        self.repeated += int(repeats.sum())
        yield disordered, "belongs before the row before it"

    @cached_property
    def _key_range(self) -> tuple[int, int]:
        """First and last key of the shard; looked up once, because all shards are counted for it."""
        if self.config.shuffle == "local":  # any row may be in any shard of its split
            return key_range(0, 1)
        number = int(Path(self.shard.path).stem.rpartition("-")[2])
        return key_range(number, -(-self.manifest.num_rows(self.split) // self.config.rows_per_shard))

    def _compare_with_row_before(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Tell which rows belong before their predecessor, and which have the same identity, shapes (R,)."""
        fields = [rows.key, rows.sample, *rows.identity]
        before = self._last_row or [field[:1] for field in fields]
        is_less, is_same = (np.full(rows.table.num_rows, value) for value in (False, True))
        for field, first in zip(fields, before, strict=True):
            previous = np.concatenate([first, field[:-1]])
            is_less |= is_same & (field < previous)
            is_same &= field == previous
        is_same[0] &= self._last_row is not None
        self._last_row = [field[-1:] for field in fields]
        return is_less, is_same

    def _edge_problems(self, rows: Rows, first_row: int) -> list[str]:
        """Check that the edges of each row are in order and each is there once."""
        try:
            edges = rows.edges()
        except DataError as error:
            return [f"in the row group that begins with row {first_row}, {error}"]
        ends = edges.source.astype(np.int64) << 16 | edges.target
        is_first = np.zeros(len(ends) + 1, bool)
        is_first[edges.offsets[:-1]] = True  # of its graph; where that has none, of the next one that has
        bad = np.flatnonzero((ends[1:] <= ends[:-1]) & ~is_first[1:-1]) + 1
        graphs = np.unique(np.searchsorted(edges.offsets, bad, side="right") - 1)
        return [f"{_name_rows(first_row + graphs)}: the edges are not in order"] if len(graphs) else []

    def _add_up(self, rows: Rows) -> None:
        nodes, edges = graph_sizes(rows.table)
        self._groups.append((rows.table.num_rows, int(nodes.sum()), int(edges.sum())))
        self._largest_graph = max(self._largest_graph, int(nodes.max()))
        self._sample_rows.update(rows.column("sample").to_pylist())
        self.contents.append(sums_by_sample(rows.table, row_hashes(rows.table, self.manifest.columns)))
        if self.split == "train" and not self.problems:
            self.summary.add(rows.table)


def _name_rows(rows: np.ndarray) -> str:
    """Name the first few rows of a shard, counted from 0."""
    named = ", ".join(str(row) for row in rows[:NAMED_ROWS])
    more = f" and {len(rows) - NAMED_ROWS} more" if len(rows) > NAMED_ROWS else ""
    return f"row {named}{more}" if len(rows) == 1 else f"rows {named}{more}"
