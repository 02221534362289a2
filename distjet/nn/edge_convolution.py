"""Message passing in which all neighbours count alike, or none: what attention, and what edges, add is measured against these.

For node i with neighbours j, edge features e_ij and graph features g:

    m_ij = phi(W_v [h_j, g] + W_e e_ij)                h_i <- h_i + MLP_u([h_i, W_o agg_j m_ij, g])

where agg is the mean or the sum over the neighbours. W_v is evaluated per node and W_o per target, so an edge costs one gather
and one activation. Without edges, nodes are updated by h_i <- h_i + MLP_u([h_i, g]) alone, at the same depth.

Reference:
    Gilmer, Schoenholz, Riley, Vinyals, Dahl, Neural message passing, arXiv:1704.01212.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from distjet.nn.mlp import NodeGraphLinear
from distjet.nn.segments import segment_sum


class EdgeConvolutionBlock(nn.Module):
    """Residual message passing with a plain mean or sum over neighbours."""

    def __init__(self, width: int, num_graph: int, num_edge: int, aggregation: Literal["mean", "sum"]) -> None:
        """Build the block.

        Args:
            width: Width D of the node state.
            num_graph: Width of the graph features.
            num_edge: Width of the edge features.
            aggregation: Of the messages of a node's neighbours.
        """
        super().__init__()
        self.aggregation = aggregation
        self.normalise = nn.LayerNorm(width)
        self.message_node = NodeGraphLinear(width, num_graph, width)
        self.message_edge = nn.Linear(num_edge, width, bias=False)
        # no bias: a node without neighbours receives zero
        self.message_out = nn.Linear(width, width, bias=False)
        self.update = _Update(2 * width, num_graph, width)
        self.activation = nn.SiLU()

    def forward(self, nodes: Tensor, graphs: Tensor, edges: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        """Update node states; arguments as in `EdgeAttentionBlock`."""
        source, target = edge_index
        state = self.normalise(nodes)
        messages = self.activation(self.message_node(state, graphs, batch)[source] + self.message_edge(edges))
        received = segment_sum(messages, target, nodes.shape[0])
        if self.aggregation == "mean":
            num_neighbours = segment_sum(torch.ones_like(messages[:, :1]), target, nodes.shape[0])
            received = received / num_neighbours.clamp(min=1)
        return nodes + self.update(torch.cat([state, self.message_out(received)], dim=1), graphs, batch)


class NodeBlock(nn.Module):
    """Residual update of every node from itself and its graph alone."""

    def __init__(self, width: int, num_graph: int) -> None:
        super().__init__()
        self.normalise = nn.LayerNorm(width)
        self.update = _Update(width, num_graph, width)

    def forward(self, nodes: Tensor, graphs: Tensor, edges: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        """Update node states; arguments as in `EdgeAttentionBlock`, of which edges are not looked at."""
        return nodes + self.update(self.normalise(nodes), graphs, batch)


class _Update(nn.Module):
    """MLP_u on [what the node knows, g]."""

    def __init__(self, num_inputs: int, num_graph: int, width: int) -> None:
        super().__init__()
        self.inner = NodeGraphLinear(num_inputs, num_graph, width)
        self.outer = nn.Linear(width, width)
        self.activation = nn.SiLU()

    def forward(self, known: Tensor, graphs: Tensor, batch: Tensor) -> Tensor:
        return self.outer(self.activation(self.inner(known, graphs, batch)))
