"""Which jets does an event contain, and what is known about each of them?

Jets are built for a whole batch of events at once: FastJet clusters all events in one call, areas are computed once for all
radii, and everything that belongs to a jet (tracks, segments, truth jet, parton) is found through pairs within a cone. Truth
jets are made of the hard scatter's stable particles without muons and neutrinos, and are the same for every kind of
constituents; areas, the pileup density and the leading jets are those of the kind. The columns are named as in the ntuple.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distjet.physics import clustering, kinematics
from distjet.physics.areas import grid_median_rho, voronoi_areas
from distjet.physics.clustering import Jets
from distjet.physics.kinematics import Floats, sum_groups, to_cylindrical
from distjet.simulation.constituents import Constituents
from distjet.simulation.generator import INVISIBLE, Events, Particles
from distjet.simulation.labels import jet_labels
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
from distjet.simulation.samples import MIN_LABELLED_RADIUS, JetConfig, tree_name
from distjet.simulation.topoclusters import SAMPLING_FRACTIONS

EVENT_RADIUS = 0.4
"""Radius of the jets of leading_truth_pt and leading_jets_pt, in every tree; 4 % of the time where no tree is of such jets.
They tell events dominated by pileup; without pileup the largest radius of a run serves, and no others are made."""
NUM_LEADING_JETS = 2
"Jets over which leading_jets_pt is the mean (at any eta); far above leading_truth_pt, it tells an event dominated by pileup."
NO_PARTICLE = -1.0

Columns = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class JetTable:
    """Jets of one tree.

    Attributes:
        columns: Arrays of shape (J,) by branch name.
        constituents: In groups, one per jet.
    """

    columns: Columns
    constituents: Constituents

    @property
    def num_jets(self) -> int:
        """Number of jets."""
        return len(self.constituents.offsets) - 1


class EventQuantities(NamedTuple):
    """Columns of events (not jets), and the area of each constituent for each radius."""

    columns: Columns
    areas: Floats


def reconstruct(events: Events, readout: Readout, config: JetConfig) -> dict[str, JetTable]:
    """Reconstruct the jets of a batch of events, for every tree of the configuration."""
    truth_p4, truth_offsets = _truth_particles(events.particles)
    event_radius = EVENT_RADIUS if config.has_clusters else max(config.radii)
    radii = {event_radius, *config.radii}
    truth = {radius: clustering.cluster(truth_p4, truth_offsets, radius, config.min_truth_pt_gev) for radius in radii}
    tables = {}
    for kind in config.constituents:
        constituents = readout.constituents[kind]
        p4 = constituents.momenta()
        reco = {radius: clustering.cluster(p4, constituents.offsets, radius, config.min_pt_gev) for radius in radii}
        event = _event_quantities(events, readout, constituents, (truth[event_radius], reco[event_radius]), config)
        for number, radius in enumerate(config.radii):
            jets = reco[radius]
            own = constituents.regroup(jets.constituents, jets.constituent_offsets)
            columns = _jet_columns(jets, own, event.areas[jets.constituents, number], readout, radius)
            columns |= _truth_columns(jets, truth[radius], events, (radius, config.label_distance_in_r))
            columns |= {name: values[_event_of(jets)] for name, values in event.columns.items()}
            tables[tree_name(radius, kind)] = _keep(JetTable(columns, own), config)
    return tables


def _truth_particles(particles: Particles) -> tuple[Floats, NDArray[np.int64]]:
    """Select the particles that truth jets are made of."""
    visible = np.flatnonzero(~np.isin(np.abs(particles.pdg), INVISIBLE))
    return particles.p4[visible], np.searchsorted(visible, particles.offsets).astype(np.int64)


def _event_quantities(
    events: Events, readout: Readout, constituents: Constituents, leading: tuple[Jets, Jets], config: JetConfig
) -> EventQuantities:
    """Collect what all jets of an event share; `leading` are its truth and reconstructed jets of one radius."""
    columns: Columns = {
        "event": np.arange(len(events.weight)),
        "weight": events.weight,
        "averageInteractionsPerCrossing": readout.mu,
        "nPUtrue": readout.num_pileup,
        "NPV": readout.num_vertices,
        "rho": _rho(constituents, config),
        "pthat": events.pthat_gev,
        "leading_truth_pt": mean_leading_pt(leading[0], 1),
        "leading_jets_pt": mean_leading_pt(leading[1], NUM_LEADING_JETS),
    }
    return EventQuantities(columns, _areas(constituents, config))


def _areas(constituents: Constituents, config: JetConfig) -> Floats:
    """Area of each constituent for each radius; 0 where there is no pileup that it would be needed for, and time is short."""
    if not config.has_clusters:
        return np.zeros((len(constituents.values), len(config.radii)))
    return voronoi_areas(constituents["eta"], constituents["phi"], constituents.offsets, config.radii)


def _rho(constituents: Constituents, config: JetConfig) -> Floats:
    """Pileup density of each event from its constituents."""
    p4, offsets = constituents.momenta(), constituents.offsets
    if config.rho == "grid_median":
        return grid_median_rho(kinematics.pt(p4), constituents["eta"], constituents["phi"], offsets)
    return np.array([clustering.kt_median_rho(p4[first:last]) for first, last in pairwise(offsets)])


def mean_leading_pt(jets: Jets, num_leading: int) -> Floats:
    """Mean pT in GeV of each event's `num_leading` hardest jets, of fewer where it has fewer, 0 where none; shape (events,)."""
    chosen = np.flatnonzero(_rank(jets) < num_leading)
    event, num_events = _event_of(jets)[chosen], len(jets.event_offsets) - 1
    total = np.bincount(event, kinematics.pt(jets.p4[chosen]), num_events)
    return total / np.maximum(np.bincount(event, minlength=num_events), 1)


