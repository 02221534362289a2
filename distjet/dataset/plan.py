"""Which files are there, which of them can be used, and does the recipe fit them?

Every file is looked at once (size, hash, entries, branches), in parallel; a remote one is copied on this occasion. What is
wrong in all files is a mistake in the recipe and stops the run before anything is converted; what is wrong in some files
quarantines those. A file that an earlier run of an unfinished dataset has found stays an input: if it is gone now, that is
quarantined as well, or else the second try would pass over what the first one missed.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from distjet.config import did_you_mean
from distjet.dataset.convert import Fates, apply_cuts
from distjet.dataset.inputs import find_files
from distjet.dataset.look import LookTask, look
from distjet.dataset.reading.checksums import URL_MARK, read_catalogue
from distjet.dataset.reading.ragged import BranchType, Ragged, empty
from distjet.dataset.reading.sources import Source
from distjet.dataset.recipes.association import open_scope
from distjet.dataset.recipes.definitions import jet_definitions, required_branches
from distjet.dataset.recipes.recipe import PrepareConfig, Recipe
from distjet.dataset.rows import evaluate_columns, identify
from distjet.dataset.schema import dataset_columns
from distjet.errors import ConfigError, UserError
from distjet.execution import Execute
from distjet.run_directory import identity_hash, read_json, write_json
from distjet.storage import is_remote, without_secrets

logger = logging.getLogger(__name__)

WORK = ".work"
"Folder of what is needed until the dataset is finished."

INPUTS, COPIES = ".inputs", "copies"
"Folder of what was found out about the inputs, which serves another recipe as well, and of copies of remote files within."

SMALL_INTEGERS = ("bool", "int8", "int16", "int32", "uint8", "uint16")


@dataclass
class InputFile:
    """An input file and its fate."""

    source: Source
    sample: str
    size_bytes: int = 0
    uuid: str = ""
    checksum: dict[str, str] | None = None
    page_checksums: bool | None = None
    entries: int = 0
    clusters: tuple[int, ...] = (0,)
    fate: str = "used"
    reason: str | None = None
    accounting: dict[str, Any] = field(default_factory=lambda: {"read": 0, "rows": 0, "cut": 0, "quarantined": 0, "cuts": {}})
    bad_jets: list[tuple[int, int, str]] = field(default_factory=list)
    unlisted: Counter[str] = field(default_factory=Counter)

    @property
    def path(self) -> str:
        """Absolute path or URL."""
        return self.source.path

    def ranges(self, target: int) -> Iterator[tuple[int, int]]:
        """Divide the entries into ranges of about `target` entries, always fewer than three times that.

        They end at cluster boundaries, except within a cluster of more than two targets: reading then decodes the baskets at
        the ends of a range twice. Where the baskets of the branches are not aligned, the whole file can be such a cluster.
        """
        start = 0
        for edge in self._edges(target):
            if edge - start >= target:
                yield start, edge
                start = edge
        if start < self.entries:
            yield start, self.entries

    def _edges(self, target: int) -> Iterator[int]:
        for low, high in pairwise(self.clusters):
            if high - low > 2 * target:
                yield from range(low + target, high, target)
            yield high

    def quarantine(self, reason: str, fate: str = "quarantined") -> None:
        """Take the file out as a whole; its entries count as read and quarantined."""
        if self.fate == "used":
            self.fate, self.reason = fate, reason
            self.accounting = {"read": self.entries, "rows": 0, "cut": 0, "quarantined": self.entries, "cuts": {}}

    def add(self, record: dict[str, Any]) -> None:
        """Count the jets of one converted range."""
        self.accounting["read"] += record["read"]
        self.accounting["rows"] += record["rows"]
        self.accounting["quarantined"] += record["quarantined"]
        self.bad_jets += [tuple(jet) for jet in record["bad_jets"]]
        self.unlisted.update(record["unlisted"])
        for name, jets in record["cuts"].items():
            self.accounting["cut"] += jets
            self.accounting["cuts"][name] = self.accounting["cuts"].get(name, 0) + jets

    @property
    def complaint(self) -> str:
        """The reason why it is not used, with its path."""
        reason = self.reason or ""
        return reason if self.path in reason else f"{self.path}: {reason}"

    def quarantine_lines(self) -> list[dict[str, Any]]:
        """Return what quarantine.jsonl says about this file: `more_jets` is how many were quarantined beside those listed."""
        whole = {"file": self.path, "entry": None, "jet_index": None}
        if self.fate != "used":
            return [whole | {"reason": self.reason}]
        listed = [{"file": self.path, "entry": e, "jet_index": j, "reason": reason} for e, j, reason in self.bad_jets]
        return listed + [whole | {"reason": reason, "more_jets": jets} for reason, jets in self.unlisted.items()]

    def as_dict(self) -> dict[str, Any]:
        """Return what the manifest says about this file."""
        keys = ("size_bytes", "uuid", "checksum", "page_checksums", "entries", "sample", "fate", "reason", "accounting")
        found = {key: getattr(self, key) for key in keys}
        return {"path": self.path, "xxh3_128": self.source.xxh3_128, **found}


@dataclass(frozen=True)
class Plan:
    """Files with their fates so far, and spectators that are whole numbers in all files that are used."""

    files: list[InputFile]
    integer_spectators: tuple[str, ...]


def plan_inputs(config: PrepareConfig, execute: Execute) -> Plan:
    """Find the input files and check them and the recipe against each other.

    Raises:
        ConfigError: If a pattern matches nothing, a file is listed twice, a checksum belongs to no file, or no file fits the
            recipe.
    """
    files = [_input_file(config, sample, path) for sample, path in find_files(config)]
    gone = _files_gone(config, files)
    tasks = _look_tasks(config, files, gone)
    looks = dict(execute(look, tasks, description="look at input files"))
    described = [_with_optional(looks[number], config.recipe) for number in range(len(files))]
    reference = _reference(config.recipe, files, described)
    for file, description in zip(files, described, strict=True):
        _assess(file, description, reference)
    _mark_duplicates(files)
    _warn_of_pages(files)
    for file in files:
        if file.fate != "used":
            file.source.forget()
    if not reference:
        return Plan([*files, *gone], ())
    check_recipe(config.recipe, reference)
    used = [item["branches"] for file, item in zip(files, described, strict=True) if file.fate == "used"]
    return Plan([*files, *gone], _integer_spectators(config.recipe, used))


def _input_file(config: PrepareConfig, sample: str, path: str) -> InputFile:
    source = Source.of(path, config.remote, copies := config.hidden / INPUTS / COPIES)
    if source.copies and is_remote(copies):
        raise ConfigError(
            f"inputs: {path} is to be copied to a folder that all workers see, which an output on an object store does not "
            "have: set work=FOLDER on a shared file system, or remote=direct to read it where it lies"
        )
    return InputFile(source, sample)


def _files_gone(config: PrepareConfig, files: Sequence[InputFile]) -> list[InputFile]:
    """Return the files that an earlier run has found and this one has not; keep a list of all for the next."""
    record = config.hidden / INPUTS / f"found-{identity_hash({'inputs': config.identity()['inputs']})}.json"
    earlier = read_json(record) if record.exists() else {}
    found = {file.path: file.sample for file in files}
    if not earlier.keys() >= found.keys():
        write_json(record, earlier | found)
    missing = [_input_file(config, sample, path) for path, sample in earlier.items() if path not in found]
    gone = [
        file for file in missing if URL_MARK in file.path or not Path(file.path).exists()
    ]  # the others are no longer listed
    for file in gone:
        file.quarantine(f"an earlier run has found it among the inputs, now it is gone; if that is meant, remove {record}")
    return gone


def _look_tasks(config: PrepareConfig, files: Sequence[InputFile], gone: Sequence[InputFile]) -> list[LookTask]:
    """Return a task for each file; a catalogue may also know those that are gone."""
    tree, branches, work = config.recipe.tree, tuple(required_branches(config.recipe)), str(config.hidden / INPUTS)
    sources = {file.path: file.source for file in (*files, *gone)}
    catalogue = read_catalogue(config.checksums)
    for path in catalogue:
        if path not in sources:
            raise ConfigError(without_secrets(f"checksums: {path} is not among the inputs{did_you_mean(path, sources)}"))
        if not sources[path].is_read_whole:
            raise ConfigError(f"checksums: {path} is not read as a whole with remote=direct; use remote=stage")
    return [LookTask(file.source, tree, branches, work, catalogue.get(file.path)) for file in files]


def forgetting_copies(
    owners: Sequence[InputFile], results: Iterable[tuple[int, dict[str, Any]]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Pass on the results of tasks, and remove the copy of a remote file as soon as its last task is done.

    Args:
        owners: The file of each task.
        results: Number of the task, and its result.
    """
    left = Counter(file.path for file in owners)
    for number, result in results:
        yield number, result
        left[owners[number].path] -= 1
        if not left[owners[number].path]:
            owners[number].source.forget()


