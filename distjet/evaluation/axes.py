"""In which bins is a calibration looked at?

A pair of axes: one for the panels of a figure, one along x. True quantities put the same jets into the same bins for all
methods, so that bins can be compared; a reconstructed quantity is that of the method itself, as its user will see it. A low
edge belongs to its bin.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distjet.evaluation.config import ResponseConfig
from distjet.evaluation.predictions import Predictions

Array = NDArray[np.float64]
Rows = NDArray[np.intp]
Record = dict[str, Any]

NAMES = {
    "true_energy": ("energy", "_gev"),
    "true_pt": ("pt", "_gev"),
    "reco_energy": ("energy", "_gev"),
    "reco_pt": ("pt", "_gev"),
    "abs_eta": ("abs_eta", ""),
    "eta": ("eta", ""),
    "mass_over_pt": ("mass_over_pt", ""),
}
"How the limits of a bin are called in a record: pt_low_gev, abs_eta_high."


@dataclass(frozen=True)
class Axis:
    """A quantity (a key of `NAMES`) and the edges of its bins, in GeV or dimensionless."""

    quantity: str
    edges: tuple[float, ...]

    @property
    def low(self) -> str:
        """Key of the lower limit in a record."""
        name, unit = NAMES[self.quantity]
        return f"{name}_low{unit}"

    @property
    def high(self) -> str:
        """Key of the upper limit in a record."""
        name, unit = NAMES[self.quantity]
        return f"{name}_high{unit}"

    @property
    def mean(self) -> str:
        """Key of the mean of the quantity over the jets of a bin."""
        name, unit = NAMES[self.quantity]
        return f"mean_{name}{unit}"

    @property
    def num_bins(self) -> int:
        """Number of bins."""
        return len(self.edges) - 1

    def values(self, predictions: Predictions, method: str) -> Array:
        """Return the quantity of each jet, shape (J,)."""
        columns = predictions.columns
        if self.quantity == "abs_eta":
            return np.abs(columns["true_eta"])
        if self.quantity == "eta":
            return columns["true_eta"]
        if self.quantity == "mass_over_pt":
            return columns["true_mass"] / columns["true_pt"]
        return columns[self.quantity.replace("reco", method)]

    def bin_of(self, values: Array) -> Rows:
        """Number of the bin of each value; -1 or `num_bins` outside."""
        return np.searchsorted(np.asarray(self.edges), values, side="right") - 1


@dataclass(frozen=True)
class Bins:
    """All combinations of a bin of the panels' axis and a bin of the x axis, the latter running faster."""

    panel: Axis
    x: Axis

    def limits(self) -> list[Record]:
        """Limits of each bin."""
        return [
            {self.x.low: x_low, self.x.high: x_high, self.panel.low: low, self.panel.high: high}
            for low, high in pairwise(self.panel.edges)
            for x_low, x_high in pairwise(self.x.edges)
        ]

    def rows(self, predictions: Predictions, method: str) -> list[Rows]:
        """Row numbers of the jets in each bin, in ascending order."""
        panel = self.panel.bin_of(self.panel.values(predictions, method))
        x = self.x.bin_of(self.x.values(predictions, method))
        inside = (panel >= 0) & (panel < self.panel.num_bins) & (x >= 0) & (x < self.x.num_bins)
        number = self.panel.num_bins * self.x.num_bins
        flat = np.where(inside, panel * self.x.num_bins + x, number)
        order = np.argsort(flat, kind="stable")
        bounds = np.searchsorted(flat[order], np.arange(number + 1))
        return [order[low:high] for low, high in pairwise(bounds)]

    @property
    def is_true(self) -> bool:
        """Whether all methods have the same jets in the same bins."""
        return not any(axis.quantity.startswith("reco") for axis in (self.panel, self.x))


def abs_eta_axis(config: ResponseConfig) -> Axis:
    """The |true eta| of the configuration."""
    return Axis("abs_eta", tuple(float(edge) for edge in config.abs_eta_edges))


def energy_edges_gev(predictions: Predictions, config: ResponseConfig) -> tuple[float, ...]:
    """Edges of the bins in energy: configured, or log-spaced over the range of the jets' true energy."""
    if config.energy_edges_gev is not None:
        return tuple(float(edge) for edge in config.energy_edges_gev)
    energy = predictions.columns["true_energy"]
    low, high = float(energy.min()), float(energy.max()) * (1 + 1e-9)
    return tuple(np.geomspace(low, max(high, low * 1.01), config.num_log_energy_bins + 1).tolist())


def energy_bins(predictions: Predictions, config: ResponseConfig, quantity: str = "true_energy") -> Bins:
    """Bins of energy in bins of |eta|; `quantity` is `true_energy` or `reco_energy`."""
    return Bins(abs_eta_axis(config), Axis(quantity, energy_edges_gev(predictions, config)))


def pt_bins(config: ResponseConfig, quantity: str = "true_pt", edges_gev: tuple[float, ...] | None = None) -> Bins:
    """Bins of pT in bins of |eta|; `quantity` is `true_pt` or `reco_pt`, the edges (GeV) by default those of the headline."""
    edges = tuple(float(edge) for edge in edges_gev or config.pt_edges_gev)
    return Bins(abs_eta_axis(config), Axis(quantity, edges))


def eta_bins(config: ResponseConfig) -> Bins:
    """Fine bins of eta, as far as |eta| is binned, in bins of true energy."""
    end = max(config.abs_eta_edges)
    number = max(1, round(2 * end / config.eta_bin_width))
    edges = tuple(np.linspace(-end, end, number + 1).round(6).tolist())
    return Bins(Axis("true_energy", tuple(float(edge) for edge in config.eta_energy_edges_gev)), Axis("eta", edges))


def mass_bins(config: ResponseConfig) -> Bins:
    """Bins of true pT in bins of true mass over true pT."""
    return Bins(Axis("mass_over_pt", config.mass_over_pt_edges), pt_bins(config).x)
