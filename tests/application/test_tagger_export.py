"""Every tagger of the table leaves as an ONNX model with the same scores, and so does an ensemble."""

from itertools import islice
from pathlib import Path

import pytest

from distjet.application.onnx_export import TaggedGraphs, compare, write_model
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.stream import JetStream, StreamConfig
from distjet.models.tagger import Tagger, TaggerEnsemble
from distjet.models.tagger_configs import TAGGERS
from tests.taggers import untrained


def difference(model: Tagger | TaggerEnsemble, manifest: Manifest, path: Path) -> float:
    function = TaggedGraphs(model, manifest.classes).eval()
    batches = islice(JetStream(manifest, "val", StreamConfig(batch_size=100)), 3)
    write_model(function, next(iter(JetStream(manifest, "test", StreamConfig(batch_size=3)))), {}, path)
    compared, largest = compare(function, batches, 300, path)
    assert compared >= 250
    return largest


LOSES_DIGITS = pytest.mark.xfail(strict=False, reason="ONNX Runtime is 1e-4 off for one in a thousand jets of TeV energies")
NAMES = [pytest.param(name, marks=LOSES_DIGITS) if name == "lorentz_net" else name for name in sorted(TAGGERS)]


@pytest.mark.parametrize("name", NAMES)
def test_onnx_runtime_gives_the_same_scores(labelled_dataset: Manifest, tmp_path: Path, name: str) -> None:
    assert difference(untrained(name, labelled_dataset), labelled_dataset, tmp_path / "tagger.onnx") < 1e-5


def test_an_ensemble_is_one_model(labelled_dataset: Manifest, tmp_path: Path) -> None:
    members = [untrained("particle_flow_network", labelled_dataset, seed) for seed in range(3)]
    assert difference(TaggerEnsemble(members), labelled_dataset, tmp_path / "ensemble.onnx") < 1e-5
