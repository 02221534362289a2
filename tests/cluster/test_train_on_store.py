"""Spec: a training whose data and outputs are on an object store is the one that it would be on a local disk."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from distjet.cluster.train import train
from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.run_directory import LOCK_FILE, read_json
from distjet.storage import as_location
from distjet.training.checkpoint import CheckpointStore
from distjet.training.history import SPEED_KEYS, read_rows
from distjet.training.settings import TrainConfig
from distjet.verbs import EvaluateVerb, evaluate
from tests.conftest import SECRET
from tests.training.test_loop import FAST, SMALL_MODEL

ROOT = Path(__file__).parents[2]
HERE = "resources.num_workers=0"
TWO = ("resources.num_workers=2", "resources.use_gpu=false")


@pytest.fixture(scope="module")
def dataset(toy_dataset: Manifest, store: str) -> str:
    """The toy dataset, in the object store."""
    place = as_location(f"{store}/toys")
    place.fs.put(str(toy_dataset.path), place.path, recursive=True)
    return str(place)


@pytest.fixture(scope="module")
def on_disk(toy_dataset: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training with nothing on the store."""
    output = tmp_path_factory.mktemp("disk") / "train"
    train(configure(toy_dataset.path, output, HERE))
    return output


def arguments(dataset: object, output: object, *overrides: str) -> list[str]:
    return [f"dataset={dataset}", f"output={output}", *FAST, SMALL_MODEL, *overrides]


def configure(dataset: object, output: object, *overrides: str) -> TrainConfig:
    return load(TrainConfig, [], arguments(dataset, output, *overrides))


def science(run: Path) -> list[dict[str, float]]:
    """What the history of a run says, but for the speed."""
    return [{key: value for key, value in row.items() if key not in SPEED_KEYS} for row in read_rows(run / "history.jsonl")]


def weights(run: Path) -> dict:
    return CheckpointStore(run / "checkpoints").best(read_json(run / "metrics.json")["best_epoch"] - 1)["model"]


def assert_same(run: Path, other: Path) -> None:
    assert science(run) == science(other)
    mine, others = weights(run), weights(other)
    assert all((mine[name] == others[name]).all() for name in others)


def names(folder: Path) -> set[str]:
    """The files of a folder of this machine; those of TensorBoard have names that hold the time."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != LOCK_FILE]
    return {re.sub("tensorboard/.*", "events", str(path.relative_to(folder))) for path in files}


def contents(place: str) -> dict[str, bytes]:
    """All that lies in a folder of the store, by name."""
    folder = as_location(place)
    found = folder.fs.find(folder.path)
    return {name.removeprefix(f"{folder.path}/"): folder.fs.cat_file(name) for name in found}


def test_a_training_leaves_on_the_store_what_it_leaves_on_a_disk(on_disk, dataset, bucket, caplog):
    output = as_location(bucket)
    caplog.set_level("DEBUG")
    result = train(configure(dataset, bucket, HERE))
    assert result["status"] == "completed"
    assert_same(output, on_disk)
    left = contents(bucket)
    assert {re.sub("tensorboard/.*", "events", name) for name in left} == names(on_disk)
    assert any(b"val_mean_abs_bias" in data for name, data in left.items() if name.startswith("tensorboard/"))
    assert yaml.safe_load(left["config.yaml"])["output"] == bucket
    assert train(configure(dataset, bucket, HERE)) == result  # finished: nothing is done again
    assert not any(SECRET.encode() in data for data in left.values())
    assert SECRET not in caplog.text


def test_an_evaluation_reads_the_run_there_and_writes_there(on_disk, toy_dataset, dataset, bucket, tmp_path):
    train(configure(dataset, f"{bucket}/train", HERE))
    result = evaluate(load(EvaluateVerb, [], [f"run={bucket}/train", f"output={bucket}/evaluate"]))
    local = evaluate(load(EvaluateVerb, [], [f"run={on_disk}", f"output={tmp_path}/evaluate"]))
    assert result["energy_response"] == local["energy_response"]
    assert contents(f"{bucket}/evaluate").keys() == names(tmp_path / "evaluate")
    again = evaluate(load(EvaluateVerb, [], [f"predictions={bucket}/evaluate/predictions.parquet", f"output={bucket}/again"]))
    assert again["energy_response"] == local["energy_response"]


def train_until(part: str, place: str, *settings: str, number: int = signal.SIGKILL) -> int:
    """Train in a process of its own, and send it a signal when something has appeared in the store; return its exit code."""
    process = subprocess.Popen([sys.executable, "-m", "jobs.train", *settings], cwd=ROOT)
    try:
        folder, limit = as_location(place), time.monotonic() + 120
        while not list((folder / Path(part).parent).glob(Path(part).name)):
            assert process.poll() is None, "it has ended before it could be killed"
            assert time.monotonic() < limit
            time.sleep(0.1)
        process.send_signal(number)
        return process.wait(timeout=60)
    finally:
        process.kill()
        process.wait()


@pytest.mark.faults
@pytest.mark.slow
def test_a_killed_training_continues_from_the_checkpoint_on_the_store(on_disk, dataset, bucket):
    command = arguments(dataset, bucket, HERE)
    train_until("checkpoints/epoch-0001*.json", bucket, *command)
    assert not (as_location(bucket) / "metrics.json").exists()
    train(configure(dataset, bucket, HERE))
    assert_same(as_location(bucket), on_disk)


@pytest.mark.slow
def test_a_training_that_is_told_to_stop_leaves_a_checkpoint_and_no_lock(dataset, bucket):
    settings = arguments(dataset, bucket, HERE, "num_epochs=300")
    code = train_until("checkpoints/epoch-0001*.json", bucket, *settings, number=signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    left = contents(bucket).keys()
    assert not {name for name in left if name.startswith((".lock", "stop", "failure"))}
    newest = max(name for name in left if name.startswith("checkpoints/epoch"))
    assert not newest.endswith("step-0000000.pt")  # it did not wait for the end of the epoch


@pytest.mark.integration
def test_ray_workers_continue_from_the_store(dataset, bucket):
    """What one process has begun, two workers finish."""

    class Enough(Exception):
        pass

    def stop(row: dict[str, float]) -> None:
        raise Enough

    with pytest.raises(Enough):
        train(configure(dataset, bucket, HERE), report=stop)
    assert len(science(as_location(bucket))) == 1
    result = train(configure(dataset, bucket, *TWO))
    assert (result["status"], result["num_workers"]) == ("completed", 2)
    assert [row["epoch"] for row in science(as_location(bucket))] == [1, 2, 3]


@pytest.mark.slow
def test_ray_workers_whose_driver_was_killed_continue_from_the_store(dataset, bucket):
    train_until("checkpoints/epoch-0001*.json", bucket, *arguments(dataset, bucket, *TWO))
    assert train(configure(dataset, bucket, *TWO))["status"] == "completed"
    assert [row["epoch"] for row in science(as_location(bucket))] == [1, 2, 3]
