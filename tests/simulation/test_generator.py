import sys
from itertools import pairwise

import numpy as np
import pytest

from distjet.errors import UserError
from distjet.physics.kinematics import mass, pt
from distjet.simulation.generator import (
    PROCESSES,
    charges,
    cross_section_pb,
    generate,
    process_settings,
    pythia_seed,
    start_pythia,
)
from distjet.simulation.samples import GeneratorConfig, SampleConfig

SAMPLE = SampleConfig(pthat_min_gev=60, pthat_max_gev=160, num_events=1)
SETTINGS = process_settings(SAMPLE, GeneratorConfig())

KNOWN_CHARGES = {
    211: 1, -211: -1, 321: 1, -321: -1, 2212: 1, -2212: -1, 11: -1, -11: 1, 13: -1, -13: 1, 3112: -1, 3222: 1, 3312: -1,
    3334: -1, -3334: 1, 22: 0, 130: 0, 310: 0, 2112: 0, -2112: 0, 3122: 0, 3322: 0, 12: 0, 14: 0, 16: 0,
}  # fmt: skip


@pytest.fixture(scope="module")
def pythia():
    return start_pythia(SETTINGS, 13600.0, 5)


@pytest.fixture(scope="module")
def events(pythia):
    (batch,) = generate(pythia, 20)
    return batch


def test_charges_agree_with_the_particle_data_group(pythia):
    pdg = np.array(list(KNOWN_CHARGES))
    np.testing.assert_array_equal(charges(pythia, pdg), list(KNOWN_CHARGES.values()))


def test_every_event_conserves_momentum_energy_and_charge(events):
    particles = events.particles
    assert particles.num_events == 20
    for first, last in zip(particles.offsets[:-1], particles.offsets[1:], strict=True):
        total = particles.p4[first:last].sum(axis=0)
        np.testing.assert_allclose(total, [0, 0, 0, 13600], atol=0.5)
        assert particles.charge[first:last].sum() == 2


def test_pthat_stays_in_the_slice_and_is_that_of_the_partons(events):
    assert np.all((events.pthat_gev > 60) & (events.pthat_gev < 160))
    np.testing.assert_array_equal(np.diff(events.partons.offsets), 2)
    assert set(np.abs(events.partons.pdg)) <= {1, 2, 3, 4, 5, 21}
    parton_pt = np.hypot(*events.partons.p4[::2, :2].T)
    np.testing.assert_allclose(parton_pt, events.pthat_gev, rtol=0.2)


def test_the_seed_decides():
    first, again, other = (next(generate(start_pythia(SETTINGS, 13600.0, seed), 3)).particles.p4 for seed in (7, 7, 8))
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or np.any(first != other)


def test_seeds_differ_between_streams_and_files():
    seeds = {pythia_seed(seed, stream, index) for seed in (1, 2) for stream in ("a", "b") for index in range(50)}
    assert len(seeds) == 200
    assert all(1 <= seed <= 900_000_000 for seed in seeds)


def test_no_two_files_of_a_sample_share_a_seed():
    seeds = {pythia_seed(1, "dijet_JZ1", index) for index in range(200_000)}
    assert len(seeds) == 200_000
    assert min(seeds) >= 1
    assert max(seeds) <= 900_000_000


def test_seeds_go_on_at_1_after_the_largest():
    first = pythia_seed(1, "a")
    around = [pythia_seed(1, "a", 900_000_000 - first + step) for step in range(3)]
    assert around == [900_000_000, 1, 2]


def test_cross_section_agrees_with_the_full_generation(pythia, events):
    apart = cross_section_pb(SAMPLE, GeneratorConfig(cross_section_trials=4000), 3)
    info = pythia.infoPython()
    assert apart == pytest.approx(info.sigmaGen() * 1e9, abs=5 * info.sigmaErr() * 1e9)


def test_cross_sections_of_slices_add_up():
    def measure(low, high):
        sample = SampleConfig(pthat_min_gev=low, pthat_max_gev=high, num_events=1)
        return cross_section_pb(sample, GeneratorConfig(), 3)

    assert measure(60, 100) + measure(100, 160) == pytest.approx(measure(60, 160), rel=0.03)


def test_top_pairs_decay_to_quarks():
    sample = SampleConfig(process="ttbar", pthat_min_gev=100, num_events=1)
    batch = next(generate(start_pythia(process_settings(sample, GeneratorConfig()), 13600.0, 5), 5))
    flavours = np.abs(batch.partons.pdg)
    assert np.all(np.add.reduceat(flavours == 5, batch.partons.offsets[:-1]) >= 2)
    assert np.all(np.diff(batch.partons.offsets) >= 6)


@pytest.mark.parametrize(
    ("process", "mass_gev", "quarks"), [("w_jet", 80.4, range(1, 6)), ("z_jet", 91.2, range(1, 6)), ("h_jet", 125.0, (4, 5))]
)
def test_bosons_decay_to_quarks(process, mass_gev, quarks):
    sample = SampleConfig(process=process, pthat_min_gev=300, num_events=1)
    batch = next(generate(start_pythia(process_settings(sample, GeneratorConfig()), 13600.0, 5), 20))
    partons = batch.partons
    np.testing.assert_array_equal(np.diff(partons.offsets), 3)  # the recoil, and two from the decay
    decays = partons.p4.reshape(-1, 3, 4)[:, 1:]
    assert set(np.abs(partons.pdg.reshape(-1, 3)[:, 1:]).ravel().tolist()) <= set(quarks)
    assert np.median(mass(decays.sum(axis=1))) == pytest.approx(mass_gev, rel=0.03)
    assert np.median(pt(decays.sum(axis=1))) > 290


def test_vincia_is_another_shower_of_the_same_process():
    samples = [SampleConfig(pthat_min_gev=60, pthat_max_gev=160, num_events=1, shower=name) for name in ("simple", "vincia")]
    config = GeneratorConfig(extra_settings=("PartonLevel:MPI = off",), cross_section_trials=4000)
    sections = [cross_section_pb(sample, config, 3) for sample in samples]
    assert sections[1] == pytest.approx(sections[0], rel=0.05)
    simple, vincia = (
        next(generate(start_pythia(process_settings(sample, config), 13600.0, 5), 20)).particles for sample in samples
    )
    assert simple.p4.shape != vincia.p4.shape
    for first, last in pairwise(vincia.offsets):
        np.testing.assert_allclose(vincia.p4[first:last].sum(axis=0), [0, 0, 0, 13600], atol=0.5)


def test_unknown_setting_is_named():
    with pytest.raises(UserError, match="PartonLevel:MPPI"):
        start_pythia(("PartonLevel:MPPI = off",), 13600.0, 1)


def test_missing_pythia_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pythia8mc", None)
    with pytest.raises(UserError, match=r"pip install 'distjet\[simulation\]'"):
        start_pythia(PROCESSES["inelastic"], 13600.0, 1)
