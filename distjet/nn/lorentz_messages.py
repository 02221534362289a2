"""How are messages between all particles of a jet computed on a CPU?

A jet of 45 particles has 2000 ordered pairs, and a pair three layers of 72 numbers. Operation by operation, each writes to
memory what the next one reads. Here the pairs of a few particles with all others, about as many as the second-level cache
holds, go through all layers before the next ones begin. Of the layers, the backward pass finds only the signs of the last one
and computes the others again: a product costs less than to write its result to memory and to read it.

A column is a pair, and a row one of the 72 numbers: so no product needs a matrix the other way round.

The first layer acts on (h_i, h_j, two invariants), so its values are a_i + b_j + u n_ij + v d_ij: a and b are made once per
node, and what normalises them is a factor and a shift of a, b, u and v (`distjet.nn.pair_moments`).

A loop runs on one core and lets other threads run: training on several cores is several processes.

Reference:
    S. Gong et al., "An efficient Lorentz equivariant graph neural network for jet tagging", arXiv:2201.08187.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distjet.nn import lorentz_message_kernels as kernels
from distjet.nn.products import multiply

ROWS_AT_ONCE = 1536
"Pairs that go through all layers together: a buffer of 72 numbers each is about half a MB."
COLUMNS_TOGETHER = 64
"Buffers have room for a multiple of so many pairs."


class Given(NamedTuple):
    """What messages are made of: tensors of one floating type.

    Attributes:
        as_target: Normalised part of each node as target of a pair, shape (C, N).
        as_source: Normalised part of each node as its source, shape (C, N).
        of_pair: What the two invariants are multiplied with, normalised, shape (2, C).
        hidden: Weights of the second layer, shape (C, C).
        hidden_bias: Shape (C,).
        gate: Weights of the gate, shape (C,).
        gate_bias: Shape (1,).
        move: Weights of the layer before the factor of a four-vector, shape (C, C).
        move_bias: Shape (C,).
        factor: Weights of that factor, shape (C,).
        p4: Four-vectors, shape (N, 4).
        pairs: Invariants of all pairs of each jet, shape (sum of n^2, 2).
        ptr: First node of each jet and, last, N, shape (B + 1,).
    """

    as_target: Tensor
    as_source: Tensor
    of_pair: Tensor
    hidden: Tensor
    hidden_bias: Tensor
    gate: Tensor
    gate_bias: Tensor
    move: Tensor
    move_bias: Tensor
    factor: Tensor
    p4: Tensor
    pairs: Tensor
    ptr: Tensor

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> "Given":
        """Take tensors as they are, but for the parts of nodes, which come as (N, C)."""
        as_target, as_source, *others = (tensor.detach() for tensor in tensors)
        return cls(*(tensor.contiguous() for tensor in (as_target.t(), as_source.t(), *others)))


class How(NamedTuple):
    """What is computed.

    Attributes:
        moves: Whether four-vectors are moved.
        by_difference: Whether by the clamped mean of the differences, or by the sum of the others.
        keeps: Whether there will be a backward pass.
    """

    moves: bool
    by_difference: bool
    keeps: bool


class Messages(torch.autograd.Function):
    """Sums of the messages to each node, and what moves its four-vector, with a backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, how: How, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Return messages (N, C) and moves (N, 4); the tensors are those of `Given`."""
        pieces = _Pieces(Given.of(tensors), how)
        message, move = pieces.send()
        if how.keeps:
            ctx.how = how
            ctx.save_for_backward(*tensors, pieces.is_open, pieces.factor)
        return message, move

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of all tensors but the last one."""
        *tensors, is_open, factor = ctx.saved_tensors
        pieces = _Pieces(Given.of(tensors), ctx.how, is_open, factor)
        return None, *pieces.send_back(*gradients), None


