"""How do ROOT ntuples become a dataset: plan, two passes, commit?

    look at every input file            -> which files are used; the recipe is checked against their branches
    convert ranges of entries           -> spills, sorted by split and shuffle key
    build shards from the spills        -> Parquet, in the order of the whole shuffle, and their statistics
    check that no jet was lost, write the manifest, remove the spills

A file is used as a whole or not at all. Everything that is not used is written to quarantine.jsonl with its reason before
the run decides whether that is tolerated, so a failed run says why, and the same command with a tolerance continues from
the spills.
"""

import json
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import uproot
import xxhash
from omegaconf import OmegaConf

import distjet
from distjet.dataset.convert import ConvertTask, convert
from distjet.dataset.manifest import FILE_NAME, SCHEMA_VERSION, Manifest
from distjet.dataset.plan import InputFile, find_files, plan_inputs
from distjet.dataset.recipe import PrepareConfig
from distjet.dataset.schema import SPLITS, STATISTICS_ROLES, ColumnSpec, dataset_columns
from distjet.dataset.shards import ShardTask, build_shard
from distjet.dataset.statistics import ABS_ETA_EDGES, LOG_ENERGY_EDGES, WIDE_LOG_ENERGY_EDGES, finish, merge
from distjet.errors import ConfigError, DataError
from distjet.execution import Execute
from distjet.run_directory import claim, identity_hash, write_atomically, write_json

logger = logging.getLogger(__name__)

