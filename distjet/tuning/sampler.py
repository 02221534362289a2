"""Who proposes the next trial, and what of the sweep does it see?

A sampler is made anew for every trial and seeded with the trial's number, because a generator that lives in a process would
draw the same numbers again when a sweep continues. All else that samplers know is in the storage.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, CmaEsSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from distjet.tuning.settings import TuneConfig


def build_sampler(config: TuneConfig, number: int) -> BaseSampler:
    """Make the sampler of one trial.

    Args:
        config: The sweep.
        number: The trial's number.
    """
    seed = int(np.random.SeedSequence((config.seed, number)).generate_state(1)[0])
    sampler = config.sampler
    with without_announcements():
        if sampler.name == "tpe":
            tpe = TPESampler(n_startup_trials=sampler.num_startup_trials, seed=seed)
            return tpe if len(config.objectives) == 1 else SeesPrunedAsWorst(tpe)
        if sampler.name == "nsga2":
            return NSGAIISampler(population_size=sampler.population_size, seed=seed)
        if sampler.name == "cmaes":
            return CmaEsSampler(n_startup_trials=sampler.num_startup_trials, seed=seed)
        return RandomSampler(seed=seed)  # of a grid, the points stand in the queue


@contextmanager
def without_announcements() -> Iterator[None]:
    """Keep Optuna's announcements of experimental features to itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


class SeesPrunedAsWorst(BaseSampler):
    """Shows a sampler the trials that were stopped early as if they were the worst in every objective.

    With several objectives they have no order among themselves, and TPE, asked to sort them, raises.
    """

    def __init__(self, sampler: BaseSampler) -> None:
        self.sampler = sampler

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        """Ask the sampler."""
        return self.sampler.infer_relative_search_space(_View(study), trial)  # type: ignore[arg-type]

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, Any]) -> dict[str, Any]:
        """Ask the sampler."""
        return self.sampler.sample_relative(_View(study), trial, search_space)  # type: ignore[arg-type]

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: Any) -> Any:
        """Ask the sampler."""
        return self.sampler.sample_independent(_View(study), trial, param_name, param_distribution)  # type: ignore[arg-type]


class _View:
    """A study in which nothing was stopped early."""

    def __init__(self, study: optuna.Study) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def _get_trials(self, *arguments: Any, **options: Any) -> list[FrozenTrial]:
        """What samplers call to see the trials of a study."""
        trials = self._study._get_trials(*arguments, **options)
        columns = zip(*(trial.values for trial in trials if trial.state == TrialState.COMPLETE), strict=True)
        is_max = (direction == StudyDirection.MAXIMIZE for direction in self._study.directions)
        worst = [min(column) if largest else max(column) for column, largest in zip(columns, is_max, strict=False)]
        return [
            self._as_worst(trial, worst) if trial.state == TrialState.PRUNED else trial
            for trial in trials
            if worst or trial.state != TrialState.PRUNED
        ]

    @staticmethod
    def _as_worst(trial: FrozenTrial, worst: list[float]) -> FrozenTrial:
        shown = copy.copy(trial)
        shown.state, shown.values = TrialState.COMPLETE, worst
        return shown
