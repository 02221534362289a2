"""Spec: the fingerprint of rows is that of their contents, in any order and division; whatever changes a row changes it."""

import hashlib
import struct
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distjet.dataset.fingerprint import (
    add_up,
    as_text,
    column_values,
    hash_rows,
    row_hashes,
    sums_by_sample,
    total,
    totals_by_sample,
)
from distjet.dataset.schema import ColumnSpec, arrow_schema
from tests.dataset.files import read_all

COLUMNS = (
    ColumnSpec("run", "identifier", "", "", "int64"),
    ColumnSpec("event", "identifier", "", "", "int64"),
    ColumnSpec("jet_index", "identifier", "", "", "int32"),
    ColumnSpec("sample", "identifier", "", "", "string"),
    ColumnSpec("weight", "weight", "", "", "float64"),
    ColumnSpec("px", "p4", "GeV", "", "float32"),
    ColumnSpec("depth", "node", "", "", "float32"),
    ColumnSpec("edges", "edge", "", "", "binary"),
    ColumnSpec("jet_pt", "jet", "GeV", "", "float32"),
)
WORD = 2**64 - 1


def mixed(state: int) -> int:
    """Splitmix64, written again in whole numbers."""
    z = (state + 0x9E3779B97F4A7C15) & WORD
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
    return z ^ (z >> 31)


def words_of(kind: str, value: object) -> list[int]:
    """The words that a value of a column contributes, from its bytes."""
    if isinstance(value, list | bytes):
        size = 4 if isinstance(value, list) else 1
        content = struct.pack(f"<{len(value)}f", *value) if isinstance(value, list) else value
        whole = len(content) // 8 * 8
        pieces = [content[i : i + 8] for i in range(0, whole, 8)] + [
            content[i : i + size] for i in range(whole, len(content), size)
        ]
        return [len(value), *(int.from_bytes(piece, "little") for piece in pieces)]
    code = {"int64": "<q", "int32": "<i", "float64": "<d", "float32": "<f"}[kind]
    return [int.from_bytes(struct.pack(code, value), "little")]


def reference(row: dict) -> int:
    """The hash of one row in Python's whole numbers."""
    key = int.from_bytes(hashlib.blake2b(row["sample"].encode(), digest_size=8).digest(), "little")
    a, b = mixed(key ^ 0x243F6A8885A308D3), mixed(key ^ 0x13198A2E03707344)
    for column in COLUMNS:
        for word in [] if column.name == "sample" else words_of(column.dtype, row[column.name]):
            a, b = a ^ word, (b + word) & WORD
            a, b = (a << 29 | a >> 35) & WORD, (b << 37 | b >> 27) & WORD
            a, b = (a * 0xA4093822299F31D1) & WORD, (b * 0x082EFA98EC4E6C89) & WORD
    return mixed(a) | mixed(b) << 64


def table(rows: list[dict]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=arrow_schema(COLUMNS))


def fingerprint(rows: list[dict]) -> int:
    return add_up(row_hashes(table(rows), COLUMNS))


compiled = settings(deadline=None)  # the first call compiles
float32 = st.floats(width=32)


@st.composite
def a_row(draw: st.DrawFn) -> dict:
    size = draw(st.integers(0, 5))
    return {
        "run": draw(st.integers(-(2**63), 2**63 - 1)),
        "event": draw(st.integers(-5, 5)),
        "jet_index": draw(st.integers(-(2**31), 2**31 - 1)),
        "sample": draw(st.sampled_from(["qcd", "ttbar", "W → qq"])),
        "weight": draw(st.floats()),
        "px": draw(st.lists(float32, min_size=size, max_size=size)),
        "depth": draw(st.lists(float32, min_size=size, max_size=size)),
        "edges": draw(st.binary(max_size=20)),
        "jet_pt": draw(float32),
    }


def bits(row: dict) -> list:
    """A row as something whose equality is that of its bits."""
    return [words_of(column.dtype, row[column.name]) if column.name != "sample" else row["sample"] for column in COLUMNS]


@compiled
@given(st.lists(a_row(), max_size=6))
def test_equals_the_reference_in_whole_numbers(rows):
    assert fingerprint(rows) == sum(map(reference, rows)) % 2**128


@compiled
@given(st.lists(a_row(), min_size=1, max_size=6), st.randoms(use_true_random=False), st.integers(0, 6))
def test_order_and_division_do_not_matter(rows, random, cut):
    shuffled = random.sample(rows, len(rows))
    parts = pa.concat_tables([table(shuffled[:cut]), table(shuffled[cut:])])
    slices = [table(rows).slice(0, cut), table(rows).slice(cut)]
    assert add_up(row_hashes(parts, COLUMNS)) == fingerprint(rows)
    assert total(as_text(add_up(row_hashes(part, COLUMNS))) for part in slices) == as_text(fingerprint(rows))


@compiled
@given(st.lists(a_row(), min_size=1, max_size=4), a_row())
def test_a_lost_doubled_or_added_row_shows(rows, other):
    assert fingerprint(rows[1:]) != fingerprint(rows)
    assert fingerprint([*rows, rows[0]]) != fingerprint(rows)
    assert fingerprint([*rows, other]) != fingerprint(rows)


