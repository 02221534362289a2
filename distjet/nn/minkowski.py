"""How far apart are the four-vectors of a jet, in a way that no boost and no rotation changes?

For every pair of a jet: the squared norm of the difference and the inner product, both with the metric (-, -, -, +) in the
order (px, py, pz, E), and squeezed with psi(x) = sign(x) ln(1 + |x|), because they span ten orders of magnitude. All pairs of a
jet are wanted, so no list of edges is needed: the pairs of a jet of n are a block of n x n, one block after the other.

Reference:
    S. Gong et al., "An efficient Lorentz equivariant graph neural network for jet tagging", arXiv:2201.08187.
"""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from distjet.nn.edge_kernels import COMPILED


def psi(x: Tensor) -> Tensor:
    """sign(x) ln(1 + |x|)."""
    return x.sign() * x.abs().log1p()


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner product a.E b.E - a.p b.p of four-vectors (px, py, pz, E), shape (..., 4) -> (...)."""
    product = a * b
    return 2 * product[..., 3] - product.sum(-1)


def pair_invariants(p4: Tensor, edge_index: Tensor) -> Tensor:
    """Return psi of the squared norm of the difference, and of the inner product, of both ends of each edge.

    Args:
        p4: Four-vectors (px, py, pz, E) in GeV, shape (N, 4).
        edge_index: Both ends of each edge, int64, shape (2, E).

    Returns:
        Shape (E, 2).
    """
    exact = p4.double()  # the inner product of fast particles is a small difference of large numbers
    a, b = exact.index_select(0, edge_index[0]), exact.index_select(0, edge_index[1])
    return psi(torch.stack([inner(a - b, a - b), inner(a, b)], dim=1).to(p4.dtype))


def block_places(ptr: Tensor) -> Tensor:
    """First pair of each jet and, last, their number: the jet with n nodes has n^2. int64, shape (B + 1,)."""
    return torch.cat([ptr.new_zeros(1), ptr.diff().square().cumsum(0)])


def block_invariants(p4: Tensor, ptr: Tensor) -> Tensor:
    """Return the same for all pairs of each jet, with a compiled loop on a CPU; zero for a node with itself.

    Args:
        p4: Four-vectors (px, py, pz, E) in GeV, shape (N, 4).
        ptr: First node of each jet and, last, N, shape (B + 1,).

    Returns:
        Shape (sum of n^2, 2), by jet, first node and second node.
    """
    return _BlockInvariants.apply(p4, ptr, block_places(ptr))


class _BlockInvariants(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, p4: Tensor, ptr: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(p4, ptr, places)
        pairs = p4.new_zeros(int(places[-1]), 2)
        _write_invariants(p4.detach().contiguous().numpy(), ptr.numpy(), places.numpy(), pairs.numpy())
        return pairs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        p4, ptr, places = ctx.saved_tensors
        found = torch.zeros_like(p4, dtype=torch.float64)
        gradient = gradients[0].contiguous().numpy()
        _through_invariants(p4.detach().contiguous().numpy(), ptr.numpy(), places.numpy(), gradient, found.numpy())
        return found.to(p4.dtype), None, None


@njit(**COMPILED)
def _write_invariants(p4, ptr, places, pairs):  # type: ignore[no-untyped-def]
    """Compute each pair once, in float64 as above."""
    for jet in range(len(ptr) - 1):
        first, size, place = ptr[jet], ptr[jet + 1] - ptr[jet], places[jet]
        for i in range(size):
            for j in range(i):
                norm, dot = _invariants(p4[first + i], p4[first + j])
                norm, dot = np.copysign(np.log1p(abs(norm)), norm), np.copysign(np.log1p(abs(dot)), dot)
                for pair in (place + i * size + j, place + j * size + i):
                    pairs[pair, 0], pairs[pair, 1] = norm, dot


@njit(**COMPILED)
def _through_invariants(p4, ptr, places, gradient, found):  # type: ignore[no-untyped-def]
    for jet in range(len(ptr) - 1):
        first, size, place = ptr[jet], ptr[jet + 1] - ptr[jet], places[jet]
        for i in range(size):
            for j in range(i):
                a, b = p4[first + i], p4[first + j]
                norm, dot = _invariants(a, b)
                pair, mirrored = place + i * size + j, place + j * size + i
                of_norm = (gradient[pair, 0] + gradient[mirrored, 0]) / (1.0 + abs(norm))
                of_dot = (gradient[pair, 1] + gradient[mirrored, 1]) / (1.0 + abs(dot))
                for k in range(4):
                    metric = 1.0 if k == 3 else -1.0
                    difference = 2.0 * of_norm * (np.float64(a[k]) - b[k])
                    found[first + i, k] += metric * (difference + of_dot * b[k])
                    found[first + j, k] += metric * (of_dot * a[k] - difference)


@njit(inline="always")
def _invariants(a, b):  # type: ignore[no-untyped-def]
    """Squared norm of the difference and inner product of two four-vectors."""
    norm, dot = 0.0, 0.0
    for k in range(4):
        metric = 1.0 if k == 3 else -1.0
        difference = np.float64(a[k]) - b[k]
        norm += metric * difference * difference
        dot += metric * np.float64(a[k]) * b[k]
    return norm, dot
