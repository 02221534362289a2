"""Is a dataset still the one that was written, and does every row stand where it belongs?

Beside the hash of every file, each row is looked at: its lists and edges are whole, its split and its place in the shuffle are
computed again from the seed and the row's identity, and the contents of all rows add up, sample by sample, to the fingerprint
that was taken when they were converted. So a row that was lost, doubled, changed, moved or put into another split is found,
also where the file was written anew and its hash corrected. The statistics are computed again. With `shuffle: local`, where a
row may be in any shard of its split, its place in the shard is what is checked.

All problems are collected before they are raised. Each check of a row group names the first few rows that fail.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distjet.config import validate
from distjet.dataset.commit import NO_ROWS, dataset_fingerprint, describe_training_rows
from distjet.dataset.fingerprint import total, totals_by_sample
from distjet.dataset.manifest import FILE_NAME, Manifest, repair_hint
from distjet.dataset.reading.checksums import XXH3_128, Hasher
from distjet.dataset.reading.remote import BLOCK_BYTES
from distjet.dataset.reading.sources import Source, stamp
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.dataset.schema import SPLITS
from distjet.dataset.shard_check import ShardCheck, check_shard
from distjet.dataset.shards import file_hash
from distjet.errors import ConfigError, DataError
from distjet.execution import Execute
from distjet.storage import sizes_of_files

RELATIVE_TOLERANCE = 1e-9
"Of sums of floats, which depend on the order of the summands."


@dataclass(frozen=True)
class InputCheck:
    """One input file.

    Attributes:
        source: Where it is.
        size_bytes: When it was read.
        xxh3_128: Of its bytes when it was read; None if it was not read as a whole.
    """

    source: Source
    size_bytes: int
    xxh3_128: str | None


def verify(path: Path, execute: Execute, *, inputs: bool = False) -> dict[str, Any]:
    """Check every byte, row and number of a dataset.

    Args:
        path: Folder of the dataset.
        execute: Runs lists of tasks.
        inputs: Whether to compare the input files as well, where they still are.

    Returns:
        What was checked: `fingerprint`, `content`, `shards`, `rows` (by split), `row_groups`, `nodes`, `edges`, `size_bytes`,
        `repeated_identities` and, with `inputs`, how many input files are `unchanged`, and which are `gone` or `not_hashed`.

    Raises:
        DataError: If anything is not as the manifest says, with all problems.
    """
    manifest = Manifest.load(path, check_shards=False)
    config = _read_config(manifest)
    folder = str(manifest.path.absolute())
    tasks = [ShardCheck(folder, split, number) for split in SPLITS for number in range(len(manifest.shards(split)))]
    results = dict(execute(check_shard, tasks, description="check shards"))
    found = [results[number] for number in range(len(tasks))]
    problems = [problem for result in found for problem in result["problems"]]
    problems += _problems_of_the_folder(manifest)
    problems += _problems_of_the_manifest(manifest, config)
    problems += _problems_of_the_accounting(manifest.content)
    problems += _problems_of_the_content(manifest, found)
    if not problems:  # else the sums are those of other rows
        problems += _problems_of_the_statistics(manifest, config, [result["summary"] for result in found])
    fates = _check_inputs(manifest, config, execute) if inputs else {}
    problems += fates.pop("problems", [])
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise DataError("\n".join([f"{path}: {count}", *problems, repair_hint(path)]))
    return _what_was_checked(manifest) | fates


def _read_config(manifest: Manifest) -> PrepareConfig:
    try:
        return validate(PrepareConfig, manifest.content["config"], prefix="config.")
    except ConfigError as error:
        raise DataError(f"{manifest.path / FILE_NAME} is damaged: {error}; {repair_hint(manifest.path)}") from error


def _problems_of_the_folder(manifest: Manifest) -> Iterator[str]:
    """Find shards that the manifest does not name: readers of a whole folder would read them."""
    for split in SPLITS:
        ours = {Path(shard.path).name for shard in manifest.shards(split)}
        for name in sorted(sizes_of_files(manifest.path / split)):
            if name.endswith(".parquet") and name not in ours:
                yield f"{split}/{name} is not in the manifest"


def _problems_of_the_manifest(manifest: Manifest, config: PrepareConfig) -> Iterator[str]:
    """Check that the manifest agrees with itself."""
    content = manifest.content
    if (found := dataset_fingerprint(config, manifest.columns, content["shards"])) != content["fingerprint"]:
        yield f"{FILE_NAME}: fingerprint is {content['fingerprint']}, columns, configuration and shards give {found}"
    rows = {split: manifest.num_rows(split) for split in SPLITS}
    if rows != content["rows"]:
        yield f"{FILE_NAME}: rows are {content['rows']}, the shards have {rows}"
    if sum(rows.values()) != content["accounting"]["rows"]:
        yield f"{FILE_NAME}: {content['accounting']['rows']} rows were converted, the shards have {sum(rows.values())}"
    derived = {"graph": config.recipe.connection.model_dump(mode="json"), "classes": list(config.recipe.labels)}
    for key, value in derived.items():
        if content[key] != value:
            yield f"{FILE_NAME}: {key} is {content[key]}, the configuration says {value}"


def _problems_of_the_accounting(content: Mapping[str, Any]) -> Iterator[str]:
    """Check that the jets of each input add up, and the inputs to the whole."""
    accounts = [("all inputs", content["accounting"]), *((item["path"], item["accounting"]) for item in content["inputs"])]
    for name, jets in accounts:
        if jets["read"] != jets["rows"] + jets["cut"] + jets["quarantined"] or jets["cut"] != sum(jets["cuts"].values()):
            yield f"{FILE_NAME}: {name}: jets were lost or doubled: {jets}"
    for key in ("read", "rows", "cut", "quarantined"):
        if (jets := sum(item["accounting"][key] for item in content["inputs"])) != (stated := content["accounting"][key]):
            yield f"{FILE_NAME}: {key}: the inputs have {jets} jets, all together {stated}"


def _problems_of_the_content(manifest: Manifest, found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Compare the contents of all rows, and the number of repeated identities, with what was converted."""
    stated, sums = manifest.content["content"], totals_by_sample(result["content"] for result in found)
    for name in sorted({*stated["samples"], *sums}):
        if (there := sums.get(name, NO_ROWS)) != (wanted := stated["samples"].get(name, NO_ROWS)):
            yield f"the rows of sample {name!r} are not those that were converted: fingerprint {there}, converted {wanted}"
    if total(stated["samples"].values()) != stated["total"]:
        yield f"{FILE_NAME}: content.total is not the sum over the samples"
    if (repeated := sum(result["repeated"] for result in found)) != manifest.content["repeated_identities"]:
        yield f"{repeated} rows repeat an identity, the manifest says {manifest.content['repeated_identities']}"


