"""What does the calorimeter measure for a set of particles?

A grid of 196 x 128 cells in (eta, phi) with three samplings (electromagnetic, two hadronic); the energies of an event are an
array of shape (NUM_ETA, NUM_PHI, NUM_SAMPLINGS), the innermost index being the depth. The parametrisation keeps the effects
that a calibration must undo: hadrons are measured too low and the more so the softer they are (non-compensation), material in
front absorbs energy and leaves dips at |eta| = 1.45 and 3.2, slow charged particles curl up, energy leaks behind the
calorimeter, and noise and pileup fluctuate. It is no simulation of any experiment's detector.

Deposits are additive: pileup is simulated once, as a library of deposits, and added cell by cell. The vertex position along the
beam enters the tracks only. Electronic noise is drawn from a table of 65536 equally probable quantiles of the Gaussian (its
largest value is 4.3 sigma): an event needs 75264 of them, and ten times the time of this was spent on drawing exact ones.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from distjet.physics.kinematics import Floats, pseudorapidity
from distjet.simulation.generator import Particles
from distjet.simulation.samples import DetectorConfig

MAX_ABS_ETA = 4.9
NUM_ETA, NUM_PHI, NUM_SAMPLINGS = 196, 128, 3
CELL_ETA, CELL_PHI = 2 * MAX_ABS_ETA / NUM_ETA, 2 * math.pi / NUM_PHI
GRID = (NUM_ETA, NUM_PHI, NUM_SAMPLINGS)

MIN_CHARGED_PT_GEV = 0.42
"A charged particle with less curls up in the 2 T field before the calorimeter at 1.4 m."
HADRONIC_STOCHASTIC, HADRONIC_CONSTANT = 0.45, 0.04
"Relative fluctuations of a hadron's signal: the first over the root of the signal in GeV, the second for any signal."
MIN_ENERGY_GEV = 0.15
"Particles with less leave no visible signal."
SEGMENT_MAX_ABS_ETA = 2.7
"Coverage of the muon chambers."
MUON_DEPOSIT_GEV = 2.0
"Signal of a muon that crosses the calorimeter; one with less energy leaves all it has."
MIN_MUON_ENERGY_GEV = 3.0
"A muon with less does not reach the muon chambers: what the calorimeter leaves of it stops in the material behind."
GEV_PER_SEGMENT = 30.0
"Energy behind the calorimeter that makes one more muon segment, on average."


class Response(NamedTuple):
    """The numbers of `DetectorConfig` that the kernels need."""

    e_over_h: float
    material_scale: float


class PileupNoise(NamedTuple):
    """Energy of one inelastic collision per cell: mean and rms in GeV, each of shape (NUM_ETA, NUM_SAMPLINGS)."""

    mean_gev: Floats
    rms_gev: Floats


class NoiseTerms(NamedTuple):
    """Noise of a cell in one event, in GeV; three arrays of shape (NUM_ETA, NUM_SAMPLINGS).

    Attributes:
        drawn_gev: Gaussian noise that is drawn: electronics and neighbouring crossings (in-time pileup is added as deposits).
        expected_gev: All that fluctuates, in-time pileup too: the sigma of a cell's significance.
        offset_gev: Mean of the neighbouring crossings, negative.
    """

    drawn_gev: Floats
    expected_gev: Floats
    offset_gev: Floats


def response(config: DetectorConfig) -> Response:
    """Pick the numbers that the kernels need."""
    return Response(config.e_over_h, config.material_scale)


def eta_centres() -> Floats:
    """Pseudorapidity of the cells' centres, shape (NUM_ETA,)."""
    return -MAX_ABS_ETA + CELL_ETA * (np.arange(NUM_ETA) + 0.5)


def electronic_noise(config: DetectorConfig) -> Floats:
    """Electronic noise in GeV, shape (NUM_ETA, NUM_SAMPLINGS); coarser cells forward have more."""
    abs_eta = np.abs(eta_centres())[:, np.newaxis]
    forward = 1 + 0.8 * (abs_eta > 2.5) + 1.2 * (abs_eta > 3.2)
    return config.noise_scale * np.array([0.035, 0.050, 0.060]) * forward


def no_pileup_noise() -> PileupNoise:
    """Return the noise terms of no pileup."""
    return PileupNoise(np.zeros((NUM_ETA, NUM_SAMPLINGS)), np.zeros((NUM_ETA, NUM_SAMPLINGS)))


