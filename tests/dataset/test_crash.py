"""Spec: whatever is killed, and whenever, the same command finishes the job, to the bytes of a run that was left alone."""

import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from distjet.dataset.convert import convert
from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.dataset.shards import build_shard
from distjet.errors import DiskFullError
from distjet.execution import in_process
from distjet.run_directory import LOCK_FILE
from tests.dataset.files import PROJECT, configure, random_ntuple, write_ntuple


def content_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, with its bytes."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK_FILE]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


class Killed(BaseException):
    """Stands for SIGKILL: nothing catches it, and nothing is done after it."""


class Mortal:
    """Makes the process die at a moment: before or after the n-th time that a file gets its name or is removed.

    What a killed process would not do any more, as removing its temporary files, is not done.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.moment, self.death, self.is_dead = 0, -1, False
        monkeypatch.setattr(Path, "replace", self.watched(Path.replace))
        monkeypatch.setattr(os, "link", self.watched(os.link))
        monkeypatch.setattr(shutil, "rmtree", self.watched(shutil.rmtree))
        unlink = Path.unlink
        monkeypatch.setattr(Path, "unlink", lambda *given, **named: None if self.is_dead else unlink(*given, **named))

    def watched(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def step(*given: Any, **named: Any) -> Any:
            self.pass_moment()
            result = function(*given, **named)
            self.pass_moment()
            return result

        return step

    def pass_moment(self) -> None:
        self.moment += 1
        if self.moment == self.death:
            self.is_dead = True
            raise Killed

    def begin(self, death: int) -> None:
        self.moment, self.death, self.is_dead = 0, death, False


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two files of two samples, in an input folder."""
    write_ntuple(tmp_path / "in/a/a.root", random_ntuple(30, seed=1), parts=2)
    write_ntuple(tmp_path / "in/b/b.root", random_ntuple(20, seed=2))
    return tmp_path


def prepare_small(folder: Path, execute: Any = in_process, **changes: Any) -> dict[str, bytes]:
    """What `verb` does, in this process."""
    prepare(configure(folder / "out", str(folder / "in"), **{"rows_per_shard": 40, "entries_per_task": 30} | changes), execute)
    return content_of(folder / "out")


@pytest.mark.slow
@pytest.mark.parametrize("shuffle", ["global", "local"])
def test_killed_at_every_single_step(small, monkeypatch, shuffle):
    mortal = Mortal(monkeypatch)
    mortal.begin(death=-1)
    whole = prepare_small(small, shuffle=shuffle)
    num_moments = mortal.moment
    assert num_moments > 25
    for death in range(1, num_moments + 1):
        shutil.rmtree(small / "out")
        mortal.begin(death)
        with pytest.raises(Killed):
            prepare_small(small, shuffle=shuffle)
        mortal.begin(death=-1)
        assert prepare_small(small, shuffle=shuffle) == whole, f"killed at moment {death} of {num_moments}"


@pytest.mark.parametrize("function", [convert, build_shard])
def test_a_task_that_runs_twice_at_once_does_no_harm(small, function):
    whole = prepare_small(small)
    shutil.rmtree(small / "out")

    def twice(tasked: Any, tasks: Any, **named: Any) -> Iterator[tuple[int, Any]]:
        if tasked is not function:
            yield from in_process(tasked, tasks, **named)
            return
        with ThreadPoolExecutor(4) as threads:
            for index, task in enumerate(tasks):
                first, second = threads.map(tasked, [task, task])
                assert first == second
                yield index, first

    assert prepare_small(small, twice) == whole


@pytest.mark.parametrize("damage", ["other bytes", "shorter", "missing"])
@pytest.mark.parametrize("suffix", [".parquet", ".rows"])
def test_what_was_lost_after_its_record_is_made_again(small, damage, suffix):
    whole = prepare_small(small)
    shutil.rmtree(small / "out")

    def stopped(function: Any, tasks: Any, **named: Any) -> Iterator[tuple[int, Any]]:
        yield from in_process(function, tasks, **named)
        if function is build_shard:
            raise Killed

    with pytest.raises(Killed):
        prepare_small(small, stopped)
    path = sorted((small / "out").rglob(f"*{suffix}"))[0]
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "shorter" else content[:50] + b"\x00\x01" + content[52:])
    assert prepare_small(small) == whole


@pytest.mark.parametrize("where", [0.0, 0.2, 0.5, 0.9], ids=lambda where: f"at {where:.0%}")
def test_a_bit_that_flips_in_a_spill_while_nothing_runs_is_mended(small, where):
    whole = prepare_small(small)
    shutil.rmtree(small / "out")

    def stopped(function: Any, tasks: Any, **named: Any) -> Iterator[tuple[int, Any]]:
        if function is build_shard:
            raise Killed
        yield from in_process(function, tasks, **named)

    with pytest.raises(Killed):
        prepare_small(small, stopped)
    path = sorted((small / "out").rglob("*.rows"))[0]
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 4
    path.write_bytes(content)
    assert prepare_small(small) == whole


