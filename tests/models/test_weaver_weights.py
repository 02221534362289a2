"""Weights that were published are read: their scores on jets of JetClass are those of weaver-core."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from distjet.dataset.streaming.batch import GraphBatch
from distjet.errors import DataError
from distjet.models.particle_net import ParticleNet
from distjet.models.tagger import TaggerSpec
from distjet.models.weaver_weights import JETCLASS_SCALES, particle_net_from_weaver

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder() -> Path:
    folder = Path(os.environ.get("DISTJET_TEST_DATA", PROJECT.parent / "shared/data"))
    if not (folder / "particlenet_kin_jetclass.pt").exists():
        pytest.skip(f"no published weights in {folder}; set DISTJET_TEST_DATA")
    return folder


@pytest.fixture(scope="module")
def published(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "particlenet_kin_jetclass.pt", map_location="cpu", weights_only=True)


def scaled_inputs(p4: np.ndarray, jet: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The seven inputs by their definition, of constituents (N, 4), their jets (N, 4), and (delta_eta, delta_phi) (N, 2)."""
    pt, jet_pt = np.hypot(p4[:, 0], p4[:, 1]), np.hypot(jet[:, 0], jet[:, 1])
    values = {
        "log_pt": np.log(pt),
        "log_energy": np.log(p4[:, 3]),
        "log_pt_fraction": np.log(pt / jet_pt),
        "log_energy_fraction": np.log(p4[:, 3] / jet[:, 3]),
        "delta_r": np.hypot(points[:, 0], points[:, 1]),
        "delta_eta": points[:, 0],
        "delta_phi": points[:, 1],
    }
    columns = [(values[name] - subtract) * multiply for name, (subtract, multiply) in JETCLASS_SCALES.items()]
    return np.clip(np.stack(columns, 1), -5, 5).astype(np.float32)


def read_jets(path: Path) -> tuple[GraphBatch, np.ndarray, np.ndarray]:
    """The jets as a batch, their classes, and the published scores."""
    with np.load(path) as jets:
        mask = jets["mask"][:, 0]
        p4, points = jets["vectors"].transpose(0, 2, 1)[mask].astype(np.float64), jets["points"].transpose(0, 2, 1)[mask]
        label, scores = jets["label"], jets["particlenet_kin_scores"]
    sizes = mask.sum(1)
    ptr = np.concatenate([[0], sizes.cumsum()])
    total = np.add.reduceat(p4, ptr[:-1])
    pt = np.hypot(total[:, 0], total[:, 1])
    jet = np.stack([pt, np.arcsinh(total[:, 2] / pt), np.arctan2(total[:, 1], total[:, 0]), total[:, 3], 0 * pt], 1)
    x = scaled_inputs(p4, total.repeat(sizes, axis=0), points)
    tensors = [torch.from_numpy(array.astype(np.float32)) for array in (x, p4, jet)]
    batch = GraphBatch(
        x=tensors[0], p4=tensors[1], jet=tensors[2], ptr=torch.from_numpy(ptr), u=torch.zeros(len(sizes), 0), targets={},
        weight=torch.ones(len(sizes)),
    )  # fmt: skip
    return batch, label, scores


def test_published_weights_give_the_published_scores(folder: Path, published: dict[str, torch.Tensor]) -> None:
    config, state = particle_net_from_weaver(published)
    network = ParticleNet(config, TaggerSpec(7, 0, 10)).eval()
    network.load_state_dict(state)
    batch, label, expected = read_jets(folder / "jetclass_500.npz")
    with torch.no_grad():
        scores = network(batch).softmax(1).numpy()
    assert len(scores) == 500
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert (scores.argmax(1) == label).mean() == pytest.approx(0.718)


@pytest.mark.parametrize(
    ("change", "message"),
    {
        "missing": ({"mod.edge_convs.1.bns.2.bias": None}, "no tensor 'edge_convs.1.bns.2.bias'"),
        "no norm of the inputs": ({"mod.bn_fts.weight": None}, "no tensor 'bn_fts.weight'"),
        "no read-out": ({"mod.fc.1.weight": None}, "no tensor 'fc.1.weight'"),
        "unknown": ({"mod.attention.weight": torch.zeros(3)}, "a tensor 'attention.weight', which has no place"),
        "shape": ({"mod.edge_convs.0.convs.0.weight": torch.zeros(64, 15, 1, 1)}, r"'edge_convs.0.convs.0.weight' has shape"),
        "no blocks": ({"edge_convs": None}, "no tensor 'edge_convs.0.convs.0.weight'"),
        "inputs": ({"mod.bn_fts.weight": torch.zeros(8)}, "reads 8 inputs; name them"),
    }.values(),
)
def test_a_checkpoint_that_does_not_fit_is_named(published: dict[str, torch.Tensor], change: dict, message: str) -> None:
    state = dict(published)
    for name, tensor in change.items():
        state = {key: value for key, value in state.items() if tensor is not None or name not in key}
        if tensor is not None:
            state[name] = tensor
    with pytest.raises(DataError, match=message):
        particle_net_from_weaver(state)
