"""Spec: a shard is plain Parquet: pyarrow, polars, duckdb and awkward read the same values, lists and edges from it."""

from pathlib import Path

import awkward as ak
import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distjet.dataset.graphs.edges import read_edges
from distjet.dataset.rows import AXES
from tests.dataset.files import pairs_of

SCALARS = ("event", "jet_index", "sample", "weight", "num_nodes", "jet_pt", "true_energy", "npv")
LISTS = ("px", "energy", "log_pt", *AXES)

Columns = dict[str, list]
"Column name -> one value, list of floats, or bytes for each row."


def with_pyarrow(path: Path, names: list[str]) -> Columns:
    return pq.read_table(path, columns=names, page_checksum_verification=True).to_pydict()


def with_polars(path: Path, names: list[str]) -> Columns:
    return pl.read_parquet(path, columns=names).to_dict(as_series=False)


def with_duckdb(path: Path, names: list[str]) -> Columns:
    quoted = ", ".join(f'"{name}"' for name in names)
    rows = duckdb.sql(f"SELECT {quoted} FROM read_parquet('{path}')").fetchall()
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def with_awkward(path: Path, names: list[str]) -> Columns:
    array = ak.from_parquet(path, columns=names)
    return {name: ak.to_list(array[name]) for name in names}


READERS = (with_pyarrow, with_polars, with_duckdb, with_awkward)


@pytest.fixture(scope="module")
def shard(dataset) -> Path:
    return dataset.path / dataset.shards("train")[0].path


@pytest.fixture(scope="module")
def rows(shard) -> pa.Table:
    """The rows as Arrow's lowest level has them: buffers, not Python objects."""
    return pq.ParquetFile(shard).read().combine_chunks()


@pytest.mark.parametrize("read", READERS)
def test_numbers_and_lists(shard, rows, read):
    found = read(shard, [*SCALARS, *LISTS])
    for name in SCALARS:
        assert found[name] == rows[name].to_pylist()
    offsets = rows["px"].chunk(0).offsets.to_numpy()
    for name in LISTS:
        assert [len(values) for values in found[name]] == np.diff(offsets).tolist() == rows["num_nodes"].to_pylist()
        flat = np.array([value for values in found[name] for value in values], np.float32)
        np.testing.assert_array_equal(flat, rows[name].chunk(0).values.to_numpy())


@pytest.mark.parametrize("read", READERS)
def test_edges(shard, rows, read):
    found = read(shard, ["num_nodes", "edges"])
    edges = read_edges(found["edges"], found["num_nodes"])
    wanted = [pairs_of(row) for row in rows.select(["num_nodes", "edges"]).to_pylist()]
    assert list(zip(edges.source.tolist(), edges.target.tolist(), strict=True)) == [pair for pairs in wanted for pair in pairs]
    assert np.diff(edges.offsets).tolist() == [len(pairs) for pairs in wanted]
    assert len(edges.source) > len(wanted)


def test_polars_and_duckdb_read_all_shards_of_a_split(dataset):
    paths = [str(dataset.path / shard.path) for shard in dataset.shards("train")]
    total = dataset.num_rows("train")
    assert pl.scan_parquet(paths).select(pl.len()).collect().item() == total
    nodes = sum(shard.nodes for shard in dataset.shards("train"))
    assert duckdb.sql(f"SELECT count(*), sum(len(px)) FROM read_parquet({paths})").fetchall() == [(total, nodes)]
    means = pl.scan_parquet(paths).select(pl.col("log_pt").explode().cast(pl.Float64).mean()).collect().item()
    assert means == pytest.approx(dataset.statistics("log_pt")["mean"], rel=1e-12)
