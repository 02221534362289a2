"""Which figures show what each step of the chain does?

One figure per step, before and after it, drawn from the records of the closure alone, so what is seen is what metrics.json
says. Points are drawn where a bin holds enough jets; errors are statistical.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MultipleLocator

from distjet.calibration.closure import Record, stage_before
from distjet.evaluation.panels import (
    COLOURS,
    MARKERS,
    REFERENCE_STYLE,
    Plot,
    add_header,
    finish,
    make_grid,
    set_log_axis,
    share_axes,
    style,
)
from distjet.evaluation.tables import thousands

AFTER_STYLE: dict[str, Any] = {"color": COLOURS[0], "marker": MARKERS[0]}
END_STYLE: dict[str, Any] = {"color": COLOURS[1], "marker": MARKERS[1]}

PT_LABEL = r"True $p_\mathrm{T}$ [GeV]"
RESPONSE_LABEL = r"Core of $E\,/\,E_\mathrm{true}$"
MAX_PANELS = 6
ENLARGED = (0.955, 1.045)
BANDS = "Bands: \N{PLUS-MINUS SIGN}1 % and \N{PLUS-MINUS SIGN}2 %. "
SLOPE_LIMIT_GEV = 0.05

STAGE_TEXT = {
    "raw": "constituent scale",
    "area": "area subtraction",
    "residual": "residual pileup correction",
    "energy": "energy scale",
    "eta": "eta correction",
}


def stage_text(name: str) -> str:
    """Say what a stage is."""
    return STAGE_TEXT.get(name, f"sequential: {name}")


def make_figures(closure: Mapping[str, Any], num_jets: int) -> list[Plot]:
    """Draw all figures.

    Args:
        closure: What `measure_closure` returned.
        num_jets: Jets behind it.

    Returns:
        The figures in the order of the steps; those without any point are left out.
    """
    subtitle = f"validation split, {thousands(num_jets)} jets"
    with style():
        return [plot for plot in _figures(closure, subtitle) if plot is not None]


def _figures(closure: Mapping[str, Any], subtitle: str) -> Iterator[Plot | None]:
    stages = list(closure["response"])
    for name in stages[1:]:
        pair = (stage_before(name, closure["response"]), name)
        if name in ("area", "residual") and "pileup" in closure:
            yield slopes_figure(closure["pileup"], pair, subtitle)
        elif name == "eta":
            yield direction_figure(closure["eta"], pair, subtitle)
        elif name in closure.get("sequential", {}).get("variables", {}):
            yield variable_figure(closure["sequential"]["variables"][name], pair, subtitle)
        else:
            yield response_figure(closure["response"], pair, subtitle, f"closure_{name}")
    if "sequential" in closure:
        first = next(name for name in stages if name in closure["sequential"]["variables"])
        pair = (stage_before(first, closure["response"]), stages[-1])
        yield response_figure(closure["response"], pair, subtitle, "closure_sequential")
        yield resolution_figure(closure["response"], pair, subtitle)


def slopes_figure(pileup: Mapping[str, Record], pair: tuple[str, str], subtitle: str) -> Plot | None:
    """Slopes in N_PV and in mu against |eta_det|, one panel per bin of true pT."""
    bins = pileup[pair[1]]["bins"]
    pt_bins = sorted({(r["pt_true_low_gev"], r["pt_true_high_gev"]) for r in bins})
    if not pt_bins:
        return None
    panels = [(key, limits) for key in ("slope_npv_gev", "slope_mu_gev") for limits in pt_bins]
    symbols = {"slope_npv_gev": r"$N_\mathrm{PV}$", "slope_mu_gev": r"$\mu$"}
    grid = make_grid([f"in {symbols[key]}, {pt_text(*limits)}" for key, limits in panels])
    for axis, (key, limits) in zip(grid.axes, panels, strict=True):
        axis.axhspan(-SLOPE_LIMIT_GEV, SLOPE_LIMIT_GEV, color="#e8e8e8", linewidth=0, zorder=0)
        axis.axhline(0, color="0.45", linewidth=0.8, zorder=1)
        for name, look in zip(pair, (REFERENCE_STYLE, AFTER_STYLE), strict=True):
            chosen = [r for r in pileup[name]["bins"] if r["pt_true_low_gev"] == limits[0]]
            _points(axis, chosen, ("abs_eta_low", "abs_eta_high"), key, {**look, "label": _when(name, pair)})
        axis.set_xlim(0, max(r["abs_eta_high"] for r in bins))
    _share_range(grid.axes)
    share_axes(grid, r"$|\eta_\mathrm{det}|$", r"Slope of $p_\mathrm{T}$ [GeV]")
    add_header(grid, subtitle)
    caption = (
        f"Dependence of pT on the number of vertices and on mu before and after the step '{stage_text(pair[1])}', in GeV per "
        f"vertex and per interaction, from one fit in both. Band: \N{PLUS-MINUS SIGN}{SLOPE_LIMIT_GEV} GeV."
    )
    return finish(grid, f"closure_{pair[1]}", f"Step {pair[1]}: dependence on pileup", caption)


def response_figure(response: Mapping[str, Record], pair: tuple[str, str], subtitle: str, name: str) -> Plot | None:
    """Core of the response against true pT, one panel per bin of |eta_true|; below each, the end result enlarged."""
    slices = _eta_slices(response[pair[1]]["bins"])
    if not slices:
        return None
    grid = make_grid([eta_text(*limits) for limits in slices], ratio=True)
    for axis, enlarged, limits in zip(grid.axes, grid.ratios, slices, strict=True):
        _bands(axis)
        _bands(enlarged)
        _, after = _curves(axis, response, pair, limits, "core")
        _points(enlarged, after, ("pt_true_low_gev", "pt_true_high_gev"), "core", AFTER_STYLE)
        enlarged.set_ylim(*ENLARGED)
    _share_range(grid.axes)
    share_axes(grid, PT_LABEL, RESPONSE_LABEL, "After")
    add_header(grid, subtitle)
    what = "the sequential steps" if name == "closure_sequential" else f"the step '{stage_text(pair[1])}'"
    caption = f"Gaussian core of the energy response against true pT before and after {what}. {BANDS}"
    return finish(grid, name, f"{name.removeprefix('closure_').capitalize()}: energy scale", caption)


def resolution_figure(response: Mapping[str, Record], pair: tuple[str, str], subtitle: str) -> Plot | None:
    """Resolution against true pT before and after the sequential steps, with their ratio."""
    slices = _eta_slices(response[pair[1]]["bins"])
    if not slices:
        return None
    grid = make_grid([eta_text(*limits) for limits in slices], ratio=True)
    for axis, ratio, limits in zip(grid.axes, grid.ratios, slices, strict=True):
        before, after = _curves(axis, response, pair, limits, "resolution")
        ratio.axhline(1, color="0.45", linewidth=0.8, zorder=1)
        pairs = [(b, a) for b in before for a in after if a["pt_true_low_gev"] == b["pt_true_low_gev"]]
        x = [a["mean_pt_true_gev"] for _, a in pairs]
        ratio.plot(x, [a["resolution"] / b["resolution"] for b, a in pairs], linestyle="none", **AFTER_STYLE)
        axis.set_ylim(bottom=0)
    _share_range(grid.axes, bottom=0.0)
    _share_range(grid.ratios)
    share_axes(grid, PT_LABEL, r"Resolution of $E\,/\,E_\mathrm{true}$", "After / before")
    add_header(grid, subtitle)
    caption = (
        "Half of the central 68 % interval of the response over its median, before and after the sequential steps. The jets "
        "are the same, so the ratio is known better than the points."
    )
    return finish(grid, "resolution_sequential", "Sequential: resolution", caption)


def direction_figure(eta: Mapping[str, Record], pair: tuple[str, str], subtitle: str) -> Plot | None:
    """Residual of the pseudorapidity against |eta_det|, one panel per bin of true pT."""
    drawn = [r for r in eta[pair[1]]["bins"] if r["drawn"]]
    limits_of = sorted({(r["pt_true_low_gev"], r["pt_true_high_gev"]) for r in drawn})[:MAX_PANELS]
    if not limits_of:
        return None
    grid = make_grid([pt_text(*limits) for limits in limits_of])
    for axis, limits in zip(grid.axes, limits_of, strict=True):
        axis.axhline(0, color="0.45", linewidth=0.8, zorder=1)
        for name, look in zip(pair, (REFERENCE_STYLE, AFTER_STYLE), strict=True):
            chosen = [r for r in eta[name]["bins"] if r["drawn"] and r["pt_true_low_gev"] == limits[0]]
            _points(axis, chosen, ("abs_eta_low", "abs_eta_high"), "core", {**look, "label": _when(name, pair)})
        axis.set_xlim(0, max(r["abs_eta_high"] for r in drawn))
    _share_range(grid.axes)
    share_axes(grid, r"$|\eta_\mathrm{det}|$", r"Core of sign($\eta_\mathrm{det}$) ($\eta - \eta_\mathrm{true}$)")
    add_header(grid, subtitle)
    caption = "Bias of the direction before and after the step 'eta correction'; positive: reconstructed too far forward."
    return finish(grid, "closure_eta", "Step eta: direction", caption)


def variable_figure(variable: Record, pair: tuple[str, str], subtitle: str) -> Plot | None:
    """Response against a variable before and after its step, and at the end of the chain, one panel per bin of true pT."""
    limits_of = sorted({(r["pt_true_low_gev"], r["pt_true_high_gev"]) for r in variable["bins"]})
    if not limits_of:
        return None
    chosen = np.linspace(0, len(limits_of) - 1, min(len(limits_of), MAX_PANELS)).round().astype(int)
    panels = [limits_of[i] for i in chosen]
    grid = make_grid([pt_text(*limits) for limits in panels])
    looks = {"before": REFERENCE_STYLE, "after": AFTER_STYLE, "end": END_STYLE}
    labels = {"before": "before", "after": "after the step", "end": "end of the chain"}
    for axis, limits in zip(grid.axes, panels, strict=True):
        _bands(axis)
        records = [r for r in variable["bins"] if r["pt_true_low_gev"] == limits[0]]
        x = [r["mean_x"] for r in records]
        for when, look in looks.items():
            y, error = ([r[f"core_{when}{suffix}"] for r in records] for suffix in ("", "_error"))
            axis.errorbar(x, y, yerr=error, linestyle="none", elinewidth=1.0, label=labels[when], **look)
        axis.margins(x=0.06)
    _share_range(grid.axes)
    share_axes(grid, pair[1], RESPONSE_LABEL)
    add_header(grid, subtitle)
    caption = (
        f"Gaussian core of the energy response against {pair[1]} (|\N{GREEK SMALL LETTER ETA}| < {variable['max_abs_eta']:g}) "
        f"before and after its step, and at the end of the chain. {BANDS}"
    )
    return finish(grid, f"closure_{pair[1]}", f"Sequential step {pair[1]}", caption)


def eta_text(low: float, high: float) -> str:
    """Write a range of |eta|."""
    return rf"$|\eta|$ < {high:g}" if low == 0 else rf"{low:g} < $|\eta|$ < {high:g}"


def pt_text(low_gev: float, high_gev: float) -> str:
    """Write a range of true pT."""
    return rf"{low_gev:g} < $p_\mathrm{{T,true}}$ < {high_gev:g} GeV"


def _when(name: str, pair: tuple[str, str]) -> str:
    return "before" if name == pair[0] else "after"


def _eta_slices(bins: Sequence[Record]) -> list[tuple[float, float]]:
    return sorted({(r["abs_eta_low"], r["abs_eta_high"]) for r in bins if r["drawn"]})


def _curves(
    axis: Axes, response: Mapping[str, Record], pair: tuple[str, str], limits: tuple[float, float], key: str
) -> list[list[Record]]:
    """Draw before and after against true pT; return their records."""
    found = []
    for name, look in zip(pair, (REFERENCE_STYLE, AFTER_STYLE), strict=True):
        chosen = [r for r in response[name]["bins"] if r["drawn"] and r["abs_eta_low"] == limits[0]]
        _points(axis, chosen, ("pt_true_low_gev", "pt_true_high_gev"), key, {**look, "label": _when(name, pair)})
        found.append(chosen)
    drawn = [r for bins in found for r in bins]
    set_log_axis(axis, min(r["pt_true_low_gev"] for r in drawn), max(r["pt_true_high_gev"] for r in drawn))
    return found


def _points(axis: Axes, records: Sequence[Record], bounds: tuple[str, str], key: str, look: dict[str, Any]) -> None:
    edges = np.array([[r[bounds[0]], r[bounds[1]]] for r in records]).reshape(-1, 2)
    if bounds[0] == "abs_eta_low":
        axis.xaxis.set_major_locator(MultipleLocator(0.5))
    is_pt = bounds[0].startswith("pt")
    x = np.array([r["mean_pt_true_gev"] for r in records]) if is_pt else edges.mean(axis=1)
    y, error = ([r[f"{key}{suffix}"] for r in records] for suffix in ("", "_error"))
    axis.errorbar(x, y, yerr=error, xerr=np.abs(edges.T - x), linestyle="none", elinewidth=1.0, **look)


def _bands(axis: Axes) -> None:
    axis.axhspan(0.98, 1.02, color="#e8e8e8", linewidth=0, zorder=0)
    axis.axhspan(0.99, 1.01, color="#cfcfcf", linewidth=0, zorder=0)
    axis.axhline(1, color="0.45", linewidth=0.8, zorder=1)


def _share_range(axes: Sequence[Axes], bottom: float | None = None) -> None:
    limits = np.array([axis.get_ylim() for axis in axes])
    low, high = limits[:, 0].min() if bottom is None else bottom, limits[:, 1].max()
    pad = 0.04 * (high - low)
    for axis in axes:
        axis.set_ylim(low if bottom is not None else low - pad, high + pad)
