"""The files that an evaluation leaves behind."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import matplotlib as mpl
import pytest
from PIL import Image
from rich.console import Console

from distjet.errors import DataError
from distjet.evaluation import html
from distjet.evaluation.config import EstimatorConfig, ResponseConfig
from distjet.evaluation.curves import spread
from distjet.evaluation.plots import make_plots
from distjet.evaluation.predictions import read_predictions
from distjet.evaluation.report import evaluate_predictions
from distjet.evaluation.sources import Sources
from distjet.evaluation.summary import summarise
from distjet.evaluation.tables import text_table

PLOTS = {
    "energy_scale",
    "energy_scale_zoom",
    "energy_scale_pt",
    "energy_median_pt",
    "energy_scale_eta",
    "energy_resolution",
    "energy_distributions",
    "resolution_fit",
    "energy_scale_reco_energy",
    "energy_scale_reco_pt",
    "mass_scale",
    "mass_resolution",
    "mass_scale_shape",
    "mass_resolution_shape",
    "mass_beyond_energy",
    "rapidity_median",
    "rapidity_width",
    "pileup_slopes",
    "pileup_npv",
    "pileup_mu",
    "flavour",
    "dependence_charged_fraction",
    "dependence_num_tracks",
    "density_pit",
    "density_coverage",
}


class Tags(HTMLParser):
    """Collects tags and their attributes, and checks that what opens closes."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in {"meta", "img"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def report(evaluated):
    return (evaluated[0] / "report.html").read_text()


def test_metrics_file_holds_the_promised_keys(evaluated):
    folder, returned = evaluated
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == json.loads(json.dumps(returned))
    assert metrics["num_jets_total"] == 12_000
    assert metrics["provenance"]["dataset"]["fingerprint"] == "f" * 32
    keys = (
        "max_abs_bias",
        "mean_abs_bias",
        "max_abs_bias_error",
        "max_abs_bias_median",
        "mean_resolution",
        "mean_resolution_error",
    )
    for group in ("energy_response", "mass_response"):
        for method in ("raw", "calibrated"):
            assert all(isinstance(metrics[group][method][key], float) for key in keys)
            assert metrics[group][method]["num_bins"] > 5
    assert metrics["energy_response"]["calibrated"]["max_abs_bias"] < 0.05 < metrics["energy_response"]["raw"]["max_abs_bias"]


def test_every_plot_is_written_and_stands_in_the_report(evaluated, report):
    folder = evaluated[0]
    assert {path.stem for path in (folder / "plots").glob("*.png")} == PLOTS
    assert {path.stem for path in (folder / "plots").glob("*.pdf")} == PLOTS
    images = [attrs["src"] for tag, attrs in Tags(report).found if tag == "img"]
    embedded = {base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in images}
    assert embedded == {path.read_bytes() for path in (folder / "plots").glob("*.png")}
    for data in embedded:
        picture = Image.open(io.BytesIO(data))
        assert picture.format == "PNG"
        assert picture.width > 600
        assert len(picture.convert("L").getcolors(256)) > 10


def test_report_needs_nothing_but_itself(report):
    tags = Tags(report)
    assert tags.open == []
    assert {tag for tag, _ in tags.found}.isdisjoint({"script", "link", "iframe", "a"})
    assert not [attrs for _, attrs in tags.found if "href" in attrs]
    assert all(attrs["src"].startswith("data:") for _, attrs in tags.found if "src" in attrs)
    assert not re.search(r"https?://|url\(|@import", re.sub(r"base64,[^\"]*", "", report))


def test_report_escapes_what_it_is_given(report):
    assert "<script>" not in report
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in report
    assert html.table(["<a>"], [["&", '"']]).count("<td>") == 2
    assert "&lt;a&gt;" in html.table(["<a>"], [])


