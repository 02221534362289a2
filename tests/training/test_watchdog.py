"""Which worker hangs: real processes that stand still, in their code or as a whole."""

import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch.distributed as dist

from distjet.ranks import SINGLE, RankInfo
from distjet.training.watchdog import Watchdog
from tests.training.ranks import on_ranks

PATIENCE_S = 0.8


def work(ranks: RankInfo, folder: Path, hanging: int, stops: bool) -> list[str]:
    """Make steps until one process stands still; return what the watchdog of this process said."""
    said: list[str] = []

    def on_hang(sentence: str) -> None:
        said.append(sentence)
        os.kill(int((folder / "process").read_text()), signal.SIGCONT)

    with Watchdog(ranks, PATIENCE_S, on_hang) as watchdog:
        for step in range(1, 8):
            watchdog.at(2, step, "makes a step")
            if step == 5 and ranks.world_rank == hanging:
                stand_still(folder, stops)
            dist.barrier()
            watchdog.at(2, step + 1, "waits for a batch")
    return said


def stand_still(folder: Path, stops: bool) -> None:
    (folder / "process").write_text(str(os.getpid()))
    if stops:
        subprocess.Popen(["sh", "-c", f"sleep 20; kill -CONT {os.getpid()}"])  # if nobody notices
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        time.sleep(3 * PATIENCE_S)


@pytest.mark.integration
@pytest.mark.parametrize(("hanging", "stops"), [(0, False), (1, False), (2, True)])
def test_the_worker_that_hangs_is_named_with_its_step(
    pool: ProcessPoolExecutor, tmp_path: Path, hanging: int, stops: bool
) -> None:
    said = on_ranks(pool, 3, tmp_path, work, tmp_path, hanging, stops)
    [sentence] = [sentence for part in said for sentence in part]
    process = (tmp_path / "process").read_text()
    assert f"no step for {PATIENCE_S:g} s (resources.timeout_s): worker {hanging} (host " in sentence
    assert f"process {process}) " in sentence
    assert sentence.count("worker") == 1
    assert sentence.endswith("in epoch 2, step 5") or stops, "a stopped process has told its place some time before"


@pytest.mark.integration
def test_a_main_process_that_does_not_answer_is_named(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    said = on_ranks(pool, 3, tmp_path, work, tmp_path, 0, True)
    [sentence] = [sentence for part in said for sentence in part]
    assert sentence.startswith("worker 0 has not answered for")


def outlive_the_main_process(ranks: RankInfo) -> tuple[list[str], bool]:
    """Watch on while the main process ends; return what went wrong in threads, and whether the watchdog has ended."""
    wrong: list[str] = []
    threading.excepthook = lambda arguments: wrong.append(repr(arguments.exc_value))
    try:
        with Watchdog(ranks, PATIENCE_S, wrong.append) as watchdog:
            if ranks.is_main:
                return wrong, True
            watchdog.thread.join(20 * PATIENCE_S)
            return wrong, not watchdog.thread.is_alive()
    finally:
        threading.excepthook = threading.__excepthook__


@pytest.mark.integration
def test_watching_ends_quietly_when_the_main_process_has_ended(pool: ProcessPoolExecutor, tmp_path: Path) -> None:
    assert on_ranks(pool, 2, tmp_path, outlive_the_main_process) == [([], True)] * 2


def test_a_training_that_ends_does_not_wait_for_its_watchdog() -> None:
    reported = threading.Event()

    def take_long(sentence: str) -> None:
        reported.set()
        time.sleep(10)

    with Watchdog(SINGLE, 0.2, take_long):
        assert reported.wait(5)
        started = time.monotonic()
    assert time.monotonic() - started < 3


def test_a_single_process_is_told_where_it_stands() -> None:
    said: list[str] = []
    with Watchdog(SINGLE, 0.2, said.append) as watchdog:
        watchdog.at(1, 3, "waits for a batch")
        time.sleep(0.6)
    assert len(said) == 1
    assert "worker 0" in said[0]
    assert said[0].endswith("in epoch 1, step 3")


def test_slow_steps_are_no_hang() -> None:
    said: list[str] = []
    with Watchdog(SINGLE, 0.4, said.append) as watchdog:
        for step in range(8):
            watchdog.at(1, step, "makes a step")
            time.sleep(0.1)
    assert said == []
