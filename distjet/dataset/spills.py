"""How do rows wait between the two passes? Whole, one behind the other, in the order of their keys.

The shuffle takes a short range of keys out of every spill, so the rows of a range have to lie together: stored by column, each
of a thousand shards would read twenty pieces of some hundred bytes from each of a thousand spills. Here a range costs a look
into a small index (how many rows of each split have a key below 1/4096, 2/4096, ... of the range of keys) and two reads: the
records, which hold the numbers of the rows, and the words, which hold their lists and the bytes of their edges.

    number of rows | index | records | words: [list 0 of row 0][list 1 of row 0]...[edges of row 0][list 0 of row 1]...

The layout follows from the columns and is not written down: a spill lives no longer than its run, and its name is a hash of
everything that defines it. Rows that are packed in memory are the same thing without a file.

On an object store, the same bytes of all spills are asked for at once, in three rounds: index, records, words.
"""

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import xxhash
from numba import njit

from distjet.dataset.schema import SPLITS, ColumnSpec
from distjet.errors import DataError
from distjet.run_directory import appearing_whole
from distjet.storage import is_remote, read_ranges

_CELL_BITS = 12
_CELLS = 1 << _CELL_BITS
_INDEX = np.dtype("<u4")
_WORD = np.dtype("<u4")
_COUNT = np.dtype("<i8")
_INDEX_SIZE = len(SPLITS) * _CELLS + 1
_RECORDS_BEGIN = _COUNT.itemsize + _INDEX_SIZE * _INDEX.itemsize

_SPILLS_AT_ONCE = 256
"On an object store: their words are in memory twice."

_U = np.uint64
_MEMORY = threading.local()


class PackedRows(NamedTuple):
    """Rows in some order; good until this thread packs or reads other rows, which then take the place of their words.

    Attributes:
        records: The numbers of each row, shape (R,), of the type that the layout says.
        words: Lists and bytes of all rows, uint32, shape (W,).
    """

    records: np.ndarray
    words: np.ndarray


@dataclass(frozen=True)
class RowLayout:
    """What a row consists of, given the columns of the dataset."""

    columns: tuple[ColumnSpec, ...]

    @cached_property
    def numbers(self) -> tuple[str, ...]:
        """Columns with one number in a row."""
        return tuple(c.name for c in self.columns if not c.is_list and c.dtype not in ("binary", "string"))

    @cached_property
    def lists(self) -> tuple[str, ...]:
        """Columns with a float32 for each of the row's `num_nodes` constituents."""
        return tuple(c.name for c in self.columns if c.is_list)

    @cached_property
    def blob(self) -> str | None:
        """The column of bytes, if there is one."""
        return next((c.name for c in self.columns if c.dtype == "binary"), None)

    @cached_property
    def record(self) -> np.dtype:
        """Type of a record: split, key, first word, number of bytes, number of the sample (set by the reader); the numbers."""
        kinds = {column.name: column.dtype for column in self.columns}
        own = [(".key", "u8"), (".first_word", "i8"), (".num_bytes", "i4"), (".sample", "i4"), (".split", "i8")]
        return np.dtype([*own, *((name, kinds[name]) for name in self.numbers)])


class Places(NamedTuple):
    """Where rows go: split (0, 1 or 2) and shuffle key, shape (R,), and the order by split, key and identity."""

    split: np.ndarray
    key: np.ndarray
    order: np.ndarray


def pack_rows(layout: RowLayout, table: pa.Table, places: Places) -> PackedRows:
    """Pack the rows of a table (one chunk, all columns but `sample`) in the order of their places; see `PackedRows`."""
    order = places.order
    arrays = {name: table[name].chunk(0) for name in table.column_names}
    records = np.zeros(len(order), layout.record)
    records[".split"], records[".key"] = places.split[order], places.key[order]
    for name in layout.numbers:
        records[name] = arrays[name].to_numpy()[order]
    if layout.blob is not None:
        records[".num_bytes"] = np.diff(_offsets(arrays[layout.blob]))[order]
    ends = np.cumsum(_ends(layout, records))
    records[".first_word"][1:] = ends[:-1]
    words = _reused_words(int(ends[-1]) if len(ends) else 0)
    for place, name in enumerate(layout.lists):
        values = arrays[name].values.to_numpy().view(_WORD)
        _pack_list(values, _offsets(arrays[name]), order, records[".first_word"], place, words)
    if layout.blob is not None:
        content = np.frombuffer(arrays[layout.blob].buffers()[2] or b"", np.uint8)
        _pack_bytes(content, _offsets(arrays[layout.blob]), order, _first_bytes(layout, records), words.view(np.uint8))
    return PackedRows(records, words)


