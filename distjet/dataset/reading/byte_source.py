"""How does uproot get its bytes?

A handler of our own, for local files as for remote ones, because it holds no file open between reads (what uproot has parsed of
a file may then outlive a task), starts no threads, maps no memory (a file that shrinks under a map kills the process), and can
fetch the ranges of many branches or pages in one go before uproot asks for them one by one.

It is also the place where the pages of an RNTuple meet their checksums: xxh3 of the bytes on disk, in the eight bytes behind
them. uproot reads the pages and ignores these, so whoever fetches a page here fetches eight bytes more and compares. What is
decoded afterwards is what was compared, wherever a bit may have flipped on the way.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Queue
from typing import Any, Protocol

import uproot
import xxhash

from distjet.dataset.reading.remote import Range, RemoteFile
from distjet.errors import DataError

CHECKSUM_BYTES = 8


class Reader(Protocol):
    """Reads ranges of bytes of one file."""

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return the bytes of each range."""
        ...


@dataclass(frozen=True)
class LocalFile:
    """A file in a file system of this machine."""

    path: str

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """Return the bytes of each range, fewer where the file ends."""
        with open(self.path, "rb", buffering=0) as handle:
            return [os.pread(handle.fileno(), stop - start, start) for start, stop in ranges]


@dataclass(frozen=True)
class Page:
    """Where a page of an RNTuple lies, what it is, and whether its checksum stands behind it."""

    start: int
    stop: int
    label: str
    has_checksum: bool


class ByteSource(uproot.source.chunk.Source):
    """The source of a file's bytes, for `uproot.open(..., handler=ByteSource, reader=..., size=...)`.

    Args:
        file_path: Name of the file, for messages.
        reader: Reads its bytes.
        size: Of the file.
        options: Those of uproot, which need nothing here.
    """

    def __init__(self, file_path: str, *, reader: Reader, size: int, **options: Any) -> None:
        super().__init__()
        del options
        self._file_path, self._num_bytes = file_path, size
        self._reader = reader
        self._held: dict[Range, bytes] = {}

    def chunk(self, start: int, stop: int) -> Any:
        """Return one range."""
        return self._chunks([(start, stop)])[0]

    def chunks(self, ranges: list[Range], notifications: "Queue[Any]") -> list[Any]:
        """Return several ranges, and say of each that it is there."""
        found = self._chunks(ranges)
        for chunk in found:
            notifications.put(chunk)
        return found

    def _chunks(self, ranges: Sequence[Range]) -> list[Any]:
        missing = [item for item in ranges if item not in self._held]
        fetched = dict(zip(missing, self._read(missing), strict=True))
        data = [self._held[item] if item in self._held else fetched[item] for item in ranges]
        return [
            uproot.source.chunk.Chunk(self, start, stop, uproot.source.futures.TrivialFuture(piece))
            for (start, stop), piece in zip(ranges, data, strict=True)
        ]

    def _read(self, ranges: Sequence[Range]) -> list[bytes]:
        """Read ranges as far as the file goes; uproot complains about what is missing."""
        size = self._num_bytes
        return self._reader.read([(min(start, size), min(stop, size)) for start, stop in ranges]) if ranges else []

    @property
    def is_remote(self) -> bool:
        """Whether many small requests are worse than a few large ones."""
        return isinstance(self._reader, RemoteFile)

    @contextmanager
    def holding(self, ranges: Iterable[Range]) -> Iterator[None]:
        """Fetch ranges in one go and keep them for the time of the block."""
        wanted = list(set(ranges))
        self._held = dict(zip(wanted, self._read(wanted), strict=True))
        try:
            yield
        finally:
            self._held = {}

    @contextmanager
    def holding_pages(self, pages: Sequence[Page]) -> Iterator[None]:
        """Fetch pages in one go, compare those that have a checksum with it, and keep them for the time of the block.

        Raises:
            DataError: If a page is not the one that was written, naming it.
        """
        found = self._read([(page.start, page.stop + CHECKSUM_BYTES * page.has_checksum) for page in pages])
        self._held = {
            (page.start, page.stop): _checked(page, data) if page.has_checksum else data
            for page, data in zip(pages, found, strict=True)
        }
        try:
            yield
        finally:
            self._held = {}

    @property
    def closed(self) -> bool:
        """Whether it is closed: never, as nothing is open."""
        return False

    def __enter__(self) -> "ByteSource":
        return self

    def __exit__(self, *error: object) -> None:
        self._held = {}


def _checked(page: Page, data: bytes) -> bytes:
    """Split a page from its checksum and compare."""
    content, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
    if xxhash.xxh3_64_intdigest(content) != int.from_bytes(checksum, "little"):
        raise DataError(f"{page.label} at byte {page.start} is damaged: its checksum is not the one behind it")
    return content