def _with_optional(description: dict[str, Any], recipe: Recipe) -> dict[str, Any]:
    """Take the branches that a file may lack for those that it has, one number per entry."""
    if "error" in description:
        return description
    absent = {name: ("float64", 0) for name in description["missing"] if name in recipe.optional}
    missing = {name: hint for name, hint in description["missing"].items() if name not in absent}
    return description | {"branches": description["branches"] | absent, "missing": missing}


def _reference(recipe: Recipe, files: Sequence[InputFile], described: Sequence[dict[str, Any]]) -> dict[str, BranchType]:
    """Return the types of the branches in the first complete file.

    Raises:
        ConfigError: If files can be read, but none has all branches, or none has the tree.
    """
    readable = [(file, item) for file, item in zip(files, described, strict=True) if "error" not in item]
    for _, item in readable:
        if not item["missing"]:
            return {name: BranchType(*kind) for name, kind in item["branches"].items()}
    if readable:
        file, item = min(readable, key=lambda pair: len(pair[1]["missing"]))
        missing = "; ".join(f"{name!r}{hint}" for name, hint in item["missing"].items())
        raise ConfigError(f"recipe: {file.path} has no branch {missing} (tree {recipe.tree!r})")
    errors = [item["error"] for item in described]
    if all("has no tree" in error for error in errors):
        raise ConfigError(f"recipe.tree: {errors[0]}")
    return {}


