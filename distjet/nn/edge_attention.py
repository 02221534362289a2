"""One block of attention-weighted message passing on a sparse graph.

For node i with neighbours j, edge features e_ij and graph features g:

    v_j  = MLP_v([h_j, g])          a_ij = MLP_a([h_i, h_j, e_ij])       w_ij = softmax over the neighbours j of i of a_ij
    h_i <- h_i + MLP_u([h_i, sum_j w_ij v_j, g])

with one a_ij per head, each weighting its part of v_j. Values are computed per node, and the first layer of MLP_a is factored
into a node and an edge part, so nothing of width 2 D is ever built per edge. A node without neighbours receives zero.

From the parts of the nodes to the messages there are two ways with the same result: operations of torch, which a GPU, a
compiler and an exporter need, and on a CPU one loop over the edges (`edge_kernels`), which takes a fraction of the time.

Reference:
    P.-A. Delsart and V. Peixoto, constituent calibration with graph networks (IN2P3 indico 27507); the attention follows
    arXiv:2105.14491 (a_ij is a network of both ends, not a product).
"""

import torch
from torch import Tensor, nn

from distjet.nn.mlp import NodeGraphLinear
from distjet.nn.segments import segment_softmax, segment_sum


class EdgeAttentionBlock(nn.Module):
    """Residual message passing with attention over neighbours."""

    def __init__(self, width: int, num_graph: int, num_edge: int, num_heads: int) -> None:
        """Build the block.

        Args:
            width: Width D of the node state; a multiple of `num_heads`.
            num_graph: Width of the graph features.
            num_edge: Width of the edge features.
            num_heads: Attention heads.
        """
        super().__init__()
        self.num_heads = num_heads
        self.normalise = nn.LayerNorm(width)
        self.value_in = NodeGraphLinear(width, num_graph, width)
        self.value_out = nn.Linear(width, width)
        self.attention_ends = nn.Linear(width, 2 * width)
        self.attention_edge = nn.Linear(num_edge, width, bias=False)
        # no bias: the softmax over neighbours would cancel it
        self.attention_out = nn.Linear(width, num_heads, bias=False)
        self.update_in = NodeGraphLinear(2 * width, num_graph, width)
        self.update_out = nn.Linear(width, width)
        self.activation = nn.SiLU()

    def forward(self, nodes: Tensor, graphs: Tensor, edges: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        """Update node states.

        Args:
            nodes: Node states, shape (N, D).
            graphs: Graph features, shape (B, G).
            edges: Edge features, data without a gradient, shape (E, K).
            edge_index: Source j and target i of each directed edge, shape (2, E).
            batch: Graph of each node, shape (N,).

        Returns:
            New node states, shape (N, D).
        """
        state = self.normalise(nodes)
        value = self.value_out(self.activation(self.value_in(state, graphs, batch)))
        as_target, as_source = self.attention_ends(state).chunk(2, dim=1)
        weights = self.attention_edge.weight.t(), self.attention_out.weight
        message = attend(as_target, as_source, value, *weights, edges, edge_index)
        update = self.update_in(torch.cat([state, message], dim=1), graphs, batch)
        return nodes + self.update_out(self.activation(update))


def attend(*given: Tensor) -> Tensor:
    """Sum the values of the neighbours of each node, weighted with attention.

    Args:
        *given: `as_target`, `as_source`, `value`: parts of each node, (N, D); `edge_weight` (K, D) of the edge features and
            `out_weight` (H, D) of the hidden layer; `edges`, features of the edges (E, K); `edge_index` (2, E).

    Returns:
        Messages, shape (N, D); zero for a node without neighbours.
    """
    *numbers, edge_index = given
    is_plain = not torch.compiler.is_compiling() and all(n.device.type == "cpu" and n.dtype != torch.float64 for n in numbers)
    if is_plain:
        from distjet.nn.edge_kernels import EdgeAttention

        return EdgeAttention.apply(*(number.float() for number in numbers), edge_index)
    return attend_by_operations(*given)


def attend_by_operations(*given: Tensor) -> Tensor:
    """Do the same with operations of torch."""
    as_target, as_source, value, edge_weight, out_weight, edges, edge_index = given
    source, target = edge_index
    hidden = as_target.index_select(0, target) + as_source.index_select(0, source) + edges @ edge_weight
    logits = (nn.functional.silu(hidden) @ out_weight.t()).float()
    weights = segment_softmax(logits, target, value.shape[0]).to(value.dtype)
    heads = value.index_select(0, source).unflatten(1, (len(out_weight), -1)) * weights.unsqueeze(-1)
    return segment_sum(heads.flatten(1), target, value.shape[0])
