"""Spec: the declusterings of a jet are those that FastJet finds, whichever way one walks through them."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from distjet.physics.clustering import fastjet, jet_definition
from distjet.physics.kinematics import to_cartesian
from distjet.physics.lund import LundTrees, lund_trees

LN_Z, LN_DELTA, PSI, LN_M, LN_KT = range(5)


def random_jets(sizes: list[int], seed: int, mass: float = 0.14) -> tuple[np.ndarray, np.ndarray]:
    """Jets with soft and collinear constituents, about some axis anywhere."""
    rng = np.random.default_rng(seed)
    jets = []
    for size in sizes:
        distance, angle = 10 ** rng.uniform(-4, 0, size), rng.uniform(0, 2 * np.pi, size)
        eta, phi = rng.uniform(-2, 2) + distance * np.cos(angle), rng.uniform(-np.pi, np.pi) + distance * np.sin(angle)
        jets.append(to_cartesian(10 ** rng.uniform(-1, 2.5, size), eta, phi, mass))
    return np.concatenate(jets), np.concatenate([[0], np.cumsum(sizes)])


def shower_jets(num_jets: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Jets whose constituents come from a chain of splittings, soft and at small angles, as in a shower."""
    rng = np.random.default_rng(seed)
    jets = []
    for _ in range(num_jets):
        branches = [(500.0, rng.uniform(-2, 2), rng.uniform(-np.pi, np.pi), 1.0)]
        for _ in range(rng.integers(20, 70)):
            pt, eta, phi, angle = branches.pop(int(np.argmax([branch[0] * branch[3] for branch in branches])))
            z, delta, psi = 10 ** rng.uniform(-2, -0.31), angle * 10 ** rng.uniform(-0.7, 0), rng.uniform(0, 2 * np.pi)
            for share, sign in ((1 - z, z), (z, z - 1)):
                place = (eta + sign * delta * np.cos(psi), phi + sign * delta * np.sin(psi))
                branches.append((pt * share, *place, delta))
        pt, eta, phi, _ = np.array(branches).T
        jets.append(to_cartesian(pt, eta, phi, 0.0))
    return np.concatenate(jets), np.concatenate([[0], np.cumsum([len(jet) for jet in jets])])


def reclustered(p4: np.ndarray) -> tuple[Any, Any]:
    """The jet of all constituents; the clustering has to live as long."""
    module = fastjet()
    sequence = module.ClusterSequence([module.PseudoJet(*map(float, row)) for row in p4], jet_definition(1000.0, "cambridge"))
    (jet,) = sequence.inclusive_jets()
    return jet, sequence


def branches(jet: Any) -> tuple[Any, Any] | None:
    """Both branches of a declustering by FastJet, the harder one first."""
    first, second = fastjet().PseudoJet(), fastjet().PseudoJet()
    if not jet.has_parents(first, second):
        return None
    return (second, first) if second.pt() > first.pt() else (first, second)


def coordinates(harder: Any, softer: Any) -> list[float]:
    delta = max(harder.delta_R(softer), 1e-6)
    dphi, dy = softer.delta_phi_to(harder), harder.rap() - softer.rap()
    return [
        math.log(softer.pt() / (harder.pt() + softer.pt())),
        math.log(delta),
        math.atan(dy / dphi),
        0.5 * math.log(abs((harder + softer).m2())),
        math.log(softer.pt() * delta),
    ]


def tree_of_fastjet(p4: np.ndarray, min_kt: float = 0.0) -> list[tuple[int, list[float]]]:
    """Parent and coordinates of each declustering, breadth first, the harder branch first."""
    jet, _sequence = reclustered(p4)
    queue, found = [(-1, jet)], []
    while queue:
        parent, jet = queue.pop(0)
        while (pair := branches(jet)) and pair[1].pt() * pair[0].delta_R(pair[1]) < min_kt:
            jet = pair[0]
        if pair:
            queue += [(len(found), branch) for branch in pair]
            found.append((parent, coordinates(*pair)))
    return found


def check(trees: LundTrees, p4: np.ndarray, ptr: np.ndarray, min_kt: float = 0.0) -> int:
    total = 0
    for jet in range(len(ptr) - 1):
        expected = tree_of_fastjet(p4[ptr[jet] : ptr[jet + 1]], min_kt)
        mine = slice(trees.ptr[jet], trees.ptr[jet + 1])
        if not expected:
            assert trees.coordinates[mine].tolist() == [[0] * 5]
            continue
        assert trees.parents[mine].tolist() == [parent for parent, _ in expected]
        reference = np.array([row for _, row in expected])
        np.testing.assert_allclose(trees.coordinates[mine], reference, rtol=1e-4, atol=1e-5)
        total += len(expected)
    return total


def test_random_jets_have_the_tree_of_fastjet() -> None:
    sizes = np.random.default_rng(5).integers(2, 60, 150).tolist()
    p4, ptr = random_jets(sizes, seed=1)
    assert check(lund_trees(p4, ptr), p4, ptr) == sum(sizes) - len(sizes)


