"""What does a sweep remember, and what does it try next?

Optuna's storage is the only memory: a trial stands in it before it starts, its value after every epoch, and at the end what
became of it. So whoever opens it after a crash knows which trials are finished, which are half done, and what the sampler has
seen; and optuna-dashboard shows the same, live. Only the driver writes.
"""

import itertools
import json
import logging
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from distjet.errors import ConfigError, UserError
from distjet.tuning.pruning import Curve, should_stop
from distjet.tuning.sampler import build_sampler, without_announcements
from distjet.tuning.settings import ObjectiveConfig, TuneConfig, redact
from distjet.tuning.space import Settings, parameters_of, settings_of

logger = logging.getLogger(__name__)

JOURNAL_FILE = "study.journal"
QUEUED = "fixed_params"
"How Optuna calls, among a trial's system attributes, the point from the queue that it is."
OUTCOME, MESSAGE, EPOCHS, SECONDS, BEST_EPOCH = "outcome", "message", "epochs", "seconds", "best_epoch"
STOP_AT = "stop_at"
"After which epoch a trial is to end early; written before the epoch's value, so that a verdict cannot be lost."
LOSSES = "losses"
"In how many starts of the sweep a trial's processes died."
EARLIER = "earlier_sweep"
"Marks trials that were made by an earlier sweep: its name in its storage, a colon, their number there."
ABANDONED, WAITING = "abandoned", "waiting"
"A trial that a killed driver had begun to ask for, and never started; one that stands in the queue."

Outcome = Literal["completed", "pruned", "non_finite", "out_of_memory", "lost", "error"]
"What becomes of a trial; `lost` where its processes died in several starts of the sweep."
STATES = {"completed": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
"How Optuna calls it; everything else is a failure."
DIRECTIONS = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}


@dataclass(frozen=True)
class Trial:
    """A point of the space, and what is known about it."""

    number: int
    settings: Settings
    "Keys of the training."
    outcome: str
    "An `Outcome`, or `running`, `waiting`, `abandoned`."
    values: dict[str, float]
    "The objectives, of a trial that was completed."
    curve: dict[int, float]
    "The metric by which trials are stopped early, as it was reported, after each epoch."
    facts: dict[str, Any] = field(default_factory=dict)
    "Message, number of epochs, seconds, the earlier sweep that it came from."

    @property
    def is_ours(self) -> bool:
        """Whether this sweep has trained it, trains it, or has it in its queue."""
        return EARLIER not in self.facts and self.outcome != ABANDONED


