"""Fixtures that several rooms share: a dataset of toy jets, made once by the real `prepare`."""

import errno
import logging
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.execution import in_process
from distjet.models.tagger_configs import KINEMATICS
from distjet.run_directory import identity_hash
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


SECRET = "the-secret-of-the-store"
"What must stand in no file and no log."


@pytest.fixture(scope="session")
def store() -> Iterator[str]:
    """An object store on this machine that speaks S3; gives the URL of an empty bucket."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # which logs each request
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    environment = {
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        files = pytest.importorskip("s3fs").S3FileSystem(use_listings_cache=False)
        files.mkdir("distjet")
        yield "s3://distjet"
        files.clear_instance_cache()
    server.stop()


@pytest.fixture
def bucket(store: str, request: pytest.FixtureRequest) -> str:
    """A folder of one test's own in the object store."""
    return f"{store}/{identity_hash({'test': request.node.nodeid})}"


@pytest.fixture
def fail_listings(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the object store not answer the listings with these numbers, counted from 1."""
    files = pytest.importorskip("s3fs").S3FileSystem
    listed = files._lsdir

    def fail(*numbers: int) -> None:
        asked = count(1)

        async def answer(self: Any, *args: Any, **named: Any) -> Any:
            if next(asked) in numbers:
                raise OSError(errno.EIO, "the store does not answer")
            return await listed(self, *args, **named)

        monkeypatch.setattr(files, "_lsdir", answer)

    return fail


@pytest.fixture(scope="session")
def toy_dataset(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A dataset of 3000 toy jets in several small shards and row groups."""
    folder = tmp_path_factory.mktemp("toy")
    return make_dataset(folder, 3000, "rows_per_shard=700", "row_group_size=100", "split={train: 0.7, val: 0.15}")


LABELS = (
    "recipe.labels={hadronic: 'sum(energy * clus_fEM) < 0.55 * jet_energy', "
    "electromagnetic: 'sum(energy * clus_fEM) >= 0.55 * jet_energy'}"
)
NODES = "recipe.nodes=[em_fraction: clus_fEM, " + ", ".join(KINEMATICS) + "]"


@pytest.fixture(scope="session")
def labelled_dataset(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The toy jets in two classes, which differ in what they are made of."""
    folder = tmp_path_factory.mktemp("labelled")
    sizes = ["rows_per_shard=700", "row_group_size=100", "split={train: 0.7, val: 0.15}"]
    return make_dataset(folder, 3000, *sizes, LABELS, NODES, "recipe.edges=none")
