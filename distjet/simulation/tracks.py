"""Which tracks and vertices does the inner detector find?

Charged particles above 0.5 GeV within |eta| < 2.5 with an efficiency, smeared in momentum and position. A track belongs to the
primary vertex if |z0 - z| sin(theta) < 2 mm; the primary vertex is that of the hard scatter. A collision with two tracks makes
a vertex, and vertices nearer than 0.7 mm are seen as one, so the number found grows slower than the pileup.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distjet.physics.kinematics import Floats, to_cylindrical, wrap_phi
from distjet.simulation.generator import Particles

MIN_PT_GEV = 0.5
MAX_ABS_ETA = 2.5
BEAM_SPOT_MM = 40.0
"Spread of the collisions along the beam."
ASSOCIATION_MM = 2.0
LEPTONS = (11, 13, 15)
MIN_VERTEX_TRACKS = 2
MERGE_DISTANCE_MM = 0.7


@dataclass(frozen=True)
class Tracks:
    """Tracks of several collisions; collision e holds rows offsets[e]:offsets[e + 1].

    Attributes:
        pt_gev: Transverse momentum, shape (T,).
        eta: Pseudorapidity, shape (T,).
        phi_rad: Azimuth, shape (T,).
        dz_mm: Measured distance to the true vertex along the beam, shape (T,).
        charge: Charge in units of the positron's, shape (T,).
        is_hadron: Whether it is a hadron's, not an electron's or a muon's (these are identified), shape (T,).
        offsets: Shape (number of collisions + 1,).
    """

    pt_gev: Floats
    eta: Floats
    phi_rad: Floats
    dz_mm: Floats
    charge: Floats
    is_hadron: NDArray[np.bool_]
    offsets: NDArray[np.int64]

    def makes_vertex(self) -> NDArray[np.bool_]:
        """Whether each collision has enough tracks for a vertex, shape (number of collisions,)."""
        return np.diff(self.offsets) >= MIN_VERTEX_TRACKS


class EventTracks(NamedTuple):
    """All tracks of one event, those of pileup included; arrays of shape (T,).

    Attributes:
        pt_gev: Transverse momentum.
        eta: Pseudorapidity.
        phi_rad: Azimuth.
        charge: Charge in units of the positron's.
        is_hadron: Whether it is a hadron's.
        at_primary: Whether it points to the primary vertex, as measured.
        from_pileup: Whether it is pileup's, in truth.
    """

    pt_gev: Floats
    eta: Floats
    phi_rad: Floats
    charge: Floats
    is_hadron: NDArray[np.bool_]
    at_primary: NDArray[np.bool_]
    from_pileup: NDArray[np.bool_]

    def select(self, chosen: NDArray[np.generic]) -> "EventTracks":
        """Pick some of the tracks, by a mask or by their numbers."""
        return EventTracks(*(column[chosen] for column in self))


def join_tracks(parts: Sequence[EventTracks]) -> EventTracks:
    """Put tracks after one another."""
    return EventTracks(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def reconstruct_tracks(particles: Particles, rng: np.random.Generator) -> Tracks:
    """Find and smear the tracks of charged particles."""
    pt_gev, eta, phi_rad, _ = to_cylindrical(particles.p4)
    efficiency = np.where(np.abs(eta) < 1.5, 0.92, 0.84) - 0.05 * (pt_gev < 1.0)
    accepted = (particles.charge != 0) & (pt_gev > MIN_PT_GEV) & (np.abs(eta) < MAX_ABS_ETA)
    found = np.flatnonzero(accepted & (rng.random(len(eta)) < efficiency))
    pt_gev, eta, phi_rad = pt_gev[found], eta[found], phi_rad[found]
    curvature_error = np.hypot(0.015, 3.5e-4 * pt_gev)
    measured_pt_gev = pt_gev / np.maximum(1 + rng.normal(0, curvature_error), 0.1)
    dz_mm = rng.normal(0, np.sqrt(0.05**2 + (0.2 / pt_gev) ** 2 * np.cosh(eta)))
    angles = rng.normal(0, 5e-4, (2, len(found)))
    offsets = np.searchsorted(found, particles.offsets).astype(np.int64)
    directions = eta + angles[0], wrap_phi(phi_rad + angles[1])
    is_hadron = ~np.isin(np.abs(particles.pdg[found]), LEPTONS)
    return Tracks(measured_pt_gev, *directions, dz_mm, particles.charge[found].astype(np.float64), is_hadron, offsets)


def from_primary_vertex(dz_mm: Floats, eta: Floats) -> NDArray[np.bool_]:
    """Whether tracks at this distance along the beam count as coming from the primary vertex."""
    return np.abs(dz_mm) < ASSOCIATION_MM * np.cosh(eta)


def count_vertices(z_mm: Floats) -> int:
    """Count the vertices that are found for collisions at these positions, of which near ones merge."""
    if len(z_mm) == 0:
        return 0
    return 1 + int((np.diff(np.sort(z_mm)) > MERGE_DISTANCE_MM).sum())
