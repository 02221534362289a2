import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distjet.physics.kinematics import delta_r
from distjet.simulation.matching import Axes, hardest_parton, is_isolated, match_one_to_one, pairs_within


def random_axes(rng, lengths):
    num = int(np.sum(lengths))
    return Axes(
        rng.uniform(-1, 1, num), rng.uniform(-np.pi, np.pi, num), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    )


def brute_force_pairs(left, right, radius):
    found = []
    for event in range(len(left.offsets) - 1):
        for a in range(left.offsets[event], left.offsets[event + 1]):
            for b in range(right.offsets[event], right.offsets[event + 1]):
                if delta_r(left.eta[a], left.phi_rad[a], right.eta[b], right.phi_rad[b]) < radius:
                    found.append((a, b))
    return found


@pytest.mark.parametrize("radius", [0.15, 0.3, 1.0])
def test_pairs_agree_with_brute_force(radius):
    rng = np.random.default_rng(1)
    left, right = random_axes(rng, [12, 0, 7]), random_axes(rng, [9, 4, 11])
    pairs = pairs_within(left, right, radius)
    assert list(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)) == brute_force_pairs(left, right, radius)
    expected = delta_r(left.eta[pairs.left], left.phi_rad[pairs.left], right.eta[pairs.right], right.phi_rad[pairs.right])
    np.testing.assert_allclose(pairs.distance, expected, rtol=1e-12)


@settings(deadline=None)  # the first call may compile
@given(seed=st.integers(0, 1000), radius=st.sampled_from([0.2, 0.4, 1.0]))
def test_matches_are_one_to_one_near_and_maximal(seed, radius):
    rng = np.random.default_rng(seed)
    reco, truth = random_axes(rng, [15, 20]), random_axes(rng, [15, 10])
    matched = match_one_to_one(reco, truth, radius)
    assert len(set(matched.left)) == len(set(matched.right)) == len(matched.left)
    assert np.all(matched.distance < min(0.75 * radius, 0.3))
    free = [
        (a, b)
        for a, b in brute_force_pairs(reco, truth, min(0.75 * radius, 0.3))
        if a not in matched.left and b not in matched.right
    ]
    assert free == []


def test_the_harder_truth_jet_chooses_first():
    reco = Axes(np.array([0.0, 0.25]), np.zeros(2), np.array([0, 2]))
    truth = Axes(np.array([0.1, 0.02]), np.zeros(2), np.array([0, 2]))
    matched = match_one_to_one(reco, truth, 0.4)
    assert dict(zip(matched.right.tolist(), matched.left.tolist(), strict=True)) == {0: 0, 1: 1}


def test_isolation_counts_hard_neighbours_of_the_same_event_only():
    axes = Axes(np.array([0.0, 0.4, 1.5, 0.1]), np.zeros(4), np.array([0, 3, 4]))
    np.testing.assert_array_equal(is_isolated(axes, np.array([50.0, 8.0, 9.0, 90.0]), 0.6), [False, False, True, True])
    np.testing.assert_array_equal(is_isolated(axes, np.array([50.0, 6.0, 9.0, 90.0]), 0.6), [True, False, True, True])


def test_label_is_the_hardest_parton_in_reach():
    jets = Axes(np.array([0.0, 2.0]), np.zeros(2), np.array([0, 2]))
    partons = Axes(np.array([0.1, -0.2, 1.0]), np.zeros(3), np.array([0, 3]))
    labels = hardest_parton(jets, partons, np.array([50.0, 80.0, 900.0]), np.array([21, -4, 1]), 0.4)
    np.testing.assert_array_equal(labels, [4, 0])
