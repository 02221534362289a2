"""From trainings and datasets to the tables that an evaluation compares.

Each training calibrates each dataset once, into a table of its own; a table that is there already is kept, so that an
evaluation that was interrupted goes on. What the evaluation tells of a training (parameters, time, loss, seed) is read from its
directory.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from distjet.dataset.manifest import Manifest
from distjet.errors import DataError
from distjet.evaluation.config import EvaluateConfig, MethodRun
from distjet.evaluation.sources import Process, Sources
from distjet.run_directory import IDENTITY_FILE, read_json
from distjet.storage import for_arrow
from distjet.training.inference import dataset_of, is_tagger, read_config, read_metrics, tagger_members
from distjet.training.prediction_table import SECONDS_KEY, write_predictions

logger = logging.getLogger(__name__)


def make_sources(config: EvaluateConfig) -> Sources:
    """Calibrate the datasets with the trainings, or find the tables that were given.

    Raises:
        DataError: If a training is absent or unfinished, or does not fit a dataset.
    """
    if config.predictions is not None:
        first, *others = [Process(label, tables) for label, tables in _given_tables(config.predictions)]
        return Sources((replace(first, variations=config.variations), *others))
    methods, seeds = methods_of(config), seeds_of(config)
    first, *others = [_process(config, label, dataset, seeds) for label, dataset in datasets_of(config).items()]
    variations = {name: tuple(_tables(config, _only(name, some), name).values()) for name, some in config.variations.items()}
    tables = zip(methods, first.tables, strict=True)
    return Sources(
        processes=(replace(first, variations=variations), *others),
        training={name: facts_of(methods[name].run) | _facts_of_table(table) for name, table in tables},
        seeds={name: tuple(facts_of(run) for run in runs) for name, runs in seeds.items()},
    )


def methods_of(config: EvaluateConfig) -> dict[str, MethodRun]:
    """Return the training of each method; for one of which only seeds are given, that is the first of them."""
    found = {name_of_single(config.run): MethodRun(run=config.run)} if config.run else dict(config.runs)
    return found | {name: MethodRun(run=runs[0]) for name, runs in seeds_of(config).items() if name not in found}


def name_of_single(run: Path) -> str:
    """What a method is called where there is one without a name."""
    return "tagged" if is_tagger(run) else "calibrated"


def seeds_of(config: EvaluateConfig) -> dict[str, tuple[Path, ...]]:
    """Return the trainings that differ in their seeds, by method; those of an ensemble are its members."""
    found = {name: tuple(run for given in runs for run in _members(given)) for name, runs in config.seeds.items()}
    if alone := [name for name, runs in found.items() if len(runs) < 2]:
        raise DataError(f"seeds.{alone[0]} names one training; a spread needs at least two, or an ensemble")
    return found


def datasets_of(config: EvaluateConfig) -> dict[str, Path]:
    """Return the dataset of each process."""
    if config.datasets:
        return dict(config.datasets)
    return {"": config.dataset or dataset_of(next(iter(methods_of(config).values())).run)}


def facts_of(run: Path) -> dict[str, Any]:
    """Read what is known of a training.

    Raises:
        DataError: If it is not finished, or an ensemble.
    """
    config, metrics = read_config(run), read_metrics(run)
    if members := tagger_members(run):
        return _facts_of_ensemble(run, [facts_of(member) for member in members])
    if "members" in metrics:
        raise DataError(
            f"{run} is an ensemble; give it under seeds, or choose one of its members, e.g. {run / 'members' / '00'}"
        )
    known = {"seed": config.get("seed"), "val_loss": metrics.get("best", {}).get("val_loss")}
    known |= {name: metrics.get(name) for name in ("num_parameters", "train_seconds", "best_epoch")}
    return {"run": str(run), **known, "trained_on_fingerprint": metrics["dataset_fingerprint"]}


def _facts_of_ensemble(run: Path, members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Say of an ensemble what its members cost together."""
    sums = {name: sum(member[name] for member in members) for name in ("num_parameters", "train_seconds")}
    return {
        "run": str(run),
        "num_members": len(members),
        **sums,
        "trained_on_fingerprint": members[0]["trained_on_fingerprint"],
    }


