"""Training on real Ray workers: equal to one process, and not stopped by what kills processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import psutil
import pytest
import torch

from distjet.cluster import connect
from distjet.cluster.connect import cores_for_workers, wants_gpu
from distjet.cluster.deaths import read_deaths
from distjet.cluster.train import train
from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.stream import JetStream, StreamConfig
from distjet.errors import ConfigError, UserError
from distjet.ranks import RankInfo
from distjet.run_directory import claim, read_json
from distjet.training.checkpoint import CheckpointStore, decode
from distjet.training.history import read_rows
from distjet.training.settings import TrainConfig
from tests.training.test_loop import FAST, SMALL_MODEL, best_weights

ROOT = Path(__file__).parents[2]


def config(manifest: Manifest, output: Path, *overrides: str) -> TrainConfig:
    places = [f"dataset={manifest.path}", f"output={output}"]
    return load(TrainConfig, [], [*places, *FAST, SMALL_MODEL, *overrides])


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """One local Ray for the tests of this file that run their driver in this process."""
    import ray

    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.2"
    ray.init(
        address="local",
        num_cpus=4,
        object_store_memory=200 * 1024**2,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def one_process(toy_dataset: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("single") / "train"
    train(config(toy_dataset, output, "resources.num_workers=0"))
    return output


class EndOfTrial(Exception):
    """What a sweep raises to end a training."""


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_two_workers_equal_one_process(toy_dataset: Manifest, one_process: Path, ray_cluster, tmp_path: Path) -> None:
    settings = config(toy_dataset, tmp_path / "two", "resources.num_workers=2", "resources.use_gpu=false")
    metrics = train(settings)
    assert metrics["num_workers"] == 2
    expected, found = (read_rows(path / "history.jsonl") for path in (one_process, tmp_path / "two"))
    for a, b in zip(expected, found, strict=True):
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=1e-4)
        assert b["val_loss"] == pytest.approx(a["val_loss"], rel=1e-4)
        assert b["val_mean_abs_bias"] == pytest.approx(a["val_mean_abs_bias"], abs=1e-3)
    for name, value in best_weights(one_process).items():
        torch.testing.assert_close(best_weights(tmp_path / "two")[name], value, rtol=1e-2, atol=1e-3)


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_what_a_report_raises_stops_the_workers_and_reaches_the_caller(
    toy_dataset: Manifest, ray_cluster, tmp_path: Path
) -> None:
    seen: list[float] = []

    def end_after_the_second_epoch(row: dict[str, float]) -> None:
        seen.append(row["epoch"])
        if len(seen) == 2:
            raise EndOfTrial

    resources = "resources={num_workers: 1, use_gpu: false}"
    with pytest.raises(EndOfTrial):
        train(config(toy_dataset, tmp_path / "run", "num_epochs=3000", resources), end_after_the_second_epoch)
    assert seen == [1, 2]
    saved = decode(CheckpointStore(tmp_path / "run" / "checkpoints").newest())
    assert 2 <= saved["state"]["epoch"] < 3000
    assert not (tmp_path / "run" / "stop").exists()
    assert not (tmp_path / "run" / "failure.json").exists()


def read_part(path: str, rank: int, state: dict | None) -> tuple[list[list[tuple]], dict]:
    """Read the first steps of a rank, or the rest from a state; runs in a Ray worker."""
    identity = ("sample", "run", "event", "jet_index")
    stream_config = StreamConfig(batch_size=150, lanes=12, row_columns=identity)
    stream = JetStream(Manifest.load(path), "train", stream_config, seed=5, ranks=RankInfo(world_rank=rank, world_size=2))
    if state is not None:
        stream.load_state_dict(state)
    steps = [list(zip(*(batch.rows[name].tolist() for name in identity), strict=True)) for batch in islice(stream, 6)]
    return steps, stream.state_dict()


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_two_workers_read_every_row_once_also_when_they_are_replaced(toy_dataset: Manifest, ray_cluster) -> None:
    import ray

    remote = ray.remote(num_cpus=1)(read_part)
    seen: list[tuple] = []
    state = None
    while state is None or state["epoch"] == 0:
        parts = ray.get([remote.remote(str(toy_dataset.path), rank, state) for rank in (0, 1)])
        for ours, theirs in zip(parts[0][0], parts[1][0], strict=True):
            assert abs(len(ours) - len(theirs)) <= 4
            seen += ours + theirs
        assert parts[0][1] == parts[1][1]
        state = parts[0][1]
    assert len(seen) == len(set(seen)) == toy_dataset.num_rows("train")


def test_more_workers_than_the_machine_holds_is_an_error_that_says_what_to_do(toy_dataset: Manifest, tmp_path: Path) -> None:
    settings = config(toy_dataset, tmp_path, "resources.num_workers=99")
    with pytest.raises(ConfigError, match="99 workers x 1 cores requested, this machine has 4"):
        wants_gpu(settings.resources, {"CPU": 4.0}, is_own_cluster=True)
    with pytest.raises(ConfigError, match=r"has 2 GPUs; set resources\.use_gpu=false or resources\.num_workers=2"):
        wants_gpu(settings.resources, {"CPU": 99.0, "GPU": 2.0}, is_own_cluster=True)


def test_workers_get_the_cores_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = os.sched_getaffinity(0)
    monkeypatch.setattr(connect, "LEAST_CORES", 1)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert cores_for_workers() == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_a_cluster_that_may_grow_is_asked_for_gpus_explicitly(toy_dataset: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"say resources\.use_gpu=true"):
        wants_gpu(config(toy_dataset, tmp_path).resources, {}, is_own_cluster=False)
    assert wants_gpu(config(toy_dataset, tmp_path, "resources.use_gpu=true").resources, {}, is_own_cluster=False)
    assert not wants_gpu(config(toy_dataset, tmp_path, "resources.use_gpu=false").resources, {"GPU": 8.0}, is_own_cluster=False)


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_a_problem_of_the_user_in_a_worker_reaches_the_user(toy_dataset: Manifest, ray_cluster, tmp_path: Path) -> None:
    settings = config(toy_dataset, tmp_path / "run", "resources={num_workers: 2, max_failures: 3, use_gpu: false}")
    claim(settings.output, "train", settings.identity(toy_dataset.fingerprint))
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "epoch-0001-step-0000000.pt").write_bytes(b"torn")
    (checkpoints / "epoch-0001-step-0000000.json").write_text('{"xxh3_128": "0"}')
    started = time.monotonic()
    with pytest.raises(UserError, match="is damaged"):
        train(settings)
    assert time.monotonic() - started < 90, "trying again does not help here"


@contextmanager
def driver_of(manifest: Manifest, output: Path, *overrides: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start `python -m jobs.train` in a session of its own, its messages in driver.log; end all of it afterwards."""
    arguments = [f"dataset={manifest.path}", f"output={output}", *FAST, SMALL_MODEL, *overrides]
    environment = os.environ | {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "jobs.train", *arguments]
    with log_of(output).open("wb") as log:
        driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            yield driver
        finally:
            kill_session(driver)
            driver.wait(timeout=30)


