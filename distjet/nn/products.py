"""How are matrices of float32 multiplied on one core of a CPU?

What `torch.mm` and `torch.nn.functional.linear` call there, MKL, does not use vectors of 512 bits on processors that are not
Intel's. oneDNN, with which torch computes convolutions, does: the same product takes half of the time (AMD Zen 5, 256 columns:
210 instead of 95 GFLOP/s). Where torch has no oneDNN, and in float64, its own product is used.
"""

import torch
from torch import Tensor

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def multiply(a: Tensor, b: Tensor, bias: Tensor | None = None, *, relu: bool = False) -> Tensor:
    """Return `a @ b.T`, with a bias and a ReLU if asked for; no gradient flows through it.

    Args:
        a: On a CPU, contiguous, shape (M, K).
        b: Shape (N, K); may be the transpose of a contiguous tensor.
        bias: Shape (N,).
        relu: Whether negative results become zero.

    Returns:
        Shape (M, N).
    """
    if HAS_ONEDNN and a.dtype == torch.float32:
        return torch.ops.mkldnn._linear_pointwise(a, b, bias, "relu" if relu else "none", [], "")
    product = torch.nn.functional.linear(a, b, bias)
    return product.relu_() if relu else product
