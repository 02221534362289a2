"""What a caller of `train` learns while it runs: every epoch once, and why it failed."""

import resource
from pathlib import Path

import pytest
import torch

from distjet.cluster.failures import FAILURE_FILE
from distjet.cluster.train import FinishedEpochs, train
from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.errors import ConfigError, HinderedError, NonFiniteError
from distjet.run_directory import read_json
from distjet.training.constituent_task import ConstituentTask
from distjet.training.history import read_rows
from distjet.training.settings import ResourcesConfig
from tests.cluster.test_train import config

HERE = "resources.num_workers=0"


class Pruned(Exception):
    """What a sweep raises to end a trial."""


def test_every_epoch_is_reported_once_also_those_found_finished(toy_dataset: Manifest, tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []

    def stop_after_the_second(row: dict[str, float]) -> None:
        seen.append(row)
        if len(seen) == 2:
            raise Pruned

    settings = config(toy_dataset, tmp_path / "run", HERE)
    with pytest.raises(Pruned):
        train(settings, stop_after_the_second)
    assert not (tmp_path / "run" / FAILURE_FILE).exists()
    assert [row["epoch"] for row in seen] == [1, 2]

    again: list[dict[str, float]] = []
    train(settings, again.append)
    assert again == read_rows(tmp_path / "run" / "history.jsonl")
    assert [row["epoch"] for row in again] == [1, 2, 3]

    finished: list[dict[str, float]] = []
    train(settings, finished.append)
    assert finished == again


def test_a_worker_says_that_the_disk_is_full(toy_dataset: Manifest, tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))  # less than a checkpoint
    try:
        with pytest.raises(HinderedError, match="make room, and run the same command again"):
            train(config(toy_dataset, tmp_path / "run", HERE))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert read_json(tmp_path / "run" / FAILURE_FILE)["outcome"] == "hindered"


def test_an_epoch_that_is_made_again_is_not_reported_again(tmp_path: Path) -> None:
    seen: list[dict[str, float]] = []
    epochs = FinishedEpochs(tmp_path, seen.append)
    for rows in ('{"epoch": 1}\n{"epoch": 2}\n', '{"epoch": 1}\n', '{"epoch": 1}\n{"epoch": 2}\n{"epoch": 3}\n'):
        (tmp_path / "history.jsonl").write_text(rows)
        epochs.hand_over()
    assert [row["epoch"] for row in seen] == [1, 2, 3]


def test_a_failure_is_raised_as_what_it_is_and_written_down(
    toy_dataset: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = ConstituentTask.build_model

    def build_spoilt(task: ConstituentTask):
        model = build(task)
        torch.nn.init.constant_(model.network.read_out[-1].bias, torch.nan)
        return model

    monkeypatch.setattr(ConstituentTask, "build_model", build_spoilt)
    settings = config(toy_dataset, tmp_path / "run", HERE)
    with pytest.raises(NonFiniteError, match="not finite"):
        train(settings)
    failure = read_json(tmp_path / "run" / FAILURE_FILE)
    assert (failure["outcome"], failure["world_rank"]) == ("non_finite", 0)
    assert "not finite" in failure["message"]

    monkeypatch.undo()
    assert train(settings)["status"] == "completed"
    assert not (tmp_path / "run" / FAILURE_FILE).exists()


def test_workers_of_a_run_do_not_share_a_gpu() -> None:
    assert load(ResourcesConfig, [], ["gpus_per_worker=0.25", "num_workers=0"]).gpus_per_worker == 0.25
    with pytest.raises(ConfigError, match="gpus_per_worker below 1 needs num_workers 0 or 1"):
        load(ResourcesConfig, [], ["gpus_per_worker=0.5", "num_workers=2"])
