"""How are branches of a TTree read into flat arrays?

One branch at a time through uproot, which decompresses and joins the baskets. Its `arrays` would do the same for many branches
at once, but first goes through all branches of the tree, which costs more than the reading where there are thousands.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import awkward as ak
import numpy as np

from distjet.dataset.reading.byte_source import ByteSource
from distjet.dataset.reading.ragged import BranchType, Ragged, branch_type


class TreeReader:
    """A TTree.

    Args:
        tree: As uproot reads it.
        source: Its bytes.
    """

    def __init__(self, tree: Any, source: ByteSource) -> None:
        self.tree, self.source = tree, source

    @property
    def uuid(self) -> str:
        """ROOT's unique identifier of the file."""
        return self.tree.file.uuid.hex

    @property
    def num_entries(self) -> int:
        """Number of entries."""
        return int(self.tree.num_entries)

    def keys(self) -> list[str]:
        """Return the names of all branches."""
        return self.tree.keys(recursive=True, full_paths=False)

    def branch_type(self, name: str) -> BranchType:
        """Return what a branch holds.

        Raises:
            DataError: If it holds anything but numbers.
        """
        return branch_type(name, self.tree[name].typename)

    def clusters(self, branches: Sequence[str]) -> list[int]:
        """Return the entries at which no basket of these branches is cut, from 0 to the number of entries."""
        if not branches:
            return [0, self.num_entries]
        wanted = set(branches)
        return [int(edge) for edge in self.tree.common_entry_offsets(filter_branch=lambda branch: branch.name in wanted)]

    def has_page_checksums(self, branches: Sequence[str]) -> bool | None:
        """Return whether the parts of the branches have checksums of their own, a question for RNTuples only."""
        del branches
        return None

    def read(self, branches: Sequence[str], start: int, stop: int) -> dict[str, Ragged]:
        """Read the entries [start, stop)."""
        with self.source.holding(self._baskets(branches, start, stop)) if self.source.is_remote else nullcontext():
            arrays = {name: self.tree[name].array(entry_start=start, entry_stop=stop, library="ak") for name in branches}
        return {name: flatten(array) for name, array in arrays.items()}

    def _baskets(self, branches: Sequence[str], start: int, stop: int) -> list[tuple[int, int]]:
        """Say where the baskets lie; those that stand in the tree itself are there already."""
        found = [item for name in branches for _, item in self.tree[name].entries_to_ranges_or_baskets(start, stop)]
        return [(int(item[0]), int(item[1])) for item in found if isinstance(item, tuple)]


def flatten(array: ak.Array) -> Ragged:
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