def unpack_rows(layout: RowLayout, rows: PackedRows, selected: np.ndarray, samples: Sequence[str]) -> pa.Table:
    """Return some packed rows as a table with all columns.

    Args:
        layout: Of the rows.
        rows: Packed rows.
        selected: Which of them, in the order of the table, shape (S,).
        samples: Name of each sample number.
    """
    records = rows.records[selected]
    arrays = {name: pa.array(np.ascontiguousarray(records[name])) for name in layout.numbers}
    arrays["sample"] = pa.DictionaryArray.from_arrays(records[".sample"], pa.array(samples, pa.string())).cast(pa.string())
    arrays |= _unpack_lists(layout, records, rows.words) | _unpack_blob(layout, records, rows.words)
    fields = [column.arrow_field() for column in layout.columns]
    return pa.Table.from_arrays([arrays[field.name] for field in fields], schema=pa.schema(fields))


def _unpack_lists(layout: RowLayout, records: np.ndarray, words: np.ndarray) -> dict[str, pa.Array]:
    if not layout.lists:
        return {}
    offsets = _offsets_of(records["num_nodes"])
    content = np.empty((len(layout.lists), offsets[-1]), _WORD)
    _unpack_all_lists(words, np.ascontiguousarray(records[".first_word"]), offsets, content)
    kind = {column.name: column.arrow_type() for column in layout.columns}
    starts = pa.array(offsets.astype(np.int32))
    values = content.view(np.float32)
    return {
        name: pa.ListArray.from_arrays(starts, pa.array(values[place]), type=kind[name])
        for place, name in enumerate(layout.lists)
    }


def _unpack_blob(layout: RowLayout, records: np.ndarray, words: np.ndarray) -> dict[str, pa.Array]:
    if layout.blob is None:
        return {}
    offsets = _offsets_of(records[".num_bytes"])
    content = np.empty(offsets[-1], np.uint8)
    _unpack_bytes(words.view(np.uint8), _first_bytes(layout, records), offsets, content)
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(content)]
    return {layout.blob: pa.BinaryArray.from_buffers(pa.binary(), len(records), buffers)}


def write_spill(path: Path, rows: PackedRows) -> dict[str, Any]:
    """Write packed rows, which must be in order of split and key, so that the file appears whole.

    Returns:
        `size_bytes` and `xxh3_128` of the file: a run that is continued looks whether it is still what it was.
    """
    cell = rows.records[".split"] * _CELLS + (rows.records[".key"] >> _U(64 - _CELL_BITS)).astype(np.int64)
    index = np.searchsorted(cell, np.arange(_INDEX_SIZE)).astype(_INDEX)
    digest = xxhash.xxh3_128()
    with appearing_whole(path) as temporary, temporary.open("wb") as file:
        for part in (np.array([len(cell)], _COUNT), index, rows.records, rows.words):
            content = part.view(np.uint8).data
            file.write(content)
            digest.update(content)
        return {"size_bytes": file.tell(), "xxh3_128": digest.hexdigest()}


def read_spills(layout: RowLayout, spills: Sequence[tuple[Path, int]], split: int, low: int, high: int) -> PackedRows:
    """Collect the rows of one split and one range of keys.

    Args:
        layout: Of the rows.
        spills: Files, and the number of the sample that the rows of each belong to.
        split: 0, 1 or 2.
        low: First key.
        high: Last key (inclusive).

    Returns:
        The rows, spill after spill.
    """
    wanted, paths = _Wanted(layout, split, low, high), [path for path, _ in spills]
    find, read_words = (_find_remote, _read_words_remote) if spills and is_remote(paths[0]) else (_find, _read_words)
    parts, ranges, num_words = [np.zeros(0, layout.record)], [], 0
    for (path, sample), (records, begin, size) in zip(spills, find(wanted, paths), strict=True):
        if len(records):
            records[".first_word"] += num_words - records[".first_word"][0]
            records[".sample"] = sample
            parts.append(records)
            ranges.append((path, begin, size))
            num_words += size
    words = _reused_words(num_words)
    read_words(ranges, words)
    return PackedRows(np.concatenate(parts), words)


