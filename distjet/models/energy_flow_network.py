"""The energy flow network: a tagger that soft and collinear emissions cannot move.

A jet is F(sum of z Phi(direction)), where z is the share of the pT: a constituent without pT adds nothing, and two in one
direction add what their sum does, so the output is infrared and collinear safe whatever the weights are. That is why it reads
directions alone and takes no columns. With two classes it has the published 82,358 parameters.

Reference:
    P. Komiske, E. Metodiev, J. Thaler, "Energy flow networks: deep sets for particle jets", arXiv:1810.05165.
"""

import torch
from torch import Tensor, nn

from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.particle_flow_network import constituent_network, he_uniform
from distjet.models.tagger import TaggerNetwork, TaggerSpec
from distjet.models.tagger_configs import EnergyFlowNetworkConfig
from distjet.nn.jet_frame import to_jet_frame
from distjet.nn.mlp import mlp
from distjet.nn.segments import segment_sum


class EnergyFlowNetwork(TaggerNetwork):
    """F(sum of share * Phi(delta_y, delta_phi))."""

    Config = EnergyFlowNetworkConfig

    def __init__(self, config: EnergyFlowNetworkConfig, spec: TaggerSpec) -> None:
        super().__init__()
        self.per_constituent = constituent_network(2, config.constituent_hidden)
        self.per_jet = mlp(config.constituent_hidden[-1] + spec.num_jet, config.jet_hidden, spec.num_classes, nn.ReLU)
        he_uniform(self)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Map a batch to logits of shape (B, num_classes)."""
        frame = to_jet_frame(batch.p4, batch.batch, batch.num_graphs)
        latent = self.per_constituent(torch.stack([frame.delta_y, frame.delta_phi], dim=1))
        jets = segment_sum(frame.share.unsqueeze(1) * latent, batch.batch, batch.num_graphs)
        return self.per_jet(torch.cat([jets, batch.u], dim=1))
