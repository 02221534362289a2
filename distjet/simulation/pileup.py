"""What do simultaneous collisions add to an event?

A library of inelastic collisions is taken through generator and detector once and kept as cell deposits and tracks; an event
adds Poisson(mu) of them, each turned by a random number of cells in azimuth and mirrored at random, so that a library of 4000
stands for a million. Deposits are additive, so this equals simulating the particles together, except that the fluctuations of
a shower come back with its collision; it makes pileup of 40 cost 0.1 ms.

The library also gives the mean and the rms of a collision's energy per cell, from which the noise and the offset of the
neighbouring bunch crossings follow.
"""

import dataclasses
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from distjet.physics.kinematics import Floats, wrap_phi
from distjet.run_directory import write_atomically
from distjet.simulation import detector
from distjet.simulation.detector import CELL_PHI, GRID, NUM_ETA, NUM_PHI, NUM_SAMPLINGS, PileupNoise
from distjet.simulation.generator import PROCESSES, Particles, generate, pythia_seed, start_pythia
from distjet.simulation.samples import LibraryTask, SharedSettings, entropy
from distjet.simulation.tracks import BEAM_SPOT_MM, EventTracks, Tracks, from_primary_vertex, reconstruct_tracks
from distjet.storage import as_location, local_copy


@dataclass(frozen=True)
class Library:
    """Simulated inelastic collisions.

    Attributes:
        cells: Positions of the cells with energy, flat in GRID, collision after collision.
        energy_gev: Their energies.
        cell_offsets: Collision e holds cells cell_offsets[e]:cell_offsets[e + 1].
        tracks: Tracks of the collisions.
        noise: Energy per cell of one collision.
    """

    cells: NDArray[np.int32]
    energy_gev: NDArray[np.float32]
    cell_offsets: NDArray[np.int64]
    tracks: Tracks
    noise: PileupNoise

    @property
    def num_collisions(self) -> int:
        """Number of collisions."""
        return len(self.cell_offsets) - 1


class Overlay(NamedTuple):
    """The pileup of one event: collisions of the library, their places and turns; arrays of shape (number of collisions,)."""

    collision: NDArray[np.int64]
    z_mm: Floats
    phi_cells: NDArray[np.int64]
    mirrored: NDArray[np.bool_]


EMPTY_OVERLAY = Overlay(np.empty(0, np.int64), np.empty(0), np.empty(0, np.int64), np.empty(0, np.bool_))


def make_library(task: LibraryTask) -> dict[str, object]:
    """Make the library and write it to disk, unless it is there already; the function of the first stage."""
    path = as_location(task.path)
    if not path.exists():
        save_library(simulate_library(SharedSettings.model_validate(task.settings)), path)
    return {"path": task.path, "size_bytes": path.stat().st_size}


def simulate_library(settings: SharedSettings) -> Library:
    """Generate inelastic collisions and take them through the detector."""
    rng = np.random.default_rng(entropy(settings.seed, "pileup library"))
    seed = pythia_seed(settings.seed, "pileup library")
    pythia = start_pythia(PROCESSES[settings.pileup.process], settings.generator.ecm_gev, seed)
    response = detector.response(settings.detector)
    parts = []
    for events in generate(pythia, settings.pileup.library_events):
        parts += _collisions(events.particles, response, rng)
    cells, energy_gev, tracks = zip(*parts, strict=True)
    offsets = np.concatenate([[0], np.cumsum([len(part) for part in cells])]).astype(np.int64)
    flat_cells, flat_energy = np.concatenate(cells), np.concatenate(energy_gev)
    noise = energy_per_cell(flat_cells, flat_energy, len(parts))
    return Library(flat_cells, flat_energy, offsets, _join(tracks), noise)


def energy_per_cell(cells: NDArray[np.int32], energy_gev: NDArray[np.float32], num_collisions: int) -> PileupNoise:
    """Mean and rms energy of one collision in a cell, averaged over azimuth and the two sides."""
    eta_cell, sampling = cells // (NUM_PHI * NUM_SAMPLINGS), cells % NUM_SAMPLINGS
    row = eta_cell * NUM_SAMPLINGS + sampling
    size = NUM_ETA * NUM_SAMPLINGS
    energy = energy_gev.astype(np.float64)
    first, second = (np.bincount(row, w, size).reshape(NUM_ETA, -1) / (num_collisions * NUM_PHI) for w in (energy, energy**2))
    mean, square = (first + first[::-1]) / 2, (second + second[::-1]) / 2
    return PileupNoise(mean, np.sqrt(np.maximum(square - mean**2, 0.0)))


def draw_overlay(library: Library, num_collisions: int, rng: np.random.Generator) -> Overlay:
    """Choose the pileup collisions of one event."""
    return Overlay(
        rng.integers(0, library.num_collisions, num_collisions),
        rng.normal(0.0, BEAM_SPOT_MM, num_collisions),
        rng.integers(0, NUM_PHI, num_collisions),
        rng.random(num_collisions) < 0.5,
    )


