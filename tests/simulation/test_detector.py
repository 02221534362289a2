import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from distjet.physics.kinematics import to_cartesian
from distjet.simulation import detector
from distjet.simulation.detector import CELL_PHI, GRID, NUM_ETA, NUM_SAMPLINGS, PileupNoise, Response
from distjet.simulation.generator import Particles
from distjet.simulation.samples import DetectorConfig

IDEAL = Response(e_over_h=1.0, material_scale=0.0)
DEFAULT = detector.response(DetectorConfig())
PHOTON, PION, MUON, NEUTRINO, KAON_LONG = 22, 211, 13, 14, 130


def simulate(pdg, energy_gev, eta=0.3, response=DEFAULT, *, phi=0.4, charge=0.0, num=400, seed=1):
    """Deposit `num` equal particles; return the grid and the leaked energies."""
    p4 = np.tile(to_cartesian(energy_gev / np.cosh(eta), eta, phi), (num, 1))
    grid, leaked = np.zeros(GRID), np.empty(num)
    args = np.full(num, pdg), np.full(num, charge), response, grid, leaked, np.random.default_rng(seed)
    detector.deposit(p4, *args)
    return grid, leaked


def mean_response(pdg, energy_gev, *args, **options):
    num = options.get("num", 400)
    return simulate(pdg, energy_gev, *args, **options)[0].sum() / (num * energy_gev)


@pytest.mark.parametrize("energy_gev", [5.0, 50.0, 500.0])
@pytest.mark.parametrize("pdg", [PHOTON, KAON_LONG])
def test_energy_is_conserved_without_material_and_with_compensation(pdg, energy_gev):
    grid, leaked = simulate(pdg, energy_gev, response=IDEAL, num=2000)
    assert (grid.sum() + leaked.sum()) / (2000 * energy_gev) == pytest.approx(1.0, abs=0.012)


@pytest.mark.parametrize("shape", [(0.018, 4), (0.06, 5), (0.01, 1)])
def test_spots_carry_all_the_energy(shape):
    grid = np.zeros(GRID)
    rng = np.random.default_rng(2)
    for _ in range(50):
        detector._spread((0.1, 3.1), 1, 2.0, shape, grid, rng)
    assert grid.sum() == pytest.approx(100.0, rel=1e-12)
    assert grid[:, :, [0, 2]].sum() == 0.0


def test_photons_are_measured_better_than_hadrons_and_hadrons_too_low():
    photon, soft, hard = mean_response(PHOTON, 100.0), mean_response(KAON_LONG, 10.0), mean_response(KAON_LONG, 300.0)
    assert 0.95 < photon < 1.0
    assert 0.55 < soft < hard - 0.05 < 0.95


def test_response_dips_behind_dead_material():
    assert mean_response(PHOTON, 100.0, 1.45) < mean_response(PHOTON, 100.0, 0.5) - 0.08


def test_charged_particles_bend_and_slow_ones_never_arrive():
    assert mean_response(PION, 0.5, 1.0, charge=1.0) == 0.0  # pT 0.32 GeV
    centres = []
    for charge in (1.0, -1.0, 0.0):
        grid = simulate(PION, 2.0, 0.0, IDEAL, phi=0.0, charge=charge)[0].sum(axis=(0, 2))
        angles = np.arange(grid.size) * CELL_PHI - np.pi + CELL_PHI / 2
        centres.append(np.angle((grid * np.exp(1j * angles)).sum()))
    np.testing.assert_allclose(centres, [-np.arcsin(0.21), np.arcsin(0.21), 0.0], atol=0.02)


def test_neutrinos_are_invisible_and_muons_leave_little():
    assert mean_response(NEUTRINO, 100.0) == 0.0
    assert mean_response(MUON, 100.0, charge=-1.0) == pytest.approx(0.02)


@pytest.mark.parametrize(("energy_gev", "deposited_gev"), [(0.5, 0.5), (1.0, 1.0), (2.5, 2.0), (1000.0, 2.0)])
def test_muons_create_no_energy(energy_gev, deposited_gev):
    grid, leaked = simulate(MUON, energy_gev, charge=-1.0)
    assert grid.sum() / 400 == pytest.approx(deposited_gev, rel=1e-9)
    assert leaked.sum() == 0.0


