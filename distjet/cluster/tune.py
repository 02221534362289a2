"""A sweep: many trainings, of which what the first ones have shown decides the next.

Optuna decides (who comes next, who is stopped), Ray Tune runs (where, how many at a time), and each trial is an ordinary run
with a directory of its own. The sweep's memory is Optuna's storage alone, so the same command continues it: trials that were
half done go on from their checkpoints before new ones are drawn.
"""

import logging
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from distjet.cluster.board import Board
from distjet.cluster.runs import NOT_ITS_FAULT, Ending, Keys, Run, run_all
from distjet.dataset.manifest import Manifest
from distjet.errors import ConfigError, UserError
from distjet.run_directory import claim, read_json, write_atomically, write_json, write_json_once
from distjet.training.history import HISTORY_FILE, read_rows
from distjet.training.settings import METRICS_FILE, TrainConfig
from distjet.tuning.settings import TuneConfig, check_ends
from distjet.tuning.study import BEST_EPOCH, EPOCHS, MESSAGE, SECONDS, Study, Trial
from distjet.tuning.summary import short_names, summarise
from distjet.tuning.warm_start import warm_start

logger = logging.getLogger(__name__)

STUDY_FILE = "study.json"
"Under which name the storage has the sweep."
LOSSES_TOLERATED = 3
"""A trial whose processes die in so many starts of the sweep is given up: it may be what kills them, and the sweep is to end.
Where so many trials could not go on in one start, it is the cluster or the disk."""
FAILURES_TOLERATED = 3
"So many trials may fail for no reason of theirs before one succeeds: then the mistake is common to all."


def tune(config: TuneConfig, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Run a sweep, or continue one, or return the result of a finished one.

    Args:
        config: The sweep.
        provenance: What else identifies the result, for the report: version, commit.

    Returns:
        The content of the sweep's metrics.json.

    Raises:
        ConfigError: If an end of a range is not valid, or the directory belongs to another sweep.
        UserError: If no trial succeeds, or some are not over because they lost their processes or were hindered.
        Stopped: If a signal interrupted it; the trials are in checkpoints.
    """
    config = config.model_copy(update={"output": config.output.resolve()})
    common = check_ends(config)
    manifest = Manifest.load(common.dataset)
    claim(config.output, "tune", config.identity(manifest.fingerprint))
    name = _study_name(config)
    study = Study(config, name)
    write_json_once(config.output / STUDY_FILE, {"study": name})
    if (metrics := config.output / METRICS_FILE).is_file() and read_json(metrics)["num_trials"] >= study.num_trials:
        logger.info("%s is finished; nothing to do", config.output)
        return read_json(metrics)
    write_atomically(config.output / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    warm_start(config, study, config.identity(manifest.fingerprint))
    logger.info("optuna-dashboard shows the sweep live: %s", study.address)
    trials = Trials(config, study)
    board = Board("trial", study.num_trials, study.stopping.metric, study.sign, trials.label)
    for trial in study.trials():
        if trial.is_ours and trial.outcome not in ("running", "waiting"):
            board.ended[trial.outcome] += 1
    run_all(trials, board, config.output, common.resources, config.max_concurrent)
    trials.check_all_over()
    from distjet.tuning.report import write_report

    result = summarise(config, study, {**provenance, "dataset_fingerprint": manifest.fingerprint})
    write_report(config, study, result)
    write_json(metrics, result)  # last, because it says that the sweep is finished
    return result


def _study_name(config: TuneConfig) -> str:
    """Return the name of the sweep in its storage, which other sweeps may share; it stays when the directory moves."""
    file = config.output / STUDY_FILE
    return str(read_json(file)["study"]) if file.is_file() else f"{config.output.name}-{uuid.uuid4().hex[:8]}"


class Trials:
    """The source of a sweep's runs.

    Args:
        config: The sweep.
        study: Its memory.
    """

    keys = Keys(resources="base.resources", max_concurrent="max_concurrent")

    def __init__(self, config: TuneConfig, study: Study) -> None:
        self.config, self.study = config, study
        self.half_done = study.unfinished()
        self.settings: dict[int, dict[str, Any]] = {}
        self.not_over: dict[int, str] = {}

    def next(self) -> Run | None:
        """Return a trial that is half done, or draw one; one whose values do not go together has failed already.

        None begins where several could not go on, because what hinders or kills them would not stop at those.
        """
        if len(self.not_over) >= LOSSES_TOLERATED:
            return None
        while (trial := self.half_done.pop(0) if self.half_done else self.study.ask()) is not None:
            self.settings[trial.number] = trial.settings
            try:
                return Run(trial.number, self._config(trial))
            except ConfigError as error:
                self.study.finish(trial.number, "error", {MESSAGE: str(error)})
                logger.info("trial %d: %s", trial.number, error)
                self._check_failures(str(error))
        return None

    def report(self, run: Run, row: Mapping[str, float]) -> bool:
        """Write the epoch down and decide; a training that is at its end anyway may end."""
        goes_on = self.study.report(run.number, row)
        return goes_on or row["epoch"] >= run.config.num_epochs

    def end(self, run: Run, ending: Ending) -> None:
        """Write down what became of a trial; one that could not go on stays half done, unless it has died too often."""
        if ending.outcome in NOT_ITS_FAULT:
            times = self.study.lose(run.number) if ending.outcome == "lost" else 0
            if times < LOSSES_TOLERATED:
                self.not_over[run.number] = f"trial {run.number}: {ending.message}"
                return
            ending = replace(ending, message=f"given up after {times} starts: {ending.message}")
        rows = read_rows(run.config.output / HISTORY_FILE)
        facts: dict[str, Any] = {EPOCHS: len(rows), SECONDS: sum(row["epoch_seconds"] for row in rows)}
        if ending.message:
            facts[MESSAGE] = ending.message
        if ending.metrics:
            facts[BEST_EPOCH] = ending.metrics["best_epoch"]
        self.study.finish(run.number, ending.outcome, facts, ending.metrics.get("best"))
        if ending.outcome == "error":
            self._check_failures(ending.message)

    def check_all_over(self) -> None:
        """See whether all trials came to an end.

        Raises:
            UserError: With those that did not, through no fault of theirs.
        """
        if self.not_over:
            said = "; ".join(self.not_over.values())
            raise UserError(f"{len(self.not_over)} trials could not go on; the same command continues them ({said})")

    def label(self, number: int) -> str:
        """Say what is special about a trial."""
        settings = self.settings.get(number, {})
        named = zip(short_names(list(settings)), settings.values(), strict=True)
        return ", ".join(f"{name}={_short(value)}" for name, value in named)

    def _config(self, trial: Trial) -> TrainConfig:
        built = self.config.train_config(trial_directory(self.config.output, trial.number), trial.settings)
        return built.model_copy(update={"dataset": built.dataset.resolve()})

    def _check_failures(self, message: str) -> None:
        """Give up where nothing but failures has come.

        Raises:
            UserError: With the last failure.
        """
        ours = [trial.outcome for trial in self.study.trials() if trial.is_ours]
        if ours.count("error") >= FAILURES_TOLERATED and not {"completed", "pruned"} & set(ours):
            raise UserError(f"{ours.count('error')} trials failed and none succeeded; the last one: {message}")


def trial_directory(sweep: Path, number: int) -> Path:
    """Return where a trial's run is."""
    return sweep / "trials" / f"{number:04d}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
