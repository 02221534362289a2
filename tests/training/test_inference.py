"""A table of predictions holds every jet of the split once, with what the shards and the model say."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from distjet.calibration.chain import CHAIN_FILE
from distjet.cluster.train import train
from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.stream import JetStream, StreamConfig
from distjet.dataset.weights import flattening_weights
from distjet.errors import DataError
from distjet.run_directory import IDENTITY_FILE, write_json
from distjet.training.inference import dataset_of, is_chain, load_predictor, load_run
from distjet.training.prediction_table import write_predictions
from distjet.training.settings import TrainConfig
from tests.batches import empty
from tests.conftest import make_dataset
from tests.training.test_loop import FAST, SMALL_MODEL, best_weights


@pytest.fixture(scope="module")
def run(toy_dataset: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run") / "train"
    places = [f"dataset={toy_dataset.path}", f"output={output}", "resources.num_workers=0"]
    train(load(TrainConfig, [], [*places, *FAST, SMALL_MODEL, "num_epochs=1"]))
    return output


def test_every_jet_once_with_the_numbers_of_the_shards(toy_dataset: Manifest, run: Path, tmp_path: Path) -> None:
    table = pq.read_table(write_predictions(run, toy_dataset.path, "test", tmp_path / "p.parquet", batch_size=100))
    shards = [pq.read_table(toy_dataset.path / shard.path) for shard in toy_dataset.shards("test")]
    for name in ("event", "jet_index", "true_energy", "true_mass", "weight", "mu", "charged_fraction", "num_tracks"):
        expected = np.concatenate([shard[name].to_numpy() for shard in shards])
        np.testing.assert_array_equal(table[name].to_numpy(), expected)
    raw = np.concatenate([shard["jet_energy"].to_numpy() for shard in shards])
    np.testing.assert_allclose(table["raw_energy"].to_numpy(), raw, rtol=1e-5)
    raw_mass = np.concatenate([shard["jet_mass"].to_numpy() for shard in shards])
    np.testing.assert_allclose(table["raw_mass"].to_numpy(), raw_mass, rtol=5e-3, atol=5e-3)
    ratio = table["calibrated_energy"].to_numpy() / raw
    assert 0.5 < ratio.min() < ratio.max() < 3


def test_the_result_does_not_depend_on_the_batch_size(toy_dataset: Manifest, run: Path, tmp_path: Path) -> None:
    one, other = (
        pq.read_table(write_predictions(run, toy_dataset.path, "val", tmp_path / f"{size}.parquet", batch_size=size))
        for size in (17, 1000)
    )
    np.testing.assert_allclose(one["calibrated_energy"].to_numpy(), other["calibrated_energy"].to_numpy(), rtol=1e-5)


def test_the_configuration_of_a_run_loads_to_itself(run: Path) -> None:
    assert load_run(run).model_dump(mode="json") == yaml.safe_load((run / "config.yaml").read_text())
    assert all(torch.isfinite(weight).all() for weight in best_weights(run).values())


DENSITY = [
    *("model={name: mixture_density, hidden: [16]}", "model.inputs=[log_jet_energy, mu]", "model.pileup_subtraction=pt"),
    "loss={energy: {name: mdn}, rapidity: null}",
]


@pytest.fixture(scope="module")
def density_run(toy_dataset: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("density") / "train"
    places = [f"dataset={toy_dataset.path}", f"output={output}", "resources.num_workers=0"]
    train(load(TrainConfig, [], [*places, *FAST, *DENSITY, "num_epochs=4", "optimizer.lr=1e-2"]))
    return output


def test_a_network_on_whole_jets_is_a_run_like_any_other(toy_dataset: Manifest, density_run: Path, tmp_path: Path) -> None:
    path = write_predictions(density_run, toy_dataset.path, "test", tmp_path / "p.parquet", method="mdn")
    table = pq.read_table(path)
    columns = {name: table[name].to_numpy() for name in table.column_names}
    factor = columns["mdn_energy"] / columns["raw_energy"]
    for name in ("mass", "pt"):
        np.testing.assert_allclose(columns[f"mdn_{name}"], columns[f"raw_{name}"] * factor, rtol=5e-3, atol=5e-3)
    np.testing.assert_allclose(columns["mdn_rapidity"], columns["raw_rapidity"], atol=1e-3)
    assert 0.9 < np.median(columns["mdn_energy"] / columns["true_energy"]) < 1.1
    assert (columns["mdn_sigma"] > 0).all()
    assert ((columns["mdn_pit"] >= 0) & (columns["mdn_pit"] <= 1)).all()
    observed = columns["mdn_energy"] * columns["mdn_mode"] / columns["true_energy"]
    flat = flattening_weights(toy_dataset.histogram("log_true_energy"), use_event_weights=False)
    places = np.digitize(np.log(columns["true_energy"]), flat.edges[0][1:-1])
    np.testing.assert_allclose(columns["mdn_pit_weight"], np.asarray(flat.values)[places], rtol=1e-5)
    below, above = columns["mdn_pit"] < 0.2, columns["mdn_pit"] > 0.8
    assert (observed[below] < columns["mdn_mode"][below]).all()
    assert (observed[above] > columns["mdn_mode"][above]).all()


def test_quantiles_come_as_lists(toy_dataset: Manifest, tmp_path: Path) -> None:
    places = [f"dataset={toy_dataset.path}", f"output={tmp_path}/run", "resources.num_workers=0"]
    quantiles = ["model={name: quantile_regression, hidden: [8]}", "loss={energy: {name: quantile}, rapidity: null}"]
    train(load(TrainConfig, [], [*places, *FAST, *quantiles, "num_epochs=1"]))
    table = pq.read_table(write_predictions(tmp_path / "run", toy_dataset.path, "val", tmp_path / "p.parquet"))
    values, levels = (np.stack(table[f"calibrated_{name}"].to_numpy()) for name in ("quantiles", "quantile_levels"))
    assert values.shape == levels.shape == (table.num_rows, 7)
    assert (np.diff(values, axis=1) >= 0).all()
    np.testing.assert_allclose(levels[0], load_run(tmp_path / "run").model.levels)


@pytest.mark.parametrize("which", ["run", "density_run"])
def test_a_predictor_calibrates_no_jets_to_none(toy_dataset: Manifest, which: str, request: pytest.FixtureRequest) -> None:
    predictor = load_predictor(request.getfixturevalue(which), toy_dataset)
    batch = next(iter(JetStream(toy_dataset, "val", StreamConfig(row_columns=predictor.row_columns))))
    nothing = dataclasses.replace(empty(batch), rows={name: values[:0] for name, values in batch.rows.items()})
    full, none = predictor.predict(batch), predictor.predict(nothing)
    assert none.energy.shape == none.phi.shape == (0,)
    assert set(none.extra) == set(full.extra)
    assert (full.factor is None) == (which == "density_run")


def test_without_truth_there_is_no_pit(toy_dataset: Manifest, density_run: Path) -> None:
    predictor = load_predictor(density_run, toy_dataset)
    batch = next(iter(JetStream(toy_dataset, "val", StreamConfig(row_columns=predictor.row_columns))))
    assert set(predictor.predict(batch).extra) == {"mode", "sigma", "pit", "pit_weight"}
    assert set(predictor.predict(dataclasses.replace(batch, targets={})).extra) == {"mode", "sigma"}


def test_jets_at_the_bound_of_the_response_are_warned_of(
    toy_dataset: Manifest, density_run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    predictor = load_predictor(density_run, toy_dataset)
    predictor.model.config = predictor.model.config.model_copy(update={"min_response": 100.0})
    batch = next(iter(JetStream(toy_dataset, "val", StreamConfig(batch_size=50, row_columns=predictor.row_columns))))
    predicted = predictor.predict(batch)
    np.testing.assert_array_less(predicted.energy, batch.jet[:, 3].numpy() / 100 * 1.01)
    assert f"{batch.num_graphs} of {batch.num_graphs} jets a response below model.min_response = 100" in caplog.text


def test_a_network_has_no_steps_and_a_run_knows_its_dataset(toy_dataset: Manifest, run: Path) -> None:
    assert dataset_of(run) == toy_dataset.path
    assert not is_chain(run)
    with pytest.raises(DataError, match="is a network and has no step 'eta'"):
        load_predictor(run, toy_dataset, upto="eta")


def test_a_chain_is_a_run_like_any_other(toy_dataset: Manifest, run: Path, tmp_path: Path) -> None:
    """A chain by hand, of the one step whose formula fits in a line: pT - rho A."""
    folder = tmp_path / "chain"
    folder.mkdir()
    shutil.copy(run / IDENTITY_FILE, folder)
    write_json(folder / "metrics.json", {"status": "completed"})
    (folder / "config.yaml").write_text(yaml.safe_dump({"chain": {}, "dataset": str(toy_dataset.path)}))
    step = {"kind": "area", "rho": "rho", "area": "area", "min_factor": 0.1}
    write_json(folder / CHAIN_FILE, {"version": 1, "dataset_fingerprint": toy_dataset.fingerprint, "steps": [step]})
    predictor = load_predictor(folder, toy_dataset)
    batch = next(iter(JetStream(toy_dataset, "val", StreamConfig(row_columns=predictor.row_columns))))
    predicted = predictor.predict(batch)
    graph = toy_dataset.names("graph")
    pt, energy = batch.jet[:, 0].numpy(), batch.jet[:, 3].numpy()
    hard = pt - (batch.u[:, graph.index("rho")] * batch.u[:, graph.index("area")]).numpy()
    inside = hard > 0.1 * pt
    assert inside.sum() > 50
    np.testing.assert_allclose(predicted.pt[inside], hard[inside], rtol=1e-5)
    np.testing.assert_allclose(predicted.energy[inside], (energy * hard / pt)[inside], rtol=1e-5)
    assert is_chain(folder)
    with pytest.raises(DataError, match="is a classical chain; expected a network"):
        load_run(folder)


def test_a_finished_run_is_not_made_again(run: Path) -> None:
    before = (run / "metrics.json").stat().st_mtime_ns
    assert train(load_run(run))["status"] == "completed"
    assert (run / "metrics.json").stat().st_mtime_ns == before


def test_a_feature_that_is_computed_differently_is_noticed(run: Path, tmp_path: Path, caplog) -> None:
    nodes = "recipe.nodes=[log_energy,log_pt,delta_eta,delta_phi,eta,{em_fraction: clus_fEM},{had1_fraction: clus_fHAD1},"
    nodes += "{had2_fraction: clus_fHAD2},{depth: clus_lambda},{width: clus_r2},{log_density: clus_density},"
    nodes += "{max_cell_fraction: clus_emaxfrac},{log_significance: clus_significance},{log_num_cells: clus_ncell},"
    nodes += "log_energy_fraction]"
    other = make_dataset(tmp_path, 100, nodes)
    write_predictions(run, other.path, "train", tmp_path / "p.parquet")
    assert "feature width is computed as 'clus_r2'" in caplog.text
    assert "feature em_fraction" not in caplog.text


def test_the_training_data_are_not_needed_any_more(toy_dataset: Manifest, run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "run")
    text = (moved / "config.yaml").read_text()
    (moved / "config.yaml").write_text(text.replace(str(toy_dataset.path), "/gone/dataset"))
    tables = [
        pq.read_table(write_predictions(folder, toy_dataset.path, "val", tmp_path / f"{i}.parquet"))
        for i, folder in enumerate((run, moved))
    ]
    assert tables[0].equals(tables[1])


def test_data_with_other_features_and_folders_without_a_run_are_refused(run: Path, tmp_path: Path) -> None:
    other = make_dataset(tmp_path, 100, "recipe.nodes=[log_energy]")
    with pytest.raises(DataError, match=r"other features than .*: nothing, not log_pt"):
        write_predictions(run, other.path, "train", tmp_path / "p.parquet")
    with pytest.raises(DataError, match="is not the output of `distjet train`, or it has not begun"):
        write_predictions(tmp_path, other.path, "train", tmp_path / "p.parquet")
