"""Numbers of a tagger, against closed forms for Gaussian scores, brute force, and scipy."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.stats import norm

from distjet.errors import DataError
from distjet.evaluation.tagging import (
    Scores,
    accuracy,
    area_under_curve,
    background_rejection,
    jensen_shannon_divergence,
    mass_sculpting,
    roc,
    threshold_at_background,
    threshold_at_signal,
)

DISTANCE = 2.0
EDGES = np.linspace(0, 200, 21)


def gaussian(num: int, seed: int) -> Scores:
    """Scores of unit width, the signal's higher by DISTANCE."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(size=num) < 0.4
    return Scores.of(rng.normal(DISTANCE * truth), truth)


def few(seed: int) -> Scores:
    """Scores with many ties, and weights."""
    rng = np.random.default_rng(seed)
    return Scores.of(rng.integers(0, 6, 40), np.arange(40) % 3 == 0, rng.uniform(0, 2, 40))


@pytest.mark.parametrize("seed", range(5))
def test_the_area_is_the_share_of_pairs_in_order_and_that_under_the_curve(seed: int) -> None:
    scores = few(seed)
    pairs = weights = 0.0
    for i in np.flatnonzero(scores.is_signal):
        for j in np.flatnonzero(~scores.is_signal):
            weight = scores.weight[i] * scores.weight[j]
            pairs += weight * (1.0 if scores.score[i] > scores.score[j] else 0.5 if scores.score[i] == scores.score[j] else 0.0)
            weights += weight
    area = area_under_curve(scores).value
    assert area == pytest.approx(pairs / weights, rel=1e-12)
    curve = roc(scores)
    assert area == pytest.approx(np.trapezoid(curve.signal, curve.background), rel=1e-12)
    assert (curve.signal[0], curve.background[0], curve.signal[-1], curve.background[-1]) == (0, 0, 1, 1)


def test_numbers_and_errors_are_those_of_gaussians() -> None:
    """Pulls over many samples have mean zero and width one."""
    target = 0.5
    truth = {
        "area": norm.cdf(DISTANCE / np.sqrt(2)),
        "rejection": 1 / norm.sf(DISTANCE + norm.isf(target)),
        "accuracy": 0.4 * norm.sf(1 - DISTANCE) + 0.6 * norm.cdf(1),
    }
    pulls: dict[str, list[float]] = {name: [] for name in truth}
    for seed in range(150):
        scores = gaussian(20_000, seed)
        found = {
            "area": area_under_curve(scores),
            "rejection": background_rejection(roc(scores), target),
            "accuracy": accuracy(scores, 1.0),
        }
        for name, measured in found.items():
            assert measured is not None
            pulls[name].append((measured.value - truth[name]) / measured.error)
    for name in ("area", "accuracy"):
        assert abs(np.mean(pulls[name])) < 0.3
        assert np.std(pulls[name]) == pytest.approx(1, abs=0.2)
    assert abs(np.mean(pulls["rejection"])) < 0.4
    assert 0.9 < np.std(pulls["rejection"]) < 1.5, "the signal's own fluctuation comes on top of the background's"


def test_equal_weights_change_nothing_and_unequal_ones_cost_jets() -> None:
    scores = gaussian(5000, 1)
    doubled = Scores.of(scores.score, scores.is_signal, np.full(5000, 2.0))
    assert area_under_curve(doubled) == area_under_curve(scores)
    assert background_rejection(roc(doubled), 0.5) == background_rejection(roc(scores), 0.5)
    weighted = Scores.of(scores.score, scores.is_signal, np.where(np.arange(5000) % 2, 1.0, 0.1))
    assert area_under_curve(weighted).error > 1.2 * area_under_curve(scores).error
    assert roc(weighted).num_background < 0.7 * roc(scores).num_background


def test_a_rejection_lies_between_the_points_and_may_be_unknown() -> None:
    scores = Scores.of([5.0, 4, 3, 2, 1, 0], [True, False, True, True, False, False])
    found = background_rejection(roc(scores), 2 / 3)
    assert found is not None
    assert found.value == pytest.approx(3)
    half_way = background_rejection(roc(scores), 0.5)
    assert half_way is not None
    assert half_way.value == pytest.approx(3)
    assert background_rejection(roc(scores), 0.2) is None
    with pytest.raises(DataError, match=r"lies in \(0, 1\] \(got 0\)"):
        background_rejection(roc(scores), 0)


