"""How are values of graph elements combined per segment (per node, per graph) without a loop?

Segments are given by an index per element, as in `unsorted_segment_sum`; they need not be contiguous, and an empty segment is
zero. The softmax subtracts the segment's maximum, so that it never overflows.
"""

import torch
from torch import Tensor


def segment_sum(values: Tensor, index: Tensor, num_segments: int) -> Tensor:
    """Sum values per segment.

    Args:
        values: Shape (E, ...).
        index: Segment of each value, int64, shape (E,).
        num_segments: Number of segments S.

    Returns:
        Shape (S, ...); zero for an empty segment.
    """
    result = values.new_zeros(num_segments, *values.shape[1:])
    return result.index_add_(0, index, values)


def segment_softmax(logits: Tensor, index: Tensor, num_segments: int) -> Tensor:
    """Softmax over the elements of each segment.

    Args:
        logits: Shape (E, H); each of the H columns is normalised on its own.
        index: Segment of each element, int64, shape (E,).
        num_segments: Number of segments S.

    Returns:
        Weights of shape (E, H) that sum to 1 within each segment.
    """
    expanded = index.unsqueeze(-1).expand_as(logits)
    highest = logits.new_full((num_segments, logits.shape[1]), -torch.inf)
    highest = highest.scatter_reduce_(0, expanded, logits.detach(), reduce="amax")
    exponential = (logits - highest.index_select(0, index)).exp()
    # not `[index]`: the gradient of that is added up element by element
    return exponential / segment_sum(exponential, index, num_segments).index_select(0, index)
