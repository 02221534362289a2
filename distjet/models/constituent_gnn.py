"""The constituent graph network: every constituent of a jet learns its correction from its neighbours.

Node features are embedded, updated by attention-weighted message passing on the jet's Delaunay graph, and read out per node
together with the jet's features.

Reference:
    P.-A. Delsart and V. Peixoto, constituent calibration with graph networks (IN2P3 indico 27507).
"""

import torch
from torch import Tensor, nn

from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.configs import ConstituentGnnConfig
from distjet.models.network import InputSpec
from distjet.nn.edge_attention import EdgeAttentionBlock
from distjet.nn.mlp import mlp


class ConstituentGnn(nn.Module):
    """Attention-weighted message passing with an output per node."""

    Config = ConstituentGnnConfig

    def __init__(self, config: ConstituentGnnConfig, spec: InputSpec) -> None:
        super().__init__()
        self.embed_graph = mlp(spec.num_graph, [config.graph_width], config.graph_width)
        self.embed_node = mlp(spec.num_node, [config.width], config.width)
        self.blocks = nn.ModuleList(
            EdgeAttentionBlock(config.width, config.graph_width, spec.num_edge, config.num_heads)
            for _ in range(config.num_blocks)
        )
        self.normalise = nn.LayerNorm(config.width)
        self.read_out = mlp(config.width + config.graph_width, [config.width], spec.num_outputs)
        self._start_small()

    def _start_small(self) -> None:
        """Let training start at the initial correction, with a gradient for every parameter."""
        last = self.read_out[-1]
        assert isinstance(last, nn.Linear)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(last.bias)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Map a batch with standardised x, u and edge_attr to outputs of shape (N, num_outputs)."""
        graphs = self.embed_graph(batch.u)
        nodes = self.embed_node(batch.x)
        for block in self.blocks:
            nodes = block(nodes, graphs, batch.edge_attr, batch.edge_index, batch.batch)
        return self.read_out(torch.cat([self.normalise(nodes), graphs[batch.batch]], dim=1))
