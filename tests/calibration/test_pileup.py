"""Offsets that are known are found, with the right errors, and taken away."""

import numpy as np
import pytest
from scipy import optimize, stats

from distjet.calibration.curves import Curve
from distjet.calibration.jets import constituent_scale
from distjet.calibration.pileup import (
    AreaSubtraction,
    ResidualCorrection,
    Slopes,
    SlopesAt,
    fit_core_line,
    fit_residual,
    fit_slopes,
    slope_curve,
)
from distjet.calibration.settings import ResidualConfig
from distjet.errors import DataError
from tests.calibration.toys import ALPHA_GEV, BETA_GEV, toy_columns

AREA = AreaSubtraction(rho="rho", area="area", min_factor=0.1)


def constant(value: float) -> Curve:
    return Curve(log_low=0.0, log_high=0.0, coefficients=(value,))


RESIDUAL = ResidualCorrection(
    num_vertices="num_vertices",
    num_interactions="num_interactions",
    detector_eta="detector_eta",
    abs_eta_edges=(0.0, 1.0, 2.0),
    alpha_gev=(constant(0.1), Curve(log_low=np.log(10), log_high=np.log(100), coefficients=(0.2, 0.1))),
    beta_gev=(constant(-0.05), constant(0.02)),
    min_factor=0.1,
)


def test_area_and_residual_subtraction_jet_by_jet():
    columns = toy_columns(300, 1)
    jets = constituent_scale(columns)
    area, residual = AREA.apply(jets, columns), RESIDUAL.apply(jets, columns)
    for n in range(300):
        offset = columns["rho"][n] * columns["area"][n]
        assert area.pt[n] == pytest.approx(max(jets.pt[n] - offset, 0.1 * jets.pt[n]))
        rising = 0.1 + 0.2 * (np.log(np.clip(jets.pt[n], 10, 100)) - np.log(10)) / np.log(10)
        alpha, beta = (0.1, -0.05) if abs(columns["detector_eta"][n]) < 1 else (rising, 0.02)  # the last bin beyond the edges
        offset = alpha * (columns["num_vertices"][n] - 1) + beta * columns["num_interactions"][n]
        assert residual.pt[n] == pytest.approx(max(jets.pt[n] - offset, 0.1 * jets.pt[n]))
    assert np.abs(columns["detector_eta"]).max() > 2
    np.testing.assert_allclose(area.mass / area.pt, jets.mass / jets.pt)
    np.testing.assert_array_equal(area.eta, jets.eta)


def test_a_jet_that_is_all_pileup_keeps_its_least_part():
    columns = toy_columns(5, 1) | {"rho": np.full(5, 1e6)}
    jets = constituent_scale(columns)
    np.testing.assert_allclose(AREA.apply(jets, columns).energy, 0.1 * jets.energy)


def correlated_pileup(rng, number):
    mu = rng.uniform(10, 70, number)
    return 1.0 + rng.poisson(0.5 * mu), mu


def test_pulls_of_the_slopes_have_mean_zero_and_width_one():
    rng = np.random.default_rng(1)
    pulls = []
    for _ in range(150):
        npv, mu = correlated_pileup(rng, 600)
        pt_true = rng.uniform(20, 30, 600)
        offset = -0.3 * pt_true + ALPHA_GEV * npv + BETA_GEV * mu + rng.normal(0, 3, 600)
        found = fit_slopes(offset, pt_true, (npv, mu), 2.0)
        pulls.append([(found.alpha - ALPHA_GEV) / found.alpha_error, (found.beta - BETA_GEV) / found.beta_error])
    assert np.abs(np.mean(pulls, axis=0)).max() < 0.3
    assert np.all((np.std(pulls, axis=0) > 0.85) & (np.std(pulls, axis=0) < 1.2))


def test_without_a_window_the_fit_is_ordinary_least_squares():
    rng = np.random.default_rng(2)
    x = rng.uniform(0, 1, 1000)
    y = 2 + 3 * x + rng.uniform(-1, 1, 1000)  # bounded, so a window of 5 half widths holds all
    solution, variance, inside = fit_core_line(np.stack([np.ones(1000), x], axis=1), y, 5.0)
    expected = stats.linregress(x, y)
    assert inside.all()
    assert solution == pytest.approx([expected.intercept, expected.slope])
    assert variance == pytest.approx(np.var(y - expected.intercept - expected.slope * x), rel=1e-4)


