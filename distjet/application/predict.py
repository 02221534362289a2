"""How does a trained run calibrate or tag ntuples, with every jet of the input in the output, in its order?

    look at every input file (as `distjet prepare` does)  -> entries, branches checked against the recipe
    calibrate each file                                   -> one file of predictions, which appears when it is complete
    write predictions.json                                -> what became of every jet, file by file

A task is a pure function of one frozen dataclass, for one file. What is finished is found again by the same command, and is
not made twice. A file that cannot be read is an error in the end, when all others are done: nothing is left out in silence.
"""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from distjet.application.constituents import corrected_constituents
from distjet.application.events import EventTask, find_jets, join_tables
from distjet.application.jets import EntryRange, ReadJets, read_jets, recipe_for_application
from distjet.application.outputs import CalibratedRange, open_output
from distjet.application.settings import PredictConfig
from distjet.config import validate
from distjet.dataset.manifest import Manifest
from distjet.dataset.plan import INPUTS, WORK, InputFile, plan_inputs
from distjet.dataset.reading.entries import read_branches
from distjet.dataset.reading.sources import Source
from distjet.dataset.recipes.definitions import required_branches
from distjet.dataset.recipes.recipe import P4_NAMES, PrepareConfig, Recipe
from distjet.dataset.streaming.batch import JET_COLUMNS, GraphBatch
from distjet.errors import DataError
from distjet.execution import Execute
from distjet.run_directory import IDENTITY_FILE, appearing_whole, claim, identity_hash, read_json, write_json
from distjet.storage import as_location, remove_tree
from distjet.training.inference import load_predictor
from distjet.training.prediction_table import default_name, score_columns
from distjet.training.predictors import PredictedJets, Predictor, TaggerPredictor

logger = logging.getLogger(__name__)

SUMMARY = "predictions.json"
VERSION = 2
"Raised when the content of a file of predictions changes for the same task."

KINEMATICS = ("energy", "mass", "rapidity", "pt", "phi")
NOT_FINITE = "what is predicted is not finite"


@dataclass(frozen=True)
class PredictTask:
    """Calibrate one file.

    Attributes:
        source: ROOT file.
        uuid: Identity of its content.
        sample: Name of the sample.
        entries: Number of entries.
        recipe: To read it with, as plain values.
        run: Directory of the training.
        run_identity: Hash of its configuration.
        dataset: Folder of the dataset with the recipe.
        output: File to write.
        work: Folder for the record.
        settings: Keys of `PredictConfig` that a file depends on.
        entries_per_read: Entries at a time.
        batch_size: Jets at a time.
    """

    source: Source
    uuid: str
    sample: str
    entries: int
    recipe: dict[str, Any]
    run: str
    run_identity: str
    dataset: str
    output: str
    work: str
    settings: dict[str, Any]
    entries_per_read: int
    batch_size: int

    def record_path(self) -> Path:
        """Return where the record stands of the finished file."""
        ignored = ("source", "work", "run", "dataset", "entries_per_read", "batch_size")
        content = {key: value for key, value in asdict(self).items() if key not in ignored}
        return as_location(self.work) / f"predict-{identity_hash(content | self.source.identity() | {'version': VERSION})}.json"


def predict(config: PredictConfig, execute: Execute) -> dict[str, Any]:
    """Calibrate ntuples; the same call again continues, or finds that all is done.

    Args:
        config: What to calibrate, with what, and where to.
        execute: Runs lists of tasks.

    Returns:
        `files` [{input, output, entries, jets, calibrated, not_calibrated {reason: jets}}], the sums `entries`, `jets`,
        `calibrated`, `not_calibrated`, and `events` {name: as of `find_jets`}.

    Raises:
        ConfigError: If the recipe does not fit the files, a pattern matches nothing, or the output belongs to another run.
        DataError: If the run is not finished, or files cannot be read.
    """
    config = config.model_copy(update={"output": config.output.absolute(), "run": config.run.absolute()})
    manifest = Manifest.load(config.dataset or dataset_of(config.run), check_shards=False)
    predictor = load_predictor(config.run, manifest, config.upto)  # finds out now whether it can be loaded
    config = config.model_copy(update={"name": config.name or default_name(predictor)})
    if config.events and isinstance(predictor, TaggerPredictor):
        raise DataError(f"{config.run} is a tagger: it corrects no constituents, from which events could be made")
    recipe = recipe_for_application(validate(Recipe, manifest.content["config"]["recipe"]), predictor.row_columns)
    if config.tree is not None:
        recipe = recipe.model_copy(update={"tree": config.tree})
    claim(config.output, "predict", _identity(config, manifest))
    if (finished := config.output / SUMMARY).exists():
        return read_json(finished)
    plan = plan_inputs(_as_preparation(config, recipe), execute)
    tasks = _tasks(config, manifest, recipe, plan.files)
    records = dict(execute(calibrate_file, tasks, description="calibrate jets", measure=count_jets))
    _check_errors([file.complaint for file in plan.files if file.fate != "used"], records)
    summary = _summary([records[number] for number in range(len(tasks))])
    summary["events"] = {name: _find_jets(config, name, tasks, execute) for name in config.events}
    write_json(finished, summary)
    for folder in (WORK, INPUTS):
        remove_tree(config.output / folder)
    return summary


