"""Spec: variables are those of FastJet contrib, or of their formula taken literally; no jet has a NaN."""

import itertools
import time

import fastjet as classic
import numpy as np
import pytest

from distjet.errors import ConfigError
from distjet.models.tagger_configs import HIGH_LEVEL
from distjet.physics import kinematics
from distjet.physics.clustering import _records, jet_definition
from distjet.physics.kinematics import delta_phi, sum_groups, to_cartesian
from distjet.physics.substructure import GROUPS, SUBSTRUCTURE, substructure

EVERYWHERE = 1000.0
"A radius that no jet reaches."
ALL = tuple(SUBSTRUCTURE)


def random_jets(sizes, seed):
    """Jets with a few prongs, some near the seam of the azimuth."""
    rng = np.random.default_rng(seed)
    ptr = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    parts = []
    for size in sizes:
        prongs = np.array([rng.uniform(-2, 2), rng.uniform(-np.pi, np.pi)]) + rng.normal(scale=0.3, size=(3, 2))
        prong = rng.integers(3, size=size)
        eta, phi = (prongs[prong] + rng.normal(scale=0.08, size=(size, 2))).T
        pt = (rng.exponential(10, size) + 0.3) * np.array([1.0, 0.4, 0.03])[prong]
        parts.append(to_cartesian(pt, eta, phi, rng.choice([0.0, 0.14, 0.5], size)))
    return np.concatenate(parts), ptr


@pytest.fixture(scope="module")
def jets():
    return random_jets([60, 5, 33, 4, 110, 48, 3, 71], seed=1)


@pytest.fixture(scope="module")
def values(jets):
    return substructure(*jets, ALL)


def clustered(jets, algorithm):
    return classic.ClusterSequence(_records(*jets), jet_definition(EVERYWHERE, algorithm))