def provenance_of(config: EvaluateConfig) -> dict[str, Any]:
    """Say what the numbers come from: data, trainings and seeds, those of the first process and method in front."""
    if config.predictions is not None:
        return {"predictions": ", ".join(str(path) for _, paths in _given_tables(config.predictions) for path in paths)}
    manifests = {label: Manifest.load(path) for label, path in datasets_of(config).items()}
    data = {label: _about(manifest) for label, manifest in manifests.items()}
    runs = {name: method.run for name, method in methods_of(config).items()}
    return {
        **next(iter(data.values())),
        "split": config.split,
        **{f"dataset of {label}": about for label, about in list(data.items())[1:]},
        **{f"training of {name}": facts_of(run) | {"configuration": read_config(run)} for name, run in runs.items()},
    }


def identity_of(config: EvaluateConfig, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Say what defines an evaluation: its settings, and the data and trainings (or the tables) behind it."""
    content = config.model_dump(mode="json", include={"split", "response", "tagging", "predictions"})
    if config.predictions is None:
        runs = {name: [method.run, *config.seeds.get(name, ())] for name, method in methods_of(config).items()}
        content["trainings"] = {
            name: [read_json(run / IDENTITY_FILE)["identity"] for run in some] for name, some in runs.items()
        }
        content["upto"] = {name: method.upto for name, method in methods_of(config).items()}
        content["variations"] = {n: Manifest.load(_only(n, some)).fingerprint for n, some in config.variations.items()}
        content["processes"] = {label: Manifest.load(path).fingerprint for label, path in datasets_of(config).items()}
    return content | {"dataset_fingerprint": provenance.get("dataset_fingerprint")}


def _only(name: str, datasets: Sequence[Path]) -> Path:
    if len(datasets) != 1:
        raise DataError(f"variations.{name}: expected one dataset where runs are given (got {len(datasets)})")
    return datasets[0]


def _about(manifest: Manifest) -> dict[str, Any]:
    seed = manifest.content["config"]["seed"]
    return {"dataset": str(manifest.path), "dataset_fingerprint": manifest.fingerprint, "prepare_seed": seed}


def _members(run: Path) -> Iterator[Path]:
    members = read_metrics(run).get("members")
    yield from [run] if members is None else [run / member["run"] for member in members]


def _given_tables(given: Any) -> list[tuple[str, tuple[Path, ...]]]:
    if isinstance(given, Mapping):
        return list(given.items())
    return [("", tuple(given) if isinstance(given, tuple) else (given,))]


def _process(config: EvaluateConfig, label: str, dataset: Path, seeds: Mapping[str, tuple[Path, ...]]) -> Process:
    """Calibrate one dataset with every training."""
    folder = _folder(config, label)
    methods, tables = methods_of(config), _tables(config, dataset, label)
    spread = {
        name: tuple(
            tables[name] if MethodRun(run=run) == methods[name] else _table(config, dataset, (name, MethodRun(run=run)), place)
            for run, place in ((run, folder / f"{name}_seed_{index}") for index, run in enumerate(runs))
        )
        for name, runs in seeds.items()
    }
    return Process(label, tuple(tables.values()), spread)


def _folder(config: EvaluateConfig, label: str) -> Path:
    return config.output / "predictions" / label if label else config.output / "predictions"


def _tables(config: EvaluateConfig, dataset: Path, label: str) -> dict[str, Path]:
    """Calibrate or tag one dataset with each method; where there is one without a name, its table has none either."""
    folder = _folder(config, label)
    return {
        name: _table(config, dataset, (name, method), folder if config.run is not None else folder / name)
        for name, method in methods_of(config).items()
    }


def _facts_of_table(path: Path) -> dict[str, float]:
    """Read how long the predictions took, from the metadata of their table."""
    files, place = for_arrow(path)
    metadata = pq.read_metadata(place, filesystem=files).metadata or {}
    seconds = metadata.get(SECONDS_KEY.encode())
    return {} if seconds is None else {SECONDS_KEY: float(seconds)}


def _table(config: EvaluateConfig, dataset: Path, method: tuple[str, MethodRun], place: Path) -> Path:
    """Calibrate one dataset with one training, unless that was done before."""
    path = place.with_name(f"{place.name}.parquet")
    if path.is_file():
        logger.info("%s is there", path)
        return path
    name, training = method
    logger.info("%s: predicting the %s split of %s with %s", name, config.split, dataset, training.run)
    return write_predictions(training.run, dataset, config.split, path, config.batch_size, name, training.upto)
