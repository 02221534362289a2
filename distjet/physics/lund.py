"""What are all the declusterings of a jet, and which of them follows which?

A jet is clustered again with the Cambridge/Aachen algorithm, without a limit on the radius, and taken apart from the last
merging to the first, along the harder and along the softer branch. Each declustering is a node with its coordinates in the Lund
plane; single constituents are none. A whole batch is one call of a compiled kernel: a FastJet object per merging, handled in
Python, costs a hundred times more than the clustering.

Each constituent remembers its nearest neighbour; after a merging only those are searched again whose neighbour has gone. For a
jet of n constituents this takes of order n^2 steps.

The difference in azimuth of psi is taken in (-pi, pi]. A code that takes the plain difference of two azimuths in [0, 2 pi)
gives declusterings across zero another psi, so that its jets depend on where azimuth zero is.

Reference:
    F. Dreyer, G. Salam, G. Soyez, "The Lund jet plane", arXiv:1807.04758; F. Dreyer, H. Qu, "Jet tagging in the Lund plane with
    graph networks", arXiv:2012.08526; Cambridge/Aachen: hep-ph/9707323, hep-ph/9907280.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from distjet.physics.kinematics import Floats

LUND_COORDINATES = ("ln_z", "ln_delta", "psi", "ln_m", "ln_kt")
"Columns of `LundTrees.coordinates`."

MIN_DELTA = 1e-6
"Distances below count as this one, so that their logarithm is finite."
MIN_PT_GEV = 1e-12
"Transverse momenta below count as this one."
MIN_MASS2_GEV2 = 1e-24
"Squared masses whose size is below count as this one."
MAX_RAPIDITY = 1e5
"Of a massless particle along the beam."
FARTHEST = 1e300
"Squared distance of particles that are not at a finite place."


@dataclass(frozen=True)
class LundTrees:
    """Declusterings of a batch of jets; within a jet by falling size of the tree (breadth first), a parent before its children.

    Attributes:
        coordinates: ln z, ln Delta, psi (rad), ln(m / GeV), ln(kT / GeV) of each declustering, float32, shape (M, 5): z is the
            fraction of pT that the softer branch takes, Delta the distance of the branches in rapidity and azimuth,
            psi = atan(dy / dphi), m the mass of both, and kT = pT of the softer branch times Delta.
        ptr: First declustering of each jet and, last, M; int64, shape (B + 1,).
        parents: Declustering of the same jet that gave the branch, counted within the jet; -1 for the first; int32, shape (M,).
    """

    coordinates: NDArray[np.float32]
    ptr: NDArray[np.int64]
    parents: NDArray[np.int32]

    @property
    def num_children(self) -> NDArray[np.int32]:
        """How many declusterings follow each directly (0, 1 or 2), int32, shape (M,)."""
        first = np.repeat(self.ptr[:-1], np.diff(self.ptr))
        children = self.parents >= 0
        places = (first + self.parents)[children]
        return np.bincount(places, minlength=len(self.parents)).astype(np.int32)


def lund_trees(p4: Floats, ptr: NDArray[np.int64], min_ln_kt: float | None = None) -> LundTrees:
    """Take every jet of a batch apart, along both branches of each declustering.

    A jet of one constituent has no declustering, and neither has one whose declusterings are all below the cut. Either is one
    node whose coordinates are zero, as a network needs a node to see the jet.

    Args:
        p4: Constituents (px, py, pz, E) in GeV, shape (N, 4); computed with in float64.
        ptr: First constituent of each jet and, last, N, shape (B + 1,). A jet has at least one constituent.
        min_ln_kt: A declustering with a smaller ln(kT / GeV) is passed over: the softer branch is dropped, and what comes next
            of the harder one takes its place. None: all are kept.

    Raises:
        ValueError: If a jet has no constituent.

    Example:
        >>> both = np.array([[30.0, 0.0, 0.0, 30.0], [9.0, 4.0, 0.0, 10.0]])
        >>> lund_trees(both, np.array([0, 2])).coordinates.round(2)
        array([[-1.4 , -0.87,  0.  ,  1.97,  1.42]], dtype=float32)
    """
    sizes = np.diff(ptr)
    if len(sizes) and sizes.min() < 1:
        raise ValueError(f"jet {sizes.argmin()} of the batch has no constituent; drop empty jets before")
    capacity = int(np.maximum(sizes - 1, 1).sum())
    coordinates, parents = np.empty((capacity, len(LUND_COORDINATES)), np.float32), np.empty(capacity, np.int32)
    node_ptr = np.zeros(len(ptr), np.int64)
    min_kt = 0.0 if min_ln_kt is None else float(np.exp(min_ln_kt))
    largest = int(sizes.max()) if len(sizes) else 1
    momenta = np.ascontiguousarray(p4, np.float64)
    _take_apart(momenta, np.asarray(ptr, np.int64), min_kt, largest, coordinates, parents, node_ptr)
    return LundTrees(coordinates[: node_ptr[-1]], node_ptr, parents[: node_ptr[-1]])


@njit(cache=True, nogil=True)
def _take_apart(p4, ptr, min_kt, largest, coordinates, parents, node_ptr):  # type: ignore[no-untyped-def]
    """Write the declusterings of all jets; at most max(n - 1, 1) per jet."""
    momenta = np.empty((2 * largest, 4))  # of constituents, and of what was merged, in order of merging
    places = np.empty((2 * largest, 3))  # pT, rapidity, azimuth
    branches = np.empty((2 * largest, 2), np.int64)
    workspace = np.empty(largest * largest)
    for jet in range(len(ptr) - 1):
        size = ptr[jet + 1] - ptr[jet]
        momenta[:size] = p4[ptr[jet] : ptr[jet + 1]]
        for i in range(size):
            _locate(momenta[i], places[i])
        _cluster(size, momenta, places, branches, workspace)
        first = node_ptr[jet]
        node_ptr[jet + 1] = first + _write_tree(size, min_kt, momenta, places, branches, coordinates[first:], parents[first:])


@njit(cache=True, nogil=True)
def _locate(p, place):  # type: ignore[no-untyped-def]
    """Write pT, rapidity and azimuth; rapidity as (ln of) the smaller light-cone momentum, which keeps its digits."""
    pt2 = p[0] * p[0] + p[1] * p[1]
    abs_pz = abs(p[2])
    place[0] = np.sqrt(pt2)
    place[2] = np.arctan2(p[1], p[0])
    transverse_mass2 = pt2 + max(0.0, (p[3] + abs_pz) * (p[3] - abs_pz) - pt2)
    if transverse_mass2 > 0.0 and p[3] + abs_pz > 0.0:
        place[1] = 0.5 * np.log(transverse_mass2 / (p[3] + abs_pz) ** 2)
    else:
        place[1] = -MAX_RAPIDITY - abs_pz
    if p[2] > 0.0:
        place[1] = -place[1]


@njit(cache=True, nogil=True, inline="always")
def _azimuth_between(a, b):  # type: ignore[no-untyped-def]
    difference = a - b
    if difference > np.pi:
        difference -= 2 * np.pi
    elif difference <= -np.pi:
        difference += 2 * np.pi
    return difference


@njit(cache=True, nogil=True, error_model="numpy")
def _cluster(size, momenta, places, branches, workspace):  # type: ignore[no-untyped-def]
    """Merge the closest two until one is left; what the k-th merging makes is number size + k."""
    active = np.arange(size)  # numbers of what is left, by position
    nearest = np.full(size, -1)  # position of the nearest neighbour
    distance = np.full(size, np.inf)  # to it
    among = workspace[: size * size].reshape(size, size)  # squared distances of positions
    rapidity, azimuth = places[:size, 1].copy(), places[:size, 2].copy()
    for i in range(size):
        _measure(i, size, rapidity, azimuth, among[i])
        _search(i, size, among[i], nearest, distance)
    for step in range(size - 1):
        last = size - step - 1
        a = _smallest(distance, last + 1)
        b = nearest[a]
        a, b = min(a, b), max(a, b)
        number = size + step
        branches[number, 0], branches[number, 1] = active[a], active[b]
        momenta[number] = momenta[active[a]] + momenta[active[b]]
        _locate(momenta[number], places[number])
        _forget(a, b, last, nearest, distance, among)
        active[b], rapidity[b], azimuth[b] = active[last], rapidity[last], azimuth[last]
        active[a], rapidity[a], azimuth[a] = number, places[number, 1], places[number, 2]
        _measure(a, last, rapidity, azimuth, among[a])
        _meet(a, last, nearest, distance, among)


@njit(cache=True, nogil=True, fastmath={"contract", "nsz"})
def _measure(a, left, rapidity, azimuth, row):  # type: ignore[no-untyped-def]
    """Write the squared distances of position a; a large number where there is none, and to itself."""
    for i in range(left):
        dy, dphi = rapidity[i] - rapidity[a], abs(azimuth[i] - azimuth[a])
        dphi = min(dphi, 2 * np.pi - dphi)
        distance2 = dy * dy + dphi * dphi
        row[i] = distance2 if distance2 < FARTHEST else FARTHEST
    row[a] = np.inf


@njit(cache=True, nogil=True)
def _smallest(values, left):  # type: ignore[no-untyped-def]
    """Position of the smallest of the first values."""
    found = 0
    for i in range(1, left):
        if values[i] < values[found]:
            found = i
    return found


@njit(cache=True, nogil=True)
def _search(i, left, row, nearest, distance):  # type: ignore[no-untyped-def]
    nearest[i] = _smallest(row, left)
    distance[i] = row[nearest[i]]


@njit(cache=True, nogil=True)
def _forget(a, b, last, nearest, distance, among):  # type: ignore[no-untyped-def]
    """Take positions a and b away: whose nearest neighbour they were has none (-1), and the last position moves to b."""
    for i in range(last + 1):
        if nearest[i] == a or nearest[i] == b:
            nearest[i] = -1
        elif nearest[i] == last:
            nearest[i] = b
    nearest[b], distance[b] = nearest[last], distance[last]
    for i in range(last):
        among[i, b] = among[i, last]
        among[b, i] = among[last, i]
    among[b, b] = np.inf


@njit(cache=True, nogil=True)
def _meet(a, left, nearest, distance, among):  # type: ignore[no-untyped-def]
    """Compare everything with what has come to position a, and search again who has lost a neighbour."""
    for i in range(left):
        among[i, a] = among[a, i]
        if i != a and nearest[i] < 0:
            _search(i, left, among[i], nearest, distance)
        elif i != a and among[a, i] < distance[i]:
            nearest[i], distance[i] = a, among[a, i]
    _search(a, left, among[a], nearest, distance)


@njit(cache=True, nogil=True)
def _write_tree(size, min_kt, momenta, places, branches, coordinates, parents):  # type: ignore[no-untyped-def]
    """Write the declusterings of one jet, breadth first, and return how many there are."""
    queue = np.empty(size, np.int64)
    found = 0
    root = _next_declustering(2 * size - 2, size, min_kt, places, branches)
    if root < size:
        coordinates[0] = 0
        parents[0] = -1
        return 1
    queue[0], parents[0], found = root, -1, 1
    done = 0
    while done < found:
        number = queue[done]
        _write_coordinates(momenta[number], places[branches[number, 0]], places[branches[number, 1]], coordinates[done])
        for side in range(2):
            branch = _next_declustering(branches[number, side], size, min_kt, places, branches)
            if branch >= size:
                queue[found], parents[found] = branch, done
                found += 1
        done += 1
    return found


@njit(cache=True, nogil=True)
def _next_declustering(number, size, min_kt, places, branches):  # type: ignore[no-untyped-def]
    """Follow the harder branch to a declustering that passes the cut, or to a constituent (a number below `size`)."""
    while number >= size:
        harder, softer = branches[number, 0], branches[number, 1]
        if places[softer, 0] > places[harder, 0]:
            harder, softer = softer, harder
            branches[number, 0], branches[number, 1] = harder, softer
        dy, dphi = places[harder, 1] - places[softer, 1], _azimuth_between(places[harder, 2], places[softer, 2])
        if places[softer, 0] * np.sqrt(dy * dy + dphi * dphi) >= min_kt:
            return number
        number = harder
    return number


@njit(cache=True, nogil=True)
def _write_coordinates(p, harder, softer, coordinates):  # type: ignore[no-untyped-def]
    """Write the coordinates of a declustering of the four-vector p into branches at the given places."""
    dy, dphi = harder[1] - softer[1], _azimuth_between(harder[2], softer[2])
    delta = max(np.sqrt(dy * dy + dphi * dphi), MIN_DELTA)
    softer_pt = max(softer[0], MIN_PT_GEV)
    mass2 = (p[3] + p[2]) * (p[3] - p[2]) - (p[0] * p[0] + p[1] * p[1])
    coordinates[0] = np.log(softer_pt / max(harder[0] + softer[0], MIN_PT_GEV))
    coordinates[1] = np.log(delta)
    coordinates[2] = 0.0 if dphi == 0.0 else np.arctan(dy / dphi)
    coordinates[3] = 0.5 * np.log(max(abs(mass2), MIN_MASS2_GEV2))
    coordinates[4] = np.log(softer_pt * delta)
