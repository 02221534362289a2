import subprocess
import sys

import fastjet as classic
import numpy as np
import pytest

from distjet.errors import UserError
from distjet.physics import clustering
from distjet.physics.clustering import cluster, jet_definition, kt_median_rho, select_groups
from distjet.physics.kinematics import sum_groups


def classic_jets(p4, radius, algorithm, min_pt_gev):
    """FastJet's interface of one PseudoJet per particle."""
    particles = [classic.PseudoJet(*row) for row in p4.tolist()]
    for number, particle in enumerate(particles):
        particle.set_user_index(number)
    sequence = classic.ClusterSequence(particles, jet_definition(radius, algorithm))
    jets = classic.sorted_by_pt(sequence.inclusive_jets(min_pt_gev))
    momenta = [[jet.px(), jet.py(), jet.pz(), jet.E()] for jet in jets]
    return momenta, [sorted(particle.user_index() for particle in jet.constituents()) for jet in jets]


@pytest.mark.parametrize("algorithm", ["antikt", "kt", "cambridge"])
@pytest.mark.parametrize("radius", [0.2, 0.4, 1.0])
def test_batch_clustering_agrees_with_classic_fastjet(toy, radius, algorithm):
    jets = cluster(toy.p4, toy.offsets, radius, 5.0, algorithm)
    for event in range(4):
        momenta, members = classic_jets(toy.p4[toy.event(event)], radius, algorithm, 5.0)
        own = range(jets.event_offsets[event], jets.event_offsets[event + 1])
        np.testing.assert_allclose(jets.p4[list(own)], np.reshape(momenta, (-1, 4)), rtol=1e-9, atol=1e-9)
        found = [jets.constituents[jets.constituent_offsets[j] : jets.constituent_offsets[j + 1]] for j in own]
        assert [sorted((part - toy.offsets[event]).tolist()) for part in found] == members
    assert jets.num_jets > 10


def test_jets_are_the_exact_sum_of_their_constituents(toy):
    jets = cluster(toy.p4, toy.offsets, 0.4, 5.0)
    np.testing.assert_array_equal(jets.p4, sum_groups(toy.p4[jets.constituents], jets.constituent_offsets))


def test_no_particles_at_all():
    jets = cluster(np.empty((0, 4)), np.zeros(3, np.int64), 0.4, 5.0)
    assert jets.num_jets == 0
    np.testing.assert_array_equal(jets.event_offsets, [0, 0, 0])


def test_selected_groups_keep_their_values():
    values, offsets = select_groups(np.arange(6), np.array([0, 2, 2, 6]), np.array([2, 0, 1]))
    np.testing.assert_array_equal(values, [2, 3, 4, 5, 0, 1])
    np.testing.assert_array_equal(offsets, [0, 4, 6, 6])


def test_density_is_a_function_of_the_event_alone(toy, dense_toy):
    event, sparse, other = dense_toy.p4[dense_toy.event(0)], toy.p4[toy.event(0)], dense_toy.p4[dense_toy.event(1)]
    densities = [kt_median_rho(event) for _ in range(4)]
    low = kt_median_rho(sparse)
    for _ in range(3):
        kt_median_rho(other)
        densities.append(kt_median_rho(event))
        assert kt_median_rho(sparse) == low
    assert len(set(densities)) == 1
    assert densities[0] != kt_median_rho(other) > 10 * low


def test_density_agrees_with_scattered_ghosts_on_average(dense_toy):
    area = classic.AreaDefinition(classic.active_area_explicit_ghosts, classic.GhostedAreaSpec(2.8))
    estimator = classic.JetMedianBackgroundEstimator(classic.SelectorAbsEtaMax(2.0), jet_definition(0.4, "kt"), area)
    differences = []
    for number in range(4):
        particles = dense_toy.p4[dense_toy.event(number)]
        estimator.set_particles([classic.PseudoJet(*row) for row in particles.tolist()])
        differences.append(kt_median_rho(particles) / estimator.rho() - 1)
    assert np.max(np.abs(differences)) < 0.08
    assert abs(np.mean(differences)) < 0.04


def test_missing_fastjet_names_the_extra(monkeypatch):
    clustering.fastjet.cache_clear()
    monkeypatch.setitem(sys.modules, "fastjet", None)
    with pytest.raises(UserError, match=r"pip install 'distjet\[simulation\]'"):
        clustering.fastjet()


def test_no_banner():
    imports = "import numpy as np; from distjet.physics.clustering import cluster"
    code = f"{imports}; cluster(np.ones((1, 4)), np.array([0, 1]), 0.4, 0.1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
