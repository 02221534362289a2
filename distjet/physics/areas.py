"""How large is the catchment area of a jet, and how dense is the pileup around it?

The area is FastJet's Voronoi area: each particle owns the points that are nearer to it than to any other particle, within
0.9 R; a jet owns what its constituents own. Here the diagram is sampled on a grid in (rapidity, azimuth), painted once for the
largest radius and read for all of them, because one FastJet call per event and radius would be the most expensive step of the
reconstruction. Against FastJet the area of a jet is off by 2 % rms for R = 0.2, 0.8 % for R = 0.4 and 0.4 % for R = 1.0. Inputs
are massless, so rapidity is pseudorapidity.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from distjet.physics.kinematics import Floats

EFFECTIVE_RADIUS_FACTOR = 0.9
"FastJet's recommended size of a Voronoi cell in units of R, for which Voronoi areas agree with active areas."

NUM_PHI = 160
SPACING = 2 * math.pi / NUM_PHI
MAX_ABS_ETA = 5.5
NUM_ETA = 2 * int(MAX_ABS_ETA / SPACING)


def voronoi_areas(eta: Floats, phi_rad: Floats, event_offsets: NDArray[np.int64], radii: tuple[float, ...]) -> Floats:
    """Compute the Voronoi area of every particle for several jet radii; sum it over constituents for the area of a jet.

    Args:
        eta: Pseudorapidities of massless particles of all events, shape (N,).
        phi_rad: Azimuths, shape (N,).
        event_offsets: Shape (number of events + 1,).
        radii: Jet radii.

    Returns:
        Areas, dimensionless, shape (N, number of radii).

    Reference:
        Cacciari, Salam, Soyez, "The catchment area of jets", arXiv:0802.1188.
    """
    squared = (EFFECTIVE_RADIUS_FACTOR * np.asarray(radii, np.float64)) ** 2
    return _areas(np.asarray(eta, np.float64), np.asarray(phi_rad, np.float64), event_offsets, squared)


def grid_median_rho(
    pt_gev: Floats,
    eta: Floats,
    phi_rad: Floats,
    event_offsets: NDArray[np.int64],
    max_abs_eta: float = 2.0,
    spacing: float = 0.55,
) -> Floats:
    """Pileup density per event: the median over grid cells of the scalar pT sum per area.

    Args:
        pt_gev: Transverse momenta in GeV of massless particles, shape (N,).
        eta: Pseudorapidities, shape (N,).
        phi_rad: Azimuths, shape (N,).
        event_offsets: Shape (number of events + 1,).
        max_abs_eta: The grid covers |eta| below this.
        spacing: Approximate size of a cell.

    Returns:
        Density in GeV per unit of rapidity and azimuth, shape (number of events,).

    Reference:
        Cacciari, Salam, Soyez, "FastJet user manual", arXiv:1111.6097, Sec. 8.1.2.
    """
    num_eta = max(int(2 * max_abs_eta / spacing + 0.5), 1)
    num_phi = int(2 * math.pi / spacing + 0.5)
    eta_cell = np.floor((eta + max_abs_eta) / (2 * max_abs_eta) * num_eta).astype(np.int64)
    phi_cell = np.floor(phi_rad / (2 * math.pi) * num_phi).astype(np.int64) % num_phi
    event = np.repeat(np.arange(len(event_offsets) - 1), np.diff(event_offsets))
    inside = (eta_cell >= 0) & (eta_cell < num_eta)
    cell = (event * num_eta + eta_cell) * num_phi + phi_cell
    sums = np.bincount(cell[inside], pt_gev[inside], (len(event_offsets) - 1) * num_eta * num_phi)
    cell_area = 2 * max_abs_eta / num_eta * 2 * math.pi / num_phi
    return np.median(sums.reshape(len(event_offsets) - 1, -1), axis=1) / cell_area


@njit(cache=True, nogil=True)
def _areas(eta: Floats, phi_rad: Floats, event_offsets: NDArray[np.int64], squared_radii: Floats) -> Floats:
    areas = np.zeros((eta.size, squared_radii.size))
    distance = np.full((NUM_ETA, NUM_PHI), np.inf)
    owner = np.zeros((NUM_ETA, NUM_PHI), np.int64)
    for event in range(event_offsets.size - 1):
        first, last = event_offsets[event], event_offsets[event + 1]
        for particle in range(first, last):
            _paint(particle, eta[particle], phi_rad[particle], squared_radii.max(), distance, owner)
        _read_and_wipe(distance, owner, squared_radii, areas)
    return areas


@njit(cache=True, nogil=True)
def _paint(
    particle: int, eta: float, phi_rad: float, squared_radius: float, distance: Floats, owner: NDArray[np.int64]
) -> None:
    """Give a particle the grid points within reach to which no earlier particle is nearer."""
    row, column = eta / SPACING + NUM_ETA / 2 - 0.5, (phi_rad + math.pi) / SPACING - 0.5
    reach = math.sqrt(squared_radius) / SPACING
    for i in range(max(0, math.ceil(row - reach)), min(NUM_ETA - 1, math.floor(row + reach)) + 1):
        width = math.sqrt(max(reach**2 - (i - row) ** 2, 0.0))
        for j in range(math.ceil(column - width), math.floor(column + width) + 1):
            squared = ((i - row) ** 2 + (j - column) ** 2) * SPACING**2
            wrapped = j % NUM_PHI
            if squared < distance[i, wrapped]:
                distance[i, wrapped] = squared
                owner[i, wrapped] = particle


@njit(cache=True, nogil=True)
def _read_and_wipe(distance: Floats, owner: NDArray[np.int64], squared_radii: Floats, areas: Floats) -> None:
    """Add each point to its owner's area for every radius that reaches it, and clear the grid for the next event."""
    for i in range(NUM_ETA):
        for j in range(NUM_PHI):
            if distance[i, j] < np.inf:
                for k in range(squared_radii.size):
                    if distance[i, j] < squared_radii[k]:
                        areas[owner[i, j], k] += SPACING**2
                distance[i, j] = np.inf
