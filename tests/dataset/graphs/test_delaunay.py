"""Spec: the triangulation equals scipy's on random points and is proved with Python's integers on degenerate ones."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import Delaunay

from distjet.dataset.graphs.delaunay import _is_origin_in_circle, _is_positive_sum_of_products, delaunay_edges
from distjet.dataset.graphs.grid import GRID

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


LATTICE_CIRCLE = np.array([(x, y) for x in range(-65, 66) for y in range(-65, 66) if x * x + y * y == 65**2])
"36 points on one circle."


def test_no_point_on_a_circle_is_inside_it_though_floating_point_would_say_so():
    factor = 64_513  # odd and large, so that the products do not fit into 53 bits
    deceived = 0
    for indices in itertools.combinations(range(0, len(LATTICE_CIRCLE), 2), 4):
        *triangle, point = LATTICE_CIRCLE[list(indices)] * factor
        a, b, c = (corner - point for corner in triangle)
        if turn(*triangle) < 0:
            a, b = b, a
        assert in_circle(a.tolist(), b.tolist(), c.tolist(), (0, 0)) == 0
        assert not _is_origin_in_circle(*a.astype(float), *b.astype(float), *c.astype(float))
        deceived += in_circle(a.astype(float), b.astype(float), c.astype(float), (0.0, 0.0)) > 0
    assert deceived > 100


numbers = st.integers(-(2**49), 2**49)
small_numbers = st.integers(-9, 9)


@settings(deadline=None)
@given(numbers, numbers, small_numbers, small_numbers, st.booleans())
def test_the_sign_of_a_sum_of_products_is_exact(a, b, difference, rest, swap):
    """Two large products that cancel up to the third one and a small rest, and three unrelated ones."""
    cancelling = [(a, b), (b, difference - a), (-b * difference + rest, 1)]
    if abs(cancelling[2][0]) < 2**50:
        left, right = zip(*(cancelling[::-1] if swap else cancelling), strict=True)
        exact = sum(x * y for x, y in zip(left, right, strict=True))
        assert exact == rest
        assert _is_positive_sum_of_products(left, right) == (exact > 0)
    left, right = (a, difference, b), (b, rest, a + difference)
    assert _is_positive_sum_of_products(left, right) == (sum(x * y for x, y in zip(left, right, strict=True)) > 0)


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
    "exact circle": lambda rng, n: LATTICE_CIRCLE / GRID * 1000,
    "nearly a circle": lambda rng, n: (LATTICE_CIRCLE * 64_513 + rng.integers(-1, 2, LATTICE_CIRCLE.shape)) / GRID,
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


def scipy_edges(points: np.ndarray) -> list[Edge]:
    simplices = np.sort(Delaunay(points).simplices, axis=1)
    pairs = np.concatenate([simplices[:, [0, 1]], simplices[:, [1, 2]], simplices[:, [0, 2]]])
    return [tuple(pair) for pair in np.unique(pairs, axis=0).tolist()]


def test_random_sets_equal_scipy():
    rng = np.random.default_rng(0)
    sizes = rng.integers(3, 80, 800)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    points = rng.normal(0, 0.25, (offsets[-1], 2))
    edges = delaunay_edges(points[:, 0], points[:, 1], offsets)
    for i, (start, stop) in enumerate(itertools.pairwise(offsets)):
        mine = slice(edges.offsets[i], edges.offsets[i + 1])
        pairs = list(zip(edges.source[mine].tolist(), edges.target[mine].tolist(), strict=True))
        assert pairs == scipy_edges(np.rint(points[start:stop] * GRID))


def test_none_to_three_constituents():
    eta = np.array([0.0, 0.0, 0.1, 0.0, 0.1, 0.3, 0.0, 0.1, 0.2])
    phi = np.array([0.0, 0.0, 0.0, 0.0, 0.2, 0.1, 0.0, 0.1, 0.2])  # the last three are on one line
    edges = delaunay_edges(eta, phi, np.array([0, 0, 1, 3, 3, 6, 9]))
    assert edges.offsets.tolist() == [0, 0, 0, 1, 1, 4, 6]
    assert edges.source.tolist() == [0, 0, 0, 1, 0, 1]
    assert edges.target.tolist() == [1, 1, 2, 2, 1, 2]


def test_no_graphs_at_all():
    edges = delaunay_edges(np.zeros(0), np.zeros(0), np.zeros(1, np.int64))
    assert (len(edges.source), edges.offsets.tolist()) == (0, [0])


def test_all_constituents_in_one_place_are_linked_to_the_first():
    assert edges_of(np.full((5, 2), 0.3)) == [(0, end) for end in range(1, 5)]


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
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=25), st.randoms(use_true_random=False))
def test_where_constituents_coincide_the_order_decides_only_between_them(points, random):
    """On a coarse lattice, with many points in one place, on lines and on circles."""
    shuffled = random.sample(points, len(points))

    def places(of: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
        return sorted(sorted((of[a], of[b])) for a, b in edges_of(np.array(of) * 0.1))

    assert places(shuffled) == places(points)
    prove_delaunay(np.array(points) * 0.1, edges_of(np.array(points) * 0.1))


@settings(max_examples=60, deadline=None)
@given(point_sets, st.one_of(st.floats(-np.pi, np.pi), st.sampled_from([np.pi, -np.pi, 2 * np.pi])))
def test_a_rotation_in_phi_changes_nothing(points, angle_rad):
    eta, phi = np.array(points).T / GRID
    axis = angle_rad
    absolute = (phi + axis + np.pi) % (2 * np.pi) - np.pi
    delta = absolute - axis
    delta -= 2 * np.pi * np.floor((delta + np.pi) / (2 * np.pi))
    assert edges_of(np.stack([eta, delta], axis=1)) == edges_of(np.stack([eta, phi], axis=1))


@pytest.mark.parametrize("size", [254, 255, 256, 257, 700, 3000])
def test_large_graphs_equal_scipy(size):
    points = np.rint(np.random.default_rng(size).normal(0, 0.3, (size, 2)) * GRID)
    assert edges_of(points / GRID) == scipy_edges(points)
