"""What is in an input file, and is it the one that is meant?

The first task about a file reads all of it once: its hash, the checksum of a catalogue, and what uproot says about the tree and
its branches; a remote file is copied on this occasion. What was found stays on record, so a run that was interrupted does not
hash its inputs again.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distjet.dataset.reading.checksums import Checksum
from distjet.dataset.reading.entries import as_data_error, describe_file
from distjet.dataset.reading.sources import Source, examine, stamp
from distjet.errors import DataError
from distjet.run_directory import identity_hash, read_json, write_json
from distjet.storage import as_location

LOOK_VERSION = 1
"Raised when more is said about a file."


@dataclass(frozen=True)
class LookTask:
    """Look at one file.

    Attributes:
        source: The file.
        tree: Name of the TTree or RNTuple.
        branches: That will be read.
        work: Folder for the record.
        checksum: What a catalogue says about the file.
    """

    source: Source
    tree: str
    branches: tuple[str, ...]
    work: str
    checksum: Checksum | None = None

    def record_path(self, source: Source) -> Path:
        """Return where the record stands of the file as it is now."""
        inputs = {"tree": self.tree, "branches": self.branches, "checksum": self.checksum and asdict(self.checksum)}
        return as_location(self.work) / f"look-{identity_hash(inputs | source.identity() | {'version': LOOK_VERSION})}.json"


def look(task: LookTask) -> dict[str, Any]:
    """Read a file once as a whole, and describe it.

    Returns:
        What `describe_file` says, and `source` (with stamp and hash) and `checksum` (as in the catalogue); or `error` (why the
        file cannot be used) and `size_bytes`.
    """
    source = task.source
    try:
        with as_data_error(source.path):
            source = stamp(source)
            record = task.record_path(source)
            if record.exists():
                return read_json(record)
            source, checksums = examine(source, task.checksum.algorithm if task.checksum else None)
            _compare(source.path, task.checksum, checksums)
        found = describe_file(source, task.tree, task.branches)
    except DataError as error:
        source.forget()
        return {"error": str(error), "size_bytes": source.size_bytes or 0}
    found |= {"source": source.as_dict(), "checksum": task.checksum and asdict(task.checksum)}
    write_json(record, found)
    return found


def _compare(path: str, expected: Checksum | None, found: Mapping[str, str]) -> None:
    if expected is not None and (value := found[expected.algorithm]) != expected.value:
        raise DataError(f"{path} is not the file of the catalogue: its {expected.algorithm} is {value}, not {expected.value}")
