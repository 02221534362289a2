"""How are messages between all particles of a jet computed on a CPU?

A jet of 45 particles has 2000 ordered pairs, and a pair three layers of 72 numbers. Operation by operation, each writes to
memory what the next one reads. Here the pairs of a few particles with all others, about as many as the second-level cache
holds, go through all layers before the next ones begin; only what the backward pass cannot compute again without a product of
matrices is kept.

The first layer acts on (h_i, h_j, two invariants), so its values are a_i + b_j + u n_ij + v d_ij: a and b are made once per
node, and what normalises them is a factor and a shift of a, b, u and v (`distjet.nn.pair_moments`).

A loop runs on one core and lets other threads run: training on several cores is several processes.

Reference:
    S. Gong et al., "An efficient Lorentz equivariant graph neural network for jet tagging", arXiv:2201.08187.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from distjet.nn.edge_kernels import COMPILED

MAX_MOVE = 100.0
"What moves a four-vector is clamped to this size, component by component."
ROWS_AT_ONCE = 2048
"Pairs that go through all layers together: four buffers of 72 numbers each are about 2 MB."


class Given(NamedTuple):
    """What messages are made of: arrays of one floating type.

    Attributes:
        as_target: Normalised part of each node as target of a pair, shape (N, C).
        as_source: Normalised part of each node as its source, shape (N, C).
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
        places: First pair of each jet and, last, their number, shape (B + 1,).
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
    places: np.ndarray


