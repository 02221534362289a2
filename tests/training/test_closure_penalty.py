"""The penalty on the mean response of bins, against autograd through its definition."""

import math

import numpy as np
import pytest
import torch

from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.errors import ConfigError
from distjet.evaluation.config import BinsConfig
from distjet.ranks import SINGLE
from distjet.training.closure_penalty import ClosurePenalty
from distjet.training.constituent_task import ConstituentTask
from distjet.training.settings import TrainConfig
from tests.training.test_task import CPU, config, first_batch

BINS = BinsConfig(energy_edges_gev=(20, 50, 100, 200), abs_eta_edges=(0.0, 0.8, 2.5), pt_true_min_gev=20)
HALF_WIDTH = 0.15


def sample(num: int) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    rng = np.random.default_rng(3)
    pt, eta = rng.uniform(10, 150, num), rng.uniform(-3, 3, num)
    targets = {"true_pt": pt, "true_eta": eta, "true_energy": pt * np.cosh(eta)}
    residual, weight = torch.tensor(rng.normal(0.03, 0.1, num)), torch.tensor(rng.uniform(0, 2, num))
    return residual, weight, {name: torch.tensor(value) for name, value in targets.items()}


def definition(residual: torch.Tensor, weight: torch.Tensor, targets: dict[str, torch.Tensor]) -> torch.Tensor:
    """Add up the bins one by one; every operation has a gradient."""
    total = torch.zeros((), dtype=residual.dtype)
    for low, high in zip(BINS.energy_edges_gev, BINS.energy_edges_gev[1:], strict=False):
        for near, far in zip(BINS.abs_eta_edges, BINS.abs_eta_edges[1:], strict=False):
            energy, eta = targets["true_energy"], targets["true_eta"].abs()
            kept = (energy >= low) & (energy < high) & (eta >= near) & (eta < far) & (targets["true_pt"] > 20)
            bounded = HALF_WIDTH * torch.tanh(residual[kept] / HALF_WIDTH)
            total = total + (weight[kept] * bounded).sum() ** 2 / weight[kept].sum()
    return total


def test_value_and_gradient_are_those_of_the_definition() -> None:
    residual, weight, targets = sample(500)
    ours, theirs = residual.clone().requires_grad_(), residual.clone().requires_grad_()
    found = ClosurePenalty(HALF_WIDTH, BINS, (20, 200), CPU, SINGLE)(ours, weight, targets).sum()
    expected = definition(theirs, weight, targets)
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    found.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)
    assert 0 < (ours.grad == 0).sum() < 250, "some jets are outside the bins, most are inside"


def test_a_residual_that_is_nan_spoils_no_other_jet() -> None:
    residual, weight, targets = sample(100)
    penalty = ClosurePenalty(HALF_WIDTH, BINS, (20, 200), CPU, SINGLE)
    without = penalty(residual[1:], weight[1:], {name: value[1:] for name, value in targets.items()})
    residual[0] = math.nan
    torch.testing.assert_close(penalty(residual, weight, targets), torch.cat([torch.zeros(1, dtype=without.dtype), without]))


def test_it_is_a_term_of_the_loss_while_gradients_are_needed(toy_dataset: Manifest) -> None:
    batch = first_batch(toy_dataset)
    plain = ConstituentTask(config(toy_dataset), toy_dataset, CPU)
    task = ConstituentTask(config(toy_dataset, "loss.closure={weight: 50, half_width: 0.2}"), toy_dataset, CPU)
    model = plain.build_model()
    calibrated = model(batch)
    added = task.loss(calibrated, batch).total - plain.loss(calibrated, batch).total
    penalty = ClosurePenalty(0.2, task.config.closure, task.energy_range_gev, CPU, SINGLE)
    expected = penalty(calibrated.jets.energy / batch.targets["true_energy"] - 1, task.weighting(batch), batch.targets).sum()
    assert expected > 0
    assert added.item() == pytest.approx(50 * expected.item(), rel=1e-4)
    assert [term.observable for term in task.terms] == ["energy", "rapidity", "closure"]
    with torch.no_grad():
        calibrated = model(batch)
        assert task.loss(calibrated, batch).total.item() == pytest.approx(plain.loss(calibrated, batch).total.item())


def test_it_is_not_for_networks_on_jets() -> None:
    network = ["model={name: response_dnn, inputs: [jet_energy]}", "loss={energy: {name: mae}, rapidity: null, closure: {}}"]
    with pytest.raises(ConfigError, match=r"loss\.closure is for networks on constituents"):
        load(TrainConfig, [], ["dataset=/d", "output=/o", *network])
