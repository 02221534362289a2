"""How are rows of neighbours normalised and summed on a CPU, at several scales, without reading them a dozen times?

A table has K rows of C channels for each of N nodes, of which the first few are neighbours and the others nothing. A scale is
the first k of these rows. Operations of torch would copy the rows of each scale, write squares and masks of them, and add up
gradients of the size of the table for each. Here moments of all scales come out of one loop, and gradients of all scales go
into one table. Sums over rows are kept in float64, and those of one node in float32.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

FAST = {"contract", "nsz", "reassoc"}
"What a compiler may do to sums to make vectors of them; a number that is none stays visible."
COMPILED: dict[str, Any] = {"cache": True, "nogil": True, "fastmath": FAST, "error_model": "numpy"}
ZERO = np.float32(0.0)


class ScaleMoments(torch.autograd.Function):
    """Mean and variance of the rows of each scale."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, counts: Tensor, scales: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return means and variances, both of shape (S, C).

        Args:
            ctx: Of the function.
            values: Shape (N, K, C).
            counts: Neighbours of each node, int64, shape (N,).
            scales: Numbers of rows, rising.
        """
        rows, numbers = values.detach().contiguous().numpy(), counts.numpy()
        shift = rows[0, 0].copy() if len(rows) else np.zeros(rows.shape[2], np.float32)
        first, second = np.zeros((2, len(scales), rows.shape[2]))
        _add_moments(rows, numbers, np.array(scales), shift, first, second)
        num_rows = np.maximum([np.minimum(numbers, scale).sum() for scale in scales], 1)[:, None]
        first, second = first.cumsum(0) / num_rows, second.cumsum(0) / num_rows
        mean = first + shift
        ctx.save_for_backward(values, counts)
        ctx.scales, ctx.mean, ctx.num_rows = tuple(scales), mean, num_rows
        return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy((second - first**2).astype(np.float32))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the values."""
        values, counts = ctx.saved_tensors
        of_mean, of_variance = (gradient.double().numpy() / ctx.num_rows for gradient in gradients)
        # a row belongs to its scale and to all that are wider
        slope = _of_wider(2 * of_variance)
        offset = _of_wider(of_mean - 2 * of_variance * ctx.mean)
        result = torch.empty_like(values, memory_format=torch.contiguous_format)
        _write_lines(values.contiguous().numpy(), counts.numpy(), np.array(ctx.scales), offset, slope, result.numpy())
        return result, None, None


