"""The numbers that methods are compared by, the table that shows them, and their spread over seeds."""

import io
import json

import numpy as np
import pytest
from rich.console import Console

from distjet.evaluation.config import EstimatorConfig, ResponseConfig
from distjet.evaluation.headline import NUMBERS, headline
from distjet.evaluation.headline_table import duration, headline_header, headline_rows, markdown, text_summary
from distjet.evaluation.predictions import read_predictions
from distjet.evaluation.report import evaluate_predictions
from distjet.evaluation.seeds import summarise_seeds
from distjet.evaluation.sources import Process, Sources
from distjet.evaluation.summary import summarise, summarise_headline
from distjet.evaluation.topic_tables import seed_sentence

CONFIG = ResponseConfig(
    abs_eta_edges=(0.0, 1.3, 2.1),
    energy_edges_gev=(20, 60, 150, 400, 1000),
    pt_edges_gev=(20, 30, 60, 150, 400),
    eta_bin_width=1.05,
    eta_energy_edges_gev=(60, 400),
    estimator=EstimatorConfig(num_replicas=20),
    observables=("energy", "mass"),
)


@pytest.fixture(scope="module")
def metrics(tmp_path_factory, make_columns, save):
    path = save(tmp_path_factory.mktemp("headline") / "p.parquet", make_columns(12_000))
    return summarise(read_predictions(path, CONFIG), CONFIG)


@pytest.fixture(scope="module")
def compared(tmp_path_factory, make_columns, save):
    """Two processes; two trainings of the same method, the second with a scale that is 2 % higher."""
    folder = tmp_path_factory.mktemp("compared")
    tables = {
        name: save(folder / f"{name}.parquet", make_columns(9000, seed=seed, calibrated_scale=scale))
        for name, seed, scale in (("qcd", 3, 1.0), ("qcd_other", 3, 1.02), ("top", 4, 0.97))
    }
    facts = [{"run": f"run{n}", "seed": n, "val_loss": -2.0 - 0.0001 * n, "best_epoch": 5} for n in range(2)]
    sources = Sources(
        processes=(
            Process("QCD", (tables["qcd"],), {"calibrated": (tables["qcd"], tables["qcd_other"])}),
            Process("ttbar", (tables["top"],)),
        ),
        training={"calibrated": {"num_parameters": 97409, "train_seconds": 1234.0}},
        seeds={"calibrated": tuple(facts)},
    )
    config = CONFIG.model_copy(update={"observables": ("energy",)})
    return folder / "out", evaluate_predictions(sources, config, {}, folder / "out")


def test_ranges_take_the_bins_that_lie_inside(metrics):
    found = metrics["headline"]["calibrated"]
    bins = metrics["energy_response_pt"]["calibrated"]["bins"]
    low = [r for r in bins if r["enough_entries"] and r["pt_low_gev"] == 30]
    high = [r for r in bins if r["enough_entries"] and r["pt_low_gev"] >= 60]
    assert (found["num_bins_pt_30_60"], found["num_bins_pt_above_60"]) == (len(low), len(high))
    assert len(low) == 2
    assert found["max_abs_bias_pt_30_60"] == max(abs(r["scale_core"] - 1) for r in low)
    assert found["mean_abs_bias_pt_above_60"] == pytest.approx(np.mean([abs(r["scale_core"] - 1) for r in high]))
    assert found["max_abs_bias_median_pt_above_60"] == max(abs(r["scale_median"] - 1) for r in high)
    assert found["mean_resolution"] == pytest.approx(np.mean([r["resolution"] for r in low + high]))
    assert found["slope_npv_gev"] == metrics["pileup"]["calibrated"]["slope_npv_gev"]


def test_what_was_not_measured_is_none_and_has_a_reason(tmp_path, make_columns, save):
    columns = make_columns(3000)
    for name in ("npv", "flavour", "charged_fraction", "calibrated_pit"):
        del columns[name]
    energy_only = CONFIG.model_copy(update={"observables": ("energy",)})
    metrics = summarise(read_predictions(save(tmp_path / "p.parquet", columns), energy_only), energy_only)
    found = metrics["headline"]["calibrated"]
    assert {name for name in NUMBERS if found[name] is None} == {
        "mean_abs_mass_bias",
        "max_abs_mass_bias",
        "mean_mass_resolution",
        "slope_npv_gev",
        "slope_mu_gev",
    }
    assert metrics["not_made"]["pileup"] == "no column npv"
    assert set(metrics["not_made"]) == {"pileup", "flavour", "charged_fraction", "track_width"}
    assert "density" not in metrics
    assert headline({}, "calibrated")["mean_resolution"] is None


def test_the_mass_is_compared_with_what_the_energy_alone_gives(metrics):
    found = metrics["mass_beyond_energy"]["calibrated"]
    own, scaled = (metrics["mass_response_pt"][name]["bins"] for name in ("calibrated", "calibrated_mass_scaled"))
    used = [i for i, record in enumerate(own) if record["enough_entries"]]
    expected = [own[i]["resolution"] / scaled[i]["resolution"] for i in used]
    assert found["mean_resolution_ratio"] == pytest.approx(np.mean(expected))
    assert found["mean_resolution_ratio"] < 1


