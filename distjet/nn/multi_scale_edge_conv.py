"""Messages from the neighbours of a constituent, collected with attention at several scales.

A message m_ij is a network of both ends and of the features of the edge. Each scale looks at the nearest few neighbours only,
weights their messages with a softmax of its own, and sums them; the scales are put side by side:

    m_ij = W_2 ReLU(BN(W_1 ReLU(BN([h_i, h_j, e_ij]))))                       gated per channel by squeeze and excitation
    M_i = concatenation over scales s of sum_{j in nearest k_s} softmax_j(A_s ReLU(BN_s(m_ij))) m_ij
    h_i <- W h_i + gamma * SE(MLP(M_i))

The first normalisation, activation and linear layer act on each of the three parts alone, so they are evaluated per node for
two of them, and only results are gathered. Messages are made once, for the widest scale. The layer scale gamma starts at 1e-5,
so that a layer begins as its shortcut.

References:
    H. Qu, ParticleNeXt, talk at ML4Jets 2021 (CERN indico 980214, contribution 4413544);
    arXiv:1902.08570 (edge convolution); arXiv:2103.17239 (layer scale).
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from distjet.nn.batch_norm import BatchNorm
from distjet.nn.segments import segment_sum
from distjet.nn.squeeze_excite import Excitation
from distjet.nn.tracing import is_traced
from distjet.nn.weighted_batch_norm import Moments, WeightedBatchNorm


class Neighbourhood(NamedTuple):
    """Who is whose neighbour in a batch of N constituents of B jets; made once, and used by every layer."""

    table: Tensor
    "Neighbours of each constituent, nearest first, N where there is none, int64, shape (N, k)."
    counts: Tensor
    "Neighbours of each constituent, int64, shape (N,)."
    mask: Tensor
    "1.0 where there is a neighbour, else 0.0, shape (N, k)."
    num_neighbours: Tensor
    "Of each constituent, shape (N,)."
    num_neighbouring: Tensor
    "Constituents of which each is a neighbour, shape (N,)."
    batch: Tensor
    "Jet of each constituent, shape (N,)."
    num_edges: Tensor
    "Of each jet, shape (B,)."
    num_nodes: Tensor
    "Of each jet, shape (B,)."

    @classmethod
    def of(cls, table: Tensor, batch: Tensor, ptr: Tensor, dtype: torch.dtype) -> "Neighbourhood":
        """Count neighbours and edges."""
        mask = (table < table.shape[0]).to(dtype)
        ones = segment_sum(mask.flatten(), table.flatten(), table.shape[0] + 1)
        num_neighbours = mask.sum(1)
        num_edges = segment_sum(num_neighbours, batch, ptr.shape[0] - 1)
        return cls(table, num_neighbours.long(), mask, num_neighbours, ones[:-1], batch, num_edges, ptr.diff().to(dtype))

    def gather(self, values: Tensor) -> Tensor:
        """Take the values (N, C) of neighbours: (N, k, C), zero where there is none."""
        padded = nn.functional.pad(values, (0, 0, 0, 1))
        return padded.index_select(0, self.table.flatten()).unflatten(0, self.table.shape)

    def total(self, values: Tensor) -> Tensor:
        """Sum values (N, C) over each jet: (B, C)."""
        return segment_sum(values, self.batch, self.num_nodes.shape[0])


class MultiScaleEdgeConv(nn.Module):
    """One layer: (N, num_inputs) to (N, num_outputs)."""

    def __init__(
        self, num_inputs: int, num_outputs: int, num_edge: int, width: int, scales: Sequence[int], num_heads: int
    ) -> None:
        """Build the layer.

        Args:
            num_inputs: Width of the nodes.
            num_outputs: Width of the nodes after the layer.
            num_edge: Features of an edge.
            width: Of a message; a multiple of 2 and of `num_heads`.
            scales: Numbers of nearest neighbours, one per scale.
            num_heads: Of the attention.
        """
        super().__init__()
        is_as_wide = num_inputs == width // 2
        self.encode = (
            nn.Identity() if is_as_wide else nn.Sequential(BatchNorm(num_inputs), nn.ReLU(), _linear(num_inputs, width // 2))
        )
        self.message = Message(width // 2, num_edge, width)
        self.gate = Excitation(width)
        self.scales = tuple(scales)
        self.attention = nn.ModuleList(EdgeAttention(width, num_heads) for _ in scales)
        self.node_mlp = nn.Sequential(
            BatchNorm(width * len(scales)),
            nn.ReLU(),
            _linear(width * len(scales), num_outputs),
            BatchNorm(num_outputs),
            nn.ReLU(),
            _linear(num_outputs, num_outputs),
        )
        self.node_gate = Excitation(num_outputs)
        self.shortcut = nn.Identity() if num_inputs == num_outputs else _linear(num_inputs, num_outputs)
        self.layer_scale = nn.Parameter(torch.full((num_outputs,), 1e-5))

    def forward(self, nodes: Tensor, edges: Tensor, graph: Neighbourhood) -> Tensor:
        """Update nodes (N, num_inputs) with features of edges (N, k, num_edge)."""
        message = self.message(self.encode(nodes), edges, graph)
        received = torch.einsum("nkc,nk->nc", message, graph.mask.to(message.dtype))
        gate = self.gate(graph.total(received), graph.num_edges)
        message = message * gate.index_select(0, graph.batch).unsqueeze(1)
        update = self.node_mlp(self._collect(message, graph))
        node_gate = self.node_gate(graph.total(update), graph.num_nodes)
        return self.shortcut(nodes) + self.layer_scale * update * node_gate.index_select(0, graph.batch)

    def _collect(self, message: Tensor, graph: Neighbourhood) -> Tensor:
        """Sum messages (N, k, width) with the attention of each scale; sums of all scales are side by side."""
        attentions = cast("list[EdgeAttention]", list(self.attention))
        hidden = activated(message, [attention.norm for attention in attentions], self.scales, graph)
        weights = [
            attention.score(rows).masked_fill(graph.mask[:, : rows.shape[1]].unsqueeze(2) == 0, -torch.inf).softmax(dim=1)
            for rows, attention in zip(hidden, attentions, strict=True)
        ]
        return weighted_sums(message, weights, graph)


class Message(nn.Module):
    """A network on [node, its neighbour, their edge], of which the first layer is evaluated per part."""

    def __init__(self, num_node: int, num_edge: int, width: int) -> None:
        super().__init__()
        self.parts = (num_node, num_node, num_edge)
        self.norm_in = WeightedBatchNorm(sum(self.parts))
        self.linear_in = _linear(sum(self.parts), width)
        self.norm_out = WeightedBatchNorm(width)
        self.linear_out = _linear(width, width)

    def forward(self, nodes: Tensor, edges: Tensor, graph: Neighbourhood) -> Tensor:
        """Map nodes (N, num_node) and edges (N, k, num_edge) to messages (N, k, width)."""
        given = ((nodes, graph.num_neighbours), (nodes, graph.num_neighbouring), (edges, graph.mask))
        moments = Moments.join([Moments.of(*pair) for pair in given]) if self.training else None
        factors, shifts = (both.split(self.parts) for both in self.norm_in.factor_and_shift(moments))
        weights = self.linear_in.weight.split(self.parts, dim=1)
        centre, neighbour, edge = (
            nn.functional.linear(torch.relu(values * factor + shift), weight)
            for (values, _), factor, shift, weight in zip(given, factors, shifts, weights, strict=True)
        )
        hidden = centre.unsqueeze(1) + graph.gather(neighbour) + edge
        (rows,) = activated(hidden, [self.norm_out], hidden.shape[1:2], graph)
        return self.linear_out(rows)


class EdgeAttention(nn.Module):
    """What gives messages of one scale their logits."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm = WeightedBatchNorm(width)
        self.score = _linear(width, num_heads)


