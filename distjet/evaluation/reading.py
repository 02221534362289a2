"""How is a Parquet table of jets opened, and how is a bad value in it reported?

A value that is not what it has to be stops the evaluation with the identity of its jet: to replace it by a number would hide a
defect of the model that wrote it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distjet.errors import DataError
from distjet.evaluation.joining import describe_row
from distjet.storage import for_arrow

if TYPE_CHECKING:
    import pyarrow as pa


def schema_of(path: Path) -> "pa.Schema":
    """Return names, types and metadata of a Parquet file, or of a folder of them.

    Raises:
        DataError: If it does not exist.
    """
    import pyarrow.parquet as pq

    if not path.exists():
        raise DataError(f"predictions {path} do not exist; `distjet evaluate run=DIRECTORY` makes them from a training")
    files, place = for_arrow(path)
    return pq.ParquetDataset(place, filesystem=files).schema


def read_columns(path: Path, names: Sequence[str]) -> "pa.Table":
    """Read some columns of all jets.

    Raises:
        DataError: If there is no jet.
    """
    import pyarrow.parquet as pq

    files, place = for_arrow(path)
    table = pq.read_table(place, filesystem=files, columns=list(names))
    if table.num_rows == 0:
        raise DataError(f"{path} has no rows; nothing to evaluate")
    return table


def reject(bad: NDArray[np.bool_], name: str, expected: str, where: tuple[NDArray[Any], "pa.Table", Path]) -> None:
    """Stop if a value is bad, with the jet that it belongs to.

    Args:
        bad: Of each jet, shape (J,).
        name: What the values are.
        expected: What they have to be, e.g. `finite`.
        where: The values, shape (J,), the table that identifies the jets, and the file.

    Raises:
        DataError: If any is bad.
    """
    if not np.any(bad):
        return
    values, table, path = where
    row = int(np.argmax(bad))
    raise DataError(
        f"{path}: {name} must be {expected}; got {values[row]} in row {row} ({describe_row(table, row)}), "
        f"and {int(bad.sum())} such rows in all. Nothing is replaced: find out where the value comes from."
    )
