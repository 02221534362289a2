"""What is a classical chain, once it is fitted?

A list of steps and their numbers: one small JSON file that a person can read and another program can apply. Steps are applied
in order to the four-momentum at constituent scale, and one may stop after any of them, so that the chain with and without its
sequential part are two methods of one file.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from distjet.calibration.inversion import EnergyInversion, EtaCorrection
from distjet.calibration.jets import JET_COLUMNS, CalibratedJets, column, constituent_scale
from distjet.calibration.pileup import AreaSubtraction, ResidualCorrection
from distjet.calibration.sequential import SequentialCorrection
from distjet.config import Config, unknown, validate
from distjet.errors import DataError
from distjet.run_directory import read_json, write_json

CHAIN_FILE = "chain.json"
VERSION = 1
"Of the file; raised when a step is applied differently or a field means something else."

AnyStep = AreaSubtraction | ResidualCorrection | EnergyInversion | EtaCorrection | SequentialCorrection


class Chain(Config):
    """A fitted chain."""

    version: Literal[1] = 1
    "Of the format."
    dataset_fingerprint: str
    "Of the dataset that it was fitted to."
    steps: Annotated[tuple[Annotated[AnyStep, Field(discriminator="kind")], ...], Field(min_length=1)]
    "In the order in which they are applied."

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Chain":
        names = [step.name for step in self.steps]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two steps are called {repeated[0]!r}")
        return self

    @classmethod
    def load(cls, path: Path) -> "Chain":
        """Read a chain from its file.

        Raises:
            DataError: If there is none, or it is of another version.
            ConfigError: If its content is not that of a chain.
        """
        if not path.is_file():
            raise DataError(f"{path} does not exist; `distjet train` with a configuration that has the key `chain` makes it")
        content = read_json(path)
        if (found := content.get("version")) != VERSION:
            raise DataError(f"{path} has version {found!r}, this distjet reads version {VERSION}; fit the chain again")
        return validate(cls, content, prefix=f"{path}: ")

    def save(self, path: Path) -> None:
        """Write the chain; the file appears when it is complete."""
        write_json(path, self.model_dump(mode="json"))

    @property
    def step_names(self) -> tuple[str, ...]:
        """Names of the steps: area, residual, energy, eta, and the variables of the sequential ones."""
        return tuple(step.name for step in self.steps)

    @property
    def before_sequential(self) -> str | None:
        """Name of the last step before the sequential ones; None if there is no step before, or none after it."""
        others = [step.name for step in self.steps if not isinstance(step, SequentialCorrection)]
        return others[-1] if others and len(others) < len(self.steps) else None

    @property
    def needed_columns(self) -> tuple[str, ...]:
        """Names of all columns that the chain reads."""
        names = (*JET_COLUMNS, *(name for step in self.steps for name in step.needed_columns))
        return tuple(dict.fromkeys(names))

    @property
    def num_parameters(self) -> int:
        """How many numbers were fitted or chosen."""
        return _count_numbers(self.model_dump(include={"steps"}))

    def apply(self, columns: Mapping[str, NDArray[np.generic]], upto: str | None = None) -> CalibratedJets:
        """Calibrate jets.

        Args:
            columns: The columns `needed_columns` (of the steps that are applied), shape (J,) each; GeV and radians.
            upto: Name of the last step to apply; None for all.

        Raises:
            DataError: If there is no such step, a column is absent or a number is not finite.
        """
        if upto is not None and upto not in self.step_names:
            raise DataError("chain: " + unknown("step", upto, self.step_names))
        stages = self.stages(columns)
        name, jets = next(stages)
        while name != upto and (following := next(stages, None)) is not None:
            name, jets = following
        return jets

    def stages(self, columns: Mapping[str, NDArray[np.generic]]) -> Iterator[tuple[str, CalibratedJets]]:
        """Yield `raw` and each step's name with the jets after it."""
        jets = constituent_scale(columns)
        yield "raw", jets
        for step in self.steps:
            own = {name: column(columns, name, f"the step {step.name}") for name in step.needed_columns}
            jets = step.apply(jets, own)
            yield step.name, jets


def _count_numbers(content: Any) -> int:
    if isinstance(content, Mapping):
        return sum(_count_numbers(value) for value in content.values())
    if isinstance(content, list | tuple):
        return sum(_count_numbers(value) for value in content)
    return int(isinstance(content, int | float) and not isinstance(content, bool))
