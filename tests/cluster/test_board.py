"""Many runs in one table, and one line for each that ended."""

import io
import logging
import time
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from distjet.cluster.board import Board
from distjet.config import load
from distjet.run_directory import write_json
from distjet.training.progress import PROGRESS_FILE, Progress
from distjet.training.settings import TrainConfig

MOMENT = Progress(
    epoch=2,
    num_epochs=5,
    step=30,
    num_steps=40,
    batch_size=64,
    graphs_per_s=1234.4,
    learning_rate=1e-3,
    loss=0.5,
    best=0.1,
    metric="val_loss",
    seconds_left=10.0,
    stall_fraction=0.0,
    gpu_memory_gib=None,
    gpu_utilisation=None,
    updated_s=0.0,
)


def board_with_two_runs(folder: Path, sign: int = 1) -> Board:
    board = Board("trial", 9, "val_loss", sign, lambda number: f"optimizer.lr={number + 1}e-3")
    for number in (0, 1):
        config = load(TrainConfig, [], [f"output={folder / str(number)}", "dataset=/tmp/d", "num_epochs=5"])
        board.start(number, config)
    write_json(folder / "1" / PROGRESS_FILE, asdict(MOMENT))
    return board


def drawn(board: Board) -> str:
    out = io.StringIO()
    Console(file=out, width=140).print(board.table())
    return out.getvalue()


@pytest.mark.parametrize(("sign", "best"), [(1, "0.25"), (-1, "0.5")])
def test_the_table_has_a_line_for_each_run_that_is_under_way(tmp_path: Path, sign: int, best: str) -> None:
    board = board_with_two_runs(tmp_path, sign)
    board.epoch(1, {"epoch": 1, "val_loss": 0.5})
    board.epoch(1, {"epoch": 2, "val_loss": 0.25})
    board.epoch(1, {"epoch": 3, "val_loss": 0.3})
    lines = drawn(board).splitlines()
    assert [word for word in lines[3].split() if word != "│"] == ["1", "3/5", "30/40", "1234", "0.3", best, "optimizer.lr=2e-3"]
    board.end(1, "pruned")
    assert "0/5" in drawn(board)
    assert "3/5" not in drawn(board)
    assert "1/9: 1 pruned" in drawn(board)


def test_a_log_has_one_line_for_each_epoch_and_each_ending(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "distjet")
    board = board_with_two_runs(tmp_path)
    caplog.clear()
    board.epoch(0, {"epoch": 1, "val_loss": 0.5})
    board.end(0, "out_of_memory", "batch_size is too large")
    board.shows_epochs = False
    board.epoch(1, {"epoch": 1, "val_loss": 0.5})
    assert [record.getMessage() for record in caplog.records] == [
        "trial 0: epoch 1/5  val_loss 0.5 (best 0.5)",
        "trial 0: out_of_memory after epoch 1  val_loss 0.5 (best 0.5)  (1/9: 1 out_of_memory): batch_size is too large",
    ]


def test_on_a_terminal_the_table_is_live(tmp_path: Path) -> None:
    board = board_with_two_runs(tmp_path)
    out = io.StringIO()
    board.console = Console(file=out, force_terminal=True, width=140)
    with board.shown():
        assert not board.shows_epochs
        time.sleep(0.8)
    assert "30/40" in out.getvalue()
