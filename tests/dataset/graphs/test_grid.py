"""Spec: coordinates become whole numbers of at most 24 bits, and those that cannot are refused with their place."""

import numpy as np
import pytest

from distjet.dataset.graphs.grid import GRID, MAX_COORDINATE, in_range, snap
from distjet.errors import DataError


def test_coordinates_are_rounded_to_the_nearest_step():
    points = snap(np.array([0.0, 0.26, -1.0]) / GRID, np.array([0.74, 3.0, -2.6]) / GRID, np.array([0, 1, 3]))
    assert points.x.tolist() == [0, 0, -1]
    assert points.y.tolist() == [1, 3, -3]
    assert points.offsets.tolist() == [0, 1, 3]


def test_the_largest_coordinates_have_24_bits_with_the_sign():
    largest = np.nextafter(MAX_COORDINATE, 0)
    points = snap(np.array([largest, -largest]), np.zeros(2), np.array([0, 2]))
    assert points.x.tolist() == [2**23 - 1, -(2**23) + 1]
    assert not in_range(np.array([MAX_COORDINATE, 8.0, -8.0, np.inf, -np.inf, np.nan])).any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 8.0, -9.5])
def test_coordinates_that_cannot_be_exact_are_refused(bad):
    message = f"delta_phi of a constituent must be finite and below 8 .got {bad:g} at constituent 1 of graph 2"
    with pytest.raises(DataError, match=message):
        snap(np.zeros(5), np.array([0, 0, 0, bad, 0]), np.array([0, 2, 2, 5]))


def test_graphs_that_local_numbers_of_16_bits_cannot_address_are_refused():
    with pytest.raises(DataError, match=r"a graph can have 65535 constituents .got 65536 in graph 1"):
        snap(np.zeros(65537), np.zeros(65537), np.array([0, 1, 65537]))
