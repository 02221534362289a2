"""Which files are there, which of them can be used, and does the recipe fit them?

Every file is looked at once (size, unique identifier, entries, branches), in parallel. What is wrong in all files is a
mistake in the recipe and stops the run before anything is converted; what is wrong in some files quarantines those.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob
from itertools import pairwise
from pathlib import Path
from typing import Any

from distjet.dataset.association import open_scope
from distjet.dataset.convert import Fates, apply_cuts
from distjet.dataset.definitions import jet_definitions, required_branches
from distjet.dataset.recipe import Input, PrepareConfig, Recipe
from distjet.dataset.root import BranchType, Ragged, describe_file, empty
from distjet.dataset.rows import evaluate_columns, identify
from distjet.dataset.schema import dataset_columns
from distjet.errors import ConfigError, DataError, UserError
from distjet.execution import Execute

SMALL_INTEGERS = ("bool", "int8", "int16", "int32", "uint8", "uint16")


@dataclass
class InputFile:
    """An input file and its fate."""

    path: str
    sample: str
    size_bytes: int = 0
    uuid: str = ""
    entries: int = 0
    clusters: tuple[int, ...] = (0,)
    fate: str = "used"
    reason: str | None = None
    accounting: dict[str, Any] = field(default_factory=lambda: {"read": 0, "rows": 0, "cut": 0, "quarantined": 0, "cuts": {}})
    bad_jets: list[tuple[int, int, str]] = field(default_factory=list)

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
        self.accounting["quarantined"] += len(record["quarantined"])
        self.bad_jets += [tuple(jet) for jet in record["quarantined"]]
        for name, jets in record["cuts"].items():
            self.accounting["cut"] += jets
            self.accounting["cuts"][name] = self.accounting["cuts"].get(name, 0) + jets

    def quarantine_lines(self) -> list[dict[str, Any]]:
        """Return what quarantine.jsonl says about this file."""
        if self.fate != "used":
            return [{"file": self.path, "entry": None, "jet_index": None, "reason": self.reason}]
        return [{"file": self.path, "entry": e, "jet_index": j, "reason": reason} for e, j, reason in self.bad_jets]

    def as_dict(self) -> dict[str, Any]:
        """Return what the manifest says about this file."""
        keys = ("path", "size_bytes", "uuid", "entries", "sample", "fate", "reason", "accounting")
        return {key: getattr(self, key) for key in keys}


@dataclass(frozen=True)
class Plan:
    """Files with their fates so far, and spectators that are whole numbers in all files that are used."""

    files: list[InputFile]
    integer_spectators: tuple[str, ...]


@dataclass(frozen=True)
class LookTask:
    """Look at one file."""

    path: str
    tree: str
    branches: tuple[str, ...]


def look(task: LookTask) -> dict[str, Any]:
    """Describe a file, or say why it cannot be read."""
    try:
        return describe_file(task.path, task.tree, task.branches)
    except DataError as error:
        path = Path(task.path)
        return {"error": str(error), "size_bytes": path.stat().st_size if path.exists() else 0}


def plan_inputs(config: PrepareConfig, execute: Execute) -> Plan:
    """Find the input files and check them and the recipe against each other.

    Raises:
        ConfigError: If a pattern matches nothing, a file is listed twice, or no file fits the recipe.
    """
    branches = required_branches(config.recipe)
    found = find_files(config.inputs)
    tasks = [LookTask(path, config.recipe.tree, tuple(branches)) for _, path in found]
    looks = dict(execute(look, tasks, description="look at input files"))
    files = [InputFile(path, sample) for sample, path in found]
    described = [looks[number] for number in range(len(files))]
    reference = _reference(config.recipe, files, described)
    for file, description in zip(files, described, strict=True):
        _assess(file, description, reference)
    _mark_duplicates(files)
    if not reference:
        return Plan(files, ())
    check_recipe(config.recipe, reference)
    used = [item["branches"] for file, item in zip(files, described, strict=True) if file.fate == "used"]
    return Plan(files, _integer_spectators(config.recipe, used))


def find_files(inputs: Sequence[Input], *, must_match: bool = True) -> list[tuple[str, str]]:
    """Resolve folders and patterns to (sample, absolute path), sorted within each pattern.

    Raises:
        ConfigError: If a pattern matches nothing or a file is found twice.
    """
    found: dict[str, str] = {}
    for item in inputs:
        for pattern in item.files:
            paths = _match(pattern)
            if must_match and not paths:
                raise ConfigError(f"inputs: no file matches {pattern!r} (sample {item.sample or 'by folder'})")
            for path in paths:
                if path in found:
                    raise ConfigError(f"inputs: {path} is listed twice")
                found[path] = item.sample or Path(path).parent.name
    return [(sample, path) for path, sample in found.items()]


def _match(pattern: str) -> list[str]:
    path = Path(pattern).expanduser()
    if path.is_dir():
        return sorted(str(file.resolve()) for file in path.rglob("*.root"))
    return sorted(str(Path(file).resolve()) for file in glob(str(path), recursive=True) if Path(file).is_file())


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
    file.uuid, file.entries = description["uuid"], description["entries"]
    file.clusters = tuple(description["clusters"])
    if description["missing"]:
        file.quarantine(f"no branch {', '.join(map(repr, description['missing']))}, which other files have")
        return
    for name, (_, depth) in description["branches"].items():
        if depth != reference[name].depth:
            file.quarantine(f"branch {name!r} has {depth} levels of lists, in other files {reference[name].depth}")


def _mark_duplicates(files: Sequence[InputFile]) -> None:
    first: dict[tuple[str, int], InputFile] = {}
    for file in files:
        if file.fate == "used":
            same = first.setdefault((file.uuid, file.size_bytes), file)
            if same is not file:
                file.quarantine(f"same content as {same.path}", fate="duplicate")


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