class Study:
    """The memory of a sweep."""

    def __init__(self, config: TuneConfig, name: str, *, only_read: bool = False) -> None:
        """Open the storage, or make it.

        Args:
            config: The sweep.
            name: What it is called there, among other sweeps.
            only_read: Change nothing there; the sweep may belong to somebody else, or be running.

        Raises:
            UserError: If there is no such storage, no driver for it, or nothing of that name to be read.
        """
        self.config, self.name = config, name
        self.space = config.space
        if only_read:
            self.storage = _existing_storage(config)
            with _readable_errors(config):
                try:
                    self.study = optuna.load_study(study_name=name, storage=self.storage)
                except KeyError:
                    where = config.output / JOURNAL_FILE if config.storage is None else "it"
                    raise UserError(f"{where} has no sweep {name}") from None
            return
        self.storage = _open_storage(config)
        directions = [DIRECTIONS[objective.direction] for objective in config.objectives]
        with _readable_errors(config):
            self.study = optuna.create_study(storage=self.storage, study_name=name, directions=directions, load_if_exists=True)
            with without_announcements():
                self.study.set_metric_names([objective.metric for objective in config.objectives])
            if config.sampler.name == "grid":
                self._enqueue_grid()

    # --- which trial next ------------------------------------------------------------------------------------------

    @property
    def num_trials(self) -> int:
        """How many trials there are to be."""
        if self.config.sampler.name != "grid":
            return self.config.num_trials
        return int(np.prod([len(entry.grid()) for entry in self.space.values()]))

    def unfinished(self) -> list[Trial]:
        """Return the trials that an earlier driver left half done, to be continued first.

        One that it was still asking for has no settings and is given up; a point that came from the queue goes there again.
        """
        half_asked = [trial for trial in self._frozen(TrialState.RUNNING) if not self._is_drawn(trial)]
        self._enqueue(trial.system_attrs[QUEUED] for trial in half_asked if QUEUED in trial.system_attrs)
        for trial in half_asked:
            self.finish(trial.number, ABANDONED, {})
        return [self._read(trial) for trial in self._frozen(TrialState.RUNNING)]

    def ask(self) -> Trial | None:
        """Draw the next trial; None where there are enough, or no point of a grid is left."""
        if sum(trial.is_ours and trial.outcome != WAITING for trial in self.trials()) >= self.num_trials:
            return None
        if self.config.sampler.name == "grid" and not self._frozen(TrialState.WAITING):
            return None
        self.study.sampler = build_sampler(self.config, len(self.study.get_trials(deepcopy=False)))
        with without_announcements():
            asked = self.study.ask(fixed_distributions=parameters_of(self.space))
        return self._read(self._frozen_by_number(asked.number))

    # --- what became of it -----------------------------------------------------------------------------------------

    def report(self, number: int, row: Mapping[str, float]) -> bool:
        """Take the row of a finished epoch; return whether the trial goes on.

        Rows that are known already, because a continued trial reports all its epochs, are answered as they were.

        Raises:
            ConfigError: If the row lacks an objective.
        """
        for metric in [*(objective.metric for objective in self.config.objectives), self.stopping.metric]:
            if metric not in row:
                raise ConfigError(f"objectives: an epoch has no metric {metric!r}; it has {', '.join(sorted(row))}")
        trial = self._frozen_by_number(number)
        epoch = int(row["epoch"])
        stop_at = trial.user_attrs.get(STOP_AT, math.inf)
        if epoch not in trial.intermediate_values:
            value = float(row[self.stopping.metric])
            if stop_at == math.inf and self._should_stop(number, epoch, value):
                self._set(number, {STOP_AT: (stop_at := epoch)})
            self.storage.set_trial_intermediate_value(trial._trial_id, epoch, value)
        return epoch < stop_at

    def finish(self, number: int, outcome: str, facts: Mapping[str, Any], best: Mapping[str, float] | None = None) -> None:
        """Write down what became of a trial.

        Args:
            number: The trial.
            outcome: An `Outcome`.
            facts: What else is known: message, epochs, seconds.
            best: The row of the best epoch, of a trial that was completed.
        """
        self._set(number, {OUTCOME: outcome, **facts})
        values = [float((best or {})[objective.metric]) for objective in self.config.objectives] if best else None
        with without_announcements():
            self.study.tell(number, values, state=STATES.get(outcome, TrialState.FAIL))

    def lose(self, number: int) -> int:
        """Count a start in which the processes of a trial died, which stays half done; return how many there were."""
        times = self._frozen_by_number(number).user_attrs.get(LOSSES, 0) + 1
        self._set(number, {LOSSES: times})
        return int(times)

    def trials(self) -> list[Trial]:
        """Return all trials, by number."""
        return [self._read(trial) for trial in self.study.get_trials(deepcopy=False)]

    @property
    def stopping(self) -> ObjectiveConfig:
        """The metric by which trials are stopped early."""
        metric = self.config.scheduler.metric or self.config.objectives[0].metric
        found = [objective for objective in self.config.objectives if objective.metric == metric]
        return found[0] if found else ObjectiveConfig(metric=metric)

    @property
    def sign(self) -> int:
        """1 where less of that metric is better, -1 where more is."""
        return 1 if self.stopping.direction == "min" else -1

    @property
    def address(self) -> str:
        """What optuna-dashboard is given to show the sweep; a password is left out."""
        return str(self.config.output / JOURNAL_FILE) if self.config.storage is None else redact_url(self.config)

    # --- where to begin --------------------------------------------------------------------------------------------

    def observe(self, earlier: "Study") -> int:
        """Take trials of an earlier sweep as seen, those that lie in this space; return how many do.

        Their curves count for stopping early only where they are of the metric that decides here.
        """
        known = {trial.facts.get(EARLIER) for trial in self.trials()}
        named = {f"{earlier.name}:{trial.number}": trial for trial in earlier.finished() if self._holds(trial.params)}
        inside = {name: trial for name, trial in named.items() if name not in known}
        for name, trial in inside.items():
            self.study.add_trial(
                optuna.create_trial(
                    state=trial.state,
                    values=trial.values if trial.state == TrialState.COMPLETE else None,
                    params=trial.params,
                    distributions=parameters_of(self.space),
                    user_attrs={**trial.user_attrs, EARLIER: name},
                    intermediate_values=trial.intermediate_values if earlier.stopping == self.stopping else {},
                )
            )
        return len(inside)

    def begin_with(self, params: "list[dict[str, Any]]") -> int:
        """Put points first in the queue, with the parameters that this space has; return how many there are."""
        wanted = parameters_of(self.space)
        kept = [{k: v for k, v in point.items() if k in wanted and _contains(wanted[k], v)} for point in params]
        inside = [point for point in kept if point]
        self._enqueue(inside)
        return len(inside)

    def finished(self) -> list[FrozenTrial]:
        """Return Optuna's own records of the trials that were completed or stopped early."""
        return self._frozen(TrialState.COMPLETE, TrialState.PRUNED)

    def front(self) -> list[int]:
        """Return the numbers of the best trials: one, or the Pareto front; those of an earlier sweep that count as seen too."""
        complete = [trial for trial in self.trials() if trial.outcome == "completed"]
        signs = [1 if objective.direction == "min" else -1 for objective in self.config.objectives]
        named = [(sign, objective.metric) for sign, objective in zip(signs, self.config.objectives, strict=True)]
        points = {trial.number: tuple(sign * trial.values[metric] for sign, metric in named) for trial in complete}
        if len(signs) == 1:
            return sorted(points, key=lambda number: (points[number], number))[:1]
        return [number for number, point in points.items() if not any(dominates(other, point) for other in points.values())]

    # --- parts -----------------------------------------------------------------------------------------------------

    def _should_stop(self, number: int, epoch: int, value: float) -> bool:
        curves = {other.number: self._curve(other) for other in self.study.get_trials(deepcopy=False)}
        mine: Curve = {**curves.pop(number), epoch: self.sign * value}
        return should_stop(self.config.scheduler, epoch, mine, list(curves.values()))

    def _curve(self, trial: FrozenTrial) -> Curve:
        return {epoch: self.sign * value for epoch, value in trial.intermediate_values.items()}

    def _read(self, trial: FrozenTrial) -> Trial:
        attributes = dict(trial.user_attrs)
        unnamed = {TrialState.WAITING: WAITING, TrialState.RUNNING: "running"}
        outcome = attributes.pop(OUTCOME, unnamed.get(trial.state, ABANDONED))
        attributes.pop(STOP_AT, None)
        found = trial.values if trial.state == TrialState.COMPLETE else None  # Optuna gives a pruned one its last report
        return Trial(
            number=trial.number,
            settings=settings_of(self.space, trial.params) if self._is_drawn(trial) else {},
            outcome=outcome,
            values=dict(zip((o.metric for o in self.config.objectives), found or (), strict=False)),
            curve=dict(trial.intermediate_values),
            facts=attributes,
        )

    def _is_drawn(self, trial: FrozenTrial) -> bool:
        return set(trial.params) == set(parameters_of(self.space))

    def _frozen(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states)

    def _frozen_by_number(self, number: int) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[number]

    def _set(self, number: int, attributes: Mapping[str, Any]) -> None:
        trial_id = self._frozen_by_number(number)._trial_id
        for name, value in attributes.items():
            self.storage.set_trial_user_attr(trial_id, name, value)

    def _holds(self, params: Mapping[str, Any]) -> bool:
        wanted = parameters_of(self.space)
        return set(params) == set(wanted) and all(_contains(wanted[name], value) for name, value in params.items())

    def _enqueue_grid(self) -> None:
        values = {path: list(entry.grid()) for path, entry in self.space.items()}
        self._enqueue(dict(zip(values, point, strict=True)) for point in itertools.product(*values.values()))

    def _enqueue(self, points: Iterable[dict[str, Any]]) -> None:
        """Put points in the queue that are neither there nor drawn.

        Optuna's own `skip_if_exists` also skips what is merely close, and what a killed driver had begun to ask for.
        """
        there = [t for t in self.study.get_trials(deepcopy=False) if t.state == TrialState.WAITING or self._is_drawn(t)]
        known = {_as_text(trial.system_attrs.get(QUEUED, trial.params)) for trial in there}
        for point in points:
            if _as_text(point) not in known:
                known.add(_as_text(point))
                self.study.enqueue_trial(point)


def dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether `a` is nowhere worse than `b` and somewhere better; less is better."""
    return a != b and all(x <= y for x, y in zip(a, b, strict=True))


def _as_text(point: Mapping[str, Any]) -> str:
    return json.dumps(point, sort_keys=True)


def _contains(distribution: optuna.distributions.BaseDistribution, value: Any) -> bool:
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except ValueError:  # a label that is no choice, or text where a number is wanted
        return False


def mend_journal(journal: Path) -> None:
    """Drop what a killed process left half written: the last line, which would spoil the next one, and the lock."""
    lock = journal.with_name(f"{journal.name}.lock")
    if lock.is_symlink() or lock.exists():
        lock.unlink()
    if not journal.exists():
        return
    with journal.open("rb+") as file:
        content = file.read()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            logger.warning("%s ends in half a record, of a driver that was killed; it is dropped", journal)
            file.truncate(end)
            os.fsync(file.fileno())


def _open_storage(config: TuneConfig) -> BaseStorage:
    if config.storage is None:
        config.output.mkdir(parents=True, exist_ok=True)
        mend_journal(config.output / JOURNAL_FILE)
        (config.output / JOURNAL_FILE).touch()
    return _existing_storage(config)


def _existing_storage(config: TuneConfig) -> BaseStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if config.storage is None:
        journal = config.output / JOURNAL_FILE
        if not journal.is_file():
            raise UserError(f"{journal} is missing, which has the trials of the sweep")
        return JournalStorage(JournalFileBackend(str(journal)))
    with _readable_errors(config):
        return RDBStorage(config.storage.get_secret_value())


@contextmanager
def _readable_errors(config: TuneConfig) -> Iterator[None]:
    """Say which storage it is, without its password, where a database driver says what it wants."""
    if config.storage is None:
        yield
        return
    url = config.storage.get_secret_value()
    try:
        yield
    except Exception as error:
        message = redact(str(error), url)
        raise UserError(f"storage: cannot use {redact_url(config)}: {message}") from None


def redact_url(config: TuneConfig) -> str:
    """Return the storage as it may be shown."""
    return str(config.model_dump(mode="json")["storage"])
