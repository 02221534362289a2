"""How do entries of an ntuple become batches for a calibration, with no jet lost?

The recipe of the training's dataset reads them, without what only training needs: no truth, no labels and no cuts, so data are
read like simulation. A jet whose numbers cannot be used is not calibrated, for the same reasons for which `distjet prepare`
would quarantine it. The others are stored as `distjet prepare` would, and so are the same numbers to the last bit.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from distjet.dataset.checks import find_bad_jets
from distjet.dataset.graphs.edges import Edges, decode_edges
from distjet.dataset.reading.ragged import Ragged
from distjet.dataset.recipes.association import open_scope
from distjet.dataset.recipes.recipe import JET_NAMES, P4_NAMES, Recipe
from distjet.dataset.recipes.scope import Scope
from distjet.dataset.rows import evaluate_columns, identify, make_table
from distjet.dataset.schema import ColumnSpec, dataset_columns
from distjet.dataset.streaming.batch import GraphBatch

NO_CONSTITUENT = "no constituent"


def recipe_for_application(recipe: Recipe, spectators: Sequence[str] = ()) -> Recipe:
    """Return a recipe without what only training and evaluation need.

    Args:
        recipe: Of a dataset.
        spectators: Those that the calibration reads.
    """
    kept = tuple(column for column in recipe.spectators if column.name in spectators)
    columns = {column.name for column in (*recipe.nodes, *recipe.graph, *kept)} | {*P4_NAMES, *JET_NAMES}
    changes: dict[str, Any] = {"truth": None, "targets": (), "labels": {}, "cuts": (), "spectators": kept, "weight": "1"}
    changes["split"] = {}  # data have no published one
    ranges = {name: bounds for name, bounds in recipe.ranges.items() if name in columns}
    return recipe.model_copy(update=changes | {"ranges": ranges})


@dataclass(frozen=True)
class EntryRange:
    """Where jets come from.

    Attributes:
        start: First entry.
        stop: One past the last entry.
        uuid: Identity of the file's content.
        sample: Name of the sample.
    """

    start: int
    stop: int
    uuid: str
    sample: str


@dataclass(frozen=True)
class ReadJets:
    """All jets of a range of entries, and rows of those that can be calibrated.

    Attributes:
        identity: run, event and jet_index of each jet, shape (J,).
        jets_per_entry: Shape (entries,).
        num_constituents: Of each jet, shape (J,); all zero without constituents.
        reason: Why a jet cannot be calibrated, empty for one that can, shape (J,), strings.
        rows: Those that can be, in order, as they would stand in a dataset.
        columns: Of `rows`.
        is_complete: Whether graphs without stored edges are complete.
    """

    identity: dict[str, np.ndarray]
    jets_per_entry: np.ndarray
    num_constituents: np.ndarray
    reason: np.ndarray
    rows: pa.Table
    columns: tuple[ColumnSpec, ...]
    is_complete: bool

    @property
    def num_jets(self) -> int:
        """Number of jets J."""
        return len(self.reason)

    def batches(self, batch_size: int) -> Iterator[GraphBatch]:
        """Make batches of the rows, in order; one without a jet if there is no row."""
        for start in range(0, max(self.rows.num_rows, 1), batch_size):
            yield make_batch(self.rows.slice(start, batch_size), self.columns, is_complete=self.is_complete)


def read_jets(recipe: Recipe, branches: Mapping[str, Ragged], entries: EntryRange) -> ReadJets:
    """Evaluate a recipe on the branches of a range of entries.

    Args:
        recipe: As of `recipe_for_application`.
        branches: Those that it requires.
        entries: The range.
    """
    scope = open_scope(recipe, dict(branches), entries.stop - entries.start, entries.sample)
    columns = dataset_columns(recipe)
    has_nodes = recipe.constituents is not None
    values = evaluate_columns(recipe, scope, columns)  # also finds out how many jets and constituents there are
    reason = _reasons(recipe, scope, columns, values)
    identity = identify(recipe, scope, entries.uuid, entries.start)
    jets_per_entry = np.bincount(scope.entry, minlength=entries.stop - entries.start)
    counts = scope.counts if has_nodes else np.zeros(scope.num_jets, np.int64)
    scope.select(reason == "")
    values = evaluate_columns(recipe, scope, columns) | identify(recipe, scope, entries.uuid, entries.start)
    rows = make_table(recipe, scope, columns, values)
    is_complete = recipe.connection.name == "fully_connected"
    return ReadJets(identity, jets_per_entry, counts, reason, rows, columns, is_complete)


def _reasons(recipe: Recipe, scope: Scope, columns: Sequence[ColumnSpec], values: Mapping[str, np.ndarray]) -> np.ndarray:
    faults = find_bad_jets(recipe, scope, columns, values)
    reason = np.array([*faults.reasons, ""], dtype=object)[faults.number]  # the number of a good jet is -1
    if recipe.constituents is not None:
        reason[scope.counts == 0] = NO_CONSTITUENT
    return reason


def make_batch(rows: pa.Table, columns: Sequence[ColumnSpec], *, is_complete: bool = False) -> GraphBatch:
    """Make a batch of rows of a dataset, as the stream would, with all their scalars beside the features in `rows`.

    Args:
        rows: As of `distjet.dataset.rows.make_table`.
        columns: Of the dataset.
        is_complete: Whether graphs without stored edges are complete.
    """
    table = rows.combine_chunks()
    names = {role: [c.name for c in columns if c.role == role] for role in ("p4", "node", "edge", "graph", "jet")}
    ptr = _offsets(table[names["p4"][0]]) if names["p4"] else np.zeros(table.num_rows + 1, np.int64)
    sizes = np.diff(ptr)
    edges: dict[str, Any] = _edges(table[names["edge"][0]], ptr) if names["edge"] else {}
    num_complete = int((sizes * (sizes - 1)).sum()) if is_complete else 0
    others = [c.name for c in columns if c.role in ("identifier", "weight", "spectator") and c.name in table.column_names]
    return GraphBatch(
        x=_stacked([_flat(table[name]) for name in names["node"]], int(ptr[-1])),
        p4=_stacked([_flat(table[name]) for name in names["p4"]], int(ptr[-1])),
        ptr=torch.from_numpy(ptr),
        u=_stacked([table[name].to_numpy() for name in names["graph"]], table.num_rows),
        jet=_stacked([table[name].to_numpy() for name in names["jet"]], table.num_rows),
        targets={},
        weight=torch.ones(table.num_rows),
        **({"num_edges": num_complete} | edges),
        rows={name: table[name].to_numpy().copy() for name in others},
    )


def _stacked(columns: Sequence[np.ndarray], length: int) -> torch.Tensor:
    """Put columns side by side, float32, shape (length, number of columns)."""
    result = np.empty((length, len(columns)), np.float32)
    for number, column in enumerate(columns):
        result[:, number] = column
    return torch.from_numpy(result)


def _flat(lists: pa.ChunkedArray) -> np.ndarray:
    return lists.combine_chunks().flatten().to_numpy()


def _offsets(lists: pa.ChunkedArray) -> np.ndarray:
    offsets = lists.combine_chunks().offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0]


def _edges(blobs: pa.ChunkedArray, ptr: np.ndarray) -> dict[str, Any]:
    array = blobs.combine_chunks()
    offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset : array.offset + len(array) + 1]
    content = np.frombuffer(array.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]
    found: Edges = decode_edges(content, offsets - offsets[0], ptr)
    first_node = np.repeat(ptr[:-1], np.diff(found.offsets))
    degrees = np.bincount(first_node + found.source, minlength=int(ptr[-1]))
    return {
        "edge_degrees": torch.from_numpy(degrees.astype(np.int32)),
        "edge_ends": torch.from_numpy(found.target.astype(np.int32)),
        "num_edges": 2 * len(found.target),
    }
