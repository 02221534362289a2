"""Rows of epochs: on disk for machines, in TensorBoard for people, each epoch once however often the run was interrupted."""

from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from distjet.ranks import SINGLE
from distjet.training.history import SPEED_KEYS, History, read_rows
from distjet.training.loop import Trainer
from distjet.training.progress import read_progress
from tests.training.test_loop import trainer


def drawn(events: Path, name: str) -> list[int]:
    """The steps at which TensorBoard draws a point."""
    shown = EventAccumulator(str(events)).Reload()
    return [event.step for event in shown.Scalars(name)]


def test_an_epoch_that_is_made_again_after_an_interruption_appears_once_in_tensorboard(tmp_path: Path) -> None:
    killed = History(tmp_path)
    for epoch in (1, 2, 3):
        killed.append({"epoch": epoch, "val_loss": 1.0 / epoch})
    resumed = History(tmp_path)
    resumed.forget_after(2)  # the third row was written, its checkpoint was not
    for epoch in (3, 4):
        resumed.append({"epoch": epoch, "val_loss": 0.5 / epoch})
    assert [row["epoch"] for row in read_rows(tmp_path / "history.jsonl")] == [1, 2, 3, 4]
    assert drawn(tmp_path / "tensorboard", "val_loss") == [1, 2, 3, 4]


def test_rows_of_a_process_that_outlived_its_driver_are_replaced(tmp_path: Path) -> None:
    resumed, orphan = History(tmp_path), History(tmp_path)
    resumed.append({"epoch": 1, "val_loss": 1.0})
    for epoch in (2, 3):
        orphan.append({"epoch": epoch, "val_loss": 9.0})
    resumed.append({"epoch": 2, "val_loss": 0.5})
    assert resumed.rows() == [{"epoch": 1, "val_loss": 1.0}, {"epoch": 2, "val_loss": 0.5}]
    assert resumed.of_epoch(2)["val_loss"] == 0.5


def test_tensorboard_shows_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("seed: 17\n")
    History(tmp_path).append({"epoch": 1, "val_loss": 1.0})
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    (event,) = shown.Tensors("configuration/text_summary")
    assert b"seed: 17" in event.tensor_proto.string_val[0]


def test_every_epoch_says_how_fast_it_was(toy_dataset, tmp_path: Path) -> None:
    run = trainer(toy_dataset, tmp_path, "num_epochs=2")
    assert run.ranks == SINGLE
    run.fit()
    for row in read_rows(tmp_path / "history.jsonl"):
        assert toy_dataset.num_rows("train") / row["epoch_seconds"] < row["jets_per_s"]
        assert 0 <= row["stall_fraction"] < 1
        assert {*SPEED_KEYS} - {*row} == {"gpu_memory_gib"}, "a process without a GPU has nothing to say about it"
    assert drawn(tmp_path / "tensorboard", "jets_per_s") == [1, 2]


@pytest.mark.gpu
def test_memory_and_use_of_a_gpu_are_measured(toy_dataset, tmp_path: Path) -> None:
    settings = trainer(toy_dataset, tmp_path, "num_epochs=1").config
    Trainer(settings, SINGLE, torch.device("cuda", 0), lambda metrics: None, lambda: False).fit()
    (row,) = read_rows(tmp_path / "history.jsonl")
    moment = read_progress(tmp_path)
    assert moment is not None
    assert 0 < row["gpu_memory_gib"] < 80
    assert moment.gpu_memory_gib == pytest.approx(row["gpu_memory_gib"], rel=0.5)
    assert moment.gpu_utilisation is None or 0 <= moment.gpu_utilisation <= 1
