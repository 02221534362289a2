"""What are mean and variance of a layer over all pairs of particles, without making a value for any pair?

The first layer of a message between nodes i and j of a jet is linear in what both ends give and in two invariants of the pair:
a_i + b_j + u n_ij + v d_ij in each column. Summed over all ordered pairs of different nodes, both the value and its square fall
apart into sums over nodes and over the invariants, so that they cost as much as a few layers of nodes. Sums are in float64, in
which the square of a mean can be subtracted from a mean of squares.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from distjet.nn.edge_kernels import COMPILED


class Given(NamedTuple):
    """What the values of pairs are made of.

    Attributes:
        as_target: a, shape (N, C).
        as_source: b, shape (N, C).
        of_pair: u and v, shape (2, C).
        pairs: n and d of all pairs of each jet, zero for a node with itself, shape (sum of n^2, 2).
        ptr: First node of each jet and, last, N, shape (B + 1,).
        places: First pair of each jet and, last, their number, shape (B + 1,).
    """

    as_target: np.ndarray
    as_source: np.ndarray
    of_pair: np.ndarray
    pairs: np.ndarray
    ptr: np.ndarray
    places: np.ndarray

    @classmethod
    def of(cls, tensors: tuple[Tensor, ...]) -> "Given":
        """View tensors as arrays."""
        return cls(*(tensor.detach().contiguous().numpy() for tensor in tensors))


class Moments(torch.autograd.Function):
    """Sum and sum of squares over all ordered pairs of different nodes of a jet, float64, shape (2, C)."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        """Return both; the tensors are those of `Given`."""
        ctx.save_for_backward(*tensors)
        found = torch.zeros(2, tensors[0].shape[1], dtype=torch.float64)
        _sum(Given.of(tensors), found.numpy())
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of all tensors but the last two."""
        given = Given.of(ctx.saved_tensors)
        found = given._replace(
            as_target=np.zeros_like(given.as_target),
            as_source=np.zeros_like(given.as_source),
            of_pair=np.zeros(given.of_pair.shape),
            pairs=np.zeros_like(given.pairs),
        )
        _send_back(given, gradients[0].contiguous().numpy(), found)
        of_target, of_source, of_pair, of_pairs = map(torch.from_numpy, found[:4])
        return of_target, of_source, of_pair.to(ctx.saved_tensors[2].dtype), of_pairs, None, None


@njit(**COMPILED)
def _largest(ptr):  # type: ignore[no-untyped-def]
    largest = 1
    for jet in range(len(ptr) - 1):
        largest = max(largest, ptr[jet + 1] - ptr[jet])
    return largest


@njit(**COMPILED)
def _sum_pairs(pairs, place, size, by_node):  # type: ignore[no-untyped-def]
    """Write the sums of both invariants over the pairs of each node (n, 2), and return those of n n, n d and d d."""
    both_n, mixed, both_d = 0.0, 0.0, 0.0
    for i in range(size):
        norms, dots = 0.0, 0.0
        for pair in range(place + i * size, place + (i + 1) * size):
            norm, dot = np.float64(pairs[pair, 0]), np.float64(pairs[pair, 1])
            norms, dots = norms + norm, dots + dot
            both_n, mixed, both_d = both_n + norm * norm, mixed + norm * dot, both_d + dot * dot
        by_node[i, 0], by_node[i, 1] = norms, dots
    return both_n, mixed, both_d


@njit(**COMPILED)
def _sum(given, found):  # type: ignore[no-untyped-def]
    """Add to both sums: those of a, b, a^2 + b^2, a b, and of (a + b) times the invariants of the pairs of a node."""
    width = given.as_target.shape[1]
    sums, by_node = np.empty((6, width)), np.empty((_largest(given.ptr), 2))
    for jet in range(len(given.ptr) - 1):
        first, size = given.ptr[jet], given.ptr[jet + 1] - given.ptr[jet]
        both_n, mixed, both_d = _sum_pairs(given.pairs, given.places[jet], size, by_node)
        norms, dots = by_node[:size, 0].sum(), by_node[:size, 1].sum()
        sums[:] = 0
        for i in range(size):
            target, source = given.as_target[first + i], given.as_source[first + i]
            for c in range(width):
                a, b = np.float64(target[c]), np.float64(source[c])
                sums[0, c] += a
                sums[1, c] += b
                sums[2, c] += a * a + b * b
                sums[3, c] += a * b
                sums[4, c] += (a + b) * by_node[i, 0]
                sums[5, c] += (a + b) * by_node[i, 1]
        for c in range(width):
            u, v = np.float64(given.of_pair[0, c]), np.float64(given.of_pair[1, c])
            found[0, c] += (size - 1) * (sums[0, c] + sums[1, c]) + u * norms + v * dots
            of_nodes = (size - 1) * sums[2, c] + 2 * (sums[0, c] * sums[1, c] - sums[3, c])
            of_both = 2 * (u * sums[4, c] + v * sums[5, c])
            found[1, c] += of_nodes + of_both + u * u * both_n + 2 * u * v * mixed + v * v * both_d


