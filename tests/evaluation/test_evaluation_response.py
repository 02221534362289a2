"""Bins, headline numbers and the table of predictions."""

import subprocess
import sys

import numpy as np
import pydantic
import pytest

from distjet.errors import DataError
from distjet.evaluation.config import EstimatorConfig, ResponseConfig
from distjet.evaluation.predictions import discover_methods, read_predictions
from distjet.evaluation.response import binned_response, headline_bins, observable_values, select_jets
from distjet.evaluation.summary import summarise

QUICK = ResponseConfig(estimator=EstimatorConfig(num_replicas=40))


@pytest.fixture(scope="module")
def predictions(tmp_path_factory, make_columns, save):
    path = save(tmp_path_factory.mktemp("toy") / "predictions.parquet", make_columns(30_000))
    return read_predictions(path, QUICK)


@pytest.fixture(scope="module")
def metrics(predictions):
    return summarise(predictions, QUICK)


def test_known_bias_of_each_bin_is_recovered(tmp_path, make_columns, save):
    def calibrated_scale(energy):
        return 1 + 0.04 * np.log10(energy / 150)

    columns = make_columns(60_000)
    energy = columns["true_energy"]
    rng = np.random.default_rng(0)
    columns["calibrated_energy"] = energy * calibrated_scale(energy) * (1 + 0.08 * rng.normal(0, 1, len(energy)))
    config = QUICK.model_copy(update={"observables": ("energy",), "energy_edges_gev": (30, 50, 80, 120, 200, 400, 900)})
    jets = select_jets(read_predictions(save(tmp_path / "p.parquet", columns), config), config)
    records = headline_bins(binned_response(jets, "calibrated", "energy", config))
    assert len(records) > 12
    pulls = []
    for record in records:
        log_mean = (np.log(record["energy_low_gev"]) + np.log(record["energy_high_gev"])) / 2
        if record["abs_eta_high"] <= 0.8 and record["energy_low_gev"] >= 50:  # no loss at the pT threshold: flat in ln E
            pulls.append((record["scale_core"] - calibrated_scale(np.exp(log_mean))) / record["scale_core_error"])
        assert record["scale_core"] == pytest.approx(calibrated_scale(record["mean_energy_gev"]), abs=0.012)
    assert np.sqrt(np.mean(np.square(pulls))) < 2


def test_counts_of_the_bins_are_those_of_numpy(predictions):
    jets = select_jets(predictions, QUICK)
    expected = np.histogram2d(
        np.abs(jets.columns["true_eta"]), jets.columns["true_energy"], [QUICK.abs_eta_edges, QUICK.energy_edges_gev]
    )[0]
    found = [record["num_jets"] for record in binned_response(jets, "raw", "energy", QUICK)]
    np.testing.assert_array_equal(found, expected.ravel())


def test_headline_numbers_are_those_of_the_bins(metrics):
    summary = metrics["energy_response"]["calibrated"]
    used = [record for record in summary["bins"] if record["num_jets"] > 200]
    worst = max(used, key=lambda record: abs(record["scale_core"] - 1))
    assert summary["num_bins"] == len(used) > 10
    assert summary["max_abs_bias"] == abs(worst["scale_core"] - 1)
    assert summary["max_abs_bias_error"] == worst["scale_core_error"]
    assert summary["mean_abs_bias"] == pytest.approx(np.mean([abs(r["scale_core"] - 1) for r in used]))
    assert summary["max_abs_bias_median"] == max(abs(r["scale_median"] - 1) for r in used)
    assert summary["mean_resolution"] == pytest.approx(np.mean([r["resolution"] for r in used]))


def test_all_methods_use_the_same_bins(metrics):
    for group in ("energy_response", "mass_response", "rapidity_residual"):
        flags = [[r["enough_entries"] for r in summary["bins"]] for summary in metrics[group].values()]
        assert all(flag == flags[0] for flag in flags)


