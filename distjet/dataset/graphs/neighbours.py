"""Which constituents of a jet are near each other in (eta, phi)? The k nearest of each, or all within a radius.

Every node reaches some of the others, and two nodes are connected if one of them reaches the other: for nearest neighbours,
which are not mutual, the graph is the union of the neighbourhoods, so that a node can have more than k neighbours.

Squared distances are whole numbers of steps (`grid.py`) with the azimuth closed to a circle, so a tie is a tie on
every machine: the constituent that comes first is the nearer one. All pairs of a jet are compared, which for the sizes of jets
is faster than a tree. Edges are counted before they are written, because their number cannot be bounded without waste.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from distjet.dataset.graphs.edges import Edges
from distjet.dataset.graphs.grid import FULL_TURN, GRID, GridPoints, snap


class Reach(NamedTuple):
    """How far nodes reach.

    Attributes:
        squared: Nodes that are nearer are reached; squared distance on the grid, float64, shape (P,).
        last: Of the nodes at just that distance, those with a local index up to this one are reached too, int32, shape (P,).
    """

    squared: np.ndarray
    last: np.ndarray


def knn_edges(delta_eta: np.ndarray, delta_phi: np.ndarray, offsets: np.ndarray, k: int) -> Edges:
    """Connect each constituent with its k nearest others; a jet of at most k + 1 constituents is fully connected.

    Args:
        delta_eta: Pseudorapidity relative to the jet axis, shape (P,).
        delta_phi: Azimuth relative to the jet axis in rad, shape (P,).
        offsets: Where each jet's constituents start, shape (J + 1,).
        k: Number of neighbours that each constituent reaches.

    Returns:
        Edges with local indices.

    Raises:
        DataError: If a coordinate is not finite or not below 8, or a jet has more than 65535 constituents.
    """
    points = _on_circle(snap(delta_eta, delta_phi, offsets))
    reach = Reach(np.empty(len(points.x), np.float64), np.empty(len(points.x), np.int32))
    _reach_nearest(points, k, reach)
    return _connect(points, reach)


def radius_edges(delta_eta: np.ndarray, delta_phi: np.ndarray, offsets: np.ndarray, radius: float) -> Edges:
    """Connect constituents whose distance Delta R is smaller than a radius.

    Args:
        delta_eta: Pseudorapidity relative to the jet axis, shape (P,).
        delta_phi: Azimuth relative to the jet axis in rad, shape (P,).
        offsets: Where each jet's constituents start, shape (J + 1,).
        radius: In (eta, phi).

    Returns:
        Edges with local indices.

    Raises:
        DataError: If a coordinate is not finite or not below 8, or a jet has more than 65535 constituents.
    """
    points = _on_circle(snap(delta_eta, delta_phi, offsets))
    size = len(points.x)
    return _connect(points, Reach(np.full(size, (radius * GRID) ** 2), np.full(size, -1, np.int32)))


def _on_circle(points: GridPoints) -> GridPoints:
    """Bring the azimuth into one turn, and both coordinates to floats, which are exact and faster than whole numbers."""
    return GridPoints(points.x.astype(np.float64), np.mod(points.y, FULL_TURN).astype(np.float64), points.offsets)


def _connect(points: GridPoints, reach: Reach) -> Edges:
    edge_offsets = np.zeros(len(points.offsets), np.int64)
    _count_edges(points, reach, edge_offsets)
    room = edge_offsets[-1] + 1  # a pair is written before it is known to be an edge
    source, target = np.empty(room, np.uint16), np.empty(room, np.uint16)
    _write_edges(points, reach, source, target)
    return Edges(source[:-1], target[:-1], edge_offsets)


@njit(cache=True, nogil=True, inline="always")
def _squared_distance(points, i, j):  # type: ignore[no-untyped-def]
    """Squared distance of two nodes in steps of the grid; exact, below 2^49."""
    x, y = points.x[i] - points.x[j], abs(points.y[i] - points.y[j])
    y = min(y, FULL_TURN - y)
    return x * x + y * y


@njit(cache=True, nogil=True)
def _reach_nearest(points, k, reach):  # type: ignore[no-untyped-def]
    """Let each node reach its k nearest others."""
    largest = 0
    for jet in range(len(points.offsets) - 1):
        largest = max(largest, points.offsets[jet + 1] - points.offsets[jet])
    distances = np.empty(largest, np.float64)
    for jet in range(len(points.offsets) - 1):
        first, last = points.offsets[jet], points.offsets[jet + 1]
        for i in range(first, last):
            if last - first - 1 <= k:
                reach.squared[i], reach.last[i] = np.inf, -1
                continue
            for j in range(first, last):
                distances[j - first] = _squared_distance(points, i, j)
            distances[i - first] = np.inf
            reach.squared[i], reach.last[i] = _find_limit(distances[: last - first], k)


@njit(cache=True, nogil=True)
def _find_limit(distances, k):  # type: ignore[no-untyped-def]
    """Find what separates the k smallest of more than k whole numbers from the others, which may be infinite.

    Bisection: counting the numbers below a limit uses vector instructions, and a few steps are enough, whatever k is.

    Returns:
        A limit, and the last of the places whose number equals the limit and is among the k smallest, -1 if there is none.
    """
    low, high = -1.0, 0.0  # at most `low` are fewer than k numbers, at most `high` at least k
    for i in range(len(distances)):
        if distances[i] < np.inf:
            high = max(high, distances[i])
    while high - low > 1:
        middle = np.floor((low + high) / 2)
        count = 0
        for i in range(len(distances)):
            count += distances[i] <= middle
        if count == k:
            return middle + 1, -1
        if count < k:
            low = middle
        else:
            high = middle
    return high, _place_of_tie(distances, high, k)


@njit(cache=True, nogil=True)
def _place_of_tie(distances, limit, k):  # type: ignore[no-untyped-def]
    """Find the place of the k-th smallest number, which is `limit`, among those equal to it in order."""
    missing = k
    for i in range(len(distances)):
        missing -= distances[i] < limit
    place = -1
    while missing > 0:
        place += 1
        missing -= distances[place] == limit
    return place


@njit(cache=True, nogil=True, inline="always")
def _is_edge(points, reach, first, i, j):  # type: ignore[no-untyped-def]
    """Tell whether one of two nodes of the jet that starts at `first` reaches the other; without branches."""
    squared = _squared_distance(points, i, j)
    return (
        (squared < max(reach.squared[i], reach.squared[j]))
        | ((squared == reach.squared[i]) & (j - first <= reach.last[i]))
        | ((squared == reach.squared[j]) & (i - first <= reach.last[j]))
    )


@njit(cache=True, nogil=True)
def _count_edges(points, reach, edge_offsets):  # type: ignore[no-untyped-def]
    for jet in range(len(points.offsets) - 1):
        first, last = points.offsets[jet], points.offsets[jet + 1]
        count = 0
        for i in range(first, last):
            for j in range(i + 1, last):
                count += _is_edge(points, reach, first, i, j)
        edge_offsets[jet + 1] = edge_offsets[jet] + count


@njit(cache=True, nogil=True)
def _write_edges(points, reach, source, target):  # type: ignore[no-untyped-def]
    """Write the edges, sorted; each pair is written, and overwritten by the next unless it is an edge."""
    total = 0
    for jet in range(len(points.offsets) - 1):
        first, last = points.offsets[jet], points.offsets[jet + 1]
        for i in range(first, last):
            for j in range(i + 1, last):
                source[total], target[total] = i - first, j - first
                total += _is_edge(points, reach, first, i, j)
