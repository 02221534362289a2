"""How do entries of a TTree or an RNTuple become flat arrays?

`std::vector`, C arrays, nested vectors and RNTuple collections all end as one flat array and the offsets of each level of
nesting. Files are opened for one read and closed; uproot's caches are off, because no basket is read twice. Offsets are trimmed
to start at zero: a slice of a jagged array otherwise keeps the content of its neighbours.

Whatever goes wrong while uproot decodes a file becomes a DataError, because a broken file can raise almost anything; the
caller quarantines the file with that reason. What the machine reports (a disk, a network or a mount that fails, no memory, no
permission) says nothing about the file: it is raised as it is, and whoever runs the task may try again. uproot checks no
checksums of pages, so a flipped bit in zstd data can pass unnoticed here.
"""

import errno
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot
import xxhash

from distjet.config import did_you_mean
from distjet.dataset.features import FEATURES
from distjet.errors import DataError

NO_UUID = "0" * 32
"ROOT writes this where it does not know a file's unique identifier."


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


@dataclass(frozen=True)
class BranchType:
    """Type of the values and number of levels of nesting."""

    dtype: str
    depth: int


def describe_file(path: str, tree: str, branches: Sequence[str]) -> dict[str, Any]:
    """Look at a file without reading its entries.

    Args:
        path: A ROOT file.
        tree: Name of its TTree or RNTuple.
        branches: Branches that will be read.

    Returns:
        `uuid` (of the content), `size_bytes`, `entries`, `clusters` (entry boundaries at which reading can be divided),
        `branches` {name: (dtype, depth)} of those found, `missing` {name: suggestion} of the others.

    Raises:
        DataError: If the file cannot be read or has no such tree; the reason is in the message.
    """
    with _as_data_error(path):
        size = Path(path).stat().st_size
    if size == 0:
        raise DataError(f"{path} is empty (0 bytes)")
    with _open_tree(path, tree) as source, _as_data_error(path):
        entries = int(source.num_entries)
        known = set(source.keys(recursive=True, full_paths=False)) if _is_ttree(source) else set(source.keys())
        found = [name for name in branches if name in known]
        types = {name: _branch_type(path, name, source[name].typename) for name in found if entries or source[name].typename}
        uuid = source.file.uuid.hex
        clusters = _clusters(source, found)
    missing = {name: did_you_mean(name, [*known, *FEATURES]) for name in branches if name not in known}
    return {
        "uuid": uuid if uuid != NO_UUID else content_hash(path),
        "size_bytes": size,
        "entries": entries,
        "clusters": clusters,
        "branches": {name: (kind.dtype, kind.depth) for name, kind in types.items()},
        "missing": missing,
    }


def read_branches(path: str, tree: str, branches: Sequence[str], start: int, stop: int) -> dict[str, Ragged]:
    """Read branches of the entries [start, stop).

    Raises:
        DataError: If the file cannot be read.
    """
    with _open_tree(path, tree) as source, _as_data_error(path):
        return {name: _flatten(source[name].array(entry_start=start, entry_stop=stop, library="ak")) for name in branches}


def content_hash(path: str) -> str:
    """Hash a file's bytes: its identity where it carries none."""
    digest = xxhash.xxh3_128()
    with Path(path).open("rb") as handle:
        while block := handle.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def empty(kind: BranchType) -> Ragged:
    """Return zero entries of a branch."""
    return Ragged(np.zeros(0, kind.dtype), tuple(np.zeros(1, np.int64) for _ in range(kind.depth)))


@contextmanager
def _open_tree(path: str, tree: str) -> Iterator[Any]:
    with _as_data_error(path):
        file = uproot.open(path, array_cache=None, object_cache=None)
    with file:
        with _as_data_error(path):
            classes = {key.partition(";")[0]: name for key, name in file.classnames(recursive=True).items()}
            trees = [key for key, name in classes.items() if name in ("TTree", "TNtuple", "TNtupleD") or "RNTuple" in name]
        if tree not in trees:
            raise DataError(f"{path} has no tree {tree!r}{did_you_mean(tree, trees)}; it has {trees or 'no tree at all'}")
        with _as_data_error(path):
            source = file[tree]
        yield source


@contextmanager
def _as_data_error(path: str) -> Iterator[None]:
    """Turn whatever uproot raises while it decodes a file into a DataError, but not what the machine reports."""
    try:
        yield
    except DataError:
        raise
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


def _is_ttree(source: Any) -> bool:
    return hasattr(source, "common_entry_offsets")


def _clusters(source: Any, branches: Sequence[str]) -> list[int]:
    """Return the entry boundaries at which no basket or page is cut."""
    if _is_ttree(source):
        if not branches:
            return [0, int(source.num_entries)]
        wanted = set(branches)
        return [int(edge) for edge in source.common_entry_offsets(filter_branch=lambda branch: branch.name in wanted)]
    starts = [int(summary.num_first_entry) for summary in source.cluster_summaries]
    return sorted({0, *starts, int(source.num_entries)})


def _branch_type(path: str, name: str, typename: str) -> BranchType:
    """Read depth and dtype off a C++ type such as `std::vector<std::vector<float>>`, `float[]` or `std::array<int, 3>`."""
    inner = typename.replace(" ", "")
    depth = inner.count("[")
    inner = re.sub(r"\[[^]]*\]", "", inner)
    while match := re.fullmatch(r"(?:std::)?(?:vector|array|ROOT::VecOps::RVec|ROOT::RVec)<(.*?)(?:,\d+)?>", inner):
        depth, inner = depth + 1, match.group(1)
    dtype = _DTYPES.get(inner.removeprefix("std::"))
    if dtype is None:
        raise DataError(f"{path}: branch {name!r} holds {typename}; expected numbers or lists of numbers")
    return BranchType(dtype, depth)


_DTYPES = {
    "bool": "bool", "char": "int8", "unsignedchar": "uint8", "short": "int16", "unsignedshort": "uint16", "int": "int32",
    "unsignedint": "uint32", "long": "int64", "longlong": "int64", "unsignedlong": "uint64", "float": "float32",
    "double": "float64", "Float_t": "float32", "Double_t": "float64", "Double32_t": "float64", "Float16_t": "float32",
    **{f"{sign}int{bits}_t": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}  # fmt: skip


def _flatten(array: ak.Array) -> Ragged:
    """Split a jagged array into its flat content and the offsets of each level, trimmed to the entries that were read."""
    layout = ak.to_layout(array)
    offsets: list[np.ndarray] = []
    while True:
        if layout.is_numpy and layout.data.ndim > 1:
            layout = layout.to_RegularArray()
        if not (layout.is_list or layout.is_regular):
            break
        trimmed = layout.to_ListOffsetArray64(True)
        offsets.append(np.asarray(trimmed.offsets.data, dtype=np.int64))
        layout = trimmed.content[: offsets[-1][-1]]
    content = ak.to_numpy(layout)
    return Ragged(np.ascontiguousarray(content, dtype=content.dtype.newbyteorder("=")), tuple(offsets))
