"""A network that gives a Gaussian for the response of every jet: scale and resolution at once.

sigma = min_sigma + softplus, so that it is positive without a hard edge and the likelihood is bounded.

Reference:
    D. Nix and A. Weigend, Estimating the mean and variance of the target probability distribution, ICNN (1994) 55.
"""

import math

from torch import Tensor, nn

from distjet.models.configs import GaussianResponseConfig
from distjet.models.network import JetNetwork
from distjet.nn.mlp import mlp, start_at
from distjet.nn.response_estimates import Gaussian


class GaussianResponse(JetNetwork):
    """Dense layers with two outputs per jet."""

    Config = GaussianResponseConfig

    def __init__(self, config: GaussianResponseConfig, num_inputs: int) -> None:
        super().__init__()
        self.min_sigma = config.min_sigma
        self.layers = mlp(num_inputs, config.hidden, 2)
        start_at(self.layers, [config.initial_response, math.log(math.expm1(config.initial_sigma))])

    def forward(self, inputs: Tensor) -> Tensor:
        """Map standardised inputs (B, F) to outputs (B, 2)."""
        return self.layers(inputs)

    def estimate(self, outputs: Tensor) -> Gaussian:
        """Read outputs as mean and sigma."""
        mean, width = outputs.unbind(1)
        return Gaussian(mean, self.min_sigma + nn.functional.softplus(width))
