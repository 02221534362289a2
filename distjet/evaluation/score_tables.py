"""What does a table of scores hold, and is it fit to be evaluated?

One row is one jet: its identity, its class, its kinematics, and for each method M and each class C the probability M_score_C.
Decisions a reader would question:

* The names of the classes, in the order of their labels, stand in the metadata of the Parquet file, so that a column cannot be
  mistaken for that of another class.
* Probabilities of a jet must add up to one: scores before the softmax, or those of a class that is missing, would give
  discriminants that look right.
* A discriminant is the logarithm of a ratio of probabilities. It orders jets like p_S / (p_S + p_B), but knows jets apart that
  are all one in single precision, which a rejection of 1000 is made of.

Legend of shapes: J jets, C classes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distjet.errors import DataError
from distjet.evaluation.joining import IDENTIFIERS, describe_row, rows_of_same_jets
from distjet.evaluation.reading import read_columns, reject, schema_of
from distjet.evaluation.tagging_config import DiscriminantConfig, TaggingConfig

if TYPE_CHECKING:
    import pyarrow as pa

Array = NDArray[np.float64]
Scores = NDArray[np.float32]

CLASSES_KEY = b"classes"
"Where the metadata of a Parquet file names the classes: a JSON list."
SCORE, SPREAD = "_score_", "_spread"
PT = "jet_pt"
SUM_TOLERANCE = 1e-3
"How far the sum of the probabilities of a jet may lie from one: half precision gets this far."
AGREEMENT = 1e-4
"Relative difference of a jet's pT in two tables, which may have been rounded differently."
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
"Stands for a probability that was too small to be written."


@dataclass(frozen=True)
class TaggedJets:
    """Jets of known classes with the scores of several methods."""

    classes: tuple[str, ...]
    "Names in the order of the labels."
    label: NDArray[np.intp]
    "Number of the class of each jet, shape (J,)."
    pt: Array
    "GeV, shape (J,)."
    mass: Array
    "GeV, shape (J,)."
    weight: Array
    "Event weights, or ones, shape (J,)."
    scores: dict[str, Scores]
    "Probabilities by method, shape (J, C)."
    spreads: dict[str, Scores]
    "Of ensembles: standard deviation of the probabilities over the members, shape (J, C)."
    identity: "pa.Table"
    "Identifiers, J rows."
    num_jets_total: int
    "Jets in the table, before any selection."
    source: Path

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the methods."""
        return tuple(self.scores)

    @property
    def num_jets(self) -> int:
        """Number of jets that are left."""
        return len(self.label)

    def select(self, keep: NDArray[Any]) -> "TaggedJets":
        """Keep some of the jets, given as a mask or as row numbers."""
        rows = np.flatnonzero(keep) if keep.dtype == bool else keep
        return replace(
            self,
            label=self.label[rows],
            pt=self.pt[rows],
            mass=self.mass[rows],
            weight=self.weight[rows],
            scores={method: some[rows] for method, some in self.scores.items()},
            spreads={method: some[rows] for method, some in self.spreads.items()},
            identity=self.identity.take(rows),
        )

    def of_classes(self, names: Sequence[str]) -> NDArray[np.bool_]:
        """Say which jets belong to one of the classes, shape (J,)."""
        return np.isin(self.label, [self.classes.index(name) for name in names])

    def log_odds(self, method: str, discriminant: DiscriminantConfig) -> Array:
        """Return ln(p_S / p_B) of the summed probabilities, shape (J,); 0 where both are as probable."""
        sums = (
            self.scores[method][:, [self.classes.index(name) for name in names]].sum(axis=1, dtype=np.float64)
            for names in (discriminant.signal, discriminant.background)
        )
        signal, background = (np.log(np.maximum(some, SMALLEST)) for some in sums)
        return signal - background


def holds_scores(path: Path) -> bool:
    """Whether a table is that of a tagger.

    Raises:
        DataError: If it does not exist.
    """
    schema = schema_of(path)
    return CLASSES_KEY in (schema.metadata or {}) or any(SCORE in name for name in schema.names)


def classes_of(path: Path) -> tuple[str, ...]:
    """Return the names of the classes of a table, in the order of their labels.

    Raises:
        DataError: If it does not exist, or does not say.
    """
    content = (schema_of(path).metadata or {}).get(CLASSES_KEY)
    names = json.loads(content) if content else None
    if not isinstance(names, list) or len(names) < 2 or len(set(names)) < len(names):
        raise DataError(
            f"{path} does not say what its classes are: expected the metadata 'classes' of the Parquet schema, a JSON list of "
            f"at least two names in the order of the labels (got {names})"
        )
    return tuple(names)


def read_scores(paths: Path | Sequence[Path], config: TaggingConfig) -> TaggedJets:
    """Read jets, their classes and the scores of all methods, or of those that are configured.

    Args:
        paths: A Parquet file, or a folder of them; or several, with other methods for the same jets.
        config: Methods, weights, mass and range of pT.

    Raises:
        DataError: If a table is absent or empty, does not name its classes, lacks a column, holds a value that is not finite or
            not a probability, or if tables do not hold the same jets.
    """
    first, *others = [_read(path, config) for path in ([paths] if isinstance(paths, Path) else paths)]
    for other in others:
        first = _joined(first, other)
    wanted = first.methods if config.methods is None else config.methods
    if absent := [method for method in wanted if method not in first.scores]:
        raise DataError(
            f"{first.source}: no columns {absent[0]}{SCORE}{first.classes[0]}, ... of the method {absent[0]!r}; there are "
            f"{list(first.methods)}"
        )
    if not wanted:
        raise DataError(f"{first.source}: no method found; expected columns like tagger{SCORE}{first.classes[0]}")
    first = replace(first, scores={method: first.scores[method] for method in wanted})
    if config.pt_range_gev is None:
        return first
    low, high = config.pt_range_gev
    chosen = first.select((first.pt >= low) & (first.pt < high))
    if chosen.num_jets == 0:
        raise DataError(f"{first.source} has no jet with a pT from {low:g} to {high:g} GeV")
    return chosen


