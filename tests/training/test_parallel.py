"""W processes make the steps of one: real processes, uneven shares, weights of events and budgets of nodes."""

import logging
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.stream import JetStream, StreamConfig
from distjet.errors import NonFiniteError
from distjet.ranks import SINGLE, RankInfo
from distjet.training import parallel
from distjet.training.history import read_rows
from distjet.training.loop import Interrupted, Trainer
from distjet.training.settings import TrainConfig
from tests.training.ranks import on_ranks
from tests.training.test_loop import FAST, SMALL_MODEL, with_model

pytestmark = pytest.mark.integration

CPU = torch.device("cpu")
CASES = {
    "event_weights": ["weighting=event", "loss.mass={name: lgk, weight: 0.5}"],
    "budget_of_nodes": ["max_nodes=2000", "weighting=flat_log_energy_eta", "stream.lanes=7"],
    "waves": ["fourier={delta_eta: {num_octaves: 2}}"],
    "closure_penalty": ["weighting=event", "loss.closure={weight: 100}", "closure.pt_true_min_gev=0"],
    "density_of_the_response": [
        *("model={name: mixture_density, hidden: [16]}", "model.inputs=[jet_energy, mu]", "max_nodes=2000"),
        "loss={energy: {name: mdn}, rapidity: null}",
    ],
}


def configure(manifest: Manifest, output: Path, *overrides: str) -> TrainConfig:
    return load(TrainConfig, [], [f"dataset={manifest.path}", f"output={output}", *FAST, *with_model(SMALL_MODEL, overrides)])


def trainer(config: TrainConfig, ranks: RankInfo, stop_after: int | None = None) -> Trainer:
    looks = iter(range(10**6))
    should_stop = (lambda: next(looks) >= stop_after) if stop_after is not None else (lambda: False)
    return Trainer(config, ranks, CPU, report=lambda metrics: None, should_stop=should_stop)


def first_steps(ranks: RankInfo, config: TrainConfig, num_steps: int) -> tuple[list[int], list[torch.Tensor], torch.Tensor]:
    """Number of nodes of this process in each of the first steps, the gradients of each step, and the weights after them."""
    run = trainer(config, ranks)
    num_nodes, gradients = [], []
    for batch in islice(run.streams["train"], num_steps):
        num_nodes.append(batch.num_nodes)
        run._step(batch)
        gradients.append(torch.cat([p.grad.flatten() for p in run.model.parameters()]))
    return num_nodes, gradients, torch.cat([p.detach().flatten() for p in run.model.parameters()])


@pytest.mark.parametrize("overrides", CASES.values(), ids=CASES)
def test_processes_make_the_steps_of_one(
    toy_dataset: Manifest, tmp_path: Path, pool: ProcessPoolExecutor, overrides: list[str]
) -> None:
    config = configure(toy_dataset, tmp_path, *overrides)
    nodes, gradients, weights = first_steps(SINGLE, config, 5)
    for world_size in (2, 4):
        found = on_ranks(pool, world_size, tmp_path, first_steps, config, 5)
        shares = [[part[0][step] for part in found] for step in range(5)]
        assert [sum(share) for share in shares] == nodes
        assert all(len(set(share)) > 1 for share in shares), "the shares are meant to be uneven"
        for part in found:
            deviations = [(ours - theirs).norm() / ours.norm() for ours, theirs in zip(gradients, part[1], strict=True)]
            assert deviations[0] < 1e-5
            assert max(deviations) < 1e-3, "rounding grows from step to step where Adam divides small numbers by small numbers"
            torch.testing.assert_close(part[2], weights, rtol=1e-4, atol=1e-4)
            assert torch.equal(part[2], found[0][2])


def fit(ranks: RankInfo, config: TrainConfig, stop_after: int | None = None) -> str:
    try:
        trainer(config, ranks, stop_after).fit()
    except Interrupted as interruption:
        return str(interruption)
    return "completed"


def test_another_number_of_processes_goes_on_where_one_was_stopped(
    toy_dataset: Manifest, tmp_path: Path, pool: ProcessPoolExecutor
) -> None:
    options = ["ema_decay=0.9", "schedule.name=plateau", "weighting=event"]
    assert fit(SINGLE, configure(toy_dataset, tmp_path / "whole", *options)) == "completed"
    config = configure(toy_dataset, tmp_path / "parts", *options)
    assert "epoch 1 after step 1 of 33" in fit(SINGLE, config, 0)
    assert len(set(on_ranks(pool, 4, tmp_path, fit, config, 4))) == 1
    assert on_ranks(pool, 2, tmp_path, fit, config) == ["completed"] * 2
    whole, parts = (read_rows(tmp_path / name / "history.jsonl") for name in ("whole", "parts"))
    for ours, theirs in zip(whole, parts, strict=True):
        for name in ("train_loss", "val_loss", "val_mean_resolution"):
            assert theirs[name] == pytest.approx(ours[name], rel=1e-3)


