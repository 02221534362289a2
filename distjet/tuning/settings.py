"""What can be configured about a sweep, and how does a point of its space become a training?

A sweep is data: a base configuration, a space, objectives. Both ends of every range are tried on the driver, by building the
training that they would be, so that no trial fails on a GPU for what could be known before. Imports neither torch nor ray.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote_plus, unquote, unquote_plus

from pydantic import BeforeValidator, Field, SecretStr, field_serializer, model_validator

from distjet.config import Config, component_type, load
from distjet.errors import ConfigError
from distjet.storage import Location, Place, is_remote
from distjet.training.settings import TAGGING_METRICS, TrainConfig
from distjet.tuning.space import DISTRIBUTIONS, Settings, Space, grouped

AnyDistribution: Any = component_type("distribution", DISTRIBUTIONS, "uniform")

WHY_NO_PBT = (
    "{name} copies the weights of good trials over bad ones through Ray Tune's checkpoints; trainings run on Ray Train V2, "
    "which hands Tune none, so the two do not compose. Use asha, which stops bad trials early"
)


SHORTEST_SECRET = 3
"Parts of a password with fewer characters stand in ordinary words, too."


class ObjectiveConfig(Config):
    """One number to make small or large."""

    metric: str
    """A metric of an epoch, as in history.jsonl: val_mean_abs_bias, val_max_abs_bias, val_mean_resolution, val_loss, ... A
    trial's value is that of its best epoch by selection.metric, whose weights the run keeps."""
    direction: Literal["min", "max"] = "min"
    "Whether less or more is better."

    def __str__(self) -> str:
        return f"{self.metric}: {self.direction}"


class SamplerConfig(Config):
    """Who proposes the next trial."""

    name: Literal["tpe", "nsga2", "cmaes", "random", "grid"] = "tpe"
    """tpe: where good trials are denser than bad ones, also for several objectives; nsga2: evolution, for several objectives;
    cmaes: an adapting normal distribution, for one objective and numbers; random; grid: every combination once."""
    num_startup_trials: int = Field(default=10, ge=1)
    "tpe, cmaes: random trials at the beginning."
    population_size: int = Field(default=20, ge=2)
    "nsga2: trials of a generation."


class SchedulerConfig(Config):
    """Which trials are stopped before their last epoch."""

    name: Literal["asha", "median", "none"] = "asha"
    """asha: at epochs min_epochs * reduction_factor^k, who is not among the best 1/reduction_factor of those that came so far;
    median: at every epoch, who is worse than the median of the others there; none: every trial is trained to its end."""
    metric: str | None = None
    "Metric of an epoch that decides, with the direction of the objective of that name (else min); null: the first objective."
    min_epochs: int = Field(default=1, ge=1)
    "No trial is stopped before."
    reduction_factor: int = Field(default=3, ge=2)
    "asha: one of so many goes on."
    min_trials: int = Field(default=5, ge=1)
    "median: no trial is stopped before so many others have come to its epoch."


class WarmStartConfig(Config):
    """What to take from an earlier sweep."""

    sweep: Location
    "Output of an earlier `distjet tune`."
    use: Literal["observations", "best"] = "observations"
    """observations: its trials count as seen, which needs the same base configuration and data; best: its best trials are
    trained first, which also helps where the data or the number of epochs are others."""
    num_best: int = Field(default=5, ge=1)
    "best: how many."


def as_name(given: Any) -> Any:
    """Accept a name for a mapping that has one."""
    return {"name": given} if isinstance(given, str) else given


def as_scheduler(given: Any) -> Any:
    """Accept a name, and say why population-based training is not among them."""
    given = as_name(given)
    if isinstance(given, Mapping) and given.get("name") in ("pbt", "pb2"):
        raise ValueError(WHY_NO_PBT.format(name=given["name"]))
    return given


def as_objectives(given: Any) -> Any:
    """Accept the name of one metric, and `{metric: direction}`."""
    if isinstance(given, str):
        return [{"metric": given}]
    if isinstance(given, Mapping) and "metric" not in given:
        return [{"metric": metric, "direction": direction} for metric, direction in given.items()]
    return [given] if isinstance(given, Mapping) else given