@settings(deadline=None)  # the first call may compile
@given(
    pdg=st.sampled_from([PHOTON, KAON_LONG, MUON, NEUTRINO]),
    energy_gev=st.floats(0.2, 100.0),
    eta=st.floats(-4.5, 4.5),
)
def test_no_particle_is_measured_far_above_its_energy(pdg, energy_gev, eta):
    grid, _ = simulate(pdg, energy_gev, eta, charge=-1.0 if pdg == MUON else 0.0, num=1)
    fluctuation = 6 * (0.45 * np.sqrt(energy_gev) + 0.04 * energy_gev) if pdg in {PHOTON, KAON_LONG} else 1e-9
    assert grid.sum() <= energy_gev + fluctuation


@pytest.mark.parametrize(("energy_gev", "eta"), [(5.0, 0.3), (30.0, 0.3), (30.0, -1.45)])
def test_expected_signal_is_that_of_the_showers(energy_gev, eta):
    signals = [simulate(KAON_LONG, energy_gev, eta, num=1, seed=seed)[0].sum() for seed in range(1500)]
    mean, spread = detector.expected_hadronic_signal(eta, energy_gev, DEFAULT)
    assert np.mean(signals) == pytest.approx(mean, rel=0.02)
    assert np.std(signals) == pytest.approx(spread, rel=0.08)


def test_azimuth_is_periodic():
    reference, _ = simulate(KAON_LONG, 50.0, phi=0.4)
    for turn in (1, 60, 127):
        turned, _ = simulate(KAON_LONG, 50.0, phi=0.4 + turn * CELL_PHI)
        np.testing.assert_allclose(np.roll(reference, turn, axis=1), turned, rtol=1e-9, atol=1e-9)


def test_energy_beyond_the_calorimeter_is_lost():
    inside, outside = simulate(KAON_LONG, 500.0, 4.7, IDEAL), simulate(KAON_LONG, 500.0, 4.89, IDEAL)
    assert simulate(KAON_LONG, 500.0, 4.95, IDEAL)[0].sum() == 0.0
    assert outside[0].sum() < 0.8 * inside[0].sum()


def test_very_hard_hadrons_leak_into_the_muon_chambers():
    _, leaked = simulate(KAON_LONG, 3000.0, num=1000)
    assert np.mean(leaked > 0) == pytest.approx(1 - np.exp(-1), abs=0.06)
    p4 = np.tile(to_cartesian(3000.0, 0.1, 0.0), (1000, 1))
    particles = Particles(p4, np.full(1000, KAON_LONG), np.zeros(1000), np.array([0, 1000]))
    segments = detector.muon_segments(particles, leaked, np.random.default_rng(0))
    np.testing.assert_array_equal(segments > 0, leaked > 0)


def test_quantiles_are_those_of_the_gaussian():
    expected = norm.ppf((np.arange(65536) + 0.5) / 65536)
    np.testing.assert_allclose(detector.gaussian_quantiles(), expected, atol=1e-9)


def test_noise_has_the_wanted_mean_and_width():
    shape = (NUM_ETA, NUM_SAMPLINGS)
    pileup = PileupNoise(np.full(shape, 0.01), np.full(shape, 0.02))
    electronic = detector.electronic_noise(DetectorConfig())
    terms = detector.noise_terms(electronic, pileup, 25.0, (0.9, 0.5))
    grid = np.zeros(GRID)
    draws = np.random.default_rng(1).integers(0, 65536, grid.size, dtype=np.uint16)
    detector.add_noise(grid, draws, detector.gaussian_quantiles(), terms.drawn_gev, terms.offset_gev)
    central = slice(60, 136)
    np.testing.assert_allclose(grid[central].mean(axis=(0, 1)), -0.9 * 25 * 0.01, atol=0.004)
    np.testing.assert_allclose(grid[central].std(axis=(0, 1)), np.hypot([0.035, 0.05, 0.06], 0.05), rtol=0.03)
    total = np.sqrt(np.square([0.035, 0.05, 0.06]) + 0.1**2 + 0.05**2)  # electronics, in-time and out-of-time pileup
    np.testing.assert_allclose(terms.expected_gev[100], total, rtol=1e-12)
