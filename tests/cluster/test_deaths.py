"""Of all that fails when one worker dies, the user is told the first cause, once; test_train.py kills real ones."""

import socket
from pathlib import Path

from distjet.cluster.deaths import add_death, note, read_deaths
from distjet.errors import DataError


class LostError(Exception):
    """What Ray's controller raises for a process that does not answer any more, as far as it matters here."""

    health_check_failure = RuntimeError("the actor is dead")


def lost(log: Path, pid: int = 22086, why: str = "The actor is dead because its worker process has died.") -> LostError:
    """The exception with Ray's text."""
    return LostError(
        "A worker health check failed.\nWorker info: Worker(\n  actor=Actor(RayTrainWorker, bb22),\n  metadata=ActorMetadata(\n"
        f"    hostname='{socket.gethostname()}',\n    node_ip='192.0.2.2',\n    pid={pid},\n  ),\n"
        f"  log_file_path='{log}',\n)\nThe actor died unexpectedly before finishing this task.\n\tpid: {pid}\n{why}"
    )


def test_the_worker_that_was_lost_is_named_with_its_last_words_and_not_those_that_waited_for_it(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    (logs / "train").mkdir(parents=True)
    (logs / "worker-a8de-01000000-22086.err").write_text(":job_id:01\nFatal Python error: Segmentation fault\n")
    error = lost(logs / "train" / "ray-train-app-worker-a8de.log")
    note(tmp_path, {0: RuntimeError("Connection closed by peer"), 1: error})
    (death,) = read_deaths(tmp_path)
    assert (death.world_rank, death.process) == (1, f"22086 on {socket.gethostname()}")
    assert death.log == str(logs / "worker-a8de-01000000-22086.err")
    assert death.last_lines == ("Fatal Python error: Segmentation fault",)
    assert death.what.startswith("died: its process ended without a word")
    assert len(death.lines()) == 2


def test_a_lost_machine_and_a_want_of_memory_are_named(tmp_path: Path) -> None:
    texts = ("its node has died. Node Id: 12", "killed due to the node running low on memory")
    for pid, why in enumerate(texts):
        note(tmp_path, {0: lost(Path("None"), pid, why)})
    machine, memory = read_deaths(tmp_path)
    assert machine.what == "died: its machine was lost"
    assert "low on memory" in memory.what
    assert machine.log == ""


def test_what_is_told_elsewhere_is_not_told_twice(tmp_path: Path) -> None:
    note(tmp_path, {0: DataError("checkpoint is damaged"), 1: RuntimeError("Connection closed by peer")})
    assert read_deaths(tmp_path) == []
    add_death(tmp_path, 1, "found that one hangs")
    pid = int(read_deaths(tmp_path)[0].process.split()[0])
    note(tmp_path, {1: lost(Path("None"), pid)})
    assert [death.what for death in read_deaths(tmp_path)] == ["found that one hangs"]
    note(tmp_path, {0: KeyError("a defect of ours")})
    assert read_deaths(tmp_path)[-1].what == "failed: KeyError('a defect of ours')"
