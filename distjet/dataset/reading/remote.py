"""How do bytes come from a server?

Through fsspec, whichever the protocol. Requests are for ranges of bytes, and it is ranges that are asked for again when a
request fails, so a connection that breaks costs one block and not the file. A server that does not know ranges sends the whole
file instead, which then has to fit in memory.
"""

import bisect
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, get_args

import fsspec

from distjet.config import unknown
from distjet.dataset.reading.checksums import URL_MARK, Hasher
from distjet.dataset.reading.retries import repeat
from distjet.dataset.recipes.recipe import Protocol
from distjet.errors import ConfigError, DataError, MissingExtraError
from distjet.run_directory import NOT_OFFERED, saying_which_disk_is_full

Range = tuple[int, int]
"First byte, and one past the last."

Entries = list[tuple[str, bool]]
"Names in a folder, and whether they are folders."

WILDCARD, ANY_FOLDERS = re.compile(r"[*?[]"), "**"

BLOCK_BYTES = 1 << 24
"Of a copy; so much is lost when a connection breaks."

WIDEST_GAP, LARGEST_MERGED = 1 << 15, 1 << 23
"Ranges are fetched together if they lie this close and are not more than so much in all, in bytes."

TAGS = ("ETag", "etag", "Last-Modified", "LastModified", "mtime")
"Where the file systems tell that a file has changed."


class RemoteInfo(NamedTuple):
    """What a server says about a file; the size is None where it does not say."""

    size: int | None
    tag: str


@dataclass(frozen=True)
class RemoteFile:
    """A file on a server.

    Attributes:
        url: Where it lies.
        retries: How often a request is repeated.
        options: Of fsspec for this protocol, as JSON.
    """

    url: str
    retries: int
    options: str = "{}"

    def info(self) -> RemoteInfo:
        """Ask for size and tag.

        Raises:
            DataError: If there is no such file.
            ConfigError: If the server refuses.
            OSError: If there is no answer.
        """
        files, path = open_file_system(self.url, json.loads(self.options))

        def ask() -> RemoteInfo:
            files.invalidate_cache()
            found = files.info(path)
            return RemoteInfo(found.get("size"), str(next((found[name] for name in TAGS if found.get(name)), "")))

        return repeat(ask, self.url, self.retries)

    def read(self, ranges: Sequence[Range]) -> list[bytes]:
        """Fetch ranges of bytes, neighbours together.

        Raises:
            ConfigError: If the server refuses, or sends whole files only.
            DataError: If there is no such file.
            OSError: If there is no answer.
        """
        files, path = open_file_system(self.url, json.loads(self.options))
        merged = merge(ranges)
        received: dict[Range, bytes] = {}

        def fetch() -> None:
            missing = [item for item in merged if item not in received]
            starts, stops = ([item[side] for item in missing] for side in (0, 1))
            failures = []
            replies = files.cat_ranges([path] * len(missing), starts, stops, on_error="return")
            for item, reply in zip(missing, replies, strict=True):
                if isinstance(reply, bytes) and len(reply) == item[1] - item[0]:
                    received[item] = reply
                else:
                    failures.append(self._failure(item, reply))
            if failures:
                raise failures[0]

        repeat(fetch, self.url, self.retries)
        return [_cut(received, merged, item) for item in ranges]

    def _failure(self, wanted: Range, reply: Any) -> BaseException:
        if isinstance(reply, BaseException):
            return reply
        size = wanted[1] - wanted[0]
        if len(reply) > size:
            return ConfigError(f"{self.url}: the server does not know ranges of bytes; use remote=stage")
        return ConnectionError(f"{len(reply)} of {size} bytes came")

    def download(self, target: Path, size: int | None, hasher: Hasher) -> None:
        """Make a copy that appears when it is whole; a part that an interrupted process left is continued.

        Args:
            target: Of the copy. It names the state of the file on the server, so a part of another state is not taken for it.
            size: As the server says.
            hasher: Takes all bytes.

        Raises:
            DataError: If there is no such file.
            ConfigError: If the server refuses.
            OSError: If there is no answer, or no room.
        """
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f"{target.name}.part")
        with saying_which_disk_is_full(part), part.open("a+b") as handle:
            _lock(handle)  # a second task waits for the copy of the first
            if not target.exists():
                self._continue(handle, size, hasher)
                part.replace(target)
                return
        part.unlink(missing_ok=True)
        with target.open("rb") as copy:
            hasher.update_from(copy)

    def _continue(self, handle: BinaryIO, size: int | None, hasher: Hasher) -> None:
        """Fetch what is missing in a part."""
        if size is None:  # nor is it known of what the part is a part
            handle.truncate(0)
        handle.seek(0)
        hasher.update_from(handle)
        position = handle.tell()
        while size is None or position < size:
            block = self._whole() if size is None else self._block(position, size)
            handle.write(block)
            hasher.update(block)
            position += len(block)
            size = position if size is None else size
        handle.flush()
        os.fsync(handle.fileno())

    def _whole(self) -> bytes:
        files, path = open_file_system(self.url, json.loads(self.options))
        return repeat(lambda: files.cat_file(path), self.url, self.retries)

    def _block(self, start: int, size: int) -> bytes:
        """Fetch the next block, or all that is left where the server sends whole files."""
        files, path = open_file_system(self.url, json.loads(self.options))
        stop = min(start + BLOCK_BYTES, size)

        def fetch() -> bytes:
            data = files.cat_file(path, start=start, end=stop)
            if len(data) == stop - start:
                return data
            if len(data) == size:
                return data[start:]
            raise ConnectionError(f"{len(data)} of {stop - start} bytes came")

        return repeat(fetch, self.url, self.retries)


