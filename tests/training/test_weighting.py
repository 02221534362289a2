"""Spec: the weights of the training jets, looked up on the device, make the spectra of a real dataset what was asked for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.stream import JetStream
from distjet.dataset.weights import flattening_weights
from distjet.errors import ConfigError
from distjet.training.settings import TrainConfig, WeightingConfig
from distjet.training.weighting import Weighting
from tests.dataset.files import configure, random_ntuple, run, write_ntuple

CPU = torch.device("cpu")
EDGES = {"pt_edges_gev": (5.0, 15, 30, 60, 200), "mass_edges_gev": (0.0, 2, 5, 10, 40)}


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Jets of two classes, one of which is rare, with few bins in (pT, mass) so that most of them are filled."""
    folder = tmp_path_factory.mktemp("two_classes")
    write_ntuple(folder / "in/sample/jets.root", random_ntuple(6000, seed=5), parts=5)
    base = configure(folder / "out", str(folder / "in")).model_dump(mode="json")["recipe"]
    recipe = base | {"labels": {"light": "truthjet_flavour != 5", "bottom": "truthjet_flavour == 5"}}
    return run(folder / "out", str(folder / "in"), recipe=recipe, rows_per_shard=3000, **EDGES)


def weighting(text: str) -> WeightingConfig:
    return load(TrainConfig, [], ["dataset=/tmp/d", "output=/tmp/o", f"weighting={text}"]).weighting


def weighted(manifest: Manifest, config: WeightingConfig) -> dict[str, np.ndarray]:
    """Return weights and variables of all training jets, as a training sees them."""
    function = Weighting(config, manifest, CPU)
    parts: dict[str, list[torch.Tensor]] = {"weight": [], "event": [], "label": [], "pt": [], "mass": [], "energy": []}
    for batch in JetStream(manifest, "train"):
        values = (function(batch), batch.weight, batch.targets.get("label", batch.weight * 0))
        values += (batch.jet[:, 0], batch.jet[:, 4], batch.targets["true_energy"])
        for part, value in zip(parts.values(), values, strict=True):
            part.append(value)
    return {name: torch.cat(part).double().numpy() for name, part in parts.items()}


def sums(jets: dict[str, np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Add up weights in bins of class, pT and mass; what lies outside counts in the nearest bin."""
    values = [np.clip(jets[name], EDGES[f"{name}_edges_gev"][0], EDGES[f"{name}_edges_gev"][-1]) for name in ("pt", "mass")]
    edges: Any = ([-0.5, 0.5, 1.5], *EDGES.values())
    return np.histogramdd([jets["label"], *values], edges, weights=weights)[0]


def test_both_classes_are_flat_in_pt_and_mass(two_classes: Manifest) -> None:
    jets = weighted(two_classes, weighting("flat_pt_mass"))
    counts, content = sums(jets, np.ones_like(jets["weight"])), sums(jets, jets["weight"])
    np.testing.assert_array_equal(counts, two_classes.histogram("pt_mass")["counts"])
    assert counts[0].sum() > 3 * counts[1].sum()
    assert jets["weight"].mean() == pytest.approx(1, rel=1e-4)
    assert content[0].sum() == pytest.approx(content[1].sum(), rel=1e-4)
    for part, entries in zip(content, counts, strict=True):
        common = entries >= 0.02 * entries.sum()  # the cap leaves these alone
        assert common.sum() >= 5
        np.testing.assert_allclose(part[common], part[common].mean(), rtol=1e-4)


def test_a_class_gets_the_spectrum_of_another(two_classes: Manifest) -> None:
    jets = weighted(two_classes, weighting("{reference: light, totals: {light: 1, bottom: 3}}"))
    counts, content = sums(jets, np.ones_like(jets["weight"])), sums(jets, jets["weight"])
    assert content[1].sum() == pytest.approx(3 * content[0].sum(), rel=1e-4)
    common = counts[1] >= 20
    assert common.sum() >= 5
    ratio = content[1][common] / counts[0][common]
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-4)


def test_sums_of_event_weights_can_be_made_flat(two_classes: Manifest) -> None:
    jets = weighted(two_classes, weighting("{name: flat_pt_mass, times_event_weight: true}"))
    counts, content = sums(jets, np.ones_like(jets["weight"])), sums(jets, jets["weight"])
    common = counts[0] >= 0.02 * counts[0].sum()
    np.testing.assert_allclose(content[0][common], content[0][common].mean(), rtol=1e-3)
    assert len(np.unique(jets["weight"])) > 1000


@pytest.mark.parametrize("text", ["flat_log_energy", "{name: flat_log_energy, times_event_weight: true}"])
def test_the_device_finds_the_weights_that_numpy_finds(two_classes: Manifest, text: str) -> None:
    config = weighting(text)
    jets = weighted(two_classes, config)
    function = flattening_weights(two_classes.histogram("log_true_energy"), use_event_weights=config.times_event_weight)
    expected = function([np.log(jets["energy"])]) * (jets["event"] if config.times_event_weight else 1)
    assert (np.abs(jets["weight"] / expected - 1) < 1e-5).mean() > 0.999  # a jet on an edge may fall to either side


def test_without_a_table_jets_or_events_count_once(two_classes: Manifest) -> None:
    jets = weighted(two_classes, weighting("none"))
    assert (jets["weight"] == 1).all()
    jets = weighted(two_classes, weighting("event"))
    np.testing.assert_array_equal(jets["weight"], jets["event"])


def test_a_dataset_without_labels_is_flat_as_a_whole(toy_dataset: Manifest) -> None:
    jets = weighted(toy_dataset, weighting("flat_pt_mass"))
    assert jets["weight"].mean() == pytest.approx(1, rel=1e-3)
    assert jets["weight"].std() > 0.1
    with pytest.raises(ConfigError, match="the dataset has no labels"):
        Weighting(weighting("{reference: light}"), toy_dataset, CPU)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flat", r"weighting\.name: Input should be 'flat_log_energy'"),
        ("{reference_class: light}", "weighting.reference_class is not a field of WeightingConfig, did you mean 'reference'"),
        ("reference_pt_mass", "reference_pt_mass needs a reference"),
        ("{name: event, reference: light}", "reference_pt_mass needs a reference, which nothing else has"),
        ("{name: event, totals: {light: 1}}", "totals are for flat_pt_mass and reference_pt_mass"),
        ("{name: flat_pt_mass, totals: {light: 0}}", "totals must be positive"),
    ],
)
def test_a_wrong_weighting_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        weighting(text)


def test_an_override_takes_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("weighting: {reference: light}\n")
    (tmp_path / "b.yaml").write_text("weighting: flat_log_energy\n")
    places = ["dataset=/tmp/d", "output=/tmp/o"]
    assert load(TrainConfig, [tmp_path / "a.yaml"], [*places, "weighting=event"]).weighting.name == "event"
    found = load(TrainConfig, [tmp_path / "b.yaml"], [*places, "weighting.reference=light"]).weighting
    assert (found.name, found.reference) == ("reference_pt_mass", "light")
