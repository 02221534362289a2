"""A run leaves a file that another program can apply, and the proof that it closes on jets it has not seen."""

import json
import re

import numpy as np
import pytest
import yaml

from distjet.calibration.chain import CHAIN_FILE, Chain
from distjet.calibration.fit import fit_steps
from distjet.calibration.sample import read_sample
from distjet.config import ConfigError, load
from distjet.errors import DataError
from distjet.run_directory import read_json, write_json
from distjet.verbs import ALTERNATIVES, config_class, train
from tests.calibration.conftest import small_config
from tests.calibration.toys import ALPHA_GEV, BETA_GEV, toy_columns
from tests.dataset.files import PROJECT
from tests.test_cli import distjet

STEPS = ("area", "residual", "energy", "eta", "charged_fraction", "num_tracks")


@pytest.fixture(scope="module")
def metrics(chain_run) -> dict:
    return read_json(chain_run / "metrics.json")


def test_the_chain_closes_on_jets_that_it_has_not_seen(metrics):
    response = metrics["closure"]["response"]
    assert list(response) == ["raw", *STEPS]
    assert response["raw"]["max_abs_bias_above_60"] > 0.1
    for stage in ("eta", "num_tracks"):
        assert response[stage]["max_abs_bias_above_60"] < 0.012
        assert response[stage]["max_abs_bias_30_60"] < 0.02
    assert response["num_tracks"]["num_bins_above_60"] == 6


def test_every_step_does_what_it_is_for(metrics):
    closure = metrics["closure"]
    pileup = closure["pileup"]
    assert list(pileup) == ["raw", "area", "residual", "num_tracks"]
    assert pileup["raw"]["max_abs_slope_npv_gev"] > 0.2
    for name, slope in (("slope_npv_gev", ALPHA_GEV), ("slope_mu_gev", -BETA_GEV)):
        errors = [pileup[stage][f"max_abs_{name}_error"] for stage in ("area", "residual")]
        assert pileup["area"][f"max_abs_{name}"] == pytest.approx(slope, abs=4 * errors[0])
        assert pileup["residual"][f"max_abs_{name}"] < 4 * errors[1] < slope
    assert closure["eta"]["energy"]["max_abs_shift"] > 0.015
    assert closure["eta"]["eta"]["max_abs_shift"] < 0.005
    for variable in closure["sequential"]["variables"].values():
        assert abs(variable["slope_per_sd_end"]) < 0.2 * abs(variable["slope_per_sd_before"])
    assert closure["sequential"]["mean_resolution_gain"] > 0.05
    assert closure["sequential"]["max_abs_shift"] < 0.015  # a few hundred jets in the smallest bin
    assert abs(closure["sequential"]["mean_shift"]) < 0.005


def test_metrics_say_where_they_come_from_and_where_bins_were_empty(metrics, chain_run, toy_jets_dataset):
    assert metrics["dataset_fingerprint"] == metrics["provenance"]["dataset_fingerprint"] == toy_jets_dataset.fingerprint
    assert metrics["steps"] == list(STEPS)
    counts = metrics["num_jets"]["train"]
    assert counts["num_read"] == toy_jets_dataset.num_rows("train")
    assert counts["num_read"] == sum(counts[name] for name in ("num_not_isolated", "num_unmatched", "num_too_soft", "num_jets"))
    assert [bin_["taken_from"] for bin_ in metrics["fits"]["energy"]["bins"]] == [0, 1, 1]
    assert metrics["num_parameters"] > 50
    assert yaml.safe_load((chain_run / "config.yaml").read_text())["chain"]["detector_eta"] == "detector_eta"


def test_figures_and_report_stand_on_their_own(chain_run):
    wanted = {*(f"closure_{step}" for step in STEPS), "closure_sequential", "resolution_sequential"}
    for kind, magic in (("png", b"\x89PNG"), ("pdf", b"%PDF")):
        found = {path.stem: path.read_bytes()[:4] for path in (chain_run / "plots").glob(f"*.{kind}")}
        assert set(found) == wanted
        assert set(found.values()) == {magic}
    page = (chain_run / "report.html").read_text()
    assert page.count("<img") == len(wanted)
    assert not re.search(r"(src|href)=.http|<script|<link", page)
    assert "2.5\N{EN DASH}4.5" in page


def test_a_saved_chain_is_the_same_chain(chain_run, tmp_path):
    chain = Chain.load(chain_run / CHAIN_FILE)
    assert chain.step_names == STEPS
    chain.save(tmp_path / "again.json")
    assert Chain.load(tmp_path / "again.json") == chain
    assert (tmp_path / "again.json").read_bytes() == (chain_run / CHAIN_FILE).read_bytes()


def test_steps_stop_anywhere(chain_run):
    chain, columns = Chain.load(chain_run / CHAIN_FILE), toy_columns(1000, 3)
    stages = dict(chain.stages(columns))
    assert chain.before_sequential == "eta"
    for name in STEPS:
        np.testing.assert_array_equal(chain.apply(columns, name).energy, stages[name].energy)
    np.testing.assert_array_equal(chain.apply(columns).pt, stages["num_tracks"].pt)
    np.testing.assert_array_equal(stages["eta"].energy, stages["energy"].energy)
    assert chain.apply({name: values[:0] for name, values in columns.items()}).energy.shape == (0,)
    one = {name: values[7:8] for name, values in columns.items()}
    assert chain.apply(one).energy[0] == pytest.approx(stages["num_tracks"].energy[7])


def test_columns_that_a_later_step_needs_are_not_asked_for(chain_run):
    chain, columns = Chain.load(chain_run / CHAIN_FILE), toy_columns(10, 3)
    del columns["num_tracks"]
    chain.apply(columns, "charged_fraction")
    with pytest.raises(DataError, match="no column 'num_tracks', which the step num_tracks needs"):
        chain.apply(columns)
    with pytest.raises(DataError, match="unknown step 'gsc'; expected one of"):
        chain.apply(columns, "gsc")


