"""From a trained run and a dataset to a table of predictions, one row a jet, in the order of the shards.

The evaluation works from this table alone, so it can compare any methods, distjet's or others.
"""

import logging
from collections.abc import Iterator
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml

from distjet.config import validate
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import GraphBatch
from distjet.dataset.streaming.stream import JetStream, StreamConfig
from distjet.errors import DataError
from distjet.models.calibrator import Calibrated, ConstituentCalibrator
from distjet.nn.four_vectors import JetKinematics, rapidity_of, sum_constituents
from distjet.progress import bar
from distjet.run_directory import IDENTITY_FILE, appearing_whole, read_json
from distjet.storage import reaching
from distjet.training.checkpoint import CheckpointStore
from distjet.training.settings import METRICS_FILE, TrainConfig
from distjet.training.task import TARGETS, build_calibrator, feature_columns

logger = logging.getLogger(__name__)

IDENTIFIERS = ("run", "event", "jet_index", "sample")


def load_run(run: Path) -> TrainConfig:
    """Read the configuration of a training from its directory.

    Raises:
        DataError: If the directory holds no training.
    """
    path = run / "config.yaml"
    with reaching(run):
        verb = read_json(run / IDENTITY_FILE)["verb"] if (run / IDENTITY_FILE).is_file() else None
    if verb != "train" or not path.is_file():
        what = f"but of `distjet {verb}`" if verb and verb != "train" else "or it has not begun"
        raise DataError(f"{run} is not the output of `distjet train`, {what}")
    config = validate(TrainConfig, yaml.safe_load(path.read_text()))
    if config.ensemble.num_members > 1:
        raise DataError(f"{run} is an ensemble; choose one of its members, e.g. {run / 'members' / '00'}")
    return config


def read_metrics(run: Path) -> dict[str, Any]:
    """Read the metrics of a finished training.

    Raises:
        DataError: If it is not finished.
    """
    if not (run / METRICS_FILE).is_file():
        raise DataError(f"{run} is not finished; run `distjet train` with its configuration again")
    return read_json(run / METRICS_FILE)


def load_model(run: Path, config: TrainConfig, manifest: Manifest) -> ConstituentCalibrator:
    """Build the calibrator of a run for a dataset, with the weights of its best epoch.

    Raises:
        DataError: If the weights are absent or damaged, or do not fit the dataset's features.
    """
    best = CheckpointStore(run / "checkpoints").best(read_metrics(run)["best_epoch"] - 1)
    for role, columns in best["features"].items():
        _check_features(run, manifest, feature_columns(manifest)[role], columns)
    unit = {role: [(0.0, 1.0)] * len(columns) for role, columns in best["features"].items()}
    model = build_calibrator(config, unit)  # the constants come with the weights
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


def write_predictions(run: Path, dataset: Path, split: str, output: Path, batch_size: int = 2048) -> Path:
    """Calibrate a split with the best model of a run.

    Args:
        run: Output of `distjet train`.
        dataset: Output of `distjet prepare`, with the features of the run.
        split: train, val or test.
        output: Parquet file to write.
        batch_size: Graphs at a time.

    Returns:
        The path of the file.
    """
    config, manifest = load_run(run), Manifest.load(dataset)
    model = load_model(run, config, manifest)
    columns = (*IDENTIFIERS, "weight", *manifest.names("spectator"))
    stream = JetStream(manifest, split, StreamConfig(batch_size=batch_size, shuffle=False, row_columns=columns))
    tables = _tables(model, stream)
    with bar(f"calibrate the {split} split", len(stream), unit="batches") as advance, appearing_whole(output) as temporary:
        first = next(tables)
        with pq.ParquetWriter(temporary, first.schema, compression="zstd") as writer:
            for table in chain([first], tables):
                writer.write_table(table)
                advance({"jets": table.num_rows})
    return output


def _tables(model: ConstituentCalibrator, stream: JetStream) -> Iterator[pa.Table]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device)
    with torch.inference_mode():
        for batch in stream:
            yield _table(batch, model(batch.to(device)))


def _table(batch: GraphBatch, calibrated: Calibrated) -> pa.Table:
    targets = batch.targets
    columns: dict[str, Any] = dict(batch.rows)
    columns |= {name: targets[name].numpy() for name in TARGETS}
    columns["true_phi"] = targets["true_phi"].numpy()
    columns["true_rapidity"] = rapidity_of(targets["true_pt"], targets["true_eta"], targets["true_mass"]).numpy()
    ones = torch.ones(batch.num_nodes)
    raw = sum_constituents(batch.p4, batch.batch, batch.num_graphs, ones, torch.zeros_like(ones))
    for name, jets in (("raw", raw), ("calibrated", calibrated.jets)):
        columns |= _kinematics(name, jets)
    return pa.table(columns)


def _kinematics(method: str, jets: JetKinematics) -> dict[str, Any]:
    return {f"{method}_{item}": getattr(jets, item).float().cpu().numpy() for item in ("energy", "mass", "rapidity", "pt")}
