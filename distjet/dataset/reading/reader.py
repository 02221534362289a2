"""What can be asked of an input file, whatever its format is?

Each format has a reader that answers this: `ttree.py`, `rntuple.py`, `hdf5.py`, `npz.py`. A branch is whatever has one value,
or one list of values, for each entry: a branch of a TTree, a field of an RNTuple, a column of a table or an array of HDF5, an
array of an npz archive.
"""

from collections.abc import Sequence
from typing import Protocol

from distjet.dataset.reading.ragged import BranchType, Ragged

NO_UUID = "0" * 32
"Where a file has no unique identifier: ROOT writes this, and other formats know of none."


class Reader(Protocol):
    """A table of entries in a file."""

    @property
    def uuid(self) -> str:
        """ROOT's unique identifier of the file, `NO_UUID` where it has none."""
        ...

    @property
    def num_entries(self) -> int:
        """Number of entries."""
        ...

    def keys(self) -> Sequence[str]:
        """Return the names of all branches."""
        ...

    def branch_type(self, name: str) -> BranchType:
        """Return what a branch holds.

        Raises:
            DataError: If it holds anything but numbers.
        """
        ...

    def clusters(self, branches: Sequence[str]) -> list[int]:
        """Return entries at which reading these branches can be divided, from 0 to the number of entries."""
        ...

    def has_page_checksums(self, branches: Sequence[str]) -> bool | None:
        """Return whether what these branches are made of has checksums that are compared; None where the format has none."""
        ...

    def read(self, branches: Sequence[str], start: int, stop: int) -> dict[str, Ragged]:
        """Read the entries [start, stop).

        Raises:
            DataError: If what is found there is damaged.
        """
        ...