def discriminants_of(classes: Sequence[str], config: TaggingConfig) -> dict[str, DiscriminantConfig]:
    """Return what is told from what, by name: those that are configured, then each signal from each background.

    Raises:
        DataError: If a class is not among the classes of the table.
    """
    backgrounds = config.background_classes or classes[:1]
    signals = config.signal_classes or [name for name in classes if name not in backgrounds]
    found = dict(config.discriminants)
    for signal in signals:
        for background in backgrounds:
            found.setdefault(f"{signal} vs {background}", DiscriminantConfig(signal=(signal,), background=(background,)))
    for name, some in found.items():
        if unknown := [item for item in (*some.signal, *some.background) if item not in classes]:
            raise DataError(f"the discriminant {name!r} needs the class {unknown[0]!r}; the table has {list(classes)}")
    return found


def discover_methods(names: Sequence[str], classes: Sequence[str]) -> tuple[str, ...]:
    """List the methods that have a score for every class, in the order of the table.

    Raises:
        DataError: If a method has scores of some classes only.
    """
    found = {name: {n for n in names if n.startswith(f"{name}{SCORE}")} for name in _beginnings(names)}
    for method, columns in found.items():
        if missing := [f"{method}{SCORE}{name}" for name in classes if f"{method}{SCORE}{name}" not in columns]:
            raise DataError(f"the method {method!r} has the scores {sorted(columns)}; missing: {missing}")
    return tuple(found)


def _beginnings(names: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(name.split(SCORE)[0] for name in names if SCORE in name))


def _read(path: Path, config: TaggingConfig) -> TaggedJets:
    classes, names = classes_of(path), schema_of(path).names
    try:
        methods = discover_methods(names, classes)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    methods = tuple(method for method in methods if config.methods is None or method in config.methods)
    needed = [*IDENTIFIERS, "label", PT, config.mass_column, *(["weight"] if config.use_weights else [])]
    if missing := [name for name in needed if name not in names]:
        raise DataError(f"{path}: expected the columns {needed}; missing: {missing}. The file has {sorted(names)}")
    scores = {method: [f"{method}{SCORE}{name}" for name in classes] for method in methods}
    spreads = {m: [f"{name}{SPREAD}" for name in some] for m, some in scores.items() if f"{some[0]}{SPREAD}" in names}
    columns = [name for some in (*scores.values(), *spreads.values()) for name in some]
    table = read_columns(path, [*needed, *columns])
    label = table["label"].to_numpy().astype(np.intp)
    reject((label < 0) | (label >= len(classes)), "label", f"a class from 0 to {len(classes) - 1}", (label, table, path))
    pt, mass = (_finite(table, name, path) for name in (PT, config.mass_column))
    weight = _finite(table, "weight", path) if config.use_weights else np.ones(len(label))
    reject(weight < 0, "weight", "not negative", (weight, table, path))
    return TaggedJets(
        classes,
        label,
        pt,
        mass,
        weight,
        {method: _probabilities(table, some, path) for method, some in scores.items()},
        {method: np.stack([_finite(table, name, path, np.float32) for name in some], 1) for method, some in spreads.items()},
        table.select(IDENTIFIERS),
        table.num_rows,
        path,
    )


def _finite(table: "pa.Table", name: str, path: Path, dtype: Any = np.float64) -> NDArray[Any]:
    values = table[name].to_numpy().astype(dtype)
    reject(~np.isfinite(values), name, "finite", (values, table, path))
    return values


def _probabilities(table: "pa.Table", names: Sequence[str], path: Path) -> Scores:
    columns = []
    for name in names:
        values = _finite(table, name, path, np.float32)
        reject((values < 0) | (values > 1 + SUM_TOLERANCE), name, "a probability between 0 and 1", (values, table, path))
        columns.append(values)
    found = np.stack(columns, 1)
    total = found.sum(axis=1, dtype=np.float64)
    what = f"the sum of {names[0]}, ..., {names[-1]}"
    reject(np.abs(total - 1) > SUM_TOLERANCE, what, "one, as that of all classes", (total, table, path))
    return found


def _joined(first: TaggedJets, other: TaggedJets) -> TaggedJets:
    """Add the methods of another table, in the order of the first, after a look at what both have."""
    if first.classes != other.classes:
        raise DataError(f"{first.source} has the classes {list(first.classes)}, {other.source} has {list(other.classes)}")
    if both := first.scores.keys() & other.scores.keys():
        raise DataError(f"{first.source} and {other.source} both have the method {min(both)!r}; two methods need two names")
    aligned = other.select(rows_of_same_jets((first.source, first.identity), (other.source, other.identity)))
    for name in ("label", "pt", "mass"):
        here, there = getattr(first, name), getattr(aligned, name)
        if np.any(differ := ~np.isclose(here, there, rtol=AGREEMENT, atol=AGREEMENT)):
            row = int(np.argmax(differ))
            raise DataError(
                f"the {name} differs: {here[row]} in {first.source}, {there[row]} in {other.source}, for the jet "
                f"({describe_row(first.identity, row)}) and {int(differ.sum())} in all. Both tables must be of one dataset."
            )
    return replace(first, scores=first.scores | aligned.scores, spreads=first.spreads | aligned.spreads)
