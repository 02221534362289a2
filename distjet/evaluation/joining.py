"""Which row of one table is the jet of a row of another?

Jets are known by (run, event, jet_index, sample), so tables may come in any order, from any program. Every jet has to be in
both.
"""

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distjet.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

Rows = NDArray[np.intp]
Source = tuple[Path, "pa.Table"]

IDENTIFIERS = ("run", "event", "jet_index", "sample")


def rows_of_same_jets(first: Source, other: Source) -> Rows:
    """For each row of the first table, the number of the row of the other one that holds the same jet.

    Args:
        first: Where a table came from, and its columns.
        other: Likewise.

    Returns:
        Row numbers in the other table, shape (J,).

    Raises:
        DataError: If a table lacks identifiers, holds a jet twice, or holds a jet that the other one does not.
    """
    keys, other_keys = _keys(first, other)
    if all(np.array_equal(a, b) for a, b in zip(keys, other_keys, strict=True)):
        _unique_order(first, keys)
        return np.arange(first[1].num_rows)
    order, other_order = _unique_order(first, keys), _unique_order(other, other_keys)
    if not all(np.array_equal(a[order], b[other_order]) for a, b in zip(keys, other_keys, strict=True)):
        raise _difference((first, keys), (other, other_keys))
    rows = np.empty(len(order), np.intp)
    rows[order] = other_order
    return rows


def describe_row(table: "pa.Table", row: int) -> str:
    """Write the identity of the jet in a row, for a message."""
    return ", ".join(f"{key}={table[key][row].as_py()}" for key in IDENTIFIERS if key in table.column_names)


def _keys(first: Source, other: Source) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Identifiers as integers, the same name of a sample having the same number in both."""
    for path, table in (first, other):
        if missing := [name for name in IDENTIFIERS if name not in table.column_names]:
            raise DataError(f"{path} lacks {', '.join(missing)}: several tables are joined by {', '.join(IDENTIFIERS)}")
    names = sorted({*_samples(first[1]).unique().to_pylist(), *_samples(other[1]).unique().to_pylist()})
    return _integers(first[1], names), _integers(other[1], names)


def _samples(table: "pa.Table") -> "pa.ChunkedArray":
    import pyarrow as pa

    return table["sample"].cast(pa.string())


def _integers(table: "pa.Table", samples: list[str]) -> list[NDArray[Any]]:
    import pyarrow as pa
    import pyarrow.compute as pc

    codes = pc.index_in(_samples(table), value_set=pa.array(samples, pa.string())).to_numpy()
    return [*(table[name].to_numpy() for name in IDENTIFIERS[:-1]), codes]


def _unique_order(source: Source, keys: list[NDArray[Any]]) -> Rows:
    """Return the rows in the order of their identity."""
    order = np.lexsort(keys)
    same = np.ones(max(len(order) - 1, 0), bool)
    for key in keys:
        same &= key[order][1:] == key[order][:-1]
    if np.any(same):
        low, high = sorted(list(pairwise(order))[int(np.argmax(same))])
        raise DataError(f"{source[0]} holds the jet ({describe_row(source[1], low)}) twice, in the rows {low} and {high}")
    return order


def _difference(one: tuple[Source, list[NDArray[Any]]], two: tuple[Source, list[NDArray[Any]]]) -> DataError:
    """Name the first jet that is in one table only."""
    (first, first_keys), (other, other_keys) = one, two
    jets, others = (list(zip(*(key.tolist() for key in keys), strict=True)) for keys in (first_keys, other_keys))
    lacking, having, rows = other[0], first, _rows_without(jets, others)
    if not rows:
        lacking, having, rows = first[0], other, _rows_without(others, jets)
    return DataError(
        f"{lacking} lacks the jet ({describe_row(having[1], rows[0])}) of {having[0]}, and {len(rows)} in all; "
        "methods are compared on the same jets"
    )


def _rows_without(jets: list[Any], others: list[Any]) -> list[int]:
    known = set(others)
    return [row for row, jet in enumerate(jets) if jet not in known]
