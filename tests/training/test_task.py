"""The loss as the configuration states it, computed by hand."""

import numpy as np
import pytest
import torch

from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.stream import JetStream, StreamConfig
from distjet.errors import ConfigError
from distjet.training.constituent_task import ConstituentTask
from distjet.training.settings import TrainConfig

CPU = torch.device("cpu")


def config(manifest: Manifest, *overrides: str) -> TrainConfig:
    return load(TrainConfig, [], [f"dataset={manifest.path}", "output=/tmp/unused", "model.width=16", *overrides])


def first_batch(manifest: Manifest):
    return next(iter(JetStream(manifest, "train", StreamConfig(batch_size=300))))


def test_the_loss_is_the_weighted_sum_of_its_terms(toy_dataset: Manifest) -> None:
    settings = config(
        toy_dataset,
        "weighting=event",
        "loss.energy={name: lgk, bandwidth: 0.2, leak: 0.1, weight: 2}",
        "loss.mass={name: mae, weight: 0.5}",
        "loss.rapidity={name: mse, weight: 7}",
    )
    task = ConstituentTask(settings, toy_dataset, CPU)
    batch = first_batch(toy_dataset)
    out = task.build_model()(batch)
    sums = task.loss(out, batch)
    true = {name: value.double() for name, value in batch.targets.items()}
    w = batch.weight.double()
    u = out.jets.energy.double() / true["true_energy"] - 1
    energy = (0.1 * u.abs() - torch.exp(-u * u / 0.08) / (0.2 * np.sqrt(2 * np.pi))) * w
    heavy = true["true_mass"] > settings.loss.min_true_mass_gev
    assert 0 < heavy.sum() < len(heavy)
    mass = ((out.jets.mass.double() / true["true_mass"] - 1).abs() * w)[heavy]
    pz = true["true_pt"] * torch.sinh(true["true_eta"])
    y_true = torch.asinh(pz / torch.hypot(true["true_pt"], true["true_mass"]))
    rapidity = (out.jets.rapidity.double() - y_true) ** 2 * w
    expected = [t.sum().item() for t in (energy, mass, rapidity)]
    assert sums.terms.tolist() == pytest.approx(expected, rel=1e-4)
    assert sums.total.item() == pytest.approx(2 * expected[0] + 0.5 * expected[1] + 7 * expected[2], rel=1e-4)
    assert sums.weight.item() == pytest.approx(w.sum().item(), rel=1e-6)


def weights_and_targets(task: ConstituentTask, manifest: Manifest) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
    batches = list(JetStream(manifest, "train"))
    targets = {name: torch.cat([batch.targets[name] for batch in batches]) for name in ("true_energy", "true_eta")}
    return torch.cat([task.weighting(batch) for batch in batches]).double().numpy(), targets


def test_the_spectrum_is_flat_in_log_energy_after_weighting(toy_dataset: Manifest) -> None:
    task = ConstituentTask(config(toy_dataset), toy_dataset, CPU)
    weights, targets = weights_and_targets(task, toy_dataset)
    energies = targets["true_energy"]
    edges = np.array(toy_dataset.histogram("log_true_energy")["edges"])
    counts, _ = np.histogram(np.log(energies.double().numpy()), edges)
    summed, _ = np.histogram(np.log(energies.double().numpy()), edges, weights=weights)
    populated = summed[counts > 20]
    assert len(populated) >= 3
    assert populated.std() / populated.mean() < 0.05
    assert weights.mean() == pytest.approx(1.0, rel=0.02)


def test_the_spectrum_is_flat_in_log_energy_at_every_eta(toy_dataset: Manifest) -> None:
    task = ConstituentTask(config(toy_dataset, "weighting=flat_log_energy_eta"), toy_dataset, CPU)
    weights, targets = weights_and_targets(task, toy_dataset)
    values = [np.log(targets["true_energy"].double().numpy()), targets["true_eta"].abs().double().numpy()]
    edges = toy_dataset.histogram("log_true_energy_abs_eta")["edges"]
    counts, _, _ = np.histogram2d(*values, edges)
    np.testing.assert_array_equal(counts, toy_dataset.histogram("log_true_energy_abs_eta")["counts"])
    summed, _, _ = np.histogram2d(*values, edges, weights=weights)
    populated = summed[counts >= 10]
    assert len(populated) > 20
    assert populated.std() / populated.mean() < 0.05


def test_a_term_of_weight_zero_is_off(toy_dataset: Manifest) -> None:
    task = ConstituentTask(config(toy_dataset, "loss.rapidity.weight=0"), toy_dataset, CPU)
    assert [term.observable for term in task.terms] == ["energy"]


def test_difference_residual_is_in_gev(toy_dataset: Manifest) -> None:
    task = ConstituentTask(
        config(toy_dataset, "weighting=none", "loss={energy: {name: mse, residual: difference}, rapidity: null}"),
        toy_dataset,
        CPU,
    )
    batch = first_batch(toy_dataset)
    out = task.build_model()(batch)
    expected = ((out.jets.energy - batch.targets["true_energy"]) ** 2).sum().item()
    assert task.loss(out, batch).total.item() == pytest.approx(expected, rel=1e-5)


def test_standardisation_uses_the_training_split(toy_dataset: Manifest) -> None:
    model = ConstituentTask(config(toy_dataset), toy_dataset, CPU).build_model()
    x = torch.cat([batch.x for batch in JetStream(toy_dataset, "train")])
    standardised = (x.double() - model.node.mean.double()) * model.node.inverse_std.double()
    spread = x.double().std(0, correction=0) > 0
    np.testing.assert_allclose(standardised.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(standardised.std(0, correction=0)[spread], 1, rtol=1e-3)


def test_a_dataset_without_truth_is_refused(toy_dataset: Manifest) -> None:
    content = dict(toy_dataset.content)
    content["columns"] = [c for c in content["columns"] if c["name"] != "true_energy"]
    with pytest.raises(ConfigError, match=r"no column \['true_energy'\]"):
        ConstituentTask(config(toy_dataset), Manifest(toy_dataset.path, content), CPU)
