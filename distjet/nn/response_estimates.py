"""What can a network say of the response r of a jet: a point, a Gaussian, a mixture of Gaussians, or quantiles?

Each says which single number an energy is divided by (`response`) and what else is known of the jet (`describe`). Of a mixture
that number is the mode: the mean is pulled by tails, and the mode is what a Gaussian fit to the core of a histogram finds.

Shapes: B jets, K components, Q quantiles.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

NUM_MEAN_SHIFTS, NUM_NEWTON_STEPS = 20, 4
LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class ResponseEstimate(Protocol):
    """What every network on whole jets returns."""

    def response(self) -> Tensor:
        """Response by which the energy is divided, shape (B,)."""
        ...

    def describe(self, observed: Tensor | None) -> dict[str, Tensor]:
        """Say what else is known of each jet, (B,) or (B, Q).

        Args:
            observed: Response of each jet where its truth is known, shape (B,).
        """
        ...


@dataclass(frozen=True)
class Point:
    """A number for each jet, shape (B,)."""

    value: Tensor

    def response(self) -> Tensor:
        """Return the number, shape (B,)."""
        return self.value

    def describe(self, observed: Tensor | None) -> dict[str, Tensor]:
        """Say nothing more."""
        return {}


@dataclass(frozen=True)
class Gaussian:
    """A normal density for each jet; mean and sigma have shape (B,)."""

    mean: Tensor
    sigma: Tensor

    def log_density(self, response: Tensor) -> Tensor:
        """Logarithm of the density at a response, shape (B,)."""
        return log_normal(response, self.mean, self.sigma)

    def response(self) -> Tensor:
        """Return the mean, which is also the mode, shape (B,)."""
        return self.mean

    def describe(self, observed: Tensor | None) -> dict[str, Tensor]:
        """Return mode and sigma of the response and, where it is observed, its place in the distribution (PIT)."""
        told = {"mode": self.mean, "sigma": self.sigma}
        return told if observed is None else told | {"pit": torch.special.ndtr((observed - self.mean) / self.sigma)}


@dataclass(frozen=True)
class Mixture:
    """A mixture of normal densities for each jet; every tensor has shape (B, K).

    Reference:
        C. Bishop, Mixture density networks, NCRG/94/004 (1994).
    """

    log_weights: Tensor
    "Logarithms of weights that sum to 1."
    means: Tensor
    sigmas: Tensor

    def log_density(self, response: Tensor) -> Tensor:
        """Logarithm of the density at a response, shape (B,); a sum of exponentials of which none overflows."""
        return torch.logsumexp(self.log_weights + log_normal(response.unsqueeze(1), self.means, self.sigmas), dim=1)

    def cumulative(self, response: Tensor) -> Tensor:
        """Probability below a response, shape (B,)."""
        below = torch.special.ndtr((response.unsqueeze(1) - self.means) / self.sigmas)
        return (self.log_weights.exp() * below).sum(1).clamp(max=1.0)  # weights of float32 may sum to a little more

    def mean(self) -> Tensor:
        """Mean, shape (B,)."""
        return (self.log_weights.exp() * self.means).sum(1)

    def sigma(self) -> Tensor:
        """Standard deviation, shape (B,)."""
        spread = self.sigmas**2 + (self.means - self.mean().unsqueeze(1)) ** 2
        return (self.log_weights.exp() * spread).sum(1).sqrt()

    def response(self) -> Tensor:
        """Return the highest mode, shape (B,).

        From each mean the mean-shift iteration climbs to a mode and never passes one; the highest is refined by Newton steps.
        The numbers of steps are fixed, so that the result can be exported.

        Reference:
            M. Carreira-Perpinan, Mode-finding for mixtures of Gaussian distributions, IEEE TPAMI 22 (2000) 1318.
        """
        places = self.means
        for _ in range(NUM_MEAN_SHIFTS):
            pull = self._shares(places) / self.sigmas.unsqueeze(1) ** 2
            places = (pull * self.means.unsqueeze(1)).sum(2) / pull.sum(2)
        heights = torch.stack([self.log_density(place) for place in places.unbind(1)], dim=1)
        mode = places.gather(1, heights.argmax(1, keepdim=True))
        for _ in range(NUM_NEWTON_STEPS):
            mode = mode + self._newton_step(mode)
        return mode.squeeze(1)

    def _shares(self, places: Tensor) -> Tensor:
        """Share of each component in the density at places of shape (B, P), shape (B, P, K)."""
        logs = log_normal(places.unsqueeze(2), self.means.unsqueeze(1), self.sigmas.unsqueeze(1))
        return torch.softmax(self.log_weights.unsqueeze(1) + logs, dim=2)

    def _newton_step(self, place: Tensor) -> Tensor:
        """Step towards the maximum of the logarithm, no longer than half of the smallest sigma; shapes (B, 1)."""
        shares = self._shares(place).squeeze(1)
        slopes = (self.means - place) / self.sigmas**2
        first = (shares * slopes).sum(1, keepdim=True)
        second = (shares * (slopes**2 - 1 / self.sigmas**2)).sum(1, keepdim=True) - first**2
        longest = 0.5 * self.sigmas.amin(1, keepdim=True)
        step = (-first / torch.where(second < 0, second, -1.0)).clamp(-longest, longest)
        return torch.where(second < 0, step, 0.0)

    def describe(self, observed: Tensor | None) -> dict[str, Tensor]:
        """Return mode and sigma of the response and, where it is observed, its place in the distribution (PIT)."""
        told = {"mode": self.response(), "sigma": self.sigma()}
        return told if observed is None else told | {"pit": self.cumulative(observed)}


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of the response of each jet, which never cross."""

    levels: Tensor
    "Probabilities below each quantile, rising, 0.5 among them, shape (Q,)."
    values: Tensor
    "Shape (B, Q)."

    def response(self) -> Tensor:
        """Return the median, shape (B,)."""
        return self.values[:, self.values.shape[1] // 2]

    def describe(self, observed: Tensor | None) -> dict[str, Tensor]:
        """Return the quantiles of the response and their levels."""
        return {"quantiles": self.values, "quantile_levels": self.levels.expand_as(self.values)}


def log_normal(x: Tensor, mean: Tensor, sigma: Tensor) -> Tensor:
    """Logarithm of the normal density, of the shape to which the arguments broadcast."""
    return -0.5 * ((x - mean) / sigma) ** 2 - torch.log(sigma) - LOG_SQRT_2PI