def spoil(ranks: RankInfo, config: TrainConfig, rank: int, step: int) -> str:
    """Spoil the true energy of the eighth jet of one process in one step; return the error."""
    run = trainer(config, ranks)
    original = run._step

    def step_of_a_bad_jet(batch: Any) -> torch.Tensor:
        if ranks.world_rank == rank and run.streams["train"].step == step:
            batch.targets["true_energy"][7] = torch.nan
        return original(batch)

    run._step = step_of_a_bad_jet
    try:
        run.fit()
    except NonFiniteError as error:
        return str(error)
    raise AssertionError("the run was not stopped")


def test_all_processes_stop_with_the_jet_that_was_not_finite(
    toy_dataset: Manifest, tmp_path: Path, pool: ProcessPoolExecutor
) -> None:
    config = configure(toy_dataset, tmp_path)
    found = on_ranks(pool, 2, tmp_path, spoil, config, 1, 13)
    jets = on_ranks(pool, 2, tmp_path, identify, config, 13)
    what = f"the loss of 1 of {len(jets[0]) + len(jets[1])} jets is not finite"
    assert (
        found == [f"{what} in epoch 1, step 13 of 33 of the train split ({jets[1][7]}); look at these jets in the dataset"] * 2
    )


def identify(ranks: RankInfo, config: TrainConfig, step: int) -> list[str]:
    """Name the jets of this process in a step of the first epoch, from the stream alone."""
    names = ("sample", "run", "event", "jet_index")
    settings = StreamConfig(batch_size=config.batch_size, row_columns=names, **config.stream.model_dump())
    stream = JetStream(Manifest.load(config.dataset), "train", settings, seed=config.seed, ranks=ranks)
    rows = next(islice(stream, step - 1, None)).rows
    return [", ".join(f"{name} {rows[name][row]}" for name in names) for row in range(len(rows["run"]))]


def gathered(ranks: RankInfo) -> tuple[list[int], list[float]]:
    return parallel.gather(ranks.world_rank, ranks), parallel.largest([ranks.world_rank, -1.0], CPU, ranks)


def test_every_process_learns_what_all_say(tmp_path: Path, pool: ProcessPoolExecutor) -> None:
    assert on_ranks(pool, 3, tmp_path, gathered) == [([0, 1, 2], [2.0, -1.0])] * 3


def wrap_with_batch_norm(ranks: RankInfo) -> tuple[bool, list[str]]:
    """Normalise a share with a batch norm; return whether the moments are those of all, and what was logged."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("distjet.training.parallel").addHandler(handler)
    model = parallel.wrap(torch.nn.BatchNorm1d(1, momentum=1.0), ranks)
    model(torch.tensor([[0.0], [2.0]]) + 10 * ranks.world_rank)
    return model.module.running_mean.item() == 6.0, lines


def buffers_of_the_validation(ranks: RankInfo, config: TrainConfig) -> list[torch.Tensor]:
    """Train; return what the model that was validated keeps beside its parameters."""
    run = trainer(config, ranks)
    run.fit()
    return list(run.model.buffers() if run.averaged is None else run.averaged.module.buffers())


@pytest.mark.parametrize("ema_decay", [0, 0.9])
def test_all_processes_validate_the_same_batch_norm(
    toy_dataset: Manifest, tmp_path: Path, pool: ProcessPoolExecutor, ema_decay: float
) -> None:
    network = (
        "model={name: pyg, network: 'torch_geometric.nn:GraphSAGE', inputs: [x, edge_index], "
        "arguments: {hidden_channels: 16, num_layers: 2, norm: batch_norm}}"
    )
    overrides = [*FAST, network, "num_epochs=1", f"ema_decay={ema_decay}"]
    config = load(TrainConfig, [], [f"dataset={toy_dataset.path}", f"output={tmp_path}", *overrides])
    ours, theirs = on_ranks(pool, 2, tmp_path, buffers_of_the_validation, config)
    assert len(ours) > 4
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_batch_norm_sees_the_share_of_one_worker_which_is_said(tmp_path: Path, pool: ProcessPoolExecutor) -> None:
    (main_is_of_all, said), (other_is_of_all, silent) = on_ranks(pool, 2, tmp_path, wrap_with_batch_norm)
    assert not main_is_of_all
    assert not other_is_of_all
    assert len(said) == 1
    assert "2 workers do not train as one does" in said[0]
    assert silent == []