def add_deposits(library: Library, overlay: Overlay, energy: Floats) -> None:
    """Add the chosen collisions' energies to a grid of shape GRID."""
    _add_deposits(library.cells, library.energy_gev, library.cell_offsets, overlay, energy)


def overlay_tracks(library: Library, overlay: Overlay, primary_z_mm: float) -> EventTracks:
    """Collect the tracks of the chosen collisions, turned and mirrored with them; the primary vertex is at `primary_z_mm`."""
    tracks = library.tracks
    lengths = np.diff(tracks.offsets)[overlay.collision]
    vertex = np.repeat(np.arange(len(lengths)), lengths)
    rows = np.arange(len(vertex)) + np.repeat(tracks.offsets[overlay.collision] - np.cumsum(lengths) + lengths, lengths)
    eta = np.where(overlay.mirrored[vertex], -1.0, 1.0) * tracks.eta[rows]
    return EventTracks(
        pt_gev=tracks.pt_gev[rows],
        eta=eta,
        phi_rad=wrap_phi(tracks.phi_rad[rows] + overlay.phi_cells[vertex] * CELL_PHI),
        charge=tracks.charge[rows],
        is_hadron=tracks.is_hadron[rows],
        at_primary=from_primary_vertex(overlay.z_mm[vertex] + tracks.dz_mm[rows] - primary_z_mm, eta),
        from_pileup=np.ones(len(rows), np.bool_),
    )


def pileup_vertices(library: Library, overlay: Overlay) -> Floats:
    """Return the places in mm of the chosen collisions that have enough tracks for a vertex."""
    return overlay.z_mm[library.tracks.makes_vertex()[overlay.collision]]


def save_library(library: Library, path: Path) -> None:
    """Write a library."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {f"tracks_{name}": values for name, values in vars(library.tracks).items()}
    arrays |= {f"noise_{name}": values for name, values in library.noise._asdict().items()}
    np.savez(buffer, cells=library.cells, energy_gev=library.energy_gev, cell_offsets=library.cell_offsets, **arrays)
    write_atomically(path, buffer.getvalue())


def load_library(path: Path) -> Library:
    """Read a library."""
    with local_copy(path) as file, np.load(file) as content:
        fields = dict(content)
    tracks = Tracks(**{field.name: fields[f"tracks_{field.name}"] for field in dataclasses.fields(Tracks)})
    noise = PileupNoise(fields["noise_mean_gev"], fields["noise_rms_gev"])
    return Library(fields["cells"], fields["energy_gev"], fields["cell_offsets"], tracks, noise)


def _collisions(
    particles: Particles, response: detector.Response, rng: np.random.Generator
) -> list[tuple[NDArray[np.int32], NDArray[np.float32], Tracks]]:
    """Simulate each collision of a batch: its cells, their energies, its tracks."""
    energy = np.zeros(GRID)
    flat = energy.reshape(-1)
    parts = []
    for first, last in zip(particles.offsets[:-1], particles.offsets[1:], strict=True):
        rows = slice(first, last)
        one = Particles(particles.p4[rows], particles.pdg[rows], particles.charge[rows], np.array([0, last - first]))
        detector.deposit(one.p4, one.pdg, one.charge, response, energy, np.empty(last - first), rng)
        cells = np.flatnonzero(flat).astype(np.int32)
        parts.append((cells, flat[cells].astype(np.float32), reconstruct_tracks(one, rng)))
        flat[cells] = 0.0
    return parts


def _join(tracks: tuple[Tracks, ...]) -> Tracks:
    """Put the tracks of single collisions after one another."""
    names = [field.name for field in dataclasses.fields(Tracks) if field.name != "offsets"]
    columns = {name: np.concatenate([getattr(part, name) for part in tracks]) for name in names}
    offsets = np.concatenate([[0], np.cumsum([part.offsets[-1] for part in tracks])]).astype(np.int64)
    return Tracks(**columns, offsets=offsets)


@njit(cache=True, nogil=True)
def _add_deposits(
    cells: NDArray[np.int32], energy_gev: NDArray[np.float32], offsets: NDArray[np.int64], overlay: Overlay, energy: Floats
) -> None:
    for n in range(overlay.collision.size):
        turn, mirrored = overlay.phi_cells[n], overlay.mirrored[n]
        for c in range(offsets[overlay.collision[n]], offsets[overlay.collision[n] + 1]):
            column, k = divmod(cells[c], NUM_SAMPLINGS)
            i, j = divmod(column, NUM_PHI)
            j += turn
            if j >= NUM_PHI:
                j -= NUM_PHI
            energy[NUM_ETA - 1 - i if mirrored else i, j, k] += energy_gev[c]
