"""How is the momentum of a jet spread, around its axis and in its rest frame?

What is a sum over constituents is a numpy expression on the whole batch; only thrust, which is a maximum over directions, has
a kernel. A jet that has no rest frame (one massless constituent) has shapes of zero.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from distjet.physics.kinematics import Floats, delta_phi, sum_groups

NUM_SEEDS = 6
"Thrust is sought from the directions of so many of the hardest constituents and all their sums and differences in pairs."


def planar_flow(p4: Floats, ptr: NDArray[np.int64]) -> Floats:
    """Planar flow 4 det I / tr(I)^2 with I_kl = sum of p_k p_l / E across the jet's momentum: 0 for a line, 1 for a disc.

    Args:
        p4: Constituents in GeV, shape (N, 4).
        ptr: Shape (J + 1,).

    Returns:
        Shape (J,); 0 where no momentum is across the axis.

    Reference:
        L. Almeida et al., "Substructure of high-pT jets at the LHC", arXiv:0807.0234.
    """
    total = sum_groups(p4, ptr)[:, :3]
    axis = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-300)
    across = np.cross(axis, np.eye(3)[np.argmin(np.abs(axis), axis=1)])
    across /= np.maximum(np.linalg.norm(across, axis=1, keepdims=True), 1e-300)
    frame = np.stack([across, np.cross(axis, across)], axis=1)
    parts = np.einsum("nkj,nj->nk", np.repeat(frame, np.diff(ptr), axis=0), p4[:, :3])
    tensor = sum_groups(parts[:, [0, 1, 0]] * parts[:, [0, 1, 1]] / np.maximum(p4[:, 3:], 1e-300), ptr)
    determinant = tensor[:, 0] * tensor[:, 1] - tensor[:, 2] ** 2
    return ratio(4 * determinant, (tensor[:, 0] + tensor[:, 1]) ** 2)


def angularity(pt: Floats, distance: Floats, ptr: NDArray[np.int64], exponent: float) -> Floats:
    """Sum of pT * distance^exponent over the sum of pT, shapes (N,) -> (J,).

    Reference:
        A. Larkoski, J. Thaler, W. Waalewijn, "Gaining (mutual) information about quark/gluon discrimination", arXiv:1408.3122.
    """
    sums = sum_groups(np.stack([pt * distance**exponent, pt], axis=1), ptr)
    return ratio(sums[:, 0], sums[:, 1])


def distance_to_axis(rapidity: Floats, phi: Floats, axes: Floats, ptr: NDArray[np.int64]) -> Floats:
    """Delta R of each constituent, shape (N,), to the (rapidity, azimuth) of its jet, shape (J, 2)."""
    own = np.repeat(axes, np.diff(ptr), axis=0)
    return np.hypot(rapidity - own[:, 0], delta_phi(phi, own[:, 1]))


def rest_frame_momenta(p4: Floats, ptr: NDArray[np.int64]) -> Floats:
    """Three-momenta of constituents in the rest frame of their jet, shape (N, 3); zero where the jet has no mass."""
    total = sum_groups(p4, ptr)
    momentum_squared = (total[:, :3] ** 2).sum(axis=1)
    mass_squared = total[:, 3] ** 2 - momentum_squared
    has_frame = mass_squared > 1e-10 * total[:, 3] ** 2  # below is rounding
    mass = np.sqrt(np.where(has_frame, mass_squared, 1.0))
    jet, mass, energy = (np.repeat(array, np.diff(ptr), axis=0) for array in (total[:, :3], mass, total[:, 3]))
    along = (p4[:, :3] * jet).sum(axis=1)
    boosted = p4[:, :3] + jet * ((along / (energy + mass) - p4[:, 3]) / mass)[:, None]
    return np.where(np.repeat(has_frame, np.diff(ptr))[:, None], boosted, 0.0)


def fox_wolfram_ratio(momenta: Floats, ptr: NDArray[np.int64]) -> Floats:
    """Second over zeroth Fox-Wolfram moment of three-momenta (N, 3), shape (J,).

    The double sum of |p_i| |p_j| (3 cos^2 - 1) / 2 is the squared norm of the tensor sum of p_k p_l / |p|.

    Reference:
        G. Fox, S. Wolfram, Phys. Rev. Lett. 41 (1978) 1581.
    """
    size = np.linalg.norm(momenta, axis=1)
    tensor = sum_groups(momenta[:, :, None] * momenta[:, None] / np.maximum(size, 1e-300)[:, None, None], ptr)
    total = sum_groups(size, ptr)
    return np.where(total > 0, 1.5 * ratio((tensor**2).sum(axis=(1, 2)), total**2) - 0.5, 0.0)


def aplanarity(momenta: Floats, ptr: NDArray[np.int64]) -> Floats:
    """1.5 times the smallest eigenvalue of the normalised momentum tensor of three-momenta (N, 3), shape (J,).

    Reference:
        J. D. Bjorken, S. J. Brodsky, Phys. Rev. D1 (1970) 1416.
    """
    tensor = sum_groups(momenta[:, :, None] * momenta[:, None], ptr)
    trace = np.trace(tensor, axis1=1, axis2=2)
    return np.maximum(1.5 * ratio(np.linalg.eigvalsh(tensor)[:, 0], trace), 0.0)


@njit(cache=True, nogil=True)
def thrust(momenta: Floats, ptr: NDArray[np.int64]) -> Floats:  # pragma: no cover - compiled
    """Thrust and thrust major of three-momenta.

    Thrust climbs from several directions: the next direction is the sum of all momenta, each turned to the side of the last
    one. The major is exact: the best direction across the thrust axis changes only where a momentum changes sides.

    Args:
        momenta: Shape (N, 3).
        ptr: Shape (J + 1,).

    Returns:
        Largest sum of |p n| over the sum of |p|, for any unit vector n, and for those across the thrust axis; shape (J, 2).

    Reference:
        E. Farhi, Phys. Rev. Lett. 39 (1977) 1587; T. Sjostrand et al., "PYTHIA 6.4", arXiv:hep-ph/0603175, sec. 15.
    """
    result = np.zeros((len(ptr) - 1, 2))
    for jet in range(len(ptr) - 1):
        own = momenta[ptr[jet] : ptr[jet + 1]]
        sizes = np.sqrt((own**2).sum(axis=1))
        total = sizes.sum()
        if total == 0:
            continue
        axis = _thrust_axis(own, sizes)
        best = np.sqrt((axis**2).sum())
        result[jet, 0] = best / total
        result[jet, 1] = _major(own, axis / best) / total
    return result


@njit(cache=True, nogil=True)
def _thrust_axis(momenta, sizes):  # type: ignore[no-untyped-def]
    """Sum of the momenta turned to the side of the thrust axis, whose length is thrust times the sum of sizes."""
    best = np.zeros(3)
    hardest = np.argsort(-sizes)[:NUM_SEEDS]
    for i in range(len(hardest)):
        for j in range(i + 1):
            for sign in (-1.0, 1.0):
                found = _climb(momenta, momenta[hardest[i]] + (0.0 if i == j else sign) * momenta[hardest[j]])
                if (found**2).sum() > (best**2).sum():
                    best = found
    return best


@njit(cache=True, nogil=True)
def _climb(momenta, start):  # type: ignore[no-untyped-def]
    axis, length = start, 0.0
    while True:
        turned = np.zeros(3)
        for i in range(len(momenta)):
            along = momenta[i, 0] * axis[0] + momenta[i, 1] * axis[1] + momenta[i, 2] * axis[2]
            for k in range(3):
                turned[k] += momenta[i, k] if along > 0 else -momenta[i, k]
        found = turned[0] ** 2 + turned[1] ** 2 + turned[2] ** 2
        if found <= length * (1 + 1e-12):
            return axis if length > 0 else turned
        axis, length = turned, found


@njit(cache=True, nogil=True)
def _major(momenta, axis):  # type: ignore[no-untyped-def]
    """Largest sum of |p n| for unit vectors n across the axis."""
    other = np.zeros(3)
    other[np.argmin(np.abs(axis))] = 1.0
    first = np.cross(axis, other)
    first /= np.sqrt((first**2).sum())
    second = np.cross(axis, first)
    x = momenta[:, 0] * first[0] + momenta[:, 1] * first[1] + momenta[:, 2] * first[2]
    y = momenta[:, 0] * second[0] + momenta[:, 1] * second[1] + momenta[:, 2] * second[2]
    best = 0.0
    for edge in range(len(x)):
        sum_x = sum_y = 0.0
        for i in range(len(x)):
            side = x[edge] * y[i] - y[edge] * x[i]
            sum_x += x[i] if side > 0 else -x[i]
            sum_y += y[i] if side > 0 else -y[i]
        for sign in (0.0, 2.0):  # the momentum at the edge itself may be on either side
            best = max(best, np.hypot(sum_x + sign * x[edge], sum_y + sign * y[edge]))
    return best


def ratio(numerator: Floats, denominator: Floats) -> Floats:
    """Quotient of arrays of equal shape; 0 where the denominator is."""
    nonzero = denominator != 0
    return np.where(nonzero, numerator / np.where(nonzero, denominator, 1.0), 0.0)
