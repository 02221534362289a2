"""Slopes against closed forms and scipy, their errors against toys, and known dependences found again."""

import numpy as np
import pytest
from scipy import stats

from distjet.evaluation.config import DependenceConfig, EstimatorConfig, PileupConfig, ResponseConfig
from distjet.evaluation.dependence import summarise_flavour, summarise_properties
from distjet.evaluation.pileup import summarise_pileup
from distjet.evaluation.predictions import Predictions
from distjet.evaluation.slopes import combine, fit_slopes, profile

CONFIG = ResponseConfig(
    abs_eta_edges=(0.0, 1.0, 2.0),
    estimator=EstimatorConfig(num_replicas=30),
    pileup=PileupConfig(pt_edges_gev=(20, 40, 80)),
    dependence=DependenceConfig(pt_edges_gev=(20, 40, 80)),
)


def jets(num_jets=40_000, seed=1, **columns):
    """Jets with a pT that shifts by 0.2 GeV per vertex and -0.1 GeV per mean interaction for |eta| > 1, and not elsewhere."""
    rng = np.random.default_rng(seed)
    eta, pt = rng.uniform(-2, 2, num_jets), rng.uniform(20, 80, num_jets)
    mu = rng.uniform(10, 70, num_jets)
    npv = rng.poisson(0.6 * mu).astype(float)
    shift = np.where(np.abs(eta) > 1, 0.2 * npv - 0.1 * mu, 0.0) + rng.normal(0, 0.05 * pt)
    energy = pt * np.cosh(eta)
    found = {"true_pt": pt, "true_eta": eta, "true_energy": energy, "mu": mu, "npv": npv, "raw_pt": pt + shift}
    found |= {"raw_energy": energy * (1 + shift / pt), **columns}
    return Predictions(found, ("raw",), num_jets), rng


def test_one_slope_is_that_of_scipy():
    rng = np.random.default_rng(2)
    x = rng.uniform(0, 5, 300)
    y = 2 - 0.7 * x + rng.normal(0, 1, 300)
    expected = stats.linregress(x, y)
    fitted = fit_slopes(y, x[:, None])
    assert fitted.values[0] == pytest.approx(expected.slope, rel=1e-10)
    residuals = y - expected.intercept - expected.slope * x
    centred = x - x.mean()
    sandwich = np.sqrt(np.sum(centred**2 * residuals**2)) / np.sum(centred**2) * np.sqrt(300 / 298)
    assert fitted.errors[0] == pytest.approx(sandwich, rel=1e-10)


def test_two_slopes_are_those_of_least_squares_and_weights_repeat_jets():
    rng = np.random.default_rng(3)
    x = rng.normal(0, 1, (200, 2)) @ np.array([[1.0, 0.8], [0.0, 3.0]]) + 100
    y = x @ [0.5, -0.2] + rng.normal(0, 1, 200)
    expected = np.linalg.lstsq(np.column_stack([np.ones(200), x]), y, rcond=None)[0][1:]
    np.testing.assert_allclose(fit_slopes(y, x).values, expected, rtol=1e-8)
    repeats = rng.integers(1, 4, 200)
    weighted = fit_slopes(y, x, repeats.astype(float))
    np.testing.assert_allclose(weighted.values, fit_slopes(np.repeat(y, repeats), np.repeat(x, repeats, axis=0)).values)


def test_errors_cover_where_the_spread_depends_on_the_predictor():
    rng = np.random.default_rng(4)
    pulls = []
    for _ in range(300):
        x = rng.uniform(0, 1, 200)
        fitted = fit_slopes(0.3 * x + rng.normal(0, 0.1 + 2 * x**2), x[:, None])
        pulls.append((fitted.values[0] - 0.3) / fitted.errors[0])
    assert abs(np.mean(pulls)) < 0.2
    assert 0.9 < np.std(pulls) < 1.12


@pytest.mark.parametrize(
    "predictors",
    [np.ones((50, 1)), np.arange(100.0).reshape(50, 2) @ np.ones((2, 2)), np.arange(4.0).reshape(2, 2)],
    ids=["constant", "twins", "too few"],
)
def test_what_jets_do_not_determine_has_no_slope(predictors):
    assert fit_slopes(np.arange(float(len(predictors))), predictors) is None