def test_jets_of_a_shower_have_the_tree_of_fastjet() -> None:
    p4, ptr = shower_jets(100, seed=2)
    trees = lund_trees(p4, ptr)
    assert check(trees, p4, ptr) > 3000
    assert trees.coordinates.dtype == np.float32


@pytest.mark.parametrize("ln_kt", [-3.0, 0.0, 1.5])
def test_a_cut_follows_the_harder_branch(ln_kt: float) -> None:
    p4, ptr = shower_jets(60, seed=3)
    trees = lund_trees(p4, ptr, ln_kt)
    assert check(trees, p4, ptr, math.exp(ln_kt)) > 60
    kept = trees.coordinates[trees.coordinates.any(1), LN_KT]
    assert kept.min() >= ln_kt - 1e-5


def test_the_primary_plane_is_that_of_fastjet_contrib() -> None:
    """FastJet's own declusterings along the hardest branch follow each other in the tree, from the first."""
    p4, ptr = shower_jets(50, seed=4)
    trees = lund_trees(p4, ptr)
    for jet in range(50):
        mine = slice(trees.ptr[jet], trees.ptr[jet + 1])
        rows, parents = np.exp(trees.coordinates[mine][:, [LN_DELTA, LN_KT]]), trees.parents[mine]
        parent = -1
        for expected in primary_plane(p4[ptr[jet] : ptr[jet + 1]]):
            (parent,) = np.flatnonzero((parents == parent) & np.isclose(rows, expected, rtol=1e-4).all(1))


def primary_plane(p4: np.ndarray) -> list[tuple[float, float]]:
    """(Delta, kT) of FastJet's own primary declusterings, from the first."""
    import awkward as ak

    event = ak.zip(dict(zip(("px", "py", "pz", "E"), p4.T, strict=True)), with_name="Momentum4D")
    clustered = fastjet().ClusterSequence(event, jet_definition(1000.0, "cambridge"))
    found = [(row["Delta"], row["kt"]) for row in clustered.exclusive_jets_lund_declusterings(njets=1)[0].to_list()]
    assert len(found) >= 3
    return found


def test_a_higher_cut_keeps_fewer_declusterings() -> None:
    p4, ptr = shower_jets(40, seed=6)
    trees = [lund_trees(p4, ptr, cut) for cut in (None, -5.0, -2.0, 0.0, 1.0, 2.0)]
    kept = [set(map(tuple, tree.coordinates.tolist())) - {(0.0,) * 5} for tree in trees]
    assert all(harder < softer for softer, harder in pairwise(kept))


def test_azimuth_zero_is_nowhere() -> None:
    p4, ptr = random_jets([30] * 20, seed=7)
    turn = 2.2
    turned = p4.copy()
    turned[:, 0] = np.cos(turn) * p4[:, 0] - np.sin(turn) * p4[:, 1]
    turned[:, 1] = np.sin(turn) * p4[:, 0] + np.cos(turn) * p4[:, 1]
    np.testing.assert_allclose(lund_trees(turned, ptr).coordinates, lund_trees(p4, ptr).coordinates, rtol=1e-4, atol=1e-4)


def test_the_order_of_constituents_means_nothing() -> None:
    p4, ptr = random_jets([40] * 10, seed=8)
    order = np.concatenate([start + np.random.default_rng(start).permutation(40) for start in ptr[:-1]])
    again, once = lund_trees(p4[order], ptr), lund_trees(p4, ptr)
    np.testing.assert_allclose(again.coordinates, once.coordinates, rtol=1e-4, atol=1e-5)
    assert again.parents.tolist() == once.parents.tolist()


def test_a_jet_without_declusterings_is_one_node() -> None:
    p4, ptr = random_jets([1, 3, 1], seed=9)
    trees = lund_trees(p4, ptr)
    assert trees.ptr.tolist() == [0, 1, 3, 4]
    assert trees.parents.tolist() == [-1, -1, 0, -1]
    assert trees.num_children.tolist() == [0, 1, 0, 0]
    assert not trees.coordinates[[0, 3]].any()
    assert not lund_trees(p4, ptr, 20.0).coordinates.any()


def test_extreme_constituents_give_finite_coordinates() -> None:
    same = [[3.0, 4.0, 1.0, 6.0]] * 3
    along_beam = [[0.0, 0.0, 7.0, 7.0], [0.0, 0.0, -7.0, 7.0], [1.0, 0.0, 0.0, 1.0]]
    spacelike = [[1.0, 0.0, 0.0, 0.9], [0.0, 1.0, 3.0, 2.0], [0.0, 0.0, 0.0, 0.0]]
    p4 = np.array(same + along_beam + spacelike)
    trees = lund_trees(p4, np.array([0, 3, 6, 9]))
    assert np.diff(trees.ptr).tolist() == [2, 2, 2]
    assert np.isfinite(trees.coordinates).all()
    assert trees.coordinates[0, LN_DELTA] == pytest.approx(math.log(1e-6))


def test_empty_jets_are_refused_and_no_jets_are_not() -> None:
    assert len(lund_trees(np.zeros((0, 4)), np.array([0])).coordinates) == 0
    with pytest.raises(ValueError, match="jet 1 of the batch has no constituent"):
        lund_trees(np.ones((2, 4)), np.array([0, 2, 2]))
