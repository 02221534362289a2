"""Which jets, truth jets, tracks and partons belong together?

Everything starts from the pairs within a cone, found by one kernel. Truth jets choose in the order of falling pT, each the
nearest reconstructed jet that is still free, so the match is one to one. Isolation follows the usual definition for
calibrations: a reconstructed jet has no other above 7 GeV within 1.5 R, a truth jet no other above 7 GeV within 2.5 R.

Reference:
    ATLAS Collaboration, "Jet energy scale and resolution", arXiv:2007.02645, Sec. 5.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from distjet.physics.kinematics import Floats

Indices = NDArray[np.int64]

MAX_MATCH_DISTANCE = 0.3
MATCH_DISTANCE_IN_R = 0.75
ISOLATION_PT_GEV = 7.0
RECO_ISOLATION_IN_R = 1.5
TRUTH_ISOLATION_IN_R = 2.5
MIN_LABEL_DISTANCE = 0.3


class Axes(NamedTuple):
    """Directions of a batch of events: pseudorapidity and azimuth of shape (N,), rows per event of shape (E + 1,)."""

    eta: Floats
    phi_rad: Floats
    offsets: Indices


class Pairs(NamedTuple):
    """Pairs (row of the left collection, row of the right collection) of one event and their distance."""

    left: Indices
    right: Indices
    distance: Floats


def pairs_within(left: Axes, right: Axes, radius: float) -> Pairs:
    """Find all pairs of the same event closer than `radius`, ordered by left, then right."""
    count = _pairs(left, right, radius, np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    out = np.empty(count, np.int64), np.empty(count, np.int64), np.empty(count)
    _pairs(left, right, radius, *out)
    return Pairs(*out)


def match_one_to_one(reco: Axes, truth: Axes, radius: float) -> Pairs:
    """Match truth jets (ordered by falling pT within an event) to reconstructed jets.

    Args:
        reco: Reconstructed jets.
        truth: Truth jets.
        radius: Jet radius R; a match is nearer than 0.75 R and than 0.3.

    Returns:
        Matched pairs (reconstructed, truth), each jet at most once.
    """
    pairs = pairs_within(reco, truth, min(MATCH_DISTANCE_IN_R * radius, MAX_MATCH_DISTANCE))
    order = np.lexsort((pairs.distance, pairs.right))
    kept = order[_first_free(pairs.left[order], pairs.right[order], len(reco.eta), len(truth.eta))]
    return Pairs(pairs.left[kept], pairs.right[kept], pairs.distance[kept])


def is_isolated(axes: Axes, pt_gev: Floats, cone: float) -> NDArray[np.bool_]:
    """Whether no other jet above 7 GeV lies within a cone around each jet, shape (N,)."""
    pairs = pairs_within(axes, axes, cone)
    disturbing = (pairs.left != pairs.right) & (pt_gev[pairs.right] > ISOLATION_PT_GEV)
    return np.bincount(pairs.left[disturbing], minlength=len(pt_gev)) == 0


def hardest_parton(
    jets: Axes, partons: Axes, parton_pt_gev: Floats, pdg: NDArray[np.integer], radius: float
) -> NDArray[np.int32]:
    """Label jets with the parton of the hard process that is hardest within max(R, 0.3): 21, 1 to 5, or 0 for none."""
    pairs = pairs_within(jets, partons, max(radius, MIN_LABEL_DISTANCE))
    softest_first = np.argsort(parton_pt_gev[pairs.right], kind="stable")
    labels = np.zeros(len(jets.eta), np.int32)
    labels[pairs.left[softest_first]] = np.abs(pdg[pairs.right[softest_first]])
    return labels


@njit(cache=True, nogil=True)
def _pairs(left: Axes, right: Axes, radius: float, out_left: Indices, out_right: Indices, distance: Floats) -> int:
    """Count the pairs, and store as many as the output arrays have room for."""
    count = 0
    for event in range(left.offsets.size - 1):
        for a in range(left.offsets[event], left.offsets[event + 1]):
            for b in range(right.offsets[event], right.offsets[event + 1]):
                d_eta = left.eta[a] - right.eta[b]
                if abs(d_eta) >= radius:
                    continue
                d_phi = (left.phi_rad[a] - right.phi_rad[b] + np.pi) % (2 * np.pi) - np.pi
                squared = d_eta**2 + d_phi**2
                if squared < radius**2:
                    if count < out_left.size:
                        out_left[count], out_right[count], distance[count] = a, b, np.sqrt(squared)
                    count += 1
    return count


@njit(cache=True, nogil=True)
def _first_free(left: Indices, right: Indices, num_left: int, num_right: int) -> Indices:
    """Walk through candidate pairs and keep those of which neither side is taken."""
    taken_left, taken_right = np.zeros(num_left, np.bool_), np.zeros(num_right, np.bool_)
    kept = np.empty(left.size, np.int64)
    count = 0
    for n in range(left.size):
        if not taken_left[left[n]] and not taken_right[right[n]]:
            taken_left[left[n]] = taken_right[right[n]] = True
            kept[count] = n
            count += 1
    return kept[:count]