@njit(**COMPILED)
def _send_back(given, gradient, found):  # type: ignore[no-untyped-def]
    """The derivative with respect to the value of a pair is g + h times it, h being twice the gradient of the squares."""
    g, h = gradient[0], 2 * gradient[1]
    largest = _largest(given.ptr)
    by_node, at_target, at_source = np.empty((largest, 2)), np.empty((largest, 2)), np.empty((largest, 2))
    for jet in range(len(given.ptr) - 1):
        size = given.ptr[jet + 1] - given.ptr[jet]
        both_n, mixed, both_d = _sum_pairs(given.pairs, given.places[jet], size, by_node)
        at_target[:size], at_source[:size] = 0, 0
        _through_nodes(given, jet, (g, h), by_node, at_target, at_source, found)
        for c in range(len(g)):
            u, v = np.float64(given.of_pair[0, c]), np.float64(given.of_pair[1, c])
            found.of_pair[0, c] += h[c] * (u * both_n + v * mixed)
            found.of_pair[1, c] += h[c] * (u * mixed + v * both_d)
        _through_pairs(given, jet, (g, h), at_target, at_source, found.pairs)


@njit(**COMPILED)
def _through_nodes(given, jet, g_h, by_node, at_target, at_source, found):  # type: ignore[no-untyped-def]
    """Add to the gradients of a, b, u and v, and to what each node adds to those of n and d of its pairs, as either end."""
    (g, h), u, v = g_h, given.of_pair[0], given.of_pair[1]
    first, last = given.ptr[jet], given.ptr[jet + 1]
    sum_a, sum_b = np.zeros(len(g)), np.zeros(len(g))
    for i in range(first, last):
        for c in range(len(g)):
            sum_a[c] += given.as_target[i, c]
            sum_b[c] += given.as_source[i, c]
    for i in range(last - first):
        norm, dot, others = by_node[i, 0], by_node[i, 1], last - first - 1
        target, source = given.as_target[first + i], given.as_source[first + i]
        of_target, of_source = found.as_target[first + i], found.as_source[first + i]
        for c in range(len(g)):
            a, b, hu, hv = np.float64(target[c]), np.float64(source[c]), h[c] * u[c], h[c] * v[c]
            of_either = others * g[c] + hu * norm + hv * dot
            of_target[c] = of_either + h[c] * (others * a + sum_b[c] - b)
            of_source[c] = of_either + h[c] * (others * b + sum_a[c] - a)
            found.of_pair[0, c] += norm * (g[c] + h[c] * (a + b))
            found.of_pair[1, c] += dot * (g[c] + h[c] * (a + b))
            at_target[i, 0] += hu * a
            at_target[i, 1] += hv * a
            at_source[i, 0] += hu * b
            at_source[i, 1] += hv * b


@njit(**COMPILED)
def _through_pairs(given, jet, g_h, at_target, at_source, of_pairs):  # type: ignore[no-untyped-def]
    """Write the gradients of n and d."""
    (g, h), u, v = g_h, given.of_pair[0].astype(np.float64), given.of_pair[1].astype(np.float64)
    always_n, always_d = (g * u).sum(), (g * v).sum()
    both_n, mixed, both_d = (h * u * u).sum(), (h * u * v).sum(), (h * v * v).sum()
    size, place = given.ptr[jet + 1] - given.ptr[jet], given.places[jet]
    for i in range(size):
        for j in range(size):
            pair = place + i * size + j
            norm, dot = np.float64(given.pairs[pair, 0]), np.float64(given.pairs[pair, 1])
            if j != i:
                of_pairs[pair, 0] = always_n + at_target[i, 0] + at_source[j, 0] + norm * both_n + dot * mixed
                of_pairs[pair, 1] = always_d + at_target[i, 1] + at_source[j, 1] + norm * mixed + dot * both_d
