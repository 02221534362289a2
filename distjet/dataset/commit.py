"""When is a dataset a dataset? When everything adds up, and its manifest appears.

Before that, the rows in the shards are compared with the rows that were converted, by their number and by their content, in
total and for each sample. The manifest is the last file that is written and appears only where there is none: of two runs that
write to one folder, one finishes the dataset and the other finds it there. Only then the folder is tidied, so a run that is
killed while it does so leaves a dataset, and the same command tidies the rest.
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import uproot
import xxhash
from omegaconf import OmegaConf

import distjet
from distjet.dataset.fingerprint import total, totals_by_sample
from distjet.dataset.manifest import FILE_NAME, SCHEMA_VERSION, Manifest, seal
from distjet.dataset.plan import INPUTS, WORK, InputFile
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.dataset.schema import SPLITS, ColumnSpec
from distjet.dataset.statistics import Summary
from distjet.errors import ConfigError, DataError
from distjet.run_directory import IDENTITY_FILE, is_temporary, write_atomically, write_json_once
from distjet.storage import remove_tree

logger = logging.getLogger(__name__)

QUARANTINE = "quarantine.jsonl"
CONFIG = "config.yaml"
SHARD_NAME = re.compile(r"part-\d+\.parquet")

NO_ROWS = total([])

Shards = Mapping[str, Sequence[dict[str, Any]]]
"What the manifest says about the shards of each split."


@dataclass(frozen=True)
class Result:
    """What the two passes have made.

    Attributes:
        columns: Of the dataset.
        files: The input files with their fates.
        converted: The record of each range of entries that was converted, with its file.
        shards: The records of the shards of each split, in order.
    """

    columns: Sequence[ColumnSpec]
    files: Sequence[InputFile]
    converted: Sequence[tuple[InputFile, dict[str, Any]]]
    shards: Mapping[str, Sequence[dict[str, Any]]]


def commit(config: PrepareConfig, result: Result) -> Manifest:
    """Check that the shards are there and hold all rows, write the manifest, clean up.

    Raises:
        RuntimeError: If the rows in the shards are not those that were converted.
        DataError: If a shard is not there.
        ConfigError: If another run has finished another dataset there meanwhile.
    """
    shards = {split: [record["shard"] for record in found if record["shard"]["rows"]] for split, found in result.shards.items()}
    content = seal(_describe(config, result, shards))
    manifest = Manifest(config.output, content)
    for problem in manifest.wrong_sizes():
        raise DataError(f"{config.output}: {problem}; do all workers see the same folder? If so, run the same command again")
    try:
        write_json_once(config.output / FILE_NAME, content)
    except FileExistsError as error:
        raise ConfigError(
            f"{config.output}: meanwhile another run has finished another dataset there, which stays; choose another output=..."
        ) from error
    finish_folder(config, manifest)
    return Manifest.load(config.output)


def _describe(config: PrepareConfig, result: Result, shards: Shards) -> dict[str, Any]:
    """Return the content of the manifest, but for its own hash."""
    accounting = total_accounting(result.files)
    rows = {split: sum(shard["rows"] for shard in found) for split, found in shards.items()}
    if sum(rows.values()) != accounting["rows"]:
        raise RuntimeError(f"rows were lost or doubled between the passes: {accounting['rows']} converted, {rows} in shards")
    records = [record for found in result.shards.values() for record in found]
    if repeated := sum(record["repeated"] for record in records):
        logger.warning("%d rows have the same sample, run, event and jet_index as another row", repeated)
    return {
        "schema_version": SCHEMA_VERSION,
        "fingerprint": dataset_fingerprint(config, result.columns, shards),
        "content": conserved_content(config.hidden, result.converted, records),
        "created_with": {"distjet": distjet.__version__, "pyarrow": pyarrow.__version__, "uproot": uproot.__version__},
        "config": config.model_dump(mode="json"),
        "columns": [column.as_dict() for column in result.columns],
        "graph": config.recipe.connection.model_dump(mode="json"),
        "classes": list(config.recipe.labels),
        "samples": sorted({file.sample for file in result.files if file.fate == "used"}),
        "inputs": [file.as_dict() for file in result.files],
        "accounting": accounting,
        "repeated_identities": repeated,
        "shards": shards,
        "rows": rows,
        **describe_training_rows(config, result.columns, [record["summary"] for record in result.shards["train"]]),
    }


def conserved_content(
    hidden: Path, converted: Sequence[tuple[InputFile, dict[str, Any]]], shard_records: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Compare the fingerprints of the rows of each sample before and after the shuffle.

    Returns:
        `total` and, by name, `samples`: 32 hexadecimal characters each.

    Raises:
        RuntimeError: If they differ, naming the first sample.
    """
    before = totals_by_sample({file.sample: record["content"]} for file, record in converted)
    after = totals_by_sample(record["content"] for record in shard_records)
    for name in sorted({*before, *after}):
        found, expected = after.get(name, NO_ROWS), before.get(name, NO_ROWS)
        if found != expected:
            raise RuntimeError(
                f"the rows of sample {name!r} changed between the passes: fingerprint {expected} converted, {found} in shards; "
                f"remove {hidden / WORK} and run the same command again"
            )
    return {"total": total(before.values()), "samples": before}