def test_the_core_is_the_truncated_likelihood_fit_of_scipy_in_its_own_window():
    rng = np.random.default_rng(3)
    x = rng.uniform(-1, 1, 20_000)
    y = 1 + 0.5 * x + rng.normal(0, 0.3, 20_000)
    y = np.where(rng.random(20_000) < 0.1, y + rng.exponential(2, 20_000) * (1 + x), y)  # a tail that leans
    design = np.stack([np.ones_like(x), x], axis=1)
    solution, _, inside = fit_core_line(design, y, 1.5)
    half = np.abs(y - design @ solution)[inside].max()

    def negative_log_likelihood(parameters):
        shift, slope, log_sigma = parameters
        mean = np.column_stack([np.ones(inside.sum()), x[inside]]) @ [shift, slope] - design[inside] @ solution
        sigma, residual = np.exp(log_sigma), (y - design @ solution)[inside]
        norm = stats.norm.cdf(half, mean, sigma) - stats.norm.cdf(-half, mean, sigma)
        return -np.mean(stats.norm.logpdf(residual, mean, sigma) - np.log(norm))

    fit = optimize.minimize(
        negative_log_likelihood, [1.0, 0.5, np.log(0.3)], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12}
    )
    assert solution == pytest.approx(fit.x[:2], abs=2e-3)
    plain = stats.linregress(x, y)
    assert abs(solution[1] - 0.5) < 0.05 < abs(plain.slope - 0.5)


def test_a_sample_without_a_spread_in_pileup_has_no_slope():
    rng = np.random.default_rng(4)
    pt_true = rng.uniform(20, 30, 1000)
    found = fit_slopes(rng.normal(0, 1, 1000), pt_true, (np.full(1000, 7.0), np.full(1000, 40.0)), 2.0)
    assert (found.alpha, found.beta, found.alpha_error, found.beta_error) == (0, 0, 0, 0)


def test_the_slopes_are_a_weighted_line_in_the_logarithm_of_pt():
    log_pt, values, errors = np.log([15.0, 18, 25, 40]), np.array([0.2, 0.15, 0.1, 0.12]), np.array([0.01, 0.02, 0.02, 0.05])
    found = [SlopesAt(30.0, x, Slopes(a, 0.0, e, 1.0, 100)) for x, a, e in zip(log_pt, values, errors, strict=True)]
    expected = optimize.curve_fit(lambda x, a, b: a + b * x, log_pt, values, sigma=errors)[0]
    np.testing.assert_allclose(slope_curve(found, "alpha", 1)(log_pt), expected[0] + expected[1] * log_pt)
    mean = np.average(values, weights=errors**-2)
    np.testing.assert_allclose(slope_curve(found, "alpha", 0)(np.array([0.0, 9.0])), mean)


def test_known_offsets_are_found_in_every_bin_and_empty_bins_borrow():
    columns = toy_columns(60_000, 5)
    jets = AREA.apply(constituent_scale(columns), columns)
    config = ResidualConfig(abs_eta_edges=(0.0, 1.2, 2.5, 3.0, 4.0), pt_true_edges_gev=(20, 30, 45, 70, 100), min_entries=300)
    pileup = columns["num_vertices"], columns["num_interactions"]
    fit = fit_residual(jets, columns["true_pt"], columns["detector_eta"], pileup, config)
    assert fit.taken_from == (0, 1, 1, 1)
    assert fit.alpha_gev[3] == fit.alpha_gev[1]
    for number in (0, 1):
        error = max(found.slopes.alpha_error for found in fit.bins[number])
        for log_pt in np.log([15, 30, 80]):
            assert fit.alpha_gev[number](log_pt) == pytest.approx(ALPHA_GEV, abs=4 * error)
            assert fit.beta_gev[number](log_pt) == pytest.approx(BETA_GEV, abs=4 * error)
    with pytest.raises(DataError, match=r"residual pileup in bins of \|eta_det\| and true pT: no bin has enough jets"):
        fit_residual(jets, columns["true_pt"], columns["detector_eta"], pileup, ResidualConfig(min_entries=10**6))
