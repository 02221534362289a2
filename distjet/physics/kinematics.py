"""How do angles, four-vectors and sums of four-vectors behave, on whole arrays at once?

Four-vectors are float arrays of shape (..., 4) in the order (px, py, pz, E), in GeV. Ragged collections are in CSR form: flat
values and offsets of length (number of groups + 1). Azimuths are in [-pi, pi). A mass is computed as sqrt((E - |p|)(E + |p|)),
which keeps its digits for light jets, and a four-vector that rounding made space-like has mass 0.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating]


class PtEtaPhiMass(NamedTuple):
    """Cylindrical components of four-vectors; four arrays of equal shape."""

    pt_gev: Floats
    eta: Floats
    phi_rad: Floats
    mass_gev: Floats


def wrap_phi(phi_rad: ArrayLike) -> Floats:
    """Bring azimuths into [-pi, pi).

    Example:
        >>> float(wrap_phi(3 * np.pi / 2) / np.pi)
        -0.5
    """
    return (np.asarray(phi_rad) + np.pi) % (2 * np.pi) - np.pi


def delta_phi(phi_a_rad: ArrayLike, phi_b_rad: ArrayLike) -> Floats:
    """Signed azimuthal difference a - b in [-pi, pi)."""
    return wrap_phi(np.asarray(phi_a_rad) - np.asarray(phi_b_rad))


def delta_r(eta_a: ArrayLike, phi_a_rad: ArrayLike, eta_b: ArrayLike, phi_b_rad: ArrayLike) -> Floats:
    """Distance sqrt(delta eta^2 + delta phi^2); arguments broadcast."""
    return np.hypot(np.asarray(eta_a) - np.asarray(eta_b), delta_phi(phi_a_rad, phi_b_rad))


def to_cartesian(pt_gev: ArrayLike, eta: ArrayLike, phi_rad: ArrayLike, mass_gev: ArrayLike = 0.0) -> Floats:
    """Build four-vectors.

    Args:
        pt_gev: Transverse momentum in GeV, any shape.
        eta: Pseudorapidity, same shape.
        phi_rad: Azimuth in radians, same shape.
        mass_gev: Mass in GeV, same shape or a scalar.

    Returns:
        Four-vectors, shape (..., 4).
    """
    pt, eta, phi, mass = np.broadcast_arrays(pt_gev, eta, phi_rad, mass_gev)
    energy = np.hypot(pt * np.cosh(eta), mass)
    return np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), energy], axis=-1)


def to_cylindrical(p4: Floats) -> PtEtaPhiMass:
    """Split four-vectors of shape (..., 4) into pT, pseudorapidity, azimuth and mass."""
    return PtEtaPhiMass(pt(p4), pseudorapidity(p4), wrap_phi(np.arctan2(p4[..., 1], p4[..., 0])), mass(p4))


def pt(p4: Floats) -> Floats:
    """Transverse momentum in GeV of four-vectors of shape (..., 4)."""
    return np.hypot(p4[..., 0], p4[..., 1])


def pseudorapidity(p4: Floats) -> Floats:
    """Pseudorapidity of four-vectors of shape (..., 4); infinite along the beam, 0 for a momentum of zero."""
    transverse = pt(p4)
    along_beam = np.where(p4[..., 2] == 0, 0.0, np.copysign(np.inf, p4[..., 2]))
    return np.where(transverse > 0, np.arcsinh(p4[..., 2] / np.where(transverse > 0, transverse, 1.0)), along_beam)


def mass(p4: Floats) -> Floats:
    """Invariant mass in GeV of four-vectors of shape (..., 4)."""
    momentum = np.sqrt((p4[..., :3] ** 2).sum(axis=-1))
    return np.sqrt(np.maximum((p4[..., 3] - momentum) * (p4[..., 3] + momentum), 0.0))


def rapidity(p4: Floats) -> Floats:
    """Rapidity arctanh(pz / E) of four-vectors of shape (..., 4) with E > |pz|."""
    return np.arctanh(p4[..., 2] / p4[..., 3])


def sum_groups(values: Floats, offsets: NDArray[np.integer]) -> Floats:
    """Sum consecutive groups of rows, e.g. the constituents of each jet into its four-vector.

    Args:
        values: Shape (N, ...), the groups one after the other.
        offsets: Shape (G + 1,), ascending, from 0 to N.

    Returns:
        Shape (G, ...), float64; zero for an empty group.
    """
    sums = np.zeros((len(offsets) - 1, *values.shape[1:]), np.float64)
    filled = offsets[1:] > offsets[:-1]
    if filled.any():
        sums[filled] = np.add.reduceat(values.astype(np.float64), offsets[:-1][filled], axis=0)
    return sums
