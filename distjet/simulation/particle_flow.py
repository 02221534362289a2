"""Which particle-flow objects do the tracks and clusters of an event make?

A track measures a soft hadron better than the calorimeter, and knows its vertex. So each hadron's track below 40 GeV becomes an
object if it points to the primary vertex, and the energy that it is expected to leave in the calorimeter is subtracted from
the clusters near its impact; what remains of the clusters are the neutral objects. Tracks of pileup are subtracted too and
then dropped (charged-hadron subtraction). Electrons and muons count as identified: their tracks are left out.

After the reference, with two simplifications: energy is subtracted from whole clusters, not cell by cell, so a cluster that
stays keeps its moments; and the expected energy is the mean of the detector's own parametrisation, not measured in bins.
Nothing is created: the energy of the clusters is that of the neutral objects and what was subtracted.

Reference:
    ATLAS Collaboration, "Jet reconstruction and performance using particle flow with the ATLAS detector", arXiv:1703.10485.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from distjet.physics.kinematics import Floats, wrap_phi
from distjet.simulation.detector import Response, bending, expected_hadronic_signal
from distjet.simulation.topoclusters import CLUSTER_FIELDS
from distjet.simulation.tracks import EventTracks

MOMENTS = tuple(name for name in CLUSTER_FIELDS if name not in {"E", "eta", "phi", "fPU"})
"Fields of clusters that their neutral objects keep; 0 for tracks."
PARTICLE_FIELDS = ("pt", "eta", "phi", "E", "charge", *MOMENTS, "fPU")
"Columns of `particle_flow`."

MAX_TRACK_PT_GEV = 40.0
"Above, the calorimeter is the better measurement, and jets are so dense that showers cannot be told apart."
PION_MASS_GEV = 0.13957
MIN_CLUSTER_OVER_MOMENTUM = 0.1
"A cluster with less of the track's momentum is not its shower."
MAX_WIDTHS = 1.64
"Distance from the track to its cluster, in widths of the cluster; 90 % of a Gaussian."
MIN_WIDTH = 0.05
"Smallest width of a cluster in eta and phi: a cell."
SPLIT_SHOWER_CONE = 0.2
"Where the energy is searched that the nearest cluster lacks."
LACKING_SIGMA = 1.0
"A cluster lower than expected by more than this many standard deviations holds only a part of the shower."
REMNANT_SIGMA = 1.5
"What remains of the clusters of a track, up to this many standard deviations, is the shower's own fluctuation, and removed."


class Showers(NamedTuple):
    """Tracks as the calorimeter sees them: impact, momentum, expected signal and its spread (GeV), origin; shape (T,)."""

    eta: Floats
    phi_rad: Floats
    momentum_gev: Floats
    expected_gev: Floats
    spread_gev: Floats
    from_pileup: NDArray[np.bool_]


class Clusters(NamedTuple):
    """Clusters by rising eta: place, squared width, shape (C,), and energy of the hard scatter and of pileup, shape (C, 2)."""

    eta: Floats
    phi_rad: Floats
    squared_width: Floats
    parts_gev: Floats


def particle_flow(clusters: Floats, tracks: EventTracks, detector: Response) -> Floats:
    """Build the particle-flow objects of one event.

    Args:
        clusters: Columns CLUSTER_FIELDS, shape (C, number of fields).
        tracks: All tracks of the event.
        detector: Response of the calorimeter.

    Returns:
        One row per object with the columns PARTICLE_FIELDS: the tracks of the primary vertex by falling pT, with the mass of
        the pion, then what is left of the clusters, massless.
    """
    hadrons = tracks.select(tracks.is_hadron & (tracks.pt_gev < MAX_TRACK_PT_GEV))
    hadrons = hadrons.select(np.argsort(-hadrons.pt_gev, kind="stable"))
    left_gev = subtract_tracks(clusters, hadrons, detector)
    return np.concatenate([_charged(hadrons.select(hadrons.at_primary)), _neutral(clusters, left_gev)])


def subtract_tracks(clusters: Floats, tracks: EventTracks, detector: Response) -> Floats:
    """Subtract from clusters what tracks are expected to leave in them.

    Args:
        clusters: Columns CLUSTER_FIELDS, shape (C, number of fields).
        tracks: By falling pT.
        detector: Response of the calorimeter.

    Returns:
        What is left, in GeV: energy of the hard scatter and of pileup, shape (C, 2).
    """
    energy, pileup_share = _column(clusters, "E"), _column(clusters, "fPU")
    parts_gev = np.stack([energy * (1 - pileup_share), energy * pileup_share], axis=1)
    order = np.argsort(_column(clusters, "eta"), kind="stable")
    eta, phi_rad, r2 = (_column(clusters, name)[order] for name in ("eta", "phi", "r2"))
    ordered = Clusters(eta, phi_rad, np.maximum(r2 / 2, MIN_WIDTH**2), parts_gev[order])
    _subtract(ordered, _showers(tracks, detector))
    parts_gev[order] = ordered.parts_gev
    return parts_gev


def _column(clusters: Floats, name: str) -> Floats:
    return clusters[:, CLUSTER_FIELDS.index(name)]


def _charged(tracks: EventTracks) -> Floats:
    rows = np.zeros((len(tracks.pt_gev), len(PARTICLE_FIELDS)))
    energy = np.hypot(tracks.pt_gev * np.cosh(tracks.eta), PION_MASS_GEV)
    rows[:, :5] = np.stack([tracks.pt_gev, tracks.eta, tracks.phi_rad, energy, tracks.charge], axis=1)
    rows[:, -1] = tracks.from_pileup
    return rows


def _neutral(clusters: Floats, left_gev: Floats) -> Floats:
    energy = left_gev.sum(axis=1)
    stays = energy > 0
    clusters, energy, pileup_gev = clusters[stays], energy[stays], left_gev[stays, 1]
    eta, phi_rad = _column(clusters, "eta"), _column(clusters, "phi")
    moments = [_column(clusters, name) for name in MOMENTS]
    return np.stack([energy / np.cosh(eta), eta, phi_rad, energy, np.zeros_like(eta), *moments, pileup_gev / energy], axis=1)


def _showers(tracks: EventTracks, detector: Response) -> Showers:
    momentum = tracks.pt_gev * np.cosh(tracks.eta)
    impact, expected, spread = _impacts(tracks.pt_gev, tracks.eta, tracks.phi_rad, tracks.charge, detector)
    return Showers(tracks.eta, wrap_phi(impact), momentum, expected, spread, tracks.from_pileup)


@njit(cache=True, nogil=True)
def _impacts(pt_gev: Floats, eta: Floats, phi_rad: Floats, charge: Floats, detector: Response) -> tuple[Floats, Floats, Floats]:
    """Azimuth at the calorimeter, mean and spread of the signal of each track."""
    impact, expected, spread = np.empty(eta.size), np.empty(eta.size), np.empty(eta.size)
    for t in range(eta.size):
        impact[t] = phi_rad[t] - bending(pt_gev[t], charge[t])
        expected[t], spread[t] = expected_hadronic_signal(eta[t], pt_gev[t] * math.cosh(eta[t]), detector)
    return impact, expected, spread


@njit(cache=True, nogil=True)
def _subtract(clusters: Clusters, showers: Showers) -> None:
    """Subtract shower after shower from `clusters.parts_gev`, in place."""
    near = np.empty(clusters.eta.size, np.int64)
    distance = np.empty(clusters.eta.size)
    for t in range(showers.eta.size):
        count = _clusters_near(showers.eta[t], showers.phi_rad[t], clusters, near, distance)
        best = _shower_of(showers.momentum_gev[t], clusters.parts_gev, near[:count], distance[:count])
        if best < 0:
            continue
        chosen = near[best : best + 1]
        if _energy(clusters.parts_gev, near[best]) < showers.expected_gev[t] - LACKING_SIGMA * showers.spread_gev[t]:
            chosen = near[:count][np.argsort(distance[:count])]
        remnant_gev = REMNANT_SIGMA * showers.spread_gev[t]
        _take(clusters.parts_gev, chosen, showers.expected_gev[t], remnant_gev, showers.from_pileup[t])


@njit(cache=True, nogil=True)
def _energy(parts_gev: Floats, cluster: int) -> float:
    return parts_gev[cluster, 0] + parts_gev[cluster, 1]


@njit(cache=True, nogil=True)
def _clusters_near(eta: float, phi_rad: float, clusters: Clusters, near: NDArray[np.int64], distance: Floats) -> int:
    """Write the clusters with energy within the cone, and their distances in units of their widths; return their number."""
    first = np.searchsorted(clusters.eta, eta - SPLIT_SHOWER_CONE)
    count = 0
    for c in range(first, clusters.eta.size):
        d_eta = clusters.eta[c] - eta
        if d_eta > SPLIT_SHOWER_CONE:
            break
        d_phi = (clusters.phi_rad[c] - phi_rad + math.pi) % (2 * math.pi) - math.pi
        squared = d_eta**2 + d_phi**2
        if squared < SPLIT_SHOWER_CONE**2 and _energy(clusters.parts_gev, c) > 0:
            near[count], distance[count] = c, math.sqrt(squared / clusters.squared_width[c])
            count += 1
    return count


@njit(cache=True, nogil=True)
def _shower_of(momentum_gev: float, parts_gev: Floats, near: NDArray[np.int64], distance: Floats) -> int:
    """Place in `near` of the cluster that a track's shower is taken to be in, -1 for none."""
    best, shortest = -1, MAX_WIDTHS
    for n in range(near.size):
        if distance[n] < shortest and _energy(parts_gev, near[n]) > MIN_CLUSTER_OVER_MOMENTUM * momentum_gev:
            best, shortest = n, distance[n]
    return best


