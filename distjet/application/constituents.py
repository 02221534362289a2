"""What does a constituent become when it is corrected? Four-momenta in float64, for clustering and for files.

The rule is that of the networks (`distjet.nn.four_vectors`), where only the sums are needed: the energy is multiplied with the
factor exactly, the rapidity is shifted, the azimuth stays, and so does the ratio of mass to transverse mass.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]

RESOLVED = 1e-6
"Of the squared energy: a smaller squared mass is rounding noise of float32 momenta, and counts as zero."


def corrected_constituents(p4: Floats, factor: Floats, rapidity_shift: Floats) -> NDArray[np.float64]:
    """Correct constituents.

    Args:
        p4: (px, py, pz, energy) in GeV, shape (N, 4); energies are positive.
        factor: Of the energy, shape (N,).
        rapidity_shift: Shape (N,).

    Returns:
        (px, py, pz, energy) in GeV, float64, shape (N, 4); NaN where a correction is NaN.
    """
    px, py, pz, energy = np.asarray(p4, np.float64).T
    pt = np.hypot(px, py)
    mass_squared = energy**2 - pz**2 - pt**2
    transverse_mass = np.sqrt(pt**2 + np.where(mass_squared > RESOLVED * energy**2, mass_squared, 0.0))
    rapidity = np.arcsinh(pz / transverse_mass) + rapidity_shift
    new_energy = energy * factor
    new_transverse_mass = new_energy / np.cosh(rapidity)
    scale = new_transverse_mass / transverse_mass
    return np.stack([px * scale, py * scale, new_transverse_mass * np.sinh(rapidity), new_energy], axis=1)
