"""Which nodes of a jet are nearest to each of its nodes, in whatever space the nodes have got to?

The answer is a table with one row for each node, not a list of edges: what is gathered with it has shape (N, k, ...), and a sum
over neighbours is one over an axis. A neighbour that does not exist has the number N; to gather it, append a row of zeros.

A CPU looks at the pairs of each jet in turn. A GPU, a compiler and an exporter get products of padded jets, of which it must be
known on the host how long they are.
"""

import torch
from torch import Tensor

from distjet.nn.dense import dense_mask, to_dense
from distjet.nn.segments import segment_sum

MAX_EXACT_WIDTH = 4
"In so few dimensions, differences of all pairs are written down; in more, products stand for them."


def nearest(
    points: Tensor,
    ptr: Tensor,
    k: int,
    *,
    include_self: bool = False,
    batch: Tensor | None = None,
    max_nodes: int | None = None,
) -> Tensor:
    """Find the k nearest neighbours of each node within its jet. No gradient flows through them.

    Args:
        points: Where the nodes are, shape (N, D); distances are Euclidean.
        ptr: First node of each jet and, last, N, int64, shape (B + 1,).
        k: Neighbours of a node.
        include_self: Whether a node is its own nearest neighbour.
        batch: Jet of each node, int64, shape (N,); saves its making where it is known. A CPU does not need it.
        max_nodes: Bound on the nodes of a jet, for padding; without it, the host waits for the device to learn the largest. A
            CPU does not need it.

    Returns:
        Neighbours in order of rising distance, int64, shape (N, k); N where a jet has too few nodes.
    """
    points = points.detach()
    if points.device.type == "cpu" and not torch.compiler.is_compiling():
        return _nearest_by_loop(points, ptr, k, include_self)
    return nearest_by_operations(points, ptr, k, include_self=include_self, batch=batch, max_nodes=max_nodes)


def _nearest_by_loop(points: Tensor, ptr: Tensor, k: int, include_self: bool) -> Tensor:
    from distjet.nn.neighbour_kernels import write_nearest

    table = torch.empty(points.shape[0], k, dtype=torch.int64)
    exact = points if points.dtype == torch.float64 else points.float()
    write_nearest(exact.contiguous().numpy(), ptr.numpy(), include_self, table.numpy())
    return table


def nearest_by_operations(
    points: Tensor,
    ptr: Tensor,
    k: int,
    *,
    include_self: bool = False,
    batch: Tensor | None = None,
    max_nodes: int | None = None,
) -> Tensor:
    """Do the same with operations of torch."""
    num_nodes, num_jets = points.shape[0], ptr.shape[0] - 1
    if batch is None:
        batch = torch.repeat_interleave(torch.arange(num_jets, device=ptr.device), ptr.diff(), output_size=num_nodes)
    length = int(ptr.diff().max()) if max_nodes is None else max_nodes
    with torch.autocast(points.device.type, enabled=False):
        distance = _distances(points, ptr, batch, length)
    distance = distance.masked_fill(~dense_mask(ptr, length).unsqueeze(1), torch.inf)
    if not include_self:
        distance = distance.masked_fill(torch.eye(length, dtype=torch.bool, device=ptr.device), torch.inf)
    found = torch.nn.functional.pad(distance, (0, max(k - length, 0)), value=torch.inf).topk(k, largest=False)
    neighbours = (found.indices + ptr[:-1, None, None]).masked_fill(found.values.isinf(), num_nodes)
    position = torch.arange(num_nodes, device=ptr.device) - ptr.index_select(0, batch)
    return neighbours.flatten(0, 1).index_select(0, batch * length + position)


def _distances(points: Tensor, ptr: Tensor, batch: Tensor, length: int) -> Tensor:
    """Squared distances within padded jets, up to a constant for each node, shape (B, length, length)."""
    if points.dtype != torch.float64:
        points = points.float()
    if points.shape[1] <= MAX_EXACT_WIDTH:
        dense = to_dense(points, ptr, batch, length)
        return (dense.unsqueeze(2) - dense.unsqueeze(1)).square().sum(-1)
    # about the middle of the jet, products are smaller, and so is what rounding takes of their differences
    middle = segment_sum(points, batch, ptr.shape[0] - 1) / ptr.diff().clamp(min=1).unsqueeze(1)
    dense = to_dense(points - middle.index_select(0, batch), ptr, batch, length)
    return dense.square().sum(-1).unsqueeze(1) - 2 * (dense @ dense.transpose(1, 2))
