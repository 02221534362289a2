"""Workers in the jobs of a batch system: jobs say what was asked for, real workers do real tasks, ended jobs are replaced.

The batch systems are stand-ins: a few lines of shell that run a job at once in the background and cancel it by its number.
"""

import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from distjet import verbs
from distjet.cluster import jobqueue
from distjet.cluster.dask import executor
from distjet.cluster.settings import TasksConfig
from distjet.config import load
from distjet.errors import ConfigError, MissingExtraError
from tests.dataset.files import PROJECT, random_ntuple, run, write_ntuple

SLURM = {
    "sbatch": 'sh "$FARM/$$.job" > "$FARM/$$.out" 2>&1 < /dev/null &\n echo $! > "$FARM/$$.pid"; echo "Submitted batch job $$"',
    "scancel": 'echo "$1" >> "$FARM/cancelled"; kill -KILL -- "-$(cat "$FARM/$1.pid")"',
}
HTCONDOR = {
    "condor_submit": (
        'sh -c "$(sed -n "s/^Arguments = .-c \'\\(.*\\)\'.$/\\1/p" "$FARM/$$.job")" > "$FARM/$$.out" 2>&1 < /dev/null &\n'
        ' echo $! > "$FARM/$$.pid"; echo "1 job(s) submitted to cluster $$."'
    ),
    "condor_rm": 'echo "$1" >> "$FARM/cancelled"; kill -KILL -- "-$(cat "$FARM/${1%.0}.pid")"',
}
SCRIPT = """#!/bin/bash
set -em  # each job is a process group of its own
case "$0" in *submit|*sbatch) cp "$1" "$FARM/$$.job";; esac
{action}
"""


@dataclass(frozen=True)
class Wait:
    seconds: float


def wait(task: Wait) -> dict[str, Any]:
    time.sleep(task.seconds)
    return {"pid": os.getpid(), "parents": os.getppid(), "environment": dict(os.environ)}


