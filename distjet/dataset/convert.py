"""How does a range of entries become rows of the dataset? The first of the two passes of `distjet prepare`.

A task is a pure function of one frozen dataclass: it reads branches, applies the cuts in order, evaluates the columns,
builds the graphs and writes one spill file whose rows are sorted by split and by their place in the shuffle. Spill and
record appear atomically, and their name depends on the task, so a task that ran already returns its record at once.

Each jet has exactly one fate, decided in this order: the cuts (where a condition is NaN, the jet is quarantined), an empty
graph (a cut), a label that is not unique or a number that cannot be (quarantined), else it is a row.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from distjet.config import validate
from distjet.dataset import hashing
from distjet.dataset.checks import LISTED_JETS, SPLIT, find_bad_jets
from distjet.dataset.fingerprint import add_up, as_text, row_hashes
from distjet.dataset.reading.entries import read_branches
from distjet.dataset.reading.ragged import Ragged
from distjet.dataset.reading.sources import Source
from distjet.dataset.recipes.association import open_scope
from distjet.dataset.recipes.definitions import required_branches
from distjet.dataset.recipes.expressions import Level
from distjet.dataset.recipes.recipe import CUT_EMPTY_GRAPH, CUT_UNMATCHED, Recipe
from distjet.dataset.recipes.scope import Scope
from distjet.dataset.rows import BY_CHANCE, evaluate_columns, evaluate_key, identify, make_table
from distjet.dataset.schema import SPLITS, ColumnSpec, dataset_columns
from distjet.dataset.shards import SHARD_VERSION, ShardStyle, is_whole, write_shard
from distjet.dataset.spills import PackedRows, Places, RowLayout, pack_rows, write_spill
from distjet.errors import DataError
from distjet.run_directory import identity_hash, read_json, write_json
from distjet.storage import as_location

SPILL_VERSION = 6
"Raised when the content of a spill or its record changes for the same task."


@dataclass(frozen=True)
class DirectShards:
    """The shards of a task that writes its rows without a second pass, at most one of each split.

    Attributes:
        output: Folder of the dataset.
        number: In the names of the shards.
        style: Of all shards.
    """

    output: str
    number: int
    style: ShardStyle


@dataclass(frozen=True)
class ConvertTask:
    """One range of entries of one file.

    Attributes:
        source: Input file.
        uuid: Identity of its content.
        sample: Name of the sample.
        start: First entry.
        stop: One past the last entry.
        recipe: The recipe as plain values.
        integer_spectators: Spectators that stay whole numbers.
        seed: Of the split and the shuffle.
        train: Fraction of events for training, of those that the recipe does not assign to a split.
        val: Fraction of events for validation, of the same.
        work: Folder for spills and records.
        direct: Where shards of the task's own are written, without a second pass; None: the rows go into a spill.
    """

    source: Source
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
    direct: DirectShards | None = None

    def stem(self) -> Path:
        """Return the path of the spill and the record, without suffix."""
        inputs = asdict(self) | {"work": "", "source": self.source.identity()}
        if self.direct is not None:
            inputs["direct"] = asdict(self.direct) | {"output": "", "shard_version": SHARD_VERSION}
        return as_location(self.work) / f"rows-{identity_hash(inputs | {'version': SPILL_VERSION})}"


class Quarantined(NamedTuple):
    """Why a jet cannot be a row."""

    entry: int
    jet_index: int
    reason: str


class Fates:
    """What becomes of each jet of a range: kept, cut (by which cut) or quarantined (why).

    Attributes:
        read: Number of jets.
        cuts: Jets taken by each cut.
        bad_jets: The first `LISTED_JETS` that are quarantined for each reason.
        unlisted: Number of the others for each reason.
    """

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.read = scope.num_jets
        self.cuts: dict[str, int] = {}
        self.bad_jets: list[Quarantined] = []
        self.unlisted: Counter[str] = Counter()

    @property
    def quarantined(self) -> int:
        """Number of jets that are quarantined."""
        return len(self.bad_jets) + self.unlisted.total()

    def cut(self, name: str, condition: np.ndarray) -> None:
        """Keep the jets for which a condition holds; quarantine those for which it is NaN."""
        unknown = np.isnan(condition)
        self.quarantine(np.where(unknown, 0, -1), [f"cut {name!r} is not a number"])
        passed = condition[~unknown] != 0
        self.cuts[name] = int((~passed).sum())
        self._select(passed)

    def quarantine(
        self, reason_number: np.ndarray, reasons: Sequence[str], details: Mapping[int, str] = MappingProxyType({})
    ) -> None:
        """Take jets out that cannot be used.

        Args:
            reason_number: For each jet its number among `reasons`, -1 for a good one, int64 (J,).
            reasons: What the numbers mean.
            details: What is said instead about some jets, by their place among the J.
        """
        entry, position = self.scope.entry, self.scope.position
        for number, reason in enumerate(reasons):
            jets = np.flatnonzero(reason_number == number)
            for jet in jets[:LISTED_JETS].tolist():
                self.bad_jets.append(Quarantined(int(entry[jet]), int(position[jet]), details.get(jet, reason)))
            self.unlisted[reason] += len(jets[LISTED_JETS:])
        self._select(reason_number < 0)

    def _select(self, keep: np.ndarray) -> None:
        if not keep.all():
            self.scope.select(keep)


def convert(task: ConvertTask) -> dict[str, Any]:
    """Write the spill of a range of entries, or its shards.

    Returns:
        The record: `spill` (name), `size_bytes` and `xxh3_128`, or `shards` {split: record as of `build_shard`}; `content`
        (fingerprint of the rows), `split_rows` (rows of train, val and test), `read`, `rows`, `cuts` {name: jets},
        `quarantined` (jets; as `bad_jets` [(entry, jet_index, reason)] and `unlisted` {reason: jets}); or `error` (why the file
        cannot be used).
    """
    stem = task.stem()
    record_path = stem.with_suffix(".json")
    if record_path.exists() and _is_there(task, record := read_json(record_path)):
        return record
    recipe = validate(Recipe, task.recipe)
    try:
        names = required_branches(recipe)
        branches = read_branches(task.source, recipe.tree, names, task.start, task.stop, recipe.optional)
        columns, table, fates, split = build_rows(task, recipe, branches)
    except DataError as error:
        return {"error": str(error)}
    places = place_rows(task, table, split)
    packed = pack_rows(RowLayout(columns), table, places)
    record = (_write_spill(stem.with_suffix(".rows"), packed) if task.direct is None else _write_shards(task, packed)) | {
        "content": as_text(add_up(row_hashes(table, columns, task.sample))),
        "split_rows": np.bincount(places.split, minlength=len(SPLITS)).tolist(),
        "read": fates.read,
        "rows": table.num_rows,
        "cuts": fates.cuts,
        "quarantined": fates.quarantined,
        "bad_jets": sorted((task.start + jet.entry, jet.jet_index, jet.reason) for jet in fates.bad_jets),
        "unlisted": dict(+fates.unlisted),
    }
    write_json(record_path, record)
    return record


def count_jets(record: Mapping[str, Any]) -> dict[str, int]:
    """Return what a record of `convert` adds to the counts that are shown meanwhile."""
    if "error" in record:
        return {"jets": 0, "quarantined": 0, "unreadable": 1}
    return {"jets": record["read"], "quarantined": record["quarantined"]}


def _is_there(task: ConvertTask, record: dict[str, Any]) -> bool:
    """Tell whether what a record describes is still there."""
    if task.direct is None:
        return is_whole(as_location(task.work), record | {"path": record["spill"]})
    return all(is_whole(as_location(task.direct.output), made["shard"]) for made in record["shards"].values())


def _write_spill(path: Path, packed: PackedRows) -> dict[str, Any]:
    return {"spill": path.name, **write_spill(path, packed)}


def _write_shards(task: ConvertTask, packed: PackedRows) -> dict[str, Any]:
    """Write a shard for each split that has rows."""
    direct, shards = task.direct, {}
    assert direct is not None
    for number, split in enumerate(SPLITS):
        rows = PackedRows(packed.records[packed.records[".split"] == number], packed.words)
        if len(rows.records):
            name = f"{split}/part-{direct.number:05d}.parquet"
            shards[split] = write_shard(as_location(direct.output), name, direct.style, rows, [task.sample])
    return {"shards": shards}


def build_rows(
    task: ConvertTask, recipe: Recipe, branches: dict[str, Ragged]
) -> tuple[tuple[ColumnSpec, ...], pa.Table, Fates, np.ndarray | None]:
    """Evaluate a recipe on the branches of a range of entries.

    Returns:
        The columns of the dataset; the rows in the order of the file, with all columns but `sample`; what became of every jet;
        the number of the split of each row by the recipe's conditions, BY_CHANCE for none, None where it has no conditions.
    """
    scope = open_scope(recipe, branches, task.stop - task.start, task.sample)
    fates = Fates(scope)
    apply_cuts(recipe, scope, fates)
    columns = dataset_columns(recipe, task.integer_spectators)
    values = evaluate_columns(recipe, scope, columns)
    faults = find_bad_jets(recipe, scope, columns, values)
    if faults.reasons:
        fates.quarantine(faults.number, faults.reasons, faults.details)
        values = evaluate_columns(recipe, scope, columns)
    values |= identify(recipe, scope, task.uuid, task.start)
    split = values[SPLIT].astype(np.int8) if recipe.split else None
    return columns, make_table(recipe, scope, columns, values), fates, split


def apply_cuts(recipe: Recipe, scope: Scope, fates: Fates) -> None:
    """Apply the truth match, the recipe's cuts in order, and the cut on graphs without a constituent."""
    if recipe.truth is not None and recipe.truth.is_collection:
        fates.cut(CUT_UNMATCHED, scope.evaluate(CUT_UNMATCHED, Level.JET))
    for cut in recipe.cuts:
        fates.cut(cut.name, evaluate_key(scope, f"cuts.{cut.name}", cut.value, Level.JET).astype(np.float64))
    if recipe.constituents is not None:
        fates.cut(CUT_EMPTY_GRAPH, (scope.counts > 0).astype(np.float64))


def place_rows(task: ConvertTask, table: pa.Table, published: np.ndarray | None = None) -> Places:
    """Find where the rows of a table go; rows with the same identity stay in the order of the file.

    Args:
        task: With the seed and the fractions.
        table: The rows.
        published: Number of the split of each row, BY_CHANCE where its event decides, int8 (R,); None for all.
    """
    run, event, jet_index = (table[name].to_numpy() for name in ("run", "event", "jet_index"))
    split_key = hashing.split_keys(task.seed, task.sample, run, event)
    split = hashing.split_numbers(split_key, task.train, task.val)
    if published is not None:
        split = np.where(published == BY_CHANCE, split, published)
    key = hashing.shuffle_keys(task.seed, task.sample, run, event, jet_index)
    return Places(split, key, np.lexsort((jet_index, event, run, key, split)))
