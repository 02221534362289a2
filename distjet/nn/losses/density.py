"""Losses of what a network says of the response, given the response that was observed.

All are proper scores: on average no other density (or quantile) does better than the true one.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from distjet.nn.losses.configs import GaussianNllConfig, MixtureNllConfig, PinballConfig
from distjet.nn.response_estimates import Gaussian, Mixture, Quantiles

DensityLoss = Callable[[Any, Tensor], Tensor]


class GaussianNll:
    """-log of a normal density: ln sigma + (r - mu)^2 / (2 sigma^2) + ln sqrt(2 pi).

    Reference:
        D. Nix and A. Weigend, ICNN (1994) 55.
    """

    Config = GaussianNllConfig

    def __init__(self, config: GaussianNllConfig) -> None:
        self.config = config

    def __call__(self, estimate: Gaussian, response: Tensor) -> Tensor:
        """Loss of each jet, shape (B,)."""
        return -estimate.log_density(response)


class MixtureNll:
    """-log of a mixture of normal densities, by log-sum-exp.

    Reference:
        C. Bishop, Mixture density networks, NCRG/94/004 (1994).
    """

    Config = MixtureNllConfig

    def __init__(self, config: MixtureNllConfig) -> None:
        self.config = config

    def __call__(self, estimate: Mixture, response: Tensor) -> Tensor:
        """Loss of each jet, shape (B,)."""
        return -estimate.log_density(response)


class Pinball:
    """Mean over quantiles q of max(t u, (t - 1) u) with u = r - q at level t: its argmin is the quantile.

    Reference:
        R. Koenker and G. Bassett, Econometrica 46 (1978) 33.
    """

    Config = PinballConfig

    def __init__(self, config: PinballConfig) -> None:
        self.config = config

    def __call__(self, estimate: Quantiles, response: Tensor) -> Tensor:
        """Loss of each jet, shape (B,)."""
        above = response.unsqueeze(1) - estimate.values
        return (estimate.levels * above - above.clamp(max=0)).mean(1)
