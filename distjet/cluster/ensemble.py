"""An ensemble: trainings that differ in their seeds alone, side by side.

A member is an ordinary run in a directory of its own, so each is continued, evaluated and exported like any other, and an
ensemble can be enlarged later. A member that fails does not stop the others.
"""

import logging
import statistics
from collections.abc import Mapping
from typing import Any

import yaml

from distjet.cluster.board import Board
from distjet.cluster.runs import Ending, Keys, Run, run_all
from distjet.dataset.manifest import Manifest
from distjet.errors import UserError
from distjet.run_directory import claim, read_json, write_atomically, write_json
from distjet.training.settings import METRICS_FILE, EnsembleConfig, TrainConfig

logger = logging.getLogger(__name__)


def train_ensemble(config: TrainConfig) -> dict[str, Any]:
    """Train all members, or continue, or return the result of finished ones.

    Args:
        config: The training, with `ensemble.num_members`.

    Returns:
        The content of the ensemble's metrics.json: its members, and mean and deviation of their best epochs.

    Raises:
        ConfigError: If the directory belongs to another run.
        UserError: If a member failed; the same command tries it again.
        Stopped: If a signal interrupted them; all are in checkpoints.
    """
    config = config.model_copy(update={"output": config.output.resolve(), "dataset": config.dataset.resolve()})
    fingerprint = Manifest.load(config.dataset).fingerprint
    claim(config.output, "train", config.identity(fingerprint) | {"ensemble": "members"})
    metrics = config.output / METRICS_FILE
    if metrics.is_file() and read_json(metrics)["num_members"] >= config.ensemble.num_members:
        logger.info("%s is finished; nothing to do", config.output)
        return read_json(metrics)
    write_atomically(config.output / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    members = Members(config)
    board = Board("member", config.ensemble.num_members, config.selection.watched)
    run_all(members, board, config.output, config.resources, config.ensemble.max_concurrent)
    if members.failures:
        failed = "; ".join(f"member {number}: {message}" for number, message in sorted(members.failures.items()))
        raise UserError(f"{len(members.failures)} of {config.ensemble.num_members} members failed: {failed}")
    content = summarise(config, members.metrics, fingerprint)
    write_json(metrics, content)
    return content


class Members:
    """The source of an ensemble's runs; a finished one ends at once.

    Args:
        config: The ensemble, with absolute paths.
    """

    keys = Keys(resources="resources", max_concurrent="ensemble.max_concurrent")

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.waiting = list(range(config.ensemble.num_members))
        self.metrics: dict[int, dict[str, Any]] = {}
        self.failures: dict[int, str] = {}

    def next(self) -> Run | None:
        """Return the next member."""
        return Run(number := self.waiting.pop(0), member(self.config, number)) if self.waiting else None

    def report(self, run: Run, row: Mapping[str, float]) -> bool:
        """Let every member train to its end."""
        del run, row
        return True

    def end(self, run: Run, ending: Ending) -> None:
        """Keep what became of a member."""
        if ending.outcome == "completed":
            self.metrics[run.number] = ending.metrics
        else:
            self.failures[run.number] = f"{ending.outcome}: {ending.message}"


def member(config: TrainConfig, number: int) -> TrainConfig:
    """Return the training of a member."""
    own = {"output": config.output / "members" / f"{number:02d}", "seed": config.seed + number, "ensemble": EnsembleConfig()}
    return config.model_copy(update=own)


def summarise(config: TrainConfig, metrics: Mapping[int, Mapping[str, Any]], fingerprint: str) -> dict[str, Any]:
    """List the members; mean and standard deviation over them, of every metric of their best epochs."""
    best = [metrics[number]["best"] for number in sorted(metrics)]
    names = [name for name in best[0] if name.startswith(("val_", "train_"))]
    return {
        "status": "completed",
        "num_members": len(metrics),
        "members": [
            {"run": f"members/{n:02d}", "seed": config.seed + n, "best_epoch": found["best_epoch"], "best": found["best"]}
            for n, found in sorted(metrics.items())
        ],
        "mean": {name: statistics.fmean(row[name] for row in best) for name in names},
        "deviation": {name: statistics.stdev(row[name] for row in best) for name in names},
        "dataset_fingerprint": fingerprint,
    }