def test_subjettiness_is_that_of_fastjet_contrib(jets, values):
    expected = clustered(jets, "kt").njettiness("NormalizedMeasure", "WTA_KT_Axes", [1, 2, 3, 4], 1.0, 1.0)
    found = np.stack([values[f"tau{count}"] for count in (1, 2, 3, 4)], axis=1)
    np.testing.assert_allclose(found, np.asarray(expected), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(values["tau32"][0], found[0, 2] / found[0, 1])
    assert values["tau43"][6] == 0, "three constituents have neither a tau3 nor a tau4"


def test_splitting_scales_are_those_of_fastjet(jets, values):
    sequence = clustered(jets, "kt")
    for name, count in (("sqrt_d12", 1), ("sqrt_d23", 2)):
        expected = np.sqrt(np.asarray(sequence.exclusive_dmerge(count))) * EVERYWHERE
        np.testing.assert_allclose(values[name], expected, rtol=1e-9)
    for jet in range(len(jets[1]) - 1):
        particles = [classic.PseudoJet(*row) for row in jets[0][jets[1][jet] : jets[1][jet + 1]].tolist()]
        single = classic.ClusterSequence(particles, jet_definition(EVERYWHERE, "kt"))
        masses = [(a + b).m() for a, b in itertools.combinations(single.exclusive_jets(3), 2)]
        np.testing.assert_allclose(values["q_w"][jet], min(masses), rtol=1e-6)
        one, other = single.exclusive_jets(2)
        np.testing.assert_allclose(values["kt_delta_r"][jet], one.delta_R(other), rtol=1e-9)
    mass = kinematics.mass(sum_groups(*jets))
    np.testing.assert_allclose(values["z_cut12"], values["sqrt_d12"] ** 2 / (values["sqrt_d12"] ** 2 + mass**2), rtol=1e-6)


@pytest.mark.parametrize("name", ["c2", "d2", "m2", "n2"])
def test_correlator_ratios_are_those_of_fastjet_contrib(jets, values, name):
    expected = clustered(jets, "cambridge").exclusive_jets_energy_correlator(njets=1, beta=1, func=name)
    np.testing.assert_allclose(values[name], np.asarray(expected).ravel(), rtol=2e-6)  # theirs come as float32


def test_correlators_are_sums_over_pairs_and_triples():
    p4, ptr = random_jets([9], seed=4)
    found = substructure(p4, ptr, ["ecf1", "ecf2", "ecf3", "e2", "e3", "l2", "l3"])
    pt, y, phi = kinematics.pt(p4), kinematics.rapidity(p4), np.arctan2(p4[:, 1], p4[:, 0])
    distance = np.hypot(y[:, None] - y, delta_phi(phi[:, None], phi))
    ecf2 = sum(pt[i] * pt[j] * distance[i, j] for i, j in itertools.combinations(range(9), 2))
    squared = sum(pt[i] * pt[j] * distance[i, j] ** 2 for i, j in itertools.combinations(range(9), 2))
    angles = [(distance[i, j], distance[i, k], distance[j, k]) for i, j, k in itertools.combinations(range(9), 3)]
    weights = [pt[list(triple)].prod() for triple in itertools.combinations(range(9), 3)]
    ecf3, smallest = np.dot(weights, np.prod(angles, axis=1)), np.dot(weights, np.min(angles, axis=1))
    total = pt.sum()
    expected = {
        "ecf1": total,
        "ecf2": ecf2,
        "ecf3": ecf3,
        "e2": ecf2 / total**2,
        "e3": ecf3 / total**3,
        "l2": ecf3 / total**3 / (squared / total**2) ** 1.5,
        "l3": smallest / total**3 / (ecf3 / total**3) ** (1 / 3),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-10, err_msg=name)


def test_soft_drop_is_that_of_fastjet_contrib(jets, values):
    groomed = clustered(jets, "cambridge").exclusive_jets_softdrop_grooming(njets=1, beta=0.0, symmetry_cut=0.1)
    np.testing.assert_allclose(values["soft_drop_mass"], np.asarray(groomed["msoftdrop"]), rtol=1e-6, atol=1e-6)
    assert (values["soft_drop_mass"] < 0.9 * kinematics.mass(sum_groups(*jets))).any(), "something was groomed away"


def test_moments_follow_their_formulas(jets, values):
    p4, ptr = jets
    for jet in range(len(ptr) - 1):
        own = p4[ptr[jet] : ptr[jet + 1]]
        pt, total = kinematics.pt(own), own.sum(0)
        share = pt / pt.sum()
        distance = np.hypot(
            kinematics.rapidity(own) - kinematics.rapidity(total),
            delta_phi(np.arctan2(own[:, 1], own[:, 0]), np.arctan2(total[1], total[0])),
        )
        np.testing.assert_allclose(values["width"][jet], (share * distance).sum())
        np.testing.assert_allclose(values["pt_d"][jet], np.sqrt((share**2).sum()))
        assert values["multiplicity"][jet] == len(own)


def test_les_houches_angularity_has_the_axis_of_the_winner():
    p4 = to_cartesian(np.array([50.0, 30.0, 10.0]), np.array([0.0, 0.4, 0.45]), np.array([3.1, -3.1, -3.1]))
    found = substructure(p4, np.array([0, 3]), ["les_houches"])["les_houches"]
    distance = np.hypot([0.0, 0.4, 0.45], [0.0, *[2 * np.pi - 6.2] * 2])  # 50 wins against the 40 of the other two
    np.testing.assert_allclose(found, np.dot([5 / 9, 3 / 9, 1 / 9], np.sqrt(distance)))


def test_planar_flow_knows_lines_from_discs():
    angles = np.arange(12) * np.pi / 6
    ones = np.ones(12)
    disc = np.stack([np.cos(angles), np.sin(angles), 10 * ones, 11 * ones], axis=1)
    line = disc.copy()
    line[:, 1] = 0
    turned = np.concatenate([disc, line])[:, [2, 0, 1, 3]]
    np.testing.assert_allclose(substructure(turned, np.array([0, 12, 24]), ["planar_flow"])["planar_flow"], [1, 0], atol=1e-12)


def test_rest_frame_shapes_follow_their_definitions(jets, values):
    p4, ptr = random_jets([9, 2, 7], seed=3)
    found = substructure(p4, ptr, ["thrust", "thrust_major", "fox_wolfram_r2", "aplanarity"])
    for jet in range(3):
        momenta = boosted(p4[ptr[jet] : ptr[jet + 1]])
        size = np.linalg.norm(momenta, axis=1)
        cosine = (momenta @ momenta.T) / np.outer(size, size)
        moment = (np.outer(size, size) * (1.5 * cosine**2 - 0.5)).sum() / size.sum() ** 2
        thrust, axis = exact_thrust(momenta)
        angles = np.linspace(0, np.pi, 20001)
        first = np.cross(axis, [0.3, 0.5, 0.8])
        first /= np.linalg.norm(first)
        directions = np.outer(np.cos(angles), first) + np.outer(np.sin(angles), np.cross(axis, first))
        major = np.abs(momenta @ directions.T).sum(0).max() / size.sum()
        tensor = momenta.T @ momenta
        np.testing.assert_allclose(found["fox_wolfram_r2"][jet], moment, rtol=1e-9)
        np.testing.assert_allclose(found["aplanarity"][jet], 1.5 * np.linalg.eigvalsh(tensor)[0] / np.trace(tensor), atol=1e-9)
        np.testing.assert_allclose(found["thrust"][jet], thrust, rtol=1e-9)
        np.testing.assert_allclose(found["thrust_major"][jet], major, rtol=1e-6, atol=1e-7)
    assert ((values["thrust"] >= 0.5) & (values["thrust"] <= 1 + 1e-12)).all()
    assert (values["thrust_major"] <= values["thrust"] + 1e-12).all()


def boosted(p4):
    """Momenta in the rest frame, by a boost matrix."""
    total = p4.sum(0)
    beta = total[:3] / total[3]
    gamma = 1 / np.sqrt(1 - beta @ beta)
    matrix = np.eye(3) + (gamma - 1) * np.outer(beta, beta) / (beta @ beta)
    return p4[:, :3] @ matrix - gamma * np.outer(p4[:, 3], beta)


def exact_thrust(momenta):
    """Thrust over all ways to divide the momenta by a plane, which goes through two of them."""
    candidates = [momenta[np.argmax((momenta**2).sum(1))]]
    for signs in itertools.product((-1, 1), repeat=len(momenta) - 1):
        candidates.append(np.array([1, *signs]) @ momenta)
    best = max(candidates, key=np.linalg.norm)
    return np.linalg.norm(best) / np.linalg.norm(momenta, axis=1).sum(), best / np.linalg.norm(best)


def test_only_what_is_asked_for_is_returned_in_its_order(jets, values):
    found = substructure(*jets, ["d2", "tau21", "multiplicity"])
    assert list(found) == ["d2", "tau21", "multiplicity"]
    for name, value in found.items():
        np.testing.assert_array_equal(value, values[name])


def test_a_batch_equals_its_single_jets(jets, values):
    p4, ptr = jets
    for jet in (1, 4):
        alone = substructure(p4[ptr[jet] : ptr[jet + 1]], np.array([0, ptr[jet + 1] - ptr[jet]]), ALL)
        for name in ALL:
            np.testing.assert_allclose(alone[name][0], values[name][jet], rtol=1e-9, atol=1e-12, err_msg=name)


def test_order_of_constituents_does_not_matter(jets, values):
    p4, ptr = jets
    rng = np.random.default_rng(0)
    order = np.concatenate([start + rng.permutation(size) for start, size in zip(ptr[:-1], np.diff(ptr), strict=True)])
    for name, value in substructure(p4[order], ptr, ALL).items():
        np.testing.assert_allclose(value, values[name], rtol=1e-7, atol=1e-9, err_msg=name)


def test_jets_of_few_constituents_have_finite_values():
    p4, ptr = random_jets([1, 2, 3], seed=2)
    twice = np.concatenate([p4[:1], p4[:1], [[0, 0, 5.0, 5.0]], [[0, 0, 5.0, 5.0]], [[0, 0, 0, 0.0]], [[3.0, 0, 4.0, 5.0]]])
    same_and_beam = np.array([0, 2, 3, 6])
    for sample, offsets in ((p4, ptr), (twice, same_and_beam), (p4, np.array([0, 0, 6, 6])), (p4[:0], np.array([0]))):
        for name, value in substructure(sample, offsets, ALL).items():
            assert value.shape == (len(offsets) - 1,)
            assert np.isfinite(value).all(), name


def test_every_variable_has_a_group_and_every_default_exists():
    assert set().union(*GROUPS.values()) == set(SUBSTRUCTURE)
    assert sum(map(len, GROUPS.values())) == len(SUBSTRUCTURE)
    assert set(HIGH_LEVEL) <= set(SUBSTRUCTURE)
    assert len(HIGH_LEVEL) == 15


def test_unknown_variable_is_named(jets):
    with pytest.raises(ConfigError, match=r"unknown substructure variable 'tau22', did you mean 'tau2'"):
        substructure(*jets, ["tau22"])


def test_jets_of_fifty_constituents_take_less_than_half_a_millisecond(values):
    p4, ptr = random_jets([50] * 200, seed=5)
    start = time.process_time()
    substructure(p4, ptr, ALL)
    assert time.process_time() - start < 200 * 0.5e-3
