"""A table of predictions holds every jet of the split once, with what the shards and the model say."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from distjet.cluster.train import train
from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.errors import DataError
from distjet.training.inference import load_run, write_predictions
from distjet.training.settings import TrainConfig
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
    for name in ("event", "jet_index", "true_energy", "true_mass", "weight", "mu"):
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
