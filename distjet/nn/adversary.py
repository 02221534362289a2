"""What does the score of a jet tell of its mass? A small network guesses the mass, and the tagger learns to give it no clue.

Both learn in one step. The adversary maximises the likelihood that it gives the mass. Its gradient reaches the tagger with the
opposite sign, times a strength that rises while the training goes on, so that the tagger minimises what the adversary
maximises (arXiv:1409.7495). A mixture of normal densities stands for p(mass | score) (arXiv:1703.03507, ATL-PHYS-PUB-2018-014);
probabilities of bins of the mass are the other choice (DeepAK8-MD, arXiv:2004.08262).
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from distjet.nn.batch_norm import BatchNorm
from distjet.nn.losses.classification_configs import AdversaryConfig
from distjet.nn.response_estimates import Mixture

RANGE_SIGMAS = 3.0
"Bins of the mass reach so many standard deviations to both sides of its mean."
MIN_SIGMA = 1e-2
"Of a component of the mixture, in standard deviations of the mass, so that it cannot shrink to a single jet."


class ReverseGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied with -strength."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        """Return x."""
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Reverse the gradient of x."""
        return -ctx.strength * gradient, None


class MassAdversary(nn.Module):
    """p(mass | scores) of a jet, which the scores are punished for.

    Attributes:
        progress: Part of the training that is done, from 0 to 1; the training sets it at the beginning of each epoch.
        lr_factor: Learning rate of its parameters over that of the others.
    """

    mean: Tensor
    inverse_std: Tensor
    inner_edges: Tensor

    def __init__(self, num_scores: int, config: AdversaryConfig, mean: float = 0.0, std: float = 1.0) -> None:
        """Build the network.

        Args:
            num_scores: Scores (or features) of a jet.
            config: Layers, and how strength grows.
            mean: Mean mass (or another variable) of the jets that it is trained on (GeV).
            std: Standard deviation of the same (GeV).
        """
        super().__init__()
        if not std > 0:
            raise ValueError(f"an adversary needs a variable that varies (got std={std:g})")
        self.config, self.progress, self.lr_factor = config, 0.0, config.lr_factor
        self.register_buffer("mean", torch.tensor(float(mean)))
        self.register_buffer("inverse_std", torch.tensor(1 / std))
        edges = torch.linspace(-RANGE_SIGMAS, RANGE_SIGMAS, config.num_bins + 1)
        self.register_buffer("inner_edges", edges[1:-1].clone(), persistent=False)
        width, layers = num_scores, list[nn.Module]()
        for hidden in config.hidden:
            layers += [BatchNorm(width)] if config.batch_norm else []
            layers += [nn.Linear(width, hidden), nn.Tanh()]
            width = hidden
        self.hidden = nn.Sequential(*layers)
        self.output = nn.Linear(width, config.num_bins if config.output == "bins" else 3 * config.num_components)
        if config.output == "mixture":
            self._spread_components()

    def forward(self, scores: Tensor, mass: Tensor) -> Tensor:
        """Return the logarithm of the likelihood of each mass, shape (B,), float32.

        Args:
            scores: Shape (B, num_scores); log-odds or logits rather than probabilities, which hardly vary for most jets.
            mass: In GeV, shape (B,).
        """
        with torch.autocast(scores.device.type, enabled=False):
            scores = ReverseGradient.apply(scores.float(), self.config.strength(self.progress))
            given = self.output(self.hidden(scores))
            normalised = (mass.float() - self.mean) * self.inverse_std
            return self._of_bins(given, normalised) if self.config.output == "bins" else self._of_mixture(given, normalised)

    def _of_mixture(self, given: Tensor, normalised: Tensor) -> Tensor:
        weights, means, sigmas = given.chunk(3, dim=1)
        density = Mixture(torch.log_softmax(weights, 1), means, MIN_SIGMA + nn.functional.softplus(sigmas))
        return density.log_density(normalised)

    def _of_bins(self, given: Tensor, normalised: Tensor) -> Tensor:
        place = torch.bucketize(normalised, self.inner_edges)
        return torch.log_softmax(given, 1).gather(1, place.unsqueeze(1)).squeeze(1)

    def _spread_components(self) -> None:
        """Begin with densities side by side: components that begin as one learn slowly to differ."""
        number = self.config.num_components
        width = 2 * RANGE_SIGMAS / number
        with torch.no_grad():
            _, means, sigmas = self.output.bias.chunk(3)
            means.copy_((torch.arange(number) + 0.5) * width - RANGE_SIGMAS)
            sigmas.fill_(math.log(math.expm1(width)))
