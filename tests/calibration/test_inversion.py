"""A response that is known is inverted, and jets come out at their true energy and direction."""

import numpy as np
import pytest
from scipy import optimize

from distjet.calibration.curves import Curve, Points, fit_curve
from distjet.calibration.inversion import (
    EnergyInversion,
    EtaCorrection,
    fit_energy,
    fit_eta,
    is_invertible,
    response_at_reco,
)
from distjet.calibration.jets import constituent_scale
from distjet.calibration.settings import EnergyConfig, EtaConfig
from distjet.errors import DataError
from distjet.evaluation.config import EstimatorConfig
from distjet.evaluation.estimators import estimate
from tests.calibration.toys import Switches, eta_bias, toy_columns, true_response

FEW_REPLICAS = EstimatorConfig(num_replicas=20)
NO_PILEUP = Switches(pileup=False, variables=False)
RISING = Curve(log_low=3.0, log_high=7.0, coefficients=(0.75, 0.1, -0.02))


def points(log_energy, value, error=0.01):
    x = np.asarray(log_energy, float)
    return Points(x, np.asarray(value, float), np.full(len(x), error), np.full(len(x), 100), 0)


def test_the_inverse_is_that_of_a_root_finder():
    for log_true in np.linspace(3.0, 7.0, 23):
        energy_reco = float(np.exp(log_true) * RISING(log_true))
        found = optimize.brentq(lambda x, reco=energy_reco: np.exp(x) * RISING(x) - reco, 2.9, 7.1, xtol=1e-12)
        assert energy_reco / response_at_reco(RISING, np.array([energy_reco]))[0] == pytest.approx(np.exp(found), rel=1e-5)


def test_the_response_is_constant_beyond_the_bins_and_still_invertible():
    low, high = np.exp(3.0) * RISING(3.0), np.exp(7.0) * RISING(7.0)
    energy = np.array([1e-3, low / 2, low, high, 50 * high])
    expected = [RISING(3.0), RISING(3.0), RISING(3.0), RISING(7.0), RISING(7.0)]
    np.testing.assert_allclose(response_at_reco(RISING, energy), expected, rtol=1e-12)
    many = np.geomspace(1e-3, 1e5, 4000)
    assert np.all(np.diff(many / response_at_reco(RISING, many)) > 0)


def test_a_polynomial_is_the_weighted_fit_of_scipy():
    rng = np.random.default_rng(1)
    x, errors = np.linspace(3, 7, 9), rng.uniform(0.005, 0.02, 9)
    y = 0.7 + 0.05 * (x - 5) + rng.normal(0, errors)
    fit = fit_curve(Points(x, y, errors, np.full(9, 100), 0), 2, 0.0)
    expected, _ = optimize.curve_fit(lambda t, a, b, c: a + b * t + c * t**2, x, y, sigma=errors, absolute_sigma=True)
    np.testing.assert_allclose(fit.curve(x), np.polyval(expected[::-1], x), rtol=1e-6)
    assert fit.chi2 == pytest.approx(np.sum(((y - np.polyval(expected[::-1], x)) / errors) ** 2), rel=1e-6)
    assert fit.num_degrees_of_freedom == 6


def test_the_degree_falls_with_the_points_and_where_the_inverse_would_not_exist():
    assert len(fit_curve(points([3, 4, 5], [0.7, 0.8, 0.7]), 4, 0.0).curve.coefficients) == 2
    assert fit_curve(points([3], [0.7]), 4, 0.0).curve(9.0) == pytest.approx(0.7)
    falling = points([3, 3.5, 4, 4.5, 5], [2.0, 1.9, 0.5, 0.2, 0.1])  # E_reco would fall where E_true rises
    assert not is_invertible(fit_curve(falling, 3, 0.0).curve)
    fit = fit_curve(falling, 3, 0.0, is_invertible)
    assert is_invertible(fit.curve)
    assert fit.remark == f"degree {len(fit.curve.coefficients) - 1} instead of 3: R(E) E would not increase"


