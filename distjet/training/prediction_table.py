"""What does a trained run say of the jets of a dataset? A table with one row a jet, in the order of the shards.

The evaluation works from this table alone, so it can compare any methods, distjet's or others.
"""

import json
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import JET_COLUMNS, GraphBatch
from distjet.dataset.streaming.stream import JetStream, StreamConfig
from distjet.nn.four_vectors import JetKinematics, rapidity_of, sum_constituents
from distjet.progress import bar
from distjet.run_directory import appearing_whole
from distjet.training.columns import TARGETS
from distjet.training.inference import load_predictor
from distjet.training.predictors import PredictedJets, PredictedScores, Predictor, TaggerPredictor, predicted_jets

IDENTIFIERS = ("run", "event", "jet_index", "sample")
CLASSES_KEY = "classes"
"Of the metadata of a table of scores: the names of the classes as a list in JSON, in the order of the labels."
KINEMATICS = ("energy", "mass", "rapidity", "pt")
"What the table says of the jets of each method."
SECONDS_KEY = "infer_seconds_per_jet"
"Of the metadata of a table: how long the predictions took, on whatever machine they were made."


def write_predictions(
    run: Path,
    dataset: Path,
    split: str,
    output: Path,
    batch_size: int = 2048,
    method: str = "calibrated",
    upto: str | None = None,
) -> Path:
    """Calibrate or tag a split with the best model of a run.

    The table holds identity, weight, spectators and features of each jet. Of a calibration, it has the truth, and the jet
    before (`raw`) and after; of a tagger, the jet, its label and the score of each class. Metadata name the classes.

    Args:
        run: Output of `distjet train`.
        dataset: Output of `distjet prepare`, with the features of the run.
        split: train, val or test.
        output: Parquet file to write.
        batch_size: Graphs at a time.
        method: What the columns of the calibrated jets, or of the scores, begin with.
        upto: Of a chain, the last step to apply; None: all.

    Returns:
        The path of the file.
    """
    manifest = Manifest.load(dataset)
    predictor = load_predictor(run, manifest, upto)
    columns = tuple(dict.fromkeys((*IDENTIFIERS, "weight", *manifest.names("spectator"), *predictor.row_columns)))
    stream = JetStream(manifest, split, StreamConfig(batch_size=batch_size, shuffle=False, row_columns=columns))
    rows = Rows(predictor, manifest.names("graph"), method)
    with bar(f"{rows.doing} the {split} split", len(stream), unit="batches") as advance, appearing_whole(output) as temporary:
        tables = map(rows.table, stream)
        first = next(tables)
        with pq.ParquetWriter(temporary, first.schema, compression="zstd") as writer:
            for table in chain([first], tables):
                writer.write_table(table)
                advance({"jets": table.num_rows})
            writer.add_key_value_metadata({SECONDS_KEY: f"{rows.seconds / max(rows.num_jets, 1):.4g}"})
    return output


class Rows:
    """Makes rows of a table of the batches of a stream.

    Attributes:
        doing: What is done with jets, in a word.
        seconds: That the predictions took.
        num_jets: In the rows that were made.
    """

    def __init__(self, predictor: Predictor | TaggerPredictor, graph: Sequence[str], method: str) -> None:
        self.predictor, self.graph, self.method = predictor, graph, method
        self.doing = "tag" if isinstance(predictor, TaggerPredictor) else "calibrate"
        self.seconds, self.num_jets = 0.0, 0

    def table(self, batch: GraphBatch) -> pa.Table:
        """Predict a batch, and put all that is known of its jets side by side."""
        started = time.perf_counter()
        predicted = self._predicted(batch)
        self.seconds += time.perf_counter() - started
        self.num_jets += batch.num_graphs
        features = {name: values.numpy() for name, values in zip(self.graph, batch.u.unbind(1), strict=True)}
        is_tagger = isinstance(self.predictor, TaggerPredictor)
        metadata = {CLASSES_KEY: json.dumps(self.predictor.classes)} if isinstance(self.predictor, TaggerPredictor) else None
        return pa.table(batch.rows | features | (_jets(batch) if is_tagger else _before(batch)) | predicted, metadata=metadata)

    def _predicted(self, batch: GraphBatch) -> dict[str, Any]:
        if isinstance(self.predictor, TaggerPredictor):
            return score_columns(self.predictor.classes, self.predictor.tag(batch), self.method)
        found = self.predictor.predict(batch)
        extra = {f"{self.method}_{name}": list(values) if values.ndim > 1 else values for name, values in found.extra.items()}
        return _of_method(self.method, found) | extra


def _of_method(method: str, jets: PredictedJets) -> dict[str, Any]:
    return {f"{method}_{quantity}": getattr(jets, quantity) for quantity in KINEMATICS}


def _before(batch: GraphBatch) -> dict[str, Any]:
    """Columns of the true jets, and of the jets before a calibration."""
    targets = batch.targets
    columns: dict[str, Any] = {name: targets[name].numpy() for name in (*TARGETS, "true_phi")}
    columns["true_rapidity"] = rapidity_of(targets["true_pt"], targets["true_eta"], targets["true_mass"]).numpy()
    return columns | _of_method("raw", predicted_jets(_raw_jets(batch)))


def _jets(batch: GraphBatch) -> dict[str, Any]:
    """Columns of jets as they are, and of their labels."""
    columns = {name: values.numpy() for name, values in zip(JET_COLUMNS, batch.jet.unbind(1), strict=True)}
    label = {"label": batch.targets["label"].numpy().astype(np.int32)} if "label" in batch.targets else {}
    return columns | label


def score_columns(classes: Sequence[str], found: PredictedScores, method: str) -> dict[str, np.ndarray]:
    """Name the columns of scores: METHOD_score_CLASS and, of an ensemble, METHOD_score_CLASS_spread."""
    parts = {"": found.scores} | ({} if found.spread is None else {"_spread": found.spread})
    return {
        f"{method}_score_{name}{suffix}": np.ascontiguousarray(values[:, number])
        for suffix, values in parts.items()
        for number, name in enumerate(classes)
    }


def default_name(predictor: Predictor | TaggerPredictor) -> str:
    """What a method is called that has no name of its own."""
    return "tagged" if isinstance(predictor, TaggerPredictor) else "calibrated"


def _raw_jets(batch: GraphBatch) -> JetKinematics:
    """Jets before any calibration: sums of their constituents, where the dataset has constituents."""
    if batch.num_nodes == 0:
        pt, eta, phi, energy, mass = batch.jet.unbind(1)
        return JetKinematics(energy, mass, rapidity_of(pt, eta, mass), pt, phi)
    ones = torch.ones(batch.num_nodes)
    return sum_constituents(batch.p4, batch.batch, batch.num_graphs, ones, torch.zeros_like(ones))