def noise_terms(electronic_gev: Floats, pileup: PileupNoise, mu: float, out_of_time: tuple[float, float]) -> NoiseTerms:
    """Combine electronic and pileup noise at a given pileup.

    Args:
        electronic_gev: Shape (NUM_ETA, NUM_SAMPLINGS).
        pileup: Energy of one collision per cell.
        mu: Mean number of collisions per crossing.
        out_of_time: Share of the mean energy that the pulse shape removes, and the noise of neighbouring crossings in units of
            the in-time fluctuation.

    Reference:
        ATLAS Collaboration, "Topological cell clustering in the ATLAS calorimeters", arXiv:1603.02934: sigma is the sum in
        quadrature of the electronic and of the whole pileup noise.
    """
    subtraction, out_of_time_noise = out_of_time
    in_time = pileup.rms_gev * math.sqrt(mu)
    drawn = np.hypot(electronic_gev, out_of_time_noise * in_time)
    return NoiseTerms(drawn, np.hypot(drawn, in_time), -subtraction * mu * pileup.mean_gev)


def gaussian_quantiles() -> Floats:
    """Return the centres of 65536 equally probable slices of the standard Gaussian."""
    inverse = NormalDist().inv_cdf
    half = np.array([inverse((i + 0.5) / 65536) for i in range(32768)])
    return np.concatenate([half, -half[::-1]])


@njit(cache=True, nogil=True)
def add_noise(energy: Floats, draws: NDArray[np.uint16], quantiles: Floats, drawn_gev: Floats, offset_gev: Floats) -> None:
    """Add noise and the out-of-time offset to an event's energies in place; `draws` holds one random integer per cell."""
    cell = 0
    for i in range(NUM_ETA):
        for j in range(NUM_PHI):
            for k in range(NUM_SAMPLINGS):
                energy[i, j, k] += offset_gev[i, k] + drawn_gev[i, k] * quantiles[draws[cell]]
                cell += 1


@njit(cache=True, nogil=True)
def deposit(
    p4: Floats,
    pdg: NDArray[np.integer],
    charge: Floats,
    detector: Response,
    energy: Floats,
    leaked: Floats,
    rng: np.random.Generator,
) -> None:
    """Add the particles' signals at the electromagnetic scale to a grid.

    Args:
        p4: Four-vectors in GeV, shape (P, 4).
        pdg: Particle identities, shape (P,).
        charge: Charges, shape (P,).
        detector: Response of the calorimeter.
        energy: Grid in GeV, shape GRID, added to.
        leaked: Filled with the energy in GeV that each particle leaves behind the calorimeter, shape (P,).
        rng: Source of random numbers.
    """
    for i in range(p4.shape[0]):
        leaked[i] = 0.0
        species = abs(pdg[i])
        pt = math.hypot(p4[i, 0], p4[i, 1])
        curls = charge[i] != 0 and pt < MIN_CHARGED_PT_GEV
        if species in (12, 14, 16) or curls or p4[i, 3] < MIN_ENERGY_GEV or pt < 1e-6:
            continue
        eta = math.asinh(p4[i, 2] / pt)
        if abs(eta) >= MAX_ABS_ETA:
            continue
        axis = (eta, math.atan2(p4[i, 1], p4[i, 0]) - bending(pt, charge[i]))
        if species in (11, 22):
            _electromagnetic_shower(axis, p4[i, 3], detector, energy, rng)
        elif species == 13:
            _spread(axis, 1, min(MUON_DEPOSIT_GEV, p4[i, 3]), (0.01, 1), energy, rng)
        else:
            leaked[i] = _hadronic_shower(axis, p4[i, 3], detector, energy, rng)


@njit(cache=True, nogil=True)
def transmission(eta: float, material_scale: float) -> float:
    """Share of the energy that the dead material between the calorimeters leaves at this pseudorapidity."""
    a = abs(eta)
    lost = 0.14 * math.exp(-(((a - 1.45) / 0.12) ** 2)) + 0.12 * math.exp(-(((a - 3.2) / 0.15) ** 2))
    lost += 0.03 if a > 2.5 else 0.02 * a / 2.5
    return 1.0 - material_scale * lost


@njit(cache=True, nogil=True)
def _smear(energy_gev: float, stochastic: float, constant: float, rng: np.random.Generator) -> float:
    if energy_gev <= 0:
        return 0.0
    sigma = math.sqrt(stochastic**2 * energy_gev + (constant * energy_gev) ** 2)
    return max(rng.normal(energy_gev, sigma), 0.0)


@njit(cache=True, nogil=True)
def _electromagnetic_shower(
    axis: tuple[float, float], energy_gev: float, detector: Response, energy: Floats, rng: np.random.Generator
) -> None:
    upstream = 0.10 * detector.material_scale * math.cosh(min(abs(axis[0]), 1.5))
    visible = _smear(energy_gev * transmission(axis[0], detector.material_scale) - upstream, 0.10, 0.007, rng)
    _spread(axis, 0, visible, (0.018, 4), energy, rng)


@njit(cache=True, nogil=True)
def _electromagnetic_fraction(energy_gev: float) -> tuple[float, float]:
    """Mean and concentration of the beta distribution of a hadronic shower's electromagnetic fraction.

    Reference:
        Groom, "Energy flow in a hadronic cascade", arXiv:physics/0605164: the mean is 1 - (E / 1 GeV)^-0.18.
    """
    mean = min(max(1 - max(energy_gev, 1.0) ** -0.18, 0.02), 0.9)
    width = 0.18 / (1 + 0.08 * math.log1p(energy_gev))
    return mean, max(mean * (1 - mean) / width**2 - 1, 0.3)


