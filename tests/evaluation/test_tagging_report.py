"""The files that an evaluation of taggers leaves behind, and the numbers in them."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy.stats import norm

from distjet.errors import DataError
from distjet.evaluation.sources import Process, Sources
from distjet.evaluation.tagging_config import DdtConfig, DiscriminantConfig, TaggingConfig
from distjet.evaluation.tagging_report import evaluate_tagging
from distjet.evaluation.tagging_rows import text_summary
from tests.evaluation.test_evaluation_report import Tags
from tests.evaluation.toy_scores import BINARY, THREE, score_columns, toy_jets, write_scores

NUM_JETS = 16_000
SHIFT = 0.3
PLOTS = {
    *("roc", "scores", "sculpting", "front", "ddt_flatness", "confusion", "shifts", "resilience", "ensemble"),
    *(f"efficiency_{quantity}_{side}" for quantity in ("pt", "mass") for side in ("signal", "background")),
}
CONFIG = TaggingConfig(min_entries=50, ddt=DdtConfig(num_rho_points=12, num_pt_points=5, neighbour_shares=(0.05,)))


def columns_of(jets: dict[str, np.ndarray], *, shift: float = 0.0, first_seed: int = 1) -> dict[str, np.ndarray]:
    blind = score_columns(jets, BINARY, "blind", 1.8, shift=shift, seed=first_seed)
    sculpting = score_columns(jets, BINARY, "sculpting", 1.8, sculpts=2.5, shift=shift, seed=first_seed + 1)
    spread = {f"blind_score_{name}_spread": blind["blind_score_QCD"] * blind["blind_score_top"] * 0.2 for name in BINARY}
    return jets | blind | sculpting | spread


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("tagged")
    jets, others = toy_jets(BINARY, NUM_JETS), toy_jets(BINARY, NUM_JETS, seed=7)
    table = write_scores(folder / "scores.parquet", columns_of(jets), BINARY)
    order = np.random.default_rng(0).permutation(NUM_JETS)
    shifted = {name: values[order] for name, values in columns_of(jets, shift=SHIFT).items()}
    variations = {
        "scale": (write_scores(folder / "scale.parquet", shifted, BINARY),),
        "vincia": (write_scores(folder / "vincia.parquet", columns_of(others, first_seed=20), BINARY),),
    }
    seeds = tuple(
        write_scores(folder / f"seed_{k}.parquet", jets | score_columns(jets, BINARY, "blind", 1.8, seed=40 + k), BINARY)
        for k in range(3)
    )
    sources = Sources(
        (Process("", (table,), {"blind": seeds}, variations),),
        {"blind": {"num_parameters": 366160, "train_seconds": 90.0, "infer_seconds_per_jet": 4.2e-4}},
        {"blind": tuple({"seed": k, "val_loss": 0.3} for k in range(3))},
    )
    return folder, evaluate_tagging(sources, CONFIG, {"dataset_fingerprint": "f" * 32, "git_commit": "<script>"}, folder)


def test_everything_is_written_and_stands_in_the_report(evaluated: tuple[Path, dict[str, Any]]) -> None:
    folder, returned = evaluated
    assert json.loads((folder / "metrics.json").read_text()) == json.loads(json.dumps(returned))
    for kind in ("png", "pdf"):
        assert {path.stem for path in (folder / "plots").glob(f"*.{kind}")} == PLOTS
    page = (folder / "report.html").read_text()
    tags = Tags(page)
    assert tags.open == []
    assert {tag for tag, _ in tags.found}.isdisjoint({"script", "link", "a"})
    images = {base64.b64decode(attrs["src"].split("base64,")[1]) for tag, attrs in tags.found if tag == "img"}
    assert images == {path.read_bytes() for path in (folder / "plots").glob("*.png")}
    for text in (
        "366\N{NO-BREAK SPACE}160",
        "90 s",
        "420 \N{MICRO SIGN}s",
        "f" * 32,
        "blind, 3 seeds",
        "blind + DDT",
        "vincia",
    ):
        assert text in page
    table = (folder / "table.md").read_text()
    assert table.count("\n| ") == 6, "head, two methods, one row of seeds, two after DDT"


def test_headline_numbers_are_those_of_gaussians(evaluated: tuple[Path, dict[str, Any]]) -> None:
    numbers = evaluated[1]["headline"]["blind"]
    assert numbers["area"] == pytest.approx(norm.cdf(1.8 / np.sqrt(2)), abs=4 * numbers["area_error"])
    assert numbers["accuracy"] == pytest.approx(norm.cdf(0.9), abs=4 * numbers["accuracy_error"])
    expected = 1 / norm.sf(1.8)
    assert numbers["rejection_50"] == pytest.approx(expected, abs=4 * numbers["rejection_50_error"])


def test_seeds_are_summarised(evaluated: tuple[Path, dict[str, Any]]) -> None:
    found = evaluated[1]["seeds"]["blind"]
    values = [member["rejection_50"] for member in found["members"]]
    assert found["mean"]["rejection_50"] == pytest.approx(np.mean(values))
    assert found["deviation"]["rejection_50"] == pytest.approx(np.std(values, ddof=1))
    assert len(set(values)) == 3


def test_the_mass_is_sculpted_by_the_one_that_knows_it_and_not_after_ddt(evaluated: tuple[Path, dict[str, Any]]) -> None:
    metrics = evaluated[1]
    divergence = {method: metrics["headline"][method]["divergence"] for method in ("blind", "sculpting")}
    cut = metrics["sculpting"]["blind"]["at_signal_efficiency"]
    assert divergence["blind"] < 2 * cut["of_chance"] < divergence["sculpting"] / 2
    before, after = (
        some["at_signal_efficiency"]
        for some in (metrics["sculpting"]["sculpting"], metrics["ddt"]["sculpting"]["decorrelated"]["sculpting"])
    )
    assert after["divergence"] - after["of_chance"] < (before["divergence"] - before["of_chance"]) / 2
    flat, tilted = (metrics["ddt"]["sculpting"][name]["chi2"] for name in ("flatness", "flatness_before"))
    assert flat < tilted / 4


def test_shifts_are_those_of_moved_gaussians_and_errors_know_the_same_jets(evaluated: tuple[Path, dict[str, Any]]) -> None:
    """The log-odds of all jets rise by SHIFT: at the cut of eps_S = 0.5, that is a shift of SHIFT / 1.8 widths."""
    found = evaluated[1]["variations"]
    assert found["scale"]["same_jets"]
    assert not found["vincia"]["same_jets"]
    scale, vincia = (
        next(r for r in found[name]["methods"]["blind"] if r["signal_efficiency"] == 0.5) for name in ("scale", "vincia")
    )
    assert scale["signal_change"] == pytest.approx(2 * norm.cdf(SHIFT / 1.8) - 1, abs=4 * scale["signal_change_error"])
    expected = norm.sf(1.8) / norm.sf(1.8 - SHIFT / 1.8) - 1
    assert scale["rejection_change"] == pytest.approx(expected, abs=4 * scale["rejection_change_error"])
    assert abs(vincia["signal_change"]) < 4 * vincia["signal_change_error"]
    assert scale["signal_change_error"] < 0.6 * vincia["signal_change_error"]
    assert scale["performance"] == pytest.approx(0.5 / np.sqrt(norm.sf(1.8)), rel=0.1)


def test_efficiencies_in_bins_add_up_to_the_working_point(evaluated: tuple[Path, dict[str, Any]]) -> None:
    """The blind tagger has the same efficiency in all bins of pT; the other one has a peak in the mass of the background."""
    metrics = evaluated[1]
    for record in metrics["efficiency_pt"]["blind"]["80"]["signal"]:
        if record["drawn"]:
            assert abs(record["efficiency"] - 0.8) < 4 * record["efficiency_error"]
    records = [r for r in metrics["efficiency_mass"]["sculpting"]["50"]["background"] if r["drawn"]]
    best = max(records, key=lambda record: record["efficiency"])
    assert best["low"] < 190
    assert best["high"] > 150


def test_the_terminal_shows_every_method_with_its_error(evaluated: tuple[Path, dict[str, Any]]) -> None:
    console = Console(width=80, record=True, file=(evaluated[0] / "terminal").open("w"))
    console.print(text_summary(evaluated[1]))
    console.file.close()
    assert console.export_text().count("\N{PLUS-MINUS SIGN}") == 6


def test_many_classes_get_sums_pairs_and_a_mean_area(tmp_path: Path) -> None:
    jets = toy_jets(THREE, 6000)
    columns = jets | score_columns(jets, THREE, "net", 2.0)
    heavy = DiscriminantConfig(signal=("Hbb", "top"), background=("QCD",))
    config = TaggingConfig(discriminants={"heavy": heavy}, ddt=DdtConfig(methods=()))
    sources = Sources.of_table(write_scores(tmp_path / "s.parquet", columns, THREE))
    metrics = evaluate_tagging(sources, config, {}, tmp_path / "out")
    assert list(metrics["discriminants"]) == ["heavy", "Hbb vs QCD", "top vs QCD"]
    assert metrics["main"] == "heavy"
    pair = metrics["discriminants"]["top vs QCD"]["methods"]["net"]
    assert pair["area"] == pytest.approx(norm.cdf(2 / np.sqrt(2)), abs=4 * pair["area_error"])
    assert metrics["headline"]["net"]["mean_area"] > 0.85
    assert "pairs" in {path.stem for path in (tmp_path / "out" / "plots").glob("*.png")}
    assert metrics["ddt"] == {}


def test_a_handful_of_jets_gives_a_report_that_says_what_is_missing(tmp_path: Path) -> None:
    jets = toy_jets(BINARY, 60)
    path = write_scores(tmp_path / "s.parquet", jets | score_columns(jets, BINARY, "net", 3.0), BINARY)
    metrics = evaluate_tagging(Sources.of_table(path), TaggingConfig(), {}, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "not made: DDT of net" in page
    assert metrics["sculpting"]["net"]["at_signal_efficiency"] is None
    assert {path.stem for path in (tmp_path / "out" / "plots").glob("*.png")} == {"scores", "confusion"}


def test_a_failed_evaluation_leaves_no_metrics(tmp_path: Path) -> None:
    jets = toy_jets(BINARY, 60)
    path = write_scores(tmp_path / "s.parquet", jets | score_columns(jets, BINARY, "net", 3.0), None)
    with pytest.raises(DataError, match="does not say what its classes are"):
        evaluate_tagging(Sources.of_table(path), TaggingConfig(), {}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