def open_file_system(url: str, options: dict[str, Any]) -> tuple[Any, str]:
    """Return the file system behind a URL and the path there.

    Raises:
        ConfigError: If the protocol is unknown.
        MissingExtraError: If its package is not installed.
    """
    protocol = url.partition(URL_MARK)[0]
    if protocol not in (known := get_args(Protocol)):
        raise ConfigError(f"{url}: " + unknown("protocol", protocol, known))
    try:
        return fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise MissingExtraError(f"{url} needs a package that is not installed ({error})", "remote") from error


def list_files(pattern: str, options: dict[str, Any], retries: int) -> list[str]:
    """Return the URLs that match a pattern with *, sorted; a URL without is itself, whether it exists or not.

    The folders are listed here: fsspec takes a listing that failed for an empty folder, and a sample would be missing.

    Args:
        pattern: A URL with * ? [ ] in its path; ** stands for any number of folders.
        options: Of fsspec for this protocol.
        retries: How often a listing is repeated.

    Raises:
        ConfigError: If the protocol is unknown, or the server refuses, or cannot list files.
        MissingExtraError: If the package of the protocol is not installed.
        OSError: If there is no answer.
    """
    files, path = open_file_system(pattern, options)
    if "*" not in pattern:
        return [pattern]
    folder, _, _ = path[: path.index("*")].rpartition("/")
    wanted = path[len(folder) :].removeprefix("/").split("/")
    files.invalidate_cache()
    try:
        found = set(_matching(lambda place: _entries(files, place, retries), folder, wanted))
    except NotImplementedError as error:
        raise ConfigError(f"{pattern}: this server cannot list its files; give them one by one, or in a .txt file") from error
    return sorted(files.unstrip_protocol(file) for file in found)


def _matching(entries: Callable[[str], Entries], folder: str, wanted: Sequence[str]) -> Iterator[str]:
    """Find the files below a folder that match the parts of a pattern."""
    first, rest = wanted[0], wanted[1:]
    if rest and not WILDCARD.search(first):
        yield from _matching(entries, f"{folder}/{first}", rest)
        return
    if first == ANY_FOLDERS:
        yield from _matching(entries, folder, rest or ["*"])
    for name, is_folder in entries(folder):
        if is_folder and first == ANY_FOLDERS:
            yield from _matching(entries, f"{folder}/{name}", wanted)
        elif is_folder and rest and fnmatchcase(name, first):
            yield from _matching(entries, f"{folder}/{name}", rest)
        elif not is_folder and not rest and first != ANY_FOLDERS and fnmatchcase(name, first):
            yield f"{folder}/{name}"


def _entries(files: Any, folder: str, retries: int) -> Entries:
    """List the names in a folder; none if there is no such folder."""
    place = files._strip_protocol(f"{folder}/")  # HTTP keeps the slash, which servers want, and the others take it away
    try:
        listed = repeat(lambda: files.ls(place, detail=True), folder, retries)
    except DataError:
        return []
    split = [(item["name"].rstrip("/").rpartition("/"), item["type"] == "directory") for item in listed]
    return [(name, is_folder) for (parent, _, name), is_folder in split if parent.strip("/") == folder.strip("/")]


def merge(ranges: Sequence[Range]) -> list[Range]:
    """Join ranges that lie close together, in ascending order."""
    merged: list[Range] = []
    for start, stop in sorted(set(ranges)):
        if merged and start - merged[-1][1] <= WIDEST_GAP and stop - merged[-1][0] <= LARGEST_MERGED:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return merged


def _cut(received: dict[Range, bytes], merged: Sequence[Range], wanted: Range) -> bytes:
    """Take a range out of the merged one that holds it."""
    whole = merged[bisect.bisect_right(merged, wanted[0], key=lambda item: item[0]) - 1]
    return received[whole][wanted[0] - whole[0] : wanted[1] - whole[0]]


def _lock(handle: BinaryIO) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise
