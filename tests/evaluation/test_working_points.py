"""Efficiencies, their changes and resilience, against scipy and toys with known truth."""

import numpy as np
import pytest
from scipy.stats import binomtest

from distjet.evaluation.estimators import Measurement
from distjet.evaluation.working_points import Passing, binned_efficiency, efficiency_ratio, efficiency_record, resilience


def passing(passes: np.ndarray, weight: np.ndarray | None = None) -> Passing:
    return Passing(passes, np.ones(len(passes)) if weight is None else weight)


@pytest.mark.parametrize(("passed", "number"), [(0, 30), (30, 30), (7, 30), (512, 1000)])
def test_the_interval_is_that_of_scipy(passed: int, number: int) -> None:
    found = efficiency_record(passing(np.arange(number) < passed))
    expected = binomtest(passed, number).proportion_ci(0.682689492137086, "wilson")
    assert found["efficiency"] == passed / number
    assert (found["efficiency_low"], found["efficiency_high"]) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found["efficiency_error"] > 0


def test_weights_count_with_their_effective_number() -> None:
    passes = np.arange(100) < 40
    plain, doubled = efficiency_record(passing(passes)), efficiency_record(passing(passes, np.full(100, 2.0)))
    assert plain == doubled
    unequal = efficiency_record(passing(passes, np.where(np.arange(100) % 2, 1.9, 0.1)))
    assert unequal["efficiency_error"] > 1.3 * plain["efficiency_error"]
    assert efficiency_record(passing(np.zeros(0, bool)))["efficiency"] is None


def test_bins_with_few_jets_are_not_drawn() -> None:
    values = np.repeat([1.0, 3.0], [50, 5])
    records = binned_efficiency(passing(values < 2), values, (0, 2, 4, 6), 10)
    assert [record["num_jets"] for record in records] == [50, 5, 0]
    assert [record["drawn"] for record in records] == [True, False, False]
    assert [record["efficiency"] for record in records] == [1.0, 0.0, None]


@pytest.mark.parametrize("same_jets", [True, False])
def test_errors_of_a_change_are_its_spread(same_jets: bool) -> None:
    """Pulls have width one; where jets are the same, those that pass both times do not add to the error."""
    pulls, errors = [], []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        weight = rng.uniform(0.5, 1.5, 2000)
        first = rng.uniform(size=2000)
        second = first * 0.97 if same_jets else rng.uniform(size=2000) * 0.97
        found = efficiency_ratio(passing(first < 0.3, weight), passing(second < 0.3, weight), same_jets=same_jets)
        assert found is not None
        pulls.append((found.value - 1 / 0.97) / found.error)
        errors.append(found.error)
    assert abs(np.mean(pulls)) < 0.2
    assert np.std(pulls) == pytest.approx(1, abs=0.12)
    assert (np.mean(errors) < 0.012) == same_jets


def test_nothing_that_passes_has_no_ratio() -> None:
    assert efficiency_ratio(passing(np.zeros(5, bool)), passing(np.ones(5, bool)), same_jets=False) is None


def test_resilience_is_its_formula_and_its_error_is_its_spread() -> None:
    """The formula of arXiv:2012.08526 with efficiencies 0.5 -> 0.45 and 0.02 -> 0.025."""
    signal, background = (0.5, 0.45), (0.02, 0.025)
    parts = [((a - b) / ((a + b) / 2)) ** 2 for a, b in (signal, background)]
    found = resilience(Measurement(0.45 / 0.5, 0.01), Measurement(0.025 / 0.02, 0.02))
    assert found is not None
    assert found.value == pytest.approx(sum(parts) ** -0.5, rel=1e-12)
    rng = np.random.default_rng(1)
    ratios = rng.normal((0.9, 1.25), (0.01, 0.02), (20_000, 2))
    toys = ((2 * (ratios - 1) / (ratios + 1)) ** 2).sum(axis=1) ** -0.5
    assert found.error == pytest.approx(np.std(toys), rel=0.05)
    assert resilience(Measurement(1.0, 0.1), Measurement(1.0, 0.1)) is None
