"""Decoded row groups on a local disk, so that Parquet is decoded once and not in every epoch: is what lies there true?

A split has one file with a place for each row group that belongs to the cache: the first ones in the order of the shards that
fit in the bound. It appears at once, empty and with its space reserved, so that a full disk is an error then and not a crash
later. It is mapped into memory, and batches are made from the mapping. Whoever decodes a row group first copies it to its
place, and after it the hash of what was copied.

Nothing is trusted without its hash: a process compares it when it first meets a row group, and decodes again where it differs.
So a process that dies while it writes leaves nothing wrong behind, and two that fill the same place at once write the same
bytes. Files of other datasets, columns or types give way, those that were not used for the longest time first.
"""

import fcntl
import json
import logging
import mmap
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import xxhash

from distjet.dataset.streaming.layout import WORD, Bank, Layout, RowGroup, Store
from distjet.dataset.streaming.settings import CacheConfig
from distjet.errors import ConfigError
from distjet.run_directory import identity_hash

logger = logging.getLogger(__name__)

VERSION = 1
"Raised when the bytes of a cached row group change for the same content."
SUFFIX = ".rows"
TEMPORARY = ".temporary"
LOCK = ".lock"
HEADER_BYTES = 4096


@dataclass(frozen=True)
class CacheKey:
    """What the content of a cache depends on: files with another key are other files.

    Attributes:
        dataset: Fingerprint of the dataset.
        split: Name of the split.
        share: Part of the bound that is for this split.
    """

    dataset: str
    split: str
    share: float = 1.0

    def path(self, config: CacheConfig, layout: Layout) -> Path:
        """Return the file; the files of the splits of a dataset have names that differ in the end alone."""
        content = [self.dataset, layout.columns, list(layout.node), layout.is_half, config.max_bytes, VERSION]
        return config.directory / f"{identity_hash({'content': content})}-{self.split}{SUFFIX}"


class RowGroupCache:
    """The cached row groups of one split.

    Attributes:
        store: All of them; the place of a row group is its number in the split.
    """

    def __init__(self, config: CacheConfig, layout: Layout, groups: Sequence[RowGroup], key: CacheKey) -> None:
        """Open the file of a split, or make it, and room for it.

        Raises:
            ConfigError: If the disk is full.
        """
        self.layout, self.path = layout, key.path(config, layout)
        sizes = list(accumulate(layout.num_bytes(group) for group in groups))
        self.groups = groups[: bisect_right(sizes, config.max_bytes * key.share)]
        self.is_verified = [False] * len(self.groups)
        self.header = json.dumps({"name": self.path.name, "row_groups": len(self.groups)}).encode()
        first_row = np.cumsum([0, *(group.rows for group in self.groups)])
        first_word = np.cumsum([0, *(layout.num_words(group) for group in self.groups)])
        records_at = HEADER_BYTES + 8 * len(self.groups)
        self.words_at = records_at + 12 * int(first_row[-1])
        self.mapping = self._open(config, self.words_at + WORD * int(first_word[-1]))
        self.marks = np.frombuffer(self.mapping, np.uint64, len(self.groups), HEADER_BYTES)
        records = np.frombuffer(self.mapping, np.int32, 3 * int(first_row[-1]), records_at).reshape(-1, 3)
        words = np.frombuffer(self.mapping, np.float32, int(first_word[-1]), self.words_at)
        self.store = Store(Bank.over(records, words), first_row, first_word)
        logger.info("%s holds %d of %d row groups", self.path, len(self.groups), len(groups))

    def is_ready(self, group: int) -> bool:
        """Whether batches may be made from the row group's place; if so, the system is asked to read it ahead."""
        if group >= len(self.groups) or not self.is_verified[group]:
            return False
        first, last = (self.words_at + WORD * int(word) for word in self.store.first_word[group : group + 2])
        page = first - first % mmap.PAGESIZE
        self.mapping.madvise(mmap.MADV_WILLNEED, page, last - page)
        return True

    def verify(self, group: int) -> bool:
        """Compare the hash of a row group that another process may have copied here; return whether it may be used."""
        if group < len(self.groups) and self.marks[group]:
            self.is_verified[group] = int(self.marks[group]) == hash_of(self._part(group))
        return self.is_ready(group)

    def fill(self, group: int, part: Bank) -> None:
        """Copy a decoded row group to its place, if it has one."""
        if group < len(self.groups):
            mine = self._part(group)
            mine.records[...] = part.records
            mine.words[...] = part.words[: len(mine.words)]
            self.marks[group] = hash_of(mine)
            self.is_verified[group] = True

    def _part(self, group: int) -> Bank:
        return self.store.part(group, self.groups[group].rows)

    def _open(self, config: CacheConfig, num_bytes: int) -> mmap.mmap:
        """Map the file; make it where it is absent, or not what it should be."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.path.parent):
            if not self._is_usable(num_bytes):
                make_room(self.path, num_bytes, config.max_bytes)
                self._create(num_bytes)
            with self.path.open("r+b") as file:
                os.utime(file.fileno())
                return mmap.mmap(file.fileno(), num_bytes)

    def _is_usable(self, num_bytes: int) -> bool:
        if not self.path.is_file() or self.path.stat().st_size != num_bytes:
            return False
        with self.path.open("rb") as file:
            return file.read(HEADER_BYTES).rstrip(b"\0") == self.header

    def _create(self, num_bytes: int) -> None:
        temporary = self.path.with_suffix(TEMPORARY)
        try:
            with temporary.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, num_bytes)
                file.write(self.header)
            temporary.replace(self.path)
        except OSError as error:
            raise ConfigError(
                f"stream.cache: {num_bytes / 1e9:.3g} GB for {self.path}: {error.strerror}; "
                "lower stream.cache.max_bytes, or set stream.cache=null"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Let one process at a time add and remove files; the lock goes with the process."""
    with (directory / LOCK).open("a") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def make_room(path: Path, num_bytes: int, max_bytes: int) -> None:
    """Remove files from a cache's directory until `path` can have `num_bytes`; those of its own dataset stay.

    A process that has a removed file mapped goes on with it; the disk has its space back when that process ends.
    """
    for left_behind in path.parent.glob(f"*{TEMPORARY}"):  # by a process that died
        left_behind.unlink()
    files = {file: file.stat() for file in path.parent.glob(f"*{SUFFIX}") if file != path}
    total = num_bytes + sum(status.st_size for status in files.values())
    mine = path.name.partition("-")[0]
    for file in sorted(files, key=lambda file: files[file].st_mtime):
        if total > max_bytes and not file.name.startswith(f"{mine}-"):
            file.unlink()
            total -= files[file].st_size


def hash_of(bank: Bank) -> int:
    """Hash the records of a row group and where they are; never 0, which stands for nothing."""
    digest = xxhash.xxh3_64(bank.records.data)
    digest.update(bank.bytes.data)
    return digest.intdigest() or 1
