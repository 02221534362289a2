"""The constituent graph network: every constituent of a jet learns its correction from its neighbours.

Node features are embedded, updated by message passing on the jet's Delaunay graph, and read out per node together with the
jet's features. Neighbours are weighted by attention; `aggregation` exchanges this one part for plainer ones.

Reference:
    P.-A. Delsart and V. Peixoto, constituent calibration with graph networks (IN2P3 indico 27507).
"""

import torch
from torch import Tensor, nn

from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.configs import ConstituentGnnConfig
from distjet.models.network import InputSpec
from distjet.nn.edge_attention import EdgeAttentionBlock
from distjet.nn.edge_convolution import EdgeConvolutionBlock, NodeBlock
from distjet.nn.mlp import mlp, start_at


class ConstituentGnn(nn.Module):
    """Message passing with an output per node."""

    Config = ConstituentGnnConfig

    def __init__(self, config: ConstituentGnnConfig, spec: InputSpec) -> None:
        super().__init__()
        self.embed_graph = mlp(spec.num_graph, [config.graph_width], config.graph_width)
        self.embed_node = mlp(spec.num_node, [config.width], config.width)
        self.blocks = nn.ModuleList(_block(config, spec.num_edge) for _ in range(config.num_blocks))
        self.normalise = nn.LayerNorm(config.width)
        self.read_out = mlp(config.width + config.graph_width, [config.width], spec.num_outputs)
        start_at(self.read_out, [0.0] * spec.num_outputs)  # which is the initial correction

    def forward(self, batch: GraphBatch) -> Tensor:
        """Map a batch with standardised x, u and edge_attr to outputs of shape (N, num_outputs)."""
        graphs = self.embed_graph(batch.u)
        nodes = self.embed_node(batch.x)
        for block in self.blocks:
            nodes = block(nodes, graphs, batch.edge_attr, batch.edge_index, batch.batch)
        return self.read_out(torch.cat([self.normalise(nodes), graphs[batch.batch]], dim=1))


def _block(config: ConstituentGnnConfig, num_edge: int) -> nn.Module:
    if config.aggregation == "attention":
        return EdgeAttentionBlock(config.width, config.graph_width, num_edge, config.num_heads)
    if config.aggregation == "none":
        return NodeBlock(config.width, config.graph_width)
    return EdgeConvolutionBlock(config.width, config.graph_width, num_edge, config.aggregation)
