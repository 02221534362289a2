"""What does a fast detector make of a collision without pileup?

After the ATLAS card of Delphes, the detector of the public top-tagging sample: tracks with an efficiency and a resolution, two
calorimeters of towers with a resolution each, and the energy flow of both. A tower gives what is left of its energy after that
of its tracks; electrons are looked for in the electromagnetic towers, other charged particles in the hadronic ones. There are
no showers, no noise and no pileup: this is for comparisons with published samples, and fast. Jets for calibrations are made of
topological clusters.

Differences from the card: all towers have the size of its hadronic ones in eta, and half of it in azimuth, up to the end of the
calorimeter (the card's are finer in the electromagnetic one, and coarser beyond |eta| of 2.5), and slow charged particles that
curl up leave nothing in the end caps.

Reference:
    DELPHES 3 collaboration, "DELPHES 3, A modular framework for fast simulation of a generic collider experiment",
    arXiv:1307.6346; G. Kasieczka et al., "The Machine Learning Landscape of Top Taggers", arXiv:1902.09914.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from distjet.physics.kinematics import Floats

ENERGY_FLOW_FIELDS = ("pt", "eta", "phi", "E", "charge", "pdg")
"Columns of `energy_flow`; pdg is 11, 13 or 211 with a sign for a track, 22 and 130 for what is left of a tower."

TRACK_MAX_ABS_ETA, TRACK_MIN_PT_GEV = 2.5, 0.1
MIN_CALORIMETER_PT_GEV = 0.345
"A charged particle with less curls up in the 2 T field before the calorimeter at 1.15 m."
MAX_ABS_ETA = 4.9
NUM_ETA, NUM_PHI = 98, 72
TOWER_ETA, TOWER_PHI = 2 * MAX_ABS_ETA / NUM_ETA, 2 * math.pi / NUM_PHI
NUM_TOWERS = NUM_ETA * NUM_PHI
MIN_ENERGY_GEV = (0.5, 1.0)
"Towers with less, electromagnetic and hadronic, are not seen."
MIN_SIGNIFICANCE = (2.0, 2.0)
"Towers with less energy in units of the resolution are not seen, nor is such a rest."
EM_SHARE_OF_LATE_DECAYS = 0.3
"Share of K-short and Lambda in the electromagnetic calorimeter."
PHOTON, NEUTRAL_HADRON = 22, 130


@njit(cache=True, nogil=True)
def energy_flow(p4: Floats, pdg: NDArray[np.integer], charge: Floats, rng: np.random.Generator) -> Floats:
    """Measure one event.

    Args:
        p4: Four-vectors in GeV of the stable particles, shape (P, 4).
        pdg: Their identities, shape (P,).
        charge: Their charges, shape (P,).
        rng: Source of random numbers.

    Returns:
        Tracks, then what is left of the towers, massless; columns ENERGY_FLOW_FIELDS in GeV and radians.
    """
    flow = np.empty((3 * p4.shape[0], 6))
    energy, of_tracks = np.zeros((2, NUM_TOWERS)), np.zeros((2, NUM_TOWERS))
    count = 0
    for i in range(p4.shape[0]):
        species, pt = abs(pdg[i]), math.hypot(p4[i, 0], p4[i, 1])
        if species in (12, 14, 16) or pt < 1e-6:
            continue
        eta, phi = math.asinh(p4[i, 2] / pt), math.atan2(p4[i, 1], p4[i, 0])
        track_gev = 0.0
        if charge[i] != 0 and rng.random() < track_efficiency(species, pt, eta):
            flow[count] = _track(species, (pt, eta, phi), charge[i], rng)
            track_gev = flow[count, 3]
            count += 1
        if species != 13 and (charge[i] == 0 or pt >= MIN_CALORIMETER_PT_GEV):
            _deposit(species, (eta, phi - bending(pt, charge[i])), (p4[i, 3], track_gev), energy, of_tracks)
    for layer in range(2):
        for tower in np.flatnonzero(energy[layer]):
            left = _left_of_tower(layer, tower, energy[layer, tower], of_tracks[layer, tower], rng)
            if left > 0:
                flow[count] = _neutral(layer, tower, left, rng)
                count += 1
    return flow[:count]


@njit(cache=True, nogil=True)
def track_efficiency(species: int, pt_gev: float, eta: float) -> float:
    """Probability that the track of a charged particle is found."""
    if pt_gev <= TRACK_MIN_PT_GEV or abs(eta) > TRACK_MAX_ABS_ETA:
        return 0.0
    central, soft = abs(eta) <= 1.5, pt_gev <= 1.0
    if species == 13:
        return (0.75 if soft else 0.99) if central else (0.70 if soft else 0.98)
    if species == 11:
        hard = 0.99 if pt_gev > 100 else 0.95
        forward = 0.90 if pt_gev > 100 else 0.83
        return (0.73 if soft else hard) if central else (0.50 if soft else forward)
    return (0.70 if soft else 0.95) if central else (0.60 if soft else 0.85)


@njit(cache=True, nogil=True)
def track_resolution(species: int, pt_gev: float, eta: float) -> float:
    """Relative resolution of a track's transverse momentum."""
    region = 0 if abs(eta) <= 0.5 else (1 if abs(eta) <= 1.5 else 2)
    slope = (1.3e-3, 1.7e-3, 3.1e-3)[region]
    if species == 13:
        return math.hypot((0.01, 0.015, 0.025)[region], (1.0e-4, 1.5e-4, 3.5e-4)[region] * pt_gev)
    if species == 11:
        return math.hypot((0.03, 0.05, 0.15)[region], slope * pt_gev)
    return math.hypot((0.06, 0.10, 0.25)[region], slope * pt_gev)


