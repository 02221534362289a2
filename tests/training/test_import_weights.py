"""Published weights become a run: the scores of published jets are those of the authors' code, through files and dataset."""

import os
from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import uproot

from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.errors import ConfigError, DataError
from distjet.execution import in_process
from distjet.physics.kinematics import to_cylindrical
from distjet.training.import_weights import import_weights
from distjet.training.prediction_table import write_predictions
from distjet.training.settings import ImportConfig
from tests.dataset.files import PROJECT

DATA = Path(os.environ.get("DISTJET_TEST_DATA", PROJECT.parent / "shared/data"))
CLASSES = ("QCD", "Hbb", "Hcc", "Hgg", "H4q", "Hqql", "Zqq", "Wqq", "Tbqq", "Tbl")
pytestmark = pytest.mark.skipif(not (DATA / "jetclass_500.npz").is_file(), reason=f"no published jets in {DATA}")


@pytest.fixture(scope="module")
def published() -> dict[str, np.ndarray]:
    return dict(np.load(DATA / "jetclass_500.npz"))


@pytest.fixture(scope="module")
def jetclass(published: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The jets in a file like those of JetClass, prepared as the shipped configuration says."""
    folder, mask = tmp_path_factory.mktemp("jetclass"), published["mask"].squeeze().astype(bool)
    counts = mask.sum(1)

    def lists(values: np.ndarray) -> ak.Array:
        return ak.unflatten(values[mask].astype(np.float32), counts)

    p4 = published["vectors"].transpose(0, 2, 1)
    pt, eta, phi, _ = to_cylindrical(np.where(mask[..., None], p4, 0).astype(np.float64).sum(1))
    energy = np.where(mask, p4[..., 3], 0).astype(np.float64).sum(1)
    branches = {f"part_{name}": lists(p4[..., k]) for k, name in enumerate(("px", "py", "pz", "energy"))}
    branches |= {name: lists(published["points"][:, k]) for k, name in enumerate(("part_deta", "part_dphi"))}
    jets = {"jet_pt": pt, "jet_eta": eta, "jet_phi": phi, "jet_energy": energy}
    branches |= {name: values.astype(np.float32) for name, values in jets.items()}
    branches |= {f"label_{name}": published["label"] == number for number, name in enumerate(CLASSES)}
    with uproot.recreate(folder / "jets.root") as file:
        file.mktree("tree", {name: ak.type(ak.Array(values)).content for name, values in branches.items()})
        file["tree"].extend(branches)
    config = [PROJECT / "conf/dataset/jetclass.yaml"]
    places = [f"inputs={folder / 'jets.root'}", f"output={folder / 'dataset'}", "split={train: 0.01, val: 0}"]
    prepare(load(PrepareConfig, config, places), in_process)
    return Manifest.load(folder / "dataset")


def configure(manifest: Manifest, output: Path, weights: Path, *overrides: str) -> ImportConfig:
    places = [f"dataset={manifest.path}", f"output={output}", f"weights={weights}"]
    return load(ImportConfig, [PROJECT / "conf/tagging/particle_net_jetclass.yaml"], [*places, *overrides])


def test_scores_are_those_of_the_authors(jetclass: Manifest, published: dict[str, np.ndarray], tmp_path: Path) -> None:
    told = import_weights(configure(jetclass, tmp_path / "run", DATA / "particlenet_kin_jetclass.pt"))
    assert told == import_weights(configure(jetclass, tmp_path / "run", DATA / "particlenet_kin_jetclass.pt"))
    tables = [
        pq.read_table(write_predictions(tmp_path / "run", jetclass.path, split, tmp_path / f"{split}.parquet", method="theirs"))
        for split in ("train", "test")
        if jetclass.num_rows(split)
    ]
    entry = np.concatenate([table["event"].to_numpy() for table in tables])
    columns = [f"theirs_score_{name}" for name in CLASSES]
    scores = np.concatenate([np.stack([table[name].to_numpy() for name in columns], 1) for table in tables])
    assert sorted(entry) == list(range(500))
    np.testing.assert_allclose(scores, published["particlenet_kin_scores"][entry], atol=1e-4)
    assert (scores.argmax(1) == published["label"][entry]).mean() == pytest.approx(0.718, abs=0.001)


def test_what_does_not_fit_is_named(jetclass: Manifest, tmp_path: Path) -> None:
    weights = DATA / "particlenet_kin_jetclass.pt"
    with pytest.raises(DataError, match=r"there is no file .*absent\.pt"):
        import_weights(configure(jetclass, tmp_path / "a", tmp_path / "absent.pt"))
    (tmp_path / "text.pt").write_text("no tensors")
    with pytest.raises(DataError, match=r"text\.pt holds no tensors that can be read without running its code"):
        import_weights(configure(jetclass, tmp_path / "b", tmp_path / "text.pt"))
    state = torch.load(weights, map_location="cpu", weights_only=True)
    name = next(iter(state))
    torch.save({key: value for key, value in state.items() if key != name}, tmp_path / "part.pt")
    with pytest.raises(DataError, match=name.removeprefix("mod.")):
        import_weights(configure(jetclass, tmp_path / "c", tmp_path / "part.pt"))
    with pytest.raises(DataError, match=r"has shape \(64, 64\), not \(32, 32\)"):
        import_weights(
            configure(jetclass, tmp_path / "d", weights, "model.blocks=[[32, 32, 32], [128, 128, 128], [256, 256, 256]]")
        )
    with pytest.raises(ConfigError, match="weights of 'lola' are in no known format"):
        import_weights(configure(jetclass, tmp_path / "e", weights, "model={name: lola}"))
