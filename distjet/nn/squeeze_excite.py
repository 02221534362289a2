"""Squeeze and excitation: each channel is weighted with a number between 0 and 1 that the whole jet decides.

Reference:
    J. Hu, L. Shen, G. Sun, "Squeeze-and-Excitation Networks", arXiv:1709.01507.
"""

import torch
from torch import Tensor, nn

REDUCTION = 16


class Excitation(nn.Module):
    """Map the mean of each channel over a jet to a weight of the channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(width, width // REDUCTION, bias=False)
        self.excite = nn.Linear(width // REDUCTION, width, bias=False)

    def forward(self, totals: Tensor, counts: Tensor) -> Tensor:
        """Return weights of channels.

        Args:
            totals: Sum of each channel over each jet, shape (B, width).
            counts: What to divide it by, shape (B,).

        Returns:
            Shape (B, width), between 0 and 1.
        """
        mean = totals / counts.clamp(min=1).unsqueeze(1)
        return torch.sigmoid(self.excite(torch.relu(self.squeeze(mean))))
