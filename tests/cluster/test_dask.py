"""Tasks on real Dask workers give what they give in one process, also when a worker is killed."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import ValidationError

from distjet.cluster.dask import FEWEST_TASKS, executor
from distjet.cluster.settings import TasksConfig
from distjet.config import load
from distjet.errors import ConfigError, MissingExtraError, UserError
from distjet.execution import in_process


@dataclass(frozen=True)
class Square:
    value: int
    flag: str = ""


def square(task: Square) -> dict[str, Any]:
    return {"square": task.value**2, "pid": os.getpid(), "environment": dict(os.environ)}


def square_and_die_once(task: Square) -> dict[str, Any]:
    if task.value == 3 and not Path(task.flag).exists():
        Path(task.flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"square": task.value**2}


def die(task: Square) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def fail_on_three(task: Square) -> dict[str, Any]:
    if task.value == 3:
        raise ValueError("three is not allowed")
    return {}


def squares(result: dict[str, Any]) -> Mapping[str, int]:
    return {"squares": 1, "sum": result["square"]}


TASKS = [Square(value) for value in range(8)]


def test_in_process_runs_in_order_in_this_process() -> None:
    results = list(in_process(square, TASKS, description="squares"))
    assert [index for index, _ in results] == list(range(8))
    assert {result["pid"] for _, result in results} == {os.getpid()}
    assert [result["square"] for _, result in results] == [v**2 for v in range(8)]


def test_in_process_runs_a_task_when_its_result_is_wanted() -> None:
    ran: list[int] = []
    results = in_process(lambda task: {"length": ran.append(task)}, range(100), description="lazy")
    assert [next(results)[0], next(results)[0]] == [0, 1]
    assert ran == [0, 1]


def test_the_progress_can_be_switched_off_in_yaml() -> None:
    assert load(TasksConfig, [], ["progress=off"]).progress == "off"


@pytest.mark.integration
def test_an_interrupt_of_the_terminal_does_not_reach_the_workers() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        check_handlers()
    finally:
        signal.signal(signal.SIGINT, before)


def check_handlers() -> None:
    with executor(TasksConfig(num_workers=1, progress="off")) as execute:
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        [(_, result)] = execute(handler_of_interrupts, [None], description="look")
    assert result == {"is_ignored": True}


def handler_of_interrupts(task: None) -> dict[str, Any]:
    del task
    return {"is_ignored": signal.getsignal(signal.SIGINT) is signal.SIG_IGN}


def test_results_are_counted_for_the_progress(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="distjet"), executor(TasksConfig(scheduler="in_process")) as execute:
        list(execute(square, TASKS, description="squares", measure=squares))
    assert "squares: 8/8 tasks, 8 squares" in caplog.text
    assert "140 sum, in 0:00:00" in caplog.text


@pytest.mark.parametrize("key", ["performance_report", "dashboard"])
def test_a_report_without_bokeh_is_refused_before_the_work(key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "bokeh", None)
    config = TasksConfig.model_validate({key: True if key == "dashboard" else tmp_path / "report.html"})
    with (
        pytest.raises(MissingExtraError, match=rf"tasks\.{key} needs bokeh: pip install 'distjet\[report\]'"),
        executor(config),
    ):
        pass


def test_what_is_of_dask_needs_dask() -> None:
    with pytest.raises(ValidationError, match="scheduler=in_process has none"):
        TasksConfig(scheduler="in_process", dashboard=True)


@pytest.mark.integration
def test_local_workers_give_the_same_results_from_other_processes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    report = tmp_path / "new" / "report.html"
    config = TasksConfig(num_workers=2, dashboard=True, performance_report=report)
    with caplog.at_level(logging.INFO, logger="distjet"), executor(config) as execute:
        results = dict(execute(square, TASKS, description="squares", measure=squares))
        assert {index: result["square"] for index, result in results.items()} == {v: v**2 for v in range(8)}
        assert os.getpid() not in {result["pid"] for result in results.values()}
        environment = results[0]["environment"]
        assert environment["OMP_NUM_THREADS"] == "1"
        assert (environment["MALLOC_TRIM_THRESHOLD_"], environment["MALLOC_MMAP_THRESHOLD_"]) == ("65536", "33554432")
        with pytest.raises(ValueError, match="three is not allowed"):
            list(execute(fail_on_three, TASKS, description="failing"))
        assert list(execute(square, [], description="nothing")) == []
    assert "Dask's dashboard: http://127.0.0.1:" in caplog.text
    assert "140 sum" in caplog.text
    assert "square" in report.read_text()


@pytest.mark.integration
def test_verbose_says_where_the_dashboard_is(caplog: pytest.LogCaptureFixture) -> None:
    for level in (logging.INFO, logging.DEBUG):
        assert "Dask's dashboard" not in caplog.text
        with caplog.at_level(level, logger="distjet"), executor(TasksConfig(num_workers=1)):
            pass
    assert "Dask's dashboard: http://127.0.0.1:" in caplog.text


@pytest.mark.integration
def test_the_scheduler_holds_few_tasks_at_a_time() -> None:
    from distributed import default_client

    with executor(TasksConfig(num_workers=2, progress="off")) as execute:
        client, held, seen = default_client(), [], []
        for index, result in execute(square, [Square(value) for value in range(400)], description="squares"):
            held.append(len(client.futures))
            seen.append(index)
            assert result["square"] == index**2
        assert sorted(seen) == list(range(400))
        assert max(held) <= FEWEST_TASKS + 1
        unfinished = execute(square, [Square(value) for value in range(400)], description="squares")
        next(unfinished)
        unfinished.close()
        assert len(client.futures) == 0


@pytest.mark.integration
def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    tasks = [Square(value, str(tmp_path / "killed")) for value in range(8)]
    with executor(TasksConfig(num_workers=2)) as execute:
        results = dict(execute(square_and_die_once, tasks, description="squares"))
    assert (tmp_path / "killed").exists()
    assert {index: result["square"] for index, result in results.items()} == {v: v**2 for v in range(8)}


def kill_one_that_starts() -> None:
    """Kill a process of a worker while it still imports; it takes a second or two to begin."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        time.sleep(0.3)
        for process in psutil.Process().children(recursive=True):
            if "spawn_main" in " ".join(process.cmdline()):
                process.kill()
                return