def activated(
    values: Tensor, norms: Sequence[WeightedBatchNorm], scales: Sequence[int], graph: Neighbourhood
) -> Sequence[Tensor]:
    """Normalise the rows of each scale, and apply a ReLU.

    Args:
        values: Shape (N, K, C).
        norms: Of each scale.
        scales: Numbers of nearest neighbours, rising.
        graph: Which rows are neighbours.

    Returns:
        Shape (N, k, C) for each scale; what is in rows that are no neighbours has no meaning.
    """
    if not _by_loops(values):
        return [torch.relu(norm(values[:, :scale], graph.mask[:, :scale])) for norm, scale in zip(norms, scales, strict=True)]
    from distjet.nn.neighbour_scale_kernels import ScaledRelu, ScaleMoments

    moments: list[Moments | None] = [None] * len(scales)
    if norms[0].training:
        counts = [graph.mask[:, :scale].sum() for scale in scales]
        moments = [Moments(*of) for of in zip(counts, *ScaleMoments.apply(values, graph.counts, scales), strict=True)]
    known = [norm.factor_and_shift(of) for norm, of in zip(norms, moments, strict=True)]
    factors, shifts = (torch.stack(parts) for parts in zip(*known, strict=True))
    return ScaledRelu.apply(values, graph.counts, factors, shifts, scales)


def weighted_sums(values: Tensor, weights: Sequence[Tensor], graph: Neighbourhood) -> Tensor:
    """Sum the rows of each scale.

    Args:
        values: Shape (N, K, C).
        weights: Of each scale, shape (N, k, H), zero where there is no neighbour; channel c has weight c modulo H.
        graph: Which rows are neighbours.

    Returns:
        Sums of all scales side by side, shape (N, S C).
    """
    if _by_loops(values):
        from distjet.nn.neighbour_scale_kernels import ScaleSums

        return ScaleSums.apply(values, graph.counts, *weights)
    sums = [
        torch.einsum("nkrh,nkh->nrh", values[:, : weight.shape[1]].unflatten(2, (-1, weight.shape[2])), weight.to(values.dtype))
        for weight in weights
    ]
    return torch.cat([total.flatten(1) for total in sums], dim=1)


def _by_loops(values: Tensor) -> bool:
    """Whether loops on a CPU take the place of operations of torch."""
    return values.device.type == "cpu" and values.dtype == torch.float32 and not is_traced()


def _linear(num_inputs: int, num_outputs: int) -> nn.Linear:
    """A layer without a bias, for a normalisation stands before or after it."""
    return nn.Linear(num_inputs, num_outputs, bias=False)
