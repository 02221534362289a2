"""What is evaluated: which tables hold the methods of which process, and what is known of the trainings behind them?"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Facts = Mapping[str, Any]
"""What is known of a training: `num_parameters`, `train_seconds`, `infer_seconds_per_jet`, `val_loss`, `best_epoch`, `seed`,
`run`; any may be absent."""


@dataclass(frozen=True)
class Process:
    """Jets of one kind of collisions, with the predictions of all methods."""

    label: str
    "How the report calls it, e.g. QCD; empty if there is one only."
    tables: tuple[Path, ...]
    "Parquet files (or folders of them) with the same jets, each with other methods."
    seeds: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    "Per method one table for each training that differs in its seed alone, in the order of `Sources.seeds`."
    variations: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    "Of taggers, by name: tables of the same methods on jets with something changed, e.g. another shower."


@dataclass(frozen=True)
class Sources:
    """All that an evaluation compares."""

    processes: tuple[Process, ...]
    "The first is the one that most of the report is about."
    training: Mapping[str, Facts] = field(default_factory=dict)
    "What is known of the training of each method."
    seeds: Mapping[str, tuple[Facts, ...]] = field(default_factory=dict)
    "What is known of the trainings that differ in their seeds, by method."

    @classmethod
    def of_table(cls, path: Path) -> "Sources":
        """One table, of whatever process."""
        return cls((Process("", (path,)),))
