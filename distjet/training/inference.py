"""From a trained run to calibrated or tagged jets, whatever was trained.

`load_predictor` is the one door: who evaluates or applies a run asks it for a `Predictor` and sees numpy arrays.
"""

import logging
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
import yaml

from distjet.calibration.chain import CHAIN_FILE, Chain
from distjet.config import validate
from distjet.dataset.manifest import Manifest
from distjet.errors import DataError
from distjet.models.calibrator import ConstituentCalibrator
from distjet.models.response_calibrator import ResponseCalibrator
from distjet.models.tagger import Tagger, TaggerEnsemble
from distjet.run_directory import IDENTITY_FILE, read_json
from distjet.storage import as_location, reaching
from distjet.training.checkpoint import CheckpointStore
from distjet.training.predictors import (
    ChainPredictor,
    ConstituentPredictor,
    Predictor,
    ResponsePredictor,
    TaggerPredictor,
)
from distjet.training.settings import METRICS_FILE, TrainConfig
from distjet.training.task import task_class
from distjet.training.weighting import Weighting

logger = logging.getLogger(__name__)


def load_predictor(run: Path, manifest: Manifest, upto: str | None = None) -> Predictor | TaggerPredictor:
    """Load the best model of a run, for a dataset.

    Args:
        run: Output of `distjet train`, whatever the method.
        manifest: The dataset, or the one whose recipe the jets were read with; it needs the columns of the run.
        upto: Of a chain, the last step to apply; None: all.

    Raises:
        DataError: If the run is absent, unfinished or damaged, or its columns are not those of the dataset.
    """
    if is_chain(run):
        read_metrics(run)
        return ChainPredictor(Chain.load(run / CHAIN_FILE), manifest, upto)
    if upto is not None:
        raise DataError(f"{run} is a network and has no step {upto!r}: only a chain stops early")
    if members := tagger_members(run):
        taggers = [load_model(member, load_run(member), manifest) for member in members]
        return TaggerPredictor(TaggerEnsemble([tagger for tagger in taggers if isinstance(tagger, Tagger)]), manifest.classes)
    config = load_run(run)
    model = load_model(run, config, manifest)
    if isinstance(model, Tagger):
        return TaggerPredictor(model, manifest.classes)
    if isinstance(model, ConstituentCalibrator):
        return ConstituentPredictor(model)
    has_spectrum = "train" in manifest.content["shards"] and manifest.num_rows("train") > 0
    weighting = Weighting(config.weighting, manifest, torch.device("cpu")) if has_spectrum else None
    return ResponsePredictor(model, run, weighting)


def is_chain(run: Path) -> bool:
    """Whether a run is a classical chain, not a network.

    Raises:
        DataError: If the directory holds no training.
    """
    return "chain" in read_config(run)


def is_tagger(run: Path) -> bool:
    """Whether a run is a tagger, or an ensemble of them.

    Raises:
        DataError: If the directory holds no training.
    """
    content = read_config(run)
    return "chain" not in content and content["loss"].get("label") is not None


def tagger_members(run: Path) -> list[Path]:
    """Return the runs of an ensemble of taggers, of which the mean is used; nothing for any other run.

    Raises:
        DataError: If the directory holds no training, or the ensemble is not finished.
    """
    if not is_tagger(run) or not validate(TrainConfig, read_config(run)).ensemble.is_many_runs:
        return []
    return [run / member["run"] for member in read_metrics(run)["members"]]


def dataset_of(run: Path) -> Path:
    """Return the dataset that a run was trained on, whatever the method.

    Raises:
        DataError: If the directory holds no training.
    """
    return as_location(read_config(run)["dataset"])


def load_run(run: Path) -> TrainConfig:
    """Read the configuration of the training of a network from its directory.

    Raises:
        DataError: If the directory holds no training, or that of a chain or an ensemble.
    """
    content = read_config(run)
    if "chain" in content:
        raise DataError(f"{run} is a classical chain; expected a network")
    config = validate(TrainConfig, content)
    if config.ensemble.is_many_runs:
        raise DataError(f"{run} is an ensemble; choose one of its members, e.g. {run / 'members' / '00'}")
    return config


def read_config(run: Path) -> dict[str, Any]:
    """Read the configuration of any training as it stands on disk.

    Raises:
        DataError: If the directory holds no training.
    """
    path = run / "config.yaml"
    with reaching(run):
        verb = read_json(run / IDENTITY_FILE)["verb"] if (run / IDENTITY_FILE).is_file() else None
        if verb == "train" and path.is_file():
            return yaml.safe_load(path.read_text())
    what = f"but of `distjet {verb}`" if verb and verb != "train" else "or it has not begun"
    raise DataError(f"{run} is not the output of `distjet train`, {what}")


def read_metrics(run: Path) -> dict[str, Any]:
    """Read the metrics of a finished training.

    Raises:
        DataError: If it is not finished.
    """
    if not (run / METRICS_FILE).is_file():
        raise DataError(f"{run} is not finished; run `distjet train` with its configuration again")
    return read_json(run / METRICS_FILE)


def load_model(run: Path, config: TrainConfig, manifest: Manifest) -> ConstituentCalibrator | ResponseCalibrator | Tagger:
    """Build the calibrator or tagger of a run for a dataset, with the weights of its best epoch.

    Raises:
        DataError: If the weights are absent or damaged, or do not fit the dataset's features.
    """
    best = CheckpointStore(run / "checkpoints").best(read_metrics(run)["best_epoch"] - 1)
    task = task_class(config)
    here = task.features_of(config, manifest)
    for role, columns in best["features"].items():
        _check_features(run, manifest, here[role], columns)
    unit = {role: [(0.0, 1.0)] * len(columns) for role, columns in best["features"].items()}
    model = task.untrained(config, manifest, unit)  # the constants come with the weights
    model.load_state_dict(best["model"])
    return model.eval()


def _check_features(run: Path, manifest: Manifest, here: list[dict[str, str]], trained: list[dict[str, str]]) -> None:
    """Refuse features of other names or units; warn where they are computed differently."""
    nothing: dict[str, str] = {}
    for found, wanted in zip_longest(here, trained, fillvalue=nothing):
        if (found.get("name"), found.get("unit")) != (wanted.get("name"), wanted.get("unit")):
            raise DataError(f"{manifest.path} has other features than {run} was trained on: {_say(found)}, not {_say(wanted)}")
        if found["formula"] != wanted["formula"]:
            logger.warning(
                "%s: feature %s is computed as %r; %s was trained with %r: is it the same quantity?",
                *(manifest.path, found["name"], found["formula"], run, wanted["formula"]),
            )


def _say(column: dict[str, str]) -> str:
    return f"{column['name']} [{column['unit'] or '1'}]" if column else "nothing"
