"""What are the mean, the deviation and the quantiles of each column, and how are energies and masses distributed?

Each shard is summarised once and the summaries are merged in the order of the shards, so every reader gets the same
numbers. Moments are merged with Chan's formula. Quantiles come from a histogram over the leading 14 bits of the float32:
its bins are 3 % wide everywhere, so no range has to be known beforehand, and merging is an exact addition. Inside a bin,
values are taken to be spread evenly.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from distjet.dataset.schema import STATISTICS_ROLES, ColumnSpec

QUANTILES = (0.01, 0.05, 0.16, 0.5, 0.84, 0.95, 0.99)
LOG_ENERGY_EDGES = tuple(round(0.1 * i, 1) for i in range(101))
"Bins in ln(E/GeV), 1 GeV to 22 TeV; what lies outside counts in the first or the last bin."

WIDE_LOG_ENERGY_EDGES = LOG_ENERGY_EDGES[::2]
ABS_ETA_EDGES = tuple(0.5 * i for i in range(11))
"Bins of the spectrum in ln(E/GeV) and |eta|: wide enough to be filled by a small training split."

_BITS = 14
_SHIFT = np.uint32(32 - _BITS)
_SIGN = np.uint32(1 << 31)


def summarise_shard(
    table: pa.Table, columns: Sequence[ColumnSpec], pt_mass_edges: tuple[Sequence[float], Sequence[float]], num_classes: int
) -> dict[str, Any]:
    """Summarise the rows of a shard.

    Args:
        table: Rows of the dataset.
        columns: Its columns.
        pt_mass_edges: Bins in jet pT and jet mass, in GeV.
        num_classes: Number of labels, 0 without labels.

    Returns:
        Plain values: `columns` {name: moments and histogram}, `log_true_energy`, `log_true_energy_abs_eta`, `pt_mass`,
        `class_counts`.
    """
    summary: dict[str, Any] = {"columns": {}}
    for column in columns:
        if column.role in STATISTICS_ROLES:
            summary["columns"][column.name] = summarise(_values(table, column))
    if "true_energy" in table.column_names:
        log_energy = _log(table["true_energy"].to_numpy())
        summary["log_true_energy"] = _spectrum(table, [log_energy], [LOG_ENERGY_EDGES])
        if "true_eta" in table.column_names:
            values = [log_energy, np.abs(table["true_eta"].to_numpy())]
            summary["log_true_energy_abs_eta"] = _spectrum(table, values, [WIDE_LOG_ENERGY_EDGES, ABS_ETA_EDGES])
    labels = table["label"].to_numpy() if num_classes else np.zeros(table.num_rows, np.int32)
    summary["pt_mass"] = _pt_mass_histogram(table, labels, pt_mass_edges, max(num_classes, 1))
    summary["class_counts"] = np.bincount(labels, minlength=num_classes).tolist() if num_classes else []
    return summary


def summarise(values: np.ndarray) -> dict[str, Any]:
    """Return count, mean, sum of squared deviations, min, max and the bit-pattern histogram of a column, shape (N,)."""
    if not len(values):
        return {"count": 0, "mean": 0.0, "m2": 0.0, "min": None, "max": None, "bins": [], "counts": []}
    exact = values.astype(np.float64)
    mean = float(exact.mean())
    bins, counts = np.unique(_bin_number(values), return_counts=True)
    return {
        "count": len(values),
        "mean": mean,
        "m2": float(np.square(exact - mean).sum()),
        "min": float(exact.min()),
        "max": float(exact.max()),
        "bins": bins.tolist(),
        "counts": counts.tolist(),
    }


def merge(summaries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge summaries of parts of a column into one (Chan, Golub, LeVeque, COMPSTAT 1982)."""
    total = summarise(np.zeros(0, np.float32))
    histogram: dict[int, int] = {}
    for part in summaries:
        if not part["count"]:
            continue
        count = total["count"] + part["count"]
        shift = part["mean"] - total["mean"]
        total["m2"] += part["m2"] + shift * shift * total["count"] * part["count"] / count
        total["mean"] += shift * part["count"] / count
        total["min"] = part["min"] if total["min"] is None else min(total["min"], part["min"])
        total["max"] = part["max"] if total["max"] is None else max(total["max"], part["max"])
        total["count"] = count
        for number, entries in zip(part["bins"], part["counts"], strict=True):
            histogram[number] = histogram.get(number, 0) + entries
    total["bins"] = sorted(histogram)
    total["counts"] = [histogram[number] for number in total["bins"]]
    return total


