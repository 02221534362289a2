import fastjet as classic
import numpy as np
import pytest

from distjet.physics.clustering import jet_definition
from distjet.physics.kinematics import to_cartesian
from distjet.physics.recombination import CAMBRIDGE, ENERGY, KT, PHI, PT, PX, RAPIDITY, exclusive, recombine


def particles(size, seed):
    rng = np.random.default_rng(seed)
    return to_cartesian(rng.exponential(5, size) + 0.1, rng.normal(size=size), rng.uniform(-4, 4, size), 0.14)


@pytest.mark.parametrize(("power", "algorithm"), [(KT, "kt"), (CAMBRIDGE, "cambridge")])
@pytest.mark.parametrize("size", [2, 3, 40, 150])
def test_subjets_are_those_of_fastjet(power, algorithm, size):
    p4 = particles(size, seed=size)
    tree = recombine(p4, power, False)
    sequence = classic.ClusterSequence([classic.PseudoJet(*row) for row in p4.tolist()], jet_definition(1000.0, algorithm))
    for count in {1, 2, min(size, 7), size}:
        expected = sorted([jet.px(), jet.py(), jet.pz(), jet.E()] for jet in sequence.exclusive_jets(count))
        found = sorted(tree.nodes[exclusive(tree, count)][:, PX : ENERGY + 1].tolist())
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    directions = [[jet.rap(), jet.phi_std()] for jet in sequence.jets()]
    np.testing.assert_allclose(tree.nodes[:, [RAPIDITY, PHI]], directions, rtol=1e-9, atol=1e-9)


def test_the_winner_gives_the_direction_and_all_give_pt():
    p4 = particles(30, seed=1)
    nodes = recombine(p4, KT, True).nodes
    assert nodes[-1, PT] == pytest.approx(np.hypot(p4[:, 0], p4[:, 1]).sum())
    assert any((nodes[-1, [RAPIDITY, PHI]] == nodes[leaf, [RAPIDITY, PHI]]).all() for leaf in range(30))


def test_one_constituent_has_no_merger():
    tree = recombine(particles(1, seed=2), KT, False)
    assert tree.children.shape == (0, 2)
    assert exclusive(tree, 3).tolist() == [0]
