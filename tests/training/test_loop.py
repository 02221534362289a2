"""The loop in one process: it learns, it selects, and an interruption changes nothing."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.errors import NonFiniteError, UserError
from distjet.ranks import SINGLE
from distjet.run_directory import read_json
from distjet.training.checkpoint import CheckpointStore, decode
from distjet.training.history import SPEED_KEYS, read_rows
from distjet.training.loop import Interrupted, Trainer
from distjet.training.settings import TrainConfig

SMALL_MODEL = "model={width: 16, num_blocks: 1, num_heads: 2, graph_width: 8}"
FAST = [
    "num_epochs=3",
    "batch_size=64",
    "closure={energy_edges_gev: [20, 60, 400], abs_eta_edges: [0, 2.5], min_entries: 30}",
]


def trainer(
    manifest: Manifest, output: Path, *overrides: str, model: str = SMALL_MODEL, stop_after: int | None = None
) -> Trainer:
    settings = load(TrainConfig, [], [f"dataset={manifest.path}", f"output={output}", *FAST, *with_model(model, overrides)])
    looks = iter(range(10**6))
    should_stop = (lambda: next(looks) >= stop_after) if stop_after is not None else (lambda: False)
    return Trainer(settings, SINGLE, torch.device("cpu"), report=lambda metrics: None, should_stop=should_stop)


def with_model(model: str, overrides: Sequence[str]) -> list[str]:
    """Add a model where none is named."""
    return [*overrides] if any(override.startswith("model={name") for override in overrides) else [model, *overrides]


def best_weights(output: Path) -> dict[str, torch.Tensor]:
    best_epoch = read_json(output / "metrics.json")["best_epoch"]
    return CheckpointStore(output / "checkpoints").best(best_epoch - 1)["model"]


def test_it_learns_the_response_of_the_toy(toy_dataset: Manifest, tmp_path: Path) -> None:
    run = trainer(toy_dataset, tmp_path, "num_epochs=8", "optimizer.lr=5e-3")
    metrics = run.fit()
    rows = read_rows(tmp_path / "history.jsonl")
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]
    assert metrics["best"]["val_mean_abs_bias"] < 0.03
    assert metrics["best"]["val_mean_resolution"] < 0.08  # a constant factor leaves 0.11
    assert metrics["best"]["val_mean_abs_bias"] == min(row["val_mean_abs_bias"] for row in rows)
    assert (tmp_path / "metrics.json").is_file()
    assert list((tmp_path / "tensorboard").glob("events*"))


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["ema_decay=0.9", "schedule.name=one_cycle", "max_nodes=1500"],
        ["schedule={name: plateau, plateau_patience: 0}", "selection.patience=2", "num_epochs=9", "optimizer.lr=0.2"],
        ["model={name: mixture_density, hidden: [16]}", "loss={energy: {name: mdn}, rapidity: null}"],
        [
            *("model={name: response_dnn, hidden: [16, 16]}", "model.inputs=[jet_energy, mu]"),
            *(
                "loss={energy: {name: lgk, leaky_fraction: 0.5}, rapidity: null}",
                "schedule={name: plateau, plateau_metric: loss}",
            ),
        ],
    ],
    ids=["plain", "averaged", "stops_early", "density", "response"],
)
def test_an_interrupted_run_equals_an_uninterrupted_one_to_the_last_bit(
    toy_dataset: Manifest, tmp_path: Path, options: list[str]
) -> None:
    whole = trainer(toy_dataset, tmp_path / "whole", *options).fit()
    for place in PLACES:
        with pytest.raises(Interrupted):
            until(place, trainer(toy_dataset, tmp_path / "parts", *options)).fit()
    parts = trainer(toy_dataset, tmp_path / "parts", *options).fit()
    expected, found = best_weights(tmp_path / "whole"), best_weights(tmp_path / "parts")
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    newest = [decode(CheckpointStore(tmp_path / name / "checkpoints").newest()) for name in ("whole", "parts")]
    assert_same(*[{**state, "seconds": 0} for state in newest])
    rows = [[timeless(row) for row in read_rows(tmp_path / name / "history.jsonl")] for name in ("whole", "parts")]
    assert rows[0] == rows[1]
    rates = [row.get("jets_per_s") for row in read_rows(tmp_path / "parts" / "history.jsonl")]
    assert rates == [None] * 3 + rates[3:], "each of the first three was stopped in its validation"
    assert all(rate is None or rate > 0 for rate in rates)
    assert (parts["best_epoch"], parts["num_epochs"]) == (whole["best_epoch"], whole["num_epochs"])
    assert whole["num_epochs"] == 3 or "num_epochs=9" in options
    assert whole["num_epochs"] < 9, "this is to stop early"


PLACES = [
    (1, 1, "makes a step"), (1, 8, "makes a step"), (1, 1, "validates"), (2, 9, "makes a step"), (2, 1, "validates"),
    (3, 1, "makes a step"), (3, 1, "validates"),
]  # fmt: skip


def until(place: tuple[int, int, str], run: Trainer) -> Trainer:
    """Let a training be interrupted at its first look after a place."""
    here = [(0, 0, "")]
    run.at = lambda *now: here.append(now)
    run.should_stop = lambda: here[-1][2] == place[2] and here[-1][:2] >= place[:2]
    return run


def timeless(row: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in row.items() if name not in SPEED_KEYS}


def assert_same(ours: Any, theirs: Any) -> None:
    """Two nested states are equal to the last bit."""
    assert type(ours) is type(theirs)
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs)
    elif isinstance(ours, dict):
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert_same(ours[name], theirs[name])
    elif isinstance(ours, list):
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b)
    else:
        assert ours == theirs


def test_training_stops_when_patience_is_over(toy_dataset: Manifest, tmp_path: Path) -> None:
    metrics = trainer(toy_dataset, tmp_path, "num_epochs=50", "optimizer.lr=1e-12", "selection.patience=2").fit()
    assert metrics["num_epochs"] == metrics["best_epoch"] + 2 < 50


def test_a_loss_that_is_not_finite_stops_the_run_with_its_place(toy_dataset: Manifest, tmp_path: Path) -> None:
    run = trainer(toy_dataset, tmp_path)
    with torch.no_grad():
        run.model.network.read_out[-1].bias.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match=r"of 63 of 63 jets is not finite in epoch 1, step 1 of 33 .*lower optimizer.lr"):
        run.fit()


def with_weights_times(factor: float, run: Trainer, steps: range) -> Trainer:
    """Multiply the weights of all jets in some steps of each epoch."""
    step = run._step

    def reweighted(batch):
        if run.streams["train"].step in steps:
            batch.weight.mul_(factor)
        return step(batch)

    run._step = reweighted
    return run


def test_a_step_in_which_no_jet_counts_teaches_nothing(toy_dataset: Manifest, tmp_path: Path) -> None:
    run = with_weights_times(0.0, trainer(toy_dataset, tmp_path, "num_epochs=1", "weighting=event"), range(1, 3))
    run._step(next(iter(run.streams["train"])))
    assert all(not p.grad.any() for p in run.model.parameters())
    metrics = with_weights_times(0.0, trainer(toy_dataset, tmp_path, "num_epochs=1", "weighting=event"), range(1, 3)).fit()
    assert math.isfinite(metrics["last"]["train_loss"])


def test_jets_that_never_count_are_a_problem_of_the_user(toy_dataset: Manifest, tmp_path: Path) -> None:
    run = with_weights_times(0.0, trainer(toy_dataset, tmp_path, "weighting=event"), range(1, 1000))
    with pytest.raises(UserError, match="jets of the train split sum to zero: choose another weighting"):
        run.fit()


def test_weights_that_turn_the_gradient_around_are_named(toy_dataset: Manifest, tmp_path: Path) -> None:
    run = with_weights_times(-1.0, trainer(toy_dataset, tmp_path, "weighting=event"), range(1, 1000))
    with torch.no_grad():
        run.model.network.read_out[-1].bias.fill_(torch.nan)
    with pytest.raises(NonFiniteError, match=r"sum to less than zero in 1 of the last 1 steps.*choose another weighting"):
        run.fit()


def test_weights_that_are_not_finite_are_never_saved(toy_dataset: Manifest, tmp_path: Path) -> None:
    run = trainer(toy_dataset, tmp_path)
    step, last = run._step, len(run.streams["train"])

    def spoil(batch):
        sums = step(batch)
        if run.streams["train"].step == last:
            run.model.network.read_out[-1].bias.data.fill_(torch.nan)
        return sums

    run._step = spoil
    with pytest.raises(NonFiniteError, match="not finite"):
        run.fit()
    assert run.store.newest() is None
    assert not read_rows(tmp_path / "history.jsonl")


def test_a_crash_between_the_best_model_and_the_checkpoint_leaves_the_best_of_the_finished_run(
    toy_dataset: Manifest, tmp_path: Path
) -> None:
    run = trainer(toy_dataset, tmp_path / "run")
    save, calls = run.store.save, []

    def crash_in_the_second_epoch(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return save(*arguments)

    object.__setattr__(run.store, "save", crash_in_the_second_epoch)
    with pytest.raises(KeyboardInterrupt):
        run.fit()
    metrics = trainer(toy_dataset, tmp_path / "run").fit()
    best = run.store.best(metrics["best_epoch"] - 1)
    assert best["epoch"] == metrics["best_epoch"] - 1
    named = {f"best-{read_json(path)['best_epoch']:04d}" for path in (tmp_path / "run/checkpoints").glob("epoch-*.json")}
    assert {path.stem for path in (tmp_path / "run/checkpoints").glob("best-*.pt")} == named


def test_time_spent_before_an_interruption_counts(toy_dataset: Manifest, tmp_path: Path) -> None:
    run = trainer(toy_dataset, tmp_path, stop_after=1)
    with pytest.raises(Interrupted):
        run.fit()
    assert decode(run.store.newest())["seconds"] > 0


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_network_gives_the_same_training(toy_dataset: Manifest, tmp_path: Path) -> None:
    plain = trainer(toy_dataset, tmp_path / "plain", "num_epochs=1").fit()
    compiled = trainer(toy_dataset, tmp_path / "compiled", "num_epochs=1", "compile=true").fit()
    assert compiled["last"]["val_loss"] == pytest.approx(plain["last"]["val_loss"], rel=1e-4)


@pytest.mark.parametrize(
    "model",
    [
        (
            "model={name: pyg, network: 'torch_geometric.nn:GAT', inputs: [x, edge_index, edge_attr], "
            "arguments: {hidden_channels: 16, num_layers: 2, heads: 2, v2: true}}"
        ),
        "model={name: pyg, network: 'tests.models.pyg_networks:TransformerStack', inputs: [data]}",
    ],
    ids=["GATv2Conv", "TransformerConv"],
)
def test_networks_of_torch_geometric_train_by_their_import_path(toy_dataset: Manifest, tmp_path: Path, model: str) -> None:
    metrics = trainer(toy_dataset, tmp_path, "num_epochs=6", "optimizer.lr=1e-2", model=model).fit()
    assert metrics["best"]["val_mean_abs_bias"] < 0.06
    assert metrics["last"]["train_loss"] < read_rows(tmp_path / "history.jsonl")[0]["train_loss"]


def test_bfloat16_trains(toy_dataset: Manifest, tmp_path: Path) -> None:
    metrics = trainer(toy_dataset, tmp_path, "num_epochs=2", "precision=bfloat16").fit()
    assert metrics["last"]["train_loss"] < read_rows(tmp_path / "history.jsonl")[0]["train_loss"]


DNN = "model={name: response_dnn, hidden: [32, 32, 32]}"
MAE = "loss={energy: {name: mae}, rapidity: null}"


@pytest.mark.parametrize(
    "options",
    [
        [DNN, MAE, "model.inputs=[log_jet_energy, axis_eta, rho]"],
        ["model={name: mixture_density, hidden: [32, 32]}", "loss={energy: {name: mdn}, rapidity: null}"],
        ["model={name: gaussian_response, hidden: [32, 32]}", "loss={energy: {name: gnll}, rapidity: null}"],
        ["model={name: quantile_regression, hidden: [32, 32]}", "loss={energy: {name: quantile}, rapidity: null}"],
    ],
    ids=["response_dnn", "mixture_density", "gaussian_response", "quantile_regression"],
)
def test_networks_on_whole_jets_learn_the_response(toy_dataset: Manifest, tmp_path: Path, options: list[str]) -> None:
    metrics = trainer(toy_dataset, tmp_path, "num_epochs=10", "optimizer.lr=5e-3", *options).fit()
    assert metrics["best"]["val_mean_abs_bias"] < 0.04
    assert metrics["best"]["val_bounded_fraction"] == 0
    assert metrics["last"]["train_loss"] < read_rows(tmp_path / "history.jsonl")[0]["train_loss"]


def test_a_dead_output_ends_the_training_with_its_name(toy_dataset: Manifest, tmp_path: Path) -> None:
    run = trainer(toy_dataset, tmp_path, DNN, MAE)
    torch.nn.init.constant_(run.model.network.layers[-1].bias, -100.0)
    with pytest.raises(
        NonFiniteError, match=r"the output of the network is dead: .*another seed, a lower optimizer.lr, or model.out"
    ):
        run.fit()


def test_the_leak_ends_where_the_second_phase_begins(toy_dataset: Manifest, tmp_path: Path) -> None:
    """With all residuals far outside of the kernel the loss is the leak alone: in the second phase nothing is left of it."""
    far = "loss={energy: {name: lgk, bandwidth: 1.0e-7, leak: 1.0, leaky_fraction: 0.5}, rapidity: null}"
    trainer(toy_dataset, tmp_path, "num_epochs=4", "optimizer.lr=1e-12", "model={name: response_dnn}", far).fit()
    losses = [row["val_loss"] for row in read_rows(tmp_path / "history.jsonl")]
    assert min(losses[:2]) > 0.05
    assert max(losses[2:]) < 1e-3


@pytest.mark.gpu
def test_the_gpu_gives_what_the_cpu_gives(toy_dataset: Manifest, tmp_path: Path) -> None:
    on_cpu = trainer(toy_dataset, tmp_path / "cpu", "num_epochs=1").fit()
    settings = trainer(toy_dataset, tmp_path / "gpu", "num_epochs=1").config
    on_gpu = Trainer(settings, SINGLE, torch.device("cuda", 0), lambda metrics: None, lambda: False).fit()
    assert on_gpu["last"]["val_loss"] == pytest.approx(on_cpu["last"]["val_loss"], rel=1e-3)


@pytest.mark.gpu
def test_a_step_does_not_wait_for_the_gpu(toy_dataset: Manifest, tmp_path: Path) -> None:
    everything = ["num_epochs=1", "loss.mass.weight=1", "ema_decay=0.9", "precision=bfloat16"]
    settings = trainer(toy_dataset, tmp_path, *everything).config
    run = Trainer(settings, SINGLE, torch.device("cuda", 0), lambda metrics: None, lambda: False)
    batches = [batch.to(run.device) for batch in run.streams["train"]]
    run._step(batches[0])
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches[1:4]:
            run._step(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(run._step(batches[0])).all()
