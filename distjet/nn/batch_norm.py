"""Batch normalisation of ragged graphs: rows are nodes or edges of real constituents, never padding.

The processes of a training each see a share of a batch. To normalise it as one process would, moments are taken over the rows
of all shares, and so is what flows back through them. The sums travel in float64, in which the square of a mean can be
subtracted from a mean of squares.

Reference:
    S. Ioffe, C. Szegedy, "Batch Normalization", arXiv:1502.03167.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class BatchNorm(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` on (N, C), and on (N, C, ...), with the moments of all processes of a training."""

    num_processes = 1
    "Processes that train together, each with a share of the rows; `distjet.training.parallel.wrap` sets it."

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected values of shape (N, C, ...) (got {tuple(input.shape)})")

    def forward(self, values: Tensor) -> Tensor:
        """Normalise each channel.

        Args:
            values: Shape (N, C, ...); a share of a training may have no rows at all.

        Returns:
            The same shape.
        """
        if not self.training or self.num_processes == 1:
            return super().forward(values)
        self._check_input_dim(values)
        rows = values.float().transpose(1, -1)
        count, mean, variance = self.over_processes(*_moments(rows))
        self.remember(count, mean, variance)
        factor = torch.rsqrt(variance + self.eps) * self.weight
        return ((rows - mean) * factor + self.bias).transpose(1, -1).to(values.dtype)

    def over_processes(self, count: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Merge the moments of the shares of all processes; gradients flow through it. With one process nothing changes.

        Args:
            count: Number of rows of this share (or the sum of their weights), a scalar.
            mean: Shape (C,).
            variance: About the mean, divided by the count, shape (C,).

        Returns:
            The same three of all rows, on each process.
        """
        if self.num_processes == 1:
            return count, mean, variance
        exact_mean = mean.double()
        local = torch.cat([exact_mean.new_ones(1), exact_mean, variance.double() + exact_mean.square()]) * count.double()
        total, first, second = self.sum_over_processes(local).split([1, *mean.shape, *mean.shape])
        first, second = first / total.clamp(min=1), second / total.clamp(min=1)
        return total[0].to(count.dtype), first.to(mean.dtype), (second - first.square()).clamp(min=0).to(variance.dtype)

    def sum_over_processes(self, value: Tensor) -> Tensor:
        """Add up a tensor of all processes; so are its gradients."""
        return value if self.num_processes == 1 else _SumOverProcesses.apply(value)

    @torch.no_grad()
    def remember(self, count: Tensor, mean: Tensor, variance: Tensor) -> None:
        """Move the running moments towards those of a batch, as `torch.nn.BatchNorm1d` does: with the unbiased variance."""
        assert self.num_batches_tracked is not None
        assert self.running_mean is not None
        assert self.running_var is not None
        self.num_batches_tracked.add_(1)
        pace = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
        pace = pace * count.clamp(max=1)  # a batch without rows says nothing
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), pace.to(self.running_mean.dtype))
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), pace.to(self.running_var.dtype))


def factor_and_shift(norm: BatchNorm) -> tuple[Tensor, Tensor]:
    """What a batch norm multiplies its inputs with in evaluation, and what it adds, both of shape (C,)."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return factor, norm.bias - norm.running_mean * factor


def _moments(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and variance of rows of shape (..., C); zero where there are none."""
    dims = tuple(range(rows.dim() - 1))
    num_rows = rows.shape[:-1].numel()
    mean = rows.sum(dims) / max(num_rows, 1)
    variance = (rows - mean).square().sum(dims) / max(num_rows, 1)
    return rows.new_full((), num_rows), mean, variance


class _SumOverProcesses(torch.autograd.Function):
    """The loss of a step is the sum of those of all processes, each of which depends on the rows of all others."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total