def test_rows_that_change_between_the_passes_are_noticed_and_their_sample_is_named(small):
    spills: dict[str, Path] = {}

    def damaged(function: Any, tasks: Any, **named: Any) -> Iterator[tuple[int, Any]]:
        if function is build_shard:
            content = bytearray(spills["b"].read_bytes())
            content[-100] ^= 1
            spills["b"].write_bytes(content)
        for index, result in in_process(function, tasks, **named):
            if function is convert:
                spills[tasks[index].sample] = Path(tasks[index].work) / result["spill"]
            yield index, result

    with pytest.raises(RuntimeError, match=r"the rows of sample 'b' changed between the passes.* remove .*\.work"):
        prepare_small(small, damaged)
    assert not (small / "out/manifest.json").exists()
    shutil.rmtree(small / "out/.work")
    damaged_shards_are_replaced = prepare_small(small)
    shutil.rmtree(small / "out")
    assert prepare_small(small) == damaged_shards_are_replaced


class TestTwoRunsAtOnce:
    """Spec: of two runs on one folder, where locks do not work, one commits; the other finds the same, or is told."""

    RACE = """
import sys, time
from pathlib import Path
from distjet.dataset import commit as commit_module
from distjet.dataset.prepare import prepare
from distjet.execution import in_process
from tests.dataset.files import configure

folder, me, other = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
write_json_once = commit_module.write_json_once

def together(path, content):
    (folder / me).touch()
    while not (folder / other).exists():
        time.sleep(0.001)
    write_json_once(path, content)

commit_module.write_json_once = together
print(prepare(configure(folder / "out", str(folder / "in"), rows_per_shard=40, entries_per_task=int(sys.argv[4])), in_process))
"""

    def race(self, folder: Path, *entries_per_task: int) -> list[subprocess.CompletedProcess[str]]:
        """Two processes that write the manifest at the same moment, without a lock."""

        def start(number: int) -> subprocess.CompletedProcess[str]:
            names = [f"at_the_end_{n}" for n in (number, 1 - number)]
            arguments = [sys.executable, "-c", self.RACE, str(folder), *names, str(entries_per_task[number])]
            return subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=PROJECT, timeout=120)

        with ThreadPoolExecutor(2) as threads:
            return list(threads.map(start, (0, 1)))

    @pytest.mark.slow
    def test_the_same_result_is_committed_once(self, small):
        results = self.race(small, 30, 30)
        assert [result.returncode for result in results] == [0, 0], [result.stderr for result in results]
        raced = content_of(small / "out")
        shutil.rmtree(small / "out")
        assert prepare_small(small) == raced

    @pytest.mark.slow
    def test_of_two_manifests_one_stays_and_the_other_run_is_told(self, small):
        results = self.race(small, 30, 20)
        assert sorted(result.returncode for result in results) == [0, 1]
        loser = next(result for result in results if result.returncode)
        assert "meanwhile another run has finished another dataset there, which stays" in loser.stderr
        raced = content_of(small / "out")
        shutil.rmtree(small / "out")
        assert prepare_small(small, entries_per_task=20 if loser is results[0] else 30) == raced

    def test_a_run_that_comes_second_finds_the_spills_gone_and_the_dataset_there(self, small, caplog):
        def overtaken(function: Any, tasks: Any, **named: Any) -> Iterator[tuple[int, Any]]:
            if function is build_shard:
                prepare_small(small)
            yield from in_process(function, tasks, **named)

        raced = prepare_small(small, overtaken)
        assert "another run has finished" in caplog.text
        assert Manifest.load(small / "out").num_rows("train")
        shutil.rmtree(small / "out")
        assert prepare_small(small) == raced


