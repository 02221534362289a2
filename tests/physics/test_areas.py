import fastjet as classic
import numpy as np
import pytest

from distjet.physics.areas import SPACING, grid_median_rho, voronoi_areas
from distjet.physics.clustering import cluster, jet_definition, kt_median_rho
from distjet.physics.kinematics import sum_groups, to_cylindrical, wrap_phi

RADII = (0.2, 0.4, 1.0)


def pseudo_jets(p4):
    return [classic.PseudoJet(*row) for row in p4.tolist()]


@pytest.mark.parametrize(("number", "tolerance"), [(0, 0.03), (1, 0.012), (2, 0.006)])
def test_jet_areas_agree_with_fastjet_voronoi_areas(toy, number, tolerance):
    radius = RADII[number]
    jets = cluster(toy.p4, toy.offsets, radius, 5.0)
    areas = voronoi_areas(toy.eta, toy.phi, toy.offsets, RADII)[:, number]
    own = sum_groups(areas[jets.constituents], jets.constituent_offsets)
    definition = classic.AreaDefinition(classic.VoronoiAreaSpec(0.9))
    expected = []
    for event in (0, 2):
        sequence = classic.ClusterSequenceArea(pseudo_jets(toy.p4[toy.event(event)]), jet_definition(radius), definition)
        expected += [jet.area() for jet in classic.sorted_by_pt(sequence.inclusive_jets(5.0))]
    own = own[: len(expected)]
    central = np.abs(to_cylindrical(jets.p4[: len(own)]).eta) < 3.5
    ratio = own[central] / np.array(expected)[central]
    assert ratio.mean() == pytest.approx(1.0, abs=0.01)
    assert ratio.std() < tolerance


def test_areas_do_not_change_when_the_event_is_turned(toy):
    turned = wrap_phi(toy.phi + 40 * SPACING)
    before, after = (voronoi_areas(toy.eta, phi, toy.offsets, RADII) for phi in (toy.phi, turned))
    np.testing.assert_allclose(after, before, atol=3 * SPACING**2)
    assert np.mean(after != before) < 0.01


def test_a_lonely_particle_owns_its_circle():
    areas = voronoi_areas(np.array([0.123]), np.array([3.1]), np.array([0, 1]), (1.0,))
    assert areas[0, 0] == pytest.approx(np.pi * 0.81, rel=0.01)


def test_grid_median_equals_fastjet(dense_toy):
    own = grid_median_rho(dense_toy.pt, dense_toy.eta, dense_toy.phi, dense_toy.offsets)
    for event, rho in enumerate(own):
        estimator = classic.GridMedianBackgroundEstimator(2.0, 0.55)
        estimator.set_particles(pseudo_jets(dense_toy.p4[dense_toy.event(event)]))
        assert rho == pytest.approx(estimator.rho(), rel=1e-9)


def test_grid_median_and_kt_median_agree_on_uniform_pileup(dense_toy):
    grid = grid_median_rho(dense_toy.pt, dense_toy.eta, dense_toy.phi, dense_toy.offsets)
    from_jets = [kt_median_rho(dense_toy.p4[dense_toy.event(event)]) for event in range(4)]
    assert np.mean(grid) == pytest.approx(np.mean(from_jets), rel=0.05)


def test_density_of_an_empty_event_is_zero(toy):
    assert grid_median_rho(toy.pt, toy.eta, toy.phi, toy.offsets)[1] == 0.0
