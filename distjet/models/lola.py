"""LoLa: a combination layer and a Lorentz layer before a small dense network.

The combination layer (CoLa) adds to the four-momenta of the hardest constituents their sum and trained linear combinations. The
Lorentz layer (LoLa) turns each of these K vectors into its squared mass, its pT, a trained sum of all energies, and trained
sums and minima of the squared Minkowski distances to all the others. Weights belong to places in the order of pT, so the order
of constituents is part of the network.

Squared distances follow from the products of all pairs, B K^2 numbers instead of four times as many, in float32 even under
autocast: they are small differences. Where weights start is our choice: such that sums are of order one.

Reference:
    A. Butter, G. Kasieczka, T. Plehn, M. Russell, "Deep-learned top tagging with a Lorentz layer", arXiv:1707.08966; with
    127k parameters in G. Kasieczka et al., "The machine learning landscape of top taggers", arXiv:1902.09914.
"""

import math

import torch
from torch import Tensor, nn

from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.tagger import TaggerNetwork, TaggerSpec
from distjet.models.tagger_configs import LolaConfig
from distjet.nn.dense import to_dense
from distjet.nn.mlp import mlp


class Lola(TaggerNetwork):
    """CoLa, LoLa, dense layers."""

    Config = LolaConfig

    def __init__(self, config: LolaConfig, spec: TaggerSpec) -> None:
        super().__init__()
        self.length, self.unit_gev = config.max_constituents, config.unit_gev
        self.combine = CombinationLayer(config.max_constituents, config.num_combinations)
        num_vectors = 1 + config.max_constituents + config.num_combinations
        self.lorentz = LorentzLayer(num_vectors, config.num_sums, config.num_minima)
        num_features = num_vectors * self.lorentz.num_features
        self.per_jet = mlp(num_features + spec.num_jet, config.hidden, spec.num_classes, nn.ReLU)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Map a batch, constituents sorted by falling pT, to logits of shape (B, num_classes)."""
        p4 = to_dense(batch.p4 / self.unit_gev, batch.ptr, batch.batch, self.length)
        with torch.autocast(p4.device.type, enabled=False):
            features = self.lorentz(self.combine(p4))
        return self.per_jet(torch.cat([features.flatten(1), batch.u], dim=1))


class CombinationLayer(nn.Module):
    """CoLa: the sum of N four-momenta, they themselves, and M trained combinations of them."""

    def __init__(self, num_constituents: int, num_combinations: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_combinations, num_constituents))
        nn.init.normal_(self.weight, std=1 / math.sqrt(num_constituents))

    def forward(self, p4: Tensor) -> Tensor:
        """Map (B, N, 4) to (B, 1 + N + M, 4)."""
        return torch.cat([p4.sum(1, keepdim=True), p4, self.weight @ p4], dim=1)


class LorentzLayer(nn.Module):
    """LoLa: what K four-momenta are to each other under the Minkowski metric."""

    metric: Tensor

    def __init__(self, num_vectors: int, num_sums: int, num_minima: int) -> None:
        super().__init__()
        self.num_features = 3 + num_sums + num_minima
        scale = 1 / math.sqrt(num_vectors)
        self.energy = nn.Parameter(scale * torch.randn(num_vectors, num_vectors))
        self.summed = nn.Parameter(scale * torch.randn(num_sums, num_vectors, num_vectors))
        self.smallest = nn.Parameter(scale * torch.randn(num_minima, num_vectors, num_vectors))
        self.register_buffer("metric", torch.tensor([-1.0, -1.0, -1.0, 1.0]), persistent=False)

    def forward(self, p4: Tensor) -> Tensor:
        """Map (B, K, 4), the order px, py, pz, E, to (B, num_features, K)."""
        products = (p4 * self.metric) @ p4.transpose(1, 2)
        mass_squared = products.diagonal(dim1=1, dim2=2)
        distance = mass_squared.unsqueeze(2) + mass_squared.unsqueeze(1) - 2 * products
        pt = torch.sqrt(p4[..., 0] ** 2 + p4[..., 1] ** 2 + 1e-12)  # an empty place has a gradient too
        features = [mass_squared, pt, p4[..., 3] @ self.energy.T]
        features += [(distance * weight).sum(2) for weight in self.summed]
        features += [(distance * weight).amin(2) for weight in self.smallest]
        return torch.stack(features, dim=1)
