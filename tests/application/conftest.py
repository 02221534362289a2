"""A calibrator of constituents, one of jets, and a tagger, each trained for a moment on toy jets."""

from pathlib import Path

import pytest

from distjet.cluster.train import train
from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.training.settings import TrainConfig
from tests.training.test_loop import FAST, SMALL_MODEL

JET_MODEL = "model={name: gaussian_response, hidden: [16], inputs: [jet_energy, jet_eta, rho, mu]}"


def train_briefly(manifest: Manifest, output: Path, *overrides: str) -> Path:
    places = [f"dataset={manifest.path}", f"output={output}", "resources.num_workers=0"]
    train(load(TrainConfig, [], [*places, *FAST, "num_epochs=1", *overrides]))
    return output


@pytest.fixture(scope="session")
def graph_run(toy_dataset: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_briefly(toy_dataset, tmp_path_factory.mktemp("graph_run") / "train", SMALL_MODEL)


@pytest.fixture(scope="session")
def jet_run(toy_dataset: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("jet_run") / "train"
    return train_briefly(toy_dataset, output, JET_MODEL, "loss={energy: {name: gnll}, mass: null, rapidity: null}")


@pytest.fixture(scope="session")
def tagger_run(labelled_dataset: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("tagger_run") / "train"
    model = ["model={name: particle_flow_network, inputs: [em_fraction]}", "model.jet_inputs=[mu]"]
    config = [f"dataset={labelled_dataset.path}", f"output={output}", "resources.num_workers=0", "batch_size=128", *model]
    train(load(TrainConfig, [], [*config, "num_epochs=1"]))
    return output
