"""Standardisation as a part of the network, so that a checkpoint and an export carry their own constants."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Standardise(nn.Module):
    """`(x - mean) / std` per feature; the constants come from the training split and are stored with the weights.

    A feature that is constant in the training split (std = 0) is only centred. Values beyond `limit` standard deviations are
    clipped, so that one outlier cannot dominate a batch.
    """

    mean: Tensor
    inverse_std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], limit: float = 10.0) -> None:
        super().__init__()
        deviation = torch.tensor(std, dtype=torch.float32)
        self.limit = limit
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("inverse_std", torch.where(deviation > 0, 1 / deviation.clamp(min=1e-30), 1.0))

    def forward(self, x: Tensor) -> Tensor:
        """Standardise features of shape (..., F)."""
        return ((x - self.mean) * self.inverse_std).clamp(-self.limit, self.limit)
