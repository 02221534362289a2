"""An exported model gives the numbers of the network, for any number of jets, and refuses to appear if it does not."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from distjet.application import onnx_export
from distjet.application.onnx_export import OPSET, ConstituentGraphs, export, run_session, write_model
from distjet.application.settings import ExportConfig
from distjet.cli import run_verb
from distjet.dataset.manifest import Manifest
from distjet.errors import DataError
from distjet.training.constituent_task import ConstituentTask
from tests.batches import make_batch
from tests.models.test_contract import build
from tests.training.test_task import config, first_batch

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

GRAPHS = ([5, 1, 12], [1], [3, 3], [30] * 7 + [1, 2])


def open_session(path: Path):
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


@pytest.mark.slow
def test_a_run_is_exported_with_its_standardisation_and_a_working_example(graph_run: Path, tmp_path: Path) -> None:
    result = run_verb("export", [f"run={graph_run}", f"output={tmp_path / 'gnn.onnx'}", "split=val"])
    assert result["max_difference"] < 1e-5
    assert result["jets_compared"] > 300
    session = open_session(tmp_path / "gnn.onnx")
    assert [item.name for item in session.get_inputs()] == ["x", "p4", "u", "edge_index", "batch"]
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["columns of x"].startswith("log_energy [ln(GeV)], log_pt [ln(GeV)], delta_eta [1]")
    command = [sys.executable, *result["example"].split()[1:]]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert shown.count("GeV, m = ") in (2, 3)
    import onnx

    assert onnx.load(tmp_path / "gnn.onnx").opset_import[0].version == OPSET


@pytest.mark.slow
def test_numbers_of_nodes_edges_and_jets_are_free(tmp_path: Path) -> None:
    function = ConstituentGraphs(build("constituent_gnn")).eval()
    write_model(function, make_batch([4, 2, 7]), {"purpose": "test"}, tmp_path / "m.onnx")
    session = open_session(tmp_path / "m.onnx")
    for sizes in GRAPHS:
        given = function.arguments(make_batch(sizes, seed=len(sizes)))
        found = run_session(session, given)
        with torch.no_grad():
            expected = dict(zip(function.outputs, function(**given), strict=True))
        differences = onnx_export._differences(found, {name: values.numpy() for name, values in expected.items()})
        assert max(differences) < 3e-6, dict(zip(function.outputs, differences, strict=True))


@pytest.mark.slow
def test_waves_of_features_are_part_of_the_model(toy_dataset: Manifest, tmp_path: Path) -> None:
    settings = config(toy_dataset, "fourier={delta_eta: {longest_period: 1, num_octaves: 3}}")
    function = ConstituentGraphs(ConstituentTask(settings, toy_dataset, torch.device("cpu")).build_model()).eval()
    batch = first_batch(toy_dataset)
    write_model(function, batch, {"purpose": "test"}, tmp_path / "m.onnx")
    given = function.arguments(batch)
    assert given["x"].shape[1] == len(toy_dataset.names("node"))
    found = run_session(open_session(tmp_path / "m.onnx"), given)
    with torch.no_grad():
        expected = dict(zip(function.outputs, function(**given), strict=True))
    differences = onnx_export._differences(found, {name: values.numpy() for name, values in expected.items()})
    assert max(differences) < 1e-5, dict(zip(function.outputs, differences, strict=True))


@pytest.mark.slow
def test_a_calibration_of_whole_jets_reads_columns_of_any_role(jet_run: Path, tmp_path: Path) -> None:
    result = export(ExportConfig(run=jet_run, output=tmp_path / "jets.onnx", split="val"))
    assert result["inputs"] == ["jet", "columns"]
    assert {"response", "mode", "sigma"} <= set(result["outputs"])
    assert result["max_difference"] < 1e-5
    metadata = open_session(tmp_path / "jets.onnx").get_modelmeta().custom_metadata_map
    assert metadata["columns of columns"].startswith("rho [GeV], mu")


@pytest.mark.slow
def test_a_model_that_differs_does_not_appear(jet_run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"differs from .* allowed is tolerance=1e-12; nothing was written"):
        export(ExportConfig(run=jet_run, output=tmp_path / "m.onnx", split="val", tolerance=1e-12))
    assert not list(tmp_path.iterdir())


def test_what_is_not_a_number_is_a_difference() -> None:
    numbers = {"energy": np.array([1.0, 2.0]), "phi": np.array([0.1, np.nan])}
    both = onnx_export._differences({**numbers, "phi": np.array([0.1, 0.2])}, numbers)
    assert both == [0.0, np.inf]
