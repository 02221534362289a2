"""Configurations of the losses, and the table of their names.

They stand apart from the losses so that a typo in a key is reported without importing torch.
"""

from typing import ClassVar, Literal

from pydantic import Field

from distjet.config import Component, ComponentConfig


class TermConfig(ComponentConfig):
    """What every term of a loss has; a loss of one's own derives its Config from this."""

    estimate: ClassVar[str] = "point"
    "What it compares with the truth; a network gives one of point, gaussian, mixture, quantiles."
    weight: float = Field(default=1.0, ge=0)
    "Factor of the term in the sum; 0 switches it off."
    residual: Literal["ratio", "difference"] | None = None
    """prediction / truth - 1, or prediction - truth (in GeV for energy and mass). By default a ratio for energy and mass, and
    the difference of responses where a network predicts the response of whole jets. Densities and quantiles have none."""


class LgkConfig(TermConfig):
    """Leaky Gaussian kernel (arXiv:1910.03773)."""

    name: str = "lgk"
    bandwidth: float = Field(default=0.1, gt=0)
    "Width h of the kernel (alpha = h^2), in units of the residual."
    leak: float = Field(default=0.05, ge=0)
    "Slope of the |u| term that pulls in residuals far outside the kernel."
    leaky_fraction: float = Field(default=1.0, gt=0, le=1)
    """Part of the epochs with the leak; the rest goes on without it, from the weights found with it. 0.5 is the published pair
    of trainings of equal length: the leak finds the peak, and the kernel alone settles on its mode."""


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


class GaussianNllConfig(TermConfig):
    """-log of the normal density that the network gives."""

    estimate: ClassVar[str] = "gaussian"
    name: str = "gnll"


class MixtureNllConfig(TermConfig):
    """-log of the mixture of normal densities that the network gives."""

    estimate: ClassVar[str] = "mixture"
    name: str = "mdn"


class PinballConfig(TermConfig):
    """Pinball loss of the quantiles that the network gives."""

    estimate: ClassVar[str] = "quantiles"
    name: str = "quantile"


LOSSES = {
    name: Component(f"distjet.nn.losses.configs:{config}", f"distjet.nn.losses.{loss}")
    for name, config, loss in (
        ("lgk", "LgkConfig", "residual:LeakyGaussianKernel"),
        ("mse", "MseConfig", "residual:SquaredError"),
        ("mae", "MaeConfig", "residual:AbsoluteError"),
        ("huber", "HuberConfig", "residual:Huber"),
        ("gnll", "GaussianNllConfig", "density:GaussianNll"),
        ("mdn", "MixtureNllConfig", "density:MixtureNll"),
        ("quantile", "PinballConfig", "density:Pinball"),
    )
}
