"""Which columns of an RNTuple hold a branch, and are their pages the ones that were written?

A branch of lists is a chain of fields: each collection holds where its lists end, the last field holds the numbers. Reading the
chain column by column gives flat arrays at once, from exactly the clusters that are asked for; uproot's own `arrays` reads the
cluster behind them as well, which doubles the work where a task is one cluster.

uproot checks the anchor, the header and the footer. We check what it leaves: the lists of pages (each with a checksum of its
own) and the pages, where they carry a checksum. ROOT writes these unless told otherwise; uproot does not.

Reference:
    ROOT, "RNTuple Binary Format Specification" 1.0.0, sections "Envelopes" and "Page Locations".
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import uproot
import xxhash

from distjet.dataset.reading.byte_source import CHECKSUM_BYTES, ByteSource, Page
from distjet.dataset.reading.ragged import BranchType, Ragged, branch_type, empty
from distjet.errors import DataError

ROLE = uproot.const.RNTupleFieldRole

NO_LISTS = ("std::optional", "std::unique_ptr")
"Are stored as lists of at most one element."


@dataclass(frozen=True)
class Link:
    """One field of a chain: a column (of list ends, or the numbers), or a fixed number of elements without a column."""

    column: int = -1
    length: int = 0


@dataclass(frozen=True)
class Chain:
    """The fields from the outermost list of a branch to its numbers.

    Attributes:
        links: One for each level of nesting, from the outside, and one for the numbers.
        typename: C++ type of the numbers.
    """

    links: tuple[Link, ...]
    typename: str


class NTupleReader:
    """An RNTuple.

    Args:
        ntuple: As uproot reads it.
        source: Its bytes.

    Raises:
        DataError: If a list of pages is damaged.
    """

    def __init__(self, ntuple: Any, source: ByteSource) -> None:
        self.ntuple, self.source = ntuple, source
        _check_page_lists(ntuple)
        self.fields: Sequence[Any] = ntuple.field_records
        self.ids = {field.path: number for number, field in enumerate(ntuple.all_fields)}
        self.children: dict[int, list[int]] = defaultdict(list)
        for number, record in enumerate(self.fields):
            if record.parent_field_id != number:  # a field at the top names itself as its parent
                self.children[record.parent_field_id].append(number)
        self.columns: dict[int, list[int]] = defaultdict(list)
        for index, column in enumerate(ntuple.column_records):
            self.columns[column.field_id].append(index)

    @property
    def uuid(self) -> str:
        """ROOT's unique identifier of the file."""
        return self.ntuple.file.uuid.hex

    @property
    def num_entries(self) -> int:
        """Number of entries."""
        return int(self.ntuple.num_entries)

    def keys(self) -> list[str]:
        """Return the names of all fields that can be asked for."""
        return [name for name in self.ids if name is not None]

    def branch_type(self, name: str) -> BranchType:
        """Return what a field holds.

        Raises:
            DataError: If it holds anything but numbers and lists of numbers.
        """
        chain = self._chain(name)
        return branch_type(name, chain.typename, len(chain.links) - 1)

    def clusters(self, branches: Sequence[str]) -> list[int]:
        """Return the entries at which clusters begin, and the number of entries."""
        del branches
        return sorted({0, *self._starts(), self.num_entries})

    def has_page_checksums(self, branches: Sequence[str]) -> bool:
        """Return whether all pages of these fields have a checksum."""
        clusters = range(len(self._starts()))
        return all(page.has_checksum for name in branches for page in self._pages(name, clusters))

    def read(self, branches: Sequence[str], start: int, stop: int) -> dict[str, Ragged]:
        """Read the entries [start, stop).

        Raises:
            DataError: If a page is damaged.
        """
        if start == stop:
            return {name: empty(self.branch_type(name)) for name in branches}
        clusters = self._clusters_of(start, stop)
        values: dict[str, Ragged] = {}
        for names in [branches] if self.source.is_remote else [[name] for name in branches]:
            pages = [page for name in names for page in self._pages(name, clusters)]
            with self.source.holding_pages(pages):
                values |= {name: self._read(name, clusters, start, stop) for name in names}
        return values

    def _starts(self) -> list[int]:
        return [int(cluster.num_first_entry) for cluster in self.ntuple.cluster_summaries]

    def _clusters_of(self, start: int, stop: int) -> range:
        starts = self._starts()
        first = int(np.searchsorted(starts, start, side="right")) - 1
        return range(max(first, 0), int(np.searchsorted(starts, stop, side="left")))

    def _chain(self, name: str) -> Chain:
        """Follow a field to its numbers: its fields are those that it lies in, itself, and those that it consists of."""
        fields = [*self._ancestors(self.ids[name])]
        while len(self.children[fields[-1]]) == 1 and self.fields[fields[-1]].struct_role != ROLE.RECORD:
            fields += self.children[fields[-1]]
        links = [link for number in fields for link in self._links(number)]
        is_odd = any(self.fields[number].type_name.startswith(NO_LISTS) for number in fields)
        if is_odd or self.children[fields[-1]] or not links or links[-1].column < 0:
            typename = self.fields[self.ids[name]].type_name or "a structure"
            raise DataError(f"branch {name!r} holds {typename}; expected numbers or lists of numbers")
        return Chain(tuple(links), self.fields[fields[-1]].type_name)

    def _ancestors(self, number: int) -> Iterator[int]:
        parent = self.fields[number].parent_field_id
        if parent != number:
            yield from self._ancestors(parent)
        yield number

    def _links(self, number: int) -> list[Link]:
        """Return what a field adds to a chain: a struct nothing; a projected field stands for the one that it is a view of."""
        record = self.fields[number]
        columns = self.columns[number if record.source_field_id is None else record.source_field_id]
        if record.repetition:
            return [Link(length=int(record.repetition))]
        return [Link(columns[0])] if columns and record.struct_role in (ROLE.COLLECTION, ROLE.LEAF) else []

    def _pages(self, name: str, clusters: range) -> list[Page]:
        """Say where the pages of a field lie in some clusters."""
        columns = [link.column for link in self._chain(name).links if link.column >= 0]
        return [
            Page(
                start=int(page.locator.offset),
                stop=int(page.locator.offset + page.locator.num_bytes),
                label=f"field {name!r}, cluster {cluster}, column {column}, page {number}",
                has_checksum=bool(page.has_checksum),
            )
            for cluster in clusters
            for column in columns
            for number, page in enumerate(self._page_list(cluster, column))
        ]

    def _page_list(self, cluster: int, column: int) -> Sequence[Any]:
        """Return the pages of a column, or of the other representation of its field that this cluster uses."""
        lists = self.ntuple.page_link_list[cluster]
        if column < len(lists) and lists[column].suppressed:
            others = self.columns[self.ntuple.column_records[column].field_id]
            column = next(other for other in others if not lists[other].suppressed)
        return lists[column].pages if column < len(lists) else ()

    def _read(self, name: str, clusters: range, start: int, stop: int) -> Ragged:
        chain = self._chain(name)
        first_entry = self._starts()[clusters.start]
        low, high = start - first_entry, stop - first_entry
        offsets = []
        for link in chain.links[:-1]:
            if link.length:
                level = np.arange(low, high + 1) * link.length
            else:
                level = self._column(link.column, clusters, first_entry)[low : high + 1].astype(np.int64)
            low, high = int(level[0]), int(level[-1])
            offsets.append(level - low)
        content = self._column(chain.links[-1].column, clusters, first_entry)[low:high]
        return Ragged(np.ascontiguousarray(content, self.branch_type(name).dtype), tuple(offsets))

    def _column(self, column: int, clusters: range, first_entry: int) -> np.ndarray:
        """Read a column; where it was added while the file was written, zeros stand in for what came before."""
        absent = max(int(self.ntuple.column_records[column].first_element_index) - first_entry, 0)
        return self.ntuple.read_cluster_range(column, clusters.start, clusters.stop, missing_element_padding=absent)


def _check_page_lists(ntuple: Any) -> None:
    for number, group in enumerate(ntuple.footer.cluster_group_records):
        link = group.page_list_link
        chunk, _ = ntuple.read_locator(link.locator, link.env_uncomp_size)
        content, checksum = chunk.raw_data[:-CHECKSUM_BYTES], chunk.raw_data[-CHECKSUM_BYTES:]
        if xxhash.xxh3_64_intdigest(content) != int.from_bytes(bytes(checksum), "little"):
            raise DataError(f"the list of pages of cluster group {number} is damaged: its checksum is not the one behind it")
