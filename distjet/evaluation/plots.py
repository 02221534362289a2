"""Which figures show whether a calibration works?

The scale and the resolution in bins of the true energy and |eta| (a scale that is right on average and wrong in every bin is
useless), the distributions behind them, and the mass. All figures but the distributions are drawn from the metrics, so what is
seen is what metrics.json says. Bins with too few jets are not drawn; the caption names them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator

from distjet.evaluation.config import ResponseConfig
from distjet.evaluation.panels import Plot, add_header, finish, make_grid, method_styles, set_energy_axis, share_axes, style
from distjet.evaluation.predictions import Predictions
from distjet.evaluation.response import SCALED_SUFFIX, Record, observable_values, rows_per_bin, select_jets

ENERGY_LABEL = r"True energy $E_\mathrm{true}$ [GeV]"
MAX_DISTRIBUTIONS = 6
MAX_ENERGY_PANELS = 6
ZOOM_MAX_GEV = 500.0
SCALE_ZOOM = (0.94, 1.06)

CORE_SENTENCE = (
    "The scale is the Gaussian core (mode) of the distribution in each bin: a truncated Gaussian in a window of "
    "\N{PLUS-MINUS SIGN}{k:g} \N{GREEK SMALL LETTER SIGMA}."
)
BANDS_SENTENCE = "Bands: \N{PLUS-MINUS SIGN}1 % and \N{PLUS-MINUS SIGN}2 %. "
RESOLUTION_SENTENCE = (
    "The resolution is half the central 68 % interval divided by the median, so that a low scale does not look sharp."
)


@dataclass(frozen=True)
class Curves:
    """What one figure shows: a number per bin for several methods."""

    group: str
    "`energy_response`, `mass_response` or `rapidity_residual`."
    key: str
    name: str
    title: str
    y_label: str
    sentence: str
    centre: float | None = None
    "A line that a perfect calibration follows, with bands of 1 and 2 % if it is 1."
    ratio: bool = False
    zoom: bool = False


def make_plots(predictions: Predictions, metrics: dict[str, Any], config: ResponseConfig) -> list[Plot]:
    """Draw all figures.

    Args:
        predictions: All jets of the table.
        metrics: What `summarise` made of them.
        config: The same configuration.

    Returns:
        The figures, in the order of the report; those for which no bin has enough jets are left out.
    """
    plots: list[Plot | None] = []
    with style():
        for curves in curve_figures(config):
            if curves.group in metrics:
                plots.append(plot_against_energy(metrics, curves, config))
            if curves.name == "energy_resolution" and "energy_response" in metrics:
                plots.append(plot_scale_against_eta(metrics, config))
                plots.append(plot_distributions(predictions, metrics, config))
    return [plot for plot in plots if plot is not None]


def curve_figures(config: ResponseConfig) -> list[Curves]:
    """List the figures that show one number per bin."""
    core = CORE_SENTENCE.format(k=config.estimator.core_window_sigmas)
    energy, mass = r"$E_\mathrm{reco}\,/\,E_\mathrm{true}$", r"$M_\mathrm{reco}\,/\,M_\mathrm{true}$"
    width = r"Resolution of "
    rapidity = r"$y_\mathrm{reco} - y_\mathrm{true}$"
    return [
        Curves("energy_response", "scale_core", "energy_scale", "Energy scale", f"Core of {energy}", core, 1.0),
        Curves(
            "energy_response",
            "scale_core",
            "energy_scale_zoom",
            "Energy scale below 500 GeV",
            f"Core of {energy}",
            core,
            1.0,
            zoom=True,
        ),
        Curves(
            "energy_response",
            "resolution",
            "energy_resolution",
            "Energy resolution",
            width + energy,
            RESOLUTION_SENTENCE,
            ratio=True,
        ),
        Curves("mass_response", "scale_core", "mass_scale", "Mass scale", f"Core of {mass}", core, 1.0),
        Curves(
            "mass_response", "resolution", "mass_resolution", "Mass resolution", width + mass, RESOLUTION_SENTENCE, ratio=True
        ),
        Curves(
            "rapidity_residual",
            "median",
            "rapidity_median",
            "Rapidity residual",
            f"Median of {rapidity}",
            "The median of the residual: zero if directions are unbiased.",
            0.0,
        ),
        Curves(
            "rapidity_residual",
            "width",
            "rapidity_width",
            "Rapidity resolution",
            f"Width of {rapidity}",
            "The width is half the central 68 % interval of the residual.",
            ratio=True,
        ),
    ]


def plot_against_energy(metrics: dict[str, Any], curves: Curves, config: ResponseConfig) -> Plot | None:
    """One panel per |eta| bin, one curve per method; None if no bin is drawn."""
    by_method = {name: summary["bins"] for name, summary in metrics[curves.group].items()}
    reference = metrics["methods"][0]
    drawn = [record for record in by_method[reference] if record["drawn"]]
    slices = sorted({(record["abs_eta_low"], record["abs_eta_high"]) for record in drawn})
    if not slices:
        return None
    grid = make_grid([eta_text(*limits) for limits in slices], ratio=curves.ratio)
    styles = method_styles(list(by_method), reference, [name for name in by_method if name.endswith(SCALED_SUFFIX)])
    for index, limits in enumerate(slices):
        _draw_guides(grid.axes[index], curves)
        for name, records in by_method.items():
            chosen = [r for r in records if r["drawn"] and r["abs_eta_low"] == limits[0]]
            _draw_points(grid.axes[index], chosen, curves.key, {**styles[name], "label": method_text(name, reference)})
            if curves.ratio and name != reference:
                base = [r for r in by_method[reference] if r["drawn"] and r["abs_eta_low"] == limits[0]]
                _draw_ratio(grid.ratios[index], chosen, base, curves.key, styles[name])
        _set_x_axis(grid.axes[index], drawn, curves)
    _set_y_range(grid.axes, _values(by_method, curves.key), curves)
    _set_ratio_range(grid.ratios)
    share_axes(grid, ENERGY_LABEL, curves.y_label, f"Ratio to {reference}")
    add_header(grid, _subtitle(metrics, config, curves.group))
    caption = f"{curves.title} against the true energy in bins of |\N{GREEK SMALL LETTER ETA}|. {curves.sentence} "
    caption += "Error bars are statistical. "
    if curves.centre == 1.0:
        caption += BANDS_SENTENCE
    if curves.ratio:
        caption += "The errors of the ratio ignore that both methods see the same jets, so they are too large. "
    if curves.zoom:
        caption += "Points outside the vertical range are not visible here; see the figure before. "
    return finish(grid, curves.name, curves.title, caption + undrawn_text(by_method[reference], config))


def plot_scale_against_eta(metrics: dict[str, Any], config: ResponseConfig) -> Plot | None:
    """The energy scale against |eta|, one panel per energy bin (at most six, evenly chosen)."""
    by_method = {name: summary["bins"] for name, summary in metrics["energy_response"].items()}
    reference = metrics["methods"][0]
    drawn = [record for record in by_method[reference] if record["drawn"]]
    bins = sorted({(record["energy_low_gev"], record["energy_high_gev"]) for record in drawn})
    if not bins:
        return None
    bins = [bins[i] for i in spread(len(bins), MAX_ENERGY_PANELS)]
    curves = Curves(
        "energy_response", "scale_core", "energy_scale_eta", "", r"Core of $E_\mathrm{reco}\,/\,E_\mathrm{true}$", "", 1.0
    )
    grid = make_grid([energy_text(*limits) for limits in bins])
    styles = method_styles(list(by_method), reference)
    for axis, limits in zip(grid.axes, bins, strict=True):
        _draw_guides(axis, curves)
        for name, records in by_method.items():
            chosen = [r for r in records if r["drawn"] and r["energy_low_gev"] == limits[0]]
            _draw_points(axis, chosen, curves.key, {**styles[name], "label": method_text(name, reference)}, against_eta=True)
        axis.set_xlim(min(record["abs_eta_low"] for record in drawn), max(record["abs_eta_high"] for record in drawn))
        axis.xaxis.set_major_locator(MultipleLocator(0.5))
    _set_y_range(grid.axes, _values(by_method, curves.key), curves)
    share_axes(grid, r"True $|\eta|$", curves.y_label)
    add_header(grid, _subtitle(metrics, config))
    sentence = CORE_SENTENCE.format(k=config.estimator.core_window_sigmas)
    caption = (
        f"Energy scale against |\N{GREEK SMALL LETTER ETA}| in {len(bins)} bins of the true energy. {sentence} {BANDS_SENTENCE}"
    )
    return finish(grid, curves.name, "Energy scale against |eta|", caption + undrawn_text(by_method[reference], config))


def plot_distributions(predictions: Predictions, metrics: dict[str, Any], config: ResponseConfig) -> Plot | None:
    """Response distributions in up to six bins with the Gaussian core on top."""
    jets = select_jets(predictions, config)
    by_method = {name: summary["bins"] for name, summary in metrics["energy_response"].items()}
    reference = metrics["methods"][0]
    candidates = [i for i, record in enumerate(by_method[reference]) if record["enough_entries"]]
    candidates.sort(key=lambda i: (by_method[reference][i]["energy_low_gev"], by_method[reference][i]["abs_eta_low"]))
    if not candidates:
        return None
    chosen = [candidates[i] for i in spread(len(candidates), MAX_DISTRIBUTIONS)]
    rows = list(rows_per_bin(jets, config).values())
    grid = make_grid([bin_text(by_method[reference][i]) for i in chosen])
    styles = method_styles(list(by_method), reference)
    edges = _distribution_edges(by_method, chosen)
    for axis, index in zip(grid.axes, chosen, strict=True):
        for name, records in by_method.items():
            values = observable_values(jets, name, "energy")[rows[index]]
            weights = jets.columns["weight"][rows[index]] if config.use_weights else None
            counts = np.histogram(values, edges, weights=weights)[0] / (len(values) if weights is None else weights.sum())
            axis.stairs(counts, edges, color=styles[name]["color"], label=method_text(name, reference))
            _draw_core(axis, counts, edges, records[index], (config.estimator.core_window_sigmas, styles[name]["color"]))
        axis.axvline(1, color="0.6", linewidth=0.8, zorder=0)
        axis.set_xlim(edges[0], edges[-1])
    top = max(axis.get_ylim()[1] for axis in grid.axes)
    for axis in grid.axes:
        axis.set_ylim(0, top)
    share_axes(grid, r"$E_\mathrm{reco}\,/\,E_\mathrm{true}$", f"Fraction of jets / {edges[1] - edges[0]:.3g}")
    add_header(grid, _subtitle(metrics, config))
    caption = (
        f"Distributions of the energy response in {len(chosen)} bins spread over the energies. The smooth curve is the "
        f"Gaussian core, drawn over the window of \N{PLUS-MINUS SIGN}{config.estimator.core_window_sigmas:g} "
        "\N{GREEK SMALL LETTER SIGMA} in which it is estimated; a curve that misses the top of its histogram would be a "
        "wrong scale."
    )
    return finish(grid, "energy_distributions", "Response distributions", caption)


def undrawn_text(records: Sequence[Record], config: ResponseConfig) -> str:
    """Name the bins that are not drawn."""
    some = [f"{bin_text(r, plain=True)} ({r['num_jets']})" for r in records if not r["drawn"] and r["num_jets"]]
    empty = sum(record["num_jets"] == 0 for record in records)
    text = f"Not drawn, fewer than {config.min_entries_drawn} jets: {'; '.join(some)}. " if some else ""
    return text + (f"{empty} bins hold no jet." if empty else "")


def spread(number: int, wanted: int) -> list[int]:
    """Choose at most `wanted` of `number` indices, evenly, with the first and the last."""
    return sorted({int(i) for i in np.linspace(0, number - 1, min(number, wanted)).round()})


def eta_text(low: float, high: float, *, plain: bool = False) -> str:
    """`0.8 < |eta| < 1.3`."""
    if plain:
        return f"{low:g} < |\N{GREEK SMALL LETTER ETA}| < {high:g}"
    return rf"$|\eta|$ < {high:g}" if low == 0 else rf"{low:g} < $|\eta|$ < {high:g}"


def energy_text(low_gev: float, high_gev: float, *, plain: bool = False) -> str:
    """`20 < E_true < 30 GeV`."""
    if plain:
        return f"{low_gev:.4g}\N{EN DASH}{high_gev:.4g} GeV"
    return rf"{low_gev:.4g} < $E_\mathrm{{true}}$ < {high_gev:.4g} GeV"


def bin_text(record: Record, *, plain: bool = False) -> str:
    """Name a bin."""
    energy = energy_text(record["energy_low_gev"], record["energy_high_gev"], plain=plain)
    return f"{energy}, {eta_text(record['abs_eta_low'], record['abs_eta_high'], plain=plain)}"


def method_text(name: str, reference: str) -> str:
    """Say what a method is."""
    if name.endswith(SCALED_SUFFIX):
        return rf"{reference} $\times$ energy correction of {name.removesuffix(SCALED_SUFFIX)}"
    return name


def _draw_guides(axis: Axes, curves: Curves) -> None:
    if curves.centre is None:
        return
    if curves.centre == 1.0:
        axis.axhspan(0.98, 1.02, color="#e8e8e8", linewidth=0, zorder=0)
        axis.axhspan(0.99, 1.01, color="#cfcfcf", linewidth=0, zorder=0)
    axis.axhline(curves.centre, color="0.45", linewidth=0.8, zorder=1)


def _draw_points(axis: Axes, records: Sequence[Record], key: str, look: dict[str, Any], *, against_eta: bool = False) -> None:
    low, high = ("abs_eta_low", "abs_eta_high") if against_eta else ("energy_low_gev", "energy_high_gev")
    bounds = np.array([[r[low], r[high]] for r in records]).reshape(-1, 2)
    x = bounds.mean(axis=1) if against_eta else np.array([r["mean_energy_gev"] for r in records])
    y, error = np.array([r[key] for r in records]), np.array([r[f"{key}_error"] for r in records])
    axis.errorbar(x, y, yerr=error, xerr=np.abs(bounds.T - x), linestyle="none", elinewidth=1.0, **look)


def _draw_ratio(axis: Axes, records: Sequence[Record], base: Sequence[Record], key: str, look: dict[str, Any]) -> None:
    """Errors of the ratio as if the two were independent: the jets are the same, so these are upper limits."""
    bounds = np.array([[r["energy_low_gev"], r["energy_high_gev"]] for r in records]).reshape(-1, 2)
    x = np.array([r["mean_energy_gev"] for r in records])
    y, y0 = np.array([r[key] for r in records]), np.array([r[key] for r in base])
    e, e0 = np.array([r[f"{key}_error"] for r in records]), np.array([r[f"{key}_error"] for r in base])
    positive = (y > 0) & (y0 > 0)
    bounds, x, y, y0, e, e0 = bounds[positive], x[positive], y[positive], y0[positive], e[positive], e0[positive]
    axis.axhline(1, color="0.45", linewidth=0.8, zorder=1)
    axis.errorbar(
        x, y / y0, yerr=y / y0 * np.hypot(e / y, e0 / y0), xerr=np.abs(bounds.T - x), linestyle="none", elinewidth=1.0, **look
    )


def _draw_core(axis: Axes, counts: np.ndarray, edges: np.ndarray, record: Record, look: tuple[float, str]) -> None:
    if record["core_status"] != "ok":
        return
    window, colour = look
    mean, sigma = record["scale_core"], record["core_resolution"] * record["scale_core"]
    centres = (edges[1:] + edges[:-1]) / 2
    shape = np.exp(-(((centres - mean) / sigma) ** 2) / 2)
    inside = np.abs(centres - mean) < window * sigma
    if shape[inside].sum() == 0:
        return
    x = np.linspace(mean - window * sigma, mean + window * sigma, 100)
    height = counts[inside].sum() / shape[inside].sum()
    axis.plot(x, height * np.exp(-(((x - mean) / sigma) ** 2) / 2), color=colour, linewidth=2.2, alpha=0.75)


def _distribution_edges(by_method: dict[str, list[Record]], chosen: Sequence[int]) -> np.ndarray:
    records = [records[index] for records in by_method.values() for index in chosen]
    low = min(r["scale_median"] * (1 - 3.5 * r["resolution"]) for r in records)
    high = max(r["scale_median"] * (1 + 4 * r["resolution"]) for r in records)
    return np.linspace(max(low, 0.0), min(high, 3.0), 81)


def _set_x_axis(axis: Axes, drawn: Sequence[Record], curves: Curves) -> None:
    if curves.zoom:
        axis.set_xlim(0, ZOOM_MAX_GEV)
        return
    low, high = min(r["energy_low_gev"] for r in drawn), max(r["energy_high_gev"] for r in drawn)
    set_energy_axis(axis, max(low, 1.0), high)


def _set_y_range(axes: Sequence[Axes], values: tuple[np.ndarray, np.ndarray], curves: Curves) -> None:
    y, error = values
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


def _values(by_method: dict[str, list[Record]], key: str) -> tuple[np.ndarray, np.ndarray]:
    drawn = [record for records in by_method.values() for record in records if record["drawn"]]
    return np.array([r[key] for r in drawn]), np.array([r[f"{key}_error"] for r in drawn])


def _subtitle(metrics: dict[str, Any], config: ResponseConfig, group: str = "energy_response") -> str:
    num_jets, cut = metrics["num_jets"], rf"$p_\mathrm{{T,true}}$ > {config.pt_true_min_gev:g} GeV"
    if group == "mass_response":
        num_jets -= metrics["num_jets_below_true_mass"]
        cut += rf", $M_\mathrm{{true}}$ > {config.mass_true_min_gev:g} GeV"
    return f"{num_jets:,} jets, ".replace(",", " ", f"{num_jets:,}".count(",")) + cut
