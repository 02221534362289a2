"""The terms of a resolution: found again where they are known, compared with a grid search, and refused where they are not."""

import numpy as np
import pytest

from distjet.evaluation.resolution import fit_resolution, fit_resolutions, resolution_curve, terms_of

PT = np.geomspace(20, 1000, 10)
TERMS = {"noise_gev": 4.0, "sampling_sqrt_gev": 0.9, "constant": 0.03}


def test_the_curve_is_the_sum_in_squares():
    assert resolution_curve(np.array([100.0]), 4.0, 0.9, 0.03)[0] == pytest.approx(np.sqrt(0.04**2 + 0.09**2 + 0.03**2))


def test_terms_are_found_again_without_noise():
    curve = resolution_curve(PT, **TERMS)
    fit = fit_resolution(PT, curve, 0.01 * curve)
    assert fit["status"] == "ok"
    assert terms_of(fit) == pytest.approx(TERMS, rel=1e-5)
    assert fit["chi2"] == pytest.approx(0, abs=1e-6)
    assert (fit["ndf"], fit["left_out"]) == (7, [])


def test_pulls_of_the_terms_have_mean_zero_and_width_one_and_chi2_is_chi2():
    rng = np.random.default_rng(1)
    curve = resolution_curve(PT, **TERMS)
    error = 0.01 * curve
    fits = [fit_resolution(PT, rng.normal(curve, error), error) for _ in range(200)]
    assert all(fit["status"] == "ok" and not fit["left_out"] for fit in fits)
    for name, truth in TERMS.items():
        pulls = [(fit[name] - truth) / fit[f"{name}_error"] for fit in fits]
        assert abs(np.mean(pulls)) < 0.3
        assert 0.8 < np.std(pulls) < 1.2
    assert np.mean([fit["chi2"] for fit in fits]) == pytest.approx(7, abs=1)


def test_no_other_terms_have_a_smaller_chi2():
    rng = np.random.default_rng(2)
    curve = resolution_curve(PT, **TERMS)
    points = rng.normal(curve, 0.02 * curve)
    fit = fit_resolution(PT, points, 0.02 * curve)
    for _ in range(300):
        other = {name: value * rng.normal(1, 0.03) for name, value in terms_of(fit).items()}
        assert np.sum(((points - resolution_curve(PT, **other)) / (0.02 * curve)) ** 2) >= fit["chi2"] - 1e-9


def test_a_term_with_a_negative_square_is_left_out_and_said():
    curve = resolution_curve(PT, 0.0, 0.9, 0.03) * (1 - 0.02 * (PT < 30))
    fit = fit_resolution(PT, curve, 0.01 * curve)
    assert fit["left_out"] == ["noise_gev"]
    assert (fit["noise_gev"], fit["noise_gev_error"]) == (0.0, None)
    assert fit["sampling_sqrt_gev"] == pytest.approx(0.9, rel=0.02)
    assert fit["ndf"] == 8


def test_what_cannot_be_fitted_says_so():
    assert fit_resolution(PT[:3], np.ones(3), np.ones(3))["status"] == "3 bins, 4 are needed"
    same = np.full(6, 50.0)
    assert (
        fit_resolution(same, np.full(6, 0.1), np.full(6, 0.01))["status"]
        == "the fit failed: the bins do not tell the terms apart"
    )


def test_each_eta_bin_is_fitted_with_its_own_points():
    records = []
    for eta, constant in ((0.0, 0.03), (1.0, 0.08)):
        for pt in PT:
            value = float(resolution_curve(np.array([pt]), 4.0, 0.9, constant)[0])
            records.append(
                {"abs_eta_low": eta, "abs_eta_high": eta + 1, "mean_pt_gev": float(pt), "resolution": value}
                | {"resolution_error": 0.01 * value, "enough_entries": True}
            )
    records.append(records[0] | {"resolution": 9.9, "enough_entries": False})
    fits = fit_resolutions(records)
    assert [fit["constant"] for fit in fits] == pytest.approx([0.03, 0.08], rel=1e-4)
