"""Are the rows that were written the rows that were read, whatever their order?

Every row is hashed to 128 bits from the bits of all its columns, and the hashes are added up modulo 2^128. The sum does not
depend on the order of the rows nor on how they were divided into tasks, and it changes if a row is lost, doubled or changed, or
if two rows exchange a value: so the sum over the spills must be that over the shards, and that over the shards as they are read
back.

A row's hash is two chains of 64 bits, one of which takes in a word by exclusive or, the other by addition, each followed by a
rotation and a multiplication. One word is two floats or eight bytes. Both steps are one-to-one in the word, so a single changed
word always changes both chains. The length of a list goes before its values, or [1], [2, 3] would be [1, 2], [3]. Numbers enter
by their bits: 0.0 is not -0.0. This protects against accidents, not against an attacker.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa
from numba import njit

from distjet.dataset.hashing import splitmix64, text_key
from distjet.dataset.schema import ColumnSpec

Values = np.ndarray | tuple[np.ndarray, np.ndarray]
"A column: one number per row, shape (R,); or flat values (uint8 for bytes) and where each row's begin, shape (R + 1,)."

_MODULUS = 2**128
_STARTS = np.array([0x243F6A8885A308D3, 0x13198A2E03707344], np.uint64)  # the digits of pi
_FACTORS = (np.uint64(0xA4093822299F31D1), np.uint64(0x082EFA98EC4E6C89))  # they go on, made odd
_U = np.uint64


def row_hashes(table: pa.Table, columns: Sequence[ColumnSpec], sample: str | None = None) -> np.ndarray:
    """Hash the rows of a table.

    Args:
        table: Rows of a dataset.
        columns: Columns of the dataset, in order; what else is in the table does not count.
        sample: Name of the sample that all rows belong to; None: the table has a column `sample`.

    Returns:
        128 bits for each row as two words, uint64, shape (R, 2).
    """
    names = [column.name for column in columns if column.name != "sample"]
    parts = [
        hash_rows(_sample_keys(batch, sample), (column_values(batch.column(name)) for name in names))
        for batch in table.to_batches()
    ]
    return np.concatenate([np.zeros((0, 2), np.uint64), *parts])


def hash_rows(sample_keys: np.ndarray, columns: Iterable[Values]) -> np.ndarray:
    """Hash rows whose columns are flat arrays.

    Args:
        sample_keys: `text_key` of the name of each row's sample, uint64, shape (R,).
        columns: All other columns, in the order of the dataset.

    Returns:
        128 bits for each row as two words, uint64, shape (R, 2).
    """
    state = splitmix64(sample_keys[:, None] ^ _STARTS)
    for values in columns:
        if isinstance(values, tuple):
            _take_in_lists(state, _bits(values[0]), np.ascontiguousarray(values[1], np.int64))
        else:
            _take_in_numbers(state, _bits(values))
    return splitmix64(state)


def column_values(array: pa.Array) -> Values:
    """Return an Arrow array (numbers, lists of numbers, or bytes) as flat arrays, without a copy."""
    if pa.types.is_list(array.type):
        return array.values.to_numpy(), array.offsets.to_numpy()
    if pa.types.is_binary(array.type):
        _, offsets, content = array.buffers()
        starts = np.frombuffer(offsets, np.int32)[array.offset : array.offset + len(array) + 1] if len(array) else np.zeros(1)
        return np.frombuffer(content or b"", np.uint8), starts
    return array.to_numpy()


def add_up(hashes: np.ndarray) -> int:
    """Add 128-bit hashes, shape (R, 2), modulo 2^128; exact for up to 2^32 rows."""
    low, high = (
        int((hashes[:, word] & _U(0xFFFFFFFF)).sum()) + (int((hashes[:, word] >> _U(32)).sum()) << 32) for word in (0, 1)
    )
    return (low + (high << 64)) % _MODULUS


def sums_by_sample(table: pa.Table, hashes: np.ndarray) -> dict[str, str]:
    """Add up the hashes of the rows of each sample that is in a table; as text."""
    if not table.num_rows:
        return {}
    names = table["sample"].combine_chunks()
    names = names if pa.types.is_dictionary(names.type) else names.dictionary_encode()
    numbers = names.indices.to_numpy()
    return {
        name: as_text(add_up(hashes[numbers == number]))
        for number, name in enumerate(names.dictionary.to_pylist())
        if (numbers == number).any()
    }


def as_text(total: int) -> str:
    """Write a sum as 32 hexadecimal characters, as it stands in records and in the manifest."""
    return f"{total:032x}"


def total(sums: Iterable[str]) -> str:
    """Add up sums that are written as text."""
    return as_text(sum(int(text, 16) for text in sums) % _MODULUS)


def totals_by_sample(parts: Iterable[dict[str, str]]) -> dict[str, str]:
    """Add up the sums by sample of several parts of a dataset; sorted by name."""
    sums: dict[str, int] = {}
    for part in parts:
        for name, text in part.items():
            sums[name] = (sums.get(name, 0) + int(text, 16)) % _MODULUS
    return {name: as_text(value) for name, value in sorted(sums.items())}


def _sample_keys(batch: pa.RecordBatch, sample: str | None) -> np.ndarray:
    if sample is not None:
        return np.full(batch.num_rows, text_key(sample), np.uint64)
    names = batch.column("sample")
    names = names if pa.types.is_dictionary(names.type) else names.dictionary_encode()
    keys = np.array([text_key(name) for name in names.dictionary.to_pylist()], np.uint64)
    return keys[names.indices.to_numpy()]


def _bits(values: np.ndarray) -> np.ndarray:
    """Look at numbers as unsigned integers of the same size."""
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")


@njit(cache=True, nogil=True, inline="always")
def _take_in(a, b, word):  # type: ignore[no-untyped-def]
    """Take one word into both chains."""
    a, b = a ^ word, b + word
    return ((a << _U(29)) | (a >> _U(35))) * _FACTORS[0], ((b << _U(37)) | (b >> _U(27))) * _FACTORS[1]


@njit(cache=True, nogil=True)
def _take_in_numbers(state, values):  # type: ignore[no-untyped-def]
    for row in range(len(values)):
        state[row, 0], state[row, 1] = _take_in(state[row, 0], state[row, 1], _U(values[row]))


@njit(cache=True, nogil=True)
def _take_in_lists(state, values, offsets):  # type: ignore[no-untyped-def]
    per_word = 8 // values.itemsize
    for row in range(len(offsets) - 1):
        i, stop = offsets[row], offsets[row + 1]
        a, b = _take_in(state[row, 0], state[row, 1], _U(stop - i))
        while i + per_word <= stop:
            a, b = _take_in(a, b, _word(values, i))
            i += per_word
        while i < stop:
            a, b = _take_in(a, b, _U(values[i]))
            i += 1
        state[row, 0], state[row, 1] = a, b


@njit(cache=True, nogil=True, inline="always")
def _word(values, i):  # type: ignore[no-untyped-def]
    """Join the values from i on to one word, the first one lowest."""
    if values.itemsize == 4:  # written out, because the compiler does not unroll the loop below
        return _U(values[i]) | (_U(values[i + 1]) << _U(32))
    word = _U(0)
    for k in range(8 // values.itemsize):
        word |= _U(values[i + k]) << _U(8 * values.itemsize * k)
    return word
