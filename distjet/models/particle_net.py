"""ParticleNet: a jet is a cloud of constituents, and each block of the network lets neighbours in a new space meet.

Inputs are normalised, edge convolutions follow, the mean over the constituents is read out. The first neighbours are those in
the plane of pseudorapidity and azimuth, later ones those in the space of the states behind the block before. The published
sizes are the defaults: 366,160 parameters with seven inputs and two classes, and 26,416 for ParticleNet-Lite.

Reference:
    H. Qu and L. Gouskos, "ParticleNet: jet tagging via particle clouds", arXiv:1902.08570.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.tagger import TaggerNetwork, TaggerSpec
from distjet.models.tagger_configs import ParticleNetConfig, ParticleNetLiteConfig
from distjet.nn.batch_norm import BatchNorm
from distjet.nn.edge_conv import EdgeConv
from distjet.nn.neighbours import nearest
from distjet.nn.segments import segment_sum

TINY = 1e-6


class ParticleNet(TaggerNetwork):
    """Edge convolutions on dynamic graphs; a jet may have any number of constituents."""

    Config = ParticleNetConfig

    def __init__(self, config: ParticleNetConfig, spec: TaggerSpec) -> None:
        super().__init__()
        self.config = config
        self.point_places = [config.inputs.index(name) for name in config.points or ()]
        self.normalise = BatchNorm(spec.num_node)
        widths = [spec.num_node, *(block[-1] for block in config.blocks)]
        self.blocks = nn.ModuleList(EdgeConv(before, block) for before, block in zip(widths, config.blocks, strict=False))
        num_read, self.fusion = widths[-1], None
        if config.use_fusion:
            num_read = _fusion_width(sum(widths[1:]))
            self.fusion = nn.Sequential(nn.Linear(sum(widths[1:]), num_read, bias=False), BatchNorm(num_read), nn.ReLU())
        self.read_out = _read_out([num_read + spec.num_jet, *config.hidden], config.dropout, spec.num_classes)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Map a batch with scaled inputs to logits of shape (B, num_classes)."""
        points = batch.x[:, self.point_places] if self.point_places else points_around_axes(batch)
        nodes = self.normalise(batch.x)
        states = []
        for block in self.blocks:
            nodes = block(nodes, self._neighbours(points, batch))
            points = nodes
            states.append(nodes)
        if self.fusion is not None:
            nodes = self.fusion(torch.cat(states, dim=1))
        sizes = batch.ptr.diff().clamp(min=1).unsqueeze(1)
        jets = segment_sum(nodes, batch.batch, batch.num_graphs) / sizes
        return self.read_out(torch.cat([jets, batch.u.to(jets.dtype)], dim=1))

    def _neighbours(self, points: Tensor, batch: GraphBatch) -> Tensor:
        longest = self.config.max_constituents
        return nearest(points, batch.ptr, self.config.num_neighbours, batch=batch.batch, max_nodes=longest)


class ParticleNetLite(ParticleNet):
    """The same with the sizes of ParticleNet-Lite."""

    Config = ParticleNetLiteConfig


def points_around_axes(batch: GraphBatch) -> Tensor:
    """Pseudorapidity and azimuth of constituents relative to the axis of their jet.

    Args:
        batch: With four-momenta in p4 and jets in jet.

    Returns:
        Shape (N, 2); the azimuth in radians lies within pi of the axis.
    """
    px, py, pz, _ = batch.p4.float().unbind(1)
    axis = batch.jet.float().index_select(0, batch.batch)
    eta = torch.asinh(pz / torch.hypot(px, py).clamp(min=TINY)) - axis[:, 1]
    phi = torch.atan2(py, px) - axis[:, 2]
    return torch.stack([eta, torch.remainder(phi + torch.pi, 2 * torch.pi) - torch.pi], dim=1)


def _fusion_width(num_inputs: int) -> int:
    """Width of the layer that reads the states behind all blocks, as the authors have it: a multiple of 128 up to 1024."""
    return min(max(num_inputs // 128 * 128, 128), 1024)


def _read_out(widths: list[int], dropout: float, num_classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], num_classes))
