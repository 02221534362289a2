"""Losses of a residual u that is zero for a perfect prediction (a ratio minus one, or a difference).

Which statistic of the residual a loss drives to zero is what distinguishes them: the mean (MSE), the median (MAE), the mode
(leaky Gaussian kernel). The kernel enters with a MINUS sign; printed with a plus it has its maximum at zero.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from distjet.nn.losses.configs import HuberConfig, LgkConfig, MaeConfig, MseConfig

ResidualLoss = Callable[[Tensor], Tensor]


class LeakyGaussianKernel:
    """Leaky Gaussian kernel: its argmin is the mode of the residual, at the resolution of the bandwidth.

    L(u) = -exp(-u^2 / (2 h^2)) / (h sqrt(2 pi)) + leak |u|

    Reference:
        Cheong, Cukierman, Nachman, Safdari, Schwartzman, arXiv:1910.03773.
    """

    Config = LgkConfig

    def __init__(self, config: LgkConfig) -> None:
        self.config = config

    def at(self, progress: float) -> "LeakyGaussianKernel":
        """Return the loss for a part of the training: with the leak, or without it in the second phase."""
        is_leaky = progress < self.config.leaky_fraction
        return self if is_leaky else LeakyGaussianKernel(self.config.model_copy(update={"leak": 0.0, "leaky_fraction": 1.0}))

    def __call__(self, residual: Tensor) -> Tensor:
        """Loss of each residual, same shape."""
        h = self.config.bandwidth
        kernel = torch.exp(-0.5 * (residual / h) ** 2) / (h * math.sqrt(2 * math.pi))
        return self.config.leak * residual.abs() - kernel


class SquaredError:
    """u^2: drives the mean to zero."""

    Config = MseConfig

    def __init__(self, config: MseConfig) -> None:
        self.config = config

    def __call__(self, residual: Tensor) -> Tensor:
        """Loss of each residual, same shape."""
        return residual**2


class AbsoluteError:
    """|u|: drives the median to zero."""

    Config = MaeConfig

    def __init__(self, config: MaeConfig) -> None:
        self.config = config

    def __call__(self, residual: Tensor) -> Tensor:
        """Loss of each residual, same shape."""
        return residual.abs()


class Huber:
    """u^2 / 2 within `delta`, linear beyond."""

    Config = HuberConfig

    def __init__(self, config: HuberConfig) -> None:
        self.config = config

    def __call__(self, residual: Tensor) -> Tensor:
        """Loss of each residual, same shape."""
        return torch.nn.functional.huber_loss(residual, torch.zeros_like(residual), reduction="none", delta=self.config.delta)
