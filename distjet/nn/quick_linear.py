"""How does a linear layer take half of the time on one core of a CPU, forward and backward?

Its three products go to the library that is fastest there (`distjet.nn.products`). Elsewhere, in other precision, and while
torch traces operations, it is torch's own layer. In evaluation a batch norm is linear as well, and becomes part of the layer
before it.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distjet.nn.batch_norm import BatchNorm
from distjet.nn.products import multiply
from distjet.nn.tracing import is_traced


def takes_products(values: Tensor) -> bool:
    """Whether products of these rows may bypass torch: float32 on a CPU, while nothing is traced and no precision is chosen."""
    if is_traced() or torch.is_autocast_enabled("cpu"):
        return False
    return values.device.type == "cpu" and values.dtype == torch.float32


def takes_folded_norms(norm: BatchNorm, values: Tensor) -> bool:
    """Whether a norm may be a part of the layer before it: in evaluation, where no gradient is asked for."""
    return not norm.training and not torch.is_grad_enabled() and takes_products(values)


def linear(values: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `values @ weight.T + bias`.

    Args:
        values: Shape (M, K).
        weight: Shape (N, K).
        bias: Shape (N,).

    Returns:
        Shape (M, N).
    """
    if takes_products(values) and len(values):
        return _Linear.apply(values, weight, bias)
    return torch.nn.functional.linear(values, weight, bias)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(values, weight)
        return multiply(values.contiguous(), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, weight = ctx.saved_tensors
        gradient = gradients[0].contiguous()
        needs_values, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            multiply(gradient, weight.t()) if needs_values else None,
            multiply(gradient.t().contiguous(), values.contiguous().t()) if needs_weight else None,
            gradient.sum(0) if needs_bias else None,
        )
