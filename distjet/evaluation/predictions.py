"""What does a table of predictions hold, and is it fit to be evaluated?

One row is one jet: its identity, its truth, and for each method M the columns M_energy, M_mass, M_rapidity. A prediction that
is not finite stops the evaluation with the identity of its jet: replacing it by a number would hide a defect of the model.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from distjet.errors import DataError
from distjet.evaluation.config import ResponseConfig
from distjet.storage import for_arrow

if TYPE_CHECKING:
    import pyarrow as pa

Array = NDArray[np.float64]

TRUTH = ("true_pt", "true_eta", "true_energy")
IDENTIFIERS = ("run", "event", "jet_index", "sample")
TRUTH_NAME = "true"
REFERENCE_NAME = "raw"


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


def read_predictions(path: Path, config: ResponseConfig) -> Predictions:
    """Read the columns that the configured observables need.

    Args:
        path: A Parquet file, or a folder of them.
        config: Which observables, which methods.

    Raises:
        DataError: If the file is absent or empty, a column is missing, or a value is not finite or not physical.
    """
    import pyarrow.parquet as pq

    if not path.exists():
        raise DataError(f"predictions {path} do not exist; `distjet evaluate run=DIRECTORY` makes them from a training")
    files, place = for_arrow(path)
    names = pq.ParquetDataset(place, filesystem=files).schema.names
    methods = config.methods or discover_methods(names)
    needed = _needed_columns(methods, config)
    if missing := [name for name in needed if name not in names]:
        raise DataError(f"{path}: expected the columns {needed}; missing: {missing}. The file has {sorted(names)}")
    if not methods:
        raise DataError(f"{path}: no method found; expected columns like raw_energy, calibrated_energy (got {sorted(names)})")
    table = pq.read_table(place, filesystem=files, columns=[*needed, *(name for name in IDENTIFIERS if name in names)])
    if table.num_rows == 0:
        raise DataError(f"{path} has no rows; nothing to evaluate")
    columns = {name: table[name].to_numpy().astype(np.float64) for name in needed}
    _check_values(columns, table, path)
    return Predictions(columns, tuple(methods), table.num_rows, str(path))


def discover_methods(names: list[str]) -> tuple[str, ...]:
    """List the methods M that have a column M_energy: `raw` first, the others in the order of the table."""
    found = [name.removesuffix("_energy") for name in names if name.endswith("_energy")]
    methods = [name for name in found if name != TRUTH_NAME]
    return tuple(sorted(methods, key=lambda name: name != REFERENCE_NAME))


def _needed_columns(methods: tuple[str, ...], config: ResponseConfig) -> list[str]:
    observables = {"energy", *config.observables}
    truth = [*TRUTH, *(f"true_{name}" for name in ("mass", "rapidity") if name in observables)]
    predicted = [f"{method}_{name}" for method in methods for name in ("energy", "mass", "rapidity") if name in observables]
    return [*(["weight"] if config.use_weights else []), *truth, *predicted]


def _check_values(columns: dict[str, Array], table: "pa.Table", path: Path) -> None:
    for name, values in columns.items():
        _reject(~np.isfinite(values), name, "finite", (values, table, path))
    _reject(columns["true_energy"] <= 0, "true_energy", "positive", (columns["true_energy"], table, path))
    if "weight" in columns:
        _reject(columns["weight"] < 0, "weight", "not negative", (columns["weight"], table, path))


def _reject(bad: NDArray[np.bool_], name: str, expected: str, where: tuple[Array, "pa.Table", Path]) -> None:
    if not np.any(bad):
        return
    values, table, path = where
    row = int(np.argmax(bad))
    identity = ", ".join(f"{key}={table[key][row].as_py()}" for key in IDENTIFIERS if key in table.column_names)
    raise DataError(
        f"{path}: {name} must be {expected}; got {values[row]} in row {row} ({identity}), "
        f"and {int(bad.sum())} such rows in all. Nothing is replaced: find out where the value comes from."
    )
