"""What a user sees of a training: the same facts in a line on a terminal and in a log, and for how long nothing moved."""

import logging
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from distjet.cluster import display
from distjet.cluster.deaths import DEATHS_FILE, add_death, read_deaths
from distjet.cluster.display import Watched, epoch_line, show, step_line
from distjet.run_directory import write_json
from distjet.training.history import HISTORY_FILE, History
from distjet.training.progress import PROGRESS_FILE, Progress, read_progress
from tests.conftest import PROJECT
from tests.training.test_loop import FAST, SMALL_MODEL

MOMENT = Progress(
    epoch=3,
    num_epochs=20,
    step=120,
    num_steps=500,
    batch_size=512,
    graphs_per_s=41200.4,
    learning_rate=1.9e-3,
    loss=0.12345,
    best=0.0123,
    metric="mean_abs_bias",
    seconds_left=3725.0,
    stall_fraction=0.034,
    gpu_memory_gib=3.14,
    gpu_utilisation=0.87,
    updated_s=1.8e9,
)
ROW = {
    "epoch": 1,
    "train_loss": 0.5,
    "val_loss": 0.6,
    "val_mean_abs_bias": 0.0123,
    "val_max_abs_bias": 0.03,
    "val_mean_resolution": 0.1,
    "val_num_bins": 4,
    "epoch_seconds": 12.0,
    "jets_per_s": 1000.0,
}


def write(run: Path, moment: Progress) -> None:
    write_json(run / PROGRESS_FILE, asdict(moment))


def test_the_line_says_rate_remaining_time_loss_physics_gpu_and_stall() -> None:
    assert step_line(MOMENT) == (
        "epoch 3/20  step 120/500  1:02:05 left  41200 jets/s  loss 0.1235  best mean_abs_bias 0.0123  "
        "waited for data 3 %  GPU 3.1 GiB 87 %  lr 1.9e-03"
    )
    on_cpu = step_line(replace(MOMENT, step=500, best=None, gpu_memory_gib=None, gpu_utilisation=None))
    assert on_cpu.startswith("epoch 3/20  validating")
    assert "GPU" not in on_cpu
    assert "best" not in on_cpu
    assert "GPU 3.1 GiB  lr" in step_line(replace(MOMENT, gpu_utilisation=None))


def test_an_epoch_that_was_stopped_after_its_last_step_has_no_rate() -> None:
    assert epoch_line(ROW).endswith("12.0 s  1000 jets/s")
    assert epoch_line({name: value for name, value in ROW.items() if name != "jets_per_s"}).endswith("12.0 s")


def test_what_an_interrupted_part_left_behind_is_not_shown_as_news(tmp_path: Path) -> None:
    now = 100.0
    write(tmp_path, MOMENT)
    History(tmp_path).append(ROW)
    add_death(tmp_path, 1, "was lost long ago")
    watched = Watched(tmp_path, clock=lambda: now)
    now += 7
    assert watched.line() == "starting  0:00:07"
    assert watched.news() == []
    write(tmp_path, replace(MOMENT, step=140))
    assert watched.line().startswith("epoch 3/20  step 140/500")
    now += 45
    assert watched.line().endswith("no news for 0:00:45")
    add_death(tmp_path, 0, "was told to go")
    History(tmp_path).append(ROW | {"epoch": 2})
    epoch, death = watched.news()
    assert epoch.startswith("epoch   2  loss 0.5000 (val 0.6000)  closure mean 1.23 %")
    assert "worker 0" in death
    assert watched.news() == []


def test_a_log_gets_a_line_for_each_epoch_and_now_and_then_one_in_between(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(display, "LOG_INTERVAL_S", 0.1)
    with caplog.at_level(logging.INFO, logger="distjet.cluster.display"), show(tmp_path):
        write(tmp_path, MOMENT)
        deadline = time.monotonic() + 20
        while not caplog.records and time.monotonic() < deadline:
            time.sleep(0.05)
        History(tmp_path).append(ROW)
    messages = [record.message for record in caplog.records]
    assert messages[0] == step_line(MOMENT)
    assert messages[-1].startswith("epoch   1  loss 0.5000")


def test_progress_of_another_version_or_of_none_is_absent(tmp_path: Path) -> None:
    assert read_progress(tmp_path) is None
    write_json(tmp_path / PROGRESS_FILE, {"epoch": 1})
    assert read_progress(tmp_path) is None
    write(tmp_path, MOMENT)
    assert read_progress(tmp_path) == MOMENT


def test_deaths_are_kept_in_order_with_process_and_machine(tmp_path: Path) -> None:
    assert read_deaths(tmp_path) == []
    add_death(tmp_path, 3, "made no step")
    add_death(tmp_path, 1, "was told to go")
    assert [death.world_rank for death in read_deaths(tmp_path)] == [3, 1]
    assert all(" on " in death.lines()[0] for death in read_deaths(tmp_path))
    assert (tmp_path / DEATHS_FILE).is_file()


@pytest.mark.slow
def test_a_log_holds_our_lines_alone(toy_dataset, tmp_path: Path) -> None:
    places = [f"dataset={toy_dataset.path}", f"output={tmp_path}/run", "resources.num_workers=0"]
    command = [sys.executable, "-m", "distjet", "train", *places, *FAST, SMALL_MODEL]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True, timeout=200)
    assert done.stdout == ""
    *epochs, best = [line.split(" ", 1)[1] for line in done.stderr.splitlines()]
    assert [line[:9] for line in epochs] == ["epoch   1", "epoch   2", "epoch   3"]
    assert best.startswith("best epoch ")
    assert len((tmp_path / "run" / HISTORY_FILE).read_text().splitlines()) == 3
    moment = read_progress(tmp_path / "run")
    assert moment is not None
    assert (moment.epoch, moment.step) == (3, moment.num_steps)
    assert 0 <= moment.stall_fraction < 1
