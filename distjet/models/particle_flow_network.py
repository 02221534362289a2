"""The particle flow network: any function of a set of particles is one of a sum over particles.

A jet is F(sum of Phi(p)), where Phi and F are dense networks. The published inputs are the share of the pT and the two angles
relative to the jet axis, made here from four-momenta; with two classes this has the published 82,458 parameters. Weights start
He-uniform, as published. Columns named in `inputs` stand behind these three.

Reference:
    P. Komiske, E. Metodiev, J. Thaler, "Energy flow networks: deep sets for particle jets", arXiv:1810.05165.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.tagger import TaggerNetwork, TaggerSpec
from distjet.models.tagger_configs import ParticleFlowNetworkConfig
from distjet.nn.jet_frame import to_jet_frame
from distjet.nn.mlp import mlp
from distjet.nn.segments import segment_sum


class ParticleFlowNetwork(TaggerNetwork):
    """F(sum of Phi(share, delta_y, delta_phi, inputs))."""

    Config = ParticleFlowNetworkConfig

    def __init__(self, config: ParticleFlowNetworkConfig, spec: TaggerSpec) -> None:
        super().__init__()
        self.per_constituent = constituent_network(3 + spec.num_node, config.constituent_hidden)
        self.per_jet = mlp(config.constituent_hidden[-1] + spec.num_jet, config.jet_hidden, spec.num_classes, nn.ReLU)
        he_uniform(self)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Map a batch to logits of shape (B, num_classes)."""
        frame = to_jet_frame(batch.p4, batch.batch, batch.num_graphs)
        own = torch.stack([frame.share, frame.delta_y, frame.delta_phi], dim=1)
        latent = self.per_constituent(torch.cat([own, batch.x], dim=1))
        jets = segment_sum(latent, batch.batch, batch.num_graphs)
        return self.per_jet(torch.cat([jets, batch.u], dim=1))


def constituent_network(num_inputs: int, hidden: Sequence[int]) -> nn.Sequential:
    """Build Phi: dense layers, each with a ReLU behind it."""
    return nn.Sequential(*mlp(num_inputs, hidden[:-1], hidden[-1], nn.ReLU), nn.ReLU())


def he_uniform(network: nn.Module) -> None:
    """Draw the weights of all dense layers from He's uniform distribution, with biases of zero."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