def test_combination_is_the_weighted_mean():
    value, error = combine(np.array([1.0, 3.0]), np.array([1.0, 0.5]))
    assert value == pytest.approx((1 + 4 * 3) / 5)
    assert error == pytest.approx(1 / np.sqrt(5))
    assert combine(np.array([1.0, 3.0]), np.array([0.0, 0.5]))[0] == pytest.approx(1.0)


def test_profile_is_that_of_scipy_and_keeps_whole_numbers_together():
    rng = np.random.default_rng(5)
    x, y = rng.uniform(0, 1, 4000), rng.normal(0, 1, 4000)
    points = profile(x, y, 4)
    edges = np.quantile(x, [0, 0.25, 0.5, 0.75, 1])
    expected = stats.binned_statistic(x, y, "mean", edges).statistic
    np.testing.assert_allclose([point["y"] for point in points], expected, rtol=1e-10)
    inside = y[(x >= edges[1]) & (x < edges[2])]
    assert points[1]["y_error"] == pytest.approx(stats.sem(inside), rel=1e-6)
    whole = profile(rng.integers(0, 3, 1000).astype(float), rng.normal(0, 1, 1000), 8)
    assert sum(point["num_jets"] for point in whole) == 1000
    assert len(whole) <= 3


def test_known_pileup_slopes_are_found_bin_by_bin():
    table, _ = jets()
    found = summarise_pileup(table, CONFIG)["raw"]
    central, forward = found["by_eta_npv"]
    assert central["slope_npv_gev"] == pytest.approx(0, abs=4 * central["slope_npv_gev_error"])
    assert forward["slope_npv_gev"] == pytest.approx(0.2, abs=4 * forward["slope_npv_gev_error"])
    assert found["slope_npv_gev"] == forward["slope_npv_gev"]
    assert found["slope_mu_gev"] == pytest.approx(-0.1, abs=4 * found["slope_mu_gev_error"])
    assert 0 < found["slope_npv_gev_error"] < 0.02


def test_a_pileup_profile_has_the_slope_at_a_fixed_value_of_the_other():
    found = summarise_pileup(jets()[0], CONFIG)["raw"]
    points = found["profile_npv"][1]["points"]
    assert found["profile_npv"][1]["abs_eta_low"] == 1.0
    slope = np.polyfit([p["x"] for p in points], [p["y"] for p in points], 1)[0]
    assert slope == pytest.approx(0.2, abs=0.03)


def test_bins_with_few_jets_have_no_slope():
    found = summarise_pileup(jets(60)[0], CONFIG)["raw"]
    assert found["slope_npv_gev"] is None
    assert all(record["slope_npv_gev"] is None for record in found["bins"] if record["num_jets"] < 50)


def test_slope_in_a_property_is_per_standard_deviation_whatever_its_unit():
    table, rng = jets()
    tracks = rng.normal(10, 2.5, table.num_jets) + table.columns["true_pt"]  # the pT must not count as spread
    response = (
        table.columns["raw_energy"] - 0.03 * table.columns["true_energy"] * (tracks - table.columns["true_pt"] - 10) / 2.5
    )
    table.columns.update(num_tracks=tracks, raw_energy=response, constant=np.zeros(table.num_jets))
    narrow = CONFIG.model_copy(update={"dependence": DependenceConfig(pt_edges_gev=(40, 40.5, 41, 41.5, 42))})
    found = summarise_properties(table, "num_tracks", narrow.model_copy(update={"min_entries": 100}))["raw"]
    assert found["slope_per_sd"] == pytest.approx(-0.03, abs=4 * found["slope_per_sd_error"] + 0.002)
    assert found["profiles"][0]["points"][0]["y"] > 0.02
    constant = summarise_properties(table, "constant", CONFIG)["raw"]
    assert constant["slope_per_sd"] is None


def test_flavours_differ_by_what_they_were_given():
    table, rng = jets()
    quark = rng.random(table.num_jets) < 0.4
    table.columns["flavour"] = np.where(quark, rng.choice([-1.0, 2.0, 3.0], table.num_jets), 21.0)
    energy = table.columns["true_energy"]
    table.columns["raw_energy"] = energy * rng.normal(np.where(quark, 1.02, 0.99), 0.1)
    found = summarise_flavour(table, CONFIG)["raw"]
    assert found["num_bins"] == 4
    assert found["mean_difference"] == pytest.approx(0.03, abs=4 * found["mean_difference_error"])
    assert found["mean_difference_median"] == pytest.approx(0.03, abs=4 * found["mean_difference_median_error"])
    assert sum(r["num_quark_jets"] for r in found["bins"]) == quark.sum()
