"""How does a range of entries become rows of the dataset? The first of the two passes of `distjet prepare`.

A task is a pure function of one frozen dataclass: it reads branches, applies the cuts in order, evaluates the columns,
builds the graphs and writes one spill file whose rows are sorted by split and by their place in the shuffle. Spill and
record appear atomically, and their name depends on the task, so a task that ran already returns its record at once.

Each jet has exactly one fate, decided in this order: the cuts (where a condition is NaN, the jet is quarantined), an empty
graph (a cut), a label that is not unique or a number that is not finite (quarantined), else it is a row.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from distjet.config import validate
from distjet.dataset import hashing
from distjet.dataset.association import open_scope
from distjet.dataset.definitions import required_branches
from distjet.dataset.expressions import Level
from distjet.dataset.recipe import CUT_EMPTY_GRAPH, CUT_UNMATCHED, Recipe
from distjet.dataset.root import Ragged, read_branches
from distjet.dataset.rows import evaluate_columns, evaluate_key, find_bad_jets, identify, make_table
from distjet.dataset.schema import SPLITS, dataset_columns
from distjet.dataset.scope import Scope
from distjet.dataset.shards import write_spill
from distjet.errors import DataError
from distjet.run_directory import identity_hash, read_json, write_json

SPILL_VERSION = 2
"Raised when the content of a spill changes for the same task."


@dataclass(frozen=True)
class ConvertTask:
    """One range of entries of one file.

    Attributes:
        path: ROOT file.
        uuid: Identity of its content.
        sample: Name of the sample.
        start: First entry.
        stop: One past the last entry.
        recipe: The recipe as plain values.
        integer_spectators: Spectators that stay whole numbers.
        seed: Of the split and the shuffle.
        train: Fraction of events for training.
        val: Fraction of events for validation.
        work: Folder for spills and records.
    """

    path: str
    uuid: str
    sample: str
    start: int
    stop: int
    recipe: dict[str, Any]
    integer_spectators: tuple[str, ...]
    seed: int
    train: float
    val: float
    work: str

    def stem(self) -> Path:
        """Return the path of the spill and the record, without suffix."""
        inputs = {key: value for key, value in asdict(self).items() if key != "work"}
        return Path(self.work) / f"rows-{identity_hash(inputs | {'version': SPILL_VERSION})}"


class Quarantined(NamedTuple):
    """Why a jet cannot be a row."""

    entry: int
    jet_index: int
    reason: str


class Fates:
    """What becomes of each jet of a range: kept, cut (by which cut) or quarantined (why)."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.read = scope.num_jets
        self.cuts: dict[str, int] = {}
        self.quarantined: list[Quarantined] = []

    def cut(self, name: str, condition: np.ndarray) -> None:
        """Keep the jets for which a condition holds; quarantine those for which it is NaN."""
        unknown = np.isnan(condition)
        self.quarantine(np.where(unknown, 0, -1), [f"cut {name!r} is not a number"])
        passed = condition[~unknown] != 0
        self.cuts[name] = int((~passed).sum())
        self._select(passed)

    def quarantine(self, reason_number: np.ndarray, reasons: Sequence[str]) -> None:
        """Take jets out that cannot be used: their number among `reasons`, -1 for the good ones, shape (J,)."""
        entry, position = self.scope.entry, self.scope.position
        for jet in np.flatnonzero(reason_number >= 0):
            self.quarantined.append(Quarantined(int(entry[jet]), int(position[jet]), reasons[reason_number[jet]]))
        self._select(reason_number < 0)

    def _select(self, keep: np.ndarray) -> None:
        if not keep.all():
            self.scope.select(keep)


def convert(task: ConvertTask) -> dict[str, Any]:
    """Write the spill of a range of entries.

    Returns:
        The record: `spill` (path), `split_rows` (rows of train, val and test), `read`, `rows`, `cuts` {name: jets},
        `quarantined` [(entry, jet_index, reason)]; or `error` (why the file cannot be used).
    """
    stem = task.stem()
    record_path = stem.with_suffix(".json")
    if record_path.exists():
        return read_json(record_path)
    recipe = validate(Recipe, task.recipe)
    try:
        branches = read_branches(task.path, recipe.tree, required_branches(recipe), task.start, task.stop)
        table, fates = build_rows(task, recipe, branches)
    except DataError as error:
        return {"error": str(error)}
    spill = stem.with_suffix(".arrow")
    write_spill(spill, table.drop_columns("split"))
    record = {
        "spill": str(spill),
        "split_rows": np.bincount(table["split"].to_numpy(), minlength=len(SPLITS)).tolist(),
        "read": fates.read,
        "rows": table.num_rows,
        "cuts": fates.cuts,
        "quarantined": [(task.start + jet.entry, jet.jet_index, jet.reason) for jet in fates.quarantined],
    }
    write_json(record_path, record)
    return record


def build_rows(task: ConvertTask, recipe: Recipe, branches: dict[str, Ragged]) -> tuple[pa.Table, Fates]:
    """Evaluate a recipe on the branches of a range of entries.

    Returns:
        The rows, sorted by split, shuffle key and identity, with the columns of the dataset except `sample`, and `split` and
        `key` in front; and what became of every jet.
    """
    scope = open_scope(recipe, branches, task.stop - task.start, task.sample)
    fates = Fates(scope)
    apply_cuts(recipe, scope, fates)
    columns = [column for column in dataset_columns(recipe, task.integer_spectators) if column.name != "sample"]
    values = evaluate_columns(recipe, scope, columns)
    reason_number, reasons = find_bad_jets(recipe, scope, columns, values)
    if (reason_number >= 0).any():
        fates.quarantine(reason_number, reasons)
        values = evaluate_columns(recipe, scope, columns)
    values |= identify(recipe, scope, task.uuid, task.start)
    return sort_rows(task, make_table(recipe, scope, columns, values)), fates


def apply_cuts(recipe: Recipe, scope: Scope, fates: Fates) -> None:
    """Apply the truth match, the recipe's cuts in order, and the cut on graphs without a constituent."""
    if recipe.truth is not None and recipe.truth.is_collection:
        fates.cut(CUT_UNMATCHED, scope.evaluate(CUT_UNMATCHED, Level.JET))
    for cut in recipe.cuts:
        fates.cut(cut.name, evaluate_key(scope, f"cuts.{cut.name}", cut.value, Level.JET).astype(np.float64))
    if recipe.constituents is not None:
        fates.cut(CUT_EMPTY_GRAPH, (scope.counts > 0).astype(np.float64))


def sort_rows(task: ConvertTask, table: pa.Table) -> pa.Table:
    """Add `split` and `key` and sort by them; rows with the same identity stay in the order of the file."""
    run, event, jet_index = (table[name].to_numpy() for name in ("run", "event", "jet_index"))
    split_key = hashing.split_keys(task.seed, task.sample, run, event)
    split = hashing.split_numbers(split_key, task.train, task.val)
    key = hashing.shuffle_keys(task.seed, task.sample, run, event, jet_index)
    order = np.lexsort((jet_index, event, run, key, split))
    table = table.add_column(0, "key", pa.array(key)).add_column(0, "split", pa.array(split))
    return table.take(pa.array(order))