def log_of(output: Path) -> Path:
    return output.with_name("driver.log")


def wait_for_epoch(output: Path, epoch: int, driver: subprocess.Popen[bytes], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while len(read_rows(output / "history.jsonl")) < epoch:
        assert time.monotonic() < deadline, f"epoch {epoch} was not finished in {timeout_s} s"
        assert driver.poll() is None, log_of(output).read_text()
        time.sleep(0.1)


def train_workers(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """Training processes of a driver's Ray, found among its descendants."""
    everyone = psutil.Process(driver.pid).children(recursive=True)
    return [process for process in everyone if "RayTrainWorker" in " ".join(process.cmdline())]


def kill_session(driver: subprocess.Popen[bytes]) -> None:
    """End what a killed driver left behind: the processes of its session, which this test started."""
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == driver.pid:
                process.kill()
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue


@pytest.mark.faults
@pytest.mark.integration
@pytest.mark.timeout(400)
def test_workers_that_are_told_to_go_or_killed_and_a_killed_driver_change_nothing(
    toy_dataset: Manifest, tmp_path: Path
) -> None:
    epochs = "num_epochs=40"
    train(config(toy_dataset, tmp_path / "whole", epochs, "resources.num_workers=0"))
    output = tmp_path / "killed"
    with driver_of(toy_dataset, output, epochs, "resources.num_workers=2") as driver:
        for number, rank in ((signal.SIGTERM, 0), (signal.SIGKILL, 1)):
            finished = len(read_rows(output / "history.jsonl"))
            assert finished < 30, "the training was over before everything was done to it"
            wait_for_epoch(output, finished + 2, driver)
            victims = train_workers(driver)
            assert len(victims) == 2
            victims[rank].send_signal(number)
            wait_until_gone(victims[rank])
        wait_for_epoch(output, len(read_rows(output / "history.jsonl")) + 2, driver)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait(timeout=30)
    told, killed = (death.what for death in read_deaths(output))
    assert told.startswith("was told to go by SIGTERM")
    assert killed.startswith("died: ")
    messages = log_of(output).read_text()
    assert messages.count("died: ") == 1
    assert "raylet" not in messages, "Ray says the same in five lines"
    assert "Traceback" not in messages
    assert not (output / "metrics.json").exists()
    with driver_of(toy_dataset, output, epochs, "resources.num_workers=2") as driver:
        assert driver.wait(timeout=180) == 0, log_of(output).read_text()
    assert_same_training(tmp_path / "whole", output)


def assert_same_training(whole: Path, parts: Path) -> None:
    """Two runs ended with the same numbers, up to rounding, and have every epoch once."""
    expected, found = (read_json(path / "metrics.json") for path in (whole, parts))
    num_epochs = expected["num_epochs"]
    assert found["num_epochs"] == num_epochs
    assert [row["epoch"] for row in read_rows(parts / "history.jsonl")] == list(range(1, num_epochs + 1))
    assert found["last"]["val_loss"] == pytest.approx(expected["last"]["val_loss"], rel=1e-3)
    assert found["last"]["val_mean_abs_bias"] == pytest.approx(expected["last"]["val_mean_abs_bias"], abs=5e-3)


def wait_until_gone(process: psutil.Process) -> None:
    psutil.wait_procs([process], timeout=60)
    assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


@pytest.mark.integration
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("num_workers", "number"), [(0, signal.SIGUSR1), (2, signal.SIGTERM)], ids=["in_process", "on_ray"])
def test_a_signal_makes_a_checkpoint_within_seconds_and_the_exit_code(
    toy_dataset: Manifest, tmp_path: Path, num_workers: int, number: signal.Signals
) -> None:
    output = tmp_path / "run"
    overrides = ["num_epochs=3000", "checkpoint_minutes=60", f"resources.num_workers={num_workers}"]
    with driver_of(toy_dataset, output, *overrides) as driver:
        wait_for_epoch(output, 1, driver)
        driver.send_signal(number)
        sent_s = time.time()
        assert driver.wait(timeout=60) == 128 + number
    newest = max(file.stat().st_mtime for file in (output / "checkpoints").glob("epoch-*.json"))
    assert newest - sent_s < 10
    messages = log_of(output).read_text()
    assert "the same command continues" in messages
    assert "Traceback" not in messages
    assert not (output / "at_work").exists()
    saved = CheckpointStore(output / "checkpoints").newest()
    assert decode(saved)["stream"]["epoch"] >= 1
    assert not (output / "stop").exists()


@pytest.mark.integration
@pytest.mark.timeout(200)
def test_a_signal_ends_a_training_that_waits_for_room(toy_dataset: Manifest, ray_cluster, tmp_path: Path) -> None:
    import ray

    output = tmp_path / "run"
    joined = f"resources.address={ray.get_runtime_context().gcs_address}"
    with driver_of(toy_dataset, output, joined, "resources={num_workers: 99, use_gpu: false}") as driver:
        deadline = time.monotonic() + 60
        while "starting 99 Ray workers" not in log_of(output).read_text():
            assert driver.poll() is None, log_of(output).read_text()
            assert time.monotonic() < deadline, log_of(output).read_text()
            time.sleep(0.2)
        time.sleep(2)
        driver.terminate()
        assert driver.wait(timeout=30) == 128 + signal.SIGTERM
    messages = log_of(output).read_text()
    assert "the same command continues" in messages
    assert "Traceback" not in messages
    assert not (output / "stop").exists()
