"""What is in a dataset, and is it the one that was written?

A folder without a manifest is not a dataset: the manifest is written last. Readers open exactly the shards that it names,
each of which is a file in the folder of its split: a manifest that names others was changed by hand and is refused. Loading
checks the manifest against the hash that it carries, and that each shard is there with its size; `distjet.dataset.verify`
looks at every row.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import xxhash

from distjet.config import nearest_path, unknown
from distjet.dataset.schema import ColumnSpec, columns_from_manifest
from distjet.errors import DataError
from distjet.run_directory import IDENTITY_FILE
from distjet.storage import as_location, is_remote, reaching, sizes_of_files, within

SCHEMA_VERSION = 2
FILE_NAME = "manifest.json"
SECTIONS = (
    *("fingerprint", "content", "config", "columns", "graph", "classes", "samples", "inputs", "accounting"),
    *("repeated_identities", "shards", "rows", "statistics", "histograms", "class_counts", "xxh3_128"),
)
"What a manifest has at least."


def seal(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a manifest with `xxh3_128`, the hash of all the rest of it as JSON with sorted keys."""
    rest = {key: value for key, value in content.items() if key != "xxh3_128"}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return rest | {"xxh3_128": xxhash.xxh3_128_hexdigest(canonical.encode())}


def repair_hint(folder: Path) -> str:
    """Say what helps where a file of a dataset is missing or damaged: `prepare` leaves a dataset with a manifest as it is."""
    return f"remove the folder {folder} and run `distjet prepare` again"


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a split."""

    path: str
    rows: int
    sample_rows: Mapping[str, int]
    nodes: int
    edges: int
    largest_graph: int
    row_groups: tuple[tuple[int, int, int], ...]
    "Rows, nodes and undirected edges of each row group."
    size_bytes: int
    xxh3_128: str
    content: str
    "Fingerprint of the rows."


@dataclass(frozen=True)
class Manifest:
    """Typed access to the manifest of a dataset.

    Attributes:
        path: Folder of the dataset.
        content: The whole manifest, as in the file.
    """

    path: Path
    content: Mapping[str, Any]

    @classmethod
    def load(cls, path: str | Path, *, check_shards: bool = True) -> "Manifest":
        """Open the dataset in a folder.

        Args:
            path: The folder.
            check_shards: Whether to look if all shards are there, with their sizes.

        Raises:
            DataError: If there is no manifest, it is damaged or of another version, or a shard is missing or has another size.
        """
        folder = as_location(path)
        with reaching(folder):
            manifest = cls(folder, _read(folder))
            for split in manifest.content["shards"]:
                manifest.shards(split)
            for problem in manifest.wrong_sizes() if check_shards else ():
                raise DataError(f"{folder}: {problem}; {repair_hint(folder)}")
        return manifest

    def wrong_sizes(self) -> Iterator[str]:
        """Say which shards are missing or have another size."""
        for split in self.content["shards"]:
            sizes = sizes_of_files(self.path / split)
            for shard in self.shards(split):
                if (size := sizes.get(shard.path.partition("/")[2])) is None:
                    yield f"shard {shard.path} is missing"
                elif size != shard.size_bytes:
                    yield f"shard {shard.path} has {size} bytes, the manifest says {shard.size_bytes}"

    @property
    def fingerprint(self) -> str:
        """Hash of the columns, the configuration and all rows, 32 hexadecimal characters."""
        return self.content["fingerprint"]

    @cached_property
    def columns(self) -> tuple[ColumnSpec, ...]:
        """All columns in the order of the shards."""
        return columns_from_manifest(self.content["columns"])

    def names(self, role: str) -> tuple[str, ...]:
        """Return the names of the columns with a role, in order; empty if there are none."""
        return tuple(column.name for column in self.columns if column.role == role)

    def column(self, name: str) -> ColumnSpec:
        """Return a column by name.

        Raises:
            DataError: If the dataset has no such column.
        """
        for column in self.columns:
            if column.name == name:
                return column
        raise DataError(f"{self.path}: " + unknown("column", name, [column.name for column in self.columns]))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes in the order of their labels; empty without labels."""
        return tuple(self.content["classes"])

    @property
    def class_counts(self) -> dict[str, int]:
        """Training rows of each class."""
        return self.content["class_counts"]

    @property
    def samples(self) -> tuple[str, ...]:
        """Names of the samples."""
        return tuple(self.content["samples"])

    def shards(self, split: str) -> tuple[Shard, ...]:
        """Return the shards of a split in order.

        Raises:
            DataError: If there is no such split, or a shard is not a file in the folder of the split.
        """
        if split not in self.content["shards"]:
            raise DataError(f"{self.path}: " + unknown("split", split, self.content["shards"]))
        found = self.content["shards"][split]
        for shard in found:
            if within(self.path, shard["path"]).parent != self.path / split:
                raise DataError(f"{self.path / FILE_NAME}: shard {shard['path']!r} is not in the folder of split {split!r}")
        return tuple(Shard(**shard | {"row_groups": tuple(tuple(group) for group in shard["row_groups"])}) for shard in found)

    def num_rows(self, split: str) -> int:
        """Return the number of rows of a split."""
        return sum(shard.rows for shard in self.shards(split))

    def statistics(self, column: str) -> Mapping[str, Any]:
        """Return count, mean, std, min, max and quantiles of a column over the training rows.

        Raises:
            DataError: If there are no statistics for the column.
        """
        known = self.content["statistics"]
        if column not in known:
            raise DataError(f"{self.path}: no statistics: " + unknown("column", column, known))
        return known[column]

    def histogram(self, name: str) -> Mapping[str, Any]:
        """Return a histogram of the training rows: `log_true_energy`, `log_true_energy_abs_eta` or `pt_mass`.

        Raises:
            DataError: If the dataset has no such histogram.
        """
        known = self.content["histograms"]
        if name not in known:
            raise DataError(f"{self.path}: " + unknown("histogram", name, known))
        return known[name]


def _read(folder: Path) -> dict[str, Any]:
    """Read the file and compare it with its hash.

    Raises:
        DataError: If it is absent, damaged or of another version.
    """
    file = folder / FILE_NAME
    if not folder.is_dir():
        raise DataError(f"dataset {folder} does not exist{'' if is_remote(folder) else nearest_path(folder)}")
    if not file.is_file():
        hint = "; `distjet prepare` did not finish there" if (folder / IDENTITY_FILE).exists() else ""
        raise DataError(f"{folder} is not a dataset: it has no {FILE_NAME}{hint}")
    try:
        content = json.loads(file.read_text())
        version = content.get("schema_version")
    except (ValueError, AttributeError) as error:  # not UTF-8, not JSON, or no mapping
        raise DataError(f"{file} is damaged: {error}; {repair_hint(folder)}") from error
    if version != SCHEMA_VERSION:
        raise DataError(f"{file} has schema version {version}, this distjet reads {SCHEMA_VERSION}; {repair_hint(folder)}")
    if missing := [name for name in SECTIONS if name not in content]:
        raise DataError(f"{file} is damaged: it has no {', '.join(missing)}; {repair_hint(folder)}")
    if (found := seal(content)["xxh3_128"]) != content["xxh3_128"]:
        changed = f"it was changed, its hash is {found}, when it was written {content['xxh3_128']}"
        raise DataError(f"{file} is damaged: {changed}; {repair_hint(folder)}")
    return content
