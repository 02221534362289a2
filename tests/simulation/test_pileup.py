import numpy as np
import pytest

from distjet.simulation.detector import (
    CELL_PHI,
    GRID,
    NUM_ETA,
    NUM_PHI,
    NUM_SAMPLINGS,
    add_noise,
    electronic_noise,
    gaussian_quantiles,
    noise_terms,
)
from distjet.simulation.pileup import (
    Overlay,
    add_deposits,
    draw_overlay,
    load_library,
    overlay_tracks,
    pileup_vertices,
    save_library,
)
from distjet.simulation.samples import DetectorConfig


def grid_of(library, collision):
    cells = slice(library.cell_offsets[collision], library.cell_offsets[collision + 1])
    grid = np.zeros(GRID)
    grid.reshape(-1)[library.cells[cells]] = library.energy_gev[cells]
    return grid


@pytest.fixture(scope="module")
def busiest(library):
    """The two collisions with the most tracks."""
    return np.argsort(np.diff(library.tracks.offsets))[-2:].tolist()


def overlay(collisions, turns, mirrored, z_mm=0.0):
    num = len(collisions)
    return Overlay(np.array(collisions), np.full(num, z_mm), np.array(turns), np.array(mirrored))


def test_overlay_turns_mirrors_and_adds(library):
    grid = np.zeros(GRID)
    add_deposits(library, overlay([3, 5, 3], [0, 100, 127], [False, True, True]), grid)
    expected = grid_of(library, 3) + np.roll(grid_of(library, 5), 100, axis=1)[::-1]
    expected += np.roll(grid_of(library, 3), 127, axis=1)[::-1]
    np.testing.assert_allclose(grid, expected, rtol=1e-12)
    assert grid.sum() > 0


def test_mean_and_rms_per_cell_agree_with_the_full_grids(library):
    grids = np.stack([grid_of(library, collision) for collision in range(library.num_collisions)])
    both_sides = np.concatenate([grids, grids[:, ::-1]])
    np.testing.assert_allclose(library.noise.mean_gev, both_sides.mean(axis=(0, 2)), atol=1e-9)
    np.testing.assert_allclose(library.noise.rms_gev, both_sides.std(axis=(0, 2)), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("out_of_time_noise", [0.5, 2.0])
def test_expected_noise_is_the_rms_of_cells_in_empty_crossings(library, out_of_time_noise):
    rng, mu, num_events = np.random.default_rng(3), 50.0, 40
    terms = noise_terms(electronic_noise(DetectorConfig()), library.noise, mu, (0.9, out_of_time_noise))
    square = np.zeros((NUM_ETA, NUM_SAMPLINGS))
    for _ in range(num_events):
        grid = np.zeros(GRID)
        add_deposits(library, draw_overlay(library, rng.poisson(mu), rng), grid)
        draws = rng.integers(0, 65536, grid.size, dtype=np.uint16)
        add_noise(grid, draws, gaussian_quantiles(), terms.drawn_gev, terms.offset_gev)
        square += ((grid - 0.1 * mu * library.noise.mean_gev[:, np.newaxis]) ** 2).mean(axis=1)
    pulls = np.sqrt(square / num_events) / terms.expected_gev
    forward = np.r_[0:30, NUM_ETA - 30 : NUM_ETA]  # here pileup dominates
    assert pulls.mean() == pytest.approx(1.0, abs=0.04)
    assert pulls[forward].mean() == pytest.approx(1.0, abs=0.04)


def test_tracks_turn_with_the_deposits(library, busiest):
    straight = overlay_tracks(library, overlay(busiest, [0, 0], [False] * 2), 0.0)
    turned = overlay_tracks(library, overlay(busiest, [NUM_PHI // 2] * 2, [True] * 2), 0.0)
    np.testing.assert_allclose(turned.eta, -straight.eta)
    np.testing.assert_allclose(np.cos(turned.phi_rad - straight.phi_rad), -1.0)
    assert len(straight.eta) > 0
    assert pytest.approx(np.pi) == NUM_PHI // 2 * CELL_PHI


def test_distant_collisions_leave_no_track_at_the_primary_vertex(library, busiest):
    chosen = [overlay(busiest, [0, 0], [False] * 2, z_mm) for z_mm in (0.0, 60.0)]
    near, far = (overlay_tracks(library, collisions, 0.0) for collisions in chosen)
    assert near.at_primary.mean() > 0.9
    assert not far.at_primary.any()
    assert np.all(far.from_pileup)
    assert len(near.pt_gev) == len(far.pt_gev) == np.diff(library.tracks.offsets)[busiest].sum()
    np.testing.assert_array_equal(pileup_vertices(library, chosen[1]), [60.0, 60.0])


def test_draws_cover_the_library(library):
    drawn = draw_overlay(library, 5000, np.random.default_rng(1))
    assert set(drawn.collision) == set(range(library.num_collisions))
    assert set(drawn.phi_cells) == set(range(NUM_PHI))
    assert drawn.mirrored.mean() == pytest.approx(0.5, abs=0.03)
    assert drawn.z_mm.std() == pytest.approx(40.0, rel=0.05)


def test_library_survives_the_disk(library, tmp_path):
    save_library(library, tmp_path / "library.npz")
    copy = load_library(tmp_path / "library.npz")
    for name in ("cells", "energy_gev", "cell_offsets"):
        np.testing.assert_array_equal(getattr(copy, name), getattr(library, name))
    for name, values in vars(library.tracks).items():
        np.testing.assert_array_equal(getattr(copy.tracks, name), values)
    np.testing.assert_array_equal(copy.noise.rms_gev, library.noise.rms_gev)


def test_library_looks_like_minimum_bias(library):
    assert 8 < np.diff(library.tracks.offsets).mean() < 16  # experiments see 2.9 per unit of eta above 0.5 GeV
    assert 250 < library.noise.mean_gev.sum() * NUM_PHI < 700
    assert library.cells.max() < np.prod(GRID)
    assert set(np.unique(library.cells % NUM_SAMPLINGS)) == {0, 1, 2}