class _Pieces:
    """The pairs of a few nodes after those of others.

    Attributes:
        is_open: Whether the layer before the factor is positive, eight to a number, for all pairs, shape (C / 8, P).
        factor: Of the four-vectors, shape (P,). Both have no pairs where nothing moves or is kept.
    """

    def __init__(self, given: Given, how: How, is_open: Tensor | None = None, factor: Tensor | None = None) -> None:
        self.given, self.how = given, how
        sizes = np.diff(given.ptr.numpy())
        self.first, self.size = np.repeat(given.ptr.numpy()[:-1], sizes), np.repeat(sizes, sizes)
        self.begin = np.concatenate([[0], np.cumsum(self.size)])
        width, self.num_nodes = given.as_target.shape
        num_kept = int(self.begin[-1]) if how.moves and how.keeps else 0
        self.is_open = given.p4.new_empty(-(-width // 8), num_kept, dtype=torch.uint8) if is_open is None else is_open
        self.factor = given.p4.new_empty(num_kept) if factor is None else factor
        self.room = given.p4.new_empty(width * _columns(max(ROWS_AT_ONCE, int(sizes.max(initial=1)))))

    def __iter__(self) -> Iterator[tuple[kernels.Nodes, slice, int]]:
        """Nodes of each piece, its pairs, and the number of columns for them."""
        lo = 0
        while lo < self.num_nodes:
            begin = self.begin[lo]
            hi = max(lo + 1, int(np.searchsorted(self.begin, begin + ROWS_AT_ONCE, "right")) - 1)
            pairs = slice(int(begin), int(self.begin[hi]))
            nodes = kernels.Nodes(self.first[lo:hi], self.size[lo:hi], self.begin[lo : hi + 1] - begin, lo)
            yield nodes, pairs, _columns(pairs.stop - pairs.start)
            lo = hi

    def send(self) -> tuple[Tensor, Tensor]:
        """Return messages (N, C) and moves (N, 4)."""
        given, how = self.given, self.how
        total, move = torch.empty_like(given.as_target), torch.zeros_like(given.p4)
        for nodes, pairs, columns in self:
            _, message, gate = self._messages(nodes, pairs, columns)
            kernels.sum_messages(nodes, message.numpy(), gate, total.numpy())
            if how.moves:
                values = multiply(given.move, message.t()).numpy()
                is_open, factor = np.empty((len(self.is_open), columns), np.uint8), np.empty(columns, values.dtype)
                layer = given.move_bias.numpy(), given.factor.numpy()
                kernels.find_factors(nodes, values, gate, *layer, is_open, factor)
                kernels.sum_moves(nodes, given.p4.numpy(), factor, how.by_difference, move.numpy())
                if how.keeps:
                    used = pairs.stop - pairs.start
                    self.is_open.numpy()[:, pairs], self.factor.numpy()[pairs] = is_open[:, :used], factor[:used]
        return total.t().contiguous(), move

    def send_back(self, of_message: Tensor, of_move: Tensor) -> list[Tensor]:
        """Return the gradients of all that is given but `ptr`, from those of messages and moves."""
        given, moves = self.given, self.how.moves
        of_total = of_message.t().contiguous().numpy()
        found = Given(*(torch.zeros_like(tensor) for tensor in given))
        of_move_bias, sums = np.zeros(len(given.hidden)), np.zeros((3, len(given.hidden)))
        hidden, move = given.hidden.t().contiguous(), (given.move * given.factor[:, None]).t().contiguous()
        for nodes, pairs, columns in self:
            values, message, gate = self._messages(nodes, pairs, columns)
            if moves:
                behind = self._through_moves(nodes, pairs, gate, of_move, found.p4, of_move_bias)
                found.move.add_(multiply(behind, message))
                before = multiply(move, behind.t())
            else:
                before = torch.zeros_like(message)
            kernels.through_gates(nodes, message.numpy(), gate, given.gate.numpy(), of_total, before.numpy(), sums)
            found.hidden.add_(multiply(before, values))
            ends = found.as_target.numpy(), found.as_source.numpy(), found.of_pair.numpy(), found.pairs.numpy()[pairs]
            layer = given.of_pair.numpy(), given.pairs.numpy()[pairs]
            kernels.through_first(nodes, values.numpy(), multiply(hidden, before.t()).numpy(), *layer, ends)
        found.gate[:], found.hidden_bias[:], found.gate_bias[:] = *torch.from_numpy(sums[:2]), float(sums[2, 0])
        self._finish_move(found, torch.from_numpy(of_move_bias).to(found.move.dtype))
        return [found.as_target.t(), found.as_source.t(), *found[2:-1]]

    def _messages(self, nodes: kernels.Nodes, pairs: slice, columns: int) -> tuple[Tensor, Tensor, np.ndarray]:
        """First layer and messages before their gates (C, columns), and the gates (columns,)."""
        given = self.given
        values = self.room[: len(given.hidden) * columns].view(-1, columns)
        ends = given.as_target.numpy(), given.as_source.numpy(), given.of_pair.numpy(), given.pairs.numpy()[pairs]
        kernels.fill(nodes, *ends, values.numpy())
        message = multiply(given.hidden, values.t())
        gate = np.empty(columns, message.numpy().dtype)
        layers = given.hidden_bias.numpy(), given.gate.numpy(), given.gate_bias.numpy()
        kernels.open_gates(nodes, message.numpy(), *layers, gate)
        return values, message, gate

    def _through_moves(
        self, nodes: kernels.Nodes, pairs: slice, gate: np.ndarray, of_move: Tensor, of_p4: Tensor, of_bias: np.ndarray
    ) -> Tensor:
        """Gradient of the layer before the factor times the gate, without the weight of the factor, shape (C, columns)."""
        given, used = self.given, pairs.stop - pairs.start
        is_open, of_factor = np.zeros((len(self.is_open), len(gate)), np.uint8), np.empty_like(gate)
        is_open[:, :used] = self.is_open.numpy()[:, pairs]
        factor = self.factor.numpy()[pairs]
        kernels.through_moves(
            nodes, given.p4.numpy(), factor, self.how.by_difference, of_move.contiguous().numpy(), of_factor, of_p4.numpy()
        )
        behind = given.p4.new_empty(len(given.hidden), len(gate))
        kernels.through_factors(of_factor, gate, is_open, behind.numpy(), of_bias)
        return behind

    def _finish_move(self, found: Given, of_bias: Tensor) -> None:
        """From sums without the weight of the factor to gradients: what is behind an open unit is linear in it."""
        given = self.given
        found.factor.copy_((found.move * given.move).sum(1) + of_bias * given.move_bias)
        found.move.mul_(given.factor[:, None])
        found.move_bias.copy_(of_bias * given.factor)


def _columns(number: int) -> int:
    """Room for so many pairs: of few different sizes, because a product of new ones is prepared first."""
    return -(-number // COLUMNS_TOGETHER) * COLUMNS_TOGETHER
