"""How does MLflow learn of a training?

The driver tells it, in a thread of its own, from the rows that the main worker writes: whatever the tracking server does, no
step waits for it, and a server that is away gets later what it has missed. One process writes, also where many train.

MLflow keeps no runs in plain folders any more, so a folder stands for a SQLite file in it. A run of MLflow is that of a
directory: a resumed training continues it.
"""

import importlib.util
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

from distjet.errors import MissingExtraError
from distjet.provenance import git_commit
from distjet.run_directory import read_json, write_json
from distjet.storage import URL_MARK, poll_interval_s, without_secrets
from distjet.training.history import HISTORY_FILE, read_rows
from distjet.training.settings import TrackingConfig, TrainConfig

logger = logging.getLogger(__name__)

MLFLOW_FILE = "mlflow.json"
"Says which run of MLflow belongs to a directory."
POLL_S, LAST_WORDS_S = 2.0, 60.0
"New epochs are looked for so often; at the end, MLflow gets so long to answer."
MOST_AT_ONCE = 100
"Parameters and metrics that MLflow takes in one request."
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"MLflow's own tries take minutes; what it has missed is sent with the next epoch."


@contextmanager
def tracked(config: TrainConfig, fingerprint: str) -> Iterator[None]:
    """Tell MLflow of a training while the block runs, if the configuration asks for it.

    Args:
        config: The training.
        fingerprint: That of its dataset.

    Raises:
        MissingExtraError: If MLflow is not installed.
    """
    if config.tracking.mlflow is None:
        yield
        return
    if importlib.util.find_spec("mlflow") is None:
        raise MissingExtraError("tracking.mlflow needs MLflow", "mlflow")
    courier = Courier(MlflowRun(config, fingerprint))
    courier.thread.start()
    try:
        yield
    except BaseException as error:
        courier.end("KILLED" if getattr(error, "exit_code", None) is not None else "FAILED")
        raise
    courier.end("FINISHED")


class MlflowRun:
    """The run of MLflow that belongs to a directory; everything here may raise what MLflow and the network raise."""

    def __init__(self, config: TrainConfig, fingerprint: str) -> None:
        self.config, self.fingerprint = config, fingerprint
        self.client: Any = None
        self.run_id = ""
        self.has_parameters = False
        self.num_sent = 0

    def send(self) -> None:
        """Bring MLflow up to date with the history."""
        if not self.run_id:
            self._open()
        if not self.has_parameters:  # the same values again do no harm, so a resumed training sends them too
            self._send_parameters()
            self.has_parameters = True
        for row in read_rows(self.config.output / HISTORY_FILE)[self.num_sent :]:
            self._send_row(row)
            self.num_sent += 1

    def end(self, status: str) -> None:
        """Say how the training ended."""
        self.client.set_terminated(self.run_id, status)

    def _open(self) -> None:
        """Continue the run that this directory has there, or make one."""
        from mlflow import MlflowClient

        if not logger.isEnabledFor(logging.DEBUG):
            logging.getLogger("mlflow").setLevel(logging.ERROR)
        self.client = MlflowClient(tracking_uri=tracking_uri(self.config.tracking))
        note = self.config.output / MLFLOW_FILE
        known = read_json(note) if note.is_file() else {}
        place = {"mlflow": self.config.tracking.mlflow, "experiment": self.config.tracking.experiment}
        if known.items() >= place.items():
            run = self.client.get_run(known["run_id"])
            self.client.update_run(run.info.run_id, status="RUNNING")
        else:
            run = self._create()
            write_json(note, place | {"run_id": run.info.run_id})  # at once: what fails from here on makes no second run
        self.num_sent = int(run.data.metrics.get("epoch", 0))
        self.run_id = run.info.run_id

    def _create(self) -> Any:
        name = self.config.tracking.experiment
        experiment = self.client.get_experiment_by_name(name)
        number = self.client.create_experiment(name, **self._artifacts()) if experiment is None else experiment.experiment_id
        tags = {
            "dataset_fingerprint": self.fingerprint,
            "git_commit": git_commit(),
            "dataset": str(self.config.dataset),
            "output": str(self.config.output),
            "checkpoints": str(self.config.output / "checkpoints"),
            "num_workers": str(self.config.resources.num_workers),
        }
        return self.client.create_run(number, run_name=self.config.output.name, tags=tags)

    def _artifacts(self) -> dict[str, str]:
        """Where files would go: beside the SQLite file of a folder, which would else be the working directory."""
        folder = self.config.tracking.mlflow or ""
        is_folder = URL_MARK not in folder and folder != "environment"
        return {"artifact_location": (Path(folder).resolve() / "artifacts").as_uri()} if is_folder else {}

    def _send_parameters(self) -> None:
        from mlflow.entities import Param

        identity = self.config.identity(self.fingerprint)
        parameters = [Param(name, str(value)) for name, value in flat(identity).items()]
        for start in range(0, len(parameters), MOST_AT_ONCE):
            self.client.log_batch(self.run_id, params=parameters[start : start + MOST_AT_ONCE])

    def _send_row(self, row: Mapping[str, float]) -> None:
        """Send an epoch in one request, so that MLflow has all of it or nothing."""
        from mlflow.entities import Metric

        now_ms, epoch = int(1000 * time.time()), int(row["epoch"])
        self.client.log_batch(self.run_id, metrics=[Metric(name, float(value), now_ms, epoch) for name, value in row.items()])


@dataclass
class Courier:
    """Carries news to MLflow in a thread; trouble is told once, and news wait until it is over."""

    run: MlflowRun
    ended: threading.Event = field(default_factory=threading.Event)
    status: str = "RUNNING"
    has_warned: bool = False
    has_said_all: bool = False

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._carry, name="distjet-mlflow", daemon=True)

    def end(self, status: str) -> None:
        """Send what there is still to say, for a while."""
        self.status = status
        self.ended.set()
        self.thread.join(timeout=LAST_WORDS_S)
        if not self.has_said_all:
            logger.warning("MLflow did not get all of this training; it is in %s", self.run.config.output / HISTORY_FILE)

    def _carry(self) -> None:
        is_last = False
        while not is_last:
            is_last = self.ended.wait(poll_interval_s(self.run.config.output, POLL_S))
            try:
                self.run.send()
                if is_last:
                    self.run.end(self.status)
                    self.has_said_all = True
            except Exception as error:  # of MLflow, its database or the network: a training must not end for it
                self._warn(error)

    def _warn(self, error: Exception) -> None:
        message = shorten(without_secrets(f"{type(error).__name__}: {error}"), 160, placeholder=" ...")
        level = logging.DEBUG if self.has_warned else logging.WARNING
        logger.log(level, "MLflow does not take the news of this training (%s); it is tried again", message)
        self.has_warned = True


def tracking_uri(config: TrackingConfig) -> str | None:
    """Return what MLflow calls its tracking URI; None means that MLflow asks the environment."""
    for name, value in PATIENCE.items():
        os.environ.setdefault(name, value)
    given = config.mlflow or "environment"
    if given == "environment" or URL_MARK in given:
        return None if given == "environment" else given
    folder = Path(given).expanduser().resolve()
    folder.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{folder / 'mlflow.db'}"


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name the leaves of nested mappings by dotted keys."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