def test_bins_with_few_jets_are_flagged_and_have_no_numbers(metrics):
    records = metrics["energy_response"]["raw"]["bins"]
    few = [record for record in records if record["num_jets"] < 10]
    assert few
    for record in few:
        assert (record["scale_core"], record["resolution_error"], record["core_status"]) == (None, None, "few entries")
        assert not record["enough_entries"]
        assert not record["drawn"]
    assert all(record["drawn"] == (record["num_jets"] >= 50) for record in records)


def test_accounting_of_jets(predictions, metrics):
    below = np.sum(predictions.columns["true_pt"] <= 20)
    assert metrics["num_jets_total"] == 30_000
    assert metrics["num_jets"] == 30_000 - below
    inside = sum(record["num_jets"] for record in metrics["energy_response"]["raw"]["bins"])
    assert metrics["num_jets"] == inside + metrics["num_jets_outside_bins"]
    with_mass = sum(record["num_jets"] for record in metrics["mass_response"]["raw"]["bins"])
    assert inside - with_mass == metrics["num_jets_below_true_mass"] > 0


def test_scaled_mass_carries_the_energy_correction(predictions):
    jets = select_jets(predictions, QUICK)
    scaled = observable_values(jets, "calibrated_mass_scaled", "mass")
    correction = observable_values(jets, "calibrated", "energy") / observable_values(jets, "raw", "energy")
    np.testing.assert_allclose(scaled, observable_values(jets, "raw", "mass") * correction, rtol=1e-12)


def test_the_toy_improves_the_mass_beyond_the_energy_scaling(metrics):
    mass = metrics["mass_response"]
    assert list(mass) == ["raw", "calibrated_mass_scaled", "calibrated"]
    assert mass["calibrated"]["mean_abs_bias"] < mass["calibrated_mass_scaled"]["mean_abs_bias"] < mass["raw"]["mean_abs_bias"]


def test_rapidity_residual_is_recovered(metrics):
    residual = metrics["rapidity_residual"]
    assert residual["raw"]["mean_width"] == pytest.approx(0.02, abs=5 * residual["raw"]["mean_width_error"])
    assert residual["calibrated"]["mean_width"] == pytest.approx(0.015, abs=5 * residual["calibrated"]["mean_width_error"])
    mean = np.mean([r["median"] for r in headline_bins(residual["raw"]["bins"])])
    assert mean == pytest.approx(0.002, abs=0.0006)


def test_order_of_the_rows_does_not_matter(tmp_path, make_columns, save):
    columns = make_columns(3000)
    order = np.random.default_rng(1).permutation(3000)
    shuffled = {name: np.asarray(values)[order] for name, values in columns.items()}
    config = ResponseConfig(num_log_energy_bins=3, energy_edges_gev=None, estimator=EstimatorConfig(num_replicas=20))
    first = summarise(read_predictions(save(tmp_path / "a.parquet", columns), config), config)
    second = summarise(read_predictions(save(tmp_path / "b.parquet", shuffled), config), config)
    for group in ("energy_response", "mass_response"):
        for method, summary in first[group].items():
            assert summary["num_bins"] > 0
            assert second[group][method]["max_abs_bias"] == summary["max_abs_bias"]
            assert second[group][method]["mean_resolution_error"] == summary["mean_resolution_error"]


def test_event_weights_move_the_numbers_and_reduce_the_effective_jets(tmp_path, make_columns, save):
    columns = make_columns(8000)
    columns["weight"] = np.where(np.arange(8000) % 4 == 0, 1.0, 0.01)
    config = QUICK.model_copy(update={"use_weights": True, "observables": ("energy",)})
    jets = select_jets(read_predictions(save(tmp_path / "p.parquet", columns), config), config)
    records = [r for r in binned_response(jets, "raw", "energy", config) if r["num_jets"] > 100]
    for record in records:
        assert 0.15 * record["num_jets"] < record["num_effective"] < 0.4 * record["num_jets"]
        assert record["enough_entries"] == (record["num_effective"] > 200)