def _problems_of_the_statistics(
    manifest: Manifest, config: PrepareConfig, summaries: Sequence[Mapping[str, Any] | None]
) -> Iterator[str]:
    found = describe_training_rows(config, manifest.columns, [summary for summary in summaries if summary is not None])
    for section, content in found.items():
        yield from differences(content, manifest.content[section], section)


def differences(found: Any, stated: Any, place: str) -> Iterator[str]:
    """Compare two nested structures of numbers.

    Args:
        found: What was computed.
        stated: What is written.
        place: Where it is written, for the message.

    Yields:
        A message for each number, or list of numbers, that differs: whole numbers at all, others by more than rounding.
    """
    if isinstance(found, dict) and isinstance(stated, Mapping) and found.keys() == stated.keys():
        for name in found:
            yield from differences(found[name], stated[name], f"{place}.{name}")
    elif _is_ragged(found) and isinstance(stated, list) and len(found) == len(stated):
        for number, (part, other) in enumerate(zip(found, stated, strict=True)):
            yield from differences(part, other, f"{place}[{number}]")
    elif found != stated and not _is_rounding(found, stated):
        values = "" if isinstance(found, dict | list) else f": it is {stated}, the rows give {found}"
        yield f"{FILE_NAME}: {place} is not what the rows give{values}"


