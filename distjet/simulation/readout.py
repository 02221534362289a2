"""What does the detector record of a batch of events?

Event after event: pileup is chosen, deposits of the hard scatter and of the pileup are made on separate grids (their ratio is
the true pileup fraction of a cluster), noise is added, clusters are built, tracks are found, and particle-flow objects are made
of both where jets of them are wanted. Where none of them is wanted, a fast detector takes the place of all this, and there is
no pileup. The result is flat again.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from distjet.physics.kinematics import Floats, to_cylindrical
from distjet.simulation import detector, pileup, topoclusters
from distjet.simulation.constituents import Constituents, collect, group_offsets
from distjet.simulation.detector import GRID
from distjet.simulation.energy_flow import ENERGY_FLOW_FIELDS, energy_flow
from distjet.simulation.generator import INVISIBLE, Particles
from distjet.simulation.particle_flow import PARTICLE_FIELDS, particle_flow
from distjet.simulation.pileup import Library, Overlay
from distjet.simulation.samples import Kind, SharedSettings
from distjet.simulation.topoclusters import CLUSTER_FIELDS
from distjet.simulation.tracks import (
    BEAM_SPOT_MM,
    MIN_PT_GEV,
    EventTracks,
    Tracks,
    count_vertices,
    from_primary_vertex,
    join_tracks,
    reconstruct_tracks,
)

TRUTH_FIELDS = ("pt", "eta", "phi", "E", "charge", "pdg")
"Columns of stable particles as constituents."
TRUTH_MAX_ABS_ETA = 4.9
"Stable particles beyond are no constituents: no detector sees them."


class Objects(NamedTuple):
    """Tracks or muon segments of a batch: weight (pT in GeV, or number of segments), direction, and rows per event."""

    weight: Floats
    eta: Floats
    phi_rad: Floats
    offsets: NDArray[np.int64]


@dataclass(frozen=True)
class Readout:
    """A batch of recorded events.

    Attributes:
        constituents: Of each kind that is wanted, in groups, one per event.
        tracks: Tracks associated to the primary vertex; the weight is pT in GeV.
        segments: Muon segments; the weight is their number.
        mu: Mean number of collisions per crossing, shape (number of events,).
        num_pileup: Collisions besides the hard scatter, shape (number of events,).
        num_vertices: Reconstructed vertices, shape (number of events,).
    """

    constituents: dict[Kind, Constituents]
    tracks: Objects
    segments: Objects
    mu: Floats
    num_pileup: NDArray[np.int64]
    num_vertices: NDArray[np.int64]


class Recorder(Protocol):
    """Any detector."""

    def record(self, particles: Particles) -> Readout:
        """Record a batch of events."""
        ...


def choose_detector(settings: SharedSettings, library: Library | None, rng: np.random.Generator) -> Recorder:
    """Return the detector that makes the constituents which are wanted."""
    return Detector(settings, library, rng) if settings.jets.has_clusters else FastDetector(settings, rng)


class FastDetector:
    """Energy flow, or stable particles without any detector; no pileup.

    Args:
        settings: The run's settings.
        rng: Source of random numbers.
    """

    def __init__(self, settings: SharedSettings, rng: np.random.Generator) -> None:
        self.wanted = settings.jets.constituents
        self.rng = rng

    def record(self, particles: Particles) -> Readout:
        """Record a batch of events."""
        made: dict[Kind, Constituents] = {}
        if "eflow" in self.wanted:
            measured = [self._measure(particles, event) for event in range(particles.num_events)]
            made["eflow"] = collect("part", ENERGY_FLOW_FIELDS, measured)
        if "truth" in self.wanted:
            made["truth"] = stable_particles(particles)
        nothing = np.zeros(particles.num_events, np.int64)
        tracks = _charged(next(made[kind] for kind in self.wanted))
        segments = Objects(np.empty(0), np.empty(0), np.empty(0), np.zeros(particles.num_events + 1, np.int64))
        return Readout(made, tracks, segments, nothing.astype(np.float64), nothing, nothing)

    def _measure(self, particles: Particles, event: int) -> Floats:
        rows = slice(particles.offsets[event], particles.offsets[event + 1])
        return energy_flow(particles.p4[rows], particles.pdg[rows], particles.charge[rows], self.rng)


def stable_particles(particles: Particles) -> Constituents:
    """View the stable particles of events as constituents, without muons and neutrinos, as in truth jets."""
    pt_gev, eta, phi_rad, _ = to_cylindrical(particles.p4)
    seen = np.flatnonzero(~np.isin(np.abs(particles.pdg), INVISIBLE) & (np.abs(eta) < TRUTH_MAX_ABS_ETA))
    columns = [pt_gev, eta, phi_rad, particles.p4[:, 3], particles.charge, particles.pdg]
    rows = np.stack([column[seen] for column in columns], axis=1)
    offsets = np.searchsorted(seen, particles.offsets)
    return collect("part", TRUTH_FIELDS, np.split(rows, offsets[1:-1]))


def _charged(constituents: Constituents) -> Objects:
    """Pick the charged constituents above the threshold of tracks."""
    pt_gev = constituents["pt"]
    rows = np.flatnonzero((constituents["charge"] != 0) & (pt_gev > MIN_PT_GEV))
    offsets = np.searchsorted(rows, constituents.offsets).astype(np.int64)
    return Objects(pt_gev[rows], constituents["eta"][rows], constituents["phi"][rows], offsets)


class Detector:
    """The detector with everything that stays the same from event to event.

    Args:
        settings: The run's settings.
        library: Pileup collisions, None without pileup.
        rng: Source of random numbers.
    """

    def __init__(self, settings: SharedSettings, library: Library | None, rng: np.random.Generator) -> None:
        self.settings = settings
        self.library = library
        self.rng = rng
        self.response = detector.response(settings.detector)
        self.thresholds = topoclusters.thresholds(settings.detector)
        self.electronic_gev = detector.electronic_noise(settings.detector)
        self.quantiles = detector.gaussian_quantiles()
        self.pileup_noise = library.noise if library else detector.no_pileup_noise()

    def record(self, particles: Particles) -> Readout:
        """Record a batch of events."""
        leaked_gev = np.zeros(len(particles.pdg))
        own_tracks = reconstruct_tracks(particles, self.rng)
        clusters, tracks, mu, num_pileup, num_vertices = [], [], [], [], []
        for event in range(particles.num_events):
            mu.append(self.rng.uniform(*self.settings.pileup.mu))
            overlay = self._draw_overlay(mu[-1])
            num_pileup.append(len(overlay.collision))
            clusters.append(self._clusters(particles, event, (overlay, mu[-1]), leaked_gev))
            found, vertices = self._tracks(own_tracks, event, overlay)
            tracks.append(found)
            num_vertices.append(vertices)
        return Readout(
            self._constituents(clusters, tracks) | self._truth(particles),
            _primary_tracks(tracks),
            self._segments(particles, leaked_gev),
            np.array(mu),
            np.array(num_pileup),
            np.array(num_vertices),
        )

    def _constituents(self, clusters: list[Floats], tracks: list[EventTracks]) -> dict[Kind, Constituents]:
        """Build the constituents that are wanted from the clusters and tracks of each event."""
        wanted = self.settings.jets.constituents
        made: dict[Kind, Constituents] = {}
        if "topo" in wanted:
            made["topo"] = collect("clus", CLUSTER_FIELDS, clusters)
        if "pflow" in wanted:
            flow = [particle_flow(*event, self.response) for event in zip(clusters, tracks, strict=True)]
            made["pflow"] = collect("part", PARTICLE_FIELDS, flow)
        return made

    def _truth(self, particles: Particles) -> dict[Kind, Constituents]:
        return {"truth": stable_particles(particles)} if "truth" in self.settings.jets.constituents else {}

    def _draw_overlay(self, mu: float) -> Overlay:
        num_collisions = int(self.rng.poisson(mu))
        if self.library is None or num_collisions == 0:
            return pileup.EMPTY_OVERLAY
        return pileup.draw_overlay(self.library, num_collisions, self.rng)

    def _clusters(self, particles: Particles, event: int, crossing: tuple[Overlay, float], leaked_gev: Floats) -> Floats:
        """Deposit, add noise and cluster one event; fills the event's part of `leaked_gev`."""
        overlay, mu = crossing
        rows = slice(particles.offsets[event], particles.offsets[event + 1])
        hard_scatter, from_pileup = np.zeros(GRID), np.zeros(GRID)
        detector.deposit(
            particles.p4[rows],
            particles.pdg[rows],
            particles.charge[rows],
            self.response,
            hard_scatter,
            leaked_gev[rows],
            self.rng,
        )
        if self.library is not None:
            pileup.add_deposits(self.library, overlay, from_pileup)
        noise = detector.noise_terms(
            self.electronic_gev,
            self.pileup_noise,
            mu,
            (self.settings.pileup.out_of_time_subtraction, self.settings.pileup.out_of_time_noise),
        )
        measured = hard_scatter + from_pileup
        draws = self.rng.integers(0, 65536, measured.size, dtype=np.uint16)
        detector.add_noise(measured, draws, self.quantiles, noise.drawn_gev, noise.offset_gev)
        cells = topoclusters.Cells(measured, hard_scatter, from_pileup)
        return topoclusters.find_clusters(cells, noise.expected_gev, self.thresholds)

    def _tracks(self, own: Tracks, event: int, overlay: Overlay) -> tuple[EventTracks, int]:
        """Collect the tracks of one event, those of the hard scatter first, and count the vertices."""
        primary_mm = self.rng.normal(0.0, BEAM_SPOT_MM)
        tracks = _hard_scatter_tracks(own, slice(own.offsets[event], own.offsets[event + 1]))
        vertices_mm = np.array([primary_mm]) if own.makes_vertex()[event] else np.empty(0)
        if self.library is not None and len(overlay.collision):
            tracks = join_tracks([tracks, pileup.overlay_tracks(self.library, overlay, primary_mm)])
            vertices_mm = np.concatenate([vertices_mm, pileup.pileup_vertices(self.library, overlay)])
        return tracks, count_vertices(vertices_mm)

    def _segments(self, particles: Particles, leaked_gev: Floats) -> Objects:
        number = detector.muon_segments(particles, leaked_gev, self.rng)
        seen = np.flatnonzero(number)
        _, eta, phi_rad, _ = to_cylindrical(particles.p4[seen])
        return Objects(number[seen].astype(np.float64), eta, phi_rad, np.searchsorted(seen, particles.offsets).astype(np.int64))


def _hard_scatter_tracks(own: Tracks, rows: slice) -> EventTracks:
    """View rows of the hard scatters' tracks as those of one event."""
    return EventTracks(
        pt_gev=own.pt_gev[rows],
        eta=own.eta[rows],
        phi_rad=own.phi_rad[rows],
        charge=own.charge[rows],
        is_hadron=own.is_hadron[rows],
        at_primary=from_primary_vertex(own.dz_mm[rows], own.eta[rows]),
        from_pileup=np.zeros(rows.stop - rows.start, np.bool_),
    )


def _primary_tracks(events: list[EventTracks]) -> Objects:
    """Put the tracks of the primary vertices of all events after one another."""
    chosen = [tracks.select(tracks.at_primary) for tracks in events]
    together = join_tracks(chosen)
    return Objects(together.pt_gev, together.eta, together.phi_rad, group_offsets([tracks.pt_gev for tracks in chosen]))
