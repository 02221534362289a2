"""How is one number per bin drawn for several methods?

One panel per bin of one quantity, the bins of another along x, one colour and marker per method in all figures. With many
methods the points of a bin stand side by side, in the order of the legend, and lose their horizontal bars: they would hide each
other. Everything is drawn from the records of metrics.json, so what is seen is what that says.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator

from distjet.evaluation.axes import Array, Axis, Record
from distjet.evaluation.config import ResponseConfig
from distjet.evaluation.panels import Grid, Plot, add_header, finish, make_grid, method_styles, set_log_axis, share_axes
from distjet.evaluation.response import SCALED_SUFFIX

ETA = "\N{GREEK SMALL LETTER ETA}"
MAX_PANELS = 6
ZOOM_MAX_GEV = 500.0
SCALE_ZOOM = (0.94, 1.06)
FEW_METHODS = 3
"Up to this many, a point stands at the mean of its jets, with a bar over its bin."

X_LABELS = {
    "true_energy": r"True energy $E_\mathrm{true}$ [GeV]",
    "true_pt": r"True $p_\mathrm{T}$ [GeV]",
    "reco_energy": r"Reconstructed energy $E_\mathrm{reco}$ [GeV]",
    "reco_pt": r"Reconstructed $p_\mathrm{T}$ [GeV]",
    "eta": r"True $\eta$",
    "abs_eta": r"True $|\eta|$",
}
WORDS = {
    "true_energy": "true energy",
    "true_pt": "true pT",
    "reco_energy": "reconstructed energy of the method itself",
    "reco_pt": "reconstructed pT of the method itself",
    "eta": ETA,
    "abs_eta": f"|{ETA}|",
    "mass_over_pt": "true mass over true pT",
}

BANDS_SENTENCE = "Bands: \N{PLUS-MINUS SIGN}1 % and \N{PLUS-MINUS SIGN}2 %. "
CORRELATED_SENTENCE = "The errors of the ratio ignore that both methods see the same jets, so they are too large. "
ZOOM_SENTENCE = "Points outside the vertical range are not visible here. "


@dataclass(frozen=True)
class Curves:
    """What one figure shows: a number per bin for several methods."""

    group: str
    "Key in the metrics, e.g. `energy_response`."
    key: str
    "Key in a record, e.g. `scale_core`."
    name: str
    title: str
    y_label: str
    sentence: str
    "What the number means, for the caption."
    centre: float | None = None
    "A line that a perfect calibration follows, with bands of 1 and 2 % if it is 1."
    x: str = "true_energy"
    panel: str = "abs_eta"
    ratio: bool = False
    "Whether the ratio to the reference stands below."
    zoom: bool = False
    "Whether the vertical range is that of a good calibration."
    low_energies: bool = False
    "Whether to draw up to 500 GeV only, on a linear axis."

    @property
    def x_axis(self) -> Axis:
        """Keys of the records along x."""
        return Axis(self.x, ())

    @property
    def panel_axis(self) -> Axis:
        """Keys of the records that tell the panel."""
        return Axis(self.panel, ())

    @property
    def logarithmic(self) -> bool:
        """Whether x is drawn so."""
        return self.x not in ("eta", "abs_eta") and not self.low_energies


def plot_curves(
    metrics: dict[str, Any],
    curves: Curves,
    config: ResponseConfig,
    draw_more: Callable[[Axes, tuple[float, float]], None] | None = None,
) -> Plot | None:
    """One panel per bin of the panels' quantity, one curve per method; None if no bin is drawn.

    Args:
        metrics: What `summarise` returns.
        curves: What to draw.
        config: Selection and thresholds, for the texts.
        draw_more: Draws into a panel, given the limits of its bin.
    """
    by_method = methods_drawn(metrics[curves.group])
    reference = next(iter(by_method))
    drawn = [record for record in by_method[reference] if record["drawn"]]
    panels = panel_limits(drawn, curves)
    if not panels:
        return None
    names = [method_text(name, reference) for name in by_method]
    titles = [panel_text(curves.panel, *limits) for limits in panels]
    grid = make_grid(titles, ratio=curves.ratio, labels=names if len(names) > 2 else ())
    for index, limits in enumerate(panels):
        shown = {name: _of_panel(records, curves, limits) for name, records in by_method.items()}
        _draw_panel(grid, index, shown, (curves, styles_of(metrics, list(by_method))))
        if draw_more:
            draw_more(grid.axes[index], limits)
        _set_x_axis(grid.axes[index], drawn, curves)
    _set_y_range(grid.axes, by_method, curves)
    _set_ratio_range(grid.ratios)
    share_axes(grid, X_LABELS[curves.x], curves.y_label, f"Ratio to {reference}")
    add_header(grid, subtitle(metrics, config, curves))
    return finish(grid, curves.name, curves.title, _caption(curves, by_method[reference], config))


def methods_drawn(group: dict[str, Any]) -> dict[str, list[Record]]:
    """Bins of each method; of scaled reference masses at most one, as they are another curve for every method."""
    scaled = [name for name in group if name.endswith(SCALED_SUFFIX)]
    return {name: summary["bins"] for name, summary in group.items() if len(scaled) < 2 or name not in scaled}


def panel_limits(drawn: Sequence[Record], curves: Curves) -> list[tuple[float, float]]:
    """Limits of the panels that have something to show, at most six."""
    keys = curves.panel_axis.low, curves.panel_axis.high
    found = sorted({(record[keys[0]], record[keys[1]]) for record in drawn})
    return [found[i] for i in spread(len(found), MAX_PANELS)]


def styles_of(metrics: dict[str, Any], names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each method, the same in all figures of an evaluation."""
    scaled = [name for name in names if name.endswith(SCALED_SUFFIX)]
    return method_styles([*metrics["methods"], *scaled], metrics["methods"][0], scaled)