@njit(cache=True, nogil=True)
def _hadronic_signal(eta: float, energy_gev: float, em_fraction: float, detector: Response) -> float:
    """Signal in GeV of a hadronic shower of this electromagnetic fraction, before fluctuations; negative if it stops before."""
    scale = em_fraction + (1 - em_fraction) / detector.e_over_h
    upstream = 0.25 * detector.material_scale * math.cosh(min(abs(eta), 1.5))
    return energy_gev * scale * transmission(eta, detector.material_scale) - upstream


@njit(cache=True, nogil=True)
def expected_hadronic_signal(eta: float, energy_gev: float, detector: Response) -> tuple[float, float]:
    """Mean and standard deviation, in GeV, of the signal that a hadron leaves in the calorimeter."""
    mean_em, concentration = _electromagnetic_fraction(energy_gev)
    mean = max(_hadronic_signal(eta, energy_gev, mean_em, detector), 0.0)
    of_fraction = math.sqrt(mean_em * (1 - mean_em) / (concentration + 1))
    per_fraction = energy_gev * (1 - 1 / detector.e_over_h) * transmission(eta, detector.material_scale)
    variance = HADRONIC_STOCHASTIC**2 * mean + (HADRONIC_CONSTANT * mean) ** 2 + (per_fraction * of_fraction) ** 2
    return mean, math.sqrt(variance)


@njit(cache=True, nogil=True)
def bending(pt_gev: float, charge: float) -> float:
    """Angle in rad by which the azimuth at the calorimeter is smaller than at the vertex."""
    return 0.0 if charge == 0 else charge * math.asin(min(MIN_CHARGED_PT_GEV / pt_gev, 1.0))


@njit(cache=True, nogil=True)
def _hadronic_shower(
    axis: tuple[float, float], energy_gev: float, detector: Response, energy: Floats, rng: np.random.Generator
) -> float:
    """Deposit a hadron's shower; return the energy that leaves the calorimeter."""
    mean_em, concentration = _electromagnetic_fraction(energy_gev)
    em_fraction = rng.beta(mean_em * concentration, (1 - mean_em) * concentration)
    visible = _smear(_hadronic_signal(axis[0], energy_gev, em_fraction, detector), HADRONIC_STOCHASTIC, HADRONIC_CONSTANT, rng)
    leaked = 0.0
    if rng.random() < 1 - math.exp(-energy_gev / 3000.0):
        leaked = rng.uniform(0.1, 0.5) * visible
    visible -= leaked
    front = min(0.35 / max(visible, 0.35), 1.0) if rng.random() < 0.3 else rng.beta(1.3, 1.6)
    back = rng.beta(1.2, 4.0) * min(max(0.25 + 0.12 * math.log(max(energy_gev, 1.0)), 0.2), 1.0)
    _spread(axis, 0, visible * front, (0.035, 4), energy, rng)
    _spread(axis, 1, visible * (1 - front) * (1 - back), (0.06, 5), energy, rng)
    _spread(axis, 2, visible * (1 - front) * back, (0.08, 3), energy, rng)
    return leaked


@njit(cache=True, nogil=True)
def _spread(
    axis: tuple[float, float],
    sampling: int,
    energy_gev: float,
    shape: tuple[float, int],
    energy: Floats,
    rng: np.random.Generator,
) -> None:
    """Split energy into `shape[1]` spots (a uniformly random partition) at exponential distances of mean `shape[0]`."""
    if energy_gev <= 0:
        return
    remaining = energy_gev
    for spot in range(shape[1]):
        left = shape[1] - 1 - spot
        share = remaining * (1 - rng.random() ** (1.0 / left)) if left > 0 else remaining
        remaining -= share
        distance, angle = rng.exponential(shape[0]), rng.uniform(0.0, 2 * math.pi)
        i = math.floor((axis[0] + distance * math.cos(angle) + MAX_ABS_ETA) / CELL_ETA)
        j = math.floor((axis[1] + distance * math.sin(angle) + math.pi) / CELL_PHI) % NUM_PHI
        if 0 <= i < NUM_ETA:
            energy[i, j, sampling] += share


def muon_segments(particles: Particles, leaked_gev: Floats, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw the number of muon segments that each particle makes, by its leaked energy or as a muon, shape (P,)."""
    covered = np.abs(pseudorapidity(particles.p4)) < SEGMENT_MAX_ABS_ETA
    from_leak = np.where(leaked_gev > 0, 1 + rng.poisson(leaked_gev / GEV_PER_SEGMENT), 0)
    is_muon = (np.abs(particles.pdg) == 13) & (particles.p4[:, 3] > MIN_MUON_ENERGY_GEV)
    return np.where(covered, from_leak + is_muon, 0)
