"""How are the arrays of an npz archive read a range of rows at a time?

An archive of numpy is a zip file with one member for each array. Most are compressed, and then a member can only be read from
its beginning; so it is read in a stream that is kept from one range to the next. The stream computes the CRC-32 that the
archive has of each member, and whoever reads the last row learns whether it is right: an array with a flipped bit is never
used, because a file is used as a whole or not at all. Arrays of Python objects are refused, as reading them could run any
program.
"""

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import IO, BinaryIO

import numpy as np

from distjet.dataset.reading.ragged import BranchType, Ragged, array_type, regular
from distjet.dataset.reading.reader import NO_UUID
from distjet.errors import DataError

SUFFIX = ".npy"
TOP = ("", "/")
"Names of the table that an archive is."
BLOCK_BYTES = 2**20
"Are read and thrown away at once, on the way to the first row of a range."


@dataclass(frozen=True)
class Array:
    """What stands at the beginning of a member.

    Attributes:
        member: Name in the archive.
        shape: Of the array.
        dtype: Of its elements.
        is_fortran: Whether columns are contiguous instead of rows.
        first_byte: Where its elements begin.
    """

    member: str
    shape: tuple[int, ...]
    dtype: np.dtype
    is_fortran: bool
    first_byte: int

    @property
    def row_bytes(self) -> int:
        """Size of a row."""
        return self.dtype.itemsize * prod(self.shape[1:])


class NpzReader:
    """An npz archive.

    Args:
        file: The archive.
        tree: Must be `/`: an archive holds one table.

    Raises:
        DataError: If another table is wanted.
    """

    def __init__(self, file: BinaryIO, tree: str) -> None:
        if tree not in TOP:
            raise DataError(f"has no tree {tree!r}: an npz archive is one table, whose name is '/'")
        self.archive = zipfile.ZipFile(file)
        names = [name for name in self.archive.namelist() if name.endswith(SUFFIX)]
        self.arrays = {name.removesuffix(SUFFIX): self._array(name) for name in names}
        self._streams: dict[str, IO[bytes]] = {}

    @property
    def uuid(self) -> str:
        """None."""
        return NO_UUID

    @property
    def num_entries(self) -> int:
        """Number of rows of the longest array."""
        return max((array.shape[0] for array in self.arrays.values() if array.shape), default=0)

    def keys(self) -> list[str]:
        """Return the names of all arrays."""
        return [name for name, array in self.arrays.items() if array.shape]

    def branch_type(self, name: str) -> BranchType:
        """Return what an array holds for each row.

        Raises:
            DataError: If it holds anything but numbers, has another number of rows than the others, or is stored by columns.
        """
        array = self.arrays[name]
        kind = array_type(name, array.dtype, array.shape)
        if array.shape[0] != self.num_entries:
            raise DataError(f"array {name!r} has {array.shape[0]} rows, others have {self.num_entries}")
        if array.is_fortran and kind.depth:
            raise DataError(f"array {name!r} is stored by columns; write it again as numpy.ascontiguousarray(...)")
        return kind

    def clusters(self, branches: Sequence[str]) -> list[int]:
        """Return the ends of the rows: rows can be divided anywhere."""
        del branches
        return [0, self.num_entries]

    def has_page_checksums(self, branches: Sequence[str]) -> bool:
        """Return that all arrays have a checksum."""
        del branches
        return True

    def read(self, branches: Sequence[str], start: int, stop: int) -> dict[str, Ragged]:
        """Read the rows [start, stop).

        Raises:
            DataError: If an array ends too early.
            zipfile.BadZipFile: If its last row is among these, and the array is not the one that was written.
        """
        return {name: regular(self._rows(name, start, stop)) for name in branches}

    def _array(self, member: str) -> Array:
        with self.archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            if version == (1, 0):
                shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
            elif version == (2, 0):
                shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(file)
            else:
                raise DataError(f"{member} has version {version} of the format; known are (1, 0) and (2, 0)")
            return Array(member, shape, dtype, is_fortran, file.tell())

    def _rows(self, name: str, start: int, stop: int) -> np.ndarray:
        array = self.arrays[name]
        size = (stop - start) * array.row_bytes
        stream = self._stream(name, array.first_byte + start * array.row_bytes)
        data = stream.read(size)
        self._streams[name] = stream  # not one that has failed
        if len(data) != size:
            raise DataError(f"array {name!r} ends too early: {len(data)} of {size} bytes of the rows {start} to {stop}")
        return np.frombuffer(data, array.dtype).reshape(stop - start, *array.shape[1:])

    def _stream(self, name: str, position: int) -> IO[bytes]:
        """Return the stream of an array at a place; it never seeks, which would lose the checksum."""
        stream = self._streams.pop(name, None)
        if stream is None or stream.tell() > position:
            stream = self.archive.open(self.arrays[name].member)
        while (left := position - stream.tell()) > 0:
            if not stream.read(min(left, BLOCK_BYTES)):
                raise DataError(f"array {name!r} ends too early: {stream.tell()} bytes")
        return stream
