"""How do files of jets become a dataset: plan, two passes, commit?

    look at every input file            -> which files are used; the recipe is checked against their branches
    convert ranges of entries           -> spills, sorted by split and shuffle key
    build shards from the spills        -> Parquet, in the order of the whole shuffle, and their statistics
    check that no jet was lost, write the manifest, remove the spills

A file is used as a whole or not at all. Everything that is not used is written to quarantine.jsonl with its reason before
the run decides whether that is tolerated (of many jets, some for each reason, and the number of the others), so a failed run
says why, and the same command with a tolerance continues from the spills.
"""

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from distjet.dataset.commit import QUARANTINE, Result, commit, finish_folder
from distjet.dataset.convert import ConvertTask, DirectShards, convert, count_jets
from distjet.dataset.inputs import find_files
from distjet.dataset.manifest import FILE_NAME, Manifest
from distjet.dataset.plan import WORK, InputFile, Plan, forgetting_copies, plan_inputs
from distjet.dataset.reading.checksums import read_catalogue
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.dataset.schema import SPLITS, ColumnSpec, dataset_columns
from distjet.dataset.shards import ShardStyle, ShardTask, build_shard, count_rows
from distjet.errors import ConfigError, DataError
from distjet.execution import Execute
from distjet.run_directory import claim, identity_hash, in_megabytes, naming_a_full_disk, write_atomically, write_json

logger = logging.getLogger(__name__)


def prepare(config: PrepareConfig, execute: Execute) -> dict[str, Any]:
    """Convert ntuples to a dataset; the same call again continues, or finds that all is done.

    Args:
        config: What to convert, how and where to.
        execute: Runs lists of tasks.

    Returns:
        `output`, `fingerprint`, `accounting` (jets read, kept, cut, quarantined), `rows` per split, `files` per fate.

    Raises:
        ConfigError: If the recipe does not fit the files, a pattern matches nothing, or the output belongs to another dataset.
        DataError: If more was quarantined than is tolerated; quarantine.jsonl says what and why. Or if a shard is not there.
        DiskFullError: If there is no room; the same call continues when there is.
    """
    here = {"output": config.output.absolute(), "work": config.work and config.work.absolute()}
    config = config.model_copy(update=here)  # a worker may run in another folder
    with naming_a_full_disk(config.output):
        claim(config.output, "prepare", config.identity())
        return _summary(_open_or_make(config, execute))


def _open_or_make(config: PrepareConfig, execute: Execute) -> Manifest:
    if (config.output / FILE_NAME).exists():
        return _finished(config)
    try:
        return _make(config, execute)
    except FileNotFoundError:
        if not (config.output / FILE_NAME).exists():
            raise
    logger.warning("another run has finished %s meanwhile", config.output)  # and has removed the spills
    return _finished(config)


def _make(config: PrepareConfig, execute: Execute) -> Manifest:
    """Plan, convert, build, commit."""
    plan = plan_inputs(config, execute)
    _judge(config, plan.files)  # so that a bad file is reported before hours of work, not after
    with naming_a_full_disk(config.output, lambda: _space_needed(config, plan.files)):
        columns = dataset_columns(config.recipe, plan.integer_spectators)
        records = _convert_all(config, plan, columns, execute)
        _judge(config, plan.files)
        shards = _build_all(config, columns, records, execute) if config.shuffle == "global" else _collect(records)
        return commit(config, Result(columns, plan.files, records, shards))


def _space_needed(config: PrepareConfig, files: Sequence[InputFile]) -> str:
    """Say how much the spills and the shards to come will take at most, judging by the spills that are there."""
    spills = [path.stat().st_size for path in (config.hidden / WORK).glob("*.rows")]
    if not spills:
        return ""
    num_tasks = sum(len(list(file.ranges(config.entries_per_task))) for file in files if file.fate == "used")
    shards = sum(path.stat().st_size for split in SPLITS for path in (config.output / split).glob("*.parquet"))
    whole = 2 * num_tasks * sum(spills) / len(spills)  # compressed, rows take no more than in a spill
    return f", up to {in_megabytes(whole - sum(spills) - shards)} more are needed"


def _finished(config: PrepareConfig) -> Manifest:
    """Return the dataset that is there already, unless there are inputs now that it does not know (old ones may be gone)."""
    manifest = Manifest.load(config.output)
    known = {item["path"] for item in manifest.content["inputs"]}
    if not known >= {path for _, path in find_files(config, must_match=False)}:
        raise ConfigError(
            f"{config.output} holds a dataset made from other files than the inputs match now; choose another output=..."
        )
    _warn_of_checksums(config, manifest)
    finish_folder(config, manifest)
    return manifest


def _warn_of_checksums(config: PrepareConfig, manifest: Manifest) -> None:
    """Say that inputs of a finished dataset are not compared any more, if there are checksums now that were not there then."""
    compared = {item["path"]: item["checksum"] for item in manifest.content["inputs"] if item["fate"] == "used"}
    catalogue = {path: asdict(checksum) for path, checksum in read_catalogue(config.checksums).items()}
    if new := [path for path in compared if path in catalogue and compared[path] != catalogue[path]]:
        logger.warning(
            "%s is finished: %d of its inputs were not compared with the checksums that are given now (the first: %s)",
            *(config.output, len(new), new[0]),
        )