class ScaledRelu(torch.autograd.Function):
    """ReLU of rows times a factor plus a shift, for each scale."""

    @staticmethod
    def forward(
        ctx: Any, values: Tensor, counts: Tensor, factors: Tensor, shifts: Tensor, scales: Sequence[int]
    ) -> tuple[Tensor, ...]:
        """Return a tensor of shape (N, k, C) for each scale, zero where there is no neighbour.

        Args:
            ctx: Of the function.
            values: Shape (N, K, C).
            counts: Neighbours of each node, int64, shape (N,).
            factors: Of each scale and channel, shape (S, C).
            shifts: The same.
            scales: Numbers of rows.
        """
        values, factors, shifts = (tensor.contiguous() for tensor in (values, factors, shifts))
        ctx.save_for_backward(values, counts, factors, shifts)
        results = tuple(values.new_empty(values.shape[0], scale, values.shape[2]) for scale in scales)
        for result, factor, shift in zip(results, factors.detach().numpy(), shifts.detach().numpy(), strict=True):
            _write_relu(values.detach().numpy(), counts.numpy(), factor, shift, result.numpy())
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of values, factors and shifts."""
        values, counts, factors, shifts = ctx.saved_tensors
        of_values = torch.zeros_like(values)
        of_scales = np.zeros((2, *factors.shape))
        for number, gradient in enumerate(gradients):
            given = (
                values.numpy(),
                counts.numpy(),
                factors[number].numpy(),
                shifts[number].numpy(),
                gradient.contiguous().numpy(),
            )
            _through_relu(*given, of_values.numpy(), of_scales[:, number])
        of_factors, of_shifts = torch.from_numpy(of_scales.astype(np.float32))
        return of_values, None, of_factors, of_shifts, None


class ScaleSums(torch.autograd.Function):
    """Weighted sum of the rows of each scale, side by side."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, counts: Tensor, *weights: Tensor) -> Tensor:
        """Return sums of shape (N, S C).

        Args:
            ctx: Of the function.
            values: Shape (N, K, C).
            counts: Neighbours of each node, int64, shape (N,).
            *weights: Of each scale, shape (N, k, H); channel c has the weight c modulo H.
        """
        values, *given = (tensor.contiguous() for tensor in (values, *weights))
        ctx.save_for_backward(values, counts, *given)
        result = values.new_zeros(values.shape[0], len(given), values.shape[2])
        for number, weight in enumerate(given):
            _add_weighted(values.detach().numpy(), counts.numpy(), weight.detach().numpy(), number, result.numpy())
        return result.flatten(1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of values and weights."""
        values, counts, *weights = ctx.saved_tensors
        gradient = gradients[0].contiguous().reshape(values.shape[0], len(weights), values.shape[2]).numpy()
        of_values, of_weights = torch.zeros_like(values), [torch.zeros_like(weight) for weight in weights]
        for number, (weight, of_weight) in enumerate(zip(weights, of_weights, strict=True)):
            given = (values.numpy(), counts.numpy(), weight.numpy(), number, gradient)
            _through_weighted(*given, of_values.numpy(), of_weight.numpy())
        return of_values, None, *of_weights


def _of_wider(terms: np.ndarray) -> np.ndarray:
    """Add to the terms of each scale those of all wider ones."""
    return np.ascontiguousarray(terms[::-1].cumsum(0)[::-1].astype(np.float32))


@njit(**COMPILED)
def _add_moments(values, counts, scales, shift, first, second):  # type: ignore[no-untyped-def]
    """Add to the sums of the rows that are in a scale and in none before it."""
    total, squares = np.zeros_like(shift), np.zeros_like(shift)
    for i in range(len(values)):
        start = 0
        for s in range(len(scales)):
            stop = min(scales[s], counts[i])
            total[:], squares[:] = ZERO, ZERO
            for j in range(start, stop):
                for c in range(len(shift)):
                    difference = values[i, j, c] - shift[c]
                    total[c] += difference
                    squares[c] += difference * difference
            for c in range(len(shift)):
                first[s, c] += total[c]
                second[s, c] += squares[c]
            start = max(start, stop)


@njit(**COMPILED)
def _write_lines(values, counts, scales, offset, slope, result):  # type: ignore[no-untyped-def]
    """Write offset + slope * value, with those of the scale that a row is the first time in."""
    for i in range(len(values)):
        start = 0
        for s in range(len(scales)):
            stop = min(scales[s], counts[i])
            for j in range(start, stop):
                for c in range(values.shape[2]):
                    result[i, j, c] = offset[s, c] + slope[s, c] * values[i, j, c]
            start = max(start, stop)
        result[i, start:] = ZERO


@njit(**COMPILED)
def _write_relu(values, counts, factor, shift, result):  # type: ignore[no-untyped-def]
    for i in range(len(values)):
        stop = min(result.shape[1], counts[i])
        for j in range(stop):
            for c in range(values.shape[2]):
                number = values[i, j, c] * factor[c] + shift[c]
                result[i, j, c] = ZERO if number <= ZERO else number
        result[i, stop:] = ZERO


@njit(**COMPILED)
def _through_relu(values, counts, factor, shift, gradient, of_values, of_scale):  # type: ignore[no-untyped-def]
    """Add to the gradients of the values, and of the factor and the shift."""
    of_factor, of_shift = np.zeros_like(factor), np.zeros_like(factor)
    for i in range(len(values)):
        of_factor[:], of_shift[:] = ZERO, ZERO
        for j in range(min(gradient.shape[1], counts[i])):
            for c in range(values.shape[2]):
                number = values[i, j, c] * factor[c] + shift[c]
                kept = ZERO if number <= ZERO else gradient[i, j, c]
                of_values[i, j, c] += kept * factor[c]
                of_factor[c] += kept * values[i, j, c]
                of_shift[c] += kept
        for c in range(values.shape[2]):
            of_scale[0, c] += of_factor[c]
            of_scale[1, c] += of_shift[c]


@njit(**COMPILED)
def _tile(weights, tiled):  # type: ignore[no-untyped-def]
    """Repeat the weights of the heads for all channels."""
    for start in range(0, len(tiled), len(weights)):
        for h in range(len(weights)):
            tiled[start + h] = weights[h]


@njit(**COMPILED)
def _add_weighted(values, counts, weights, number, result):  # type: ignore[no-untyped-def]
    tiled = np.empty(values.shape[2], np.float32)
    for i in range(len(values)):
        for j in range(min(weights.shape[1], counts[i])):
            _tile(weights[i, j], tiled)
            for c in range(len(tiled)):
                result[i, number, c] += tiled[c] * values[i, j, c]


@njit(**COMPILED)
def _through_weighted(values, counts, weights, number, gradient, of_values, of_weights):  # type: ignore[no-untyped-def]
    num_heads = weights.shape[2]
    tiled, products = np.empty(values.shape[2], np.float32), np.empty(values.shape[2], np.float32)
    for i in range(len(values)):
        for j in range(min(weights.shape[1], counts[i])):
            _tile(weights[i, j], tiled)
            for c in range(len(tiled)):
                of_values[i, j, c] += tiled[c] * gradient[i, number, c]
                products[c] = values[i, j, c] * gradient[i, number, c]
            for start in range(0, len(products), num_heads):
                for h in range(num_heads):
                    of_weights[i, j, h] += products[start + h]