WORK = ".work"
QUARANTINE = "quarantine.jsonl"
SHARD_PATTERN = "part-[0-9]*.parquet"


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
    """
    config = config.model_copy(update={"output": config.output.absolute()})  # a worker may run in another folder
    claim(config.output, "prepare", config.identity())
    if (config.output / FILE_NAME).exists():
        return _summary(_finished(config))
    plan = plan_inputs(config, execute)
    records = _convert_all(config, plan.files, plan.integer_spectators, execute)
    _write_quarantine(config, plan.files)
    _check_accounting(plan.files)
    _check_tolerance(config, plan.files)
    columns = dataset_columns(config.recipe, plan.integer_spectators)
    shards = _build_all(config, columns, records, execute)
    return _summary(_commit(config, columns, plan.files, shards))


def _finished(config: PrepareConfig) -> Manifest:
    """Return the dataset that is there already, unless there are inputs now that it does not know (old ones may be gone)."""
    manifest = Manifest.load(config.output)
    known = {item["path"] for item in manifest.content["inputs"]}
    if not known >= {path for _, path in find_files(config.inputs, must_match=False)}:
        raise ConfigError(
            f"{config.output} holds a dataset made from other files than the inputs match now; choose another output=..."
        )
    _clean_up(manifest)
    return manifest


def _convert_all(
    config: PrepareConfig, files: Sequence[InputFile], integer_spectators: Sequence[str], execute: Execute
) -> list[tuple[InputFile, dict[str, Any]]]:
    """Run the first pass; a file with a range that cannot be read is quarantined as a whole."""
    recipe = config.recipe.model_dump(mode="json")
    owners = [
        (file, start, stop) for file in files if file.fate == "used" for start, stop in file.ranges(config.entries_per_task)
    ]
    tasks = [
        ConvertTask(
            path=file.path,
            uuid=file.uuid,
            sample=file.sample,
            start=start,
            stop=stop,
            recipe=recipe,
            integer_spectators=tuple(integer_spectators),
            seed=config.seed,
            train=config.split.train,
            val=config.split.val,
            work=str(config.output / WORK),
        )
        for file, start, stop in owners
    ]
    records: dict[int, dict[str, Any]] = dict(execute(convert, tasks, description="convert entries to graphs"))
    for number, record in sorted(records.items()):
        if "error" in record:
            owners[number][0].quarantine(record["error"])
    good = [(owners[number][0], records[number]) for number in range(len(tasks)) if owners[number][0].fate == "used"]
    for file, record in good:
        file.add(record)
    return good


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
            f"the first: {bad_files[0].path}: {bad_files[0].reason}"
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
        hint = f"All are listed in {listed}. Repair them, or raise the tolerance and run the same command again."
        raise DataError("\n".join([*problems, hint]))


def _build_all(
    config: PrepareConfig, columns: Sequence[ColumnSpec], records: Sequence[tuple[InputFile, dict[str, Any]]], execute: Execute
) -> dict[str, list[dict[str, Any]]]:
    """Run the second pass; returns the records of the shards of each split, in order."""
    tasks = [task for number in range(len(SPLITS)) for task in _shard_tasks(config, columns, records, number)]
    results = dict(execute(build_shard, tasks, description="build shards"))
    shards: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
    for number, task in enumerate(tasks):
        shards[task.path.partition("/")[0]].append(results[number])
    return shards


def _shard_tasks(
    config: PrepareConfig, columns: Sequence[ColumnSpec], records: Sequence[tuple[InputFile, dict[str, Any]]], number: int
) -> list[ShardTask]:
    spills = []
    for file, record in records:
        start, stop = sum(record["split_rows"][:number]), sum(record["split_rows"][: number + 1])
        if stop > start:
            spills.append([Path(record["spill"]).name, file.sample, start, stop])
    rows = sum(stop - start for _, _, start, stop in spills)
    spill_list = f"spills-{identity_hash({'spills': spills})}.json"
    write_json(config.output / WORK / spill_list, spills)
    num_shards = -(-rows // config.rows_per_shard)
    return [
        ShardTask(
            output=str(config.output),
            path=f"{SPLITS[number]}/part-{shard:05d}.parquet",
            number=shard,
            num_shards=num_shards,
            spills=spill_list,
            columns=tuple(column.as_dict() for column in columns),
            row_group_size=config.row_group_size,
            pt_edges_gev=config.pt_edges_gev,
            mass_edges_gev=config.mass_edges_gev,
            num_classes=len(config.recipe.labels),
            work=str(config.output / WORK),
        )
        for shard in range(num_shards)
    ]


def _commit(
    config: PrepareConfig, columns: Sequence[ColumnSpec], files: Sequence[InputFile], records: dict[str, list[dict[str, Any]]]
) -> Manifest:
    """Check that the shards are there and hold all rows, write the manifest, clean up."""
    accounting = total_accounting(files)
    shards = {split: [record["shard"] for record in found if record["shard"]["rows"]] for split, found in records.items()}
    rows = {split: sum(shard["rows"] for shard in found) for split, found in shards.items()}
    if sum(rows.values()) != accounting["rows"]:
        raise RuntimeError(f"rows were lost or doubled between the passes: {accounting['rows']} converted, {rows} in shards")
    if repeated := sum(record["repeated"] for found in records.values() for record in found):
        logger.warning("%d rows have the same sample, run, event and jet_index as another row", repeated)
    content = {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": _fingerprint(config, columns, shards),
        "created_with": {"distjet": distjet.__version__, "pyarrow": pyarrow.__version__, "uproot": uproot.__version__},
        "config": config.model_dump(mode="json"),
        "columns": [column.as_dict() for column in columns],
        "classes": list(config.recipe.labels),
        "samples": sorted({file.sample for file in files if file.fate == "used"}),
        "inputs": [file.as_dict() for file in files],
        "accounting": accounting,
        "repeated_identities": repeated,
        "shards": shards,
        "rows": rows,
        **_describe_training_rows(config, columns, [record["summary"] for record in records["train"]]),
    }
    manifest = Manifest(config.output, content)
    for problem in manifest.wrong_sizes():
        raise DataError(f"{config.output}: {problem}; do all workers see the same folder? If so, run the same command again")
    write_atomically(config.output / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(content["config"])))
    write_json(config.output / FILE_NAME, content)
    _clean_up(manifest)
    return Manifest.load(config.output)


def total_accounting(files: Sequence[InputFile]) -> dict[str, Any]:
    """Add up the accounting of all files."""
    cuts: Counter[str] = Counter()
    for file in files:
        cuts.update(file.accounting["cuts"])
    sums = {key: sum(file.accounting[key] for file in files) for key in ("read", "rows", "cut", "quarantined")}
    return sums | {"cuts": dict(cuts)}


def _fingerprint(config: PrepareConfig, columns: Sequence[ColumnSpec], shards: dict[str, list[dict[str, Any]]]) -> str:
    """Hash what the dataset is: columns, configuration and rows, not where its inputs lay."""
    hashes = {split: [shard["xxh3_128"] for shard in found] for split, found in shards.items()}
    settings = {key: value for key, value in config.identity().items() if key != "inputs"}
    described = [{key: value for key, value in column.as_dict().items() if key != "formula"} for column in columns]
    identity = [described, settings, hashes]  # the formulas are in the settings
    return xxhash.xxh3_128(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _describe_training_rows(
    config: PrepareConfig, columns: Sequence[ColumnSpec], summaries: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Merge the summaries of the training shards."""
    names = [column.name for column in columns if column.role in STATISTICS_ROLES]
    statistics = {name: finish(merge(summary["columns"][name] for summary in summaries)) for name in names}
    shape = (max(len(config.recipe.labels), 1), len(config.pt_edges_gev) - 1, len(config.mass_edges_gev) - 1)
    pt_mass = sum((np.array(summary["pt_mass"]) for summary in summaries), np.zeros(shape, dtype=np.int64))
    histograms: dict[str, Any] = {
        "pt_mass": {
            "variables": ["jet_pt / GeV", "jet_mass / GeV"],
            "edges": [list(config.pt_edges_gev), list(config.mass_edges_gev)],
            "counts": pt_mass.tolist() if config.recipe.labels else pt_mass[0].tolist(),
        }
    }
    if "true_energy" in names:
        spectrum = _add_spectra([summary["log_true_energy"] for summary in summaries], (LOG_ENERGY_EDGES,))
        histograms["log_true_energy"] = {"variable": "ln(true_energy / GeV)", "edges": list(LOG_ENERGY_EDGES), **spectrum}
    if {"true_energy", "true_eta"} <= set(names):
        edges = (WIDE_LOG_ENERGY_EDGES, ABS_ETA_EDGES)
        spectrum = _add_spectra([summary["log_true_energy_abs_eta"] for summary in summaries], edges)
        histograms["log_true_energy_abs_eta"] = {
            "variables": ["ln(true_energy / GeV)", "|true_eta|"],
            "edges": [list(axis) for axis in edges],
            **spectrum,
        }
    counts = sum((np.array(summary["class_counts"], dtype=np.int64) for summary in summaries), np.int64(0))
    class_counts = dict(zip(config.recipe.labels, np.atleast_1d(counts).tolist(), strict=False))
    return {"statistics": statistics, "histograms": histograms, "class_counts": class_counts}


def _add_spectra(parts: Sequence[dict[str, Any]], edges: tuple[Sequence[float], ...]) -> dict[str, Any]:
    empty = np.zeros(tuple(len(axis) - 1 for axis in edges))
    return {
        "counts": sum((np.array(part["counts"]) for part in parts), empty.astype(np.int64)).tolist(),
        "sum_weights": sum((np.array(part["sum_weights"]) for part in parts), empty).tolist(),
    }


def _clean_up(manifest: Manifest) -> None:
    """Remove the spills and the shards that an interrupted run with other spills may have left; nothing else is ours."""
    for split in SPLITS:
        folder = manifest.path / split
        ours = {Path(shard.path).name for shard in manifest.shards(split)}
        for path in [*folder.glob(SHARD_PATTERN), *folder.glob(f".{SHARD_PATTERN}.*.tmp")]:
            if path.name not in ours:
                path.unlink()
    shutil.rmtree(manifest.path / WORK, ignore_errors=True)


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
