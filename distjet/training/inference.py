"""From a trained run to calibrated jets, whatever was trained.

`load_predictor` is the one door: who evaluates or applies a run asks it for a `Predictor` and sees numpy arrays. On top of it
stands the table of predictions, one row a jet, in the order of the shards; the evaluation works from this table alone, so it
can compare any methods, distjet's or others.
"""

import logging
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from distjet.calibration.chain import CHAIN_FILE, Chain
from distjet.config import validate
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import GraphBatch
from distjet.dataset.streaming.stream import JetStream, StreamConfig
from distjet.errors import DataError
from distjet.models.calibrator import ConstituentCalibrator
from distjet.models.response_calibrator import ResponseCalibrator
from distjet.nn.four_vectors import JetKinematics, rapidity_of, sum_constituents
from distjet.progress import bar
from distjet.run_directory import IDENTITY_FILE, appearing_whole, read_json
from distjet.storage import as_location, reaching
from distjet.training.checkpoint import CheckpointStore
from distjet.training.columns import TARGETS
from distjet.training.predictors import (
    ChainPredictor,
    ConstituentPredictor,
    PredictedJets,
    Predictor,
    ResponsePredictor,
    predicted_jets,
)
from distjet.training.settings import METRICS_FILE, TrainConfig
from distjet.training.task import task_class
from distjet.training.weighting import Weighting

logger = logging.getLogger(__name__)

IDENTIFIERS = ("run", "event", "jet_index", "sample")
KINEMATICS = ("energy", "mass", "rapidity", "pt")
"What the table says of the jets of each method."


def load_predictor(run: Path, manifest: Manifest, upto: str | None = None) -> Predictor:
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
    config = load_run(run)
    model = load_model(run, config, manifest)
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
    if config.ensemble.num_members > 1:
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


def load_model(run: Path, config: TrainConfig, manifest: Manifest) -> ConstituentCalibrator | ResponseCalibrator:
    """Build the calibrator of a run for a dataset, with the weights of its best epoch.

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


def write_predictions(
    run: Path,
    dataset: Path,
    split: str,
    output: Path,
    batch_size: int = 2048,
    method: str = "calibrated",
    upto: str | None = None,
) -> Path:
    """Calibrate a split with the best model of a run.

    The table holds identity, weight, spectators and features of each jet, its truth, and the jet before (`raw`) and after.

    Args:
        run: Output of `distjet train`.
        dataset: Output of `distjet prepare`, with the features of the run.
        split: train, val or test.
        output: Parquet file to write.
        batch_size: Graphs at a time.
        method: What the columns of the calibrated jets begin with.
        upto: Of a chain, the last step to apply; None: all.
        upto: Of a chain, the last step to apply; None: all.

    Returns:
        The path of the file.
    """
    manifest = Manifest.load(dataset)
    predictor = load_predictor(run, manifest, upto)
    columns = tuple(dict.fromkeys((*IDENTIFIERS, "weight", *manifest.names("spectator"), *predictor.row_columns)))
    stream = JetStream(manifest, split, StreamConfig(batch_size=batch_size, shuffle=False, row_columns=columns))
    graph = manifest.names("graph")
    tables = (_features(batch, graph) | _kinematics(batch, predictor.predict(batch), method) for batch in stream)
    with bar(f"calibrate the {split} split", len(stream), unit="batches") as advance, appearing_whole(output) as temporary:
        first = pa.table(next(tables))
        with pq.ParquetWriter(temporary, first.schema, compression="zstd") as writer:
            for table in chain([first], map(pa.table, tables)):
                writer.write_table(table)
                advance({"jets": table.num_rows})
    return output


def _features(batch: GraphBatch, graph: tuple[str, ...]) -> dict[str, Any]:
    """What is known of each jet beside its kinematics: pileup, tracks, flavour."""
    return batch.rows | {name: values.numpy() for name, values in zip(graph, batch.u.unbind(1), strict=True)}


def _kinematics(batch: GraphBatch, predicted: PredictedJets, method: str) -> dict[str, Any]:
    targets = batch.targets
    columns: dict[str, Any] = {name: targets[name].numpy() for name in (*TARGETS, "true_phi")}
    columns["true_rapidity"] = rapidity_of(targets["true_pt"], targets["true_eta"], targets["true_mass"]).numpy()
    for name, jets in (("raw", predicted_jets(_raw_jets(batch))), (method, predicted)):
        columns |= {f"{name}_{quantity}": getattr(jets, quantity) for quantity in KINEMATICS}
    columns |= {f"{method}_{name}": list(values) if values.ndim > 1 else values for name, values in predicted.extra.items()}
    return columns


def _raw_jets(batch: GraphBatch) -> JetKinematics:
    """Jets before any calibration: sums of their constituents, where the dataset has constituents."""
    if batch.num_nodes == 0:
        pt, eta, phi, energy, mass = batch.jet.unbind(1)
        return JetKinematics(energy, mass, rapidity_of(pt, eta, mass), pt, phi)
    ones = torch.ones(batch.num_nodes)
    return sum_constituents(batch.p4, batch.batch, batch.num_graphs, ones, torch.zeros_like(ones))