@pytest.fixture
def farm(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Put the commands of a stand-in batch system on the PATH; give the folder of its jobs."""
    folder, commands, node = tmp_path / "farm", tmp_path / "bin", tmp_path / "node"
    for path in (folder, commands, node):
        path.mkdir()
    for name, action in request.param.items():
        (commands / name).write_text(SCRIPT.format(action=action))
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("FARM", str(folder))
    monkeypatch.setenv("TMPDIR", str(node))
    yield folder
    deadline = time.monotonic() + 10
    while left := [pid for pid in folder.glob("*.pid") if is_running(int(pid.read_text()))]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def is_running(group: int) -> bool:
    """Whether a process of a group is there (and not only waits to be collected)."""
    found = [line.rpartition(")")[2].split() for file in Path("/proc").glob("[0-9]*/stat") if (line := read(file))]
    return any(int(fields[2]) == group and fields[0] != "Z" for fields in found)


def read(file: Path) -> str:
    try:
        return file.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def configure(scheduler: str, **jobqueue: Any) -> TasksConfig:
    """Configure jobs of two workers that talk over the loopback interface."""
    settings = {"num_jobs": 2, "cores": 2, "memory": "2GB", "interface": "lo"} | jobqueue
    return TasksConfig.model_validate({"scheduler": scheduler, "progress": "off", "jobqueue": settings})


def lines_of_job(config: TasksConfig) -> list[str]:
    with jobqueue.make_cluster(config) as cluster:
        return cluster.job_script().splitlines()


@pytest.mark.integration
def test_a_slurm_job_says_what_was_asked_for(tmp_path: Path) -> None:
    config = configure(
        "slurm", cores=4, memory="8GB", queue="long", account="atlas", walltime="0-04:00:00", log_directory=tmp_path / "logs",
        extra={"job_extra_directives": ["--constraint=cpu"], "job_script_prologue": ["source activate"], "python": "python9"},
    )  # fmt: skip
    lines = lines_of_job(config)
    wanted = ["-p long", "-A atlas", "--cpus-per-task=4", "--mem=8G", "-t 0-04:00:00", "--constraint=cpu"]
    assert {f"#SBATCH {option}" for option in wanted} <= set(lines)
    assert f"#SBATCH -o {tmp_path}/logs/dask-worker-%J.out" in lines
    command = next(line for line in lines if "dask_worker" in line)
    assert lines.index("source activate") < lines.index(command)
    assert command.startswith("python9 -m distributed.cli.dask_worker tcp://127.0.0.1:")
    for option in ("--nthreads 1 ", "--nworkers 4 ", "--memory-limit 1.86GiB ", "--interface lo"):
        assert option in command + " "


@pytest.mark.integration
def test_a_htcondor_job_says_what_was_asked_for() -> None:
    extra = {"job_extra_directives": {"+MaxRuntime": "14400"}}
    lines = lines_of_job(configure("htcondor", cores=1, memory="2GB", disk="1GB", extra=extra))
    for line in (
        "MY.DaskWorkerCores = 1",
        "MY.DaskWorkerMemory = 2000000000",
        "+MaxRuntime = 14400",
        "RequestCpus = MY.DaskWorkerCores",
    ):
        assert line in lines
    assert "--nthreads 1 " in next(line for line in lines if line.startswith("Arguments"))


@pytest.mark.integration
@pytest.mark.parametrize(
    ("scheduler", "farm", "settings"),
    [("slurm", SLURM, {"walltime": "00:10:00"}), ("htcondor", HTCONDOR, {"disk": "1GB"})],
    indirect=["farm"],
    ids=["slurm", "htcondor"],
)
def test_workers_in_jobs_do_the_tasks(scheduler: str, farm: Path, settings: dict[str, Any]) -> None:
    with executor(configure(scheduler, **settings)) as execute:
        results = dict(execute(wait, [Wait(0.1)] * 40, description="wait"))
    assert sorted(results) == list(range(40))
    assert len({result["parents"] for result in results.values()}) > 1
    environment = results[0]["environment"]
    assert environment["NUMBA_CACHE_DIR"].startswith(f"{farm.parent}/node/distjet-")
    assert environment["MALLOC_MMAP_THRESHOLD_"] == "33554432"
    assert environment["OMP_NUM_THREADS"] == "1"
    assert os.getpid() not in {result["pid"] for result in results.values()}
    assert len(list(farm.glob("*.job"))) == 2
    assert len((farm / "cancelled").read_text().split()) == 2


@pytest.mark.integration
@pytest.mark.parametrize("farm", [SLURM], indirect=True, ids=["slurm"])
def test_a_dataset_that_was_made_in_jobs_is_the_same(farm: Path, tmp_path: Path) -> None:
    write_ntuple(tmp_path / "in/sample/jets.root", random_ntuple(200, seed=1), parts=4)
    here = run(tmp_path / "here", str(tmp_path / "in"))
    files = [PROJECT / "conf/dataset/distjet.yaml", PROJECT / "conf/cluster/slurm.yaml"]
    size = ["rows_per_shard=150", "row_group_size=64", "entries_per_task=100"]
    jobs = [f"tasks.jobqueue.{setting}" for setting in ("num_jobs=2", "cores=1", "interface=lo")]
    places = [f"inputs={tmp_path}/in", f"output={tmp_path}/there"]
    result = verbs.prepare(load(verbs.PrepareVerb, files, [*size, *jobs, *places]))
    assert result["fingerprint"] == here.fingerprint
    assert len(list(farm.glob("*.job"))) == 2


@pytest.mark.integration
@pytest.mark.parametrize("farm", [SLURM], indirect=True, ids=["slurm"])
def test_a_job_that_ended_is_submitted_again(
    farm: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jobqueue, "CHECK_INTERVAL_S", 0.5)
    with caplog.at_level(logging.INFO, logger="distjet"), executor(configure("slurm", num_jobs=1)) as execute:
        results = execute(wait, [Wait(0.05)] * 200, description="wait")
        done = [next(results)[0]]
        (job,) = farm.glob("*.pid")
        os.killpg(int(job.read_text()), signal.SIGKILL)
        done += [index for index, _ in results]
    assert sorted(done) == list(range(200))
    assert len(list(farm.glob("*.job"))) == 2
    assert "1 jobs have ended; new ones are submitted" in caplog.text


@pytest.mark.integration
@pytest.mark.parametrize("farm", [{"sbatch": "echo 'error: invalid account' >&2; exit 1", "scancel": ""}], indirect=True)
def test_a_refused_job_is_an_error_and_not_an_endless_wait(farm: Path) -> None:
    with (
        pytest.raises(ConfigError, match=r"(?s)slurm refused the jobs: .*error: invalid account.*#SBATCH -A nobody"),
        executor(configure("slurm", account="nobody")),
    ):
        pass


@pytest.mark.integration
@pytest.mark.parametrize("farm", [SLURM], indirect=True, ids=["slurm"])
def test_a_batch_system_that_refuses_for_a_while_is_asked_again(
    farm: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with jobqueue.make_cluster(configure("slurm", num_jobs=1)) as cluster:
        keeper = jobqueue.JobKeeper(cluster, num_jobs=2)
        with monkeypatch.context() as broken:
            broken.setenv("FARM", "/nowhere")
            with pytest.raises(RuntimeError, match="cannot create regular file"):
                keeper.submit_missing()
        keeper.check()
        assert len(list(farm.glob("*.job"))) == 2
        keeper.check()
        assert len(list(farm.glob("*.job"))) == 2


@pytest.mark.integration
def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="needs the command sbatch, which is not on the PATH"), executor(configure("slurm")):
        pass
    with pytest.raises(
        ConfigError, match=r"jobqueue\.extra: unknown argument of SLURMCluster 'walltme', did you mean 'walltime'"
    ):
        jobqueue.make_cluster(configure("slurm", extra={"walltme": "1:00"}))
    monkeypatch.setitem(sys.modules, "dask_jobqueue", None)
    with pytest.raises(MissingExtraError, match=r"needs dask.jobqueue: pip install 'distjet\[jobqueue\]'"):
        jobqueue.make_cluster(configure("slurm"))


@pytest.mark.parametrize(
    ("scheduler", "settings", "message"),
    [
        ("htcondor", {"queue": "long", "disk": "1GB"}, "jobqueue.queue is for slurm; for htcondor, use jobqueue.extra"),
        ("slurm", {"disk": "1GB"}, "jobqueue.disk is for htcondor"),
        ("htcondor", {}, "htcondor needs jobqueue.disk"),
        ("slurm", {"extra": {"processes": 2}}, "jobqueue.extra must not hold processes"),
        ("slurm", {"walltime": 36000}, "write days as well, e.g. 0-10:00:00"),
    ],
)
def test_settings_that_do_not_fit_are_refused(scheduler: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        configure(scheduler, **settings)
