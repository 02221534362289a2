"""The stateless permutation: a bijection for every size and key, and as uniform as a shuffle, down to three items."""

from math import factorial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distjet.dataset.streaming.permutation import keys_of, places, shuffled


def permutations(size: int, num_keys: int) -> np.ndarray:
    """Permute `size` items with many keys at a time, shape (num_keys, size)."""
    keys = keys_of(5, np.arange(num_keys))
    items = np.tile(np.arange(size), num_keys)
    return places(items, np.full(len(items), size), np.repeat(keys, size)).reshape(num_keys, size)


@settings(deadline=None)  # the first call compiles
@given(st.integers(1, 5000), st.integers(0, 2**63 - 1))
def test_it_is_a_bijection(size: int, key: int) -> None:
    result = places(np.arange(size), np.full(size, size), np.full(size, key, np.uint64))
    np.testing.assert_array_equal(np.sort(result), np.arange(size))


def chi2_per_degree(counts: np.ndarray) -> float:
    expected = counts.mean()
    return float(((counts - expected) ** 2 / expected).sum() / (counts.size - 1))


@pytest.mark.parametrize("size", [3, 4, 5])
def test_every_order_of_a_few_items_is_equally_likely(size: int) -> None:
    orders = permutations(size, 400 * factorial(size)) @ (10 ** np.arange(size))
    _, counts = np.unique(orders, return_counts=True)
    assert len(counts) == factorial(size)
    assert chi2_per_degree(counts) < 2.0


@pytest.mark.parametrize("size", [16, 100, 250])
def test_items_go_everywhere_and_neighbours_part(size: int) -> None:
    found = permutations(size, 2000)
    for item in (0, 1, size // 2, size - 1):
        assert chi2_per_degree(np.bincount(found[:, item], minlength=size)) < 2.0
    apart = (found[:, 1:] - found[:, :-1]) % size
    assert chi2_per_degree(np.bincount(apart.ravel(), minlength=size)[1:]) < 2.0


def test_the_numbers_never_change() -> None:
    """A state of a stream that was saved by another version continues with these."""
    key = keys_of(1, 2, 3)
    assert places(np.arange(6), np.full(6, 6), np.repeat(key, 6)).tolist() == [4, 5, 0, 1, 3, 2]
    assert shuffled(6, key).tolist() == [0, 5, 3, 2, 1, 4]
    assert len(set(keys_of(1, 2, np.arange(1000)).tolist())) == 1000
