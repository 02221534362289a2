"""A tagger is trained, selected, kept and used like everything else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import spearmanr

from distjet.cluster.ensemble import train_ensemble
from distjet.cluster.train import train
from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.stream import JetStream, StreamConfig
from distjet.errors import ConfigError, DataError
from distjet.evaluation.tagging import Scores, area_under_curve
from distjet.ranks import SINGLE
from distjet.training.history import read_rows
from distjet.training.inference import load_predictor
from distjet.training.loop import Interrupted, Trainer
from distjet.training.prediction_table import write_predictions
from distjet.training.settings import TrainConfig
from distjet.training.task import build_task
from tests.conftest import make_dataset

MODEL = "model={name: 'tests.taggers:DeepSets'}"
FAST = ["num_epochs=4", "batch_size=128", "optimizer.lr=1e-2", "resources.num_workers=0"]


def configure(manifest: Manifest, output: Path, *overrides: str) -> TrainConfig:
    return load(TrainConfig, [], [f"dataset={manifest.path}", f"output={output}", MODEL, *FAST, *overrides])


@pytest.fixture(scope="module")
def run(labelled_dataset: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("tagger") / "train"
    train(configure(labelled_dataset, output))
    return output


def test_it_learns_the_classes_of_the_toy_and_keeps_the_best_epoch(run: Path) -> None:
    rows = read_rows(run / "history.jsonl")
    metrics = json.loads((run / "metrics.json").read_text())
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]
    assert metrics["selection_metric"] == "auc"
    assert metrics["best"]["val_auc"] == max(row["val_auc"] for row in rows) > 0.95
    assert 0.85 < metrics["best"]["val_accuracy"] < 1
    assert metrics["best"]["val_rejection_30"] >= metrics["best"]["val_rejection_50"] > 10


def test_the_table_of_scores_holds_every_jet_once_and_says_what_the_validation_said(
    labelled_dataset: Manifest, run: Path, tmp_path: Path
) -> None:
    table = pq.read_table(write_predictions(run, labelled_dataset.path, "val", tmp_path / "p.parquet", 100, "deep_sets"))
    assert json.loads(table.schema.metadata[b"classes"]) == ["hadronic", "electromagnetic"]
    shards = [pq.read_table(labelled_dataset.path / shard.path) for shard in labelled_dataset.shards("val")]
    for name in ("event", "jet_index", "label", "jet_mass", "weight", "mu"):
        assert np.array_equal(table[name].to_numpy(), np.concatenate([shard[name].to_numpy() for shard in shards])), name
    scores = np.stack([table[f"deep_sets_score_{name}"].to_numpy() for name in ("hadronic", "electromagnetic")])
    assert np.allclose(scores.sum(0), 1, atol=1e-6)
    label = table["label"].to_numpy()
    best = json.loads((run / "metrics.json").read_text())["best"]
    assert (scores.argmax(0) == label).mean() == pytest.approx(best["val_accuracy"], abs=1e-9)
    area = area_under_curve(Scores(scores[1].astype(float), label == 1, np.ones(len(label))))
    assert best["val_auc"] == pytest.approx(area.value, abs=1e-4)


def fit(config: TrainConfig, stop_after: int | None = None) -> dict[str, Any]:
    """Train in this process, or be interrupted at a look."""
    looks = iter(range(10**6))
    stops = (lambda: next(looks) >= stop_after) if stop_after is not None else (lambda: False)
    return Trainer(config, SINGLE, torch.device("cpu"), lambda metrics: None, stops).fit()


@pytest.mark.parametrize("penalty", [[], ["loss.decorrelation={name: adversary, variable: mu}"]], ids=["plain", "adversary"])
def test_an_interrupted_tagger_equals_an_uninterrupted_one(
    labelled_dataset: Manifest, tmp_path: Path, penalty: list[str]
) -> None:
    whole = fit(configure(labelled_dataset, tmp_path / "whole", *penalty))["last"]
    cut = configure(labelled_dataset, tmp_path / "cut", *penalty)
    with pytest.raises(Interrupted):
        fit(cut, stop_after=5)
    timings = {"epoch_seconds", "jets_per_s", "stall_fraction"}
    resumed = fit(cut)["last"]
    assert {k: v for k, v in resumed.items() if k not in timings} == {k: v for k, v in whole.items() if k not in timings}
    if penalty:
        assert whole["train_loss_decorrelation"] != 0


def test_columns_of_jets_are_read_by_name(labelled_dataset: Manifest, tmp_path: Path) -> None:
    train(configure(labelled_dataset, tmp_path, "model.jet_inputs=[jet_mass, mu, area]", "num_epochs=1"))
    predictor = load_predictor(tmp_path, labelled_dataset)
    assert predictor.row_columns == ("mu",)
    batch = next(iter(JetStream(labelled_dataset, "val", StreamConfig(row_columns=("mu",)))))
    prepared = predictor.model.on_host(batch)
    assert torch.equal(prepared.u[:, 0], batch.jet[:, 4])
    assert np.array_equal(prepared.u[:, 1].numpy(), batch.rows["mu"])
    assert prepared.x.shape == (batch.num_nodes, 2)


def test_constituents_are_cut_to_the_hardest(labelled_dataset: Manifest, tmp_path: Path) -> None:
    train(configure(labelled_dataset, tmp_path, "model.max_constituents=3", "num_epochs=1"))
    model = load_predictor(tmp_path, labelled_dataset).model
    batch = next(iter(JetStream(labelled_dataset, "val", StreamConfig())))
    prepared = model.on_host(batch)
    pt = torch.hypot(batch.p4[:, 0], batch.p4[:, 1])
    for jet in range(batch.num_graphs):
        mine = slice(int(batch.ptr[jet]), int(batch.ptr[jet + 1]))
        order = torch.argsort(pt[mine], descending=True, stable=True)[:3]
        kept = slice(int(prepared.ptr[jet]), int(prepared.ptr[jet + 1]))
        assert torch.equal(prepared.p4[kept], batch.p4[mine][order])
        assert torch.equal(prepared.x[kept], batch.x[mine][order][:, model.node_places])


def test_mistakes_are_named(labelled_dataset: Manifest, toy_dataset: Manifest, run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no labels"):
        train(configure(toy_dataset, tmp_path / "a"))
    with pytest.raises(ConfigError, match=r"unknown column 'em_fractoin', did you mean 'em_fraction'"):
        train(configure(labelled_dataset, tmp_path / "b", "model.inputs=[em_fractoin]"))
    with pytest.raises(ConfigError, match=r"a tagger has no use for loss.energy"):
        configure(labelled_dataset, tmp_path / "c", "loss.energy={name: mse}")
    with pytest.raises(ConfigError, match=r"selection.metric='mean_abs_bias' is not known of a tagger"):
        configure(labelled_dataset, tmp_path / "d", "selection.metric=mean_abs_bias")
    with pytest.raises(ConfigError, match=r"a tagger needs loss.label, and nothing else"):
        load(TrainConfig, [], ["dataset=a", "output=b", "loss.label={name: cross_entropy}"])
    with pytest.raises(DataError, match="has other features than"):
        write_predictions(run, toy_dataset.path, "val", tmp_path / "p.parquet")


def test_jets_are_changed_while_a_tagger_learns_and_not_when_it_is_used(labelled_dataset: Manifest, tmp_path: Path) -> None:
    keys = ["augmentation={input_dropout: 0.2, smear: 0.1}", "model.inputs=[em_fraction, log_pt]", "num_epochs=2"]
    whole = fit(configure(labelled_dataset, tmp_path / "whole", *keys))["last"]
    with pytest.raises(Interrupted):
        fit(configure(labelled_dataset, tmp_path / "cut", *keys), stop_after=3)
    assert fit(configure(labelled_dataset, tmp_path / "cut", *keys))["last"]["train_loss"] == whole["train_loss"]
    task = build_task(configure(labelled_dataset, tmp_path, *keys), labelled_dataset, torch.device("cpu"))
    model = task.build_model()
    batch = next(iter(JetStream(labelled_dataset, "val", StreamConfig(batch_size=400))))
    changed, same = (task.on_host(model, split)(batch) for split in ("train", "val"))
    assert torch.equal(same.p4, batch.p4)
    assert 0.75 < changed.num_nodes / batch.num_nodes < 0.95  # the hardest constituent always stays
    assert (changed.ptr.diff() >= 1).all()
    log_pt = torch.hypot(changed.p4[:, 0], changed.p4[:, 1]).log()
    assert torch.allclose(changed.x[:, 1], log_pt, atol=1e-5)
    assert set(changed.x[:, 0].tolist()) <= set(batch.x[:, labelled_dataset.names("node").index("em_fraction")].tolist())


def scores_of(run: Path, manifest: Manifest, name: str) -> np.ndarray:
    """Score of the second class of each validation jet."""
    table = pq.read_table(write_predictions(run, manifest.path, "val", run.parent / f"{name}.parquet", method=name))
    return table[f"{name}_score_electromagnetic"].to_numpy()


def test_an_ensemble_is_the_mean_of_its_members_with_their_spread(labelled_dataset: Manifest, tmp_path: Path) -> None:
    config = configure(labelled_dataset, tmp_path / "run", "ensemble={num_members: 3, max_concurrent: 0}", "num_epochs=2")
    train_ensemble(config)
    path = write_predictions(tmp_path / "run", labelled_dataset.path, "val", tmp_path / "p.parquet", method="mean")
    table = pq.read_table(path)
    members = [scores_of(tmp_path / f"run/members/0{n}", labelled_dataset, f"member_{n}") for n in range(3)]
    assert not np.allclose(members[0], members[1], atol=1e-3)
    assert np.allclose(table["mean_score_electromagnetic"], np.mean(members, axis=0), atol=1e-6)
    assert np.allclose(table["mean_score_electromagnetic_spread"], np.std(members, axis=0, ddof=1), atol=1e-6)


def test_members_that_train_together_are_those_that_train_alone_on_the_same_batches(
    labelled_dataset: Manifest, tmp_path: Path
) -> None:
    """Member 0 has the seed of the run, and so sees the batches of a run with this seed alone."""
    keys = ["num_epochs=2", "optimizer={name: adam, lr: 1e-2, clip_norm: 0.3}", "selection.metric=last"]
    train(configure(labelled_dataset, tmp_path / "alone/run", *keys))
    train(configure(labelled_dataset, tmp_path / "both/run", *keys, "ensemble={num_members: 3, together: true}"))
    model = load_predictor(tmp_path / "both/run", labelled_dataset).model
    batch = model.on_host(next(iter(JetStream(labelled_dataset, "val", StreamConfig(batch_size=500)))))
    alone = load_predictor(tmp_path / "alone/run", labelled_dataset).model
    with torch.no_grad():
        tagged, expected = model(batch), alone(batch).logits
    assert tagged.members is not None
    assert tagged.members.shape == (3, batch.num_graphs, 2)
    assert torch.allclose(tagged.members[0], expected, atol=1e-4)
    assert not torch.allclose(tagged.members[1], expected, atol=1e-2)
    assert torch.allclose(tagged.scores, tagged.members.softmax(2).mean(0), atol=1e-6)


@pytest.fixture(scope="module")
def massive_dataset(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Toy jets in two classes, told apart by what they are made of and, as well, by their mass."""
    score = "sum(energy * clus_fEM) / jet_energy + 5 * jet_mass / jet_energy"
    labels = f"recipe.labels={{light: '{score} < 0.8', heavy: '{score} >= 0.8'}}"
    return make_dataset(tmp_path_factory.mktemp("massive"), 6000, "split={train: 0.7, val: 0.15}", labels, "recipe.edges=none")


