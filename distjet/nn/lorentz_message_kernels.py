"""The steps of messages between all particles of a jet, between their matrix products, for pairs that stay in the cache.

A column is a pair: those of a node with all nodes of its jet, itself included, are neighbours, so that loops run over whole
slices. A node is no partner of its own: there the gate and the factor of the move are zero, with which its gradients are, too.
Behind the last pair may be empty columns, which are treated alike.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from distjet.nn.edge_kernels import COMPILED

MAX_MOVE = 100.0
"What moves a four-vector is clamped to this size, component by component."


class Nodes(NamedTuple):
    """Where the pairs of a node are, of a few nodes with all others of their jets: int64.

    Attributes:
        first: First node of the jet of each node, shape (n,).
        size: Number of nodes in it, shape (n,).
        begin: First column of each node and, last, the number of columns in use, shape (n + 1,).
        lo: The first of the few nodes.
    """

    first: np.ndarray
    size: np.ndarray
    begin: np.ndarray
    lo: int


@njit(**COMPILED)
def fill(nodes, as_target, as_source, of_pair, pairs, values):  # type: ignore[no-untyped-def]
    """Write the first layer after its ReLU.

    Args:
        nodes: Those of the columns.
        as_target: Normalised part of each node as target of a pair, shape (C, N).
        as_source: Normalised part of each node as its source, shape (C, N).
        of_pair: What the two invariants are multiplied with, normalised, shape (2, C).
        pairs: Invariants of the pairs, shape (columns in use, 2).
        values: Written to, shape (C, columns).
    """
    zero = values.dtype.type(0)
    norms, dots = np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])
    for c in range(len(values)):
        u, v = of_pair[0, c], of_pair[1, c]
        for k in range(len(nodes.first)):
            source = as_source[c, nodes.first[k] : nodes.first[k] + nodes.size[k]]
            target, value = as_target[c, nodes.lo + k], values[c, nodes.begin[k] : nodes.begin[k + 1]]
            norm, dot = norms[nodes.begin[k] : nodes.begin[k + 1]], dots[nodes.begin[k] : nodes.begin[k + 1]]
            for j in range(len(value)):
                value[j] = _relu(target + source[j] + norm[j] * u + dot[j] * v, zero)
        values[c, nodes.begin[-1] :] = zero


@njit(**COMPILED)
def open_gates(nodes, message, bias, weight, gate_bias, gate):  # type: ignore[no-untyped-def]
    """Take the product of the second layer to the message before its gate, and write the gate.

    Args:
        nodes: Those of the columns.
        message: The product, then the message, shape (C, columns).
        bias: Of the second layer, shape (C,).
        weight: Of the gate, shape (C,).
        gate_bias: Of the gate, shape (1,).
        gate: Written to, shape (columns,).
    """
    zero, one = message.dtype.type(0), message.dtype.type(1)
    gate[:] = gate_bias[0]
    for c in range(len(message)):
        values, shift, factor = message[c], bias[c], weight[c]
        for pair in range(len(values)):
            value = _relu(values[pair] + shift, zero)
            values[pair] = value
            gate[pair] += factor * value
    for pair in range(nodes.begin[-1]):
        gate[pair] = one / (one + np.exp(-gate[pair]))
    _clear(nodes, gate)


@njit(**COMPILED)
def sum_messages(nodes, message, gate, total):  # type: ignore[no-untyped-def]
    """Write the sums (C, N) of the messages to the nodes after their gates."""
    for c in range(len(message)):
        for k in range(len(nodes.first)):
            values, share = message[c, nodes.begin[k] : nodes.begin[k + 1]], gate[nodes.begin[k] : nodes.begin[k + 1]]
            found = message.dtype.type(0)
            for j in range(len(values)):
                found += values[j] * share[j]
            total[c, nodes.lo + k] = found


@njit(**COMPILED)
def find_factors(nodes, values, gate, bias, weight, is_open, factor):  # type: ignore[no-untyped-def]
    """Write what the difference of two four-vectors is multiplied with.

    Args:
        nodes: Those of the columns.
        values: Product of the layer before with the messages before their gates, shape (C, columns).
        gate: Shape (columns,).
        bias: Of the layer before, shape (C,).
        weight: Of the factor, shape (C,).
        is_open: Which values of the layer before are positive, eight to a number: written to, shape (C / 8, columns).
        factor: Written to, shape (columns,).
    """
    zero = values.dtype.type(0)
    factor[:] = zero
    is_open[:] = 0
    for c in range(len(values)):
        here, shift, of_value, bits, bit = values[c], bias[c], weight[c], is_open[c // 8], np.uint8(1 << (c % 8))
        for pair in range(len(here)):
            value = _relu(here[pair] * gate[pair] + shift, zero)
            factor[pair] += of_value * value
            bits[pair] |= bit if value > zero else np.uint8(0)
    _clear(nodes, factor)


@njit(**COMPILED)
def sum_moves(nodes, p4, factor, by_difference, move):  # type: ignore[no-untyped-def]
    """Write what moves the four-vectors (N, 4) of the nodes."""
    for k in range(len(nodes.first)):
        i, others = nodes.lo + k, max(nodes.size[k] - 1, 1)
        for j in range(nodes.size[k]):
            pair, source = nodes.begin[k] + j, p4[nodes.first[k] + j]
            for component in range(4):
                if by_difference:
                    step = factor[pair] * (p4[i, component] - source[component])
                    move[i, component] += min(max(step, -MAX_MOVE), MAX_MOVE) / others
                else:
                    move[i, component] += factor[pair] * source[component]


@njit(**COMPILED)
def through_moves(nodes, p4, factor, by_difference, of_move, of_factor, of_p4):  # type: ignore[no-untyped-def]
    """Write the gradient of the factors, and add to that of the four-vectors."""
    of_factor[:] = 0
    for k in range(len(nodes.first)):
        i, others = nodes.lo + k, max(nodes.size[k] - 1, 1)
        for source in range(nodes.first[k], nodes.first[k] + nodes.size[k]):
            pair = nodes.begin[k] + source - nodes.first[k]
            for component in range(4):
                gradient = of_move[i, component]
                if by_difference:
                    difference = p4[i, component] - p4[source, component]
                    if abs(factor[pair] * difference) < MAX_MOVE:
                        gradient /= others
                        of_factor[pair] += gradient * difference
                        of_p4[i, component] += gradient * factor[pair]
                        of_p4[source, component] -= gradient * factor[pair]
                else:
                    of_factor[pair] += gradient * p4[source, component]
                    of_p4[source, component] += gradient * factor[pair]
    _clear(nodes, of_factor)


@njit(**COMPILED)
def through_factors(of_factor, gate, is_open, values, of_bias):  # type: ignore[no-untyped-def]
    """Write the gradient of the layer before the factor times the gate, and add to that of its bias.

    The weight of the factor is left to who multiplies with the result.

    Args:
        of_factor: Shape (columns,).
        gate: Shape (columns,).
        is_open: What `find_factors` wrote.
        values: Written to, shape (C, columns).
        of_bias: Without the weight of the factor, float64, shape (C,).
    """
    zero = values.dtype.type(0)
    gated = of_factor * gate
    for c in range(len(values)):
        here, bits, bit = values[c], is_open[c // 8], np.uint8(1 << (c % 8))
        total = zero
        for pair in range(len(here)):
            opened = (bits[pair] & bit) != 0
            here[pair] = gated[pair] if opened else zero
            total += of_factor[pair] if opened else zero
        of_bias[c] += total


@njit(**COMPILED)
def through_gates(nodes, message, gate, weight, of_total, gradient, sums):  # type: ignore[no-untyped-def]
    """Take the gradient of the message by the moves to that of the second layer before its activation.

    Args:
        nodes: Those of the columns.
        message: Before its gate, shape (C, columns).
        gate: Shape (columns,).
        weight: Of the gate, shape (C,).
        of_total: Gradient of the sums of the messages, shape (C, N).
        gradient: Of the gated message times the gate, then of the second layer, shape (C, columns).
        sums: Gradients of the weights of the gate, of the bias of the second layer and, in the first place, of the bias of
            the gate: added to, float64, shape (3, C).
    """
    zero, one = gradient.dtype.type(0), gradient.dtype.type(1)
    of_logit = np.zeros_like(gate)
    for c in range(len(message)):
        for k in range(len(nodes.first)):
            at, end, above = nodes.begin[k], nodes.begin[k + 1], of_total[c, nodes.lo + k]
            here, value, share, of_this = gradient[c, at:end], message[c, at:end], gate[at:end], of_logit[at:end]
            for j in range(len(here)):
                of_value = here[j] + share[j] * above
                here[j] = of_value
                of_this[j] += of_value * value[j]
    for pair in range(len(gate)):
        of_logit[pair] *= one - gate[pair]
    sums[2, 0] += of_logit.sum()
    for c in range(len(message)):
        here, value, of_weight, of_bias = gradient[c], message[c], zero, zero
        for pair in range(len(here)):
            of_value = here[pair] + of_logit[pair] * weight[c] if value[pair] > zero else zero
            here[pair] = of_value
            of_bias += of_value
            of_weight += of_logit[pair] * value[pair]
        sums[0, c] += of_weight
        sums[1, c] += of_bias


@njit(**COMPILED)
def through_first(nodes, values, gradient, of_pair, pairs, found):  # type: ignore[no-untyped-def]
    """Add to the gradients of all that the first layer is made of.

    Args:
        nodes: Those of the columns.
        values: What `fill` wrote, shape (C, columns).
        gradient: Behind the ReLU, shape (C, columns).
        of_pair: As in `fill`.
        pairs: As in `fill`.
        found: Gradients of as_target, as_source, of_pair and pairs: the first and the last are written to, others added to.
    """
    as_target, as_source, weights, invariants = found
    zero = values.dtype.type(0)
    norms, dots = np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1])
    of_norms, of_dots = np.zeros_like(norms), np.zeros_like(dots)
    for c in range(len(values)):
        u, v, of_u, of_v = of_pair[0, c], of_pair[1, c], zero, zero
        for k in range(len(nodes.first)):
            at, end = nodes.begin[k], nodes.begin[k + 1]
            value, above, norm, dot = values[c, at:end], gradient[c, at:end], norms[at:end], dots[at:end]
            source, of_norm, of_dot = (
                as_source[c, nodes.first[k] : nodes.first[k] + nodes.size[k]],
                of_norms[at:end],
                of_dots[at:end],
            )
            total = zero
            for j in range(len(value)):
                g = above[j] if value[j] > zero else zero
                total += g
                source[j] += g
                of_u += norm[j] * g
                of_v += dot[j] * g
                of_norm[j] += u * g
                of_dot[j] += v * g
            as_target[c, nodes.lo + k] = total
        weights[0, c] += of_u
        weights[1, c] += of_v
    invariants[:, 0], invariants[:, 1] = of_norms, of_dots


@njit(inline="always")
def _relu(value, zero):  # type: ignore[no-untyped-def]
    return zero if value < zero else value  # and what is not a number stays visible


@njit(inline="always")
def _clear(nodes, values):  # type: ignore[no-untyped-def]
    """Write zero to the pairs of a node with itself, and to empty columns."""
    for k in range(len(nodes.first)):
        values[nodes.begin[k] + nodes.lo + k - nodes.first[k]] = 0
    values[nodes.begin[-1] :] = 0