@pytest.mark.integration
def test_a_worker_that_dies_while_it_starts_is_started_again(caplog: pytest.LogCaptureFixture) -> None:
    killer = threading.Thread(target=kill_one_that_starts)
    killer.start()
    with executor(TasksConfig(num_workers=2)) as execute:
        results = dict(execute(square, TASKS, description="squares"))
    killer.join()
    assert "the workers could not be started (Nanny failed to start.), attempt 1 of 3" in caplog.text
    assert {index: result["square"] for index, result in results.items()} == {v: v**2 for v in range(8)}


@pytest.mark.integration
def test_a_task_that_kills_every_worker_is_given_up() -> None:
    with (
        executor(TasksConfig(num_workers=2)) as execute,
        pytest.raises(UserError, match=r"^squares: one task has ended 4 workers in a row, the last at tcp://127"),
    ):
        list(execute(die, [Square(0)], description="squares"))


@pytest.mark.integration
def test_a_running_scheduler_is_used_by_its_address() -> None:
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster:
        with executor(TasksConfig(scheduler=cluster.scheduler_address)) as execute:
            results = dict(execute(square, TASKS, description="squares"))
        assert sorted(results) == list(range(8))
        assert cluster.scheduler_info["workers"]


@pytest.mark.integration
def test_a_scheduler_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "0.5s"}),
        pytest.raises(ConfigError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"),
        executor(TasksConfig(scheduler="tcp://127.0.0.1:9")),
    ):
        pass
