"""`distjet submit` against a real cluster of two nodes that asks for a token; see `ray_nodes`."""

import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.training.checkpoint import CheckpointStore
from distjet.training.history import read_rows
from distjet.training.settings import TrainConfig
from tests.cluster.ray_nodes import RayNodes, ray_nodes
from tests.dataset.files import PROJECT
from tests.training.test_loop import FAST, SMALL_MODEL

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ONE_ON_EACH_NODE = "resources={num_workers: 2, cpus_per_worker: 1, use_gpu: false}"
"Two workers of one core each, on two nodes of one core each."


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayNodes]:
    with ray_nodes(tmp_path_factory.mktemp("ray")) as nodes:
        yield nodes


@pytest.fixture(scope="module")
def spaced(toy_dataset: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy dataset below a folder whose name a shell would take apart."""
    link = tmp_path_factory.mktemp("paths") / "jets & $HOME 'quoted'"
    link.symlink_to(toy_dataset.path)
    return link


def run(cluster: RayNodes, *command: str, cwd: Path = PROJECT, **changes: str) -> subprocess.CompletedProcess[str]:
    environment = {**cluster.environment, **changes}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=200, check=False)


def submit(cluster: RayNodes, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return run(cluster, "distjet", "submit", "--address", cluster.address, *arguments, **changes)


def test_a_training_has_a_worker_on_each_node_and_is_not_doubled(cluster: RayNodes, spaced: Path, tmp_path: Path) -> None:
    output = tmp_path / "out put"
    hard_to_quote = ["optimizer.betas=[0.85, 0.95]", "optimizer.lr=3e-4", "loss.energy={name: lgk, bandwidth: 0.2}"]
    arguments = [f"dataset={spaced}", f"output={output}", *FAST, SMALL_MODEL, ONE_ON_EACH_NODE, *hard_to_quote]
    first = submit(cluster, "--submission-id", "night-1", "train", *arguments)
    assert first.returncode == 0, first.stdout + first.stderr
    config = load(TrainConfig, [output / "config.yaml"])
    assert config.optimizer.betas == (0.85, 0.95)
    assert config.optimizer.lr == 3e-4
    assert config.loss.model_dump()["energy"]["bandwidth"] == 0.2
    assert [row["epoch"] for row in read_rows(output / "history.jsonl")] == [1, 2, 3]
    assert len(re.findall(r"epoch +\d  loss", first.stdout)) == 3

    written = (output / "metrics.json").stat().st_mtime_ns
    again = submit(cluster, "--submission-id", "night-1", "train", *arguments)
    assert again.returncode == 0
    assert "job night-1 exists (SUCCEEDED); it is not submitted again" in again.stderr
    assert again.stdout == first.stdout
    assert (output / "metrics.json").stat().st_mtime_ns == written
    other = submit(cluster, "--submission-id", "night-1", "train", *arguments, "seed=2")
    assert other.returncode == 2
    assert "the submission id night-1 belongs to another job" in other.stderr


def test_ctrl_c_leaves_the_job_running_and_stop_writes_a_checkpoint(
    cluster: RayNodes, toy_dataset: Manifest, tmp_path: Path
) -> None:
    output = tmp_path / "long"
    places = [f"dataset={toy_dataset.path}", f"output={output}"]
    arguments = [*places, *FAST, SMALL_MODEL, "num_epochs=3000", "checkpoint_minutes=60", "resources.num_workers=0"]
    command = ["distjet", "submit", "--address", cluster.address, "--submission-id", "long", "train", *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=PROJECT, env=dict(cluster.environment), **pipes) as watcher:
        log = iter(watcher.stdout.readline, "")
        assert any("epoch   1  loss" in line for line in log), watcher.stderr.read()
        watcher.send_signal(signal.SIGINT)
        stderr = watcher.communicate(timeout=30)[1]
    assert watcher.returncode == 128 + signal.SIGINT
    assert "The job long runs on." in stderr
    assert "Traceback" not in stderr
    num_epochs = len(read_rows(output / "history.jsonl"))
    stop = next(line.split(":", 1)[1].split() for line in stderr.splitlines() if "stop it:" in line)
    assert stop[-1] == "--stop"
    stopped = run(cluster, *stop)
    assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    assert "the same command continues" in stopped.stdout
    assert len(read_rows(output / "history.jsonl")) > num_epochs, "the job ended with its watcher"
    assert CheckpointStore(output / "checkpoints").newest() is not None


def test_a_job_of_ray_is_the_same_one_and_does_not_lose_its_output(cluster: RayNodes, toy_dataset: Manifest) -> None:
    verb = ["python", "-m", "jobs.train", f"dataset={toy_dataset.path}", "output=outputs/x", "resources.num_workers=0"]
    options = ["--address", cluster.address, "--working-dir", ".", "--runtime-env", "conf/runtime_env.yaml"]
    submitted = run(cluster, "ray", "job", "submit", *options, "--submission-id", "plain", "--no-wait", "--", *verb)
    assert submitted.returncode == 0, submitted.stderr
    failed = submit(cluster, "--submission-id", "plain")
    assert failed.returncode == 2, "Ray's own command would say 1"
    assert "distjet train: error: output=outputs/x: a job runs in a copy of the folder" in failed.stdout
    assert failed.stderr == ""


def test_without_the_token_nothing_is_told(cluster: RayNodes, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0" * 64)
    for changes in ({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "token")}, {"RAY_AUTH_MODE": "disabled"}):
        refused = submit(cluster, "--submission-id", "night-1", **changes)
        assert refused.returncode == 2
        assert "the job server does not accept this user" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_the_job_server_is_not_offered_to_the_network(cluster: RayNodes) -> None:
    port = int(cluster.address.rpartition(":")[2])
    sockets = [item for item in psutil.net_connections("tcp") if item.status == psutil.CONN_LISTEN and item.laddr.port == port]
    assert {item.laddr.ip for item in sockets} == {"127.0.0.1"}


def test_an_unknown_job_is_named_with_those_that_there_are(cluster: RayNodes) -> None:
    unknown = submit(cluster, "--submission-id", "nothing")
    assert unknown.returncode == 2
    assert "has no job 'nothing'; its jobs: " in unknown.stderr