def _convert_all(
    config: PrepareConfig, plan: Plan, columns: Sequence[ColumnSpec], execute: Execute
) -> list[tuple[InputFile, dict[str, Any]]]:
    """Run the first pass; a file with a range that cannot be read is quarantined as a whole."""
    recipe = config.recipe.model_dump(mode="json")
    used = [file for file in plan.files if file.fate == "used"]
    owners = [(file, start, stop) for file in used for start, stop in file.ranges(config.entries_per_task)]
    style, output = shard_style(config, columns), str(config.output)
    train, val = config.fractions
    tasks = [
        ConvertTask(
            source=file.source,
            uuid=file.uuid,
            sample=file.sample,
            start=start,
            stop=stop,
            recipe=recipe,
            integer_spectators=tuple(plan.integer_spectators),
            seed=config.seed,
            train=train,
            val=val,
            work=str(config.hidden / WORK),
            direct=DirectShards(output, number, style) if config.shuffle == "local" else None,
        )
        for number, (file, start, stop) in enumerate(owners)
    ]
    results = execute(convert, tasks, description="convert entries to graphs", measure=count_jets)
    records = dict(forgetting_copies([file for file, _, _ in owners], results))
    for number, record in sorted(records.items()):
        if "error" in record:
            owners[number][0].quarantine(record["error"])
    good = [(owners[number][0], records[number]) for number in range(len(tasks)) if owners[number][0].fate == "used"]
    for file, record in good:
        file.add(record)
    return good


def shard_style(config: PrepareConfig, columns: Sequence[ColumnSpec]) -> ShardStyle:
    """Return what all shards of a dataset have in common."""
    return ShardStyle(
        columns=tuple(column.as_dict() for column in columns),
        row_group_size=config.row_group_size,
        pt_edges_gev=config.pt_edges_gev,
        mass_edges_gev=config.mass_edges_gev,
        num_classes=len(config.recipe.labels),
    )


def _judge(config: PrepareConfig, files: Sequence[InputFile]) -> None:
    """Say what is quarantined, then decide whether that is tolerated."""
    _write_quarantine(config, files)
    _check_accounting(files)
    _check_tolerance(config, files)


def _write_quarantine(config: PrepareConfig, files: Sequence[InputFile]) -> None:
    lines = [json.dumps(line) + "\n" for file in files for line in file.quarantine_lines()]
    write_atomically(config.output / QUARANTINE, "".join(lines))


def _check_accounting(files: Sequence[InputFile]) -> None:
    """Every jet that was read is a row, was cut or was quarantined."""
    for file in files:
        found = file.accounting
        if found["read"] != found["rows"] + found["cut"] + found["quarantined"] or found["cut"] != sum(found["cuts"].values()):
            raise RuntimeError(f"{file.path}: jets were lost or doubled: {found}")


def _check_tolerance(config: PrepareConfig, files: Sequence[InputFile]) -> None:
    bad_files = [file for file in files if file.fate != "used"]
    used = [file for file in files if file.fate == "used"]
    read = sum(file.accounting["read"] for file in used)
    bad_rows = sum(file.accounting["quarantined"] for file in used)
    problems = []
    if len(bad_files) > config.tolerance.max_files:
        problems.append(
            f"{len(bad_files)} of {len(files)} files were quarantined, tolerance.max_files is {config.tolerance.max_files}; "
            f"the first: {bad_files[0].complaint}"
        )
    if bad_rows > config.tolerance.max_row_fraction * read:
        first = next(line for file in used for line in file.quarantine_lines())
        problems.append(
            f"{bad_rows} of {read} jets were quarantined, tolerance.max_row_fraction is {config.tolerance.max_row_fraction:g}; "
            f"the first: {first['file']} entry {first['entry']} jet {first['jet_index']}: {first['reason']}"
        )
    if not used:
        problems.append("no file is left to be used")
    if problems:
        listed = config.output / QUARANTINE
        hint = f"{listed} says what and why. Repair them, or raise the tolerance and run the same command again."
        raise DataError("\n".join([*problems, hint]))


def _build_all(
    config: PrepareConfig, columns: Sequence[ColumnSpec], records: Sequence[tuple[InputFile, dict[str, Any]]], execute: Execute
) -> dict[str, list[dict[str, Any]]]:
    """Run the second pass; returns the records of the shards of each split, in order."""
    tasks = [task for number in range(len(SPLITS)) for task in _shard_tasks(config, columns, records, number)]
    results = dict(execute(build_shard, tasks, description="build shards", measure=count_rows))
    shards: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for number, task in enumerate(tasks):
        shards[task.path.partition("/")[0]].append(results[number])
    return shards


def _collect(records: Sequence[tuple[InputFile, dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Return the records of the shards that the first pass has written, of each split in the order of the inputs."""
    return {split: [record["shards"][split] for _, record in records if split in record["shards"]] for split in SPLITS}


def _shard_tasks(
    config: PrepareConfig, columns: Sequence[ColumnSpec], records: Sequence[tuple[InputFile, dict[str, Any]]], number: int
) -> list[ShardTask]:
    filled = [(file, record) for file, record in records if record["split_rows"][number]]
    spills = [[record["spill"], file.sample] for file, record in filled]
    rows = sum(record["split_rows"][number] for _, record in filled)
    spill_list = f"spills-{identity_hash({'spills': spills})}.json"
    write_json(config.hidden / WORK / spill_list, spills)
    num_shards = -(-rows // config.rows_per_shard)
    style = shard_style(config, columns)
    return [
        ShardTask(
            output=str(config.output),
            path=f"{SPLITS[number]}/part-{shard:05d}.parquet",
            number=shard,
            num_shards=num_shards,
            spills=spill_list,
            style=style,
            work=str(config.hidden / WORK),
        )
        for shard in range(num_shards)
    ]


def _summary(manifest: Manifest) -> dict[str, Any]:
    content = manifest.content
    fates = Counter(item["fate"] for item in content["inputs"])
    return {
        "output": str(manifest.path),
        "fingerprint": manifest.fingerprint,
        "accounting": content["accounting"],
        "rows": content["rows"],
        "files": dict(fates),
    }