@compiled
@given(st.lists(a_row(), min_size=2, max_size=4), st.sampled_from([column.name for column in COLUMNS]))
def test_two_rows_that_exchange_a_value_show(rows, name):
    changed = [dict(row) for row in rows]
    changed[0][name], changed[1][name] = rows[1][name], rows[0][name]
    is_same_set = sorted(map(repr, map(bits, changed))) == sorted(map(repr, map(bits, rows)))
    assert (fingerprint(changed) == fingerprint(rows)) == is_same_set


@compiled
@given(st.lists(float32, max_size=8), st.data())
def test_an_element_that_moves_to_the_next_list_shows(values, data):
    first, second = data.draw(st.integers(0, len(values))), data.draw(st.integers(0, len(values)))
    flat = np.array(values, np.float32)
    hashes = [hash_rows(np.zeros(2, np.uint64), [(flat, np.array([0, cut, len(flat)]))]) for cut in (first, second)]
    assert (add_up(hashes[0]) == add_up(hashes[1])) == (first == second or len(set(_cuts(flat, first, second))) == 1)


def _cuts(flat, *cuts):
    """Both divisions as sets of two byte strings: the rows' order does not count."""
    return [tuple(sorted([flat[:cut].tobytes(), flat[cut:].tobytes()])) for cut in cuts]


def test_every_single_bit_counts():
    rng = np.random.default_rng(5)
    offsets = np.array([0, 3, 3, 8])
    arrays = [rng.normal(size=8).astype("f4"), rng.integers(0, 255, 21).astype("u1"), rng.normal(size=3), rng.integers(0, 9, 3)]

    def found() -> int:
        lists = [(arrays[0], offsets), (arrays[1], np.array([0, 10, 10, 21]))]
        return add_up(hash_rows(np.arange(3, dtype=np.uint64), [*lists, *arrays[2:]]))

    seen = {found()}
    num_bits = 0
    for array in arrays:
        raw = array.view(np.uint8)
        for bit in range(8 * raw.size):
            raw[bit // 8] ^= 1 << bit % 8
            seen.add(found())
            raw[bit // 8] ^= 1 << bit % 8
            num_bits += 1
    assert len(seen) == num_bits + 1
    assert num_bits == 8 * (32 + 21 + 24 + 24)


def test_the_sign_of_zero_and_the_bits_of_nan_count():
    other_nan = np.array([0x7FC00001], np.uint32).view(np.float32)
    sums = {
        add_up(hash_rows(np.zeros(1, np.uint64), [(np.asarray(value, np.float32).reshape(1), np.array([0, 1]))]))
        for value in (0.0, -0.0, np.nan, other_nan)
    }
    assert len(sums) == 4


def test_sums_are_taken_modulo_two_to_the_128():
    largest = np.full((3, 2), 2**64 - 1, np.uint64)
    assert add_up(largest) == 3 * (2**128 - 1) % 2**128
    assert total([as_text(2**128 - 1), as_text(5)]) == as_text(4)
    assert len(as_text(4)) == 32


@compiled
@given(st.lists(a_row(), max_size=6))
def test_samples_add_up_to_the_whole(rows):
    content = table(rows)
    sums = sums_by_sample(content, row_hashes(content, COLUMNS))
    assert set(sums) == {row["sample"] for row in rows}
    assert total(sums.values()) == as_text(fingerprint(rows))
    for name, text in sums.items():
        part = table([row for row in rows if row["sample"] == name])
        assert text == as_text(add_up(row_hashes(part.drop_columns("sample"), COLUMNS, name)))
    assert totals_by_sample([sums, sums]) == {name: total([sums[name]] * 2) for name in sorted(sums)}


@pytest.mark.parametrize("dictionary", [False, True])
def test_dictionaries_and_plain_names_are_the_same(dataset, dictionary):
    rows = read_all(dataset)
    columns = dataset.columns
    other = rows.set_column(rows.schema.get_field_index("sample"), "sample", rows["sample"].dictionary_encode())
    found = row_hashes(other if dictionary else rows.combine_chunks(), columns)
    np.testing.assert_array_equal(found, row_hashes(rows, columns))


def test_an_empty_table_has_none():
    assert row_hashes(table([]), COLUMNS).shape == (0, 2)
    assert add_up(row_hashes(table([]), COLUMNS)) == 0
    assert sums_by_sample(table([]), np.zeros((0, 2), np.uint64)) == {}


def test_slices_of_arrow_arrays_are_read_at_their_place():
    lists = pa.array([[1.0, 2.0], [], [3.0], [4.0, 5.0]], pa.list_(pa.float32())).slice(1, 2)
    values, offsets = column_values(lists)
    assert [values[a:b].tolist() for a, b in pairwise(offsets)] == [[], [3.0]]
    content, offsets = column_values(pa.array([b"ab", b"", b"cde"]).slice(1))
    assert [bytes(content[a:b]) for a, b in pairwise(offsets)] == [b"", b"cde"]
