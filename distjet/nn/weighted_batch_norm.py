"""Batch normalisation of rows that do not all count, or count more than once.

An edge of a jet with fewer neighbours than the table has columns is a row that must not count. And what is gathered to edges
need not be normalised there: a node is one end of several edges, and moments over edges are moments over nodes that are
weighted with the number of these edges. Normalisation is then a factor and a shift per channel, which can be applied before
the gather.

Reference:
    S. Ioffe, C. Szegedy, "Batch Normalization", arXiv:1502.03167.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from distjet.nn.batch_norm import BatchNorm


class Moments(NamedTuple):
    """Weighted mean and variance of C channels."""

    weight: Tensor
    "Sum of the weights, a scalar."
    mean: Tensor
    "Shape (C,)."
    variance: Tensor
    "About the mean, divided by the count, shape (C,)."

    @classmethod
    def of(cls, values: Tensor, weights: Tensor) -> "Moments":
        """Moments of rows.

        Args:
            values: Shape (..., C).
            weights: How often a row counts, shape (...), in float32 or wider.
        """
        rows, row = values.flatten(0, -2).to(weights.dtype), weights.reshape(1, -1)
        count = weights.sum()
        safe = count.clamp(min=1)
        mean = (row @ rows).squeeze(0) / safe
        return cls(count, mean, (row @ (rows - mean).square()).squeeze(0) / safe)

    @classmethod
    def join(cls, parts: "Sequence[Moments]") -> "Moments":
        """Put channels side by side that have been counted alike."""
        return cls(parts[0].weight, torch.cat([part.mean for part in parts]), torch.cat([part.variance for part in parts]))


class WeightedBatchNorm(BatchNorm):
    """`BatchNorm` on (..., C) in which rows have weights."""

    def forward(self, values: Tensor, weights: Tensor | None = None) -> Tensor:
        """Normalise rows of shape (..., C); weights of shape (...) say how often each counts, by default once."""
        if weights is None:
            return super().forward(values)
        factor, shift = self.factor_and_shift(Moments.of(values, weights) if self.training else None)
        return values * factor + shift

    def factor_and_shift(self, moments: Moments | None) -> tuple[Tensor, Tensor]:
        """What a value is multiplied with, and what is added to it.

        Args:
            moments: Of the values, in training; without them, the running ones are used.

        Returns:
            Two tensors of shape (C,).
        """
        if moments is None:
            assert self.running_mean is not None
            assert self.running_var is not None
            mean, variance = self.running_mean, self.running_var
        else:
            count, mean, variance = self.over_processes(*moments)
            self.remember(count, mean, variance)
        factor = self.weight * torch.rsqrt(variance + self.eps)
        return factor, self.bias - mean * factor
