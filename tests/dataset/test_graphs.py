"""Spec: the triangulation equals scipy's on random points and is proved with Python's integers on degenerate ones."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import Delaunay

from distjet.dataset.graphs import GRID, delaunay_edges
from distjet.errors import DataError

Edge = tuple[int, int]


def edges_of(points: np.ndarray) -> list[Edge]:
    points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    edges = delaunay_edges(points[:, 0], points[:, 1], np.array([0, len(points)]))
    return list(zip(edges.source.tolist(), edges.target.tolist(), strict=True))


def on_grid(points: np.ndarray) -> list[tuple[int, int]]:
    return [(int(x), int(y)) for x, y in np.rint(np.asarray(points, dtype=np.float64) * GRID)]


def turn(a, b, c) -> int:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def in_circle(a, b, c, p) -> int:
    rows = [(v[0] - p[0], v[1] - p[1]) for v in (a, b, c)]
    squares = [x * x + y * y for x, y in rows]
    minors = [rows[i][0] * rows[j][1] - rows[j][0] * rows[i][1] for i, j in ((1, 2), (2, 0), (0, 1))]
    return sum(square * minor for square, minor in zip(squares, minors, strict=True))


def boundary_size(points: list[tuple[int, int]]) -> int:
    """Count the points on the convex hull, those inside its sides included."""

    def chain(ordered):
        hull = []
        for point in ordered:
            while len(hull) > 1 and turn(hull[-2], hull[-1], point) < 0:
                hull.pop()
            hull.append(point)
        return hull

    ordered = sorted(points)
    return len({*chain(ordered), *chain(ordered[::-1])})


def is_connected(size: int, edges: list[Edge]) -> bool:
    reached, pending = {0}, [0]
    while pending:
        point = pending.pop()
        for a, b in edges:
            for here, there in ((a, b), (b, a)):
                if here == point and there not in reached:
                    reached.add(there)
                    pending.append(there)
    return len(reached) == size


def prove_delaunay(points: np.ndarray, edges: list[Edge]) -> None:
    """Prove with exact integers: connected, the right number of edges, and an empty circle through each edge."""
    grid = on_grid(points)
    distinct = sorted(set(grid))
    assert edges == sorted(set(edges))
    assert all(a < b for a, b in edges)
    assert is_connected(len(grid), edges)
    if len(distinct) < 3 or all(turn(distinct[0], distinct[1], p) == 0 for p in distinct):
        assert len(edges) == len(grid) - 1
        return
    proper = [(grid[a], grid[b]) for a, b in edges if grid[a] != grid[b]]
    assert len(edges) - len(proper) == len(grid) - len(distinct)
    assert len(proper) == 3 * len(distinct) - 3 - boundary_size(distinct)
    for a, b in proper:
        left = [p for p in distinct if turn(a, b, p) > 0]
        right = [p for p in distinct if turn(a, b, p) < 0]
        if left and right:
            nearest = left[0]
            for p in left[1:]:
                nearest = p if in_circle(a, b, nearest, p) > 0 else nearest
            assert all(in_circle(a, b, nearest, p) <= 0 for p in right)


FAMILIES = {
    "grid": lambda rng, n: rng.integers(0, 7, (n, 2)) * 0.0125,
    "towers": lambda rng, n: np.rint(rng.normal(0, 0.25, (n, 2)) / 0.1) * 0.1,
    "line": lambda rng, n: np.outer(rng.normal(0, 0.3, n), [1.0, 2.0]),
    "vertical": lambda rng, n: np.stack([np.full(n, 0.1), rng.normal(0, 0.3, n)], axis=1),
    "line and a point": lambda rng, n: np.concatenate([np.outer(np.arange(n), [0.01, 0.0]), [[0.02, rng.choice([-0.3, 0.3])]]]),
    "duplicates": lambda rng, n: rng.normal(0, 0.3, (n, 2))[rng.integers(0, max(n // 2, 1), n)],
    "circle": lambda rng, n: (
        0.4 * np.stack([np.cos(np.arange(n) * 2 * np.pi / n), np.sin(np.arange(n) * 2 * np.pi / n)], axis=1)
    ),
    "exact circle": lambda rng, n: (
        np.array([(x, y) for x in range(-65, 66) for y in range(-65, 66) if x * x + y * y == 4225]) / GRID * 1000
    ),
    "tiny": lambda rng, n: rng.normal(0, 1e-6, (n, 2)),
    "wide": lambda rng, n: rng.uniform(-7.9, 7.9, (n, 2)),
    "random": lambda rng, n: rng.normal(0, 0.25, (n, 2)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_degenerate_sets_are_proved_with_exact_integers(family):
    rng = np.random.default_rng(7)
    for size in [1, 2, 3, 4, 5, *rng.integers(3, 33, 25)]:
        points = FAMILIES[family](rng, int(size))
        prove_delaunay(points, edges_of(points))


def test_random_sets_equal_scipy():
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 80, 800)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    points = rng.normal(0, 0.25, (offsets[-1], 2))
    edges = delaunay_edges(points[:, 0], points[:, 1], offsets)
    for i, (start, stop) in enumerate(itertools.pairwise(offsets)):
        simplices = np.sort(Delaunay(np.rint(points[start:stop] * GRID)).simplices, axis=1)
        expected = {
            tuple(edge) for edge in np.concatenate([simplices[:, [0, 1]], simplices[:, [1, 2]], simplices[:, [0, 2]]]).tolist()
        }
        mine = slice(edges.offsets[i], edges.offsets[i + 1])
        assert list(zip(edges.source[mine].tolist(), edges.target[mine].tolist(), strict=True)) == sorted(expected)


def test_one_and_two_and_no_constituents():
    edges = delaunay_edges([*np.zeros(3), 0.0, 0.1, 0.2], np.zeros(3), np.array([0, 1, 1, 3]))
    assert edges.offsets.tolist() == [0, 0, 0, 1]
    assert (edges.source.tolist(), edges.target.tolist()) == ([0], [1])


coordinates = st.integers(-600_000, 600_000)
point_sets = st.lists(st.tuples(coordinates, coordinates), min_size=1, max_size=25, unique=True)


@settings(max_examples=60, deadline=None)
@given(point_sets, st.randoms(use_true_random=False))
def test_the_order_of_constituents_does_not_matter(points, random):
    array = np.array(points) / GRID
    order = list(range(len(points)))
    random.shuffle(order)
    shuffled = {tuple(sorted((order[a], order[b]))) for a, b in edges_of(array[order])}
    assert shuffled == set(edges_of(array))


@settings(max_examples=60, deadline=None)
@given(point_sets, st.one_of(st.floats(-np.pi, np.pi), st.sampled_from([np.pi, -np.pi, 2 * np.pi])))
def test_a_rotation_in_phi_changes_nothing(points, angle_rad):
    eta, phi = np.array(points).T / GRID
    axis = angle_rad
    absolute = (phi + axis + np.pi) % (2 * np.pi) - np.pi
    delta = absolute - axis
    delta -= 2 * np.pi * np.floor((delta + np.pi) / (2 * np.pi))
    assert edges_of(np.stack([eta, delta], axis=1)) == edges_of(np.stack([eta, phi], axis=1))


@pytest.mark.parametrize("bad", [np.nan, np.inf, 8.0, -9.5])
def test_coordinates_that_cannot_be_exact_are_refused(bad):
    with pytest.raises(DataError, match="finite and below 8"):
        delaunay_edges(np.array([0.0, bad]), np.zeros(2), np.array([0, 2]))


def test_a_graph_with_more_than_256_constituents():
    points = np.random.default_rng(1).normal(0, 0.3, (700, 2))
    edges = edges_of(points)
    assert len(edges) == 3 * 700 - 3 - boundary_size(on_grid(points))
    assert max(max(edge) for edge in edges) == 699
