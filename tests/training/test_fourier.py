"""Sines and cosines of features: what the network reads, and that it learns a dip which it could not learn so soon without."""

import numpy as np
import pytest
import torch
from torch import nn

from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.errors import ConfigError
from distjet.nn.normalise import Standardise, Waves
from distjet.training.columns import constants
from distjet.training.constituent_task import ConstituentTask
from distjet.training.settings import TrainConfig
from distjet.training.task import build_task
from tests.training.test_task import CPU, config, first_batch


def test_waves_are_those_of_the_values_themselves() -> None:
    x = np.random.default_rng(1).normal(2.0, 30.0, (50, 3))
    module = Standardise([2.0, 0.0, 1.0], [30.0, 0.0, 2.0], waves=(Waves(2, 8.0, 3), Waves(0, 1.0, 1)))
    found = module(torch.tensor(x, dtype=torch.float32)).double().numpy()
    phases = [2 * np.pi * x[:, 2] / period for period in (8, 4, 2)] + [2 * np.pi * x[:, 0]]
    standardised = np.clip([(x[:, 0] - 2) / 30, x[:, 1], (x[:, 2] - 1) / 2], -10, 10)
    expected = np.stack([*standardised, *(np.sin(p) for p in phases), *(np.cos(p) for p in phases)], axis=1)
    assert module.num_outputs == 3 + 8
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert set(module.state_dict()) == {"mean", "inverse_std"}
    assert {name for name, _ in Standardise([0.0], [1.0]).named_buffers()} == {"mean", "inverse_std"}


def test_the_task_gives_waves_to_the_columns_that_are_named(toy_dataset: Manifest) -> None:
    node, graph = (toy_dataset.names(role) for role in ("node", "graph"))
    settings = config(toy_dataset, f"fourier={{{node[1]}: {{longest_period: 4, num_octaves: 2}}, {graph[-1]}: {{}}}}")
    task = ConstituentTask(settings, toy_dataset, CPU)
    model, batch = task.build_model(), first_batch(toy_dataset)
    read = model.node(batch.x)
    assert read.shape[1] == len(node) + 4
    assert model.graph(batch.u).shape[1] == len(graph) + 10
    torch.testing.assert_close(read[:, len(node)], torch.sin(2 * torch.pi / 4 * batch.x[:, 1]))
    torch.testing.assert_close(read[:, -1], torch.cos(2 * torch.pi / 2 * batch.x[:, 1]))
    again = ConstituentTask.untrained(settings, toy_dataset, constants(toy_dataset, task.features))
    again.load_state_dict(model.state_dict())
    torch.testing.assert_close(again(batch).jets.energy, model(batch).jets.energy)


@pytest.mark.parametrize(
    "overrides",
    [["model.width=16"], ["model={name: response_dnn, inputs: [jet_energy]}", "loss={energy: {name: mae}, rapidity: null}"]],
    ids=["constituents", "jets"],
)
def test_a_column_that_the_model_does_not_read_is_refused(toy_dataset: Manifest, overrides: list[str]) -> None:
    paths = [f"dataset={toy_dataset.path}", "output=/tmp/unused", *overrides, "fourier={nothing: {}}"]
    with pytest.raises(ConfigError, match="fourier: unknown feature of the model 'nothing'"):
        build_task(load(TrainConfig, [], paths), toy_dataset, CPU)


def test_a_narrow_dip_is_learned_in_fewer_steps() -> None:
    def error_after_training(waves: tuple[Waves, ...]) -> float:
        torch.manual_seed(1)
        encode = Standardise([0.0], [1.4], waves=waves)
        network = nn.Sequential(
            encode, nn.Linear(encode.num_outputs, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1)
        )
        optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
        for _ in range(300):
            eta = torch.rand(256, 1) * 5 - 2.5
            loss = (network(eta) - dip(eta)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        eta = torch.linspace(-2.5, 2.5, 2001)[:, None]
        with torch.no_grad():
            return (network(eta) - dip(eta)).abs().max().item()

    assert error_after_training((Waves(0, 8.0, 5),)) < 0.5 * error_after_training(())


def dip(eta: torch.Tensor) -> torch.Tensor:
    return -torch.exp(-(((eta.abs() - 1.45) / 0.12) ** 2))