def dodge(place: int, number: int) -> float | None:
    """Say by which part of its bin a point moves, so that points of many methods do not hide each other; None for few."""
    return None if number <= FEW_METHODS else (place - (number - 1) / 2) * min(0.12, 0.7 / number)


def undrawn_text(records: Sequence[Record], config: ResponseConfig, axes: tuple[str, str] = ("true_energy", "abs_eta")) -> str:
    """Name the bins that are not drawn; `axes` are the quantities along x and of the panels."""
    some = [f"{bin_text(r, axes, plain=True)} ({r['num_jets']})" for r in records if not r["drawn"] and r["num_jets"]]
    empty = sum(record["num_jets"] == 0 for record in records)
    text = f"Not drawn, fewer than {config.min_entries_drawn} jets: {'; '.join(some)}. " if some else ""
    return text + (f"{empty} bins hold no jet." if empty else "")


def spread(number: int, wanted: int) -> list[int]:
    """Choose at most `wanted` of `number` indices, evenly, with the first and the last."""
    return sorted({int(i) for i in np.linspace(0, number - 1, min(number, wanted)).round()}) if number else []


def panel_text(quantity: str, low: float, high: float, *, plain: bool = False) -> str:
    """Name a bin of a quantity: `0.8 < |eta| < 1.3`."""
    if quantity in ("eta", "abs_eta"):
        symbol = (f"|{ETA}|" if plain else r"$|\eta|$") if quantity == "abs_eta" else (ETA if plain else r"$\eta$")
        return f"{symbol} < {high:g}" if low == 0 and not plain else f"{low:g} < {symbol} < {high:g}"
    if quantity == "mass_over_pt":
        symbol = "M/pT" if plain else r"$M_\mathrm{true}\,/\,p_\mathrm{T,true}$"
        return f"{low:g} < {symbol} < {high:g}"
    if plain:
        return f"{low:.4g}\N{EN DASH}{high:.4g} GeV"
    symbol = {"true_energy": r"$E_\mathrm{true}$", "true_pt": r"$p_\mathrm{T,true}$"}.get(quantity, "reco")
    return rf"{low:.4g} < {symbol} < {high:.4g} GeV"


def bin_text(record: Record, axes: tuple[str, str] = ("true_energy", "abs_eta"), *, plain: bool = False) -> str:
    """Name a bin of two quantities."""
    parts = [panel_text(name, record[Axis(name, ()).low], record[Axis(name, ()).high], plain=plain) for name in axes]
    return ", ".join(parts)


def method_text(name: str, reference: str) -> str:
    """Say what a method is."""
    if name.endswith(SCALED_SUFFIX):
        return rf"{reference} $\times$ energy correction of {name.removesuffix(SCALED_SUFFIX)}"
    return name


def draw_guides(axis: Axes, centre: float | None) -> None:
    """Draw the line of a perfect calibration, and bands about 1."""
    if centre is None:
        return
    if centre == 1.0:
        axis.axhspan(0.98, 1.02, color="#e8e8e8", linewidth=0, zorder=0)
        axis.axhspan(0.99, 1.01, color="#cfcfcf", linewidth=0, zorder=0)
    axis.axhline(centre, color="0.45", linewidth=0.8, zorder=1)


def subtitle(metrics: dict[str, Any], config: ResponseConfig, curves: Curves | None = None) -> str:
    """Say which jets a figure shows."""
    group, x = (curves.group, curves.x) if curves else ("energy_response", "true_energy")
    process = f"{metrics['process']}, " if metrics.get("process") else ""
    if x.startswith("reco"):
        return f"{process}all {spaced(metrics['num_jets_total'])} jets"
    num_jets, cut = metrics["num_jets"], rf"$p_\mathrm{{T,true}}$ > {config.pt_true_min_gev:g} GeV"
    if group.startswith("mass"):
        num_jets -= metrics["num_jets_below_true_mass"]
        cut += rf", $M_\mathrm{{true}}$ > {config.mass_true_min_gev:g} GeV"
    return f"{process}{spaced(num_jets)} jets, {cut}"


def spaced(count: int) -> str:
    """Write `1 234 567`."""
    return f"{count:,}".replace(",", " ")


