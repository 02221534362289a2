"""How are the numbers of each column, the energies and the masses of a dataset distributed?

A summary takes in tables of rows, or other summaries, in any division and any order: counts, moments and quantiles come out the
same to the last bit (`distjet.dataset.moments`), sums of event weights up to rounding. What lies outside of the bins of a
histogram counts in its first or last bin.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from distjet.dataset.moments import Moments, array_as_text, array_from_text
from distjet.dataset.schema import STATISTICS_ROLES, ColumnSpec

LOG_ENERGY_EDGES = tuple(round(0.1 * i, 1) for i in range(101))
"Bins in ln(E/GeV), 1 GeV to 22 TeV."

WIDE_LOG_ENERGY_EDGES = LOG_ENERGY_EDGES[::2]
ABS_ETA_EDGES = tuple(0.5 * i for i in range(11))
"Bins of the spectrum in ln(E/GeV) and |eta|: wide enough to be filled by a small training split."

Edges = Sequence[Sequence[float]]
"Edges of the bins along each axis."


class Histogram:
    """Rows, and the sum of their event weights, in bins of one or more variables.

    Args:
        variables: What the axes are, for the manifest.
        edges: Of the bins along each axis.
    """

    def __init__(self, variables: Sequence[str], edges: Edges) -> None:
        self.variables, self.edges = list(variables), [list(axis) for axis in edges]
        self.shape = tuple(len(axis) - 1 for axis in edges)
        self.counts, self.sum_weights = np.zeros(self.shape, np.int64), np.zeros(self.shape)

    def add(self, values: Sequence[np.ndarray], weights: np.ndarray) -> None:
        """Count rows: their coordinates along each axis, and their event weights, shapes (R,)."""
        place = np.ravel_multi_index(bin_place(values, self.edges), self.shape)
        self.counts += np.bincount(place, minlength=self.counts.size).reshape(self.shape)
        self.sum_weights += np.bincount(place, weights, minlength=self.counts.size).reshape(self.shape)

    def merge(self, part: Mapping[str, Any]) -> None:
        """Add what another one has counted, as `as_dict` gives it."""
        self.counts += array_from_text(part["counts"], self.counts)
        self.sum_weights += array_from_text(part["sum_weights"], self.sum_weights)

    def as_dict(self) -> dict[str, str]:
        """Return plain values."""
        return {"counts": array_as_text(self.counts), "sum_weights": array_as_text(self.sum_weights)}

    def describe(self) -> dict[str, Any]:
        """Return what the manifest holds."""
        if len(self.edges) == 1:
            axes: dict[str, Any] = {"variable": self.variables[0], "edges": self.edges[0]}
        else:
            axes = {"variables": self.variables, "edges": self.edges}
        return axes | {"counts": self.counts.tolist(), "sum_weights": self.sum_weights.tolist()}


class Summary:
    """What the manifest says about the training rows.

    Args:
        columns: Of the dataset.
        pt_mass_edges: Bins in jet pT and jet mass, in GeV.
        num_classes: Number of labels, 0 without labels.
    """

    def __init__(self, columns: Sequence[ColumnSpec], pt_mass_edges: Edges, num_classes: int) -> None:
        self.num_classes = num_classes
        self.class_counts = np.zeros(num_classes, np.int64)
        self.moments = {column.name: Moments() for column in columns if column.role in STATISTICS_ROLES}
        self.pt_mass = [Histogram(("jet_pt / GeV", "jet_mass / GeV"), pt_mass_edges) for _ in range(max(num_classes, 1))]
        self.spectra: dict[str, Histogram] = {}
        names = {column.name for column in columns}
        if "true_energy" in names:
            self.spectra["log_true_energy"] = Histogram(("ln(true_energy / GeV)",), (LOG_ENERGY_EDGES,))
        if {"true_energy", "true_eta"} <= names:
            variables = ("ln(true_energy / GeV)", "|true_eta|")
            self.spectra["log_true_energy_abs_eta"] = Histogram(variables, (WIDE_LOG_ENERGY_EDGES, ABS_ETA_EDGES))

    def add(self, table: pa.Table) -> None:
        """Take in rows of the dataset."""
        for name, moments in self.moments.items():
            for chunk in table[name].chunks:
                moments.add((chunk.flatten() if pa.types.is_list(chunk.type) else chunk).to_numpy())
        weights = table["weight"].to_numpy()
        for name, spectrum in self.spectra.items():
            values = [_log(table["true_energy"].to_numpy())]
            spectrum.add(values if name == "log_true_energy" else [*values, np.abs(table["true_eta"].to_numpy())], weights)
        self._count_classes(table, weights)

    def _count_classes(self, table: pa.Table, weights: np.ndarray) -> None:
        labels = table["label"].to_numpy() if self.num_classes else np.zeros(table.num_rows, np.int32)
        self.class_counts += np.bincount(labels, minlength=self.num_classes)[: self.num_classes]
        pt, mass = table["jet_pt"].to_numpy(), table["jet_mass"].to_numpy()
        for number, histogram in enumerate(self.pt_mass):
            rows = labels == number
            histogram.add([pt[rows], mass[rows]], weights[rows])

    def merge(self, part: Mapping[str, Any]) -> None:
        """Take in what another summary has seen, as `as_dict` gives it."""
        self.class_counts += np.array(part["class_counts"], np.int64)
        for name, moments in self.moments.items():
            moments.merge(part["moments"][name])
        for name, spectrum in self.spectra.items():
            spectrum.merge(part["spectra"][name])
        for histogram, content in zip(self.pt_mass, part["pt_mass"], strict=True):
            histogram.merge(content)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, to be stored and merged."""
        return {
            "class_counts": self.class_counts.tolist(),
            "moments": {name: moments.as_dict() for name, moments in self.moments.items()},
            "spectra": {name: spectrum.as_dict() for name, spectrum in self.spectra.items()},
            "pt_mass": [histogram.as_dict() for histogram in self.pt_mass],
        }

    def describe(self, classes: Sequence[str]) -> dict[str, Any]:
        """Return `statistics`, `histograms` (pt_mass by class, if there are classes) and `class_counts` as in the manifest."""
        pt_mass = [histogram.describe() for histogram in self.pt_mass]
        whole = pt_mass[0]
        if classes:
            whole = whole | {name: [part[name] for part in pt_mass] for name in ("counts", "sum_weights")}
        return {
            "statistics": {name: moments.describe() for name, moments in self.moments.items()},
            "histograms": {"pt_mass": whole} | {name: spectrum.describe() for name, spectrum in self.spectra.items()},
            "class_counts": dict(zip(classes, self.class_counts.tolist(), strict=True)),
        }


def bin_place(values: Sequence[np.ndarray], edges: Edges) -> tuple[np.ndarray, ...]:
    """Find the bin of each row along each axis, shapes (R,); what lies outside belongs to the first or the last bin."""
    return tuple(
        np.clip(np.searchsorted(np.asarray(axis), value, side="right") - 1, 0, len(axis) - 2)
        for value, axis in zip(values, edges, strict=True)
    )


def _log(values: np.ndarray) -> np.ndarray:
    """Natural logarithm in float64; minus infinity of zero, which falls into the first bin."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log(values.astype(np.float64))
