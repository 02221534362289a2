"""Are the particles of the gun flat in mass and pT, and whole in what they decay to?"""

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from distjet.physics.kinematics import mass, pt
from distjet.simulation.generator import cross_section_pb, generate, process_settings, start_pythia
from distjet.simulation.gun import draw_particles, gun
from distjet.simulation.samples import GeneratorConfig, SampleConfig

BASE = {"process": "resonance_gun", "mass_gev": (15, 250), "pthat_min_gev": 450, "pthat_max_gev": 1000, "num_events": 1}


def shot(num_events, **changes):
    sample = SampleConfig.model_validate(BASE | {"decay": "bb"} | changes)
    pythia = start_pythia(process_settings(sample, GeneratorConfig()), 13600.0, 5)
    return list(generate(pythia, num_events, gun(sample, np.random.default_rng(1))))


def test_particles_are_flat():
    p4, mass_gev = draw_particles(SampleConfig.model_validate(BASE | {"decay": "bb"}), 5000, np.random.default_rng(3))
    np.testing.assert_allclose(mass(p4), mass_gev, rtol=1e-6)
    for values, low, high in ((mass_gev, 15, 250), (pt(p4), 450, 1000)):
        assert stats.kstest(values, stats.uniform(low, high - low).cdf).pvalue > 1e-3


@pytest.mark.parametrize("shower", ["simple", "vincia"])
@pytest.mark.parametrize("hadronisation", [True, False])
def test_everything_comes_from_the_particle(shower, hadronisation):
    (events,) = shot(60, shower=shower, hadronisation=hadronisation)
    particles = events.particles
    total = np.array([particles.p4[first:last].sum(axis=0) for first, last in pairwise(particles.offsets)])
    np.testing.assert_allclose(pt(total), events.pthat_gev, rtol=1e-6)
    assert stats.kstest(mass(total), stats.uniform(15, 235).cdf).pvalue > 1e-3
    lengths = np.diff(particles.offsets)
    assert (np.median(lengths) > 20) if hadronisation else (3 < np.median(lengths) < 20), "showers, and hadrons if wanted"
    assert (np.abs(particles.pdg) <= 22).all() == (not hadronisation)


@pytest.mark.parametrize(("decay", "flavours"), [("bb", {5}), ("cc", {4}), ("qq", {1, 2, 3})])
def test_it_decays_to_two_quarks_of_the_chosen_kind(decay, flavours):
    (events,) = shot(60, decay=decay)
    np.testing.assert_array_equal(np.diff(events.partons.offsets), 2)
    assert set(np.abs(events.partons.pdg).tolist()) == flavours
    assert np.all(events.partons.pdg.reshape(-1, 2).sum(axis=1) == 0)
    np.testing.assert_array_equal(events.origins.pdg, 25)
    assert len(set(events.origins.decay.tolist())) == 60


def test_batches_go_on_until_there_are_enough():
    assert [events.particles.num_events for events in shot(150, hadronisation=False)] == [100, 50]


def test_it_counts_as_one_picobarn():
    assert cross_section_pb(SampleConfig.model_validate(BASE | {"decay": "bb"}), GeneratorConfig(), 1) == 1.0