def _caption(curves: Curves, records: Sequence[Record], config: ResponseConfig) -> str:
    text = f"{curves.title} against the {WORDS[curves.x]} in bins of {WORDS[curves.panel]}. {curves.sentence} "
    text += "Error bars are statistical. "
    if curves.centre == 1.0:
        text += BANDS_SENTENCE
    if curves.ratio:
        text += CORRELATED_SENTENCE
    if curves.zoom:
        text += ZOOM_SENTENCE
    return text + undrawn_text(records, config, (curves.x, curves.panel))


def _draw_panel(
    grid: Grid, index: int, by_method: dict[str, list[Record]], how: tuple[Curves, dict[str, dict[str, Any]]]
) -> None:
    """Draw the bins of one panel, and their ratio to the reference."""
    curves, styles = how
    reference = next(iter(by_method))
    draw_guides(grid.axes[index], curves.centre)
    for place, (name, records) in enumerate(by_method.items()):
        look = {**styles[name], "label": method_text(name, reference)}
        shift = dodge(place, len(by_method))
        _draw_points(grid.axes[index], records, curves, look, shift)
        if curves.ratio and name != reference:
            _draw_ratio(grid.ratios[index], (records, by_method[reference]), curves, styles[name], shift)


def _of_panel(records: Sequence[Record], curves: Curves, limits: tuple[float, float]) -> list[Record]:
    return [r for r in records if r["drawn"] and r[curves.panel_axis.low] == limits[0]]


def _positions(records: Sequence[Record], curves: Curves, shift: float | None) -> tuple[Array, Array | None]:
    """Where points stand, and how far their horizontal bars reach; points that were moved have none."""
    axis = curves.x_axis
    bounds = np.array([[r[axis.low], r[axis.high]] for r in records]).reshape(-1, 2)
    x = bounds.mean(axis=1) if axis.quantity == "abs_eta" else np.array([r[axis.mean] for r in records], float)
    if shift is None:
        return x, np.abs(bounds.T - x)
    if curves.logarithmic:
        return x * (bounds[:, 1] / np.maximum(bounds[:, 0], 1.0)) ** shift, None
    return x + (bounds[:, 1] - bounds[:, 0]) * shift, None


def _draw_points(axis: Axes, records: Sequence[Record], curves: Curves, look: dict[str, Any], shift: float | None) -> None:
    x, bars = _positions(records, curves, shift)
    y, error = (np.array([r[key] for r in records], float) for key in (curves.key, f"{curves.key}_error"))
    axis.errorbar(x, y, yerr=error, xerr=bars, linestyle="none", elinewidth=1.0, **look)


def _draw_ratio(
    axis: Axes, both: tuple[Sequence[Record], Sequence[Record]], curves: Curves, look: dict[str, Any], shift: float | None
) -> None:
    """Errors of the ratio as if the two were independent: the jets are the same, so these are upper limits."""
    x, bars = _positions(both[0], curves, shift)
    (y, e), (y0, e0) = ([np.array([r[key] for r in some]) for key in (curves.key, f"{curves.key}_error")] for some in both)
    keep = (y > 0) & (y0 > 0)
    ratio, error = y[keep] / y0[keep], np.hypot(e[keep] / y[keep], e0[keep] / y0[keep])
    axis.axhline(1, color="0.45", linewidth=0.8, zorder=1)
    bars = None if bars is None else bars[:, keep]
    axis.errorbar(x[keep], ratio, yerr=ratio * error, xerr=bars, linestyle="none", elinewidth=1.0, **look)


def _set_x_axis(axis: Axes, drawn: Sequence[Record], curves: Curves) -> None:
    low, high = min(r[curves.x_axis.low] for r in drawn), max(r[curves.x_axis.high] for r in drawn)
    if curves.low_energies:
        axis.set_xlim(0, ZOOM_MAX_GEV)
    elif curves.logarithmic:
        set_log_axis(axis, max(low, 1.0), high)
    else:
        axis.set_xlim(low, high)
        axis.xaxis.set_major_locator(MultipleLocator(0.5 if high - low <= 3 else 1.0))


def _set_y_range(axes: Sequence[Axes], by_method: dict[str, list[Record]], curves: Curves) -> None:
    drawn = [record for records in by_method.values() for record in records if record["drawn"]]
    y, error = (np.array([r[key] for r in drawn]) for key in (curves.key, f"{curves.key}_error"))
    low, high = float(np.min(y - error)), float(np.max(y + error))
    if curves.zoom:
        low, high = SCALE_ZOOM
    elif curves.centre is not None:
        margin = 0.03 if curves.centre == 1.0 else 0.0
        low, high = min(low, curves.centre - margin), max(high, curves.centre + margin)
    else:
        low = min(low, 0.0)
    pad = 0.0 if curves.zoom else 0.06 * (high - low)
    for axis in axes:
        axis.set_ylim(low if low == 0 else low - pad, high + pad)


def _set_ratio_range(axes: Sequence[Axes]) -> None:
    if not axes:
        return
    low = min(0.75, *(axis.get_ylim()[0] for axis in axes))
    high = max(1.1, *(axis.get_ylim()[1] for axis in axes))
    for axis in axes:
        axis.set_ylim(low, high)
