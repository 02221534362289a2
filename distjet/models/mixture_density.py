"""A network that gives a mixture of Gaussians for the response of every jet: skewed and two-peaked responses included.

Weights are a softmax, sigma = min_sigma + softplus, and everything stays a logarithm until the last sum, so no jet far from all
components makes a loss that is not finite. The components start side by side, or all would follow the same gradient.

Reference:
    C. Bishop, Mixture density networks, NCRG/94/004 (1994).
"""

import math

import torch
from torch import Tensor, nn

from distjet.models.configs import MixtureDensityConfig
from distjet.models.network import JetNetwork
from distjet.nn.mlp import mlp, start_at
from distjet.nn.response_estimates import Mixture


class MixtureDensity(JetNetwork):
    """Dense layers with three outputs per jet and component."""

    Config = MixtureDensityConfig

    def __init__(self, config: MixtureDensityConfig, num_inputs: int) -> None:
        super().__init__()
        self.min_sigma, count = config.min_sigma, config.num_components
        self.layers = mlp(num_inputs, config.hidden, 3 * count)
        centre, spread = config.initial_response, config.initial_sigma
        means = [centre + spread * (2 * (k + 0.5) / count - 1) for k in range(count)]
        start_at(self.layers, [0.0] * count + means + [math.log(math.expm1(spread))] * count)

    def forward(self, inputs: Tensor) -> Tensor:
        """Map standardised inputs (B, F) to outputs (B, 3 K)."""
        return self.layers(inputs)

    def estimate(self, outputs: Tensor) -> Mixture:
        """Read outputs as weights, means and sigmas."""
        logits, means, widths = outputs.chunk(3, dim=1)
        return Mixture(torch.log_softmax(logits, dim=1), means, self.min_sigma + nn.functional.softplus(widths))
