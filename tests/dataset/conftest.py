"""Datasets made once for the tests of this room, and the folder of real files."""

import os
from pathlib import Path

import pytest

from distjet.dataset.manifest import Manifest
from tests.dataset.files import PROJECT, random_ntuple, run, write_ntuple


@pytest.fixture(scope="session")
def ntuples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two samples, three files, 500 events."""
    folder = tmp_path_factory.mktemp("ntuples")
    write_ntuple(folder / "slice_1/part_0.root", random_ntuple(200, seed=1), parts=7)
    write_ntuple(folder / "slice_1/part_1.root", random_ntuple(100, seed=2, first_event=200), parts=2)
    write_ntuple(folder / "slice_2/part_0.root", random_ntuple(200, seed=3), parts=4)
    return folder


@pytest.fixture(scope="session")
def dataset(ntuples: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The three files as a dataset."""
    return run(tmp_path_factory.mktemp("dataset") / "out", str(ntuples))


@pytest.fixture(scope="session")
def real_files() -> Path:
    """The folder of real files; skip where it is absent."""
    folder = Path(os.environ.get("DISTJET_TEST_DATA", PROJECT.parent / "shared/data"))
    if not folder.is_dir():
        pytest.skip(f"no test data at {folder}; set DISTJET_TEST_DATA")
    return folder
