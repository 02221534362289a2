"""The estimators against closed forms, against scipy, and their errors against the spread of toys."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from distjet.errors import DataError
from distjet.evaluation.config import EstimatorConfig
from distjet.evaluation.estimators import (
    estimate,
    estimate_histogram,
    histogram_quantile,
    truncated_variance,
    weighted_quantile,
)
from distjet.evaluation.response import closure_from_histograms

DEFAULT = EstimatorConfig()
FEW_REPLICAS = EstimatorConfig(num_replicas=20)


def lower_tail(rng, number):
    """A core at 1 with 20 % of the jets smeared downwards."""
    values = rng.normal(1, 0.12, number)
    return np.where(rng.random(number) < 0.2, values - rng.exponential(0.35, number), values)


@pytest.mark.parametrize("window", [0.8, 1.5, 2.0, 3.0])
def test_truncated_variance_is_that_of_scipy(window):
    assert truncated_variance(window) == pytest.approx(stats.truncnorm(-window, window).var(), rel=1e-12)


@pytest.mark.parametrize("window", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("sigma", [0.1, 0.35])
def test_a_gaussian_is_estimated_without_bias_whatever_the_window(window, sigma):
    values = np.random.default_rng(1).normal(0.9, sigma, 200_000)
    result = estimate(values, None, EstimatorConfig(core_window_sigmas=window))
    assert result.core_status == "ok"
    assert result.core.value == pytest.approx(0.9, abs=4 * result.core.error)
    assert result.core_sigma.value == pytest.approx(sigma, abs=4 * result.core_sigma.error)
    assert result.median.value == pytest.approx(0.9, abs=4 * result.median.error)
    assert result.resolution.value == pytest.approx(sigma / 0.9, abs=4 * result.resolution.error)


def test_errors_of_a_gaussian_follow_the_closed_forms():
    number, sigma = 20_000, 0.2
    result = estimate(np.random.default_rng(2).normal(1, sigma, number), None, EstimatorConfig(num_replicas=1000))
    information = truncated_variance(1.5) * (stats.norm.cdf(1.5) - stats.norm.cdf(-1.5))
    assert result.median.error == pytest.approx(sigma * np.sqrt(np.pi / 2 / number), rel=0.1)
    assert result.core.error == pytest.approx(sigma / np.sqrt(information * number), rel=0.1)


def test_core_equals_the_maximum_likelihood_fit_of_scipy_in_its_own_window():
    values = lower_tail(np.random.default_rng(3), 20_000)
    result = estimate(values, None, DEFAULT)
    low = result.core.value - 1.5 * result.core_sigma.value
    high = result.core.value + 1.5 * result.core_sigma.value
    inside = values[(values > low) & (values < high)]

    def negative_log_likelihood(parameters):
        mean, sigma = parameters
        norm = stats.norm.cdf(high, mean, sigma) - stats.norm.cdf(low, mean, sigma)
        return -np.mean(stats.norm.logpdf(inside, mean, sigma)) + np.log(norm)

    fit = optimize.minimize(negative_log_likelihood, [1.0, 0.1], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12})
    assert result.core.value == pytest.approx(fit.x[0], abs=5e-4)
    assert result.core_sigma.value == pytest.approx(fit.x[1], rel=1e-2)


def test_core_stays_at_the_mode_where_a_tail_moves_the_median():
    result = estimate(lower_tail(np.random.default_rng(4), 50_000), None, DEFAULT)
    assert abs(result.core.value - 1) < 0.02
    assert 1 - result.median.value > 0.025


def test_core_of_a_lognormal_approaches_the_mode_as_the_window_narrows():
    values = np.random.default_rng(5).lognormal(0, 0.3, 400_000)
    wide, narrow = (estimate(values, None, EstimatorConfig(core_window_sigmas=k)).core.value for k in (1.5, 0.8))
    mode, median = np.exp(-(0.3**2)), 1.0
    assert mode < narrow < wide < median
    assert estimate(values, None, DEFAULT).median.value == pytest.approx(median, abs=0.005)


def test_quantiles_of_an_exponential_in_closed_form():
    values = np.random.default_rng(6).exponential(1.0, 100_000)
    result = estimate(values, None, FEW_REPLICAS)
    low, middle, high = (-np.log(1 - p) for p in (0.158655, 0.5, 0.841345))
    assert result.resolution.value == pytest.approx((high - low) / (2 * middle), rel=0.02)


@pytest.mark.parametrize(
    ("number", "draw", "truth"),
    [
        (200, lambda rng, n: rng.normal(1, 0.35, n), 1.0),
        (1000, lambda rng, n: rng.normal(1, 0.1, n), 1.0),
        (300, lower_tail, None),
    ],
    ids=["gauss-200", "gauss-1000", "tail-300"],
)
def test_pulls_of_core_and_median_have_mean_zero_and_width_one(number, draw, truth):
    rng = np.random.default_rng(7)
    asymptotic = estimate(draw(rng, 1_000_000), None, FEW_REPLICAS)
    core_truth = truth or asymptotic.core.value
    toys = [estimate(draw(rng, number), None, DEFAULT) for _ in range(150)]
    assert all(toy.core_status == "ok" for toy in toys)
    core = np.array([(toy.core.value - core_truth) / toy.core.error for toy in toys])
    median = np.array([(toy.median.value - asymptotic.median.value) / toy.median.error for toy in toys])
    resolution = np.array([(toy.resolution.value - asymptotic.resolution.value) / toy.resolution.error for toy in toys])
    for pulls, bias in ((core, 0.4), (median, 0.35), (resolution, 0.4)):
        assert abs(pulls.mean()) < bias
        assert 0.8 < pulls.std() < 1.25


def test_uniform_values_without_a_peak_fall_back_or_stay_finite():
    result = estimate(np.linspace(0.5, 1.5, 500), None, DEFAULT)
    numbers = [result.core.value, result.core.error, result.core_sigma.value, result.resolution.value]
    assert np.all(np.isfinite(numbers))
    assert abs(result.core.value - 1) < 0.05


def test_few_entries_take_the_median_and_say_so():
    values = np.random.default_rng(8).normal(1, 0.2, 12)
    result = estimate(values, None, DEFAULT)
    assert result.core_status == "few entries"
    assert result.core.value == pytest.approx(result.median.value)


def test_equal_values_are_called_degenerate():
    result = estimate(np.full(50, 0.8), None, DEFAULT)
    assert (result.core_status, result.core.value, result.resolution.value) == ("degenerate", 0.8, 0.0)


@pytest.mark.parametrize(
    ("values", "weights", "message"),
    [
        (np.ones(9), None, "at least 10"),
        (np.r_[np.ones(10), np.nan], None, "got nan at row 10"),
        (np.arange(10.0), -np.ones(10), "not negative"),
        (np.arange(10.0), np.zeros(10), "positive sum"),
        (np.arange(10.0), np.ones(9), "equally long"),
    ],
)
def test_unfit_input_is_refused(values, weights, message):
    with pytest.raises(DataError, match=message):
        estimate(values, weights, DEFAULT)


@given(
    values=st.lists(st.integers(-50, 50), min_size=1, max_size=60),
    repeats=st.data(),
    probability=st.sampled_from([0.16, 0.25, 0.5, 0.84]),
)
def test_weighted_quantile_equals_that_of_repeated_values(values, repeats, probability):
    counts = repeats.draw(st.lists(st.integers(1, 4), min_size=len(values), max_size=len(values)))
    expected = np.quantile(np.repeat(values, counts), probability, method="averaged_inverted_cdf")
    assert weighted_quantile(values, counts, probability) == pytest.approx(float(expected))


def test_weights_equal_repeated_jets():
    rng = np.random.default_rng(9)
    values, repeats = lower_tail(rng, 2000), rng.integers(1, 4, 2000)
    weighted, repeated = estimate(values, repeats, DEFAULT), estimate(np.repeat(values, repeats), None, DEFAULT)
    for name in ("core", "median", "resolution", "core_sigma"):
        assert getattr(weighted, name).value == pytest.approx(getattr(repeated, name).value, abs=1e-5)
    assert weighted.median.error > 1.05 * repeated.median.error  # a weight of 2 is not two independent jets


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(0.2, 5), seed=st.integers(0, 1000))
def test_scale_and_order_of_the_values_do_not_matter(scale, seed):
    rng = np.random.default_rng(seed)
    values = lower_tail(rng, 300)
    first, second = estimate(values, None, FEW_REPLICAS), estimate(rng.permutation(values) * scale, None, FEW_REPLICAS)
    assert second.core.value == pytest.approx(first.core.value * scale, rel=1e-3)
    assert second.resolution.value == pytest.approx(first.resolution.value, rel=1e-6)


def test_a_permutation_gives_identical_numbers_and_errors():
    rng = np.random.default_rng(10)
    values = lower_tail(rng, 1000)
    assert estimate(values, None, DEFAULT) == estimate(rng.permutation(values), None, DEFAULT)


def test_histogram_agrees_with_its_values():
    values = lower_tail(np.random.default_rng(11), 5000)
    edges = np.linspace(0, 3, 301)
    counts = np.histogram(np.clip(values, 0, 2.999), edges)[0]
    binned = estimate_histogram(counts, (edges[1:] + edges[:-1]) / 2, DEFAULT)
    unbinned = estimate(values, None, DEFAULT)
    for name in ("core", "median", "resolution"):
        reference = getattr(unbinned, name)
        assert getattr(binned, name).value == pytest.approx(reference.value, abs=0.4 * reference.error)
        assert getattr(binned, name).error == pytest.approx(reference.error, rel=0.3)


def test_histogram_quantile_agrees_with_numpy():
    edges = np.array([0.0, 1.0, 3.0, 4.0])
    counts = np.array([[2.0, 4.0, 2.0], [0.0, 0.0, 5.0]])
    expected = [np.interp(0.4, [0, 0.25, 0.75, 1], edges), 3.4]
    np.testing.assert_allclose(histogram_quantile(counts, edges, 0.4), expected)


def test_closure_from_histograms_agrees_with_the_unbinned_estimates_and_is_fast():
    rng = np.random.default_rng(12)
    scales = np.linspace(0.9, 1.1, 30)
    samples = [rng.normal(scale, 0.12, 3000) for scale in scales]
    edges = np.linspace(0, 2, 201)
    counts = np.array([np.histogram(np.clip(sample, 0, 1.999), edges)[0] for sample in samples])
    centres = (edges[1:] + edges[:-1]) / 2
    closure = closure_from_histograms(counts, centres)
    durations_s = []
    for _ in range(5):
        start = time.perf_counter()
        closure_from_histograms(counts, centres)
        durations_s.append(time.perf_counter() - start)
    assert min(durations_s) < 0.05
    single = [estimate(sample, None, FEW_REPLICAS) for sample in samples]
    assert closure["num_bins"] == 30
    assert closure["num_without_core"] == 0
    assert closure["max_abs_bias"] == pytest.approx(max(abs(s.core.value - 1) for s in single), abs=1e-3)
    assert closure["mean_abs_bias"] == pytest.approx(np.mean([abs(s.core.value - 1) for s in single]), abs=5e-4)
    assert closure["mean_resolution"] == pytest.approx(np.mean([s.resolution.value for s in single]), rel=5e-3)


def test_closure_with_few_jets_pools_all_bins_and_says_so():
    counts = np.zeros((5, 100))
    counts[:, 45:55] = 3
    closure = closure_from_histograms(counts, np.linspace(0.01, 1.99, 100))
    assert closure["num_bins"] == 0
    assert closure["max_abs_bias"] == pytest.approx(0, abs=0.02)


def test_closure_outside_the_histogram_is_a_large_bias_not_a_nan():
    counts = np.zeros((2, 100))
    counts[:, 0] = 500
    closure = closure_from_histograms(counts, np.linspace(0.01, 1.99, 100))
    assert closure["max_abs_bias"] == pytest.approx(0.99, abs=0.01)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.zeros((2, 100)), "at least 10"),
        (np.ones((2, 99)), "expected counts"),
        (-np.ones((2, 100)), "not negative"),
    ],
)
def test_closure_refuses_unfit_histograms(counts, message):
    with pytest.raises(DataError, match=message):
        closure_from_histograms(counts, np.linspace(0.01, 1.99, 100))