class TestFullDisk:
    """Spec: a full disk is a message that says where and how much, and the same command continues."""

    MESSAGE = (
        r"out cannot be written to: .*; [\d,.]+ MB of [\d,.]+ MB are left there(, up to [\d,.]+ MB more are needed)?\. What is"
    )

    @pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
    def test_a_file_that_may_not_grow(self, small, share):
        whole = prepare_small(small)
        largest = max(len(content) for content in whole.values())
        shutil.rmtree(small / "out")
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * largest), limits[1]))
        try:
            with pytest.raises(DiskFullError, match=self.MESSAGE):
                prepare_small(small)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert not list((small / "out").rglob("*.tmp"))
        assert prepare_small(small) == whole

    def test_a_quota_that_is_used_up_in_the_second_pass(self, small, monkeypatch):
        whole = prepare_small(small)
        shutil.rmtree(small / "out")

        def full(function: Any, tasks: Any, **named: Any) -> Iterator[tuple[int, Any]]:
            with monkeypatch.context() as patch:
                if function is build_shard:
                    patch.setattr(os, "fsync", self.quota_exceeded)
                yield from in_process(function, tasks, **named)

        with pytest.raises(DiskFullError, match=rf"(?s){self.MESSAGE}.*is kept: make room, and run the same command again"):
            prepare_small(small, full)
        assert list((small / "out/.work").glob("*.rows"))
        assert prepare_small(small) == whole

    def test_the_folder_for_spills_is_named_if_its_disk_is_full(self, small, monkeypatch):
        def full(function: Any, tasks: Any, **named: Any) -> Iterator[tuple[int, Any]]:
            with monkeypatch.context() as patch:
                if function is convert:
                    patch.setattr(os, "fsync", self.quota_exceeded)
                yield from in_process(function, tasks, **named)

        work = small / "work"
        with pytest.raises(DiskFullError, match=rf"^{work}/distjet-\w+/\.work cannot be written to: .* are left there"):
            prepare_small(small, full, work=work)

    def quota_exceeded(self, handle: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    def test_other_errors_of_the_system_are_what_they_are(self, small, monkeypatch):
        def broken(handle: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        monkeypatch.setattr(os, "fsync", broken)
        with pytest.raises(OSError, match="Input/output error"):
            prepare_small(small)

    @pytest.mark.slow
    def test_a_file_system_that_is_full(self, small):
        """The verb itself, on a file system of its own that is too small and is then made larger."""
        if subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode:
            pytest.skip("this machine lets nobody mount a file system in a namespace of his own")
        whole = run_verb(small)
        size = sum(map(len, whole.values()))
        shutil.rmtree(small / "out")
        (small / "out").mkdir()
        command = " ".join(map(repr, verb(small)))
        script = f"""
mount -t tmpfs -o size={int(0.8 * size)} tmpfs {small}/out
{command}; echo "exit code $?" >&2
mount -o remount,size={10 * size} {small}/out
{command} && cp -r {small}/out {small}/kept
"""
        done = subprocess.run([*NAMESPACE, "sh", "-c", script], capture_output=True, text=True, check=True, cwd=PROJECT)
        assert f"distjet prepare: error: {small}/out cannot be written to" in done.stderr
        assert "exit code 2" in done.stderr
        assert "Traceback" not in done.stderr
        assert content_of(small / "kept") == whole


NAMESPACE = ("unshare", "--user", "--map-root-user", "--mount")


def verb(folder: Path, scheduler: str = "in_process") -> list[str]:
    """The command line `distjet prepare ...`."""
    places = [f"inputs={folder}/in", f"output={folder}/out", f"tasks.scheduler={scheduler}", "tasks.num_workers=2"]
    sizes = ["rows_per_shard=40", "entries_per_task=30", "row_group_size=64"]
    start = "from distjet.cli import main; main()"
    return [sys.executable, "-c", start, "prepare", str(PROJECT / "conf/dataset/distjet.yaml"), *places, *sizes]


def run_verb(folder: Path, scheduler: str = "in_process") -> dict[str, bytes]:
    done = subprocess.run(verb(folder, scheduler), capture_output=True, text=True, check=False, cwd=PROJECT, timeout=200)
    assert done.returncode == 0, done.stderr
    return content_of(folder / "out")


@pytest.fixture
def larger(tmp_path: Path) -> Path:
    """Enough for some seconds of work."""
    for number, sample in enumerate("ab"):
        write_ntuple(tmp_path / f"in/{sample}/a.root", random_ntuple(500, seed=number), parts=50)
    return tmp_path


def started(folder: Path, scheduler: str) -> subprocess.Popen[bytes]:
    """Start the verb in a process group of its own, and wait until it has begun to work."""
    process = subprocess.Popen(
        verb(folder, scheduler), start_new_session=True, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and not (folder / "out/identity.json").exists():
        time.sleep(0.002)
    return process


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the driver and all its workers."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("scheduler", ["in_process", "local"])
def test_ten_kills_at_random_moments(larger, scheduler):
    """Five in one process, five with two Dask workers; moments are spread over what an uninterrupted run takes."""
    moments = random.Random(scheduler)
    process = started(larger, scheduler)
    begin = time.monotonic()
    assert process.wait() == 0
    duration, whole = time.monotonic() - begin, content_of(larger / "out")
    for number in range(5):
        delay = duration * (number + moments.random()) / 5
        while True:
            shutil.rmtree(larger / "out")
            process = started(larger, scheduler)
            time.sleep(delay)
            if process.poll() is None:
                break
            delay *= 0.8  # it was faster this time
        kill_all(process)
        assert (run_verb(larger) if scheduler == "in_process" else prepare_small(larger)) == whole


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_worker_and_a_killed_driver(larger):
    """The driver goes on without a worker; workers do not go on without their driver."""
    whole = prepare_small(larger)
    shutil.rmtree(larger / "out")
    process = at_work(larger)
    workers = [child for child in psutil.Process(process.pid).children(recursive=True) if "spawn_main" in str(child.cmdline())]
    assert len(workers) == 2
    workers[1].kill()
    assert process.wait() == 0
    assert content_of(larger / "out") == whole
    shutil.rmtree(larger / "out")
    process = at_work(larger)
    process.kill()
    process.wait()
    assert prepare_small(larger) == whole


def at_work(folder: Path) -> subprocess.Popen[bytes]:
    """Start the verb with Dask workers, and wait until they have done something."""
    process = started(folder, "local")
    while process.poll() is None and not list((folder / "out/.work").glob("rows-*.json")):
        time.sleep(0.002)
    return process
