"""Which figures show whether a calibration works?

The scale and the resolution in bins of true quantities (a scale that is right on average and wrong in every bin is useless) and
of reconstructed ones, the distributions behind them, the mass, and what the response should not depend on: pileup, flavour, the
making of the jet, the seed. All figures but the distributions are drawn from the metrics, so what is seen is what metrics.json
says. Bins with too few jets are not drawn; the caption names them.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from distjet.evaluation.axes import Record, energy_bins
from distjet.evaluation.config import ResponseConfig
from distjet.evaluation.curves import (
    Curves,
    bin_text,
    plot_curves,
    spread,
    styles_of,
    subtitle,
)
from distjet.evaluation.dependence_plots import (
    plot_density,
    plot_pileup,
    plot_properties,
    plot_scale_of_processes,
    plot_seeds,
)
from distjet.evaluation.panels import Plot, add_header, finish, make_grid, share_axes, style
from distjet.evaluation.predictions import Predictions
from distjet.evaluation.resolution import resolution_curve, terms_of
from distjet.evaluation.response import observable_values, select_jets

MAX_DISTRIBUTIONS = 6

ENERGY = r"$E_\mathrm{reco}\,/\,E_\mathrm{true}$"
FIT_SENTENCE = (
    "Lines: N / pT \N{CIRCLED PLUS} S / \N{SQUARE ROOT}pT \N{CIRCLED PLUS} C; their terms stand in the table of this section."
)
MASS = r"$M_\mathrm{reco}\,/\,M_\mathrm{true}$"
CORE_SENTENCE = (
    "The scale is the Gaussian core (mode) of the distribution in each bin: a truncated Gaussian in a window of "
    "\N{PLUS-MINUS SIGN}{k:g} \N{GREEK SMALL LETTER SIGMA}."
)
MEDIAN_SENTENCE = "The median, which a tail moves away from the core: a calibration can be right in one and not in the other."
RESOLUTION_SENTENCE = (
    "The resolution is half the central 68 % interval divided by the median, so that a low scale does not look sharp."
)
RECO_SENTENCE = (
    "In bins of what is reconstructed, jets that come in from lower and higher energies do not balance where the spectrum "
    "changes, so that a calibration that is right in bins of the truth is not at 1 here. All jets of the table, without a cut"
    " on the truth."
)
BEYOND_LABEL = "Mass resolution / scaled reference"
BEYOND_SENTENCE = (
    "Resolution of the mass of a method over that of the reference mass multiplied by the energy correction of the method: "
    "below 1, it knows more of the mass than the energy."
)
FLAVOUR_SENTENCE = "Core of light-quark jets less core of gluon jets (label of the hardest parton in the jet)."


def make_plots(predictions: Predictions, metrics: dict[str, Any], config: ResponseConfig) -> list[Plot]:
    """Draw all figures.

    Args:
        predictions: All jets of the table.
        metrics: What `summarise` made of them.
        config: The same configuration.

    Returns:
        The figures, in the order of the report; those for which no bin has enough jets are left out.
    """
    core = CORE_SENTENCE.format(k=config.estimator.core_window_sigmas)
    with style():
        plots = [
            *_curves(metrics, energy_curves(core), config),
            plot_distributions(predictions, metrics, config),
            plot_resolution_fit(metrics, config),
            *_curves(metrics, reconstructed_curves(core), config),
            *_curves(metrics, mass_curves(core), config),
            *_curves(metrics, rapidity_curves(), config),
            *plot_pileup(metrics, config),
            *_curves(metrics, flavour_curves(), config),
            *plot_properties(metrics, config),
            *plot_density(metrics, config),
            *plot_seeds(metrics, config),
        ]
    return [plot for plot in plots if plot is not None]


def plot_processes(metrics: dict[str, Any], config: ResponseConfig) -> list[Plot]:
    """The energy scale of each method on all processes; nothing if there is one only."""
    if not metrics["processes"]:
        return []
    with style():
        plot = plot_scale_of_processes(metrics, config)
    return [] if plot is None else [plot]


def energy_curves(core: str) -> list[Curves]:
    """Figures of the energy response in bins of true quantities."""
    scale = Curves("energy_response", "scale_core", "energy_scale", "Energy scale", f"Core of {ENERGY}", core, 1.0)
    by_pt = replace(scale, group="energy_response_pt", x="true_pt")
    return [
        scale,
        replace(scale, name="energy_scale_zoom", title="Energy scale below 500 GeV", zoom=True, low_energies=True),
        replace(by_pt, name="energy_scale_pt", title="Energy scale (close up)", zoom=True),
        replace(
            by_pt,
            key="scale_median",
            name="energy_median_pt",
            title="Median of the energy response (close up)",
            y_label=f"Median of {ENERGY}",
            sentence=MEDIAN_SENTENCE,
            zoom=True,
        ),
        replace(
            scale,
            group="energy_response_eta",
            name="energy_scale_eta",
            title="Energy scale",
            x="eta",
            panel="true_energy",
        ),
        _resolution(scale, "energy", ENERGY),
    ]


def _resolution(scale: Curves, observable: str, response: str) -> Curves:
    """Return the figure of the resolution that belongs to one of the scale."""
    return replace(
        scale,
        key="resolution",
        name=f"{observable}_resolution",
        title=f"{observable.capitalize()} resolution",
        y_label=f"Resolution of {response}",
        sentence=RESOLUTION_SENTENCE,
        centre=None,
        ratio=True,
    )


def reconstructed_curves(core: str) -> list[Curves]:
    """Figures of the energy response in bins of what a method says."""
    scale = Curves("", "scale_core", "", "Energy scale", f"Core of {ENERGY}", f"{core} {RECO_SENTENCE}", 1.0)
    return [
        replace(scale, group=f"energy_response_{name}", name=f"energy_scale_{name}", x=name)
        for name in ("reco_energy", "reco_pt")
    ]


def mass_curves(core: str) -> list[Curves]:
    """Figures of the mass response."""
    scale = Curves("mass_response", "scale_core", "mass_scale", "Mass scale", f"Core of {MASS}", core, 1.0)
    resolution = _resolution(scale, "mass", MASS)
    shape: dict[str, Any] = {"group": "mass_response_shape", "x": "true_pt", "panel": "mass_over_pt"}
    beyond = replace(
        scale,
        group="mass_beyond_energy",
        key="resolution_ratio",
        name="mass_beyond_energy",
        title="Mass resolution over that of energy scaling",
        y_label=BEYOND_LABEL,
        sentence=BEYOND_SENTENCE,
        x="true_pt",
    )
    return [
        scale,
        resolution,
        replace(scale, name="mass_scale_shape", **shape),
        replace(resolution, name="mass_resolution_shape", **shape),
        beyond,
    ]


def rapidity_curves() -> list[Curves]:
    """Figures of the rapidity residual."""
    residual = r"$y_\mathrm{reco} - y_\mathrm{true}$"
    median = Curves(
        "rapidity_residual",
        "median",
        "rapidity_median",
        "Rapidity residual",
        f"Median of {residual}",
        "The median of the residual: zero if directions are unbiased.",
        0.0,
    )
    width = "The width is half the central 68 % interval of the residual."
    return [
        median,
        replace(
            median,
            key="width",
            name="rapidity_width",
            title="Rapidity resolution",
            y_label=f"Width of {residual}",
            sentence=width,
            centre=None,
            ratio=True,
        ),
    ]


def flavour_curves() -> list[Curves]:
    """The figure of the difference between quark and gluon jets."""
    label = "Core of quark less gluon jets"
    title = "Quark jets less gluon jets: energy scale"
    return [Curves("flavour", "difference_core", "flavour", title, label, FLAVOUR_SENTENCE, 0.0, x="true_pt")]


def plot_resolution_fit(metrics: dict[str, Any], config: ResponseConfig) -> Plot | None:
    """The resolution against true pT with the fit of noise, sampling and constant term."""
    if "resolution_fit" not in metrics:
        return None
    curves = Curves(
        "energy_response_pt",
        "resolution",
        "resolution_fit",
        "Energy resolution",
        f"Resolution of {ENERGY}",
        f"{RESOLUTION_SENTENCE} {FIT_SENTENCE}",
        x="true_pt",
    )
    styles = styles_of(metrics, metrics["methods"])

    def draw(axis: Axes, limits: tuple[float, float]) -> None:
        for method, fits in metrics["resolution_fit"].items():
            for fit in (f for f in fits if f["abs_eta_low"] == limits[0] and f["status"] == "ok"):
                pt = np.geomspace(fit["pt_low_gev"], fit["pt_high_gev"], 100)
                axis.plot(pt, resolution_curve(pt, **terms_of(fit)), color=styles[method]["color"], linewidth=1.0)

    return plot_curves(metrics, curves, config, draw)


def plot_distributions(predictions: Predictions, metrics: dict[str, Any], config: ResponseConfig) -> Plot | None:
    """Response distributions in up to six bins with the Gaussian core on top."""
    by_method = {name: summary["bins"] for name, summary in metrics.get("energy_response", {}).items()}
    reference = metrics["methods"][0]
    candidates = [i for i, record in enumerate(by_method.get(reference, [])) if record["enough_entries"]]
    if not candidates:
        return None
    candidates.sort(key=lambda i: (by_method[reference][i]["energy_low_gev"], by_method[reference][i]["abs_eta_low"]))
    chosen = [candidates[i] for i in spread(len(candidates), MAX_DISTRIBUTIONS)]
    jets = select_jets(predictions, config)
    rows = energy_bins(jets, config).rows(jets, reference)
    names = list(by_method)
    grid = make_grid([bin_text(by_method[reference][i]) for i in chosen], labels=names if len(names) > 2 else ())
    styles = styles_of(metrics, names)
    edges = _distribution_edges(by_method, chosen)
    for axis, index in zip(grid.axes, chosen, strict=True):
        for name, records in by_method.items():
            values = observable_values(jets, name, "energy")[rows[index]]
            weights = jets.columns["weight"][rows[index]] if config.use_weights else None
            counts = np.histogram(values, edges, weights=weights)[0] / (len(values) if weights is None else weights.sum())
            axis.stairs(counts, edges, color=styles[name]["color"], label=name)
            _draw_core(axis, counts, edges, records[index], (config.estimator.core_window_sigmas, styles[name]["color"]))
        axis.axvline(1, color="0.6", linewidth=0.8, zorder=0)
        axis.set_xlim(edges[0], edges[-1])
    top = max(axis.get_ylim()[1] for axis in grid.axes)
    for axis in grid.axes:
        axis.set_ylim(0, top)
    share_axes(grid, ENERGY, f"Fraction of jets / {edges[1] - edges[0]:.3g}")
    add_header(grid, subtitle(metrics, config))
    caption = (
        f"Distributions of the energy response in {len(chosen)} bins spread over the energies. The smooth curve is the "
        f"Gaussian core, drawn over the window of \N{PLUS-MINUS SIGN}{config.estimator.core_window_sigmas:g} "
        "\N{GREEK SMALL LETTER SIGMA} in which it is estimated; a curve that misses the top of its histogram would be a "
        "wrong scale."
    )
    return finish(grid, "energy_distributions", "Response distributions", caption)


def _curves(metrics: dict[str, Any], curves: Sequence[Curves], config: ResponseConfig) -> list[Plot | None]:
    return [plot_curves(metrics, some, config) for some in curves if some.group in metrics]


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
