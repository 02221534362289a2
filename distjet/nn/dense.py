"""How do ragged constituents become a rectangle, for networks that are rectangular by definition?

The length is a number of the configuration, so nobody waits for the device to learn it. Constituents beyond it go to one more
column, which is cut off: to select them would need a size that only the device knows.
"""

import torch
from torch import Tensor

from distjet.nn.segments import segment_sum


def to_dense(values: Tensor, ptr: Tensor, batch: Tensor, length: int) -> Tensor:
    """Put the constituents of each jet into one row, from its start, zeros behind them.

    Args:
        values: Of each constituent, shape (N, F).
        ptr: First constituent of each jet and, last, N, shape (B + 1,).
        batch: Jet of each constituent, shape (N,).
        length: Length L of a row; later constituents of a jet are dropped.

    Returns:
        Shape (B, L, F).
    """
    num_jets = ptr.shape[0] - 1
    position = torch.arange(values.shape[0], device=ptr.device) - ptr.index_select(0, batch)
    slot = batch * (length + 1) + position.clamp(max=length)
    dense = segment_sum(values, slot, num_jets * (length + 1))  # a slot holds one value, but for the last
    return dense.view(num_jets, length + 1, values.shape[1])[:, :length]


def dense_mask(ptr: Tensor, length: int) -> Tensor:
    """Return which places of `to_dense` hold a constituent, boolean, shape (B, L)."""
    return torch.arange(length, device=ptr.device) < ptr.diff().unsqueeze(1)