def dataset_of(run: Path) -> Path:
    """Return the folder of the dataset that a run was trained on.

    Raises:
        DataError: If the folder holds no run.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise DataError(f"{run} is not the output of `distjet train`: it has no config.yaml")
    return as_location(yaml.safe_load(path.read_text())["dataset"])


def _identity(config: PredictConfig, manifest: Manifest) -> dict[str, Any]:
    """What defines the predictions: not how many jets are read at a time."""
    content = config.model_dump(mode="json", exclude={"output", "run", "dataset", "batch_size", "entries_per_read", "remote"})
    training = read_json(config.run / IDENTITY_FILE)["identity"]
    return content | {"training": training, "dataset_fingerprint": manifest.fingerprint}


def _as_preparation(config: PredictConfig, recipe: Recipe) -> PrepareConfig:
    """Say what is to be read in the words of `distjet prepare`, which looks at inputs in the same way."""
    return PrepareConfig(inputs=config.inputs, output=config.output, recipe=recipe, remote=config.remote)


def _tasks(config: PredictConfig, manifest: Manifest, recipe: Recipe, files: Sequence[InputFile]) -> list[PredictTask]:
    used = [file for file in files if file.fate == "used"]
    training = read_json(config.run / IDENTITY_FILE)["identity"]
    return [
        PredictTask(
            source=file.source,
            uuid=file.uuid,
            sample=file.sample,
            entries=file.entries,
            recipe=recipe.model_dump(mode="json"),
            run=str(config.run),
            run_identity=training,
            dataset=str(manifest.path.absolute()),
            output=str(config.output / name),
            work=str(config.output / WORK),
            settings=config.model_dump(mode="json", include={"format", "name", "upto", "constituents"}),
            entries_per_read=config.entries_per_read,
            batch_size=config.batch_size,
        )
        for file, name in zip(used, _names(used, config.format), strict=True)
    ]


def _names(files: Sequence[InputFile], suffix: str) -> list[str]:
    """Name the output after the input, in a folder for each sample; inputs of the same name are told apart by their path."""
    stems = [(file.sample, file.path.partition("?")[0].rpartition("/")[2].removesuffix(".root")) for file in files]
    repeated = {stem for stem, count in Counter(stems).items() if count > 1}
    return [
        f"{sample}/{stem}-{identity_hash({'path': file.path})[:8]}.{suffix}"
        if (sample, stem) in repeated
        else f"{sample}/{stem}.{suffix}"
        for file, (sample, stem) in zip(files, stems, strict=True)
    ]


def _find_jets(config: PredictConfig, name: str, tasks: Sequence[PredictTask], execute: Execute) -> dict[str, int]:
    """Make the table of the jets that are found in calibrated events."""
    wanted, parts = config.events[name], config.output / WORK / name
    event_tasks = [
        EventTask(
            predictions=task.output,
            sample=task.sample,
            name=str(config.name),
            radius=wanted.radius,
            min_pt_gev=wanted.min_pt_gev,
            dataset=str(wanted.dataset.absolute()),
            splits=wanted.splits,
            output=str(parts / f"{number:05d}.parquet"),
        )
        for number, task in enumerate(tasks)
    ]
    records = [record for _, record in execute(find_jets, event_tasks, description=f"find {name} jets", measure=count_rows)]
    join_tables([as_location(task.output) for task in event_tasks], config.output / f"{name}.parquet")
    return {key: sum(record[key] for record in records) for key in records[0]}


def count_rows(record: Mapping[str, Any]) -> dict[str, int]:
    """Return what a record of `find_jets` adds to the counts that are shown meanwhile."""
    return {"jets": record["jets"]}


def _check_errors(unusable: Sequence[str], records: Mapping[int, dict[str, Any]]) -> None:
    problems = [*unusable, *(record["error"] for record in records.values() if "error" in record)]
    if problems:
        listed = "\n".join(problems[:10])
        raise DataError(f"{len(problems)} files could not be calibrated; the others are done, and are kept:\n{listed}")


def _summary(files: list[dict[str, Any]]) -> dict[str, Any]:
    reasons: Counter[str] = Counter()
    for file in files:
        reasons.update(file["not_calibrated"])
    sums = {key: sum(file[key] for file in files) for key in ("entries", "jets", "calibrated")}
    return sums | {"not_calibrated": dict(reasons), "files": files}


def count_jets(record: Mapping[str, Any]) -> dict[str, int]:
    """Return what a record of `calibrate_file` adds to the counts that are shown meanwhile."""
    return {"jets": record.get("jets", 0), "not calibrated": sum(record.get("not_calibrated", {}).values())}


# --- in a worker -------------------------------------------------------------------------------------------------------------


def calibrate_file(task: PredictTask) -> dict[str, Any]:
    """Write the predictions of a file.

    Returns:
        The record: `input`, `output`, `entries`, `jets`, `calibrated`, `not_calibrated` {reason: jets}; or `error` (why the
        file cannot be used).
    """
    record_path, output = task.record_path(), as_location(task.output)
    if record_path.exists() and output.exists():
        return read_json(record_path)
    reasons: Counter[str] = Counter()
    try:
        with appearing_whole(output) as temporary, open_output(temporary, task.settings, task.recipe) as writer:
            for calibrated in _calibrate_ranges(task):
                writer.write(calibrated)
                reasons.update(calibrated.reason.tolist())
    except DataError as error:
        return {"error": str(error)}
    record = {
        "input": task.source.path,
        "output": task.output,
        "entries": task.entries,
        "jets": reasons.total(),
        "calibrated": reasons.pop("", 0),
        "not_calibrated": dict(reasons),
    }
    write_json(record_path, record)
    return record


def _calibrate_ranges(task: PredictTask) -> Iterator[CalibratedRange]:
    recipe = validate(Recipe, task.recipe)
    predictor = _predictor(task.run, task.dataset, task.settings["upto"], task.run_identity)
    names = required_branches(recipe)
    for start in range(0, max(task.entries, 1), task.entries_per_read):
        stop = min(start + task.entries_per_read, task.entries)
        branches = read_branches(task.source, recipe.tree, names, start, stop, recipe.optional)
        jets = read_jets(recipe, branches, EntryRange(start, stop, task.uuid, task.sample))
        yield calibrate(jets, predictor, task)


@lru_cache(maxsize=1)
def _predictor(run: str, dataset: str, upto: str | None, run_identity: str) -> Predictor | TaggerPredictor:
    """Load a run once for all tasks of a process."""
    del run_identity
    return load_predictor(as_location(run), Manifest.load(dataset, check_shards=False), upto)


def calibrate(jets: ReadJets, predictor: Predictor | TaggerPredictor, task: PredictTask) -> CalibratedRange:
    """Calibrate or tag the jets that can be, and put them where they belong among all."""
    batches, name = list(jets.batches(task.batch_size)), task.settings["name"]
    columns = _columns_before(batches)
    nodes: dict[str, np.ndarray] = {}
    if isinstance(predictor, TaggerPredictor):
        parts = [score_columns(predictor.classes, predictor.tag(batch), name) for batch in batches]
        predicted = {column: np.concatenate([part[column] for part in parts]) for column in parts[0]}
        decisive = list(predicted)
    else:
        found = [predictor.predict(batch) for batch in batches]
        predicted = _calibrated_columns(found, name)
        decisive = [f"{name}_{item}" for item in KINEMATICS]
        if task.settings["constituents"] and found[0].factor is not None:
            nodes = _constituent_columns(batches, found)
    finite = np.all([np.isfinite(predicted[column]) for column in decisive], axis=0)
    good = jets.reason == ""
    reason = jets.reason.copy()
    reason[np.flatnonzero(good)[~finite]] = NOT_FINITE
    columns |= predicted
    of_good = np.repeat(good, jets.num_constituents)
    usable = np.repeat(reason == "", jets.num_constituents)
    return CalibratedRange(
        identity=jets.identity,
        sample=task.sample,
        jets_per_entry=jets.jets_per_entry,
        reason=reason,
        columns={name: _among_all(values, good, reason == "") for name, values in columns.items()},
        num_constituents=jets.num_constituents if nodes else None,
        constituents={name: _among_all(values, of_good, usable) for name, values in nodes.items()},
    )


def _among_all(values: np.ndarray, place: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Put values where `place` is true, and NaN where it is not, or not usable; float32."""
    result = np.full((len(place), *values.shape[1:]), np.nan, np.float32)
    result[place] = values
    result[~usable] = np.nan
    return result


def _columns_before(batches: Sequence[GraphBatch]) -> dict[str, np.ndarray]:
    """Return jets as they were."""
    before = np.concatenate([batch.jet.numpy() for batch in batches])
    return {column: before[:, number] for number, column in enumerate(JET_COLUMNS)}


def _calibrated_columns(found: Sequence[PredictedJets], name: str) -> dict[str, np.ndarray]:
    """Return jets as they are now."""
    columns = {f"{name}_{item}": np.concatenate([getattr(jets, item) for jets in found]) for item in KINEMATICS}
    return columns | {f"{name}_{item}": np.concatenate([jets.extra[item] for jets in found]) for item in found[0].extra}


def _constituent_columns(batches: Sequence[GraphBatch], found: Sequence[PredictedJets]) -> dict[str, np.ndarray]:
    """Return corrections, and corrected momenta in GeV."""
    factor, shift = (np.concatenate([getattr(jets, item) for jets in found]) for item in ("factor", "rapidity_shift"))
    p4 = np.concatenate([batch.p4.numpy() for batch in batches])
    corrected = dict(zip(P4_NAMES, corrected_constituents(p4, factor, shift).T, strict=True))
    return {"factor": factor, "rapidity_shift": shift, **corrected}
