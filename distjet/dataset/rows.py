"""Which numbers does a recipe give for the selected jets?

Numbers are computed in float64 and checked as what will be stored, so an overflow of float32 is found as well. The identity
of a row is kept in whole numbers throughout: an event number of 19 digits does not survive a float.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from distjet.dataset.checks import NODE_ROLES, SPLIT
from distjet.dataset.graphs.build import build_edges
from distjet.dataset.graphs.edges import encode_edges
from distjet.dataset.hashing import text_key
from distjet.dataset.recipes.definitions import column_formulas
from distjet.dataset.recipes.expressions import Level
from distjet.dataset.recipes.recipe import P4_NAMES, Recipe
from distjet.dataset.recipes.scope import Scope
from distjet.dataset.rounding import round_mantissa
from distjet.dataset.schema import SPLITS, ColumnSpec, arrow_schema
from distjet.errors import ConfigError, DataError
from distjet.physics.substructure import substructure

AXES = ("delta_eta", "delta_phi")
"Coordinates of the graph."

BY_CHANCE = -1
"In place of the number of a split: the jet is in none by a condition of the recipe."


def evaluate_key(scope: Scope, key: str, formula: str, level: Level) -> np.ndarray:
    """Evaluate the formula that stands under a key of the recipe; an error names the key."""
    try:
        return scope.evaluate(formula, level)
    except ConfigError as error:
        raise ConfigError(f"recipe.{key}: {error}") from error


def evaluate_columns(recipe: Recipe, scope: Scope, columns: Sequence[ColumnSpec]) -> dict[str, np.ndarray]:
    """Evaluate the numbers of the selected jets that are stored, and the coordinates of the graph.

    Returns:
        Column name -> values, shape (J,), or (P,) for constituents; the label is NaN where not exactly one class holds.
        Where the recipe has a published split, `SPLIT` -> its number, BY_CHANCE where no condition holds, NaN where several do.
    """
    values: dict[str, np.ndarray] = {}
    formulas = column_formulas(recipe)
    for column in columns:
        if column.name in formulas:
            key, formula = formulas[column.name]
            level = Level.NODE if column.role in NODE_ROLES else Level.JET
            values[column.name] = _stored(evaluate_key(scope, key, formula, level), column)
    if recipe.substructure:
        values |= _substructure(recipe, scope)
    if recipe.labels:
        values["label"] = _choose(scope, "labels", recipe.labels)
    if recipe.split:
        values[SPLIT] = _published_split(recipe, scope)
    if recipe.has_edges:
        values |= {f"({name})": scope.evaluate(name, Level.NODE) for name in AXES}
    return values


def _stored(array: np.ndarray, column: ColumnSpec) -> np.ndarray:
    """Convert to the type that is stored; what does not fit stays a float that is not finite, and is found as such."""
    dtype = np.dtype(column.dtype)
    if np.issubdtype(dtype, np.integer):
        number, limits = np.asarray(array, dtype=np.float64), np.iinfo(dtype)
        fits = (number >= limits.min) & (number <= limits.max) & (number == np.trunc(number))
        return number.astype(dtype) if fits.all() else np.where(fits, number, np.nan)
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(array).astype(column.dtype, copy=False)


def _choose(scope: Scope, block: str, conditions: Mapping[str, str], nothing: float = np.nan) -> np.ndarray:
    """Return the number of the condition that holds for each jet, `nothing` where none does, NaN where that is not clear."""
    found = [evaluate_key(scope, f"{block}.{name}", text, Level.JET) for name, text in conditions.items()]
    values = np.stack([np.asarray(condition, dtype=np.float64) for condition in found])
    holds = values != 0
    number = np.where(holds.any(axis=0), holds.argmax(axis=0), nothing)
    return np.where((holds.sum(axis=0) > 1) | np.isnan(values).any(axis=0), np.nan, number)


def _published_split(recipe: Recipe, scope: Scope) -> np.ndarray:
    conditions: dict[str, str] = dict(recipe.split.items())
    number = _choose(scope, "split", conditions, np.nan if len(conditions) == len(SPLITS) else BY_CHANCE)
    known = ~np.isnan(number)
    of_split = np.array([*map(SPLITS.index, conditions), BY_CHANCE])  # the last is also what -1 picks
    number[known] = of_split[number[known].astype(np.int64)]
    return number


def _substructure(recipe: Recipe, scope: Scope) -> dict[str, np.ndarray]:
    """Compute the variables of substructure in float64, and store them in float32."""
    p4 = np.stack([np.asarray(scope.evaluate(name, Level.NODE), dtype=np.float64) for name in P4_NAMES], axis=1)
    ptr = np.concatenate([[0], np.cumsum(scope.counts)])
    return {name: values.astype(np.float32) for name, values in substructure(p4, ptr, recipe.substructure).items()}


def identify(recipe: Recipe, scope: Scope, uuid: str, first_entry: int) -> dict[str, np.ndarray]:
    """Return run, event and jet_index of the selected jets; without event numbers: hash of the file, entry, position."""
    identity = recipe.identity
    entry = first_entry + scope.entry
    jet_index = scope.position
    if identity.event is None:
        run = np.full(len(entry), text_key(uuid) & 0x7FFFFFFF)
        return {"run": run, "event": entry, "jet_index": jet_index}
    if identity.jet_index is not None:
        jet_index = _whole(scope, "jet_index", identity.jet_index)
    elif recipe.layout == "jet":
        jet_index = entry
    run = _whole(scope, "run", identity.run or "0")
    return {"run": run, "event": _whole(scope, "event", identity.event), "jet_index": jet_index}


def _whole(scope: Scope, key: str, formula: str) -> np.ndarray:
    array = np.asarray(evaluate_key(scope, f"identity.{key}", formula, Level.JET))
    if np.issubdtype(array.dtype, np.floating) and not (np.abs(array) < 2**53).all():
        raise DataError(f"recipe.identity.{key}: {formula!r} must give whole numbers (got {array.dtype} beyond 2^53 or NaN)")
    return array.astype(np.int64)


def make_table(recipe: Recipe, scope: Scope, columns: Sequence[ColumnSpec], values: Mapping[str, np.ndarray]) -> pa.Table:
    """Build the graphs and arrange everything as an Arrow table with the columns of the dataset, except `sample`."""
    offsets = np.concatenate([[0], np.cumsum(scope.counts)]) if recipe.constituents is not None else np.zeros(1, np.int64)
    parts: dict[str, Any] = dict(values)
    parts |= {c.name: (round_mantissa(values[c.name], c.mantissa_bits), offsets) for c in columns if c.role in NODE_ROLES}
    if recipe.constituents is not None:
        parts["num_nodes"] = scope.counts
    if recipe.has_edges:
        edges = build_edges(recipe.edges, values["(delta_eta)"], values["(delta_phi)"], offsets)
        parts["edges"] = encode_edges(edges, offsets)
    stored = [column for column in columns if column.name != "sample"]
    arrays = [_arrow_array(column, parts[column.name]) for column in stored]
    return pa.Table.from_arrays(arrays, schema=arrow_schema(stored))


def _arrow_array(column: ColumnSpec, values: Any) -> pa.Array:
    if not isinstance(values, tuple):
        return pa.array(values.astype(column.dtype), column.arrow_type())
    content, offsets = values
    if offsets[-1] > np.iinfo(np.int32).max:
        raise ConfigError(f"{offsets[-1]} numbers of column {column.name!r} in one task are too many; lower entries_per_task")
    if not column.is_list:
        return pa.BinaryArray.from_buffers(
            column.arrow_type(), len(offsets) - 1, [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(content)]
        )
    flat = pa.array(np.ascontiguousarray(content), column.arrow_type().value_type)
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), flat, type=column.arrow_type())