def as_warm_start(given: Any) -> Any:
    """Accept the folder of a sweep."""
    return {"sweep": given} if isinstance(given, str | Path) else given


OF_CALIBRATORS = ("val_mean_abs_bias", "val_max_abs_bias", "val_mean_resolution")
"Metrics that no tagger has."


class TuneConfig(Config):
    """One sweep."""

    output: Location
    "The sweep's directory; trial N is an ordinary run in trials/000N."
    base: dict[str, Any]
    """The training that is varied: keys of `distjet train`, and `files` with the files that it would be given.
    base.resources is what one trial takes."""
    space: Annotated[dict[str, AnyDistribution], BeforeValidator(grouped)] = Field(min_length=1)
    """What varies: dotted keys of `distjet train`, each {name: uniform or loguniform, low, high}, {name: int, low, high, log,
    step}, {name: choice, values}, or ANY_NAME: {name: simplex, paths, total, low} for weights of the loss."""
    objectives: Annotated[list[ObjectiveConfig], BeforeValidator(as_objectives)] = Field(
        default=[ObjectiveConfig(metric="val_mean_abs_bias")], min_length=1
    )
    "What is made small (or large): a metric of an epoch, or several as {metric: min, metric: max}."
    sampler: Annotated[SamplerConfig, BeforeValidator(as_name)] = SamplerConfig()
    "Who proposes trials: a name, or a mapping."
    scheduler: Annotated[SchedulerConfig, BeforeValidator(as_scheduler)] = SchedulerConfig()
    "Who stops trials early: a name, or a mapping."
    seed: int = Field(default=1, ge=0)
    "Determines what the sampler draws; the seed of the trainings is base.seed."
    num_trials: int = Field(default=50, ge=1)
    "Trials, with those that were stopped early or failed; a finished sweep goes on where this is raised. A grid has its own."
    max_concurrent: int | None = Field(default=None, ge=0)
    """Trials at the same time; null: as many as the cluster has room for, at base.resources each; 0: one after the other in
    this process, without Ray Tune."""
    storage: Annotated[SecretStr | None, Place()] = None
    """Where Optuna keeps the trials: a database URL (postgresql://..., ${oc.env:NAME} to keep its password off the command
    line); null: the file study.journal in output. `optuna-dashboard` shows both, live."""
    warm_start: Annotated[WarmStartConfig | None, BeforeValidator(as_warm_start)] = None
    "An earlier sweep: its folder, or a mapping."

    @field_serializer("storage")
    def _without_password(self, storage: SecretStr | None) -> str | None:
        return None if storage is None else without_password(storage.get_secret_value())

    @model_validator(mode="after")
    def _fits_together(self) -> "TuneConfig":
        names = [objective.metric for objective in self.objectives]
        if len(set(names)) < len(names):
            raise ValueError("the objectives must differ")
        if is_remote(self.output) and self.storage is None:
            raise ValueError("a journal file needs an output that is a folder; give storage=URL of a database")
        if self.sampler.name == "cmaes" and len(names) > 1:
            raise ValueError("cmaes has one objective; use tpe or nsga2 for several")
        for key in ("output", "ensemble"):
            if key in self.base:
                raise ValueError(f"base.{key} is not for trials: each has its own directory and is one training")
        return self

    @model_validator(mode="after")
    def _has_a_grid(self) -> "TuneConfig":
        for path, entry in self.space.items() if self.sampler.name == "grid" else ():
            try:
                entry.grid()
            except ValueError as error:
                raise ValueError(f"space.{path} {error}") from error
        return self

    def parts(self) -> Mapping[str, Config]:
        """Build the base training, at every end of the space; see `check_ends`."""
        return {"base": check_ends(self).model_copy(update={"output": self.output})}

    def train_config(self, output: Path, settings: Settings) -> TrainConfig:
        """Build the training with these keys.

        Raises:
            ConfigError: If it is not valid.
        """
        section = {**self.base, "output": str(output)}
        overrides = [f"{path}={json.dumps(value)}" for path, value in settings.items()]
        return load(TrainConfig, section.pop("files", []), overrides, section=section, prefix="base.")

    def identity(self, fingerprint: str) -> dict[str, Any]:
        """Return what defines the trials: not how many, not where they run or are kept, not what was known before."""
        content = self.model_dump(mode="json", include={"space", "objectives", "sampler", "scheduler", "seed"})
        return content | {"base": base_of(self, fingerprint)}


