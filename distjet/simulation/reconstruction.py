"""Which jets does an event contain, and what is known about each of them?

Jets are built for a whole batch of events at once: FastJet clusters all events in one call, areas are computed once for all
radii, and everything that belongs to a jet (tracks, segments, truth jet, parton) is found through pairs within a cone. Truth
jets are made of the hard scatter's stable particles without muons and neutrinos. The columns are named as in the ntuple.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distjet.physics import clustering, kinematics
from distjet.physics.areas import grid_median_rho, voronoi_areas
from distjet.physics.clustering import Jets, select_groups
from distjet.physics.kinematics import Floats, sum_groups, to_cylindrical
from distjet.simulation.generator import Events, Particles
from distjet.simulation.matching import (
    RECO_ISOLATION_IN_R,
    TRUTH_ISOLATION_IN_R,
    Axes,
    hardest_parton,
    is_isolated,
    match_one_to_one,
    pairs_within,
)
from distjet.simulation.readout import Objects, Readout
from distjet.simulation.samples import JetConfig
from distjet.simulation.topoclusters import SAMPLING_FRACTIONS

EVENT_RADIUS = 0.4
"Radius of the jets of leading_truth_pt and leading_jets_pt, in every tree; 4 % of the time where no tree is of such jets."
NUM_LEADING_JETS = 2
"Jets over which leading_jets_pt is the mean (at any eta); far above leading_truth_pt, it tells an event dominated by pileup."
NO_PARTICLE = -1.0
INVISIBLE = (12, 13, 14, 16)

Columns = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class JetTable:
    """Jets of one radius as they go into a tree.

    Attributes:
        columns: Arrays of shape (J,) by branch name.
        clusters: Columns CLUSTER_FIELDS of the jets' clusters, jet after jet, shape (C, number of fields).
        cluster_offsets: Jet j holds clusters cluster_offsets[j]:cluster_offsets[j + 1].
    """

    columns: Columns
    clusters: NDArray[np.float32]
    cluster_offsets: NDArray[np.int64]


class EventQuantities(NamedTuple):
    """Columns of events (not jets), and the area of each cluster for each radius."""

    columns: Columns
    areas: Floats


def reconstruct(events: Events, readout: Readout, config: JetConfig) -> dict[float, JetTable]:
    """Reconstruct the jets of a batch of events, for every radius of the configuration."""
    p4 = cluster_momenta(readout.clusters)
    truth_p4, truth_offsets = _truth_particles(events.particles)
    radii = {EVENT_RADIUS, *config.radii}
    truth = {radius: clustering.cluster(truth_p4, truth_offsets, radius, config.min_truth_pt_gev) for radius in radii}
    reco = {radius: clustering.cluster(p4, readout.cluster_offsets, radius, config.min_pt_gev) for radius in radii}
    leading = {
        "leading_truth_pt": mean_leading_pt(truth[EVENT_RADIUS], 1),
        "leading_jets_pt": mean_leading_pt(reco[EVENT_RADIUS], NUM_LEADING_JETS),
    }
    event = EventQuantities(
        _event_columns(events, readout, _rho(p4, readout, config)) | leading,
        voronoi_areas(readout.clusters[:, 1], readout.clusters[:, 2], readout.cluster_offsets, config.radii),
    )
    tables = {}
    for number, radius in enumerate(config.radii):
        jets = reco[radius]
        columns = _jet_columns(jets, event.areas[:, number], readout, radius)
        columns |= _truth_columns(jets, truth[radius], events.partons, radius)
        columns |= {name: values[_event_of(jets)] for name, values in event.columns.items()}
        tables[radius] = _keep(JetTable(columns, *_constituents(jets, readout)), config)
    return tables


def cluster_momenta(clusters: NDArray[np.float32]) -> Floats:
    """Four-vectors in GeV of massless clusters from their energies and directions as stored, shape (N, 4), float64."""
    energy, eta, phi_rad = clusters[:, :3].astype(np.float64).T
    return kinematics.to_cartesian(energy / np.cosh(eta), eta, phi_rad)


def _truth_particles(particles: Particles) -> tuple[Floats, NDArray[np.int64]]:
    """Select the particles that truth jets are made of."""
    visible = np.flatnonzero(~np.isin(np.abs(particles.pdg), INVISIBLE))
    return particles.p4[visible], np.searchsorted(visible, particles.offsets).astype(np.int64)


def _rho(p4: Floats, readout: Readout, config: JetConfig) -> Floats:
    """Pileup density of each event from its clusters."""
    offsets = readout.cluster_offsets
    if config.rho == "grid_median":
        return grid_median_rho(kinematics.pt(p4), readout.clusters[:, 1], readout.clusters[:, 2], offsets)
    return np.array([clustering.kt_median_rho(p4[first:last]) for first, last in pairwise(offsets)])


def mean_leading_pt(jets: Jets, num_leading: int) -> Floats:
    """Mean pT in GeV of each event's `num_leading` hardest jets, of fewer where it has fewer, 0 where none; shape (events,)."""
    chosen = np.flatnonzero(_rank(jets) < num_leading)
    event, num_events = _event_of(jets)[chosen], len(jets.event_offsets) - 1
    total = np.bincount(event, kinematics.pt(jets.p4[chosen]), num_events)
    return total / np.maximum(np.bincount(event, minlength=num_events), 1)


