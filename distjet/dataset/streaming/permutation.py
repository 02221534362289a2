"""Where does row i of n go in a shuffle that nobody stores?

A permutation is a function of a 64-bit key. In each round a number is paired with a keyed partner, and a keyed coin that the
two have in common decides whether they swap places. So the place of one row is known without the places of the others, in any
process and with any version of numpy, and a hundred million rows need no table.

Reference:
    V. T. Hoang, B. Morris, P. Rogaway, "An enciphering scheme based on a card shuffle", CRYPTO 2012, arXiv:1208.1176 (swap or
    not). Here it mixes data and hides nothing, so few rounds and a fast mixing function are enough.
"""

import numpy as np
from numba import njit

from distjet.dataset.hashing import splitmix64

NUM_ROUNDS = 16
"A row meets a partner in each round, and is left where it was with a probability of 2^-16."


def keys_of(*parts: int | np.ndarray) -> np.ndarray:
    """Mix whole numbers into 64-bit keys; arrays of shape (K,) among them give K keys, uint64, else one, shape (1,)."""
    key = np.zeros(1, np.uint64)
    for part in parts:
        number = np.atleast_1d(np.asarray(part, dtype=np.int64)).view(np.uint64)
        key = splitmix64(key ^ number)
    return key


def shuffled(num_items: int, key: np.ndarray) -> np.ndarray:
    """Return the numbers below `num_items` in the order of a key (uint64, shape (1,)); every order is equally likely."""
    return np.argsort(splitmix64(key ^ np.arange(num_items, dtype=np.uint64)), kind="stable")


def places(items: np.ndarray, sizes: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Return where items go, each in the permutation of its own range.

    Args:
        items: Numbers to permute, int64, shape (K,), each below its size.
        sizes: Length of each range, below 2^32, int64, shape (K,).
        keys: Key of each permutation, uint64, shape (K,).

    Returns:
        Permuted numbers, int64, shape (K,): a bijection of the range for one size and one key.
    """
    result, states = items.copy(), keys.copy()
    for _ in range(NUM_ROUNDS):
        _swap_or_not(result, sizes, states)
    return result


@njit(cache=True, nogil=True)
def _swap_or_not(items, sizes, states):  # type: ignore[no-untyped-def]
    """Make one round, in place; without branches, so that the processor has many items under way."""
    for i in range(len(items)):
        state = states[i] * np.uint64(0xD1342543DE82EF95) + np.uint64(0x9E3779B97F4A7C15)
        states[i] = state
        item, size = items[i], sizes[i]
        # the upper 32 bits are a fraction of the range, which saves a division
        partner = np.int64(((state >> np.uint64(32)) * np.uint64(size)) >> np.uint64(32)) - item
        partner += size & (partner >> np.int64(63))
        coin = (np.uint64(max(item, partner)) ^ state) * np.uint64(0xBF58476D1CE4E5B9)
        swap = np.int64(((coin ^ (coin >> np.uint64(29))) >> np.uint64(33)) & np.uint64(1))
        items[i] = item ^ ((item ^ partner) & -swap)