def test_report_names_data_seed_estimator_and_what_was_left_out(report):
    for text in (
        "f" * 32,
        "seed",
        "12\N{NO-BREAK SPACE}000",
        "arXiv:1910.03773",
        "bins hold no jet",
        "true pT not above 20 GeV",
    ):
        assert text in report


def test_figures_are_the_same_bytes_every_time_and_leave_the_settings_alone(evaluated, report_config):
    folder, metrics = evaluated
    config = report_config.model_copy(update={"observables": ("energy",)})
    table = read_predictions(folder / "predictions.parquet", config)
    before = dict(mpl.rcParams)
    plots = make_plots(table, {key: metrics[key] for key in ("num_jets", "methods", "energy_response")}, config)
    assert dict(mpl.rcParams) == before
    for plot in plots:
        assert plot.png == (folder / "plots" / f"{plot.name}.png").read_bytes()
        assert plot.pdf == (folder / "plots" / f"{plot.name}.pdf").read_bytes()


def test_terminal_table_fits_eighty_columns(evaluated):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(text_table(evaluated[1]))
    text = console.export_text()
    drawn = [r for r in evaluated[1]["energy_response"]["raw"]["bins"] if r["drawn"]]
    first, after = drawn[0], evaluated[1]["energy_response"]["calibrated"]["bins"][0]
    assert f"{first['scale_core']:.3f} \N{RIGHTWARDS ARROW} {after['scale_core']:.3f}" in text
    assert text.count("\N{PLUS-MINUS SIGN}") == len(drawn) + 2
    assert "\N{HORIZONTAL ELLIPSIS}" not in text


def test_a_handful_of_jets_gives_a_report_without_headline_numbers(tmp_path, make_columns, save):
    table = save(tmp_path / "p.parquet", make_columns(30))
    metrics = evaluate_predictions(Sources.of_table(table), ResponseConfig(), {}, tmp_path / "out")
    assert metrics["energy_response"]["calibrated"]["num_bins"] == 0
    assert metrics["energy_response"]["calibrated"]["max_abs_bias"] is None
    page = (tmp_path / "out" / "report.html").read_text()
    assert "No bin holds enough jets" in page
    assert "<td>pileup: not drawn</td><td>no bin holds 50 jets</td>" in page
    assert "No bin holds enough jets" in str(text_table(metrics).caption)
    assert not (tmp_path / "out" / "plots").exists()


def test_a_failed_evaluation_leaves_no_metrics(tmp_path, make_columns, save):
    columns = make_columns(30)
    columns["raw_energy"][3] = float("nan")
    with pytest.raises(DataError, match="raw_energy must be finite"):
        evaluate_predictions(Sources.of_table(save(tmp_path / "p.parquet", columns)), ResponseConfig(), {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_the_reference_and_three_methods_work_too(tmp_path, make_columns, save):
    columns = make_columns(3000)
    columns |= {f"chain_{name}": columns[f"calibrated_{name}"] for name in ("energy", "mass", "rapidity", "pt")}
    path = save(tmp_path / "p.parquet", columns)
    quick = {"estimator": EstimatorConfig(num_replicas=20), "energy_edges_gev": (20, 100, 1000), "abs_eta_edges": (0, 3)}
    energy_only = {**quick, "observables": ("energy",)}
    three = summarise(read_predictions(path, ResponseConfig(**quick)), ResponseConfig(**quick))
    assert list(three["mass_response"]) == ["raw", "calibrated_mass_scaled", "calibrated", "chain_mass_scaled", "chain"]
    alone = evaluate_predictions(Sources.of_table(path), ResponseConfig(methods=("raw",), **energy_only), {}, tmp_path / "out")
    assert alone["methods"] == ["raw"]
    assert "nothing to compare" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.parametrize(("number", "expected"), [(1, [0]), (3, [0, 1, 2]), (11, [0, 2, 4, 6, 8, 10])])
def test_spread_keeps_both_ends(number, expected):
    assert spread(number, 6) == expected