def test_a_file_that_is_none_or_was_changed_is_refused(chain_run, tmp_path):
    content = read_json(chain_run / CHAIN_FILE)
    area, residual = content["steps"][:2]
    with pytest.raises(DataError, match="does not exist"):
        Chain.load(tmp_path / CHAIN_FILE)
    for change, error, message in (
        ({"version": 2}, DataError, "has version 2, this distjet reads version 1"),
        ({"steps": content["steps"] * 2}, ConfigError, "two steps are called 'area'"),
        ({"steps": [residual | {"alpha_gev": residual["alpha_gev"][:1]}]}, ConfigError, "alpha_gev must have 2 items"),
        ({"steps": [area | {"speed": 1}]}, ConfigError, r"chain\.json: steps\.0.*speed"),
    ):
        write_json(tmp_path / CHAIN_FILE, content | change)
        with pytest.raises(error, match=message):
            Chain.load(tmp_path / CHAIN_FILE)
        (tmp_path / CHAIN_FILE).unlink()


def test_the_same_command_again_does_nothing_and_another_one_is_refused(chain_run, toy_jets_dataset):
    before = {path: path.stat().st_mtime_ns for path in chain_run.rglob("*") if path.is_file() and path.name != ".lock"}
    again = train(small_config(toy_jets_dataset.path, chain_run))
    assert again == read_json(chain_run / "metrics.json")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(ConfigError, match=r"another `distjet train` \(different: chain\.energy\.max_degree\)"):
        train(small_config(toy_jets_dataset.path, chain_run, "chain.energy.max_degree=1"))


def test_the_same_fit_gives_the_same_numbers(chain_run, toy_jets_dataset, tmp_path):
    config = small_config(toy_jets_dataset.path, tmp_path / "again")
    steps, _ = fit_steps(read_sample(toy_jets_dataset, "train", config), config)
    Chain(dataset_fingerprint=toy_jets_dataset.fingerprint, steps=steps).save(tmp_path / CHAIN_FILE)
    assert (tmp_path / CHAIN_FILE).read_bytes() == (chain_run / CHAIN_FILE).read_bytes()


def test_steps_can_be_left_out(toy_jets_dataset, tmp_path):
    left_out = [f"chain.{name}=null" for name in ("area", "residual", "eta", "sequential")]
    result = train(small_config(toy_jets_dataset.path, tmp_path / "energy", *left_out))
    assert result["steps"] == ["energy"]
    assert set(result["closure"]) == {"response"}
    assert Chain.load(tmp_path / "energy" / CHAIN_FILE).before_sequential is None
    with pytest.raises(ConfigError, match="the chain needs at least one of area, residual"):
        small_config(toy_jets_dataset.path, tmp_path, *left_out, "chain.energy=null")


def test_a_dataset_without_the_columns_is_refused_with_all_of_them(toy_jets_dataset, tmp_path):
    config = small_config(toy_jets_dataset.path, tmp_path / "run", "chain.area.rho=roh", "selection.isolated=alone")
    with pytest.raises(DataError) as error:
        train(config)
    assert "chain.area: unknown column 'roh', did you mean 'rho'" in str(error.value)
    assert "selection.isolated: unknown column 'alone'" in str(error.value)
    assert not (tmp_path / "run" / CHAIN_FILE).exists()


def test_the_key_chain_chooses_the_configuration():
    chain, network = PROJECT / "conf/calibration/chain.yaml", PROJECT / "conf/calibration/constituent_gnn.yaml"
    assert config_class("train", [chain], []) is ALTERNATIVES["train"]["chain"]
    assert config_class("train", [], ["chain.eta=null"]) is ALTERNATIVES["train"]["chain"]
    assert config_class("train", [network], ["output=x"]).__name__ == "TrainConfig"
    places = ["output=/tmp/o", "dataset=/tmp/d"]
    with pytest.raises(ConfigError, match="num_epochs is not a field of ChainConfig"):
        load(config_class("train", [chain], []), [chain], [*places, "num_epochs=3"])
    with pytest.raises(ConfigError, match="max_degre is not a field of EnergyConfig, did you mean 'max_degree'"):
        load(config_class("train", [chain], []), [chain], [*places, "chain.energy.max_degre=3"])


def test_the_command_line_shows_the_keys_of_both_and_reports_errors_in_one_message(tmp_path):
    lines = distjet("train", "--keys").stdout.splitlines()
    assert "# With the key chain, in place of the keys above:" in lines
    assert any(line.startswith("chain.residual.window_sigmas=2.0") for line in lines)
    assert any(line.startswith("optimizer.lr=") for line in lines)
    result = distjet("train", "conf/calibration/chain.yaml", "dataset=/nowhere/d", f"output={tmp_path}/o")
    assert result.returncode == 2
    assert result.stderr.startswith("distjet train: error: dataset /nowhere/d does not exist")
    result = distjet("train", "conf/calibration/chain.yaml", "chain.are=null")
    assert "chain.are is not a field of StepsConfig, did you mean 'area'" in result.stderr


def test_the_file_is_plain_json_of_numbers_names_and_switches(chain_run):
    def leaves(content):
        for value in content.values() if isinstance(content, dict) else content:
            yield from leaves(value) if isinstance(value, dict | list) else (value,)

    content = json.loads((chain_run / CHAIN_FILE).read_text())
    assert {type(leaf) for leaf in leaves(content)} <= {str, int, float, bool}
    assert (chain_run / CHAIN_FILE).stat().st_size < 100_000