def _jet_columns(jets: Jets, constituents: Constituents, areas: Floats, readout: Readout, radius: float) -> Columns:
    """Columns of the jets from their constituents, of which `areas` holds the areas; tracks have no energy in a sampling."""
    pt_gev, eta, phi_rad, mass_gev = to_cylindrical(jets.p4)
    axes = Axes(eta, phi_rad, jets.event_offsets)
    samplings = [_energy_in(name, constituents) for name in SAMPLING_FRACTIONS]
    return {
        "jet_index": _rank(jets),
        "jet_pt": pt_gev,
        "jet_eta": eta,
        "jet_phi": phi_rad,
        "jet_m": mass_gev,
        "jet_E": jets.p4[:, 3],
        "jet_area": sum_groups(areas, constituents.offsets),
        "jet_DetectorEta": eta,
        **{f"jet_EnergyPerSampling{k}": energy_gev for k, energy_gev in enumerate(samplings)},
        **_track_columns(axes, pt_gev, readout.tracks, radius),
        "jet_GhostMuonSegmentCount": _segment_count(axes, readout.segments, radius),
        "jet_isIsolated": is_isolated(axes, pt_gev, RECO_ISOLATION_IN_R * radius),
    }


def _energy_in(sampling: str, constituents: Constituents) -> Floats:
    """Energy of the jets in a sampling of the calorimeter, 0 where the constituents know of none."""
    if sampling not in constituents.fields:
        return np.zeros(len(constituents.offsets) - 1)
    return sum_groups(constituents["E"] * constituents[sampling], constituents.offsets)


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


def _truth_columns(jets: Jets, truth: Jets, events: Events, sizes: tuple[float, float | None]) -> Columns:
    """Columns of the matched truth jets; -1 (flavour and label 0, flags False) where there is none.

    `sizes` are the jet radius R, and the distance in R within which a label looks for the quarks of a decay, None for no label.
    """
    radius, label_distance_in_r = sizes
    partons = events.partons
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
    if label_distance_in_r is not None and radius >= MIN_LABELLED_RADIUS:
        of_truth["label"] = jet_labels(truth_axes, events, label_distance_in_r * radius, radius)
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


def _keep(table: JetTable, config: JetConfig) -> JetTable:
    """Drop the jets that the configuration does not ask for; jet_index keeps the rank among all jets."""
    wanted = np.abs(table.columns["jet_eta"].astype(np.float64)) < config.max_abs_eta
    if config.matched_only:
        wanted &= table.columns["jet_isTruthMatched"].astype(np.bool_)
    chosen = np.flatnonzero(wanted)
    columns = {name: values[chosen] for name, values in table.columns.items()}
    return JetTable(columns, table.constituents.select(chosen))
