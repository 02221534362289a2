"""How do values go from nodes to edges, from edges to nodes, and from nodes to graphs, forward and backward, at little cost?

torch adds rows to the places of an index one row at a time, each at the price of a call; the rows here are short, so that most
of the time would go there. On a CPU one compiled loop does it, with the loop of the opposite direction as its derivative;
elsewhere, and while torch traces the operations, they are torch's own.
"""

from typing import Any

import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from distjet.nn.edge_kernels import COMPILED
from distjet.nn.segments import segment_sum
from distjet.nn.tracing import is_traced


def takes_kernels(*tensors: Tensor) -> bool:
    """Whether compiled loops may compute with these tensors: on a CPU, in full precision, and while nothing is traced."""
    if is_traced():
        return False
    return all(t.device.type == "cpu" and t.dtype in (torch.float32, torch.float64) for t in tensors)


def add_ends(as_target: Tensor, as_source: Tensor, edge_index: Tensor) -> Tensor:
    """Sum of what both ends of each edge give.

    Args:
        as_target: What a node gives where it is the target, shape (N, C).
        as_source: What it gives where it is the source, shape (N, C).
        edge_index: Source and target of each edge, int64, shape (2, E).

    Returns:
        Shape (E, C).
    """
    if takes_kernels(as_target, as_source):
        return _AddEnds.apply(as_target, as_source, edge_index)
    return as_target.index_select(0, edge_index[1]) + as_source.index_select(0, edge_index[0])


def mean_at_targets(values: Tensor, edge_index: Tensor, num_nodes: int) -> Tensor:
    """Mean over the edges that end at each node; zero where none does.

    Args:
        values: Of edges, shape (E, C).
        edge_index: Source and target of each edge, int64, shape (2, E).
        num_nodes: Number of nodes N.

    Returns:
        Shape (N, C).
    """
    if takes_kernels(values):
        return _MeanAtTargets.apply(values, edge_index, num_nodes)
    return _mean(values, edge_index[1], num_nodes)


def mean_over_nodes(values: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
    """Mean over the nodes of each graph; zero for a graph without one.

    Args:
        values: Of nodes, shape (N, C).
        batch: Graph of each node, int64, shape (N,).
        num_graphs: Number of graphs B.

    Returns:
        Shape (B, C).
    """
    if takes_kernels(values):
        return _MeanAtTargets.apply(values, torch.stack([batch, batch]), num_graphs)
    return _mean(values, batch, num_graphs)


def _mean(values: Tensor, index: Tensor, num_segments: int) -> Tensor:
    number = segment_sum(torch.ones_like(values[:, :1]), index, num_segments)
    return segment_sum(values, index, num_segments) / number.clamp(min=1)


class _AddEnds(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, as_target: Tensor, as_source: Tensor, edge_index: Tensor) -> Tensor:
        ctx.save_for_backward(edge_index)
        ctx.num_nodes = as_target.shape[0]
        result = as_target.new_empty(edge_index.shape[1], as_target.shape[1])
        parts = (part.detach().contiguous().numpy() for part in (as_target, as_source))  # a loop over strides makes no vectors
        _add_ends(*parts, edge_index.numpy(), result.numpy())
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (edge_index,), (gradient,) = ctx.saved_tensors, gradients
        found = gradient.new_zeros(2, ctx.num_nodes, gradient.shape[1])
        _sum_at_ends(gradient.contiguous().numpy(), edge_index.numpy(), found[0].numpy(), found[1].numpy())
        return found[0], found[1], None


class _MeanAtTargets(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, edge_index: Tensor, num_nodes: int) -> Tensor:
        target = edge_index[1]
        share = 1 / torch.bincount(target, minlength=num_nodes).clamp(min=1).to(values.dtype)
        ctx.save_for_backward(target, share)
        result = values.new_zeros(num_nodes, values.shape[1])
        _sum_at_targets(values.detach().contiguous().numpy(), target.numpy(), result.numpy())
        return result.mul_(share[:, None])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (target, share), (gradient,) = ctx.saved_tensors, gradients
        return (gradient * share[:, None]).index_select(0, target), None, None


@njit(**COMPILED)
def _add_ends(as_target, as_source, edge_index, result):  # type: ignore[no-untyped-def]
    for e in range(len(result)):
        of_target, of_source, row = as_target[edge_index[1, e]], as_source[edge_index[0, e]], result[e]
        for c in range(len(row)):
            row[c] = of_target[c] + of_source[c]


@njit(**COMPILED)
def _sum_at_ends(values, edge_index, at_targets, at_sources):  # type: ignore[no-untyped-def]
    for e in range(len(values)):
        of_target, of_source, row = at_targets[edge_index[1, e]], at_sources[edge_index[0, e]], values[e]
        for c in range(len(row)):
            of_target[c] += row[c]
            of_source[c] += row[c]


@njit(**COMPILED)
def _sum_at_targets(values, target, result):  # type: ignore[no-untyped-def]
    for e in range(len(values)):
        of_target, row = result[target[e]], values[e]
        for c in range(len(row)):
            of_target[c] += row[c]
