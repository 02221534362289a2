"""How do entries of an input file become flat arrays, whatever its format is?

Lists of any kind end as one flat array and the offsets of each level of nesting. What kind of file it is, its first bytes say.
What was parsed of the last file is kept, since that takes up to a second where there are thousands of branches, and the next
task is often about the same file; no file stays open for it.

Whatever goes wrong while a file is decoded becomes a DataError, because a broken file can raise almost anything; the caller
quarantines the file with that reason. What the machine reports (a disk, a network or a mount that fails, no memory, no
permission) says nothing about the file: it is raised as it is, and whoever runs the task may try again.

A flipped bit is found in an RNTuple whose pages have checksums, and in an npz archive. A TTree has none, nor has HDF5 as a
rule, nor zstd as ROOT uses it: there a bit can flip unnoticed, unless numbers become impossible (`distjet.dataset.checks`) or a
catalogue knows the file's checksum.
"""

import errno
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import numpy as np
import xxhash

from distjet.config import did_you_mean
from distjet.dataset.reading.byte_file import as_file
from distjet.dataset.reading.families import family_type, join, members
from distjet.dataset.reading.hdf5 import Hdf5Reader
from distjet.dataset.reading.npz import NpzReader
from distjet.dataset.reading.ragged import Ragged
from distjet.dataset.reading.reader import NO_UUID, Reader
from distjet.dataset.reading.root import open_root
from distjet.dataset.reading.sources import Opened, Source, examine, open_source, stamp
from distjet.dataset.recipes.features import FEATURES
from distjet.errors import DataError, UserError

ROOT_MARK, HDF5_MARK, ZIP_MARK = b"root", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04"
"First bytes of a file of each format."

_last = threading.local()
"The file that this thread opened last."


def describe_file(source: Source | str, tree: str, branches: Sequence[str]) -> dict[str, Any]:
    """Look at a file without reading its entries.

    Args:
        source: A file that was examined, or its path.
        tree: Name of the table in it.
        branches: Branches that will be read, or families of columns.

    Returns:
        `uuid` (ROOT's identifier of the file, or else its hash), `size_bytes`, `entries`, `clusters` (entry boundaries at which
        reading can be divided), `branches` {name: (dtype, depth)} of those found, `missing` {name: suggestion} of the others,
        `page_checksums` (whether all pages of these branches have one; None where the format has none).

    Raises:
        DataError: If the file cannot be read or has no such tree; the reason is in the message.
        MissingExtraError: If a package is not installed that reads files of this format.
    """
    name = source if isinstance(source, str) else source.path
    with as_data_error(name):
        source = examine(stamp(Source(source)))[0] if isinstance(source, str) else source
    opened, reader = _open_tree(source, tree)
    with as_data_error(name):
        known = dict.fromkeys(reader.keys())
        columns = {branch: members(branch, known) for branch in branches}
        present = [column for found in columns.values() for column in found]
        types = {
            branch: family_type(branch, [reader.branch_type(column) for column in found])
            for branch, found in columns.items()
            if found
        }
        return {
            "uuid": _identifier(source, reader),
            "size_bytes": opened.size,
            "entries": reader.num_entries,
            "clusters": reader.clusters(present),
            "branches": {branch: (kind.dtype, kind.depth) for branch, kind in types.items()},
            "missing": {branch: did_you_mean(branch, [*known, *FEATURES]) for branch in branches if branch not in types},
            "page_checksums": reader.has_page_checksums(present),
        }


def read_branches(
    source: Source | str,
    tree: str,
    branches: Sequence[str],
    start: int,
    stop: int,
    optional: Mapping[str, float] = MappingProxyType({}),
) -> dict[str, Ragged]:
    """Read branches, or families of columns, of the entries [start, stop).

    Args:
        source: A file that was examined, or its path.
        tree: Name of the table in it.
        branches: What to read.
        start: First entry.
        stop: One past the last entry.
        optional: Number of each entry that stands in for a branch which the file lacks.

    Raises:
        DataError: If the file cannot be read, is not the one that was examined, or is found to be damaged.
    """
    opened, reader = _open_tree(source, tree)
    with as_data_error(opened.name):
        known = dict.fromkeys(reader.keys())
        absent = {branch: value for branch, value in optional.items() if branch in branches and branch not in known}
        columns = {branch: members(branch, known) or [branch] for branch in branches if branch not in absent}
        values = reader.read(list(dict.fromkeys(column for found in columns.values() for column in found)), start, stop)
        for name, ragged in values.items():
            ragged.check(name, stop - start)
        constants = {branch: Ragged(np.full(stop - start, value)) for branch, value in absent.items()}
        return constants | {branch: join(branch, [values[column] for column in found]) for branch, found in columns.items()}


def _identifier(source: Source, reader: Reader) -> str:
    """Return ROOT's unique identifier of a file, or what tells its content from others where there is none."""
    if reader.uuid != NO_UUID:
        return reader.uuid
    return source.xxh3_128 or xxhash.xxh3_128_hexdigest(f"{source.path} {source.stamp}".encode())


def _open_tree(source: Source | str, tree: str) -> tuple[Opened, Reader]:
    """Open a file and find its tree, or take what was parsed if it was the last one and has not changed."""
    name = source if isinstance(source, str) else source.path
    with as_data_error(name):
        opened = open_source(source)
        if getattr(_last, "key", None) != (opened, tree):
            _last.key = _last.reader = None  # lets go of the old one first
            _last.reader = _parse(opened, tree)
            _last.key = (opened, tree)
        return opened, _last.reader


def _parse(opened: Opened, tree: str) -> Reader:
    if opened.size == 0:
        raise DataError(f"{opened.name} is empty (0 bytes)")
    if opened.name.endswith(".root"):
        return open_root(opened, tree)
    begin = opened.reader.read([(0, min(len(HDF5_MARK), opened.size))])[0]
    if begin == HDF5_MARK:
        return Hdf5Reader(as_file(opened), tree, opened.name)
    if begin.startswith(ZIP_MARK):
        return NpzReader(as_file(opened), tree)
    if begin.startswith(ROOT_MARK):
        return open_root(opened, tree)
    raise DataError(f"{opened.name} is no file of ROOT, HDF5 or numpy (npz): it begins with {begin!r}")


@contextmanager
def as_data_error(path: str) -> Iterator[None]:
    """Turn whatever is raised while a file is decoded into a DataError that names it, but not what the machine reports."""
    try:
        yield
    except UserError as error:
        if path in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error
    except Exception as error:
        if _is_of_the_machine(error):
            error.add_note(f"while reading {path}")
            raise
        reason = str(error).strip().partition("\n")[0] or "no message"
        raise DataError(f"{path} cannot be read: {type(error).__name__}: {reason}") from error


def _is_of_the_machine(error: Exception) -> bool:
    """Tell a failing machine from a broken file, of which too little may be read, or an impossible place (EINVAL)."""
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        return error.errno not in (None, errno.EINVAL, errno.ENOENT)
    return isinstance(error, MemoryError | TimeoutError)
