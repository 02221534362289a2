"""What may vary in a sweep, and over which range?

Each entry stands under a dotted path of a training's configuration and says how values are distributed. What a sampler draws
are parameters (numbers, and labels of choices); `settings` turns them into the keys of a training. So a simplex is one entry
with several keys, and a choice may hold whole mappings, though a sampler knows neither.

Distributions are components, chosen by name or import path: one of one's own derives its configuration from `Distribution`.
"""

import json
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from distjet.config import Component, ComponentConfig

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Settings = dict[str, Any]
"Values of a training's configuration by dotted path."


class Distribution(ComponentConfig):
    """One entry of a space."""

    @abstractmethod
    def parameters(self, path: str) -> "dict[str, BaseDistribution]":
        """Return what a sampler draws for the entry under `path`, by name."""

    @abstractmethod
    def settings(self, path: str, drawn: Mapping[str, Any]) -> Settings:
        """Return the keys of a training that drawn parameters stand for."""

    @abstractmethod
    def ends(self, path: str) -> list[Settings]:
        """Return the keys at the ends of the range: where they are valid, all between is meant to be."""

    @abstractmethod
    def grid(self) -> Sequence[Any]:
        """Return the values of a grid.

        Raises:
            ValueError: If the entry has none; the message ends the sentence `space.PATH ...`.
        """


class Range(Distribution):
    """An entry with one number between two ends."""

    num_points: int | None = Field(default=None, ge=2)
    "Values of a grid over the range, both ends among them."

    def settings(self, path: str, drawn: Mapping[str, Any]) -> Settings:
        """Return the number as it was drawn."""
        return {path: drawn[path]}

    def _spaced(self, low: float, high: float, *, log: bool) -> list[float]:
        if self.num_points is None:
            raise ValueError("needs num_points for a grid")
        if log:
            low, high = math.log(low), math.log(high)
        inner = [low + (high - low) * i / (self.num_points - 1) for i in range(1, self.num_points - 1)]
        return [math.exp(x) for x in inner] if log else inner


class UniformConfig(Range):
    """A real number, every value as likely."""

    name: str = "uniform"
    low: float
    high: float

    @model_validator(mode="after")
    def _is_a_range(self) -> "UniformConfig":
        return _ordered(self)

    @property
    def is_log(self) -> bool:
        """Whether ratios count, not differences."""
        return False

    def parameters(self, path: str) -> "dict[str, BaseDistribution]":
        """Draw the number itself."""
        from optuna.distributions import FloatDistribution

        return {path: FloatDistribution(self.low, self.high, log=self.is_log)}

    def ends(self, path: str) -> list[Settings]:
        """Return both ends."""
        return [{path: self.low}, {path: self.high}]

    def grid(self) -> Sequence[float]:
        """Return `num_points` equidistant values."""
        return [self.low, *self._spaced(self.low, self.high, log=self.is_log), self.high]


class LogUniformConfig(UniformConfig):
    """A positive real number, every order of magnitude as likely."""

    name: str = "loguniform"
    low: float = Field(gt=0)

    @property
    def is_log(self) -> bool:
        """Ratios count."""
        return True


class IntConfig(Range):
    """A whole number, both ends among them."""

    name: str = "int"
    low: int
    high: int
    log: bool = False
    "Whether every order of magnitude is as likely, instead of every number."
    step: int = Field(default=1, ge=1)
    "Distance between numbers, counted from low."

    @model_validator(mode="after")
    def _is_a_range(self) -> "IntConfig":
        if self.log and (self.low < 1 or self.step != 1):
            raise ValueError("log needs low >= 1 and step 1")
        if (self.high - self.low) % self.step:
            raise ValueError(f"high must be low plus a multiple of step (got {self.low}, {self.high}, step {self.step})")
        return _ordered(self)

    def parameters(self, path: str) -> "dict[str, BaseDistribution]":
        """Draw the number itself."""
        from optuna.distributions import IntDistribution

        return {path: IntDistribution(self.low, self.high, log=self.log, step=self.step)}

    def ends(self, path: str) -> list[Settings]:
        """Return both ends."""
        return [{path: self.low}, {path: self.high}]

    def grid(self) -> Sequence[int]:
        """Return all numbers, or `num_points` of them."""
        if self.num_points is None and not self.log:
            return range(self.low, self.high + 1, self.step)
        inner = (
            self.low + self.step * round((x - self.low) / self.step) for x in self._spaced(self.low, self.high, log=self.log)
        )
        return sorted({self.low, *inner, self.high})