@pytest.fixture(scope="module")
def dependence(massive_dataset: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[float, float]]:
    """Train with a penalty, or none; return the rank correlation of scores of light jets with the mass, and the area."""

    def measure(*keys: str) -> tuple[float, float]:
        output = tmp_path_factory.mktemp("run")
        offered = ["model.jet_inputs=[mass_over_energy]", "num_epochs=10"]
        metrics = train(configure(massive_dataset, output / "train", *offered, *keys))
        table = pq.read_table(write_predictions(output / "train", massive_dataset.path, "val", output / "p.parquet"))
        light = table["label"].to_numpy() == 0
        score, mass = (table[column].to_numpy()[light] for column in ("calibrated_score_heavy", "mass_over_energy"))
        return abs(spearmanr(score, mass).statistic), metrics["best"]["val_auc"]

    return measure


@pytest.fixture(scope="module")
def without(dependence: Callable[..., tuple[float, float]]) -> tuple[float, float]:
    """The same of a tagger that may know the mass."""
    return dependence()


@pytest.mark.parametrize(
    "penalty",
    [
        "name: disco, weight: 10",
        "name: kl, weight: 10, low: 0, high: 0.2",
        "name: adversary, weight: 10, start: 0, full: 0.1, lr_factor: 3",
    ],
    ids=lambda penalty: penalty.split(",")[0].split()[1],
)
def test_a_decorrelated_tagger_forgets_the_mass_and_keeps_what_else_it_knows(
    dependence: Callable[..., tuple[float, float]], without: tuple[float, float], penalty: str
) -> None:
    plain, area = without
    flat, area_without_mass = dependence(f"loss.decorrelation={{variable: mass_over_energy, {penalty}}}")
    assert plain > 0.3
    assert flat < 0.5 * plain
    assert 0.75 < area_without_mass < area
