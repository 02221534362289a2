"""What does a branch hold, and how do its lists look in flat arrays?

One array of numbers, and for each level of nesting where its lists start. The type of a branch is the type of the numbers and
the number of levels.
"""

import re
from dataclasses import dataclass

import numpy as np

from distjet.errors import DataError


@dataclass(frozen=True)
class Ragged:
    """Values of a branch for a range of entries.

    Attributes:
        content: All values, flat.
        offsets: One array per level of nesting, from the entries inwards; `offsets[k][i]` is where list i starts.
    """

    content: np.ndarray
    offsets: tuple[np.ndarray, ...] = ()

    @property
    def depth(self) -> int:
        """Number of levels of nesting."""
        return len(self.offsets)

    def element(self, index: int) -> "Ragged":
        """Return element `index` of each innermost list as float64, NaN where the list is too short."""
        offsets = self.offsets[-1]
        lengths = np.diff(offsets)
        place = index if index >= 0 else lengths + index
        inside = (place >= 0) & (place < lengths)
        values = np.full(len(lengths), np.nan)
        values[inside] = self.content[(offsets[:-1] + place)[inside]]
        return Ragged(values, self.offsets[:-1])

    def check(self, name: str, num_entries: int) -> None:
        """Check that the lists fit into one another, as they do unless what says where they end is damaged.

        Raises:
            DataError: If there are more or fewer entries, or a list ends before it starts or behind the values.
        """
        sizes = [num_entries, *(int(level[-1]) for level in self.offsets)]
        lengths = [*(len(level) - 1 for level in self.offsets), len(self.content)]
        for level, (expected, found) in enumerate(zip(sizes, lengths, strict=True)):
            if found != expected:
                raise DataError(
                    f"branch {name!r} is damaged: {found} values at level {level} of its lists, expected {expected}"
                )
        if any(level[0] != 0 or (np.diff(level) < 0).any() for level in self.offsets):
            raise DataError(f"branch {name!r} is damaged: a list ends before it starts")


@dataclass(frozen=True)
class BranchType:
    """Type of the values and number of levels of nesting."""

    dtype: str
    depth: int


def empty(kind: BranchType) -> Ragged:
    """Return zero entries of a branch."""
    return Ragged(np.zeros(0, kind.dtype), tuple(np.zeros(1, np.int64) for _ in range(kind.depth)))


def regular(array: np.ndarray) -> Ragged:
    """Return the rows of an array, shape (N, ...), as entries: each further dimension is a level of lists of equal length."""
    offsets, count = [], len(array)
    for length in array.shape[1:]:
        offsets.append(np.arange(count + 1, dtype=np.int64) * length)
        count *= length
    return Ragged(np.ascontiguousarray(array.reshape(-1), array.dtype.newbyteorder("=")), tuple(offsets))


def array_type(name: str, dtype: np.dtype, shape: tuple[int, ...]) -> BranchType:
    """Return what an array of this shape holds for each of its rows.

    Args:
        name: Of the branch, for messages.
        dtype: Of its elements.
        shape: Of the whole array, (N, ...).

    Raises:
        DataError: If it holds anything but numbers.
    """
    if dtype.kind not in "biuf":
        raise DataError(f"branch {name!r} holds {dtype}; expected numbers or lists of numbers")
    return BranchType(dtype.name, len(shape) - 1)


def branch_type(name: str, typename: str, depth: int = 0) -> BranchType:
    """Read depth and dtype off a C++ type such as `std::vector<std::vector<float>>`, `float[]` or `std::array<int, 3>`.

    Args:
        name: Of the branch, for messages.
        typename: C++ type.
        depth: Levels of nesting that are known already.

    Raises:
        DataError: If it holds anything but numbers.
    """
    inner = typename.replace(" ", "")
    depth += inner.count("[")
    inner = re.sub(r"\[[^]]*\]", "", inner)
    while match := re.fullmatch(r"(?:std::)?(?:vector|array|ROOT::VecOps::RVec|ROOT::RVec)<(.*?)(?:,\d+)?>", inner):
        depth, inner = depth + 1, match.group(1)
    dtype = _DTYPES.get(inner.removeprefix("std::"))
    if dtype is None:
        raise DataError(f"branch {name!r} holds {typename}; expected numbers or lists of numbers")
    return BranchType(dtype, depth)


_DTYPES = {
    "bool": "bool", "char": "int8", "unsignedchar": "uint8", "short": "int16", "unsignedshort": "uint16", "int": "int32",
    "unsignedint": "uint32", "long": "int64", "longlong": "int64", "unsignedlong": "uint64", "float": "float32",
    "double": "float64", "Float_t": "float32", "Double_t": "float64", "Double32_t": "float64", "Float16_t": "float32",
    **{f"{sign}int{bits}_t": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip
