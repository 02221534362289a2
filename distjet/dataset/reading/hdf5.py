"""Where does a branch lie in an HDF5 file?

Three kinds of content are read: a group of arrays, one branch each, of which all further dimensions are lists; a dataset of
records, one branch for each field; and a frame of pandas, whose columns lie side by side in blocks, in the fields of a table
(`format="table"`) or in arrays (`format="fixed"`). Anything compressed with one of the filters of hdf5plugin can be read, among
them the Blosc of PyTables.

pandas keeps the names of the columns of a block as a pickled list. Of a pickle, nothing is read here but texts, numbers and
lists of them: nothing in it is looked up, and so nothing in it can be called.

HDF5 compares checksums where the writer has asked for them (fletcher32), which few do. A bit that has flipped in other data can
pass unnoticed, as in a TTree, unless a catalogue knows the file.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np

from distjet.config import did_you_mean
from distjet.dataset.reading.plain_pickle import plain_list
from distjet.dataset.reading.ragged import BranchType, Ragged, array_type, regular
from distjet.dataset.reading.reader import NO_UUID
from distjet.errors import DataError, MissingExtraError

ENTRIES_PER_CLUSTER = 1000
"At least; chunks of HDF5 can be of a few entries, and there is no use in so many places to divide at."


@dataclass(frozen=True)
class Column:
    """Where a branch lies: in a dataset, in a field of its records, in a column of a block.

    Attributes:
        dataset: Path of the dataset.
        field: Of its records, if it has any.
        place: Of the column in the block, if it is one of a block.
    """

    dataset: str
    field: str | None = None
    place: int | None = None


class Hdf5Reader:
    """A group, a table or a frame in an HDF5 file.

    Args:
        file: The file.
        tree: Name of the group or the dataset; `/` for the top of the file.
        name: Of the file, for messages.

    Raises:
        DataError: If it has no such group or dataset.
        MissingExtraError: If h5py or hdf5plugin is not installed.
    """

    def __init__(self, file: BinaryIO, tree: str, name: str) -> None:
        h5py = _import_h5py(name)
        self.file = h5py.File(file, "r")
        node = self.file.get(tree or "/")
        if node is None:
            groups = _groups(self.file, h5py)
            raise DataError(f"{name} has no tree {tree!r}{did_you_mean(tree, groups)}; it has {groups}")
        self.columns = _find_columns(node, h5py)
        self.datasets = {column.dataset: self.file[column.dataset] for column in self.columns.values()}

    @property
    def uuid(self) -> str:
        """None."""
        return NO_UUID

    @property
    def num_entries(self) -> int:
        """Number of rows of the longest dataset."""
        return max((len(dataset) for dataset in self.datasets.values()), default=0)

    def keys(self) -> list[str]:
        """Return the names of all branches."""
        return list(self.columns)

    def branch_type(self, name: str) -> BranchType:
        """Return what a branch holds.

        Raises:
            DataError: If it holds anything but numbers, has another number of rows than the others, or lies in another file.
        """
        column = self.columns[name]
        dataset = self.datasets[column.dataset]
        if dataset.is_virtual or dataset.external:
            raise DataError(f"the numbers of {column.dataset} lie in other files; copy them into one (h5repack)")
        if len(dataset) != self.num_entries:
            raise DataError(f"{column.dataset} has {len(dataset)} rows, others have {self.num_entries}")
        dtype, shape = dataset.dtype, dataset.shape
        if column.field is not None:
            dtype, inner = dtype[column.field].base, dtype[column.field].shape
            shape += inner
        return array_type(name, dtype, shape if column.place is None else shape[:1])

    def clusters(self, branches: Sequence[str]) -> list[int]:
        """Return entries at which no chunk of these branches is cut, if there are any, from 0 to the number of entries."""
        chunks = {dataset.chunks[0] for dataset in self._datasets(branches) if dataset.chunks}
        step = math.lcm(*chunks)
        step *= -(-ENTRIES_PER_CLUSTER // step)
        return [*range(0, self.num_entries, step), self.num_entries] if self.num_entries else [0]

    def has_page_checksums(self, branches: Sequence[str]) -> bool | None:
        """Return whether all chunks of these branches have checksums, None where they have not, as is the rule."""
        return all(dataset.fletcher32 for dataset in self._datasets(branches)) or None

    def read(self, branches: Sequence[str], start: int, stop: int) -> dict[str, Ragged]:
        """Read the entries [start, stop)."""
        wanted: dict[str, set[str | None]] = defaultdict(set)
        for name in branches:
            wanted[self.columns[name].dataset].add(self.columns[name].field)
        rows = {path: _read_rows(self.datasets[path], fields, start, stop) for path, fields in wanted.items()}
        return {name: regular(_take(rows[self.columns[name].dataset], self.columns[name])) for name in branches}

    def _datasets(self, branches: Sequence[str]) -> list[Any]:
        return [self.datasets[path] for path in sorted({self.columns[name].dataset for name in branches})]


def _import_h5py(name: str) -> ModuleType:
    try:
        import h5py
        import hdf5plugin  # noqa: F401 (registers its filters)
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{name} is an HDF5 file, which needs {error.name}", "hdf5") from error
    return h5py


def _groups(file: Any, h5py: ModuleType) -> list[str]:
    """Return the groups that hold datasets."""
    found = {"/"} if any(isinstance(item, h5py.Dataset) for item in file.values()) else set()

    def visit(path: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and "/" in path:
            found.add(path.rpartition("/")[0])

    file.visititems(visit)
    return sorted(found)


def _find_columns(node: Any, h5py: ModuleType) -> dict[str, Column]:
    if isinstance(node, h5py.Dataset):
        return _fields(node)
    datasets = {name: child for name, child in node.items() if isinstance(child, h5py.Dataset) and child.ndim}
    if "pandas_type" in node.attrs and "table" in datasets:
        return _fields(datasets["table"])
    if "block0_items" in datasets:
        return _fixed_frame(datasets)
    return {name: Column(dataset.name) for name, dataset in datasets.items()}


def _fields(dataset: Any) -> dict[str, Column]:
    """Find the fields of records, and the columns of those that are blocks of a frame."""
    if dataset.dtype.names is None:
        return {dataset.name.rpartition("/")[2]: Column(dataset.name)}
    columns: dict[str, Column] = {}
    for field in dataset.dtype.names:
        kind = dataset.attrs.get(f"{field}_kind")
        if kind is None or not dataset.dtype[field].shape:
            columns[field] = Column(dataset.name, field)
        else:
            names = _check_names(plain_list(bytes(kind)), dataset.dtype[field].shape, f"{dataset.name}.{field}")
            columns |= {name: Column(dataset.name, field, place) for place, name in enumerate(names)}
    return columns


def _fixed_frame(datasets: dict[str, Any]) -> dict[str, Column]:
    """Find the columns of a frame that is stored as arrays: blockN_values, with names in blockN_items."""
    columns: dict[str, Column] = {}
    for key in (key for key in datasets if key.startswith("block") and key.endswith("_values")):
        items = [item.decode() if isinstance(item, bytes) else item for item in datasets[f"{key[:-7]}_items"][:]]
        names = _check_names(items, datasets[key].shape[1:], datasets[key].name)
        columns |= {name: Column(datasets[key].name, None, place) for place, name in enumerate(names)}
    return columns


def _check_names(names: list[Any], shape: tuple[int, ...], where: str) -> list[str]:
    if shape != (len(names),) or not all(isinstance(name, str) for name in names):
        raise DataError(f"{where} has {shape} columns, and the names of {len(names)}; expected one text for each")
    return names


def _read_rows(dataset: Any, fields: set[str | None], start: int, stop: int) -> np.ndarray:
    """Read some fields of records; all of them where that is most of a record, which HDF5 need not take apart then."""
    names = sorted(field for field in fields if field is not None)
    if not names or 2 * sum(dataset.dtype[name].itemsize for name in names) > dataset.dtype.itemsize:
        return dataset[start:stop]
    return dataset.fields(names)[start:stop]


def _take(rows: np.ndarray, column: Column) -> np.ndarray:
    values = rows if column.field is None else rows[column.field]
    return values if column.place is None else values[:, column.place]
