"""Which columns does `E_*` stand for, and how do they become lists?

A table without lists spreads the constituents of a jet over numbered columns, E_0 to E_199. The star stands for the number; the
columns are put in its order and become one list for each entry. A number that is missing would shift all constituents behind it
against those of the other columns, and is an error.
"""

import re
from collections.abc import Iterable, Sequence

import numpy as np

from distjet.dataset.reading.ragged import BranchType, Ragged, regular
from distjet.errors import DataError

STAR = "*"


def members(name: str, known: Iterable[str]) -> list[str]:
    """Return the columns that a name stands for, in order: those of a family, else itself; none if it is not there.

    Args:
        name: A branch, or a family with a star for the number.
        known: All branches of a file.

    Raises:
        DataError: If a number is missing in a family, or is there twice.
    """
    if STAR not in name:
        return [name] if name in known else []
    prefix, _, suffix = name.partition(STAR)
    pattern = re.compile(f"{re.escape(prefix)}([0-9]+){re.escape(suffix)}")
    matches = filter(None, map(pattern.fullmatch, known))
    found = sorted((int(match[1]), match[0]) for match in matches)
    for place, (number, column) in enumerate(found, start=found[0][0] if found else 0):
        if number != place:
            raise DataError(f"the columns {name!r} must be numbered without gaps: {column!r} comes where {place} is expected")
    return [column for _, column in found]


def family_type(name: str, types: Sequence[BranchType]) -> BranchType:
    """Return what the lists of a family hold, or what a single branch holds.

    Raises:
        DataError: If its columns are lists already.
    """
    if STAR not in name:
        return types[0]
    if any(kind.depth for kind in types):
        raise DataError(f"the columns {name!r} hold lists; expected numbers")
    return BranchType(np.result_type(*(np.dtype(kind.dtype) for kind in types)).name, 1)


def join(name: str, columns: Sequence[Ragged]) -> Ragged:
    """Make lists of the columns of a family, or return a single branch as it is."""
    if STAR not in name:
        return columns[0]
    return regular(np.stack([column.content for column in columns], axis=1))
