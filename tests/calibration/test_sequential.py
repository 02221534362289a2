"""A dependence that is known is removed, the scale stays, and the resolution is what is left in closed form."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import optimize

from distjet.calibration.jets import constituent_scale
from distjet.calibration.pileup import fit_core_line
from distjet.calibration.sequential import ResponseRow, SequentialCorrection, fit_sequential, log_response_at_reco, values_of
from distjet.calibration.settings import SequentialConfig, VariableConfig
from distjet.errors import DataError
from distjet.evaluation.config import EstimatorConfig
from distjet.evaluation.estimators import estimate
from tests.calibration.toys import FRACTION_SLOPE, TRACKS_SLOPE, WIDTH, Switches, toy_columns, true_response

FEW_REPLICAS = EstimatorConfig(num_replicas=20)
CONFIG = SequentialConfig(abs_eta_edges=(0.0, 1.2, 2.5), pt_true_edges_gev=(12, 30, 80, 200, 600, 2000))
FRACTION = VariableConfig(column="charged_fraction", max_abs_eta=2.5)
TRACKS = VariableConfig(column="num_tracks", max_abs_eta=2.0)
TABLE = (
    ResponseRow(log_pt_true=3.0, x=(0.0, 1.0, 2.0), log_response=(-0.1, 0.0, 0.2)),
    ResponseRow(log_pt_true=4.0, x=(0.5, 1.5), log_response=(-0.2, 0.1)),
    ResponseRow(log_pt_true=5.5, x=(0.0, 3.0), log_response=(0.05, -0.05)),
)


@pytest.fixture(scope="module")
def columns() -> dict[str, np.ndarray]:
    return toy_columns(60_000, 1, Switches(pileup=False, direction=False))


def jets_at_scale(columns):
    return constituent_scale(columns).scaled(1 / true_response(columns["true_energy"]))


def fit(columns, jets, variable):
    truth = columns["true_energy"], columns["true_pt"]
    place = columns["detector_eta"], values_of(variable.column, variable.is_share_of_pt, jets, columns)
    return fit_sequential(jets, truth, place, (CONFIG, variable, "detector_eta"), FEW_REPLICAS)


def slope_per_deviation(response, x):
    return fit_core_line(np.stack([np.ones_like(x), (x - x.mean()) / x.std()], axis=1), response, 2.0)[0][1]


@pytest.mark.parametrize("x", [-1.0, 0.2, 0.9, 1.4, 5.0])
def test_the_inverse_is_that_of_a_root_finder(x):
    def log_response(log_pt_true):
        return np.interp(log_pt_true, [3.0, 4.0, 5.5], [np.interp(x, row.x, row.log_response) for row in TABLE])

    for log_pt_reco in np.linspace(2.0, 6.5, 19):
        log_true = optimize.brentq(lambda t, reco=log_pt_reco: t + log_response(t) - reco, 0, 9, xtol=1e-13)
        found = log_response_at_reco(TABLE, np.array([log_pt_reco]), np.array([x]))[0]
        assert found == pytest.approx(log_response(log_true), abs=1e-9)


def test_a_table_of_one_row_is_the_same_at_every_pt():
    found = log_response_at_reco(TABLE[:1], np.array([1.0, 3.0, 9.0]), np.array([0.5, 0.5, 1.5]))
    np.testing.assert_allclose(found, [-0.05, -0.05, 0.1])


def test_the_dependence_goes_and_the_resolution_is_what_remains(columns):
    jets = jets_at_scale(columns)
    step = fit(columns, jets, FRACTION).step
    other = toy_columns(60_000, 2, Switches(pileup=False, direction=False))
    before = jets_at_scale(other)
    after = step.apply(before, other)
    x = other["charged_fraction"]
    slopes = [slope_per_deviation(some.energy / other["true_energy"], x) for some in (before, after)]
    assert slopes[0] == pytest.approx(FRACTION_SLOPE, abs=0.006)
    assert abs(slopes[1]) < 0.2 * abs(FRACTION_SLOPE)
    widths = [estimate(some.energy / other["true_energy"], None, FEW_REPLICAS).resolution.value for some in (before, after)]
    assert widths[0] == pytest.approx(np.sqrt(WIDTH**2 + TRACKS_SLOPE**2 + FRACTION_SLOPE**2), rel=0.03)
    assert widths[1] == pytest.approx(np.hypot(WIDTH, TRACKS_SLOPE), rel=0.03)


def test_the_scale_stays_where_it_was_in_every_bin(columns):
    jets = jets_at_scale(columns).scaled(1 + 0.02 * np.log(columns["true_pt"] / 100))  # a scale that is off
    step = fit(columns, jets, FRACTION).step
    after = step.apply(jets, columns)
    for low, high in pairwise(CONFIG.pt_true_edges_gev):
        chosen = (columns["true_pt"] >= low) & (columns["true_pt"] < high)
        responses = [some.energy[chosen] / columns["true_energy"][chosen] for some in (jets, after)]
        cores = [estimate(response, None, FEW_REPLICAS).core.value for response in responses]
        assert cores[1] == pytest.approx(cores[0], abs=0.004)


def test_a_share_is_that_of_the_calibrated_pt_whatever_lies_under_the_jet(columns):
    """A pileup that is subtracted before changes the share of the uncalibrated pT, and nothing else."""
    jets = jets_at_scale(columns)
    under = 1 + 0.3 * np.random.default_rng(4).uniform(size=len(jets.pt))
    share = columns["charged_fraction"] * jets.pt / (under * columns["jet_pt"])
    with_pileup = columns | {"jet_pt": under * columns["jet_pt"], "charged_fraction": share}
    share_of_pt = FRACTION.model_copy(update={"is_share_of_pt": True})
    step, plain = fit(with_pileup, jets, share_of_pt).step, fit(columns, jets, FRACTION).step
    assert step.needed_columns == ("charged_fraction", "detector_eta", "jet_pt")
    assert plain.needed_columns == ("charged_fraction", "detector_eta")
    np.testing.assert_allclose(step.apply(jets, with_pileup).pt, plain.apply(jets, columns).pt, rtol=1e-9)


def test_jets_beyond_the_range_of_a_variable_are_left_as_they_are(columns):
    jets = jets_at_scale(columns)
    step = fit(columns, jets, TRACKS).step
    after = step.apply(jets, columns)
    outside = np.abs(columns["detector_eta"]) >= 2.0
    assert step.abs_eta_edges == (0.0, 1.2, 2.0)
    np.testing.assert_array_equal(after.energy[outside], jets.energy[outside])
    assert np.mean(after.energy[~outside] == jets.energy[~outside]) < 0.01


def test_a_variable_that_is_always_the_same_changes_nothing(columns):
    same = columns | {"num_tracks": np.full(60_000, 3.0)}
    jets = jets_at_scale(same)
    step = fit(same, jets, TRACKS).step
    np.testing.assert_allclose(step.apply(jets, same).energy, jets.energy, rtol=1e-12)


def test_what_cannot_be_fitted_or_inverted_is_named(columns):
    few = {name: values[:50] for name, values in columns.items()}
    with pytest.raises(DataError, match=r"charged_fraction: no bin of \|detector_eta\| and true pT holds 300 jets"):
        fit(few, jets_at_scale(few), FRACTION)
    x, pt = columns["charged_fraction"], columns["true_pt"]
    broken = jets_at_scale(columns).scaled(np.where((x > 0.6) & (pt > 200), 0.02, 1.0))
    message = r"charged_fraction at 0 <= \|detector_eta\| < 1\.2: between true pT of .* cannot be inverted"
    with pytest.raises(DataError, match=message):
        fit(columns, broken, FRACTION)


def test_steps_read_from_a_file_must_be_whole():
    with pytest.raises(ValueError, match="rows must have 2 items, one for each bin of abs_eta_edges"):
        SequentialCorrection(variable="x", detector_eta="detector_eta", abs_eta_edges=(0.0, 1.0, 2.0), rows=(TABLE,))
