"""ParticleNeXt: messages between near constituents at several scales, weighted with attention.

Neighbours are found once, in rapidity and azimuth, and so are the pairwise features of the edges; every layer uses them again.
A constituent is among its own neighbours; a jet of fewer constituents than neighbours has them all. Jets are read out by
attention over their constituents.

Reference:
    H. Qu, ParticleNeXt, talk at ML4Jets 2021 (CERN indico 980214, contribution 4413544); defaults are those of weaver-core.
"""

import torch
from torch import Tensor, nn

from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.tagger import TaggerNetwork, TaggerSpec
from distjet.models.tagger_configs import ParticleNextConfig
from distjet.nn.batch_norm import BatchNorm
from distjet.nn.multi_scale_edge_conv import MultiScaleEdgeConv, Neighbourhood
from distjet.nn.neighbours import nearest
from distjet.nn.pairwise import NUM_PAIRWISE, Ends, neighbour_features, relative_angle
from distjet.nn.segments import segment_softmax, segment_sum
from distjet.nn.weighted_batch_norm import WeightedBatchNorm


class ParticleNext(TaggerNetwork):
    """Multi-scale message passing on a graph of nearest neighbours."""

    Config = ParticleNextConfig

    def __init__(self, config: ParticleNextConfig, spec: TaggerSpec) -> None:
        super().__init__()
        self.num_neighbours, self.max_constituents = config.scales[-1], config.max_constituents
        self.encode_node = nn.Sequential(BatchNorm(spec.num_node), nn.Linear(spec.num_node, config.node_width, bias=False))
        self.norm_edge = WeightedBatchNorm(NUM_PAIRWISE)
        self.encode_edge = nn.Linear(NUM_PAIRWISE, config.edge_width, bias=False)
        widths = [config.node_width, *[config.width] * config.num_layers]
        self.layers = nn.ModuleList(
            MultiScaleEdgeConv(before, config.width, config.edge_width, config.message_width, config.scales, config.num_heads)
            for before in widths[:-1]
        )
        self.norm = BatchNorm(config.width)
        self.pool = AttentionPooling(config.width, config.num_pooling_heads)
        self.read_out = nn.Sequential(
            nn.Linear(config.width + spec.num_jet, config.hidden),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, spec.num_classes),
        )

    def forward(self, batch: GraphBatch) -> Tensor:
        """Map a batch to logits (B, num_classes)."""
        graph, features = self._graph(batch)
        nodes = self.encode_node(batch.x)
        edges = self.encode_edge(self.norm_edge(features, graph.mask))
        for layer in self.layers:
            nodes = layer(nodes, edges, graph)
        jets = self.pool(torch.relu(self.norm(nodes)), batch.batch, batch.num_graphs)
        return self.read_out(torch.cat([jets, batch.u.to(jets.dtype)], dim=1))

    @torch.no_grad()
    def _graph(self, batch: GraphBatch) -> tuple[Neighbourhood, Tensor]:
        """Find neighbours, and features of the edges to them."""
        ends = Ends.of(batch.p4)
        # relative to a constituent of the same jet, so that no jet is cut apart where azimuths wrap around
        reference = ends.phi.index_select(0, batch.ptr.index_select(0, batch.batch))
        points = torch.stack([ends.rapidity, relative_angle(ends.phi, reference)], dim=1)
        longest = self.max_constituents
        table = nearest(points, batch.ptr, self.num_neighbours, include_self=True, batch=batch.batch, max_nodes=longest)
        graph = Neighbourhood.of(table, batch.batch, batch.ptr, batch.p4.dtype)
        return graph, neighbour_features(batch.p4, table)


class AttentionPooling(nn.Module):
    """Sum over the constituents of a jet with weights that are a softmax of a linear function of them."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, num_heads, bias=False)

    def forward(self, nodes: Tensor, batch: Tensor, num_graphs: int) -> Tensor:
        """Map nodes (N, width) to jets (num_graphs, width); channel c has the weights of head c modulo their number."""
        weights = segment_softmax(self.score(nodes), batch, num_graphs).to(nodes.dtype)
        weighted = nodes.unflatten(1, (-1, weights.shape[1])) * weights.unsqueeze(1)
        return segment_sum(weighted.flatten(1), batch, num_graphs)
