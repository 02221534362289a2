"""Tasks on real Dask workers give what they give in one process, also when a worker is killed."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

import pytest

from distjet.cluster.dask import executor
from distjet.cluster.settings import TasksConfig
from distjet.execution import in_process


@dataclass(frozen=True)
class Square:
    value: int
    flag: str = ""


def square(task: Square) -> dict[str, int]:
    return {"square": task.value**2, "pid": os.getpid()}


def square_and_die_once(task: Square) -> dict[str, int]:
    if task.value == 3 and not Path(task.flag).exists():
        Path(task.flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return {"square": task.value**2}


def fail_on_three(task: Square) -> dict[str, int]:
    if task.value == 3:
        raise ValueError("three is not allowed")
    return {}


TASKS = [Square(value) for value in range(8)]


def test_in_process_runs_in_order_in_this_process() -> None:
    results = list(in_process(square, TASKS, description="squares"))
    assert [index for index, _ in results] == list(range(8))
    assert {result["pid"] for _, result in results} == {os.getpid()}
    assert [result["square"] for _, result in results] == [v**2 for v in range(8)]


@pytest.mark.integration
def test_local_workers_give_the_same_results_from_other_processes() -> None:
    with executor(TasksConfig(num_workers=2)) as execute:
        results = dict(execute(square, TASKS, description="squares"))
        assert {index: result["square"] for index, result in results.items()} == {v: v**2 for v in range(8)}
        assert os.getpid() not in {result["pid"] for result in results.values()}
        with pytest.raises(ValueError, match="three is not allowed"):
            list(execute(fail_on_three, TASKS, description="failing"))


@pytest.mark.integration
def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    tasks = [Square(value, str(tmp_path / "killed")) for value in range(8)]
    with executor(TasksConfig(num_workers=2)) as execute:
        results = dict(execute(square_and_die_once, tasks, description="squares"))
    assert (tmp_path / "killed").exists()
    assert {index: result["square"] for index, result in results.items()} == {v: v**2 for v in range(8)}
