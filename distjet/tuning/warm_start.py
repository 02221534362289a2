"""What does a sweep take over from an earlier one?

Either its trials as if this sweep had made them, which is right only where they would have had the same values: the same data
and the same training but for what varies. Or the points of its best trials, to be tried first, which needs nothing.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import FrozenTrial, TrialState

from distjet.config import validate
from distjet.errors import ConfigError, DataError
from distjet.run_directory import IDENTITY_FILE, differing_keys, read_json
from distjet.tuning.settings import TuneConfig, without_password
from distjet.tuning.space import Space, parameters_of
from distjet.tuning.study import Study

logger = logging.getLogger(__name__)


def warm_start(config: TuneConfig, study: Study, identity: Mapping[str, Any]) -> None:
    """Take over what is wanted from an earlier sweep; doing it again changes nothing.

    Args:
        config: The new sweep.
        study: Its memory.
        identity: What defines it.

    Raises:
        ConfigError: If the earlier trials cannot be compared, or their storage is not known.
        DataError: If there is no earlier sweep.
    """
    if config.warm_start is None:
        return
    sweep = config.warm_start.sweep
    if not (sweep / IDENTITY_FILE).is_file() or (marker := read_json(sweep / IDENTITY_FILE))["verb"] != "tune":
        raise DataError(f"warm_start.sweep: {sweep} is not the output of `distjet tune`")
    earlier_config = validate(TuneConfig, yaml.safe_load((sweep / "config.yaml").read_text()))
    _check_objectives(earlier_config, config)
    if config.warm_start.use == "observations":
        _check_comparable(marker["config"], identity, (earlier_config.space, config.space))
    name = read_json(sweep / "study.json")["study"]
    earlier = Study(_with_storage(earlier_config, sweep, config), name, only_read=True)
    if config.warm_start.use == "observations":
        number = study.observe(earlier)
        logger.info("%d trials of %s count as seen", number, sweep)
    else:
        number = study.begin_with([trial.params for trial in best_trials(earlier, config.warm_start.num_best)])
        logger.info("%d trials of %s are tried first", number, sweep)


def best_trials(study: Study, number: int) -> list[FrozenTrial]:
    """Return the best trials of a sweep: by the only objective, or the Pareto front, as many as are wanted."""
    complete = {trial.number: trial for trial in study.finished() if trial.state == TrialState.COMPLETE}
    if len(study.config.objectives) > 1:
        return [complete[found] for found in study.front()[:number]]
    sign = 1 if study.config.objectives[0].direction == "min" else -1
    return sorted(complete.values(), key=lambda trial: (sign * (trial.value or 0.0), trial.number))[:number]


def _check_objectives(earlier: TuneConfig, config: TuneConfig) -> None:
    if earlier.objectives != config.objectives:
        theirs = ", ".join(f"{objective.direction} {objective.metric}" for objective in earlier.objectives)
        raise ConfigError(f"warm_start.sweep: the earlier sweep has other objectives: {theirs}")


def _check_comparable(earlier: Mapping[str, Any], now: Mapping[str, Any], spaces: tuple[Space, Space]) -> None:
    """Compare the two trainings in all that varies in neither sweep."""
    if parameters_of(spaces[0]).keys() != parameters_of(spaces[1]).keys():
        raise ConfigError("warm_start.use: observations needs the same keys in both spaces; use best")
    varied = tuple({key for space in spaces for path, entry in space.items() for key in entry.ends(path)[0]})
    different = [
        key
        for key in differing_keys(earlier["base"], now["base"])
        if not any(key == path or key.startswith(f"{path}.") for path in varied)
    ]
    if different:
        raise ConfigError(f"warm_start.use: observations needs the same training (different: {', '.join(different)}); use best")


def _with_storage(earlier: TuneConfig, sweep: Path, config: TuneConfig) -> TuneConfig:
    """Find the storage of an earlier sweep: its folder may have moved, and the password of a database is not written down."""
    if earlier.storage is None:
        return earlier.model_copy(update={"output": sweep})
    wanted = earlier.storage.get_secret_value()
    if config.storage is None or without_password(config.storage.get_secret_value()) != wanted:
        raise ConfigError(f"warm_start.sweep: its trials are in {wanted}; give the same storage=... here")
    return earlier.model_copy(update={"output": sweep, "storage": config.storage})
