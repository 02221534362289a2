"""How are edge convolutions computed on a CPU without waiting for its memory?

There are k times as many edges as nodes, and operation by operation each of a dozen steps writes C numbers for every edge and
reads them again. Here a piece of the edges goes through all steps while it is in the second-level cache. Between two batch
norms stands a sum over all edges, so in training the result of every layer but the first is kept once, before its norm; what
follows it is computed again where it is needed. Evaluation keeps nothing.

This is for one core and lets other threads run: training on several cores is several processes.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distjet.nn import edge_conv_kernels as kernels
from distjet.nn.batch_norm import BatchNorm
from distjet.nn.products import multiply

NUMBERS = 2**17
"Numbers in a piece: half a MB, of which a few fit into the second-level cache."


class Room:
    """Memory for what is made of a piece, used again for the next: the system would take back, and clear, what is freed."""

    def __init__(self) -> None:
        self.buffers: dict[str, Tensor] = {}

    def of(self, name: str, *shape: int) -> Tensor:
        """Return room of a shape, with whatever was written to it last."""
        size = math.prod(shape)
        if name not in self.buffers or len(self.buffers[name]) < size:
            self.buffers[name] = torch.empty(size)
        return self.buffers[name][:size].view(shape)


class Edges(NamedTuple):
    """What the first layer gives for an edge: a part of the node and a part of its neighbour."""

    table: Tensor
    "Neighbours of each node, N where there is none, int64, shape (N, k)."
    own: Tensor
    "Part of each node, float32, shape (N, C)."
    other: Tensor
    "Part of each neighbour, the same."

    def pieces(self, width: int) -> Iterator[tuple[int, int]]:
        """First node of each piece, and the one behind its last, for layers of up to this width."""
        num_nodes, k = self.table.shape
        size = max(1, NUMBERS // (k * width))
        return ((lo, min(lo + size, num_nodes)) for lo in range(0, num_nodes, size))

    def rows(self, lo: int, hi: int) -> slice:
        """Rows of the edges of a piece of the nodes."""
        k = self.table.shape[1]
        return slice(lo * k, hi * k)

    def gather(self, lo: int, hi: int, room: "Room") -> Tensor:
        """Values of the edges of a piece of the nodes, shape (rows, C)."""
        values = room.of("gathered", (hi - lo) * self.table.shape[1], self.own.shape[1])
        kernels.gather(self.own.numpy(), self.other.numpy(), self.table.numpy(), lo, values.numpy())
        return values


def average_messages(edges: Edges, layers: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Mean over the neighbours of each node, without gradients.

    Args:
        edges: What the first layer gives, already normalised.
        layers: Weight (C', C) and bias (C',) of each later layer, in which its norm is contained.

    Returns:
        Shape (N, C').
    """
    width = max([edges.own.shape[1], *(len(bias) for _, bias in layers)])
    k = edges.table.shape[1]
    room = Room()
    means = [edges.own.new_empty(0, layers[-1][0].shape[0] if layers else edges.own.shape[1])]
    for lo, hi in edges.pieces(width):
        values = edges.gather(lo, hi, room).relu_()
        for weight, bias in layers:
            values = multiply(values, weight, bias, relu=True)
        means.append(values.view(hi - lo, k, -1).mean(1))
    return torch.cat(means)


class Norm(NamedTuple):
    """Batch norm of a layer over the edges of this step: `values * factor + shift`; arrays of shape (C,)."""

    num_edges: float
    "Of all processes."
    factor: np.ndarray
    shift: np.ndarray
    mean: np.ndarray
    inverse_std: np.ndarray

    @classmethod
    def of(cls, norm: BatchNorm, count: int, mean: np.ndarray, deviation: np.ndarray) -> "Norm":
        """Normalise with the moments of the edges of this process, and of all others; the norm remembers them."""
        num_edges = torch.tensor(float(count), dtype=torch.float64)
        local = torch.from_numpy(mean), torch.from_numpy(deviation / max(count, 1))
        total, means, variances = norm.over_processes(num_edges, *local)
        norm.remember(total, means, variances)
        inverse_std = torch.rsqrt(variances + norm.eps)
        factor = norm.weight.detach() * inverse_std
        shift = norm.bias.detach() - means * factor
        arrays = (value.float().numpy() for value in (factor, shift, means, inverse_std))
        return cls(float(total), *arrays)

    def activate(self, values: Tensor, room: Room) -> Tensor:
        """Normalise, and make what is negative zero."""
        result = room.of("activated", *values.shape)
        kernels.activate(values.numpy(), self.factor, self.shift, result.numpy())
        return result

    def scales(self, total: np.ndarray, product: np.ndarray) -> np.ndarray:
        """What the gradient, the value and one are multiplied with to give the gradient before the norm, shape (3, C).

        Args:
            total: Sum of the gradient over the edges of all processes.
            product: Sum of its product with the deviation from the mean.
        """
        num_edges = max(self.num_edges, 1.0)
        of_values = -self.factor * np.square(self.inverse_std) * product / num_edges
        of_one = -self.factor * total / num_edges - of_values * self.mean
        return np.stack([self.factor, of_values, of_one]).astype(np.float32)