def test_known_response_is_recovered_and_closes():
    columns = toy_columns(80_000, 2, NO_PILEUP)
    jets = constituent_scale(columns)
    config = EnergyConfig(abs_eta_edges=(0.0, 1.2, 2.5))
    fits = fit_energy(jets, columns["true_energy"], columns["detector_eta"], config, FEW_REPLICAS)
    for fit in fits.fits:
        energy = np.exp(fit.points.logarithm)
        np.testing.assert_allclose(fit.curve(fit.points.logarithm), true_response(energy), atol=0.006)
        assert fit.chi2 < 3 * fit.num_degrees_of_freedom
    step = EnergyInversion(detector_eta="detector_eta", abs_eta_edges=config.abs_eta_edges, curves=fits.curves)
    other = toy_columns(80_000, 3, NO_PILEUP)
    response = step.apply(constituent_scale(other), other).energy / other["true_energy"]
    for low, high in ((20, 40), (40, 100), (100, 300), (300, 1000)):
        chosen = (other["true_pt"] > low) & (other["true_pt"] < high)
        assert estimate(response[chosen], None, FEW_REPLICAS).core.value == pytest.approx(1, abs=0.006)


def test_the_calibration_does_not_depend_on_the_spectrum():
    columns = toy_columns(120_000, 4, NO_PILEUP)
    keep = np.random.default_rng(5).random(120_000) < (12 / columns["true_pt"]) ** 0.7  # a falling spectrum
    config = EnergyConfig(abs_eta_edges=(0.0, 2.5))
    curves = [
        fit_energy(constituent_scale(some), some["true_energy"], some["detector_eta"], config, FEW_REPLICAS).curves[0]
        for some in (columns, {name: values[keep] for name, values in columns.items()})
    ]
    grid = np.log(np.geomspace(40, 1000, 20))
    np.testing.assert_allclose(curves[0](grid), curves[1](grid), atol=0.008)


def test_a_bin_without_jets_borrows_and_no_jets_at_all_are_an_error():
    columns = toy_columns(5000, 6, NO_PILEUP)
    jets = constituent_scale(columns)
    config = EnergyConfig(abs_eta_edges=(0.0, 2.5, 3.2, 4.5), min_entries=100)
    fits = fit_energy(jets, columns["true_energy"], columns["detector_eta"], config, FEW_REPLICAS)
    assert fits.taken_from == (0, 0, 0)
    assert fits.curves == (fits.curves[0],) * 3
    with pytest.raises(DataError, match=r"energy scale in bins of \|eta_det\|: no bin has enough jets"):
        fit_energy(jets, columns["true_energy"], columns["detector_eta"], EnergyConfig(min_entries=10**6), FEW_REPLICAS)


def test_the_direction_is_corrected_on_both_sides_and_the_energy_stays():
    columns = toy_columns(60_000, 7, Switches(pileup=False, variables=False, width=0.01))
    jets = constituent_scale(columns).scaled(1 / true_response(columns["true_energy"]))
    config = EtaConfig(abs_eta_edges=tuple(np.linspace(0, 2.5, 26)), pt_true_edges_gev=(12, 100, 2000))
    fits = fit_eta(jets, (columns["true_energy"], columns["true_eta"]), columns["detector_eta"], config, FEW_REPLICAS)
    step = EtaCorrection(detector_eta="detector_eta", abs_eta_edges=config.abs_eta_edges, curves=fits.curves)
    turned = step.apply(jets, columns)
    np.testing.assert_array_equal(turned.energy, jets.energy)
    np.testing.assert_array_equal(turned.mass, jets.mass)
    for sign in (-1, 1):
        side = np.sign(columns["detector_eta"]) == sign
        assert np.abs(jets.eta - columns["true_eta"])[side].max() == pytest.approx(0.02, abs=1e-3)
        assert np.abs(turned.eta - columns["true_eta"])[side].max() < 0.003  # within a bin of |eta|
    assert np.abs(eta_bias(columns["true_eta"])).max() > 0.019