class Kept(NamedTuple):
    """What the backward pass needs, for each ordered pair of different nodes of a jet.

    Attributes:
        message: Before the gate, shape (E, C).
        gate: Shape (E,).
        is_open: Whether the layer before the factor is positive, shape (E, C).
        factor: Of the four-vectors, shape (E,).
    """

    message: np.ndarray
    gate: np.ndarray
    is_open: np.ndarray
    factor: np.ndarray


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
        given = Given(*(tensor.detach().contiguous().numpy() for tensor in tensors))
        message, move = torch.zeros_like(tensors[0]), torch.zeros_like(tensors[10])
        sizes = np.diff(given.ptr)
        kept = _allocate(given, int((sizes * (sizes - 1)).sum()) if how.keeps else _num_rows(given), how.moves)
        _send(given, how, _num_rows(given), kept, message.numpy(), move.numpy())
        if how.keeps:
            ctx.how = how
            ctx.save_for_backward(*tensors, *map(torch.from_numpy, kept))
        return message, move

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients of all tensors but the last two."""
        tensors = ctx.saved_tensors
        num_given = len(Given._fields)
        given = Given(*(tensor.detach().contiguous().numpy() for tensor in tensors[:num_given]))
        kept = Kept(*(tensor.numpy() for tensor in tensors[num_given:]))
        found = given._replace(**{name: np.zeros_like(getattr(given, name)) for name in Given._fields[:-2]})
        of_message, of_move = (gradient.contiguous().numpy() for gradient in gradients)
        _send_back(given, ctx.how, _num_rows(given), kept, of_message, of_move, found)
        return None, *map(torch.from_numpy, found[:-2]), None, None


def _num_rows(given: Given) -> int:
    """Rows of a buffer: at least the pairs of one node."""
    largest = int(np.diff(given.ptr).max(initial=1))
    return max(min(ROWS_AT_ONCE, largest * (largest - 1)), largest)


def _allocate(given: Given, num_pairs: int, moves: bool) -> Kept:
    width, dtype = given.hidden.shape[0], given.hidden.dtype
    num_moves = num_pairs if moves else 0
    return Kept(
        np.empty((num_pairs, width), dtype),
        np.empty(num_pairs, dtype),
        np.empty((num_moves, width), np.bool_),
        np.empty(num_moves, dtype),
    )


@njit(**COMPILED)
def _send(given, how, num_rows, kept, message, move):  # type: ignore[no-untyped-def]
    """Write the messages (N, C) and moves (N, 4), and what is kept."""
    width = given.hidden.shape[0]
    first_layer, out = np.empty((num_rows, width), message.dtype), np.empty((num_rows, width), message.dtype)
    hidden, to_move = np.ascontiguousarray(given.hidden.T), np.ascontiguousarray(given.move.T)
    done = 0
    for jet in range(len(given.ptr) - 1):
        first, last = given.ptr[jet], given.ptr[jet + 1]
        others = last - first - 1
        at_once = max(1, num_rows // max(others, 1))
        for begin in range(first, last, at_once):
            end = min(begin + at_once, last)
            rows = (end - begin) * others
            start = done if how.keeps else 0
            now = Kept(
                kept.message[start : start + rows],
                kept.gate[start : start + rows],
                kept.is_open[start : start + rows] if how.moves else kept.is_open,
                kept.factor[start : start + rows] if how.moves else kept.factor,
            )
            _fill(given, jet, begin, end, first_layer[:rows])
            np.dot(first_layer[:rows], hidden, now.message)
            _open_gates(given, now, first_layer[:rows])
            _sum_messages(begin, others, first_layer[:rows], message)
            if how.moves:
                np.dot(first_layer[:rows], to_move, out[:rows])
                _find_factors(given, now, out[:rows])
                _sum_moves(given, how, jet, begin, now.factor, move)
            done += rows


@njit(**COMPILED)
def _fill(given, jet, begin, end, values):  # type: ignore[no-untyped-def]
    """Write the first layer of the pairs of the nodes from `begin` to `end` with all others of their jet."""
    first, last = given.ptr[jet], given.ptr[jet + 1]
    zero = values.dtype.type(0)
    u, v = given.of_pair[0], given.of_pair[1]
    row = 0
    for i in range(begin, end):
        target = given.as_target[i]
        pair = given.places[jet] + (i - first) * (last - first)
        for j in range(first, last):
            if j != i:
                source, value = given.as_source[j], values[row]
                norm, dot = given.pairs[pair, 0], given.pairs[pair, 1]
                for c in range(len(value)):
                    value[c] = max(target[c] + source[c] + norm * u[c] + dot * v[c], zero)
                row += 1
            pair += 1


@njit(**COMPILED)
def _open_gates(given, now, gated):  # type: ignore[no-untyped-def]
    """Take the product of the second layer to the message, the gate and the gated message."""
    zero, one = gated.dtype.type(0), gated.dtype.type(1)
    for row in range(len(gated)):
        message, after = now.message[row], gated[row]
        logit = given.gate_bias[0]
        for c in range(len(message)):
            message[c] = max(message[c] + given.hidden_bias[c], zero)
            logit += message[c] * given.gate[c]
        gate = one / (one + np.exp(-logit))
        now.gate[row] = gate
        for c in range(len(message)):
            after[c] = message[c] * gate


@njit(**COMPILED)
def _sum_messages(begin, others, gated, message):  # type: ignore[no-untyped-def]
    for row in range(len(gated)):
        total, values = message[begin + row // others], gated[row]
        for c in range(len(total)):
            total[c] += values[c]


@njit(**COMPILED)
def _find_factors(given, now, values):  # type: ignore[no-untyped-def]
    """Take the product of the layer before the factor to the factor."""
    zero = values.dtype.type(0)
    for row in range(len(values)):
        value, is_open = values[row], now.is_open[row]
        total = zero
        for c in range(len(value)):
            after = max(value[c] + given.move_bias[c], zero)
            is_open[c] = after > zero
            total += after * given.factor[c]
        now.factor[row] = total


@njit(**COMPILED)
def _sum_moves(given, how, jet, begin, factors, move):  # type: ignore[no-untyped-def]
    first, last = given.ptr[jet], given.ptr[jet + 1]
    others = last - first - 1
    i, j = begin, first
    for factor in factors:
        j += j == i
        for k in range(4):
            if how.by_difference:
                step = factor * (given.p4[i, k] - given.p4[j, k])
                move[i, k] += min(max(step, -MAX_MOVE), MAX_MOVE) / others
            else:
                move[i, k] += factor * given.p4[j, k]
        j += 1
        if j == last or (j == i and i == last - 1):
            i, j = i + 1, first


@njit(**COMPILED)
def _send_back(given, how, num_rows, kept, of_message, of_move, found):  # type: ignore[no-untyped-def]
    """Add to the gradients of all that is given."""
    width = given.hidden.shape[0]
    shape = (num_rows, width)
    first_layer, gated = np.empty(shape, of_message.dtype), np.empty(shape, of_message.dtype)
    behind, before = np.empty(shape, of_message.dtype), np.empty(shape, of_message.dtype)
    product = np.empty((width, width), of_message.dtype)
    of_factor = np.empty(num_rows, of_message.dtype)
    scaled_move = np.ascontiguousarray(given.move * given.factor.reshape(width, 1))
    done = 0
    for jet in range(len(given.ptr) - 1):
        first, last = given.ptr[jet], given.ptr[jet + 1]
        others = last - first - 1
        at_once = max(1, num_rows // max(others, 1))
        for begin in range(first, last, at_once):
            end = min(begin + at_once, last)
            rows = (end - begin) * others
            now = Kept(
                kept.message[done : done + rows],
                kept.gate[done : done + rows],
                kept.is_open[done : done + rows] if how.moves else kept.is_open,
                kept.factor[done : done + rows] if how.moves else kept.factor,
            )
            _fill(given, jet, begin, end, first_layer[:rows])
            if how.moves:
                _through_moves(given, how, (jet, begin), now.factor, of_move, of_factor, found)
                _through_factors(now, of_factor, gated[:rows], behind[:rows], found)
                np.dot(behind[:rows].T, gated[:rows], product)
                found.move[:] += product
                np.dot(behind[:rows], scaled_move, before[:rows])
            else:
                before[:rows] = 0
            _through_gates(given, now, of_message, begin, others, before[:rows], found)
            np.dot(before[:rows].T, first_layer[:rows], product)
            found.hidden[:] += product
            np.dot(before[:rows], given.hidden, behind[:rows])
            _through_first(given, jet, begin, first_layer[:rows], behind[:rows], found)
            done += rows
    if how.moves:
        _finish_move(given, found)


@njit(**COMPILED)
def _through_moves(given, how, at, factors, of_move, of_factor, found):  # type: ignore[no-untyped-def]
    """Write the gradient of the factors, and add to that of the four-vectors; `at` are the jet and the first node."""
    (jet, begin), of_p4 = at, found.p4
    first, last = given.ptr[jet], given.ptr[jet + 1]
    others = last - first - 1
    i, j = begin, first
    for row in range(len(factors)):
        j += j == i
        total = factors[row] * 0
        for k in range(4):
            gradient = of_move[i, k]
            if how.by_difference:
                difference = given.p4[i, k] - given.p4[j, k]
                if abs(factors[row] * difference) < MAX_MOVE:
                    gradient /= others
                    total += gradient * difference
                    of_p4[i, k] += gradient * factors[row]
                    of_p4[j, k] -= gradient * factors[row]
            else:
                total += gradient * given.p4[j, k]
                of_p4[j, k] += gradient * factors[row]
        of_factor[row] = total
        j += 1
        if j == last or (j == i and i == last - 1):
            i, j = i + 1, first


@njit(**COMPILED)
def _through_factors(now, of_factor, gated, behind, found):  # type: ignore[no-untyped-def]
    """Write the gated messages, and the gradient of the layer before the factor without the weight of the factor."""
    zero = gated.dtype.type(0)
    for row in range(len(gated)):
        message, is_open, after, gradient = now.message[row], now.is_open[row], gated[row], behind[row]
        gate, of_this = now.gate[row], of_factor[row]
        for c in range(len(message)):
            after[c] = message[c] * gate
            gradient[c] = of_this if is_open[c] else zero
            found.move_bias[c] += gradient[c]


@njit(**COMPILED)
def _through_gates(given, now, of_message, begin, others, before, found):  # type: ignore[no-untyped-def]
    """Take the gradient of the gated messages by the moves to that of the second layer before its activation."""
    zero, one = before.dtype.type(0), before.dtype.type(1)
    for row in range(len(before)):
        message, gradient, of_sum = now.message[row], before[row], of_message[begin + row // others]
        of_gate, gate = zero, now.gate[row]
        for c in range(len(message)):
            gradient[c] += of_sum[c]
            of_gate += gradient[c] * message[c]
        of_logit = of_gate * gate * (one - gate)
        found.gate_bias[0] += of_logit
        for c in range(len(message)):
            found.gate[c] += of_logit * message[c]
            gradient[c] = gradient[c] * gate + of_logit * given.gate[c] if message[c] > zero else zero
            found.hidden_bias[c] += gradient[c]


@njit(**COMPILED)
def _through_first(given, jet, begin, values, behind, found):  # type: ignore[no-untyped-def]
    """Add to the gradients of all that the first layer is made of."""
    first, last = given.ptr[jet], given.ptr[jet + 1]
    zero = values.dtype.type(0)
    u, v, of_u, of_v = given.of_pair[0], given.of_pair[1], found.of_pair[0], found.of_pair[1]
    i, j = begin, first
    for row in range(len(values)):
        j += j == i
        pair = given.places[jet] + (i - first) * (last - first) + j - first
        norm, dot = given.pairs[pair, 0], given.pairs[pair, 1]
        value, gradient, target, source = values[row], behind[row], found.as_target[i], found.as_source[j]
        of_norm, of_dot = zero, zero
        for c in range(len(value)):
            g = gradient[c] if value[c] > zero else zero
            target[c] += g
            source[c] += g
            of_u[c] += norm * g
            of_v[c] += dot * g
            of_norm += u[c] * g
            of_dot += v[c] * g
        found.pairs[pair, 0], found.pairs[pair, 1] = of_norm, of_dot
        j += 1
        if j == last or (j == i and i == last - 1):
            i, j = i + 1, first


@njit(**COMPILED)
def _finish_move(given, found):  # type: ignore[no-untyped-def]
    """From sums without the weight of the factor to gradients: what is behind an open unit is linear in it."""
    for c in range(len(given.factor)):
        found.factor[c] = np.sum(found.move[c] * given.move[c]) + found.move_bias[c] * given.move_bias[c]
        found.move[c] *= given.factor[c]
        found.move_bias[c] *= given.factor[c]
