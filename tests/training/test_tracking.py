"""MLflow learns of every epoch once, in one run for each directory, and its absence ends no training."""

import logging
from pathlib import Path
from typing import Any

import pytest

from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.errors import ConfigError
from distjet.run_directory import read_json
from distjet.training.history import History
from distjet.training.loop import Interrupted
from distjet.training.settings import TrainConfig
from distjet.training.tracking import MLFLOW_FILE, MlflowRun, tracked, tracking_uri
from tests.training.test_loop import trainer


def runs_in(store: Path) -> list[Any]:
    """All runs of a store, as another client sees them."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{store}/mlflow.db")
    return client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])


def epochs_of(store: Path, run: Any) -> list[int]:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{store}/mlflow.db")
    return [point.step for point in client.get_metric_history(run.info.run_id, "val_mean_abs_bias")]


@pytest.mark.slow
def test_a_resumed_training_continues_its_run(toy_dataset: Manifest, tmp_path: Path) -> None:
    store = tmp_path / "mlflow"
    told = f"tracking.mlflow={store}"
    for stop_after in (2, None):  # in the second epoch, then not at all
        part = trainer(toy_dataset, tmp_path / "run", told, stop_after=stop_after)
        if stop_after is not None:
            with pytest.raises(Interrupted), tracked(part.config, toy_dataset.fingerprint):
                part.fit()
            assert [run.info.status for run in runs_in(store)] == ["FAILED"]
        else:
            with tracked(part.config, toy_dataset.fingerprint):
                metrics = part.fit()
    (run,) = runs_in(store)
    assert run.info.run_id == read_json(tmp_path / "run" / MLFLOW_FILE)["run_id"]
    assert run.info.status == "FINISHED"
    assert epochs_of(store, run) == [1, 2, 3]
    assert run.data.metrics["val_loss"] == pytest.approx(metrics["last"]["val_loss"])
    assert run.data.params["optimizer.lr"] == str(part.config.optimizer.lr)
    assert run.data.params["dataset_fingerprint"] == run.data.tags["dataset_fingerprint"] == toy_dataset.fingerprint
    assert run.data.tags["output"] == str(tmp_path / "run")
    assert run.data.tags["git_commit"]

    other = trainer(toy_dataset, tmp_path / "other", told, "num_epochs=1")
    with tracked(other.config, toy_dataset.fingerprint):
        other.fit()
    assert sorted(len(epochs_of(store, run)) for run in runs_in(store)) == [1, 3], "another directory is another run"


@pytest.mark.slow
def test_a_server_that_is_away_is_told_of_once_and_ends_no_training(
    toy_dataset: Manifest, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:hunter2@127.0.0.1:9")
    settings = trainer(toy_dataset, tmp_path, "tracking.mlflow=environment").config
    with caplog.at_level(logging.WARNING, logger="distjet.training.tracking"), tracked(settings, toy_dataset.fingerprint):
        History(tmp_path).append({"epoch": 1, "val_loss": 1.0})
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert "MLflow does not take the news of this training" in warnings[0]
    assert "did not get all" in warnings[1]
    assert "hunter2" not in "".join(warnings)


@pytest.mark.slow
def test_a_server_that_fails_between_run_and_parameters_has_one_run_and_gets_them_later(
    toy_dataset: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    settings = trainer(toy_dataset, tmp_path / "run", f"tracking.mlflow={tmp_path / 'mlflow'}").config
    log_batch, num_failures = mlflow.MlflowClient.log_batch, 2

    def fail_at_first(client: Any, run_id: str, **content: Any) -> None:
        nonlocal num_failures
        num_failures -= 1
        if num_failures >= 0:
            raise ConnectionError("away")
        log_batch(client, run_id, **content)

    monkeypatch.setattr(mlflow.MlflowClient, "log_batch", fail_at_first)
    History(tmp_path / "run").append({"epoch": 1, "val_mean_abs_bias": 1.0})
    for attempt in (MlflowRun(settings, toy_dataset.fingerprint), MlflowRun(settings, toy_dataset.fingerprint)):
        with pytest.raises(ConnectionError):
            attempt.send()  # the second one is that of a resumed training
    attempt.send()
    (run,) = runs_in(tmp_path / "mlflow")
    assert run.info.run_id == read_json(tmp_path / "run" / MLFLOW_FILE)["run_id"]
    assert run.data.params["optimizer.lr"] == str(settings.optimizer.lr)
    assert epochs_of(tmp_path / "mlflow", run) == [1]


def test_an_address_with_a_password_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="credentials in the environment") as caught:
        load(
            TrainConfig, [], [f"dataset={tmp_path}", f"output={tmp_path}", "tracking.mlflow=https://me:hunter2@mlflow.cern.ch"]
        )
    assert "hunter2" not in str(caught.value)


def test_a_folder_stands_for_a_database_in_it(toy_dataset: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for given, expected in {
        str(tmp_path / "a"): f"sqlite:///{tmp_path}/a/mlflow.db",
        "~/b": f"sqlite:///{tmp_path}/b/mlflow.db",
        "http://127.0.0.1:5000": "http://127.0.0.1:5000",
        "environment": None,
    }.items():
        settings = trainer(toy_dataset, tmp_path / "run", f"tracking.mlflow={given}").config
        assert tracking_uri(settings.tracking) == expected