def _event_columns(events: Events, readout: Readout, rho: Floats) -> Columns:
    return {
        "event": np.arange(len(events.weight)),
        "weight": events.weight,
        "averageInteractionsPerCrossing": readout.mu,
        "nPUtrue": readout.num_pileup,
        "NPV": readout.num_vertices,
        "rho": rho,
        "pthat": events.pthat_gev,
    }


def _jet_columns(jets: Jets, areas: Floats, readout: Readout, radius: float) -> Columns:
    pt_gev, eta, phi_rad, mass_gev = to_cylindrical(jets.p4)
    axes = Axes(eta, phi_rad, jets.event_offsets)
    clusters = readout.clusters[jets.constituents].astype(np.float64)
    samplings = sum_groups(clusters[:, :1] * clusters[:, SAMPLING_FRACTIONS], jets.constituent_offsets)
    return {
        "jet_index": _rank(jets),
        "jet_pt": pt_gev,
        "jet_eta": eta,
        "jet_phi": phi_rad,
        "jet_m": mass_gev,
        "jet_E": jets.p4[:, 3],
        "jet_area": sum_groups(areas[jets.constituents], jets.constituent_offsets),
        "jet_DetectorEta": eta,
        **{f"jet_EnergyPerSampling{k}": samplings[:, k] for k in range(3)},
        **_track_columns(axes, pt_gev, readout.tracks, radius),
        "jet_GhostMuonSegmentCount": _segment_count(axes, readout.segments, radius),
        "jet_isIsolated": is_isolated(axes, pt_gev, RECO_ISOLATION_IN_R * radius),
    }


def _track_columns(axes: Axes, jet_pt_gev: Floats, tracks: Objects, radius: float) -> Columns:
    """Charged fraction from tracks above 0.5 GeV; number and pT-weighted width of tracks above 1 GeV."""
    pairs = pairs_within(axes, Axes(*tracks[1:]), radius)
    pt_gev = tracks.weight[pairs.right]
    hard = pt_gev > 1.0
    count = np.bincount(pairs.left[hard], minlength=len(jet_pt_gev))
    total = np.bincount(pairs.left[hard], pt_gev[hard], len(jet_pt_gev))
    moment = np.bincount(pairs.left[hard], (pt_gev * pairs.distance)[hard], len(jet_pt_gev))
    return {
        "jet_NumTrkPt1000": count,
        "jet_TrackWidthPt1000": np.divide(moment, total, out=np.full(len(count), NO_PARTICLE), where=count > 0),
        "jet_fCharged": np.bincount(pairs.left, pt_gev, len(jet_pt_gev)) / jet_pt_gev,
    }


def _segment_count(axes: Axes, segments: Objects, radius: float) -> NDArray[np.generic]:
    pairs = pairs_within(axes, Axes(*segments[1:]), radius)
    return np.bincount(pairs.left, segments.weight[pairs.right], len(axes.eta))


def _truth_columns(jets: Jets, truth: Jets, partons: Particles, radius: float) -> Columns:
    """Columns of the matched truth jets; -1 (flavour 0, flags False) where there is none."""
    axes, truth_axes = _axes(jets.p4, jets.event_offsets), _axes(truth.p4, truth.event_offsets)
    matched = match_one_to_one(axes, truth_axes, radius)
    truth_pt_gev = kinematics.pt(truth.p4)
    parton_axes = _axes(partons.p4, partons.offsets)
    of_truth = {
        **dict(zip(("pt", "eta", "phi", "m"), to_cylindrical(truth.p4), strict=True)),
        "E": truth.p4[:, 3],
        "isIsolated": is_isolated(truth_axes, truth_pt_gev, TRUTH_ISOLATION_IN_R * radius),
        "flavour": hardest_parton(truth_axes, parton_axes, kinematics.pt(partons.p4), partons.pdg, radius),
    }
    columns: Columns = {}
    for name, values in of_truth.items():
        column = np.full(jets.num_jets, NO_PARTICLE if values.dtype.kind == "f" else 0, values.dtype)
        column[matched.left] = values[matched.right]
        columns[f"truthjet_{name}"] = column
    distance = np.full(jets.num_jets, NO_PARTICLE)
    distance[matched.left] = matched.distance
    return columns | {"truthjet_dR": distance, "jet_isTruthMatched": distance >= 0}


def _axes(p4: Floats, offsets: NDArray[np.int64]) -> Axes:
    _, eta, phi_rad, _ = to_cylindrical(p4)
    return Axes(eta, phi_rad, offsets)


def _event_of(jets: Jets) -> NDArray[np.int64]:
    """Position in the batch of each jet's event, shape (J,)."""
    return np.repeat(np.arange(len(jets.event_offsets) - 1), np.diff(jets.event_offsets))


def _rank(jets: Jets) -> NDArray[np.int64]:
    """Rank in pT of each jet within its event, from 0, shape (J,)."""
    return np.arange(jets.num_jets) - jets.event_offsets[_event_of(jets)]


def _constituents(jets: Jets, readout: Readout) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    return readout.clusters[jets.constituents], jets.constituent_offsets


def _keep(table: JetTable, config: JetConfig) -> JetTable:
    """Drop the jets that the configuration does not ask for; jet_index keeps the rank among all jets."""
    wanted = np.abs(table.columns["jet_eta"].astype(np.float64)) < config.max_abs_eta
    if config.matched_only:
        wanted &= table.columns["jet_isTruthMatched"].astype(np.bool_)
    chosen = np.flatnonzero(wanted)
    columns = {name: values[chosen] for name, values in table.columns.items()}
    return JetTable(columns, *select_groups(table.clusters, table.cluster_offsets, chosen))
