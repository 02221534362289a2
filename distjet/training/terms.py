"""How does a loss become the sums that processes add up?

A term gives a number per jet; its weighted sum over the jets of a batch, not its mean, goes to the loop, so that W processes
with uneven shares make the step of one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from distjet.config import implementation
from distjet.nn.losses.configs import LOSSES, TermConfig


@dataclass(frozen=True)
class LossSums:
    """Sums over the graphs of a batch; the caller divides by the global sum of weights."""

    total: Tensor
    "Weighted sum of the loss, with gradient, shape ()."
    terms: Tensor
    "Weighted sum of each term before its factor, detached, shape (T,)."
    weight: Tensor
    "Sum of weights, shape ()."
    graphs: Tensor
    "What each graph adds to the loss, detached, shape (B,)."


@dataclass(frozen=True)
class Term:
    """One term of the loss."""

    observable: str
    is_ratio: bool
    weight: float
    function: Callable[..., Tensor]

    @classmethod
    def build(cls, observable: str, config: TermConfig, residual: str) -> "Term":
        """Build a term; `residual` is what it acts on where the configuration leaves it open."""
        function = implementation(config.name, LOSSES)(config)
        return cls(observable, (config.residual or residual) == "ratio", config.weight, function)

    def at(self, progress: float) -> Callable[..., Tensor]:
        """Return the loss of this part of the training: one with phases has a method `at`."""
        phase = getattr(self.function, "at", None)
        return self.function if phase is None else phase(progress)


def add_up(terms: Sequence[Term], graphs: Sequence[Tensor], weight: Tensor) -> LossSums:
    """Add up what the terms give.

    Args:
        terms: The terms.
        graphs: What each of them gives for each jet, times the jet's weight, each of shape (B,).
        weight: Weight of each jet, shape (B,).
    """
    sums = [values.sum() for values in graphs]
    total = torch.stack([term.weight * value for term, value in zip(terms, sums, strict=True)]).sum()
    return LossSums(total, torch.stack(sums).detach(), weight.sum(), torch.stack(list(graphs)).detach().sum(0))
