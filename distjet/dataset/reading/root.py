"""How do entries of a TTree or an RNTuple become flat arrays?

`std::vector`, C arrays, nested vectors and RNTuple collections all end as one flat array and the offsets of each level of
nesting. uproot's caches are off, because no basket is read twice. Offsets are trimmed to start at zero: a slice of a jagged
array otherwise keeps the content of its neighbours. What uproot has parsed of the last file is kept, since that takes up to a
second where there are thousands of branches, and the next task is often about the same file; no file stays open for it.

Whatever goes wrong while uproot decodes a file becomes a DataError, because a broken file can raise almost anything; the
caller quarantines the file with that reason. What the machine reports (a disk, a network or a mount that fails, no memory, no
permission) says nothing about the file: it is raised as it is, and whoever runs the task may try again.

A flipped bit is found in an RNTuple whose pages have checksums. A TTree has none, nor has zstd as ROOT uses it: there a bit can
flip unnoticed, unless numbers become impossible (`distjet.dataset.checks`) or a catalogue knows the file's checksum.
"""

import errno
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import uproot
import xxhash

from distjet.config import did_you_mean
from distjet.dataset.reading.byte_source import ByteSource
from distjet.dataset.reading.ragged import BranchType, Ragged, empty
from distjet.dataset.reading.rntuple import NTupleReader
from distjet.dataset.reading.sources import Opened, Source, examine, open_source, stamp
from distjet.dataset.reading.ttree import TreeReader
from distjet.dataset.recipes.features import FEATURES
from distjet.errors import DataError, UserError

__all__ = ["BranchType", "Ragged", "as_data_error", "describe_file", "empty", "read_branches"]

NO_UUID = "0" * 32
"ROOT writes this where it does not know a file's unique identifier."

TREE_CLASSES = ("TTree", "TNtuple", "TNtupleD")

Reader = TreeReader | NTupleReader

_last = threading.local()
"The file that this thread opened last."


def describe_file(source: Source | str, tree: str, branches: Sequence[str]) -> dict[str, Any]:
    """Look at a file without reading its entries.

    Args:
        source: A ROOT file that was examined, or its path.
        tree: Name of its TTree or RNTuple.
        branches: Branches that will be read.

    Returns:
        `uuid` (ROOT's identifier of the file, or else its hash), `size_bytes`, `entries`, `clusters` (entry boundaries at which
        reading can be divided), `branches` {name: (dtype, depth)} of those found, `missing` {name: suggestion} of the others,
        `page_checksums` (whether all pages of these branches have one; None for a TTree).

    Raises:
        DataError: If the file cannot be read or has no such tree; the reason is in the message.
    """
    name = source if isinstance(source, str) else source.path
    with as_data_error(name):
        source = examine(stamp(Source(source)))[0] if isinstance(source, str) else source
    opened, reader = _open_tree(source, tree)
    with as_data_error(name):
        known = set(reader.keys())
        present = [branch for branch in branches if branch in known]
        types = {branch: reader.branch_type(branch) for branch in present}
        return {
            "uuid": _identifier(source, reader),
            "size_bytes": opened.size,
            "entries": reader.num_entries,
            "clusters": reader.clusters(present),
            "branches": {branch: (kind.dtype, kind.depth) for branch, kind in types.items()},
            "missing": {branch: did_you_mean(branch, [*known, *FEATURES]) for branch in branches if branch not in known},
            "page_checksums": reader.has_page_checksums(present),
        }


def read_branches(source: Source | str, tree: str, branches: Sequence[str], start: int, stop: int) -> dict[str, Ragged]:
    """Read branches of the entries [start, stop).

    Raises:
        DataError: If the file cannot be read, is not the one that was examined, or a page of an RNTuple is damaged.
    """
    opened, reader = _open_tree(source, tree)
    with as_data_error(opened.name):
        values = reader.read(branches, start, stop)
        for name, ragged in values.items():
            ragged.check(name, stop - start)
        return values


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
    options = {"array_cache": None, "object_cache": None, "handler": ByteSource}
    file = uproot.open({opened.name: None}, reader=opened.reader, size=opened.size, **options)
    try:
        found = file[tree]
    except uproot.KeyInFileError:
        found = None
    if isinstance(found, uproot.TTree):
        return TreeReader(found, file.file.source)
    if isinstance(found, uproot.behaviors.RNTuple.RNTuple):
        return NTupleReader(found, file.file.source)
    classes = {key.partition(";")[0]: name for key, name in file.classnames(recursive=True).items()}
    trees = [key for key, name in classes.items() if name in TREE_CLASSES or "RNTuple" in name]
    raise DataError(f"{opened.name} has no tree {tree!r}{did_you_mean(tree, trees)}; it has {trees or 'no tree at all'}")


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
    """Tell a failing machine from a broken file, of which uproot may read too little, or seek an impossible place (EINVAL)."""
    if isinstance(error, OSError) and not isinstance(error, TimeoutError):
        return error.errno not in (None, errno.EINVAL, errno.ENOENT)
    return isinstance(error, MemoryError | TimeoutError)
