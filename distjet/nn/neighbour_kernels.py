"""How are the nearest neighbours within jets found on a CPU?

A distance is compared with the nearest so far as soon as it is known, and is never stored. Differences are squared and added
up as they are: the product of the points with themselves, from which a GPU makes distances, loses the digits that tell close
neighbours apart.
"""

import numpy as np
from numba import njit

from distjet.nn.edge_kernels import COMPILED


@njit(**COMPILED)
def write_nearest(points, ptr, include_self, table):  # type: ignore[no-untyped-def]
    """Fill a table of the nearest neighbours of each node, in order of rising distance.

    Args:
        points: Float32 or float64, shape (N, D).
        ptr: First node of each jet and, last, N, int64, shape (B + 1,).
        include_self: Whether a node is its own neighbour.
        table: Written to: neighbours of each node, N where there is none, int64, shape (N, k).
    """
    num_nodes, k = table.shape
    nearest = np.empty(k, points.dtype)
    for jet in range(len(ptr) - 1):
        for i in range(ptr[jet], ptr[jet + 1]):
            nearest[:] = np.inf
            table[i, :] = num_nodes
            for j in range(ptr[jet], ptr[jet + 1]):
                if i == j and not include_self:
                    continue
                distance = _squared_distance(points[i], points[j])
                if distance < nearest[k - 1]:
                    _insert(nearest, table[i], distance, j)


@njit(**COMPILED)
def _squared_distance(a, b):  # type: ignore[no-untyped-def]
    total = a.dtype.type(0)
    for d in range(len(a)):
        difference = a[d] - b[d]
        total += difference * difference
    return total


@njit(**COMPILED)
def _insert(nearest, neighbours, distance, j):  # type: ignore[no-untyped-def]
    """Put a node where it belongs among the nearest so far; the last of them falls out."""
    place = len(nearest) - 1
    while place > 0 and nearest[place - 1] > distance:
        nearest[place], neighbours[place] = nearest[place - 1], neighbours[place - 1]
        place -= 1
    nearest[place], neighbours[place] = distance, j
