"""Probability integral transforms of true and false predictions, against scipy."""

import numpy as np
import pytest
from scipy import stats

from distjet.evaluation.config import DensityConfig, ResponseConfig
from distjet.evaluation.density import coverage, summarise_density, uniformity
from distjet.evaluation.predictions import Predictions

ALL = DensityConfig(num_test_jets=1_000_000)


def predicted(num_jets=20_000, sigma_ratio=1.0, seed=1):
    """PIT of Gaussian predictions whose width is `sigma_ratio` times the true one."""
    return stats.norm.cdf(np.random.default_rng(seed).normal(0, 1, num_jets) / sigma_ratio)


def test_distance_and_p_value_are_those_of_scipy():
    for pit in (predicted(3000), predicted(3000, 0.9), predicted(50)):
        expected = stats.kstest(pit, "uniform")
        found = uniformity(pit, None, ALL, 1)
        assert found["ks_distance"] == pytest.approx(expected.statistic, rel=1e-9)
        assert found["ks_p_value"] == pytest.approx(expected.pvalue, rel=0.05, abs=1e-12)


def test_p_values_of_true_predictions_are_uniform_and_false_ones_are_found():
    p_values = [uniformity(predicted(2000, seed=s), None, ALL, 1)["ks_p_value"] for s in range(200)]
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3
    assert uniformity(predicted(10_000, 0.9), None, DensityConfig(), 1)["ks_p_value"] < 1e-4


def test_the_test_sees_a_fixed_number_of_jets_in_any_order():
    pit = predicted(30_000, 0.99)
    found = uniformity(pit, None, DensityConfig(), 1)
    assert found["ks_num_jets"] == 10_000
    assert uniformity(pit[::-1], None, DensityConfig(), 1) == found
    assert found["ks_distance"] == pytest.approx(stats.kstest(pit, "uniform").statistic)


def test_weights_make_a_biased_choice_uniform_again():
    rng = np.random.default_rng(3)
    pit = predicted(60_000)
    chance = 0.2 + 0.8 * pit
    kept = rng.random(len(pit)) < chance
    config = DensityConfig(num_test_jets=20_000)
    assert uniformity(pit[kept], None, config, 1)["ks_p_value"] < 1e-6
    weighted = uniformity(pit[kept], 1 / chance[kept], config, 1)
    assert weighted["ks_p_value"] > 0.01
    assert weighted["ks_num_jets"] < 20_000


@pytest.mark.parametrize("sigma_ratio", [1.0, 0.8, 1.25])
def test_coverage_is_that_of_the_closed_form(sigma_ratio):
    found = coverage(predicted(40_000, sigma_ratio), None, DensityConfig())
    for record in found["coverage"]:
        expected = 2 * stats.norm.cdf(stats.norm.ppf(0.5 + record["level"] / 2) * sigma_ratio) - 1
        assert record["covered"] == pytest.approx(expected, abs=4.5 * record["covered_error"])
    assert [record["level"] for record in found["coverage"]] == pytest.approx(np.arange(0.10, 0.96, 0.05))
    assert (found["max_abs_coverage_difference"] < 0.02) == (sigma_ratio == 1.0)


def test_the_histogram_counts_all_jets_of_the_table():
    pit = predicted(5000)
    table = Predictions({"mdn_pit": pit, "true_energy": pit}, ("raw", "mdn"), 5000)
    found = summarise_density(table, ResponseConfig(density=DensityConfig(num_bins=10)))
    assert list(found) == ["mdn"]
    counts = np.histogram(pit, 10, (0, 1))[0]
    np.testing.assert_allclose(np.array(found["mdn"]["pit_density"]) * 500, counts)
    np.testing.assert_allclose(np.array(found["mdn"]["pit_density_error"]) * 500, np.sqrt(counts))
    assert not found["mdn"]["weighted"]