def total_accounting(files: Sequence[InputFile]) -> dict[str, Any]:
    """Add up the accounting of all files."""
    cuts: Counter[str] = Counter()
    for file in files:
        cuts.update(file.accounting["cuts"])
    sums = {key: sum(file.accounting[key] for file in files) for key in ("read", "rows", "cut", "quarantined")}
    return sums | {"cuts": dict(cuts)}


def dataset_fingerprint(config: PrepareConfig, columns: Sequence[ColumnSpec], shards: Shards) -> str:
    """Hash what the dataset is: columns, configuration and rows, not where its inputs lay."""
    hashes = {split: [shard["xxh3_128"] for shard in found] for split, found in shards.items()}
    settings = {key: value for key, value in config.identity().items() if key != "inputs"}
    described = [{key: value for key, value in column.as_dict().items() if key != "formula"} for column in columns]
    identity = [described, settings, hashes]  # the formulas are in the settings
    return xxhash.xxh3_128(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def describe_training_rows(
    config: PrepareConfig, columns: Sequence[ColumnSpec], summaries: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return `statistics`, `histograms` and `class_counts` as in the manifest, from summaries of all training rows."""
    classes = tuple(config.recipe.labels)
    whole = Summary(columns, (config.pt_edges_gev, config.mass_edges_gev), len(classes))
    for summary in summaries:
        whole.merge(summary)
    return whole.describe(classes)


def finish_folder(config: PrepareConfig, manifest: Manifest) -> None:
    """Write the configuration beside the manifest; remove the spills, and what killed runs of ours have left."""
    text = OmegaConf.to_yaml(OmegaConf.create(manifest.content["config"]))
    if not (manifest.path / CONFIG).is_file() or (manifest.path / CONFIG).read_text() != text:
        write_atomically(manifest.path / CONFIG, text)
    for path in list(_leftovers(manifest)):
        path.unlink(missing_ok=True)
    for folder in {manifest.path, config.hidden}:
        for name in (INPUTS, WORK):
            remove_tree(folder / name)
    if config.work is not None:
        remove_tree(config.hidden)


def _leftovers(manifest: Manifest) -> Iterator[Path]:
    """Find the shards of other spills, and the temporary files of shards and of our own files; nothing else is ours."""
    for split in SPLITS:
        ours = {Path(shard.path).name for shard in manifest.shards(split)}
        for path in (manifest.path / split).glob("*"):
            if path.name not in ours and (SHARD_NAME.fullmatch(path.name) or is_temporary(path, SHARD_NAME.pattern)):
                yield path
    for name in (IDENTITY_FILE, QUARANTINE, CONFIG, FILE_NAME):
        yield from (path for path in manifest.path.glob(f".{name}.*") if is_temporary(path, re.escape(name)))
