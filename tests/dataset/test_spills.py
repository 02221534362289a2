"""Spec: packed rows come back as they were, in any order, and each range of keys takes exactly its own rows out of a spill."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distjet.dataset.schema import ColumnSpec, arrow_schema
from distjet.dataset.shards import key_range
from distjet.dataset.spills import Places, RowLayout, pack_rows, read_spills, unpack_rows, write_spill
from distjet.errors import DataError

NUMBERS = (
    ColumnSpec("event", "identifier", "", "", "int64"),
    ColumnSpec("sample", "identifier", "", "", "string"),
    ColumnSpec("weight", "weight", "", "", "float64"),
)
GRAPHS = (
    ColumnSpec("num_nodes", "size", "", "", "int32"),
    ColumnSpec("px", "p4", "GeV", "", "float32"),
    ColumnSpec("charge", "node", "", "", "float32"),
    ColumnSpec("edges", "edge", "", "", "binary"),
)
LAST_KEY = 2**64 - 1
BORDERS = [0, 1, 2**52 - 1, 2**52, 2**63, LAST_KEY - 2**52, LAST_KEY]
"Keys on both sides of borders of the index."


def random_rows(sizes: list[int], columns: tuple[ColumnSpec, ...] = NUMBERS + GRAPHS) -> pa.Table:
    """Make rows with lists of these sizes and some bytes each."""
    rng = np.random.default_rng(len(sizes))
    lists = [rng.normal(size=size).astype(np.float32) for size in sizes]
    content = {
        "event": np.arange(len(sizes)),
        "weight": rng.normal(size=len(sizes)),
        "num_nodes": np.array(sizes, np.int32),
        "px": lists,
        "charge": [-values for values in lists],
        "edges": [rng.bytes(3 * size + size % 2) for size in sizes],
    }
    stored = [column for column in columns if column.name != "sample"]
    return pa.Table.from_pydict({column.name: content[column.name] for column in stored}, arrow_schema(stored))


def place(keys: list[int], split: list[int] | None = None) -> Places:
    key, splits = np.array(keys, np.uint64), np.array(split if split is not None else [0] * len(keys), np.int8)
    return Places(splits, key, np.lexsort((key, splits)))


def with_sample(table: pa.Table, name: str) -> pa.Table:
    field = next(column.arrow_field() for column in NUMBERS if column.name == "sample")
    return table.add_column(1, field, pa.array([name] * len(table), pa.string()))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 300), max_size=20), st.randoms())
def test_packed_rows_come_back_in_any_order(sizes, random):
    table, layout = random_rows(sizes), RowLayout(NUMBERS + GRAPHS)
    keys = [random.randrange(2**64) for _ in sizes]
    packed = pack_rows(layout, table, place(keys))
    by_key = np.argsort(np.array(keys, np.uint64), kind="stable")
    selected = np.array(random.sample(range(len(sizes)), len(sizes) // 2), np.int64)
    found = unpack_rows(layout, packed, selected, ["jets"])
    assert found.schema == arrow_schema(NUMBERS + GRAPHS)
    found.validate(full=True)
    assert found.to_pylist() == with_sample(table, "jets").take(by_key[selected]).to_pylist()


def test_rows_without_constituents_have_no_words():
    table, layout = random_rows([1, 2, 3], NUMBERS), RowLayout(NUMBERS)
    packed = pack_rows(layout, table, place([3, 2, 1]))
    assert len(packed.words) == 0
    assert unpack_rows(layout, packed, np.arange(3), ["jets"])["event"].to_pylist() == [2, 1, 0]


@settings(deadline=None, max_examples=40)  # the first call compiles
@given(
    st.lists(st.tuples(st.sampled_from(BORDERS) | st.integers(0, LAST_KEY), st.integers(0, 2)), max_size=30),
    st.integers(1, 9),
    st.integers(0, 30),
)
def test_each_range_takes_its_own_rows(tmp_path_factory, rows, num_shards, cut):
    layout, folder = RowLayout(NUMBERS + GRAPHS), tmp_path_factory.mktemp("spills")
    table = random_rows([number % 7 for number in range(len(rows))])
    spills = []
    for sample, (start, stop) in enumerate(((0, min(cut, len(rows))), (min(cut, len(rows)), len(rows)))):
        places = place([key for key, _ in rows[start:stop]], [split for _, split in rows[start:stop]])
        write_spill(folder / f"{sample}.rows", pack_rows(layout, table.slice(start, stop - start), places))
        spills.append((folder / f"{sample}.rows", sample))
    for split in range(3):
        for number in range(num_shards):
            low, high = key_range(number, num_shards)
            found = read_spills(layout, spills, split, low, high)
            wanted = [event for event, (key, s) in enumerate(rows) if s == split and low <= key <= high]
            content = unpack_rows(layout, found, np.arange(len(found.records)), ["first", "second"])
            assert sorted(content["event"].to_pylist()) == wanted
            by_event = content.sort_by("event").drop_columns("sample")
            assert by_event.to_pylist() == table.take(pa.array(wanted, pa.int64())).to_pylist()
            names = ["first" if event < cut else "second" for event in content["event"].to_pylist()]
            assert content["sample"].to_pylist() == names


def test_a_spill_that_was_cut_off_is_named_as_such(tmp_path):
    layout, path = RowLayout(NUMBERS + GRAPHS), tmp_path / "a.rows"
    write_spill(path, pack_rows(layout, random_rows([5, 6]), place([1, 2])))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match="ends 4 bytes too early"):
        read_spills(layout, [(path, 0)], 0, 0, LAST_KEY)