_Found = tuple[np.ndarray, int, int]
"The wanted records of a spill; where their words begin, in bytes, and how many words there are."


class _Wanted(NamedTuple):
    """The rows of one split and one range of keys."""

    layout: RowLayout
    split: int
    low: int
    high: int

    @property
    def index_part(self) -> tuple[int, int]:
        """First byte of the part of an index that says where the rows are, and number of its entries."""
        low_cell, high_cell = (self.split * _CELLS + (key >> (64 - _CELL_BITS)) for key in (self.low, self.high))
        return _COUNT.itemsize + low_cell * _INDEX.itemsize, high_cell + 2 - low_cell

    def records(self, index: np.ndarray) -> tuple[int, int]:
        """Return the first byte of the records in the cells of the index, and their number."""
        return _RECORDS_BEGIN + int(index[0]) * self.layout.record.itemsize, int(index[-1]) - int(index[0])

    def found(self, num_rows: int, records: np.ndarray) -> _Found:
        """Cut the records to the range of keys, and find their words in a spill of so many rows."""
        keys = np.ascontiguousarray(records[".key"])
        begin, end = np.searchsorted(keys, _U(self.low), side="left"), np.searchsorted(keys, _U(self.high), side="right")
        records = records[begin:end]
        if not len(records):
            return records, 0, 0
        first, last = int(records[".first_word"][0]), int(_ends(self.layout, records[-1:])[0])
        words_begin = _RECORDS_BEGIN + num_rows * self.layout.record.itemsize
        return records, words_begin + first * _WORD.itemsize, last - first


def _find(wanted: _Wanted, paths: Sequence[Path]) -> Iterator[_Found]:
    for path in paths:
        with path.open("rb", buffering=0) as handle:
            file = handle.fileno()
            num_rows = int(_read(file, 0, np.empty(1, _COUNT))[0])
            index_begin, size = wanted.index_part
            begin, count = wanted.records(_read(file, index_begin, np.empty(size, _INDEX)))
            found = wanted.found(num_rows, _read(file, begin, np.empty(count, wanted.layout.record)))
            if found[2]:
                _advise(file, "WILLNEED", *found[1:])
        yield found


def _read_words(ranges: Sequence[tuple[Path, int, int]], words: np.ndarray) -> None:
    """Read the words of all spills, which are on their way from the disk by now."""
    place = 0
    for path, begin, size in ranges:
        with path.open("rb", buffering=0) as file:
            _read(file.fileno(), begin, words[place : place + size])
            _advise(file.fileno(), "DONTNEED", begin, size)
        place += size


def _find_remote(wanted: _Wanted, paths: Sequence[Path]) -> Iterator[_Found]:
    num_rows = _fetch([(path, 0, 1) for path in paths], _COUNT)
    places = [wanted.records(index) for index in _fetch([(path, *wanted.index_part) for path in paths], _INDEX)]
    filled = [(path, begin, count) for path, (begin, count) in zip(paths, places, strict=True) if count]
    records = iter(_fetch(filled, wanted.layout.record))
    nothing = np.zeros(0, wanted.layout.record)
    for rows, (_, count) in zip(num_rows, places, strict=True):
        yield wanted.found(int(rows[0]), next(records) if count else nothing)


def _read_words_remote(ranges: Sequence[tuple[Path, int, int]], words: np.ndarray) -> None:
    place = 0
    for first in range(0, len(ranges), _SPILLS_AT_ONCE):
        for part in _fetch(ranges[first : first + _SPILLS_AT_ONCE], _WORD):
            words[place : place + len(part)] = part
            place += len(part)


def _fetch(wanted: Sequence[tuple[Path, int, int]], kind: np.dtype) -> list[np.ndarray]:
    """Fetch arrays (spill, first byte, number of items) from an object store."""
    replies = read_ranges([(path, begin, begin + count * kind.itemsize) for path, begin, count in wanted])
    for reply, (path, _, count) in zip(replies, wanted, strict=True):
        if len(reply) != count * kind.itemsize:
            missing = count * kind.itemsize - len(reply)
            raise DataError(f"{path} ends {missing} bytes too early; remove {path.parent} and run the same command again")
    return [np.frombuffer(bytearray(reply), kind) for reply in replies]


