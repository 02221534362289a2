"""The steps of edge convolutions between their matrix products, for a piece of the edges that stays in the cache.

A row is an edge: row `i * k + n` goes from node i to its n-th neighbour. What the first layer gives is the sum of a part of the
node and a part of the neighbour, and is never kept: to gather it once more costs less than to read it from memory. Parts of a
neighbour that does not exist are zero.

A piece is normalised as `z * factor + shift` per channel.
"""

import numpy as np
from numba import njit

from distjet.nn.edge_kernels import COMPILED

ZERO = np.float32(0.0)


@njit(**COMPILED)
def gather(own, other, table, lo, out):  # type: ignore[no-untyped-def]
    """Write what the first layer gives for the edges from node `lo` on.

    Args:
        own: Part of each node, shape (N, C).
        other: Part of each neighbour, shape (N, C).
        table: Neighbours of each node, N where there is none, shape (N, k).
        lo: First node of the piece.
        out: Written to, shape (nodes of the piece * k, C).
    """
    num_nodes, k = table.shape
    for row in range(len(out)):
        i = lo + row // k
        j = table[i, row % k]
        mine, values = own[i], out[row]
        if j < num_nodes:
            theirs = other[j]
            for c in range(len(values)):
                values[c] = mine[c] + theirs[c]
        else:
            values[:] = mine


@njit(**COMPILED)
def add_moments(values, count, mean, deviation):  # type: ignore[no-untyped-def]
    """Merge the moments of a piece with those of the rows before it.

    Deviations are from the first row, not from zero: the squares would hide what is left of them after a large mean.

    Args:
        values: Shape (rows, C).
        count: Rows before the piece.
        mean: Of the rows before, then of all, float64, shape (C,).
        deviation: Sum of the squared deviations from the mean, the same.
    """
    num_rows, width = values.shape
    first, sums, squares = values[0], np.zeros(width, np.float32), np.zeros(width, np.float32)
    for row in range(1, num_rows):
        here = values[row]
        for c in range(width):
            difference = here[c] - first[c]
            sums[c] += difference
            squares[c] += difference * difference
    share = num_rows / (count + num_rows)
    for c in range(width):
        away = sums[c] / np.float64(num_rows)
        step = first[c] + away - mean[c]
        deviation[c] += squares[c] - away * sums[c] + step * step * count * share
        mean[c] += step * share


@njit(**COMPILED)
def activate(values, factor, shift, out):  # type: ignore[no-untyped-def]
    """Write the normalised values after a ReLU, shape (rows, C)."""
    for row in range(len(values)):
        here, result = values[row], out[row]
        for c in range(len(here)):
            result[c] = _relu(here[c] * factor[c] + shift[c])


@njit(**COMPILED)
def average(values, factor, shift, out):  # type: ignore[no-untyped-def]
    """Write the mean over the neighbours of the normalised values after a ReLU; (rows, C) to (nodes of the piece, C)."""
    out[:] = ZERO
    k = len(values) // len(out)
    for row in range(len(values)):
        here, result = values[row], out[row // k]
        for c in range(len(here)):
            result[c] += _relu(here[c] * factor[c] + shift[c])
    out /= np.float32(k)


@njit(**COMPILED)
def through_average(values, factor, shift, gradient, out):  # type: ignore[no-untyped-def]
    """Write the gradient before the ReLU, from that of the mean over neighbours (nodes of the piece, C)."""
    k = len(values) // len(gradient)
    share = np.float32(1 / k)
    for row in range(len(values)):
        here, result, above = values[row], out[row], gradient[row // k]
        for c in range(len(here)):
            result[c] = share * above[c] if here[c] * factor[c] + shift[c] > ZERO else ZERO


@njit(**COMPILED)
def through_relu(activated, gradient, out):  # type: ignore[no-untyped-def]
    """Write the gradient before a ReLU, from what it gave and the gradient behind it."""
    for row in range(len(activated)):
        here, above, result = activated[row], gradient[row], out[row]
        for c in range(len(here)):
            result[c] = above[c] if here[c] > ZERO else ZERO


@njit(**COMPILED)
def add_sums(values, mean, gradient, total, product):  # type: ignore[no-untyped-def]
    """Add the gradient of a piece, and its product with the deviation from the mean, to sums in float64, shape (C,)."""
    width = values.shape[1]
    sums, products = np.zeros(width, np.float32), np.zeros(width, np.float32)
    for row in range(len(values)):
        here, above = values[row], gradient[row]
        for c in range(width):
            sums[c] += above[c]
            products[c] += above[c] * (here[c] - mean[c])
    for c in range(width):
        total[c] += sums[c]
        product[c] += products[c]


@njit(**COMPILED)
def through_norm(values, scales, gradient, out):  # type: ignore[no-untyped-def]
    """Write the gradient before a batch norm; scales (3, C) are those of the gradient, of the values and of one."""
    of_gradient, of_values, of_one = scales
    for row in range(len(values)):
        here, above, result = values[row], gradient[row], out[row]
        for c in range(len(here)):
            result[c] = of_gradient[c] * above[c] + of_values[c] * here[c] + of_one[c]


@njit(**COMPILED)
def scatter(gradient, table, lo, of_own, of_other):  # type: ignore[no-untyped-def]
    """Add the gradients of a piece of edges from node `lo` on to those of the nodes and of their neighbours, shape (N, C)."""
    num_nodes, k = table.shape
    for row in range(len(gradient)):
        i = lo + row // k
        j = table[i, row % k]
        above, mine = gradient[row], of_own[i]
        for c in range(len(above)):
            mine[c] += above[c]
        if j < num_nodes:
            theirs = of_other[j]
            for c in range(len(above)):
                theirs[c] += above[c]


@njit(inline="always")
def _relu(value):  # type: ignore[no-untyped-def]
    return ZERO if value < ZERO else value  # and what is not a number stays visible
