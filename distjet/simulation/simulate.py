"""How does a configuration become a directory of ntuples?

Three lists of pure tasks go through `execute`: the pileup library, the cross-sections, the files. A finished file has a record
beside it with the hash of its task, so the same command continues a killed run and redoes nothing. `samples.json` is written
last, when every file has been seen from here; a directory without it is not complete. Tasks hold absolute paths, because the
workers have another working directory; what is written holds relative ones.
"""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from distjet.errors import DataError
from distjet.execution import Execute
from distjet.run_directory import claim, read_json, write_json
from distjet.simulation.generator import Events, cross_section_pb, generate, process_settings, pythia_seed, start_pythia
from distjet.simulation.gun import gun
from distjet.simulation.ntuple import concatenate, write_ntuple
from distjet.simulation.pileup import load_library, make_library
from distjet.simulation.readout import choose_detector
from distjet.simulation.reconstruction import JetTable, reconstruct
from distjet.simulation.samples import (
    FIRST_CHANNEL_NUMBER,
    CrossSectionTask,
    FileTask,
    SampleConfig,
    SharedSettings,
    SimulateConfig,
    cross_section_tasks,
    entropy,
    file_tasks,
    library_task,
)
from distjet.storage import as_location

SAMPLES_FILE = "samples.json"

PATIENCE_S = 60.0
"How long a network file system may hide a file that another machine has just written (NFS remembers for up to a minute)."

logger = logging.getLogger(__name__)


def simulate(config: SimulateConfig, execute: Execute) -> dict[str, Any]:
    """Simulate all samples of a configuration; the same call again continues where it stopped.

    Args:
        config: What to simulate and where to write it.
        execute: Runs lists of tasks, e.g. `distjet.execution.in_process`.

    Returns:
        The content of samples.json.

    Raises:
        UserError: If Pythia or FastJet is missing or rejects a setting.
        ConfigError: If the output directory belongs to another configuration.
        DataError: If a file that a worker has written is not here.
    """
    config = config.model_copy(update={"output": config.output.absolute()})
    claim(config.output, "simulate", config.identity())
    cross_sections = measure_cross_sections(config, execute)
    library = library_task(config)
    if library is not None and not as_location(library.path).exists():
        for _, made in execute(make_library, [library], description="pileup library"):
            check_arrived(as_location(library.path), made["size_bytes"])
    tasks = file_tasks(config, cross_sections)
    records: list[dict[str, Any] | None] = [finished_record(task) for task in tasks]
    missing = [number for number, record in enumerate(records) if record is None]
    logger.info("%d of %d files to simulate", len(missing), len(tasks))
    for number, record in execute(simulate_file, [tasks[n] for n in missing], description="simulate"):
        records[missing[number]] = record
    finished = [record for record in records if record is not None]
    for record in finished:
        check_arrived(config.output / record["sample"] / record["file"], record["size_bytes"])
    remove_leftovers(config)
    summary = summarise(config, cross_sections, finished)
    write_json(config.output / SAMPLES_FILE, summary)
    return summary


def measure_cross_sections(config: SimulateConfig, execute: Execute) -> dict[str, float]:
    """Return the cross-section of each sample in pb, measured unless an earlier run has left it."""
    path = config.output / "cross_sections.json"
    if path.exists():
        return dict(read_json(path))
    tasks = cross_section_tasks(config)
    found = {tasks[n].sample: result["cross_section_pb"] for n, result in execute(measure, tasks, description="cross-sections")}
    ordered = {task.sample: found[task.sample] for task in tasks}
    write_json(path, ordered)
    return ordered


def measure(task: CrossSectionTask) -> dict[str, Any]:
    """Measure the cross-section of one sample."""
    settings = SharedSettings.model_validate(task.settings)
    seed = pythia_seed(settings.seed, f"cross-section {task.sample}")
    sample = SampleConfig.model_validate(task.sample_config)
    return {"cross_section_pb": cross_section_pb(sample, settings.generator, seed)}


def finished_record(task: FileTask) -> dict[str, Any] | None:
    """Return the record of a task whose file is complete, else None."""
    path = as_location(task.path)
    record_path = path.with_suffix(".json")
    if not (path.exists() and record_path.exists()):
        return None
    record = dict(read_json(record_path))
    complete = record["task"] == task.identity() and record["size_bytes"] == path.stat().st_size
    return record if complete else None