def _is_ragged(found: Any) -> bool:
    """Tell whether these are lists of different lengths, which are no array: the edges of a histogram."""
    return isinstance(found, list) and len({len(part) for part in found if isinstance(part, list)}) > 1


def _is_rounding(found: Any, stated: Any) -> bool:
    """Tell whether floats differ by no more than rounding, relative to the largest of a list."""
    numbers, others = np.asarray(found), np.asarray(stated)
    if numbers.dtype.kind != "f" or others.dtype.kind not in "fi" or numbers.shape != others.shape:
        return False
    return bool((np.abs(numbers - others) <= RELATIVE_TOLERANCE * np.abs(numbers).max(initial=0)).all())


def check_input(task: InputCheck) -> dict[str, Any]:
    """Say whether an input file is `unchanged`, `gone`, `not_hashed`, or what is wrong with it (`problem`).

    Raises:
        OSError: If the machine or the network fails, which says nothing about the file.
    """
    try:
        return _compare(task)
    except OSError as error:
        error.add_note(f"while reading {task.source.path}")
        raise


def _compare(task: InputCheck) -> dict[str, Any]:
    path = task.source.path
    try:
        size = stamp(task.source).size_bytes
    except (FileNotFoundError, DataError):
        return {"fate": "gone"}
    if size is not None and size != task.size_bytes:
        return {"fate": "problem", "problem": f"{path} has {size} bytes, it had {task.size_bytes} when it was read"}
    if task.xxh3_128 is None:
        return {"fate": "not_hashed"}
    if (found := _input_hash(task)) != task.xxh3_128:
        return {"fate": "problem", "problem": f"{path} has changed: hash {found}, when it was read {task.xxh3_128}"}
    return {"fate": "unchanged"}


def _input_hash(task: InputCheck) -> str:
    if not task.source.is_remote:
        return file_hash(Path(task.source.path))
    server, hasher = task.source.on_server(), Hasher()
    for start in range(0, task.size_bytes, BLOCK_BYTES):
        hasher.update(*server.read([(start, min(start + BLOCK_BYTES, task.size_bytes))]))
    return hasher.result()[XXH3_128]


def _check_inputs(manifest: Manifest, config: PrepareConfig, execute: Execute) -> dict[str, Any]:
    tasks = [
        InputCheck(Source.of(item["path"], config.remote, Path()), item["size_bytes"], item["xxh3_128"])
        for item in manifest.content["inputs"]
        if item["fate"] == "used"
    ]
    results = dict(execute(check_input, tasks, description="check inputs"))

    def paths(fate: str) -> list[str]:
        return [task.source.path for number, task in enumerate(tasks) if results[number]["fate"] == fate]

    return {
        "unchanged": len(paths("unchanged")),
        "gone": paths("gone"),
        "not_hashed": paths("not_hashed"),
        "problems": [results[number]["problem"] for number in range(len(tasks)) if results[number]["fate"] == "problem"],
    }


def _what_was_checked(manifest: Manifest) -> dict[str, Any]:
    shards = [shard for split in SPLITS for shard in manifest.shards(split)]
    return {
        "fingerprint": manifest.fingerprint,
        "content": manifest.content["content"]["total"],
        "shards": len(shards),
        "rows": dict(manifest.content["rows"]),
        "row_groups": sum(len(shard.row_groups) for shard in shards),
        "nodes": sum(shard.nodes for shard in shards),
        "edges": sum(shard.edges for shard in shards),
        "size_bytes": sum(shard.size_bytes for shard in shards),
        "repeated_identities": manifest.content["repeated_identities"],
    }
