"""What does a table of predictions hold, and is it fit to be evaluated?

One row is one jet: its identity, its truth, and for each method M the columns M_energy, M_mass, M_rapidity. Decisions a reader
would question:

* A prediction that is not finite stops the evaluation with the identity of its jet: replacing it by a number would hide a
  defect of the model.
* Several tables are joined by the identity of their jets, whatever their order. A jet that one of them lacks is an error:
  methods are compared on the same jets or not at all.
* What only some figures need (pT, pileup, flavour, properties of the jet, probabilities of a density model) may be absent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distjet.errors import DataError
from distjet.evaluation.config import ResponseConfig
from distjet.evaluation.joining import IDENTIFIERS, describe_row, rows_of_same_jets
from distjet.evaluation.reading import read_columns, reject, schema_of

if TYPE_CHECKING:
    import pyarrow as pa

Array = NDArray[np.float64]

TRUTH = ("true_pt", "true_eta", "true_energy")
SPECTATORS = ("mu", "npv", "flavour")
"Read if they are there; so are the properties of the jet that the configuration names."
PER_METHOD = ("pt", "pit", "pit_weight")
"Read if they are there, for each method."
KINEMATICS = ("mass", "rapidity", "pt")
TRUTH_NAME = "true"
REFERENCE_NAME = "raw"
PROBABILITY_ROUNDING = 1e-6
"How far a sum of probabilities in single precision may lie outside of 0 and 1."
AGREEMENT = 1e-4
"Relative difference that the same quantity may have in two tables, which may have been rounded differently."
MASS_AGREEMENT = 1e-6
"Difference of squared masses, in units of the squared energy: a light jet's mass is a difference of two large numbers."


@dataclass(frozen=True)
class Predictions:
    """Jets with their truth and the predictions of several methods; all columns have the shape (J,)."""

    columns: dict[str, Array]
    methods: tuple[str, ...]
    "The first is the reference that the others are compared with."
    num_jets_total: int
    "Jets in the table, before any selection."
    source: str = "predictions"

    @property
    def num_jets(self) -> int:
        """Number of jets that are left."""
        return len(self.columns["true_energy"])

    @property
    def reference(self) -> str:
        """Name of the method that the others are compared with."""
        return self.methods[0]

    def select(self, keep: NDArray[np.bool_]) -> "Predictions":
        """Keep some of the jets."""
        return replace(self, columns={name: values[keep] for name, values in self.columns.items()})

    def lacking(self, *names: str) -> list[str]:
        """List those of the columns that the table does not have; `M_pt` means that of every method."""
        wanted = [name.replace("M_", f"{method}_") for name in names for method in self.methods]
        return [name for name in dict.fromkeys(wanted) if name not in self.columns]


@dataclass(frozen=True)
class _Table:
    """One file of predictions, as it was read."""

    path: Path
    arrow: "pa.Table"
    columns: dict[str, Array]
    methods: tuple[str, ...]


def read_predictions(paths: Path | Sequence[Path], config: ResponseConfig) -> Predictions:
    """Read the columns that the configured observables need, and those that are there of what else can be drawn.

    Args:
        paths: A Parquet file, or a folder of them; or several, with other methods for the same jets.
        config: Which observables, which methods.

    Raises:
        DataError: If a table is absent or empty, a column is missing, a value is not finite or not physical, or tables do not
            hold the same jets.
    """
    tables = [_read(path, config) for path in ([paths] if isinstance(paths, Path) else paths)]
    found = list(dict.fromkeys(method for table in tables for method in table.methods))
    methods = config.methods or _reference_first(found)
    source = " + ".join(str(table.path) for table in tables)
    if absent := [method for method in methods if method not in found]:
        raise DataError(f"{source}: no columns {absent[0]}_energy, ... of the method {absent[0]!r}; there are {found}")
    columns = dict(tables[0].columns)
    for table in tables[1:]:
        columns |= _joined(tables[0], table, columns)
    return Predictions(columns, tuple(methods), tables[0].arrow.num_rows, source)


def discover_methods(names: Sequence[str]) -> tuple[str, ...]:
    """List the methods M of a table: `raw` first, the others in the order of the table.

    A method has a column M_energy and another one of `KINEMATICS`, without which log_jet_energy, a feature, would be one.
    """
    found = [name.removesuffix("_energy") for name in names if name.endswith("_energy")]
    methods = [name for name in found if name != TRUTH_NAME and any(f"{name}_{item}" in names for item in KINEMATICS)]
    return _reference_first(methods)


def _reference_first(methods: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(methods, key=lambda name: name != REFERENCE_NAME))


def _read(path: Path, config: ResponseConfig) -> _Table:
    names = schema_of(path).names
    chosen = None if config.methods is None else [method for method in config.methods if f"{method}_energy" in names]
    methods = discover_methods(names) if chosen is None else tuple(chosen)
    needed = _needed_columns(methods, config)
    if missing := [name for name in needed if name not in names]:
        raise DataError(f"{path}: expected the columns {needed}; missing: {missing}. The file has {sorted(names)}")
    if not methods:
        wanted = config.methods or ("raw", "calibrated")
        raise DataError(f"{path}: no method found; expected columns like {wanted[0]}_energy (got {sorted(names)})")
    optional = [name for name in _optional_columns(methods, config) if name in names]
    identity = [name for name in IDENTIFIERS if name in names]
    table = read_columns(path, [*needed, *optional, *identity])
    columns = {name: table[name].to_numpy().astype(np.float64) for name in [*needed, *optional]}
    _check_values(columns, table, path)
    return _Table(path, table, columns, methods)


def _needed_columns(methods: Sequence[str], config: ResponseConfig) -> list[str]:
    observables = {"energy", *config.observables}
    truth = [*TRUTH, *(f"true_{name}" for name in ("mass", "rapidity") if name in observables)]
    predicted = [f"{method}_{name}" for method in methods for name in ("energy", "mass", "rapidity") if name in observables]
    return [*(["weight"] if config.use_weights else []), *truth, *predicted]


def _optional_columns(methods: Sequence[str], config: ResponseConfig) -> list[str]:
    spectators = [*SPECTATORS, *config.dependence.properties]
    return list(dict.fromkeys([*spectators, *(f"{method}_{name}" for method in methods for name in PER_METHOD)]))


def _joined(first: _Table, other: _Table, columns: dict[str, Array]) -> dict[str, Array]:
    """Return what another table adds, in the order of the first, after a look at what both have."""
    rows = rows_of_same_jets((first.path, first.arrow), (other.path, other.arrow))
    aligned = {name: values[rows] for name, values in other.columns.items()}
    for name in aligned.keys() & columns.keys():
        differ = ~np.isclose(aligned[name], columns[name], rtol=AGREEMENT, atol=AGREEMENT)
        if (energy := columns.get(f"{name.removesuffix('_mass')}_energy")) is not None and name.endswith("_mass"):
            differ &= np.abs(aligned[name] ** 2 - columns[name] ** 2) > MASS_AGREEMENT * energy**2
        if np.any(differ):
            row = int(np.argmax(differ))
            raise DataError(
                f"{name} differs: {columns[name][row]} in {first.path}, {aligned[name][row]} in {other.path}, for the jet "
                f"({describe_row(first.arrow, row)}) and {int(differ.sum())} in all. Both tables must be of the same dataset, "
                "and two methods need two names."
            )
    return {name: values for name, values in aligned.items() if name not in columns}


def _check_values(columns: dict[str, Array], table: "pa.Table", path: Path) -> None:
    for name, values in columns.items():
        reject(~np.isfinite(values), name, "finite", (values, table, path))
        if name.endswith("_pit"):
            far_off = np.abs(values - 0.5) > 0.5 + PROBABILITY_ROUNDING
            reject(far_off, name, "a probability between 0 and 1", (values, table, path))
            np.clip(values, 0.0, 1.0, out=values)
        if name.endswith("weight"):
            reject(values < 0, name, "not negative", (values, table, path))
    for name in ("true_energy", "true_pt"):
        reject(columns[name] <= 0, name, "positive", (columns[name], table, path))
