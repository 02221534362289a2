"""A network that gives quantiles of the response of every jet, without assuming a shape.

Quantiles cannot cross: the lowest is an output, and each further one adds a softplus to the one before.

Reference:
    R. Koenker and G. Bassett, Regression quantiles, Econometrica 46 (1978) 33.
"""

import math
from itertools import pairwise
from statistics import NormalDist

import torch
from torch import Tensor, nn

from distjet.models.configs import QuantileRegressionConfig
from distjet.models.network import JetNetwork
from distjet.nn.mlp import mlp, start_at
from distjet.nn.response_estimates import Quantiles


class QuantileRegression(JetNetwork):
    """Dense layers with an output per jet and quantile."""

    Config = QuantileRegressionConfig
    levels: Tensor

    def __init__(self, config: QuantileRegressionConfig, num_inputs: int) -> None:
        super().__init__()
        self.register_buffer("levels", torch.tensor(config.levels), persistent=False)
        self.layers = mlp(num_inputs, config.hidden, len(config.levels))
        first, *others = (NormalDist(config.initial_response, config.initial_sigma).inv_cdf(t) for t in config.levels)
        steps = [b - a for a, b in pairwise([first, *others])]
        start_at(self.layers, [first, *(math.log(math.expm1(step)) for step in steps)])

    def forward(self, inputs: Tensor) -> Tensor:
        """Map standardised inputs (B, F) to outputs (B, Q)."""
        return self.layers(inputs)

    def estimate(self, outputs: Tensor) -> Quantiles:
        """Read outputs as the lowest quantile and the distances between neighbours."""
        steps = torch.cat([outputs[:, :1], nn.functional.softplus(outputs[:, 1:])], dim=1)
        return Quantiles(self.levels, steps.cumsum(1))