@pytest.mark.parametrize("seed", range(5))
def test_the_divergence_is_that_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = rng.uniform(0, 1, 8) * (rng.uniform(size=8) < 0.7), rng.uniform(0, 3, 8)
    expected = jensenshannon(first, second, base=2) ** 2
    assert jensen_shannon_divergence(first, second) == pytest.approx(expected, abs=1e-12)
    assert jensen_shannon_divergence(second, 7 * second) == pytest.approx(0, abs=1e-12)
    assert jensen_shannon_divergence([1, 0], [0, 5]) == 1


def test_a_tagger_that_knows_the_mass_sculpts_and_one_that_does_not_does_not() -> None:
    rng = np.random.default_rng(2)
    truth = np.arange(40_000) % 2 == 0
    mass = np.where(truth, rng.normal(80, 8, 40_000), rng.exponential(60, 40_000))
    of_blind, of_knowing = Scores.of(rng.normal(DISTANCE * truth), truth), Scores.of(-np.abs(mass - 80), truth)
    blind = mass_sculpting(of_blind, mass, threshold_at_signal(roc(of_blind), 0.5), EDGES)
    knowing = mass_sculpting(of_knowing, mass, threshold_at_signal(roc(of_knowing), 0.5), EDGES)
    assert knowing.divergence.value > 0.3
    assert blind.divergence.value < 3 * blind.of_chance
    assert blind.of_chance < 0.01
    inside = ~truth & (mass < 200)
    assert knowing.num_passed == np.sum(inside & (np.abs(mass - 80) <= np.quantile(np.abs(mass - 80)[truth], 0.5)))


def test_bad_input_is_named() -> None:
    with pytest.raises(DataError, match="scores must be finite; got nan in row 1, and 1 such jets"):
        Scores.of([0.1, np.nan], [True, False])
    with pytest.raises(DataError, match="no background jet has a weight"):
        Scores.of([0.1, 0.2], [True, True])
    with pytest.raises(DataError, match="weights must not be negative"):
        Scores.of([0.1, 0.2], [True, False], [1, -1])
    with pytest.raises(DataError, match="2 scores, 1 labels and 2 weights"):
        Scores.of([0.1, 0.2], [True])
    with pytest.raises(DataError, match="need entries"):
        jensen_shannon_divergence([0, 0], [1, 1])


def test_the_error_of_a_divergence_is_its_spread_over_samples() -> None:
    """Jets pass with a probability that rises with their mass: the divergence is known, up to a bias smaller than its error."""
    truth = np.concatenate([np.ones(10, bool), np.zeros(20_000, bool)])
    found = []
    for seed in range(80):
        rng = np.random.default_rng(seed)
        mass = rng.uniform(0, 200, len(truth))
        score = (rng.uniform(size=len(truth)) < 0.1 + 0.4 * (mass > 100)).astype(float)
        found.append(mass_sculpting(Scores.of(score, truth), mass, 0.5, EDGES[::5], seed=seed))
    expected = jensenshannon([1 / 6, 5 / 6], [0.5, 0.5], base=2) ** 2
    values, errors = np.array([(some.divergence.value, some.divergence.error) for some in found]).T
    assert np.mean(values) == pytest.approx(expected, abs=0.3 * np.mean(errors))
    assert np.std((values - expected) / errors) == pytest.approx(1, abs=0.2)
    assert np.allclose(found[0].everything, 0.25, atol=0.02)
    assert found[0].passed.sum() == pytest.approx(1)


def test_a_threshold_lets_the_wanted_share_pass() -> None:
    scores = gaussian(20_000, 3)
    curve = roc(scores)
    signal, background = scores.score[scores.is_signal], scores.score[~scores.is_signal]
    assert np.mean(signal >= threshold_at_signal(curve, 0.3)) == pytest.approx(0.3, abs=1 / len(signal))
    passed = np.mean(background >= threshold_at_background(curve, 0.05))
    assert 0.05 - 1 / len(background) <= passed <= 0.05
    assert threshold_at_background(roc(Scores.of([1, 2], [True, False])), 0.05) == np.inf