def test_low_edge_belongs_to_its_bin_and_the_last_edge_does_not(tmp_path, make_columns, save):
    columns = make_columns(3)
    columns |= {
        "true_energy": np.array([100.0, 200.0, 400.0]),
        "true_eta": np.array([0.0, -0.8, 0.1]),
        "true_pt": np.full(3, 90.0),
    }
    config = ResponseConfig(energy_edges_gev=(100, 200, 400), abs_eta_edges=(0, 0.75, 2), observables=("energy",))
    metrics = summarise(read_predictions(save(tmp_path / "p.parquet", columns), config), config)
    assert [record["num_jets"] for record in metrics["energy_response"]["raw"]["bins"]] == [1, 0, 0, 1]
    assert metrics["num_jets_outside_bins"] == 1


def test_methods_are_discovered_with_raw_first():
    names = ["true_energy", "true_mass", "log_jet_energy", "chain_energy", "gnn_energy", "raw_energy"]
    names += ["gnn_mass", "raw_pt", "chain_rapidity"]
    assert discover_methods(names) == ("raw", "chain", "gnn")


def test_missing_columns_are_named(tmp_path, make_columns, save):
    columns = make_columns(20)
    del columns["calibrated_mass"], columns["true_rapidity"]
    path = save(tmp_path / "p.parquet", columns)
    with pytest.raises(DataError, match=r"p\.parquet.*missing: \['true_rapidity', 'calibrated_mass'\]"):
        read_predictions(path, QUICK)
    energy_only = QUICK.model_copy(update={"observables": ("energy",)})
    assert read_predictions(path, energy_only).num_jets == 20


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("calibrated_energy", np.nan, r"calibrated_energy must be finite; got nan in row 7 \(run=2, event=3, jet_index=1"),
        ("raw_mass", np.inf, r"raw_mass must be finite; got inf in row 7"),
        ("true_energy", 0.0, r"true_energy must be positive; got 0.0 in row 7"),
    ],
)
def test_bad_values_stop_with_the_identity_of_the_jet(tmp_path, make_columns, save, column, value, message):
    columns = make_columns(20)
    columns[column][7] = value
    with pytest.raises(DataError, match=message):
        read_predictions(save(tmp_path / "p.parquet", columns), QUICK)


def test_empty_absent_and_fully_cut_tables_are_refused(tmp_path, make_columns, save):
    with pytest.raises(DataError, match="no rows"):
        read_predictions(save(tmp_path / "empty.parquet", make_columns(0)), QUICK)
    with pytest.raises(DataError, match="do not exist; `distjet evaluate run=DIRECTORY` makes them"):
        read_predictions(tmp_path / "absent.parquet", QUICK)
    with pytest.raises(DataError, match="none of 20 jets has true_pt > 5000 GeV"):
        summarise(read_predictions(save(tmp_path / "p.parquet", make_columns(20)), QUICK), ResponseConfig(pt_true_min_gev=5000))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"energy_edges_gev": [20]}, "at least two increasing"),
        ({"abs_eta_edges": [0, 2, 1]}, "increasing"),
        ({"observables": []}, "at least one of"),
        ({"methods": ["raw", "raw"]}, "distinct"),
        ({"min_entries": 20}, "min_entries_drawn"),
        ({"min_entrys": 20}, "min_entrys"),
    ],
)
def test_configuration_that_cannot_be_meant_is_refused(fields, message):
    with pytest.raises(pydantic.ValidationError, match=message):
        ResponseConfig.model_validate(fields)


def test_estimators_import_without_plotting_tables_or_torch():
    heavy = ["matplotlib", "mplhep", "pyarrow", "torch", "ray", "pandas"]
    code = f"import sys, distjet.evaluation.response; sys.exit(str([m for m in {heavy} if m in sys.modules] or ''))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stderr.strip() == ""
