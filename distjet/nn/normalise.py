"""Standardisation as a part of the network, so that a checkpoint and an export carry their own constants.

A network is slow to learn what changes within a small part of the range of a feature, such as the response at a gap between two
parts of a calorimeter. Sines and cosines of the feature, of shorter and shorter period, make that easy.

Reference:
    M. Tancik et al., "Fourier features let networks learn high frequency functions", arXiv:2006.10739.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Waves(NamedTuple):
    """Sines and cosines of one feature."""

    column: int
    "Place of the feature."
    longest_period: float
    "In units of the feature."
    num_octaves: int
    "Each has half the period of the one before."


class Standardise(nn.Module):
    """`(x - mean) / std` per feature; the constants come from the training split and are stored with the weights.

    A feature that is constant in the training split (std = 0) is only centred. Values beyond `limit` standard deviations are
    clipped, so that one outlier cannot dominate a batch. Waves are made of the values as they are; they follow the features.
    """

    mean: Tensor
    inverse_std: Tensor
    column: Tensor
    frequency: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], limit: float = 10.0, waves: Sequence[Waves] = ()) -> None:
        super().__init__()
        deviation = torch.tensor(std, dtype=torch.float32)
        self.limit = limit
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("inverse_std", torch.where(deviation > 0, 1 / deviation.clamp(min=1e-30), 1.0))
        places = [(wave.column, 2 * math.pi / wave.longest_period * 2**k) for wave in waves for k in range(wave.num_octaves)]
        self.num_outputs = len(mean) + 2 * len(places)
        if places:  # nothing is sent between processes for waves that are not there
            self.register_buffer("column", torch.tensor([column for column, _ in places], dtype=torch.int64), persistent=False)
            self.register_buffer("frequency", torch.tensor([value for _, value in places]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Standardise features of shape (..., F); return shape (..., num_outputs)."""
        standardised = ((x - self.mean) * self.inverse_std).clamp(-self.limit, self.limit)
        if self.num_outputs == standardised.shape[-1]:
            return standardised
        phase = x.index_select(-1, self.column) * self.frequency
        return torch.cat([standardised, torch.sin(phase), torch.cos(phase)], dim=-1)