@njit(cache=True, nogil=True)
def tower_resolution(layer: int, energy_gev: float, eta: float) -> float:
    """Resolution in GeV of a tower of the electromagnetic (layer 0) or hadronic (1) calorimeter."""
    a = abs(eta)
    if layer == 0:
        constant, stochastic, noise = (0.0017, 0.101, 0.0) if a <= 3.2 else (0.035, 0.285, 0.0)
    elif a <= 1.7:
        constant, stochastic, noise = 0.0302, 0.5205, 1.59
    else:
        constant, stochastic, noise = (0.05, 0.706, 0.0) if a <= 3.2 else (0.0942, 1.0, 0.0)
    return math.sqrt((constant * energy_gev) ** 2 + stochastic**2 * energy_gev + noise**2)


@njit(cache=True, nogil=True)
def electromagnetic_share(species: int) -> float:
    """Share of a particle's energy that goes to the electromagnetic calorimeter; the hadronic one gets the rest."""
    if species in (11, 22):
        return 1.0
    return EM_SHARE_OF_LATE_DECAYS if species in (310, 3122) else 0.0


@njit(cache=True, nogil=True)
def bending(pt_gev: float, charge: float) -> float:
    """Angle in rad by which the azimuth at the calorimeter is smaller than at the vertex."""
    return 0.0 if charge == 0 else charge * math.asin(min(MIN_CALORIMETER_PT_GEV / pt_gev, 1.0))


@njit(cache=True, nogil=True)
def _lognormal(mean: float, sigma: float, rng: np.random.Generator) -> float:
    """Draw a positive number of this mean and standard deviation."""
    if mean <= 0:
        return 0.0
    squared_width = math.log1p((sigma / mean) ** 2)
    return mean * math.exp(math.sqrt(squared_width) * rng.standard_normal() - squared_width / 2)


@njit(cache=True, nogil=True)
def _track(
    species: int, momentum: tuple[float, float, float], charge: float, rng: np.random.Generator
) -> tuple[float, float, float, float, float, float]:
    """Measure the track of a particle with these pT, eta and phi."""
    pt, eta, phi = momentum
    measured = _lognormal(pt, track_resolution(species, pt, eta) * pt, rng)
    identity = -species if species in (11, 13) else 211  # the number of a negative lepton is positive, that of a hadron is not
    return measured, eta, phi, measured * math.cosh(eta), charge, math.copysign(1.0, charge) * identity


@njit(cache=True, nogil=True)
def _deposit(species: int, place: tuple[float, float], gev: tuple[float, float], energy: Floats, of_tracks: Floats) -> None:
    """Add a particle's energy, and that of its track, to its tower."""
    eta, phi_rad = place
    if abs(eta) >= MAX_ABS_ETA:
        return
    tower = math.floor((eta + MAX_ABS_ETA) / TOWER_ETA) * NUM_PHI + math.floor((phi_rad + math.pi) / TOWER_PHI) % NUM_PHI
    em_share = electromagnetic_share(species)
    energy[0, tower] += em_share * gev[0]
    energy[1, tower] += (1 - em_share) * gev[0]
    of_tracks[0 if em_share == 1 else 1, tower] += gev[1]


@njit(cache=True, nogil=True)
def _left_of_tower(layer: int, tower: int, energy_gev: float, of_tracks_gev: float, rng: np.random.Generator) -> float:
    """Measure a tower and take the energy of its tracks away; 0 if what is left is not significant."""
    eta = (tower // NUM_PHI + 0.5) * TOWER_ETA - MAX_ABS_ETA
    measured = _lognormal(energy_gev, tower_resolution(layer, energy_gev, eta), rng)
    threshold = max(MIN_ENERGY_GEV[layer], MIN_SIGNIFICANCE[layer] * tower_resolution(layer, measured, eta))
    left = measured - of_tracks_gev
    return left if measured > threshold and left > threshold else 0.0


@njit(cache=True, nogil=True)
def _neutral(
    layer: int, tower: int, energy_gev: float, rng: np.random.Generator
) -> tuple[float, float, float, float, float, float]:
    """Make an object of what is left of a tower, at a random place in it."""
    eta = (tower // NUM_PHI + rng.random()) * TOWER_ETA - MAX_ABS_ETA
    phi_rad = (tower % NUM_PHI + rng.random()) * TOWER_PHI - math.pi
    identity = PHOTON if layer == 0 else NEUTRAL_HADRON
    return energy_gev / math.cosh(eta), eta, phi_rad, energy_gev, 0.0, float(identity)
