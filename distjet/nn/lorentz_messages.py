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

ROWS_AT_ONCE = 2560
"Pairs that go through all layers together: a buffer of 72 numbers each is 0.7 MB. In fewer, calls count."
COLUMNS_TOGETHER = 64
"Buffers have room for a multiple of so many pairs."


class Given(NamedTuple):
    """What messages are made of: arrays of one floating type.

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

    as_target: np.ndarray
    as_source: np.ndarray
    of_pair: np.ndarray
    hidden: np.ndarray
    hidden_bias: np.ndarray
    gate: np.ndarray
    gate_bias: np.ndarray
    move: np.ndarray
    move_bias: np.ndarray
    factor: np.ndarray
    p4: np.ndarray
    pairs: np.ndarray
    ptr: np.ndarray

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> "Given":
        """View tensors as arrays; the parts of nodes come as (N, C)."""
        as_target, as_source, *others = (tensor.detach() for tensor in tensors)
        return cls(*(tensor.contiguous().numpy() for tensor in (as_target.t(), as_source.t(), *others)))


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
        self.hidden, self.move = torch.from_numpy(given.hidden), torch.from_numpy(given.move)
        sizes = np.diff(given.ptr)
        self.first, self.size = np.repeat(given.ptr[:-1], sizes), np.repeat(sizes, sizes)
        self.begin = np.concatenate([[0], np.cumsum(self.size)])
        num_kept = int(self.begin[-1]) if how.moves and how.keeps else 0
        width = len(given.hidden)
        self.is_open = torch.empty(-(-width // 8), num_kept, dtype=torch.uint8) if is_open is None else is_open
        self.factor = self.hidden.new_empty(num_kept) if factor is None else factor
        self.room = self.hidden.new_empty(width * _columns(max(ROWS_AT_ONCE, int(sizes.max(initial=1)))))

    def __iter__(self) -> Iterator[tuple[kernels.Nodes, slice, int]]:
        """Nodes of each piece, its pairs, and the number of columns for them."""
        lo = 0
        while lo < len(self.size):
            begin = int(self.begin[lo])
            hi = max(lo + 1, int(self.begin.searchsorted(begin + ROWS_AT_ONCE, "right")) - 1)
            pairs = slice(begin, int(self.begin[hi]))
            nodes = kernels.Nodes(self.first[lo:hi], self.size[lo:hi], self.begin[lo : hi + 1] - begin, lo)
            yield nodes, pairs, _columns(pairs.stop - pairs.start)
            lo = hi

    def send(self) -> tuple[Tensor, Tensor]:
        """Return messages (N, C) and moves (N, 4)."""
        given = self.given
        total, move = np.empty_like(given.as_target), np.zeros_like(given.p4)
        for nodes, pairs, columns in self:
            _, message, gate = self._messages(nodes, pairs, columns)
            kernels.sum_messages(nodes, message.numpy(), gate, total)
            if self.how.moves:
                factor = self._factors(nodes, pairs, message, gate)
                kernels.sum_moves(nodes, given.p4, factor, self.how.by_difference, move)
        return torch.from_numpy(total).t().contiguous(), torch.from_numpy(move)

    def send_back(self, of_message: Tensor, of_move: Tensor) -> list[Tensor]:
        """Return the gradients of all that is given but `ptr`, from those of messages and moves."""
        given, of_total, of_moved = self.given, of_message.t().contiguous().numpy(), of_move.contiguous().numpy()
        found = Given(*map(np.zeros_like, given))
        of_move_bias, sums = np.zeros(len(given.hidden)), np.zeros((3, len(given.hidden)))
        hidden, move = self.hidden.t().contiguous(), torch.from_numpy((given.move * given.factor[:, None]).T.copy())
        for nodes, pairs, columns in self:
            values, message, gate = self._messages(nodes, pairs, columns)
            before = torch.zeros_like(message)
            if self.how.moves:
                behind = self._through_moves(nodes, pairs, gate, of_moved, found.p4, of_move_bias)
                found.move[:] += multiply(behind, message).numpy()
                before = multiply(move, behind.t())
            kernels.through_gates(nodes, message.numpy(), gate, given.gate, of_total, before.numpy(), sums)
            found.hidden[:] += multiply(before, values).numpy()
            behind = multiply(hidden, before.t())
            ends = found.as_target, found.as_source, found.of_pair, found.pairs[pairs]
            kernels.through_first(nodes, values.numpy(), behind.numpy(), given.of_pair, given.pairs[pairs], ends)
        found.gate[:], found.hidden_bias[:], found.gate_bias[:] = sums[0], sums[1], sums[2, 0]
        self._finish_move(found, of_move_bias)
        of_target, of_source, *others = map(torch.from_numpy, found[:-1])
        return [of_target.t(), of_source.t(), *others]

    def _messages(self, nodes: kernels.Nodes, pairs: slice, columns: int) -> tuple[Tensor, Tensor, np.ndarray]:
        """First layer and messages before their gates (C, columns), and the gates (columns,)."""
        given = self.given
        values = self.room[: len(given.hidden) * columns].view(-1, columns)
        kernels.fill(nodes, given.as_target, given.as_source, given.of_pair, given.pairs[pairs], values.numpy())
        message, gate = multiply(self.hidden, values.t()), np.empty(columns, given.hidden.dtype)
        kernels.open_gates(nodes, message.numpy(), given.hidden_bias, given.gate, given.gate_bias, gate)
        return values, message, gate

    def _factors(self, nodes: kernels.Nodes, pairs: slice, message: Tensor, gate: np.ndarray) -> np.ndarray:
        """What the differences of four-vectors are multiplied with, shape (columns,)."""
        given, used = self.given, pairs.stop - pairs.start
        is_open, factor = np.empty((len(self.is_open), len(gate)), np.uint8), np.empty_like(gate)
        values = multiply(self.move, message.t()).numpy()
        kernels.find_factors(nodes, values, gate, given.move_bias, given.factor, is_open, factor)
        if self.how.keeps:
            self.is_open.numpy()[:, pairs], self.factor.numpy()[pairs] = is_open[:, :used], factor[:used]
        return factor

    def _through_moves(
        self, nodes: kernels.Nodes, pairs: slice, gate: np.ndarray, of_move: np.ndarray, of_p4: np.ndarray, of_bias: np.ndarray
    ) -> Tensor:
        """Gradient of the layer before the factor times the gate, without the weight of the factor, shape (C, columns)."""
        given, factor, of_factor = self.given, self.factor.numpy()[pairs], np.empty_like(gate)
        kernels.through_moves(nodes, given.p4, factor, self.how.by_difference, of_move, of_factor, of_p4)
        is_open = np.zeros((len(self.is_open), len(gate)), np.uint8)
        is_open[:, : len(factor)] = self.is_open.numpy()[:, pairs]
        behind = self.hidden.new_empty(len(given.hidden), len(gate))
        kernels.through_factors(of_factor, gate, is_open, behind.numpy(), of_bias)
        return behind

    def _finish_move(self, found: Given, of_bias: np.ndarray) -> None:
        """From sums without the weight of the factor to gradients: what is behind an open unit is linear in it."""
        given = self.given
        found.factor[:] = (found.move * given.move).sum(1) + of_bias * given.move_bias
        found.move[:] *= given.factor[:, None]
        found.move_bias[:] = of_bias * given.factor


def _columns(number: int) -> int:
    """Room for so many pairs: of few different sizes, because a product of new ones is prepared first."""
    return -(-number // COLUMNS_TOGETHER) * COLUMNS_TOGETHER