class ChoiceConfig(Distribution):
    """One of several values, which may be anything that the configuration takes there, also mappings."""

    name: str = "choice"
    values: list[Any] = Field(min_length=1)

    @model_validator(mode="after")
    def _differ(self) -> "ChoiceConfig":
        if len(set(self.labels())) < len(self.values):
            raise ValueError("the values of a choice must differ")
        return self

    def labels(self) -> list[Any]:
        """Return what stands for each value where it is drawn: itself, or JSON where it is a list or a mapping."""
        return [v if isinstance(v, str | bool | int | float | None) else json.dumps(v, sort_keys=True) for v in self.values]

    def parameters(self, path: str) -> "dict[str, BaseDistribution]":
        """Draw a label."""
        from optuna.distributions import CategoricalDistribution

        return {path: CategoricalDistribution(self.labels())}

    def settings(self, path: str, drawn: Mapping[str, Any]) -> Settings:
        """Return the value that the label stands for."""
        return {path: self.values[self.labels().index(drawn[path])]}

    def ends(self, path: str) -> list[Settings]:
        """Return every value: none is between others."""
        return [{path: value} for value in self.values]

    def grid(self) -> Sequence[Any]:
        """Return the labels."""
        return self.labels()


class SimplexConfig(Distribution):
    """Weights that add up to a total, all such combinations as likely; for weights of loss terms.

    The last weight follows from the others, so one parameter less is drawn: each breaks a part off what is left of the total
    (stick-breaking), with the power that makes the density on the simplex flat.
    """

    name: str = "simplex"
    paths: list[str] = Field(min_length=2)
    "Dotted paths of the weights; the entry's own name is only a name."
    total: float = Field(default=1.0, gt=0)
    "What the weights add up to."
    low: float = Field(default=0.0, ge=0)
    "Least weight."

    @model_validator(mode="after")
    def _leaves_room(self) -> "SimplexConfig":
        if len(set(self.paths)) < len(self.paths):
            raise ValueError("the paths of a simplex must differ")
        if self.low * len(self.paths) >= self.total:
            raise ValueError(f"{len(self.paths)} weights of at least {self.low:g} leave nothing of a total of {self.total:g}")
        return self

    def parameters(self, path: str) -> "dict[str, BaseDistribution]":
        """Draw one number between 0 and 1 for each weight but the last."""
        from optuna.distributions import FloatDistribution

        return {f"{path}[{index}]": FloatDistribution(0.0, 1.0) for index in range(len(self.paths) - 1)}

    def settings(self, path: str, drawn: Mapping[str, Any]) -> Settings:
        """Break the total into weights."""
        free, weights = self.total - self.low * len(self.paths), []
        for index in range(len(self.paths) - 1):
            part = 1 - (1 - drawn[f"{path}[{index}]"]) ** (1 / (len(self.paths) - 1 - index))
            weights.append(free * part)
            free -= free * part
        return {key: self.low + weight for key, weight in zip(self.paths, [*weights, free], strict=True)}

    def ends(self, path: str) -> list[Settings]:
        """Return the corners: everything that is free to one weight."""
        del path
        largest = self.total - self.low * (len(self.paths) - 1)
        return [{key: largest if key == top else self.low for key in self.paths} for top in self.paths]

    def grid(self) -> Sequence[Any]:
        """Refuse."""
        raise ValueError("is a simplex, which has no grid; use another sampler")


DISTRIBUTIONS = {
    name: Component(f"distjet.tuning.space:{config}", f"distjet.tuning.space:{config}")
    for name, config in (
        ("uniform", "UniformConfig"),
        ("loguniform", "LogUniformConfig"),
        ("int", "IntConfig"),
        ("choice", "ChoiceConfig"),
        ("simplex", "SimplexConfig"),
    )
}

Space = Mapping[str, Distribution]
"Entries by dotted path."


def settings_of(space: Space, drawn: Mapping[str, Any]) -> Settings:
    """Turn all drawn parameters into keys of a training."""
    return {key: value for path, entry in space.items() for key, value in entry.settings(path, drawn).items()}


def parameters_of(space: Space) -> "dict[str, BaseDistribution]":
    """Return all that a sampler draws, by name."""
    return {name: value for path, entry in space.items() for name, value in entry.parameters(path).items()}


def grouped(given: Any) -> Any:
    """Accept nested mappings for dotted paths, so that `space.optimizer.lr.low=1e-4` on the command line finds its entry.

    A key with dots and nested keys mean the same; the later one wins, key by key.
    """
    if not isinstance(given, Mapping):
        return given
    entries: dict[str, dict[str, Any]] = {}
    for path, key, value in _leaves(given, ""):
        entries.setdefault(path, {})[key] = value
    return entries


def _leaves(given: Mapping[str, Any], prefix: str) -> "list[tuple[str, str, Any]]":
    leaves: list[tuple[str, str, Any]] = []
    for key, value in given.items():
        full = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            leaves += _leaves(value, full)
        else:
            path, _, name = full.rpartition(".")
            leaves.append((path, name, value))
    return leaves


def _ordered(entry: Any) -> Any:
    if entry.low >= entry.high:
        raise ValueError(f"low must be below high (got {entry.low:g} and {entry.high:g})")
    return entry
