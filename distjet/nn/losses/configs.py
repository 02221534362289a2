"""Configurations of the losses, and the table of their names.

They stand apart from the losses so that a typo in a key is reported without importing torch.
"""

from typing import Literal

from pydantic import Field

from distjet.config import Component, ComponentConfig


class TermConfig(ComponentConfig):
    """What every term of a loss has; a loss of one's own derives its Config from this."""

    weight: float = Field(default=1.0, ge=0)
    "Factor of the term in the sum; 0 switches it off."
    residual: Literal["ratio", "difference"] | None = None
    "prediction / truth - 1, or prediction - truth (in GeV for energy and mass); by default a ratio for energy and mass."


class LgkConfig(TermConfig):
    """Leaky Gaussian kernel (arXiv:1910.03773)."""

    name: str = "lgk"
    bandwidth: float = Field(default=0.1, gt=0)
    "Width h of the kernel (alpha = h^2), in units of the residual."
    leak: float = Field(default=0.05, ge=0)
    "Slope of the |u| term that pulls in residuals far outside the kernel."


class MseConfig(TermConfig):
    """Squared error."""

    name: str = "mse"


class MaeConfig(TermConfig):
    """Absolute error."""

    name: str = "mae"


class HuberConfig(TermConfig):
    """Huber loss."""

    name: str = "huber"
    delta: float = Field(default=0.1, gt=0)
    "Where the loss turns from quadratic to linear, in units of the residual."


LOSSES = {
    name: Component(f"distjet.nn.losses.configs:{config}", f"distjet.nn.losses.residual:{loss}")
    for name, config, loss in (
        ("lgk", "LgkConfig", "LeakyGaussianKernel"),
        ("mse", "MseConfig", "SquaredError"),
        ("mae", "MaeConfig", "AbsoluteError"),
        ("huber", "HuberConfig", "Huber"),
    )
}
