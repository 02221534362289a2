"""Where does a row go? To which split, and to which place in the shuffle?

Both are seeded hashes of what the row is (sample, run, event and, for the shuffle, the jet's number), never of where it was
read. So all jets of an event share a split, adding files moves nothing, and the order is the same for any number of
workers. The mixing function is splitmix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA
2014).
"""

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SPLIT_STREAM = 0x53504C4954
_SHUFFLE_STREAM = 0x53485546


def splitmix64(state: np.ndarray) -> np.ndarray:
    """Mix 64-bit numbers: the output of the generator whose state was `state`, shape (N,), uint64."""
    with np.errstate(over="ignore"):
        z = state + _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        return z ^ (z >> np.uint64(31))


def text_key(text: str) -> int:
    """Hash a text to 64 bits, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def split_keys(seed: int, sample: str, run: np.ndarray, event: np.ndarray) -> np.ndarray:
    """Hash events, for the split; run and event int64 (N,), result uint64 (N,)."""
    return _chain(seed ^ _SPLIT_STREAM, sample, run, event)


def shuffle_keys(seed: int, sample: str, run: np.ndarray, event: np.ndarray, jet_index: np.ndarray) -> np.ndarray:
    """Hash rows, for the order of the dataset; int64 (N,) each, result uint64 (N,)."""
    return _chain(seed ^ _SHUFFLE_STREAM, sample, run, event, jet_index)


def split_numbers(keys: np.ndarray, train: float, val: float) -> np.ndarray:
    """Assign keys to train (0), val (1) and test (2) by fractions of the range of 64-bit numbers."""
    edges = [min(int(fraction * 2**64), 2**64 - 1) for fraction in (train, train + val)]
    numbers = np.searchsorted(np.array(edges, dtype=np.uint64), keys, side="right")
    return np.minimum(numbers, 2 if train + val < 1 else (1 if train < 1 else 0)).astype(np.int8)


def _chain(seed: int, sample: str, *parts: np.ndarray) -> np.ndarray:
    state = splitmix64(np.full(len(parts[0]), (seed ^ text_key(sample)) % 2**64, dtype=np.uint64))
    for part in parts:
        state = splitmix64(state ^ np.ascontiguousarray(part, dtype=np.int64).view(np.uint64))
    return state
