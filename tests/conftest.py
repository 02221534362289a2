"""Fixtures that several rooms share: a dataset of toy jets, made once by the real `prepare`."""

from pathlib import Path

import pytest

from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.execution import in_process
from tests.dataset.files import PROJECT, write_ntuple
from tests.ntuples import toy_jets


def make_dataset(folder: Path, num_jets: int, *overrides: str) -> Manifest:
    """Write two ntuples of toy jets and convert them with the shipped mapping."""
    for seed, sample in enumerate(("toy_A", "toy_B")):
        write_ntuple(folder / "ntuples" / sample / "jets.root", toy_jets(num_jets // 4, seed))
    places = [f"inputs={folder}/ntuples", f"output={folder}/dataset"]
    config = load(PrepareConfig, [PROJECT / "conf/dataset/distjet.yaml"], [*places, *overrides])
    prepare(config, in_process)
    return Manifest.load(folder / "dataset")


@pytest.fixture(scope="session")
def toy_dataset(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A dataset of 3000 toy jets in several small shards and row groups."""
    folder = tmp_path_factory.mktemp("toy")
    return make_dataset(folder, 3000, "rows_per_shard=700", "row_group_size=100", "split={train: 0.7, val: 0.15}")