def finish(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a merged summary into what the manifest holds; all None where the split is empty."""
    if not summary["count"]:
        return {
            "count": 0,
            "mean": None,
            "std": None,
            "min": None,
            "max": None,
            "quantiles": {f"{q:g}": None for q in QUANTILES},
        }
    return {
        "count": summary["count"],
        "mean": summary["mean"],
        "std": float(np.sqrt(summary["m2"] / summary["count"])),
        "min": summary["min"],
        "max": summary["max"],
        "quantiles": {f"{q:g}": _quantile(summary, q) for q in QUANTILES},
    }


def _quantile(summary: Mapping[str, Any], q: float) -> float:
    counts = np.asarray(summary["counts"], dtype=np.float64)
    above = np.cumsum(counts)
    target = q * above[-1]
    place = int(np.searchsorted(above, target, side="left"))
    low, high = _bin_edges(summary["bins"][place])
    low, high = max(low, summary["min"]), min(high, summary["max"])
    return low + (high - low) * (target - (above[place] - counts[place])) / counts[place]


def _bin_number(values: np.ndarray) -> np.ndarray:
    """Order the leading bits of float32 numbers as the numbers themselves are ordered."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN)
    return ordered >> _SHIFT


def _bin_edges(number: int) -> tuple[float, float]:
    first = np.uint32(number) << _SHIFT
    last = first | np.uint32((1 << int(_SHIFT)) - 1)
    ordered = np.array([first, last], dtype=np.uint32)
    bits = np.where(ordered & _SIGN, ordered & ~_SIGN, ~ordered)
    low, high = bits.astype(np.uint32).view(np.float32)
    return float(low), float(high)


def _values(table: pa.Table, column: ColumnSpec) -> np.ndarray:
    chunks = [chunk.flatten() if column.is_list else chunk for chunk in table[column.name].chunks]
    return np.concatenate([chunk.to_numpy(zero_copy_only=False) for chunk in chunks]) if chunks else np.zeros(0, np.float32)


def _log(values: np.ndarray) -> np.ndarray:
    """Natural logarithm in float64; minus infinity of zero, which falls into the first bin."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(values.astype(np.float64))


def bin_place(values: Sequence[np.ndarray], edges: Sequence[Sequence[float]]) -> tuple[np.ndarray, ...]:
    """Find the bin of each row along each axis, shapes (N,); what lies outside belongs to the first or the last bin."""
    return tuple(
        np.clip(np.searchsorted(np.asarray(axis), value, side="right") - 1, 0, len(axis) - 2)
        for value, axis in zip(values, edges, strict=True)
    )


def _spectrum(table: pa.Table, values: Sequence[np.ndarray], edges: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Count rows and add up event weights in bins of one or more variables."""
    shape = tuple(len(axis) - 1 for axis in edges)
    place = np.ravel_multi_index(bin_place(values, edges), shape)
    size = int(np.prod(shape))
    counts = np.bincount(place, minlength=size)
    weights = np.bincount(place, weights=table["weight"].to_numpy(), minlength=size)
    return {"counts": counts.reshape(shape).tolist(), "sum_weights": weights.reshape(shape).tolist()}


def _pt_mass_histogram(
    table: pa.Table, labels: np.ndarray, edges: tuple[Sequence[float], Sequence[float]], num_classes: int
) -> list[list[list[int]]]:
    """Count jets in bins of class, pT and mass; jets outside of the bins are not counted."""
    pt, mass = (table[f"jet_{name}"].to_numpy() for name in ("pt", "mass"))
    counts = [np.histogram2d(pt[labels == number], mass[labels == number], bins=edges)[0] for number in range(num_classes)]
    return [count.astype(int).tolist() for count in counts]
