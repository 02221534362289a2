"""Trainings and datasets become the tables of an evaluation; what is known of each training comes with them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from distjet.cluster.train import train
from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.errors import ConfigError, DataError
from distjet.run_directory import read_json, write_json
from distjet.training.comparison import make_sources, seeds_of
from distjet.training.settings import TrainConfig
from distjet.verbs import EvaluateVerb, evaluate
from tests.training.test_loop import FAST, SMALL_MODEL

BINS = ["response={energy_edges_gev: [20, 1000], pt_edges_gev: [30, 60, 1000], abs_eta_edges: [0, 2.5], min_entries: 20}"]
QUICK = [*BINS, "response.min_entries_drawn=20", "response.estimator.num_replicas=20", "response.observables=[energy]"]


@pytest.fixture(scope="module")
def runs(toy_dataset: Manifest, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two trainings that differ in their seed alone."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (1, 2):
        places = [f"dataset={toy_dataset.path}", f"output={folder}/{seed}", "resources.num_workers=0", f"seed={seed}"]
        train(load(TrainConfig, [], [*places, *FAST, SMALL_MODEL, "num_epochs=1"]))
    return [folder / "1", folder / "2"]


def config_of(output: Path, *arguments: str) -> EvaluateVerb:
    return load(EvaluateVerb, [], [f"output={output}", *arguments, *QUICK])


def test_methods_seeds_and_processes_stand_in_one_evaluation(runs: list[Path], toy_dataset: Manifest, tmp_path: Path) -> None:
    arguments = (
        f"runs={{gnn: {runs[0]}, other: {{run: {runs[1]}}}}}",
        f"seeds={{gnn: [{runs[0]}, {runs[1]}]}}",
        f"datasets={{QCD: {toy_dataset.path}, ttbar: {toy_dataset.path}}}",
    )
    result = evaluate(config_of(tmp_path / "out", *arguments))
    assert result["methods"] == ["raw", "gnn", "other"]
    assert list(result["processes"]) == ["ttbar"]
    metrics = read_json(runs[0] / "metrics.json")
    assert result["training"]["gnn"]["num_parameters"] == metrics["num_parameters"]
    seeds = result["seeds"]["gnn"]["members"]
    assert [row["seed"] for row in seeds] == [1, 2]
    assert seeds[0]["val_loss"] == metrics["best"]["val_loss"]
    assert seeds[1]["mean_resolution"] == pytest.approx(result["headline"]["other"]["mean_resolution"])
    assert result["provenance"]["training of gnn"]["configuration"]["seed"] == 1
    assert evaluate(config_of(tmp_path / "out", *arguments)) == read_json(tmp_path / "out" / "metrics.json")
    with pytest.raises(ConfigError, match=r"another `distjet evaluate` \(different: .*trainings"):
        evaluate(config_of(tmp_path / "out", f"runs={{gnn: {runs[1]}}}", *arguments[2:]))


def test_a_table_that_is_there_is_kept(runs: list[Path], tmp_path: Path) -> None:
    config = config_of(tmp_path, f"runs={{gnn: {runs[0]}}}")
    (process,) = make_sources(config).processes
    assert [path.name for path in process.tables] == ["gnn.parquet"]
    table = pq.read_table(process.tables[0])
    assert {"raw_energy", "gnn_energy", "gnn_pt", "mu", "charged_fraction"} <= set(table.column_names)
    before = process.tables[0].stat().st_mtime_ns
    make_sources(config)
    assert process.tables[0].stat().st_mtime_ns == before


def test_members_of_an_ensemble_are_seeds(runs: list[Path], tmp_path: Path) -> None:
    ensemble = tmp_path / "ensemble"
    ensemble.mkdir()
    for file in ("config.yaml", "identity.json"):
        shutil.copy(runs[0] / file, ensemble)
    members: list[dict[str, Any]] = [{"run": str(run)} for run in runs]
    write_json(ensemble / "metrics.json", {"members": members})
    config = config_of(tmp_path / "out", f"seeds={{gnn: {ensemble}}}")
    assert seeds_of(config) == {"gnn": tuple(runs)}
    sources = make_sources(config)
    assert [facts["seed"] for facts in sources.seeds["gnn"]] == [1, 2]
    one, two = (pq.read_table(path)["gnn_energy"].to_numpy() for path in sources.processes[0].seeds["gnn"])
    assert not np.array_equal(one, two)
    with pytest.raises(DataError, match="is an ensemble; give it under seeds"):
        make_sources(config_of(tmp_path / "out", f"runs={{gnn: {ensemble}}}"))


def test_one_training_has_no_spread(runs: list[Path], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"seeds\.gnn names one training; a spread needs at least two"):
        seeds_of(config_of(tmp_path, f"seeds={{gnn: {runs[0]}}}"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either run=DIRECTORY"),
        (["run=a", "predictions=b"], "give either run=DIRECTORY"),
        (["run=a", "runs={gnn: b}"], "run names one training"),
        (["runs={raw: b}"], "a method cannot be called 'raw'"),
        (["runs={gnn net: b}"], "should match pattern"),
        (["run=a", "dataset=b", "datasets={QCD: c}"], "not both"),
        (["runs={gnn: {run: b, up_to: c}}"], "up_to"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(EvaluateVerb, [], ["output=o", *arguments])


def test_tables_can_be_given_in_each_form(tmp_path: Path) -> None:
    forms = {
        "a.parquet": [("", ["a.parquet"])],
        "[a, b]": [("", ["a", "b"])],
        "{QCD: a, top: [b, c]}": [("QCD", ["a"]), ("top", ["b", "c"])],
    }
    for given, expected in forms.items():
        config = config_of(tmp_path, f"predictions={given}")
        assert EvaluateVerb.model_validate(json.loads(config.model_dump_json())) == config
        processes = make_sources(config).processes
        assert [(process.label, [str(path) for path in process.tables]) for process in processes] == expected
