"""Spec: nearest neighbours and neighbours within a radius, equal to all pairs in Python's whole numbers and to scipy's tree."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from distjet.dataset.graphs.edges import Edges
from distjet.dataset.graphs.grid import FULL_TURN, GRID
from distjet.dataset.graphs.neighbours import knn_edges, radius_edges

Place = tuple[int, int]
Edge = tuple[int, int]


def pairs_of(edges: Edges, graph: int = 0) -> list[Edge]:
    mine = slice(edges.offsets[graph], edges.offsets[graph + 1])
    return list(zip(edges.source[mine].tolist(), edges.target[mine].tolist(), strict=True))


def coordinates(places: list[Place]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Turn steps of the grid into (eta, phi) and offsets."""
    eta, phi = np.array(places, np.float64).reshape(-1, 2).T / GRID
    return eta, phi, np.array([0, len(places)])


def nearest(places: list[Place], k: int) -> list[Edge]:
    return pairs_of(knn_edges(*coordinates(places), k))


def within(places: list[Place], radius: float) -> list[Edge]:
    return pairs_of(radius_edges(*coordinates(places), radius))


def squared(a: Place, b: Place) -> int:
    turn = abs(a[1] - b[1]) % FULL_TURN
    return (a[0] - b[0]) ** 2 + min(turn, FULL_TURN - turn) ** 2


def expected_nearest(places: list[Place], k: int) -> list[Edge]:
    found = set()
    for i, here in enumerate(places):
        others = sorted((squared(here, there), j) for j, there in enumerate(places) if j != i)
        found |= {(min(i, j), max(i, j)) for _, j in others[:k]}
    return sorted(found)


def expected_within(places: list[Place], radius: float) -> list[Edge]:
    reach = (radius * GRID) ** 2
    return [(i, j) for (i, a), (j, b) in itertools.combinations(enumerate(places), 2) if squared(a, b) < reach]


half = FULL_TURN // 2
anywhere = st.tuples(st.integers(-3_000_000, 3_000_000), st.integers(-half, half))
on_lattice = st.tuples(st.integers(-3, 3).map(lambda i: 100_000 * i), st.integers(-3, 3).map(lambda i: 100_000 * i))
place_sets = st.lists(st.one_of(anywhere, on_lattice), max_size=30)
neighbours = st.integers(1, 12)
radii = st.one_of(st.floats(1e-6, 4.0), st.sampled_from([100_000 / GRID, 200_000 / GRID, 500_000 / GRID]))


@settings(max_examples=150, deadline=None)
@given(place_sets, neighbours)
def test_nearest_neighbours_equal_all_pairs_in_whole_numbers(places, k):
    assert nearest(places, k) == expected_nearest(places, k)


@settings(max_examples=150, deadline=None)
@given(place_sets, radii)
def test_neighbours_within_a_radius_equal_all_pairs_in_whole_numbers(places, radius):
    assert within(places, radius) == expected_within(places, radius)


@settings(max_examples=60, deadline=None)
@given(st.lists(on_lattice, max_size=30), neighbours)
def test_of_equally_distant_constituents_the_first_are_nearer(places, k):
    """A lattice is full of ties and of constituents in one place."""
    assert nearest(places, k) == expected_nearest(places, k)


@settings(max_examples=60, deadline=None)
@given(place_sets, neighbours, radii, st.integers(-half, half))
def test_a_rotation_in_phi_changes_nothing(places, k, radius, steps):
    rotated = [(x, (y + steps + half) % FULL_TURN - half) for x, y in places]
    assert nearest(rotated, k) == nearest(places, k)
    assert within(rotated, radius) == within(places, radius)


@settings(max_examples=60, deadline=None)
@given(place_sets, neighbours, radii, st.randoms(use_true_random=False))
def test_the_order_of_constituents_does_not_matter(places, k, radius, random):
    order = list(range(len(places)))
    random.shuffle(order)
    shuffled = [places[i] for i in order]

    def renamed(edges: list[Edge]) -> list[Edge]:
        return sorted((min(order[a], order[b]), max(order[a], order[b])) for a, b in edges)

    assert renamed(within(shuffled, radius)) == within(places, radius)
    distances = [squared(a, b) for a, b in itertools.combinations(places, 2)]
    assume(len(distances) == len(set(distances)))  # the order decides between equally distant ones
    assert renamed(nearest(shuffled, k)) == nearest(places, k)


@pytest.mark.parametrize("size", [2, 17, 18, 60, 255, 256, 257, 400])
def test_many_graphs_equal_the_tree_of_scipy(size):
    rng = np.random.default_rng(size)
    sizes = np.array([size, 0, 1, size])
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    x = rng.integers(-500_000, 500_000, offsets[-1])
    y = (rng.integers(-500_000, 500_000, offsets[-1]) + 2 * half) % FULL_TURN - half  # across phi = +-pi
    found = knn_edges(x / GRID, y / GRID, offsets, 16), radius_edges(x / GRID, y / GRID, offsets, 0.21)
    for graph in (0, 3):
        mine = slice(offsets[graph], offsets[graph + 1])
        tree = cKDTree(np.stack([x[mine], y[mine] % FULL_TURN], axis=1), boxsize=[0, FULL_TURN])
        _, reached = tree.query(tree.data, min(17, size))
        pairs = {(min(i, j), max(i, j)) for i, row in enumerate(reached.tolist()) for j in row if i != j}
        assert pairs_of(found[0], graph) == sorted(pairs)
        assert pairs_of(found[1], graph) == sorted(tree.query_pairs(0.21 * GRID))
    assert [len(pairs_of(edges, graph)) for edges in found for graph in (1, 2)] == [0] * 4


def test_none_to_three_constituents():
    for k in (1, 2, 5):
        assert nearest([], k) == nearest([(0, 0)], k) == []
        assert nearest([(0, 0), (9, 9)], k) == [(0, 1)]
    assert nearest([(0, 0), (2, 0), (3, 0)], 1) == [(0, 1), (1, 2)]
    assert nearest([(0, 0), (2, 0), (3, 0)], 2) == [(0, 1), (0, 2), (1, 2)]
    assert within([], 1.0) == within([(0, 0)], 1.0) == []


def test_a_graph_of_at_most_k_others_is_fully_connected():
    places = [(i * i, i) for i in range(17)]
    assert nearest(places, 16) == list(itertools.combinations(range(17), 2))
    assert len(nearest([*places, (400, 0)], 16)) < 18 * 17 // 2


def test_a_distance_equal_to_the_radius_is_not_within_it():
    steps = 1 << 18  # a quarter
    assert within([(0, 0), (steps, 0)], 0.25) == []
    assert within([(0, 0), (steps - 1, 0)], 0.25) == [(0, 1)]


def test_constituents_on_both_sides_of_pi_are_near_each_other():
    places = [(0, half - 10), (0, 10 - half), (0, 0)]
    assert within(places, 1e-3) == [(0, 1)]
    assert nearest(places, 1) == [(0, 1), (0, 2)]


def test_all_constituents_in_one_place():
    assert within([(5, 5)] * 6, 1e-6) == list(itertools.combinations(range(6), 2))
    assert nearest([(5, 5)] * 6, 2) == expected_nearest([(5, 5)] * 6, 2)


def test_edges_take_no_more_memory_than_they_need():
    rng = np.random.default_rng(0)
    eta, phi = rng.normal(0, 0.3, (2, 300))
    for edges in (knn_edges(eta, phi, np.array([0, 300]), 8), radius_edges(eta, phi, np.array([0, 300]), 0.1)):
        assert edges.source.base.nbytes == 2 * (len(edges.source) + 1)
