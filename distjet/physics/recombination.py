"""How do the constituents of one jet merge, two at a time, until one is left?

Sequential recombination with an infinite radius: no constituent is lost to the beam, so a jet of n constituents has n - 1
mergers, and its last N - 1 mergers undone give its N exclusive subjets. FastJet does the same; called from Python once per jet
it costs more than the clustering, here a kernel goes over a whole batch. The nearest neighbour in (rapidity, azimuth) of each
node is kept, which finds the smallest distance in O(n): for min(k_i, k_j) R_ij^2 it is always one between such neighbours.

Reference:
    M. Cacciari, G. P. Salam, "Dispelling the N^3 myth for the kt jet-finder", arXiv:hep-ph/0512210.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from distjet.physics.kinematics import Floats

PT, RAPIDITY, PHI, PX, PY, PZ, ENERGY = range(7)
"Columns of `Tree.nodes`."

KT, CAMBRIDGE = 1, 0
"Power of kt^2 in the distance."

BEAM_RAPIDITY = 1e5
"As in FastJet: rapidity of a particle along the beam, to which |pz| is added so that two of them differ."


class Tree(NamedTuple):
    """History of a jet of n constituents.

    Attributes:
        nodes: Constituents and then what mergers made, in their order, by the columns above, shape (2 n - 1, 7). Where the
            winner takes all, only the first three are meaningful.
        children: The two nodes that each merger joined, int64, shape (n - 1, 2).
        distance: min(pT_1, pT_2)^(2 power) * Delta R^2 of each merger, shape (n - 1,).
    """

    nodes: np.ndarray
    children: np.ndarray
    distance: np.ndarray


@njit(cache=True, nogil=True)
def rapidity_of(px, py, pz, energy):  # type: ignore[no-untyped-def]
    """Rapidity of a four-vector of scalars; a negative mass squared is rounding, and is taken as zero."""
    pt_squared = px * px + py * py
    mass_squared = max((energy + pz) * (energy - pz) - pt_squared, 0.0)
    if pt_squared + mass_squared == 0.0:
        along = BEAM_RAPIDITY + abs(pz)
    else:
        along = math.log((energy + abs(pz)) / math.sqrt(pt_squared + mass_squared))
    return along if pz >= 0 else -along


@njit(cache=True, nogil=True)
def squared_distance(rapidity_a, phi_a, rapidity_b, phi_b):  # type: ignore[no-untyped-def]
    """Delta R^2 of two directions with azimuths in [-pi, pi]."""
    turn = abs(phi_a - phi_b)
    turn = min(turn, 2 * math.pi - turn)
    return (rapidity_a - rapidity_b) ** 2 + turn * turn


@njit(cache=True, nogil=True)
def recombine(p4: Floats, power: int, winner_takes_all: bool) -> Tree:  # pragma: no cover - compiled
    """Merge the constituents of one jet until one node is left.

    Args:
        p4: Four-vectors (px, py, pz, E) in GeV of at least one constituent, float64, shape (n, 4).
        power: Of kt^2 in the distance: KT or CAMBRIDGE.
        winner_takes_all: Whether a merged node has the direction of its harder part and the sum of the pT, without a mass; else
            four-vectors are added (E scheme).

    Reference:
        Catani et al., Nucl. Phys. B406 (1993) 187; Dokshitzer et al., arXiv:hep-ph/9707323; the winner-take-all scheme:
        A. Larkoski, D. Neill, J. Thaler, "Jet shapes with the broadening axis", arXiv:1401.2158.
    """
    size = len(p4)
    nodes = np.empty((2 * size - 1, 7))
    children, distance = np.empty((size - 1, 2), np.int64), np.empty(size - 1)
    for i in range(size):
        _fill(nodes[i], p4[i, 0], p4[i, 1], p4[i, 2], p4[i, 3])
    active, weight = np.arange(size), nodes[:size, PT] ** (2 * power)
    nearest, gap = np.zeros(size, np.int64), np.empty(size)
    for i in range(size):
        nearest[i], gap[i] = _find_nearest(nodes, active, i)
    for step in range(size - 1):
        last, merged = size - step - 1, size + step
        first = np.argmin(weight[: last + 1] * gap[: last + 1])
        second = nearest[first]
        children[step, 0], children[step, 1] = active[first], active[second]
        distance[step] = weight[first] * gap[first]
        _merge(nodes[merged], nodes[active[first]], nodes[active[second]], winner_takes_all)
        first, second = min(first, second), max(first, second)
        active[first], weight[first] = merged, nodes[merged, PT] ** (2 * power)
        active[second], weight[second] = active[last], weight[last]
        nearest[second], gap[second] = nearest[last], gap[last]
        _update_nearest(nodes, active[:last], nearest, gap, first, second)
    return Tree(nodes, children, distance)


@njit(cache=True, nogil=True)
def _fill(node, px, py, pz, energy):  # type: ignore[no-untyped-def]
    node[PX], node[PY], node[PZ], node[ENERGY] = px, py, pz, energy
    node[PT], node[PHI] = math.sqrt(px * px + py * py), math.atan2(py, px)
    node[RAPIDITY] = rapidity_of(px, py, pz, energy)


@njit(cache=True, nogil=True)
def _merge(merged, one, other, winner_takes_all):  # type: ignore[no-untyped-def]
    if winner_takes_all:
        winner = one if one[PT] > other[PT] else other
        merged[:] = winner
        merged[PT] = one[PT] + other[PT]
    else:
        _fill(merged, one[PX] + other[PX], one[PY] + other[PY], one[PZ] + other[PZ], one[ENERGY] + other[ENERGY])


@njit(cache=True, nogil=True)
def _gap(nodes, one, other):  # type: ignore[no-untyped-def]
    return squared_distance(nodes[one, RAPIDITY], nodes[one, PHI], nodes[other, RAPIDITY], nodes[other, PHI])


@njit(cache=True, nogil=True)
def _find_nearest(nodes, active, place):  # type: ignore[no-untyped-def]
    nearest, smallest = 0, np.inf
    for other in range(len(active)):
        if other != place:
            gap = _gap(nodes, active[place], active[other])
            if gap < smallest:
                nearest, smallest = other, gap
    return nearest, smallest


@njit(cache=True, nogil=True)
def _update_nearest(nodes, active, nearest, gap, changed, moved):  # type: ignore[no-untyped-def]
    """Repair nearest neighbours after a merger: `changed` is a new node, `moved` holds what stood behind the active places."""
    gap[changed] = np.inf
    for place in range(len(active)):
        if place == changed:
            continue
        between = _gap(nodes, active[place], active[changed])
        if nearest[place] in (changed, moved):  # both of these nodes are gone
            nearest[place], gap[place] = _find_nearest(nodes, active, place)
        elif between < gap[place]:
            nearest[place], gap[place] = changed, between
        elif nearest[place] == len(active):
            nearest[place] = moved
        if between < gap[changed]:
            nearest[changed], gap[changed] = place, between


@njit(cache=True, nogil=True)
def exclusive(tree, count):  # type: ignore[no-untyped-def]
    """Nodes that the last `count` - 1 mergers joined, i.e. the exclusive subjets; all constituents where there are fewer."""
    num_mergers = len(tree.distance)
    size = num_mergers + 1
    if count >= size:
        return np.arange(size)
    end = 2 * size - count  # nodes that exist before the last count - 1 mergers
    alive = np.ones(end, np.bool_)
    for step in range(size - count):
        alive[tree.children[step, 0]] = alive[tree.children[step, 1]] = False
    return np.flatnonzero(alive)