def simulate_file(task: FileTask) -> dict[str, Any]:
    """Simulate and write one file and its record; return the record."""
    settings = SharedSettings.model_validate(task.settings)
    batches = list(simulate_batches(task, settings))
    tables = {tree: concatenate([batch[0][tree] for batch in batches]) for tree in batches[0][0]}
    path = as_location(task.path)
    write_ntuple(path, tables, task.identity())
    record = {
        "task": task.identity(),
        "sample": task.sample,
        "file": path.name,
        "size_bytes": path.stat().st_size,
        "num_events": task.num_events,
        "sum_of_weights_pb": float(sum(batch[1] for batch in batches)),
        "num_jets": {tree: table.num_jets for tree, table in tables.items()},
    }
    write_json(path.with_suffix(".json"), record)
    return record


def simulate_batches(task: FileTask, settings: SharedSettings) -> Iterator[tuple[dict[str, JetTable], float]]:
    """Generate and reconstruct a file's events in batches; yield the jets of each tree and the batch's sum of weights in pb."""
    sample = SampleConfig.model_validate(task.sample_config)
    seed = pythia_seed(settings.seed, task.sample, task.index)
    pythia = start_pythia(process_settings(sample, settings.generator), settings.generator.ecm_gev, seed)
    rng = np.random.default_rng(entropy(settings.seed, task.sample, task.index))
    library = load_library(as_location(task.library)) if task.library else None
    detector = choose_detector(settings, library, rng)
    source = gun(sample, rng) if sample.process == "resonance_gun" else None
    event_number = task.first_event
    for events in generate(pythia, task.num_events, source):
        tables = reconstruct(events, detector.record(events.particles), settings.jets)
        yield {tree: _identified(table, task, event_number) for tree, table in tables.items()}, _weight(events, task)
        event_number += events.particles.num_events


def _weight(events: Events, task: FileTask) -> float:
    return float(events.weight.sum()) * task.weight_pb


def _identified(table: JetTable, task: FileTask, first_event: int) -> JetTable:
    """Replace position and generator weight of the event by its number and its weight in pb."""
    columns = dict(table.columns)
    event, weight = columns.pop("event").astype(np.int64), columns.pop("weight").astype(np.float64)
    columns["eventNumber"] = first_event + event
    columns["runNumber"] = np.full(len(event), task.run_number)
    columns["mcChannelNumber"] = np.full(len(event), FIRST_CHANNEL_NUMBER + task.run_number)
    columns["mcEventWeight"] = weight * task.weight_pb
    return JetTable(columns, table.constituents)


def check_arrived(path: Path, size_bytes: int) -> None:
    """Wait a little for a file that a worker says it has written.

    Raises:
        DataError: If the file is not here, or has another size.
    """
    give_up = time.monotonic() + PATIENCE_S
    while (found := path.stat().st_size if path.exists() else None) != size_bytes:
        if time.monotonic() >= give_up:
            state = "is not there" if found is None else f"has {found}"
            raise DataError(
                f"a worker has written {path} with {size_bytes} bytes, but seen from here it {state}; "
                "workers must see the same file system as this process: choose an output=... that all of them share"
            )
        time.sleep(0.2)


def remove_leftovers(config: SimulateConfig) -> None:
    """Remove the temporary files of runs that were killed while writing; call it when no task is running."""
    for sample in config.samples:
        for leftover in (config.output / sample).glob(".*.tmp"):
            leftover.unlink()


def summarise(config: SimulateConfig, cross_sections_pb: dict[str, float], records: list[dict[str, Any]]) -> dict[str, Any]:
    """Build the content of samples.json from the records of all files."""
    summary = {}
    for name, sample in config.samples.items():
        own = sorted((record for record in records if record["sample"] == name), key=lambda record: record["file"])
        summary[name] = {
            "process": sample.process,
            "shower": sample.shower,
            **({} if sample.hadronisation else {"hadronisation": False}),
            "pthat_min_gev": sample.pthat_min_gev,
            "pthat_max_gev": sample.pthat_max_gev,
            "cross_section_pb": cross_sections_pb[name],
            "num_events": sum(record["num_events"] for record in own),
            "sum_of_weights_pb": float(sum(record["sum_of_weights_pb"] for record in own)),
            "num_jets": {tree: sum(record["num_jets"][tree] for record in own) for tree in own[0]["num_jets"]},
            "files": [f"{name}/{record['file']}" for record in own],
        }
    return summary