@njit(cache=True, nogil=True)
def _take(parts_gev: Floats, chosen: NDArray[np.int64], energy_gev: float, remnant_gev: float, from_pileup: bool) -> None:
    """Take energy from clusters, one after the other until it is found, and their remnant if it is small."""
    left, remaining, touched = energy_gev, 0.0, 0
    for c in chosen:
        left -= _remove(parts_gev, c, left, from_pileup)
        remaining += _energy(parts_gev, c)
        touched += 1
        if left <= 0:
            break
    if remaining < remnant_gev:
        for c in chosen[:touched]:
            parts_gev[c] = 0.0


@njit(cache=True, nogil=True)
def _remove(parts_gev: Floats, cluster: int, energy_gev: float, from_pileup: bool) -> float:
    """Remove up to this energy from a cluster, from the part of its own origin first; return how much it was."""
    available = _energy(parts_gev, cluster)
    if energy_gev >= available:
        parts_gev[cluster] = 0.0
        return available
    own = 1 if from_pileup else 0
    from_own = min(parts_gev[cluster, own], energy_gev)
    parts_gev[cluster, own] -= from_own
    parts_gev[cluster, 1 - own] = max(parts_gev[cluster, 1 - own] - (energy_gev - from_own), 0.0)
    return energy_gev