def leave_memory(path: Path) -> None:
    """Tell the system that a file which is on the disk need not be kept in memory as well.

    What `prepare` writes is read once, much later and maybe by another machine (spills), or not again (shards). All of it is
    larger than memory: the system would fill every free page with it, which takes time, on a virtual machine much of it.
    """
    with path.open("rb") as file:
        _advise(file.fileno(), "DONTNEED")


def _advise(file: int, advice: str, begin: int = 0, num_words: int = 0) -> None:
    """Say how a range of a file will be used, where the system takes such advice; no words: the whole file."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file, begin, num_words * _WORD.itemsize, getattr(os, f"POSIX_FADV_{advice}"))


def _reused_words(size: int) -> np.ndarray:
    """Return so many words to be filled.

    A worker fills several hundred megabytes for each shard. It uses the same memory for all of them: the system clears memory
    that it hands out, which takes as long as everything else that is done to these words.
    """
    words = getattr(_MEMORY, "words", np.empty(0, _WORD))
    if size > len(words):
        words = np.empty(size + size // 8, _WORD)
        _MEMORY.words = words
    return words[:size]


def _read(file: int, begin: int, into: np.ndarray) -> np.ndarray:
    """Fill an array with what a file holds from a byte on."""
    left = into.view(np.uint8).data
    while left:
        size = os.preadv(file, [left], begin)  # may read less than it was asked for, above 2 GB
        if not size:
            raise DataError(f"a spill ends {len(left)} bytes too early; remove the folder .work and run the same command again")
        begin, left = begin + size, left[size:]
    return into


def _first_bytes(layout: RowLayout, records: np.ndarray) -> np.ndarray:
    """Return where the bytes of each row begin: after its lists."""
    lists = len(layout.lists) * records["num_nodes"].astype(np.int64) if layout.lists else 0
    return (records[".first_word"] + lists) * _WORD.itemsize


def _ends(layout: RowLayout, records: np.ndarray) -> np.ndarray:
    """Return one past the last word of each row."""
    return -(-(_first_bytes(layout, records) + records[".num_bytes"]) // _WORD.itemsize)


def _offsets(array: pa.Array) -> np.ndarray:
    """Return where the list or the bytes of each row begin, int32, shape (R + 1,)."""
    if pa.types.is_list(array.type):
        return array.offsets.to_numpy()
    return np.frombuffer(array.buffers()[1], np.int32)[array.offset :][: len(array) + 1]


def _offsets_of(sizes: np.ndarray) -> np.ndarray:
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise DataError(f"{offsets[-1]} constituents or bytes of edges in one row group are too many; lower row_group_size")
    return offsets


# Below, indices are unsigned: signed ones are tested for being negative at each access, which takes five times as long.


@njit(cache=True, nogil=True)
def _pack_list(values, offsets, order, first_words, place, words):  # type: ignore[no-untyped-def]
    """Copy one list of each row behind the `place` lists that are there already."""
    for i in range(len(order)):
        begin, end = _U(offsets[order[i]]), _U(offsets[order[i] + 1])
        at = _U(first_words[i]) + _U(place) * (end - begin)
        for k in range(end - begin):
            words[at + _U(k)] = values[begin + _U(k)]


@njit(cache=True, nogil=True)
def _pack_bytes(content, offsets, order, first_bytes, packed):  # type: ignore[no-untyped-def]
    for i in range(len(order)):
        begin, end = _U(offsets[order[i]]), _U(offsets[order[i] + 1])
        at = _U(first_bytes[i])
        for k in range(end - begin):
            packed[at + _U(k)] = content[begin + _U(k)]
        for k in range(end - begin, (end - begin + _U(3)) // _U(4) * _U(4)):
            packed[at + _U(k)] = 0  # the rest of the last word


@njit(cache=True, nogil=True)
def _unpack_all_lists(words, first_words, offsets, content):  # type: ignore[no-untyped-def]
    for i in range(len(first_words)):
        size, to, at = _U(offsets[i + 1] - offsets[i]), _U(offsets[i]), _U(first_words[i])
        for place in range(len(content)):
            for k in range(size):
                content[place, to + _U(k)] = words[at + _U(k)]
            at += size


@njit(cache=True, nogil=True)
def _unpack_bytes(packed, first_bytes, offsets, content):  # type: ignore[no-untyped-def]
    for i in range(len(first_bytes)):
        at, to = _U(first_bytes[i]), _U(offsets[i])
        for k in range(_U(offsets[i + 1]) - to):
            content[to + _U(k)] = packed[at + _U(k)]
