"""Which figures show what a response should not depend on: pileup, the making of the jet, the process, the seed of a training?

Beside them stands the one that shows whether predicted distributions are true.

A profile is drawn with the fitted slope's own jets: those of the |eta| bin in bins of true pT with enough jets, each bin about
its mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from distjet.evaluation.axes import Record
from distjet.evaluation.config import ResponseConfig
from distjet.evaluation.curves import (
    ETA,
    MAX_PANELS,
    X_LABELS,
    dodge,
    draw_guides,
    panel_text,
    spaced,
    spread,
    styles_of,
    subtitle,
)
from distjet.evaluation.headline_table import processes_of
from distjet.evaluation.panels import (
    COLOURS,
    MARKERS,
    Plot,
    add_header,
    finish,
    make_grid,
    set_log_axis,
    share_axes,
)
from distjet.evaluation.pileup import PREDICTORS
from distjet.evaluation.response import headline_bins
from distjet.evaluation.seeds import seed_text
from distjet.evaluation.slopes import eta_limits

PILEUP_BAND_GEV = 0.05
COVERAGE_BAND = 0.02
PREDICTOR_TEXT = {"npv": r"$N_\mathrm{PV}$", "mu": r"$\mu$"}
PREDICTOR_WORDS = {
    "npv": "the number of reconstructed vertices",
    "mu": "the mean number of interactions per crossing",
}


@dataclass(frozen=True)
class Profiles:
    """What a figure of profiles shows."""

    name: str
    title: str
    x_label: str
    y_label: str
    caption: str
    unit: float = 1.0
    "Factor on y."


def plot_slopes(metrics: dict[str, Any], config: ResponseConfig) -> Plot | None:
    """Slopes of the pT in N_PV and in mu against |eta|; None if there are none."""
    found = metrics.get("pileup", {})
    by_eta = {name: {method: summary[f"by_eta_{name}"] for method, summary in found.items()} for name in PREDICTORS}
    if not any(records for methods in by_eta.values() for records in methods.values()):
        return None
    grid = make_grid([f"in {PREDICTOR_TEXT[name]}" for name in PREDICTORS], labels=list(found) if len(found) > 2 else ())
    styles = styles_of(metrics, list(found))
    for axis, (name, methods) in zip(grid.axes, by_eta.items(), strict=True):
        axis.axhspan(-PILEUP_BAND_GEV, PILEUP_BAND_GEV, color="#cfcfcf", linewidth=0, zorder=0)
        axis.axhline(0, color="0.45", linewidth=0.8, zorder=1)
        for place, (method, records) in enumerate(methods.items()):
            low, high = (np.array([record[f"abs_eta_{end}"] for record in records]) for end in ("low", "high"))
            y, error = (np.array([record[f"slope_{name}_gev{end}"] for record in records]) for end in ("", "_error"))
            shift = dodge(place, len(methods))
            x, bars = (low + high) / 2 + (high - low) * (shift or 0.0), (high - low) / 2 if shift is None else None
            axis.errorbar(x, y, error, bars, linestyle="none", elinewidth=1.0, label=method, **styles[method])
        axis.set_xlim(config.abs_eta_edges[0], config.abs_eta_edges[-1])
    _same_y_range(grid.axes)
    share_axes(grid, X_LABELS["abs_eta"], r"Slope of $p_\mathrm{T}$ [GeV]")
    add_header(grid, subtitle(metrics, config))
    edges = config.pileup.pt_edges_gev
    caption = (
        "Change of the reconstructed pT per reconstructed vertex, and per mean interaction, from one fit of both at fixed "
        f"true pT, combined over the bins of true pT between {edges[0]:g} and {edges[-1]:g} GeV, against |{ETA}|. Band: "
        f"\N{PLUS-MINUS SIGN}{PILEUP_BAND_GEV:g} GeV. Error bars are statistical."
    )
    return finish(grid, "pileup_slopes", "Slopes of the pT in pileup", caption)


def plot_pileup(metrics: dict[str, Any], config: ResponseConfig) -> list[Plot | None]:
    """The slopes, and the profiles behind them."""
    if "pileup" not in metrics:
        return []
    plots = [plot_slopes(metrics, config)]
    for name, other in (PREDICTORS, PREDICTORS[::-1]):
        profiles = {method: summary[f"profile_{name}"] for method, summary in metrics["pileup"].items()}
        caption = (
            f"Mean of reconstructed less true pT against {PREDICTOR_WORDS[name]}, less its mean in each bin of true pT, at a "
            f"fixed value of {PREDICTOR_WORDS[other]} (whose fitted slope is taken out). Flat for a calibration that has "
            "removed pileup."
        )
        text, label = PREDICTOR_TEXT[name], r"Shift of mean $p_\mathrm{T}$ [GeV]"
        plots.append(
            _plot_profiles(metrics, profiles, Profiles(f"pileup_{name}", f"pT against {name}", text, label, caption), config)
        )
    return plots


def plot_properties(metrics: dict[str, Any], config: ResponseConfig) -> list[Plot | None]:
    """The response against each property of the jet."""
    plots = []
    for name, found in metrics.get("properties", {}).items():
        words = name.replace("_", " ")
        caption = (
            f"Mean energy response, relative to that of its bin of true pT and |{ETA}|, against the {words} of the jet in "
            "standard deviations about its mean in the same bin. A slope means that jets with many and with few of it have "
            "different scales."
        )
        profiles = {method: summary["profiles"] for method, summary in found.items()}
        label = f"{words.capitalize()} [standard deviations]"
        look = Profiles(f"dependence_{name}", f"Response against {words}", label, "Relative response [%]", caption, 100.0)
        plots.append(_plot_profiles(metrics, profiles, look, config))
    return plots


def plot_density(metrics: dict[str, Any], config: ResponseConfig) -> list[Plot | None]:
    """Histogram of the PIT and coverage of the methods that predict distributions; nothing if there are none."""
    found = {m: some for m, some in metrics.get("density", {}).items() if some["num_jets"] >= config.min_entries_drawn}
    return [_plot_pit(metrics, found), _plot_coverage(metrics, found)] if found else []


def _plot_pit(metrics: dict[str, Any], found: dict[str, Any]) -> Plot:
    grid = make_grid(["Probability integral transform"], labels=list(found))
    axis, styles = grid.axes[0], styles_of(metrics, list(found))
    axis.axhline(1, color="0.45", linewidth=0.8)
    for method, density in found.items():
        colour = styles[method]["color"]
        edges, heights = np.array(density["pit_edges"]), np.array(density["pit_density"])
        axis.stairs(heights, edges, label=method, color=colour)
        axis.errorbar((edges[1:] + edges[:-1]) / 2, heights, density["pit_density_error"], linestyle="none", color=colour)
    axis.set(xlim=(0, 1), ylim=(0, max(1.5, 1.1 * axis.get_ylim()[1])))
    share_axes(grid, "Predicted probability below the response", "Jets / uniform")
    add_header(grid, _all_jets(metrics))
    caption = (
        "Where the true response of a jet lies in its predicted distribution: flat at 1 if the predictions are true, high at "
        "both ends if they are too narrow, in the middle if they are too wide. Error bars are statistical."
    )
    return finish(grid, "density_pit", "Probability integral transform", caption)


def _plot_coverage(metrics: dict[str, Any], found: dict[str, Any]) -> Plot:
    grid = make_grid(["Coverage of central intervals"], labels=list(found))
    axis, styles = grid.axes[0], styles_of(metrics, list(found))
    axis.axhspan(-100 * COVERAGE_BAND, 100 * COVERAGE_BAND, color="#cfcfcf", linewidth=0, zorder=0)
    axis.axhline(0, color="0.45", linewidth=0.8)
    for method, density in found.items():
        level, share, error = (np.array([r[key] for r in density["coverage"]]) for key in ("level", "covered", "covered_error"))
        axis.errorbar(100 * level, 100 * (share - level), 100 * error, linewidth=0.8, label=method, **styles[method])
    span = max(2.5 * 100 * COVERAGE_BAND, 1.1 * max(abs(limit) for limit in axis.get_ylim()))
    axis.set(xlim=(0, 100), ylim=(-span, span))
    share_axes(grid, "Predicted probability of the interval [%]", "Found less predicted [%]")
    add_header(grid, _all_jets(metrics))
    caption = (
        "Share of jets in the central interval of a given probability, less that probability; below 0, the predicted "
        f"distributions are too narrow. Band: \N{PLUS-MINUS SIGN}{100 * COVERAGE_BAND:g} %. Error bars are statistical."
    )
    return finish(grid, "density_coverage", "Coverage of predicted intervals", caption)


def _all_jets(metrics: dict[str, Any]) -> str:
    process = f"{metrics['process']}, " if metrics.get("process") else ""
    return f"{process}all {spaced(metrics['num_jets_total'])} jets"


def plot_seeds(metrics: dict[str, Any], config: ResponseConfig) -> list[Plot | None]:
    """The energy scale of each seed of a method against the true pT."""
    return [_plot_seeds_of(metrics, method, found["members"], config) for method, found in metrics.get("seeds", {}).items()]


def plot_scale_of_processes(metrics: dict[str, Any], config: ResponseConfig) -> Plot | None:
    """The energy scale of each method, one panel a method, one curve a process, in the |eta| bin with most jets."""
    found = {label: some["energy_response_pt"] for label, some in processes_of(metrics) if "energy_response_pt" in some}
    methods = metrics["methods"][1:][:MAX_PANELS]
    first: dict[str, Any] = next(iter(found.values()), {})
    used = headline_bins(first[metrics["methods"][0]]["bins"]) if first else []
    if not used or not methods:
        return None
    eta = eta_limits(max(used, key=lambda record: record["num_jets"]))
    grid = make_grid(methods, labels=list(found))
    for axis, method in zip(grid.axes, methods, strict=True):
        draw_guides(axis, 1.0)
        for number, (label, group) in enumerate(found.items()):
            records = [r for r in headline_bins(group[method]["bins"]) if eta_limits(r) == eta]
            x, y, error = (np.array([r[key] for r in records]) for key in ("mean_pt_gev", "scale_core", "scale_core_error"))
            axis.errorbar(x, y, error, label=label, linewidth=0.8, color=COLOURS[number], marker=MARKERS[number])
        set_log_axis(axis, min(r["pt_low_gev"] for r in used), max(r["pt_high_gev"] for r in used))
    _same_y_range(grid.axes)
    share_axes(grid, X_LABELS["true_pt"], r"Core of $E_\mathrm{reco}\,/\,E_\mathrm{true}$")
    add_header(grid, panel_text("abs_eta", eta["abs_eta_low"], eta["abs_eta_high"]))
    text = panel_text("abs_eta", eta["abs_eta_low"], eta["abs_eta_high"], plain=True)
    caption = (
        f"Energy scale of each method on each process, for {text}: what a calibration that has learnt the mixture of jets of "
        "one process gets wrong on another. Error bars are statistical."
    )
    return finish(grid, "processes", "Energy scale of processes", caption)


def _plot_seeds_of(metrics: dict[str, Any], method: str, members: Sequence[Record], config: ResponseConfig) -> Plot | None:
    used = headline_bins(members[0]["bins"])
    limits = sorted({(record["abs_eta_low"], record["abs_eta_high"]) for record in used})
    if not limits:
        return None
    labels = [f"{method}, {seed_text(row, number)}" for number, row in enumerate(members, start=1)]
    grid = make_grid([panel_text("abs_eta", *some) for some in limits], labels=labels)
    for axis, some in zip(grid.axes, limits, strict=True):
        draw_guides(axis, 1.0)
        for number, row in enumerate(members):
            records = [r for r in headline_bins(row["bins"]) if r["abs_eta_low"] == some[0]]
            x, y, error = (np.array([r[key] for r in records]) for key in ("mean_pt_gev", "scale_core", "scale_core_error"))
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            axis.errorbar(x, y, error, label=labels[number], linewidth=0.8, color=colour, marker=marker)
        set_log_axis(axis, min(r["pt_low_gev"] for r in used), max(r["pt_high_gev"] for r in used))
    _same_y_range(grid.axes)
    share_axes(grid, X_LABELS["true_pt"], r"Core of $E_\mathrm{reco}\,/\,E_\mathrm{true}$")
    add_header(grid, subtitle(metrics, config))
    caption = (
        f"Energy scale of trainings of {method} that differ in their seeds alone, on the same jets: the spread of the points "
        "of a bin is not statistical. Error bars are."
    )
    return finish(grid, f"seeds_{method}", f"Seeds of {method}", caption)


def _plot_profiles(
    metrics: dict[str, Any], by_method: dict[str, list[Record]], look: Profiles, config: ResponseConfig
) -> Plot | None:
    """One panel per |eta| bin, one profile per method; None if there are none."""
    limits = sorted({(some["abs_eta_low"], some["abs_eta_high"]) for profiles in by_method.values() for some in profiles})
    if not limits:
        return None
    limits = [limits[i] for i in spread(len(limits), MAX_PANELS)]
    grid = make_grid([panel_text("abs_eta", *some) for some in limits], labels=list(by_method) if len(by_method) > 2 else ())
    styles = styles_of(metrics, list(by_method))
    for axis, some in zip(grid.axes, limits, strict=True):
        axis.axhline(0, color="0.45", linewidth=0.8, zorder=1)
        for method, profiles in by_method.items():
            for found in (p for p in profiles if p["abs_eta_low"] == some[0]):
                _draw_profile(axis, found["points"], look.unit, {**styles[method], "label": method})
    _same_y_range(grid.axes)
    _same_x_range(grid.axes)
    share_axes(grid, look.x_label, look.y_label)
    add_header(grid, subtitle(metrics, config))
    return finish(grid, look.name, look.title, f"{look.caption} Error bars are statistical.")


def _draw_profile(axis: Axes, points: Sequence[Record], unit: float, look: dict[str, Any]) -> None:
    x, y, error = (np.array([point[key] for point in points]) for key in ("x", "y", "y_error"))
    axis.errorbar(x, unit * y, unit * error, linewidth=0.8, **look)


def _same_y_range(axes: Sequence[Axes]) -> None:
    _same_range(axes, Axes.get_ylim, Axes.set_ylim, 0.06)


def _same_x_range(axes: Sequence[Axes]) -> None:
    _same_range(axes, Axes.get_xlim, Axes.set_xlim, 0.03)


def _same_range(axes: Sequence[Axes], get: Callable[..., Any], put: Callable[..., Any], margin: float) -> None:
    low, high = min(get(axis)[0] for axis in axes), max(get(axis)[1] for axis in axes)
    pad = margin * (high - low)
    for axis in axes:
        put(axis, low - pad, high + pad)
