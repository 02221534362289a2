"""A tagger writes the scores of every jet of an ntuple, in its order, as the evaluation has them."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import uproot

from distjet.application.onnx_export import export
from distjet.application.predict import predict
from distjet.application.settings import ExportConfig, PredictConfig
from distjet.dataset.manifest import Manifest
from distjet.errors import DataError
from distjet.execution import in_process
from distjet.training.prediction_table import write_predictions
from tests.dataset.files import TREE, random_ntuple, write_ntuple

CLASSES = ("hadronic", "electromagnetic")


def tag(run: Path, inputs: Path, output: Path, **changes: Any) -> dict[str, Any]:
    values = {"run": str(run), "inputs": [str(inputs)], "output": str(output), "batch_size": 50, "entries_per_read": 70}
    return predict(PredictConfig.model_validate(values | changes), in_process)


def test_scores_are_those_of_the_evaluation(tagger_run: Path, labelled_dataset: Manifest, tmp_path: Path) -> None:
    ntuple = labelled_dataset.path.parent / "ntuples/toy_A/jets.root"
    (record,) = tag(tagger_run, ntuple, tmp_path / "out")["files"]
    columns = [f"tagged_score_{name}" for name in CLASSES]
    mine = {(row["event"], row["jet_index"]): row for row in pq.read_table(record["output"]).to_pylist()}
    table = pq.read_table(write_predictions(tagger_run, labelled_dataset.path, "test", tmp_path / "p.parquet", method="tagged"))
    rows = [row for row in table.to_pylist() if row["sample"] == "toy_A"]
    assert len(rows) > 100
    for row in rows:
        found = mine[row["event"], row["jet_index"]]
        assert [found[name] for name in columns] == pytest.approx([row[name] for name in columns], abs=1e-6)


def test_jets_without_constituents_have_no_score_and_a_friend_tree_has_all_entries(tagger_run: Path, tmp_path: Path) -> None:
    arrays = random_ntuple(150, 3)
    del arrays["truthjet_pt"]  # data have no truth
    ntuple = write_ntuple(tmp_path / "data/jets.root", arrays)
    (record,) = tag(tagger_run, ntuple, tmp_path / "out", format="root", name="pfn")["files"]
    assert record["jets"] == 300
    with uproot.open(ntuple) as file, uproot.open(record["output"]) as friend:
        empty = file[TREE]["nclus"].array(library="np") == 0
        scores = friend["pfn"].arrays([f"score_{name}" for name in CLASSES], library="np")
        assert friend["pfn"].num_entries == 300
    assert empty.sum() == sum(record["not_calibrated"].values()) > 0
    for values in scores.values():
        np.testing.assert_array_equal(np.isnan(values), empty)
    assert np.allclose(sum(scores.values())[~empty], 1, atol=1e-6)


def test_a_tagger_corrects_no_constituents(tagger_run: Path, tmp_path: Path) -> None:
    events = {"r04": {"radius": 0.4, "dataset": "nowhere"}}
    with pytest.raises(DataError, match="is a tagger: it corrects no constituents"):
        tag(tagger_run, tmp_path, tmp_path / "out", events=events)


def test_it_is_exported_with_an_example(tagger_run: Path, tmp_path: Path) -> None:
    told = export(ExportConfig(run=tagger_run, output=tmp_path / "tagger.onnx", num_jets=300))
    assert told["max_difference"] < 1e-5
    assert set(told["inputs"]) >= {"x", "u", "p4", "batch"}
    assert told["outputs"] == ["scores"]
