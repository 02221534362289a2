"""Tables of scores of toy taggers whose curves, masses and shifts are known."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BINARY = ("QCD", "top")
THREE = ("QCD", "Hbb", "top")


def toy_jets(classes: Sequence[str], num_jets: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Jets of all classes: a falling pT, a falling mass of QCD, and a peak for each other class."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, len(classes), num_jets)
    pt = 500 + rng.exponential(100, num_jets) + 40 * (label > 0)
    qcd = pt * rng.gamma(2.0, 0.06, num_jets).clip(0.004, 0.6)
    peak = rng.normal(70 + 50 * label, 12)
    return {
        "run": np.full(num_jets, 1, np.int64),
        "event": np.arange(num_jets, dtype=np.int64) // 2,
        "jet_index": (np.arange(num_jets) % 2).astype(np.int32),
        "weight": rng.uniform(0.5, 1.5, num_jets),
        "label": label.astype(np.int64),
        "jet_pt": pt,
        "jet_mass": np.where(label == 0, qcd, np.abs(peak)),
    }


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of logits of shape (J, C)."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def score_columns(
    jets: Mapping[str, np.ndarray], classes: Sequence[str], method: str, distance: float, **how: float
) -> dict[str, np.ndarray]:
    """Scores of a Gaussian tagger.

    Without more, the log-odds of two classes are Gaussian, of the width `distance`, and higher by its square for the signal: so
    many widths lie between them. `sculpts` adds what a tagger that knows the mass would, `shift` moves all but the first class,
    `seed` changes the noise.
    """
    rng = np.random.default_rng(int(how.get("seed", 1)))
    label, number = jets["label"], len(classes)
    noise = rng.normal(size=(len(label), number))
    logits = distance * noise * np.sqrt(0.5) + distance**2 / 2 * (np.arange(number) == label[:, None])
    logits[:, 1:] += how.get("shift", 0.0)
    logits[:, -1] += how.get("sculpts", 0.0) * np.exp(-(((jets["jet_mass"] - 170) / 40) ** 2))
    return {f"{method}_score_{name}": column for name, column in zip(classes, softmax(logits).T, strict=True)}


def write_scores(path: Path, columns: Mapping[str, Any], classes: Sequence[str] | None) -> Path:
    """Write a table as the training room does."""
    arrays = {name: v.astype(np.float32) if v.dtype.kind == "f" else v for name, v in columns.items()}
    table = pa.table({**arrays, "sample": pa.array(["toy"] * len(columns["label"])).dictionary_encode()})
    if classes is not None:
        table = table.replace_schema_metadata({"classes": json.dumps(list(classes))})
    pq.write_table(table, path)
    return path
