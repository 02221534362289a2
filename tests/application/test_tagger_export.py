"""Every tagger of the table leaves as an ONNX model with the same scores, and so does an ensemble."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from distjet.application.onnx_export import TaggedGraphs, compare, write_model
from distjet.config import implementation, import_path
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.stream import JetStream, StreamConfig
from distjet.models.tagger import Tagger, TaggerEnsemble, TaggerSpec
from distjet.models.tagger_configs import TAGGERS
from distjet.nn.normalise import Standardise

SMALLER = {
    "high_level_dnn": {"jet_inputs": ("jet_mass", "area"), "hidden": (16,)},
    "jet_image_resnet": {"depths": (1, 1)},
    "particle_transformer": {"num_blocks": 2},
}


def tagger(name: str, manifest: Manifest, seed: int = 0) -> Tagger:
    """An untrained tagger whose batch norms have seen something."""
    torch.manual_seed(seed)
    config = import_path(TAGGERS[name].config)(**SMALLER.get(name, {}))
    node, jet = (Standardise([0.1] * len(names), [1.3] * len(names)) for names in (config.inputs, config.jet_inputs))
    network = implementation(name, TAGGERS)(config, TaggerSpec(len(config.inputs), len(config.jet_inputs), 2))
    for key, value in network.state_dict().items():
        if key.endswith("running_mean"):
            value.normal_(std=0.1)
        elif key.endswith("running_var"):
            value.uniform_(0.8, 1.2)
    return Tagger(network, (node, jet), manifest, config).eval()


def difference(model: Tagger | TaggerEnsemble, manifest: Manifest, path: Path) -> float:
    function = TaggedGraphs(model, manifest.classes).eval()
    batches = islice(JetStream(manifest, "val", StreamConfig(batch_size=100)), 3)
    write_model(function, next(iter(JetStream(manifest, "test", StreamConfig(batch_size=3)))), {}, path)
    compared, largest = compare(function, batches, 300, path)
    assert compared >= 250
    return largest


@pytest.mark.parametrize("name", sorted(TAGGERS))
def test_onnx_runtime_gives_the_same_scores(labelled_dataset: Manifest, tmp_path: Path, name: str) -> None:
    assert difference(tagger(name, labelled_dataset), labelled_dataset, tmp_path / "tagger.onnx") < 1e-5


def test_an_ensemble_is_one_model(labelled_dataset: Manifest, tmp_path: Path) -> None:
    members = [tagger("particle_flow_network", labelled_dataset, seed) for seed in range(3)]
    assert difference(TaggerEnsemble(members), labelled_dataset, tmp_path / "ensemble.onnx") < 1e-5
