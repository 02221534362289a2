"""How is attention over edges computed on a CPU without writing numbers of the width of the network for every edge?

An edge has a hidden layer of D numbers, of which H logits follow. Operation by operation, each of a dozen steps writes D
numbers per edge to memory and reads them again, and that is what a CPU waits for. Here one loop takes an edge from the states
of its ends to its logits, with the D numbers in a buffer of the first-level cache; what a backward pass needs of them is
computed again. Edges are sorted by graph, so the states of their ends are in the cache as well.

Loops run over whole slices, which is what makes them vectorised. So must be the exponential: it is a polynomial here, exact to
a few units in the last place, because a call to a library would be made number by number. A loop runs on one core and lets
other threads run: training on several cores is several processes.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

LOG2_E = np.float32(1.4426950408889634)
LN2_HIGH, LN2_LOW = np.float32(0.693145751953125), np.float32(1.4286067653302e-06)
LARGEST = np.float32(87.0)
"exp(87) is still a float32; a sigmoid is 0 or 1 long before."
LOWEST = np.float32(-3e38)
ONE = np.float32(1.0)

FAST = {"contract", "nsz", "reassoc"}
"What a compiler may do to sums to make vectors of them. It may not assume that no number is a NaN, so defects stay visible."
COMPILED: dict[str, Any] = {"cache": True, "nogil": True, "fastmath": FAST, "error_model": "numpy"}
"A division by zero is an infinity as in numpy: the check for an exception would be a branch, of which no vector can be made."


class Given(NamedTuple):
    """What messages are made of: arrays of float32, and the ends of the edges.

    Attributes:
        as_target: Part of each node as target of an edge, shape (N, D).
        as_source: Part of each node as its source, shape (N, D).
        value: Value of each node, shape (N, D).
        edge_weight: Of the features of an edge, shape (K, D).
        out_weight: From the hidden layer to the logits, shape (H, D).
        edges: Features of the edges, shape (E, K).
        source: Source of each edge, int64, shape (E,).
        target: Target of each edge, int64, shape (E,).
    """

    as_target: np.ndarray
    as_source: np.ndarray
    value: np.ndarray
    edge_weight: np.ndarray
    out_weight: np.ndarray
    edges: np.ndarray
    source: np.ndarray
    target: np.ndarray

    @classmethod
    def of(cls, *tensors: Tensor) -> "Given":
        """View tensors as arrays; the last one has both ends of the edges, shape (2, E)."""
        *others, edge_index = (tensor.detach().contiguous().numpy() for tensor in tensors)
        return cls(*others, *edge_index)


class Gradients(NamedTuple):
    """Gradients of the first five of `Given`, in their shapes."""

    as_target: np.ndarray
    as_source: np.ndarray
    value: np.ndarray
    edge_weight: np.ndarray
    out_weight: np.ndarray


class EdgeAttention(torch.autograd.Function):
    """Weighted sum of the values of the neighbours of each node, with a backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        """Return messages of shape (N, D); the tensors are those of `Given`, with `edge_index` for both ends."""
        given = Given.of(*tensors)
        message = np.zeros_like(given.value)
        weights = np.empty((len(given.source), len(given.out_weight)), np.float32)
        _sum_values(given, weights, message)
        ctx.save_for_backward(*tensors, torch.from_numpy(weights))
        return torch.from_numpy(message)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of all but the edges, which are data."""
        *tensors, weights = ctx.saved_tensors
        given = Given.of(*tensors)
        found = Gradients(*(np.zeros_like(array) for array in given[: len(Gradients._fields)]))
        gradient = gradients[0].contiguous().numpy()
        of_logits = _through_values(given, weights.numpy(), gradient, found)
        _through_hidden(given, of_logits, found)
        return *map(torch.from_numpy, found), None, None


@njit(**COMPILED)
def _sum_values(given, weights, message):  # type: ignore[no-untyped-def]
    """Write the weights (E, H), and add to the messages (N, D)."""
    num_nodes, num_heads = len(given.value), len(given.out_weight)
    _write_logits(given, weights)
    highest = np.full((num_nodes, num_heads), LOWEST, np.float32)
    total = np.zeros((num_nodes, num_heads), np.float32)
    for e in range(len(weights)):
        for h in range(num_heads):
            highest[given.target[e], h] = max(highest[given.target[e], h], weights[e, h])
    for e in range(len(weights)):
        for h in range(num_heads):
            weights[e, h] = np.exp(weights[e, h] - highest[given.target[e], h])
            total[given.target[e], h] += weights[e, h]
    width = given.value.shape[1] // num_heads
    for e in range(len(weights)):
        of_target, value = message[given.target[e]], given.value[given.source[e]]
        for h in range(num_heads):
            weights[e, h] /= total[given.target[e], h]
            _add(of_target[h * width : (h + 1) * width], weights[e, h], value[h * width : (h + 1) * width])


@njit(**COMPILED)
def _write_logits(given, logits):  # type: ignore[no-untyped-def]
    hidden, sigmoid = np.empty_like(given.as_target[0]), np.empty_like(given.as_target[0])
    for e in range(len(logits)):
        _activate(given, e, hidden, sigmoid)
        for h in range(len(given.out_weight)):
            logits[e, h] = _dot(given.out_weight[h], hidden)


@njit(**COMPILED)
def _through_values(given, weights, gradient, found):  # type: ignore[no-untyped-def]
    """Add to the gradient of the values, and return that of the logits, shape (E, H)."""
    num_heads, width = weights.shape[1], given.value.shape[1] // weights.shape[1]
    result = np.empty_like(weights)
    mean = np.zeros((len(given.value), num_heads), np.float32)
    for e in range(len(weights)):
        of_message, value, of_value = gradient[given.target[e]], given.value[given.source[e]], found.value[given.source[e]]
        for h in range(num_heads):
            part = of_message[h * width : (h + 1) * width]
            result[e, h] = _dot(part, value[h * width : (h + 1) * width])
            mean[given.target[e], h] += weights[e, h] * result[e, h]
            _add(of_value[h * width : (h + 1) * width], weights[e, h], part)
    for e in range(len(weights)):
        for h in range(num_heads):
            result[e, h] = weights[e, h] * (result[e, h] - mean[given.target[e], h])
    return result


@njit(**COMPILED)
def _through_hidden(given, of_logits, found):  # type: ignore[no-untyped-def]
    """Add to the gradients of everything before the logits."""
    hidden, sigmoid = np.empty_like(given.as_target[0]), np.empty_like(given.as_target[0])
    of_hidden = np.empty_like(hidden)
    for e in range(len(of_logits)):
        _activate(given, e, hidden, sigmoid)
        of_hidden[:] = 0
        for h in range(of_logits.shape[1]):
            _add(of_hidden, of_logits[e, h], given.out_weight[h])
            _add(found.out_weight[h], of_logits[e, h], hidden)
        for d in range(len(hidden)):  # the derivative of x * sigmoid(x), with `hidden` after the activation
            of_hidden[d] *= sigmoid[d] + hidden[d] * (ONE - sigmoid[d])
        _add(found.as_target[given.target[e]], ONE, of_hidden)
        _add(found.as_source[given.source[e]], ONE, of_hidden)
        for k in range(given.edges.shape[1]):
            _add(found.edge_weight[k], given.edges[e, k], of_hidden)


@njit(**COMPILED)
def _activate(given, e, hidden, sigmoid):  # type: ignore[no-untyped-def]
    """Write the hidden layer of an edge after its activation, and the sigmoid that is a factor of it."""
    of_target, of_source = given.as_target[given.target[e]], given.as_source[given.source[e]]
    for d in range(len(hidden)):
        hidden[d] = of_target[d] + of_source[d]
    for k in range(given.edges.shape[1]):
        _add(hidden, given.edges[e, k], given.edge_weight[k])
    for d in range(len(hidden)):
        sigmoid[d] = _sigmoid(hidden[d])
        hidden[d] *= sigmoid[d]


@njit(**COMPILED)
def _add(total, factor, values):  # type: ignore[no-untyped-def]
    for d in range(len(total)):
        total[d] += factor * values[d]


@njit(**COMPILED)
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = np.float32(0.0)
    for d in range(len(a)):
        total += a[d] * b[d]
    return total


@njit(inline="always")
def _sigmoid(x):  # type: ignore[no-untyped-def]
    """1 / (1 + exp(-x)): exp(y) = 2^n exp(r) with |r| <= ln(2) / 2, where six powers of the series leave 1e-7."""
    y = min(max(-x, -LARGEST), LARGEST)
    n = np.floor(y * LOG2_E + np.float32(0.5))
    r = y - n * LN2_HIGH - n * LN2_LOW
    series = r * np.float32(1 / 720) + np.float32(1 / 120)
    series = r * series + np.float32(1 / 24)
    series = r * series + np.float32(1 / 6)
    series = r * series + np.float32(1 / 2)
    series = r * (r * series + ONE) + ONE
    power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
    return ONE / (ONE + series * power)
