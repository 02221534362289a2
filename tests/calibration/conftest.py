"""A dataset of toy jets with a known response, made by the real `prepare`, and a chain that was fitted to it."""

from pathlib import Path

import numpy as np
import pytest

from distjet.calibration.settings import ChainConfig
from distjet.config import load, validate
from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.execution import in_process
from distjet.verbs import train
from tests.calibration.toys import toy_columns
from tests.dataset.files import PROJECT, write_ntuple

NUM_JETS = 48_000

RECIPE = {
    "tree": "jets",
    "identity": {"event": "event"},
    "jet": {name: f"jet_{name}" for name in ("pt", "eta", "phi", "mass")},
    "truth": {name: f"true_{name}" for name in ("pt", "eta", "phi", "mass")},
    "graph": ["rho", "area", "num_vertices", "num_interactions", "charged_fraction", "num_tracks"],
    "spectators": ["detector_eta"],
}

SMALL_CHAIN = [
    "chain.sequential.variables=[{column: charged_fraction, max_abs_eta: 2.5}, {column: num_tracks, max_abs_eta: 2.0}]",
    "chain.residual.abs_eta_edges=[0, 1.3, 2.5]",
    "chain.residual.pt_true_edges_gev=[20, 30, 50, 100]",
    "chain.residual.min_entries=200",
    "chain.energy.abs_eta_edges=[0, 1.3, 2.5, 4.5]",
    "chain.energy.min_entries=100",
    "chain.eta.abs_eta_edges=[0, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.1, 2.5]",
    "chain.eta.pt_true_edges_gev=[12, 60, 2000]",
    "chain.sequential.abs_eta_edges=[0, 1.3, 2.5]",
    "chain.sequential.pt_true_edges_gev=[12, 40, 150, 2000]",
    "closure.abs_eta_edges=[0, 1.3, 2.5]",
    "closure.pt_true_edges_gev=[20, 30, 60, 150, 400, 2000]",
    "closure.pileup_pt_true_edges_gev=[20, 60]",
    "closure.min_entries=100",
    "estimator.num_replicas=20",
]
"The shipped chain with fewer bins, for a sample that a test can afford."


def small_config(dataset: Path, output: Path, *overrides: str) -> ChainConfig:
    """Load the shipped configuration for the toy dataset."""
    places = [f"dataset={dataset}", f"output={output}"]
    return load(ChainConfig, [PROJECT / "conf/calibration/chain.yaml"], [*places, *SMALL_CHAIN, *overrides])


@pytest.fixture(scope="session")
def toy_jets_dataset(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Jets without constituents."""
    folder = tmp_path_factory.mktemp("chain")
    columns = toy_columns(NUM_JETS, 11)
    arrays = {name: values.astype(np.float32) for name, values in columns.items() if not name.endswith("_energy")}
    arrays["event"] = np.arange(NUM_JETS, dtype=np.int64)
    write_ntuple(folder / "toys" / "toys.root", arrays, tree="jets")
    content = {"inputs": str(folder / "toys"), "output": str(folder / "dataset"), "recipe": RECIPE}
    prepare(validate(PrepareConfig, {**content, "split": {"train": 0.6, "val": 0.3}, "rows_per_shard": 10_000}), in_process)
    return Manifest.load(folder / "dataset")


@pytest.fixture(scope="session")
def chain_run(toy_jets_dataset: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a finished run."""
    output = tmp_path_factory.mktemp("chain_run") / "run"
    train(small_config(toy_jets_dataset.path, output))
    return output