class AverageMessages(torch.autograd.Function):
    """`average_messages` in training: norms take their moments from the edges, and gradients flow."""

    @staticmethod
    def forward(ctx: Any, norms: Sequence[BatchNorm], table: Tensor, own: Tensor, other: Tensor, *parameters: Tensor) -> Tensor:
        """Return means over neighbours, shape (N, C').

        Args:
            ctx: Keeps what the gradient needs.
            norms: Of all layers.
            table: Neighbours, shape (N, k).
            own: Part of each node in the first layer, shape (N, C).
            other: Part of each neighbour, the same.
            *parameters: Weights of all layers but the first; weights of all norms; their biases.
        """
        own, other, *weights = (tensor.detach() for tensor in (own, other, *parameters[: len(norms) - 1]))
        training = _Training(Edges(table, own, other), weights)
        for norm in norms:
            training.add_layer(norm)
        ctx.training, ctx.norms = training, norms
        return training.average()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        """Return the gradients of the parts of the nodes and of all parameters."""
        if ctx.training is None:
            raise RuntimeError("the gradient of an edge convolution can be taken once: what it needs is overwritten by it")
        found = _Backward(ctx.training, ctx.norms, gradients[0].contiguous())
        ctx.training = None
        for layer in reversed(range(1, len(ctx.norms))):
            found.through_layer(layer)
        of_own, of_other = found.through_first()
        return None, None, of_own, of_other, *found.of_weights, *found.of_factors, *found.of_shifts


class _Training:
    """The way forward: values of each layer before its norm, and the norms."""

    def __init__(self, edges: Edges, weights: Sequence[Tensor]) -> None:
        self.edges, self.weights = edges, weights
        self.width = max([edges.own.shape[1], *(len(weight) for weight in weights)])
        self.kept: list[Tensor] = []
        self.norms: list[Norm] = []
        self.room = Room()

    def pieces(self) -> Iterator[tuple[int, int]]:
        return self.edges.pieces(self.width)

    def values(self, layer: int, lo: int, hi: int) -> Tensor:
        """Values of a layer before its norm, for the edges of a piece of the nodes."""
        return self.kept[layer - 1][self.edges.rows(lo, hi)] if layer else self.edges.gather(lo, hi, self.room)

    def add_layer(self, norm: BatchNorm) -> None:
        """Compute the next layer for all edges, and the moments of its norm."""
        layer, width = len(self.norms), norm.num_features
        mean, deviation = np.zeros(width), np.zeros(width)
        if layer:
            self.kept.append(self.edges.own.new_empty(self.edges.table.numel(), width))
        for lo, hi in self.pieces():
            rows = self.edges.rows(lo, hi)
            if layer:
                before = self.norms[-1].activate(self.values(layer - 1, lo, hi), self.room)
                self.kept[-1][rows] = multiply(before, self.weights[layer - 1])
            kernels.add_moments(self.values(layer, lo, hi).numpy(), rows.start, mean, deviation)
        self.norms.append(Norm.of(norm, self.edges.table.numel(), mean, deviation))

    def reuse(self, layer: int, width: int) -> Tensor:
        """Room for numbers of all edges, where possible that of the values of a layer: pieces of them are read before."""
        kept = self.kept[layer - 1]
        return kept if kept.shape[1] == width else kept.new_empty(len(kept), width)

    def average(self) -> Tensor:
        """Mean over the neighbours of what the last layer gives, shape (N, C)."""
        layer, norm = len(self.norms) - 1, self.norms[-1]
        result = self.edges.own.new_empty(len(self.edges.own), len(norm.mean))
        for lo, hi in self.pieces():
            kernels.average(self.values(layer, lo, hi).numpy(), norm.factor, norm.shift, result[lo:hi].numpy())
        return result


