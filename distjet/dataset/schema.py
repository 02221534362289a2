"""Which columns has a dataset, in which order, with which type, unit and meaning?

The list is made once from the recipe; it becomes the Arrow schema (with the role, unit and description as field metadata) and
the `columns` of the manifest, so neither can tell another story. Nothing is nullable: a missing value is a quarantined row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import pyarrow as pa

from distjet.dataset.recipes.expressions import parse
from distjet.dataset.recipes.features import COMPONENTS, FEATURES
from distjet.dataset.recipes.recipe import FULL_BITS, JET_NAMES, P4_NAMES, TRUE_NAMES, Column, Recipe
from distjet.physics.substructure_variables import SUBSTRUCTURE

Role = Literal["identifier", "weight", "size", "p4", "node", "edge", "jet", "graph", "target", "label", "spectator"]

STATISTICS_ROLES = ("node", "jet", "graph", "target", "spectator")
"Columns whose mean, deviation and quantiles are kept."

LIST_ROLES = ("p4", "node")
"Columns with one list per jet."

SPLITS = ("train", "val", "test")

NAMES_IN_GEV = frozenset({"sample", *FEATURES, *COMPONENTS, *JET_NAMES, *TRUE_NAMES})
"Names that mean the same whatever the unit of the file is."


@dataclass(frozen=True)
class ColumnSpec:
    """One column of the dataset.

    Attributes:
        name: Of the column.
        role: What it is for.
        unit: Of its values.
        description: In words.
        dtype: Of its values, or of the elements of its lists.
        formula: What it is computed from, where the recipe says so; empty for the columns that every dataset has. In the
            manifest alone, so that a shard does not change with the names of branches.
        mantissa_bits: Bits of the mantissa that are kept, 23 for all.
    """

    name: str
    role: Role
    unit: str
    description: str
    dtype: str
    formula: str = ""
    mantissa_bits: int = 23

    @property
    def is_list(self) -> bool:
        """Whether a row holds a list of numbers."""
        return self.role in LIST_ROLES

    def arrow_type(self) -> pa.DataType:
        """Return the column's Arrow type."""
        kind = getattr(pa, self.dtype)()
        return pa.list_(pa.field("element", kind, nullable=False)) if self.is_list else kind

    def arrow_field(self) -> pa.Field:
        """Return the column's Arrow field with its metadata."""
        metadata = {"role": self.role, "unit": self.unit, "description": self.description}
        if self.mantissa_bits < FULL_BITS:
            metadata["mantissa_bits"] = str(self.mantissa_bits)
        return pa.field(self.name, self.arrow_type(), nullable=False, metadata=metadata)

    def as_dict(self) -> dict[str, Any]:
        """Return the column as it stands in the manifest."""
        return asdict(self)


def dataset_columns(recipe: Recipe, integer_spectators: Sequence[str] = ()) -> tuple[ColumnSpec, ...]:
    """List the columns that a recipe makes.

    Args:
        recipe: The recipe.
        integer_spectators: Spectators that are whole numbers in the input and stay so.
    """
    columns = [
        ColumnSpec("run", "identifier", "", "run number, or a hash of the file", "int64"),
        ColumnSpec("event", "identifier", "", "event number", "int64"),
        ColumnSpec("jet_index", "identifier", "", "number of the jet within the event", "int32"),
        ColumnSpec("sample", "identifier", "", "name of the sample", "string"),
        ColumnSpec("weight", "weight", "", f"event weight: {recipe.weight}", "float64"),
    ]
    if recipe.constituents is not None:
        columns.append(ColumnSpec("num_nodes", "size", "", "number of constituents", "int32"))
        columns += [_component(name, "", "p4", "constituent") for name in P4_NAMES]
        columns += [_user_column(recipe, column, "node") for column in recipe.nodes]
    if recipe.has_edges:
        columns.append(ColumnSpec("edges", "edge", "", "undirected edges: degree of each node, then larger ends", "binary"))
    columns += [_component(name, "jet_", "jet", "reconstructed jet") for name in JET_NAMES]
    columns += [_user_column(recipe, column, "graph") for column in recipe.graph]
    columns += [_substructure_column(name) for name in recipe.substructure]
    if recipe.truth is not None:
        columns += [_component(name, "true_", "target", "reference jet") for name in TRUE_NAMES]
    columns += [_user_column(recipe, column, "target") for column in recipe.targets]
    if recipe.labels:
        columns.append(ColumnSpec("label", "label", "", "class: " + ", ".join(recipe.labels), "int32"))
    for column in recipe.spectators:
        dtype = "int32" if column.name in integer_spectators else "float32"
        columns.append(_user_column(recipe, column, "spectator", dtype))
    return tuple(replace(column, mantissa_bits=recipe.mantissa_bits.get(column.name, FULL_BITS)) for column in columns)


def arrow_schema(columns: Sequence[ColumnSpec]) -> pa.Schema:
    """Return the schema of a shard."""
    return pa.schema([column.arrow_field() for column in columns])


def columns_from_manifest(content: Sequence[Mapping[str, Any]]) -> tuple[ColumnSpec, ...]:
    """Restore the columns from a manifest."""
    return tuple(ColumnSpec(**column) for column in content)


def _component(name: str, prefix: str, role: Role, owner: str) -> ColumnSpec:
    unit, meaning = COMPONENTS[name.removeprefix(prefix)]
    return ColumnSpec(name, role, unit, f"{meaning} of the {owner}", "float32")


def _user_column(recipe: Recipe, column: Column, role: Role, dtype: str = "float32") -> ColumnSpec:
    unit, description = column.unit, column.description or column.value
    if (feature := FEATURES.get(column.value)) is not None:
        unit, description = column.unit or feature.unit, column.description or feature.description
    elif column.value in COMPONENTS:
        unit, description = column.unit or COMPONENTS[column.value][0], column.description or COMPONENTS[column.value][1]
    return ColumnSpec(column.name, role, unit, description, dtype, _written_out(recipe, column.value))


def _substructure_column(name: str) -> ColumnSpec:
    unit, description = SUBSTRUCTURE[name]
    return ColumnSpec(name, "graph", unit, description, "float32", f"substructure of the constituents: {name}")


def _written_out(recipe: Recipe, value: str) -> str:
    """Add to a formula the recipe's variables in it, and the file's unit of energy if it is not GeV and a branch is read."""
    blocks = [recipe, *(block for block in (recipe.constituents, recipe.truth) if block is not None)]
    variables = {name: formula for block in blocks for name, formula in block.variables.items()}
    used: dict[str, str] = {}
    branches: set[str] = set()
    pending = [value]
    while pending:
        expression = parse(pending.pop())
        found = [name for name in sorted(expression.names) if name in variables and name not in used]
        used |= {name: variables[name] for name in found}
        pending += [variables[name] for name in found]
        branches |= expression.branch_names | (expression.names - {*variables, *NAMES_IN_GEV})
    definitions = [f"{name} = {formula}" for name, formula in sorted(used.items())]
    unit = [f"energy_unit = {recipe.energy_unit}"] if branches and recipe.energy_unit != "GeV" else []
    return "; ".join([value, *definitions, *unit])