def base_of(config: TuneConfig, fingerprint: str) -> dict[str, Any]:
    """Return the identity of the base training, without the keys that vary: trials of sweeps that share it can be compared."""
    first = settings_at_first_ends(config.space)
    return config.train_config(Path("trial"), first).identity(fingerprint)


def settings_at_first_ends(space: Space) -> Settings:
    """Return one point of the space: every entry at its first end."""
    return {key: value for path, entry in space.items() for key, value in entry.ends(path)[0].items()}


def check_ends(config: TuneConfig) -> TrainConfig:
    """Build the training at every end of every range, and at all last ends together.

    Returns:
        One of these trainings, for what all have in common.

    Raises:
        ConfigError: With every end that is not valid, or an entry that changes nothing.
    """
    problems: list[str] = []
    identities: dict[str, list[dict[str, Any]]] = {}
    first = settings_at_first_ends(config.space)
    for path, settings in _corners(config.space):
        try:
            built = config.train_config(Path("trial"), first | settings)
        except ConfigError as error:
            problems += _named(str(error), settings)
        else:
            identities.setdefault(path, []).append(built.identity(""))
    problems += [
        f"space.{path} does not change the training: all of its values are the same run"
        for path, found in identities.items()
        if len(found) > 1 and all(one == found[0] for one in found)
    ]
    if problems:
        raise ConfigError("\n".join(dict.fromkeys(problems)))
    base = config.train_config(Path("trial"), first)
    _check_objectives(config.objectives, is_tagger=base.loss.label is not None)
    return base


def _check_objectives(objectives: Sequence[ObjectiveConfig], *, is_tagger: bool) -> None:
    """Refuse metrics of the other kind of training, before a trial has ended without them."""
    of_taggers = {f"val_{metric}" for metric in TAGGING_METRICS}
    for objective in objectives:
        if is_tagger and objective.metric in OF_CALIBRATORS:
            raise ConfigError(f"objectives: {objective.metric!r} is not known of a tagger; for example {{val_auc: max}}")
        if not is_tagger and objective.metric in of_taggers:
            raise ConfigError(
                f"objectives: {objective.metric!r} is known of taggers alone; for example {{val_mean_abs_bias: min}}"
            )


def _named(message: str, settings: Settings) -> list[str]:
    """Say of each problem that it is one of the space, or at which end one of the base shows itself."""
    lines = [line.replace("command line: base.", "space.") for line in message.splitlines()]
    ours = tuple(f"space.{path}" for path in settings)
    return [line if line.startswith(("space.", *ours)) else f"{line} (with {_shown(settings)})" for line in lines]


def _corners(space: Space) -> Iterator[tuple[str, Settings]]:
    for path, entry in space.items():
        for settings in entry.ends(path):
            yield path, settings
    yield "*", {key: value for path, entry in space.items() for key, value in entry.ends(path)[-1].items()}


def _shown(settings: Settings) -> str:
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def without_password(url: str) -> str:
    """Return a database URL that can be shown: the password, and whatever stands behind `?`, give way to `***`.

    A password that is not percent-encoded may hold any character, so it is taken to reach to the last @: a database would read
    some of it as the name of a server, and it would be shown.
    """
    protocol, mark, rest = url.partition("://")
    account, at, place = rest.rpartition("@")
    user, colon, _ = account.partition(":")
    return re.sub(r"\?.*$", "?***", f"{protocol}{mark}{user}{':***' if colon else ''}{at}{place}", flags=re.DOTALL)


def redact(text: str, url: str) -> str:
    """Remove a URL and its password, also the parts that a database driver takes for something else, from its message."""
    account, _, _ = url.partition("://")[2].rpartition("@")
    password = account.partition(":")[2]
    parts = [part for part in re.split(r"[@/:?#]", password) if len(part) >= SHORTEST_SECRET]
    secrets = {url, unquote_plus(url), password, unquote_plus(password), unquote(password), *parts, *map(unquote, parts)} - {""}
    for secret in sorted({*secrets, *map(quote_plus, secrets)}, key=len, reverse=True):
        text = text.replace(secret, "***")
    return text