def _assess(file: InputFile, description: dict[str, Any], reference: dict[str, BranchType]) -> None:
    """Fill in what was found and decide whether the file can be used."""
    file.size_bytes = description["size_bytes"]
    if "error" in description:
        file.quarantine(description["error"])
        return
    file.source = Source(**description["source"])
    file.uuid, file.entries = description["uuid"], description["entries"]
    file.clusters = tuple(description["clusters"])
    file.checksum, file.page_checksums = description["checksum"], description["page_checksums"]
    if description["missing"]:
        file.quarantine(f"no branch {', '.join(map(repr, description['missing']))}, which other files have")
        return
    for name, (_, depth) in description["branches"].items():
        if depth != reference[name].depth:
            file.quarantine(f"branch {name!r} has {depth} levels of lists, in other files {reference[name].depth}")


def _mark_duplicates(files: Sequence[InputFile]) -> None:
    """Find the same content twice: the same hash, or where a file was not read as a whole, the same identifier and size."""
    first: dict[str, InputFile] = {}
    for file in files:
        if file.fate == "used":
            same = first.setdefault(file.source.xxh3_128 or f"{file.uuid} {file.size_bytes}", file)
            if same is not file:
                file.quarantine(f"same content as {same.path}", fate="duplicate")


def _warn_of_pages(files: Sequence[InputFile]) -> None:
    bare = [file.path for file in files if file.fate == "used" and file.page_checksums is False]
    if bare:
        logger.warning(
            "%d of %d files are RNTuples with pages that have no checksum (%s, ...): a flipped bit there can pass unnoticed, "
            "unless `checksums` of a catalogue are given",
            len(bare),
            len(files),
            bare[0],
        )


def check_recipe(recipe: Recipe, types: dict[str, BranchType]) -> None:
    """Evaluate the whole recipe on no entries at all: every level and every type is checked before a task runs.

    Raises:
        ConfigError: If a column has more values than its place allows, naming the key.
    """
    branches: dict[str, Ragged] = {name: empty(kind) for name, kind in types.items()}
    try:
        scope = open_scope(recipe, branches, 0, "sample")
        apply_cuts(recipe, scope, Fates(scope))
        evaluate_columns(recipe, scope, dataset_columns(recipe))
        identify(recipe, scope, "", 0)
    except UserError as error:
        raise ConfigError(str(error)) from error


def _integer_spectators(recipe: Recipe, types: Sequence[Mapping[str, tuple[str, int]]]) -> tuple[str, ...]:
    """Find the spectators that are a branch of small whole numbers as it stands, in every file."""
    definitions = jet_definitions(recipe)
    defined = {*definitions.formulas, *definitions.given}
    return tuple(
        column.name
        for column in recipe.spectators
        if column.value not in defined and all(_is_small_integer(column.value, branches) for branches in types)
    )


def _is_small_integer(name: str, branches: Mapping[str, tuple[str, int]]) -> bool:
    return name in branches and branches[name][0] in SMALL_INTEGERS