def test_reconstructed_bins_hold_the_jets_that_a_method_puts_there(metrics, make_columns):
    columns = make_columns(12_000)
    for method in ("raw", "calibrated"):
        pt = columns[f"{method}_pt"].astype(np.float32)
        inside = np.histogram2d(np.abs(columns["true_eta"]), pt, [CONFIG.abs_eta_edges, CONFIG.pt_edges_gev])[0]
        found = [record["num_jets"] for record in metrics["energy_response_reco_pt"][method]["bins"]]
        np.testing.assert_allclose(found, inside.ravel(), atol=2)


def test_both_sides_of_the_detector_are_binned_apart(tmp_path, make_columns, save):
    columns = make_columns(6000)
    columns["calibrated_energy"] *= np.where(columns["true_eta"] > 0, 1.1, 1.0)
    table = read_predictions(save(tmp_path / "p.parquet", columns), CONFIG)
    bins = summarise(table, CONFIG)["energy_response_eta"]["calibrated"]["bins"]
    scales = {r["eta_low"]: r["scale_core"] for r in bins}
    assert sorted(scales) == pytest.approx([-2.1, -1.05, 0, 1.05])
    assert scales[0.0] - scales[-1.05] == pytest.approx(0.1, abs=0.02)


def test_one_report_holds_both_processes_and_the_seeds(compared):
    output, metrics = compared
    assert (metrics["process"], list(metrics["processes"])) == ("QCD", ["ttbar"])
    scale = [m["headline"]["calibrated"]["mean_abs_bias_pt_above_60"] for m in (metrics, metrics["processes"]["ttbar"])]
    assert scale[0] < 0.015 < scale[1]
    page = (output / "report.html").read_text()
    for text in ("Process: QCD", "Process: ttbar", "same loss, different behaviour", "97\N{NO-BREAK SPACE}409", "20.6 min"):
        assert text in page
    assert (output / "plots" / "processes.png").is_file()
    assert (output / "plots" / "seeds_calibrated.pdf").is_file()
    assert (output / "plots" / "ttbar" / "energy_scale.png").is_file()
    assert json.loads((output / "metrics.json").read_text()) == json.loads(json.dumps(metrics))


def test_the_table_has_a_row_for_each_method_process_and_spread(compared):
    output, metrics = compared
    rows = headline_rows(metrics)
    assert [row[:2] for row in rows] == [
        ["raw", "QCD"],
        ["calibrated", "QCD"],
        ["calibrated, 2 seeds", "QCD"],
        ["raw", "ttbar"],
        ["calibrated", "ttbar"],
    ]
    assert all(len(row) == len(headline_header(metrics)) for row in rows)
    text = (output / "table.md").read_text()
    assert text == markdown(metrics)
    lines = text.splitlines()
    assert len({line.replace("\\|", "").count("|") for line in lines[:7]}) == 1
    assert "97\N{NO-BREAK SPACE}409 | 20.6 min |" in lines[3]


def test_the_terminal_shows_every_method_of_every_process_in_eighty_columns(compared):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(text_summary(compared[1]))
    text = console.export_text()
    assert all(name in text for name in ("raw QCD", "calibrated QCD", "calibrated ttbar"))
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    alone = {**compared[1], "processes": {}}
    assert "energy response: raw" in str(text_summary(alone).title)


def test_the_spread_over_seeds_stands_beside_their_losses(compared):
    seeds = compared[1]["seeds"]["calibrated"]
    values = [row["mean_abs_bias_pt_above_60"] for row in seeds["members"]]
    assert values[1] - values[0] > 0.008
    assert seeds["mean"]["mean_abs_bias_pt_above_60"] == pytest.approx(np.mean(values))
    assert seeds["deviation"]["mean_abs_bias_pt_above_60"] == pytest.approx(np.std(values, ddof=1))
    assert seeds["max_scale_difference"] == pytest.approx(0.02, abs=0.003)
    assert seeds["relative_loss_difference"] == pytest.approx(0.0001 / 2.00005)
    assert seed_sentence("gnn", seeds).startswith(
        "gnn, 2 trainings that differ in their seeds alone: their validation losses differ by 0.005 %"
    )


def test_seeds_without_a_loss_have_none(metrics):
    found = summarise_seeds([({}, metrics), ({}, metrics)])
    assert found["relative_loss_difference"] is None
    assert (found["max_scale_difference"], found["deviation"]["mean_resolution"]) == (0.0, 0.0)
    assert "losses are not known" in seed_sentence("gnn", found)


def test_quick_numbers_are_those_of_the_full_evaluation(tmp_path, make_columns, save, metrics):
    table = read_predictions(save(tmp_path / "p.parquet", make_columns(12_000)), CONFIG)
    quick = headline(summarise_headline(table, CONFIG), "calibrated")
    assert quick == pytest.approx(metrics["headline"]["calibrated"])


@pytest.mark.parametrize(("seconds", "text"), [(None, "\N{EN DASH}"), (61.2, "61 s"), (600, "10.0 min"), (9000, "2.5 h")])
def test_times_are_written_in_the_unit_that_suits_them(seconds, text):
    assert duration(seconds) == text