class _Backward:
    """The way back, from the last layer to the first; `masked` are gradients between the norm and the ReLU of a layer."""

    def __init__(self, training: _Training, norms: Sequence[BatchNorm], gradient: Tensor) -> None:
        self.training, self.batch_norms, self.gradient = training, norms, gradient
        self.masked: Tensor | None = None
        "Of the layer that is next; None: of the last one, made from the gradient of the means."
        self.of_weights = [torch.zeros_like(weight) for weight in training.weights]
        self.of_factors: list[Tensor] = []
        self.of_shifts: list[Tensor] = []
        last, self.sums = len(norms) - 1, np.zeros((2, norms[-1].num_features))
        for lo, hi in training.pieces():
            self._add_sums(last, training.values(last, lo, hi), self._masked(last, lo, hi))
        self._finish_sums(last)

    def through_layer(self, layer: int) -> None:
        """Go from behind the norm of a layer to behind that of the one before."""
        training, scales, weight = self.training, self.scales, self.training.weights[layer - 1]
        self.sums = np.zeros((2, weight.shape[1]))
        below = training.reuse(layer, weight.shape[1])
        for lo, hi in training.pieces():
            gradient = self._through_norm(layer, scales, lo, hi)
            values = training.values(layer - 1, lo, hi)
            before = training.norms[layer - 1].activate(values, training.room)
            turned = training.room.of("turned", *gradient.t().shape).copy_(gradient.t())
            self.of_weights[layer - 1] += multiply(turned, before.t())
            masked = below[training.edges.rows(lo, hi)]
            kernels.through_relu(before.numpy(), multiply(gradient, weight.t()).numpy(), masked.numpy())
            self._add_sums(layer - 1, values, masked)
        self.masked = below
        self._finish_sums(layer - 1)

    def through_first(self) -> tuple[Tensor, Tensor]:
        """Go to the parts of the nodes and of the neighbours."""
        table, own, _ = self.training.edges
        of_own, of_other = torch.zeros_like(own), torch.zeros_like(own)
        for lo, hi in self.training.pieces():
            gradient = self._through_norm(0, self.scales, lo, hi)
            kernels.scatter(gradient.numpy(), table.numpy(), lo, of_own.numpy(), of_other.numpy())
        return of_own, of_other

    def _masked(self, layer: int, lo: int, hi: int) -> Tensor:
        if self.masked is not None:
            return self.masked[self.training.edges.rows(lo, hi)]
        values, norm = self.training.values(layer, lo, hi), self.training.norms[layer]
        result = self.training.room.of("masked", *values.shape)
        kernels.through_average(values.numpy(), norm.factor, norm.shift, self.gradient[lo:hi].numpy(), result.numpy())
        return result

    def _through_norm(self, layer: int, scales: np.ndarray, lo: int, hi: int) -> Tensor:
        values = self.training.values(layer, lo, hi)
        result = self.training.room.of("before the norm", *values.shape)
        kernels.through_norm(values.numpy(), scales, self._masked(layer, lo, hi).numpy(), result.numpy())
        return result

    def _add_sums(self, layer: int, values: Tensor, masked: Tensor) -> None:
        kernels.add_sums(values.numpy(), self.training.norms[layer].mean, masked.numpy(), *self.sums)

    def _finish_sums(self, layer: int) -> None:
        """Take the gradients of a norm from the sums over edges, and what those of its values need of all processes."""
        norm = self.training.norms[layer]
        self.of_factors.insert(0, torch.from_numpy((self.sums[1] * norm.inverse_std).astype(np.float32)))
        self.of_shifts.insert(0, torch.from_numpy(self.sums[0].astype(np.float32)))
        total = self.batch_norms[layer].sum_over_processes(torch.from_numpy(self.sums))
        self.scales = norm.scales(*total.numpy())
