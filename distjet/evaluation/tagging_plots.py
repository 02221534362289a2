"""Which figures compare taggers?

How much background passes for how much signal, where in pT and mass, what that does to the mass, what it costs to prevent, and
what changes when the jets do. All figures are drawn from the metrics, so what is seen is what metrics.json says. What too few
jets stand behind is not drawn; the caption says so.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from distjet.evaluation.axes import Record
from distjet.evaluation.curves import dodge, spread
from distjet.evaluation.matrix_plots import plot_confusion, plot_ddt, plot_pairs, subtitle
from distjet.evaluation.panels import (
    CHARACTER_INCH,
    MARGIN_INCH,
    PANEL_INCH,
    Plot,
    add_header,
    finish,
    make_grid,
    method_styles,
    set_log_axis,
    share_axes,
)
from distjet.evaluation.tagging_config import TaggingConfig
from distjet.evaluation.tagging_mass import AT_BACKGROUND, AT_SIGNAL
from distjet.evaluation.tagging_rows import AFTER_DDT, background_point, working_point
from distjet.evaluation.tagging_summary import WIDE

Metrics = Mapping[str, Any]

MAX_PANELS = 6
MAX_DISCRIMINANTS = 12
LINES = ("-", "--", ":")
ROC_INCH = (5.6, 3.6)
LONGEST_NAME = 8
"A longer name does not fit beside a panel of ratios."
SIGNAL_EFFICIENCY = r"Signal efficiency $\varepsilon_\mathrm{S}$"
REJECTION = r"Background rejection $1\,/\,\varepsilon_\mathrm{B}$"
SIDES = {"signal": SIGNAL_EFFICIENCY, "background": r"Background efficiency $\varepsilon_\mathrm{B}$"}
CUTS = {AT_SIGNAL: r"$\varepsilon_\mathrm{S}$ = ", AT_BACKGROUND: r"$\varepsilon_\mathrm{B}$ = "}
QUANTITIES = {"pt": (r"Jet $p_\mathrm{T}$ [GeV]", "pT"), "mass": ("Jet mass [GeV]", "mass")}


def make_tagging_plots(metrics: Metrics, config: TaggingConfig) -> list[Plot]:
    """All figures of one process; those without anything to show are left out."""
    plots = [
        plot_roc(metrics, config),
        plot_scores(metrics),
        *(plot_efficiency(metrics, quantity, side, config) for quantity in QUANTITIES for side in SIDES),
        plot_sculpting(metrics, config),
        plot_front(metrics, config),
        *plot_ddt(metrics),
        plot_confusion(metrics),
        plot_pairs(metrics),
        plot_shifts(metrics, config),
        plot_resilience(metrics, config),
        plot_ensembles(metrics),
    ]
    return [plot for plot in plots if plot]


def plot_roc(metrics: Metrics, config: TaggingConfig) -> Plot | None:
    """Rejection against signal efficiency of all methods, and its ratio to the first; None if too few jets pass everywhere."""
    found = {name: some["curves"] for name, some in metrics["discriminants"].items()}
    found = {name: curves for name, curves in found.items() if any(len(_rejection(c, config)[0]) for c in curves.values())}
    names = list(found)[:MAX_DISCRIMINANTS]
    if not names:
        return None
    grid = make_grid(names, ratio=True, labels=metrics["methods"], panel_inch=ROC_INCH if len(names) == 1 else PANEL_INCH)
    looks = _lines(metrics)
    for axis, below, name in zip(grid.axes, grid.ratios, names, strict=True):
        curves = found[name]
        first = _rejection(curves[metrics["methods"][0]], config)
        for method, curve in curves.items():
            x, y, error = _rejection(curve, config)
            axis.plot(x, y, label=method, **looks[method])
            axis.fill_between(x, y - error, y + error, color=looks[method]["color"], alpha=0.2, linewidth=0)
            common, here, there = np.intersect1d(x, first[0], return_indices=True)
            ratio, relative = y[here] / first[1][there], error[here] / y[here]
            below.plot(common, ratio, **looks[method])
            below.fill_between(
                common, ratio * (1 - relative), ratio * (1 + relative), color=looks[method]["color"], alpha=0.2, linewidth=0
            )
        axis.set_yscale("log")
        axis.set(xlim=(0, 1), ylim=(1, max(10.0, 1.5 * axis.get_ylim()[1])))
        _limit_ratio(below)
    _same_log_range(grid.axes)
    _same_range(grid.ratios, Axes.get_ylim, Axes.set_ylim)
    first_name = metrics["methods"][0]
    share_axes(grid, SIGNAL_EFFICIENCY, REJECTION, f"Ratio to {first_name if len(first_name) <= LONGEST_NAME else 'first'}")
    add_header(grid, subtitle(metrics))
    caption = (
        "Background rejection against signal efficiency. Bands: statistical error of the background jets that pass; those of "
        "the ratio ignore that all methods see the same jets, so they are too wide. Curves end where fewer than "
        f"{config.min_passed} background jets pass.{_left_out(metrics['discriminants'], MAX_DISCRIMINANTS, 'discriminants')}"
    )
    return finish(grid, "roc", "Rejection against signal efficiency", caption)


def plot_scores(metrics: Metrics) -> Plot:
    """Distributions of the log-odds of signal and background, one panel a method."""
    methods = [metrics["methods"][i] for i in spread(len(metrics["methods"]), MAX_PANELS)]
    grid = make_grid(methods)
    found = metrics["discriminants"][metrics["main"]]
    for axis, method in zip(grid.axes, methods, strict=True):
        curve = found["curves"][method]
        for side, colour in (("background", "#0072b2"), ("signal", "#d55e00")):
            label = " + ".join(found[side])
            axis.stairs(curve[f"log_odds_{side}"], curve["log_odds_edges"], color=colour, label=label, fill=True, alpha=0.25)
            axis.stairs(curve[f"log_odds_{side}"], curve["log_odds_edges"], color=colour)
        axis.set_yscale("log")
        axis.set_xlim(curve["log_odds_edges"][0], curve["log_odds_edges"][-1])
    _same_log_range(grid.axes)
    width = found["curves"][methods[0]]["log_odds_edges"]
    share_axes(grid, r"Log-odds $\ln(p_\mathrm{S}\,/\,p_\mathrm{B})$", f"Fraction of jets / {width[1] - width[0]:g}")
    add_header(grid, subtitle(metrics))
    caption = (
        f"Log-odds of {metrics['main']}: 0 where both are as probable. Jets outside of the axis are in the outermost bins."
        f"{_left_out(metrics['methods'], MAX_PANELS, 'methods')}"
    )
    return finish(grid, "scores", "Distributions of the discriminant", caption)


def plot_efficiency(metrics: Metrics, quantity: str, side: str, config: TaggingConfig) -> Plot | None:
    """Efficiency of signal or background at the working points against pT or mass."""
    found = metrics[f"efficiency_{quantity}"]
    points = [f"{100 * efficiency:g}" for efficiency in config.working_points]
    first = next(iter(found.values()))
    panels = [name for name in points if any(record["drawn"] for record in first[name][side])]
    if not panels:
        return None
    grid = make_grid([rf"$\varepsilon_\mathrm{{S}}$ = {name} % of all jets" for name in panels], labels=metrics["methods"])
    styles = _styles(metrics)
    ends = first[panels[0]][side][0]["low"], first[panels[0]][side][-1]["high"]
    logarithmic = quantity == "pt" and 0 < WIDE * ends[0] < ends[1]
    for axis, name in zip(grid.axes, panels, strict=True):
        for place, (method, by_point) in enumerate(found.items()):
            records = [record for record in by_point[name][side] if record["drawn"]]
            look = {**styles[method], "label": method}
            _draw_efficiencies(axis, records, dodge(place, len(found)), look, logarithmic=logarithmic)
        if logarithmic:
            set_log_axis(axis, *ends)
        else:
            axis.set_xlim(*ends)
        if side == "background":
            axis.set_yscale("log")
    if side == "signal":
        for axis in grid.axes:
            axis.set_ylim(0, 1.05)
    else:
        _same_log_range(grid.axes)
    share_axes(grid, QUANTITIES[quantity][0], SIDES[side])
    add_header(grid, subtitle(metrics))
    caption = (
        f"{side.capitalize()} efficiency against the {QUANTITIES[quantity][1]} of the jet, at cuts that let a fixed share of "
        f"all signal jets pass. Error bars: Wilson's interval. {_undrawn(first[panels[0]][side], config)}"
    )
    return finish(
        grid, f"efficiency_{quantity}_{side}", f"{side.capitalize()} efficiency against {QUANTITIES[quantity][1]}", caption
    )


def plot_sculpting(metrics: Metrics, config: TaggingConfig) -> Plot | None:
    """The mass of the background before and after a cut."""
    cuts = [cut for cut in CUTS if any(some[cut] for some in metrics["sculpting"].values())]
    if not cuts:
        return None
    points = {AT_SIGNAL: working_point(metrics), AT_BACKGROUND: background_point(metrics)}
    labels = ["all background jets", *metrics["methods"]]
    grid = make_grid([f"{CUTS[cut]}{points[cut]} %" for cut in cuts], ratio=True, labels=labels)
    edges, looks = np.array(metrics["mass_edges_gev"]), _lines(metrics)
    for axis, below, cut in zip(grid.axes, grid.ratios, cuts, strict=True):
        for number, method in enumerate(method for method in metrics["methods"] if metrics["sculpting"][method][cut]):
            some = metrics["sculpting"][method][cut]
            everything, passed = np.array(some["everything"]), np.array(some["passed"])
            if number == 0:
                axis.stairs(everything, edges, fill=True, color="#d0d0d0", label=labels[0])
            axis.stairs(passed, edges, label=method, **looks[method])
            ratio = np.divide(passed, everything, out=np.full_like(passed, np.nan), where=everything > 0)
            below.stairs(ratio, edges, baseline=None, **looks[method])
        below.axhline(1, color="0.45", linewidth=0.8, zorder=1)
        axis.set_xlim(edges[0], edges[-1])
        _limit_ratio(below)
    _same_top(grid.axes)
    _same_range(grid.ratios, Axes.get_ylim, Axes.set_ylim)
    share_axes(grid, QUANTITIES["mass"][0], f"Fraction of jets / {edges[1] - edges[0]:g} GeV", "Ratio to all")
    add_header(grid, subtitle(metrics))
    caption = (
        "Mass of background jets that pass a cut, against that of all (grey), each with unit area. A method that is not drawn "
        f"has fewer than {config.min_entries} jets that pass. {metrics['num_outside_mass']} background jets are outside of the "
        "axis."
    )
    return finish(grid, "sculpting", "Mass of the background before and after a cut", caption)


def plot_front(metrics: Metrics, config: TaggingConfig) -> Plot | None:
    """Rejection against 1 / divergence: the front of decorrelation."""
    name = working_point(metrics)
    points = {
        method: (numbers, numbers, metrics["sculpting"][method][AT_SIGNAL]) for method, numbers in metrics["headline"].items()
    }
    after = {AFTER_DDT.format(m): some["decorrelated"] for m, some in metrics["ddt"].items()}
    points |= {label: (some, some, some["sculpting"][AT_SIGNAL]) for label, some in after.items()}
    points = {
        label: some for label, some in points.items() if some[0][f"rejection_{name}"] and some[2] and some[2]["divergence"]
    }
    if not points:
        return None
    grid = make_grid([f"at {CUTS[AT_SIGNAL]}{name} %"], labels=list(points), panel_inch=ROC_INCH)
    styles = _styles(metrics)
    axis = grid.axes[0]
    for label, (numbers, _, mass) in points.items():
        look = dict(styles[label.removesuffix(AFTER_DDT.format(""))])
        look |= {"markerfacecolor": "white"} if label in after else {}
        x, x_error = 1 / mass["divergence"], mass["divergence_error"] / mass["divergence"] ** 2
        y, y_error = numbers[f"rejection_{name}"], numbers[f"rejection_{name}_error"]
        axis.errorbar(x, y, min(y_error, 0.9 * y), min(x_error, 0.9 * x), linestyle="none", label=label, markersize=7, **look)
        axis.plot([x, 1 / mass["of_chance"]], [y, y], color=look["color"], linewidth=0.6, linestyle=":")
        axis.plot(1 / mass["of_chance"], y, marker="|", color=look["color"], markersize=9)
    _round_log_limits(axis)
    share_axes(grid, r"1 / JSD of the background mass [bit$^{-1}$]", REJECTION)
    add_header(grid, subtitle(metrics))
    caption = (
        "Rejection against 1 / divergence of the mass of the background that passes: up is a better tagger, right is one that "
        "sculpts the mass less. A dotted line leads to where as many random jets would be, which no method can tell itself "
        "from; open markers: after DDT, judged on half of the background."
    )
    return finish(grid, "front", "Rejection against mass decorrelation", caption)


def plot_shifts(metrics: Metrics, config: TaggingConfig) -> Plot | None:
    """Relative changes of efficiencies under variations."""
    found = metrics["variations"]
    if not found:
        return None
    methods, names = metrics["methods"], list(found)
    height = max(1.6, 0.34 * len(methods) * max(1.0, 0.5 * len(names)))
    titles = [f"of {SIDES['signal'].split()[-1]}", r"of $1\,/\,\varepsilon_\mathrm{B}$"]
    left = max(MARGIN_INCH["left"], 0.25 + CHARACTER_INCH * max(map(len, methods)))
    grid = make_grid(titles, labels=names, panel_inch=(3.7, height), left_inch=left)
    styles = method_styles(names, "")
    for axis, key in zip(grid.axes, ("signal_change", "rejection_change"), strict=True):
        axis.axvline(0, color="0.45", linewidth=0.8, zorder=1)
        for place, name in enumerate(names):
            records = [_at_working_point(found[name]["methods"][method], config) for method in methods]
            known = [index for index, record in enumerate(records) if record[key] is not None]
            shift = 0.7 * ((place + 0.5) / len(names) - 0.5)
            axis.errorbar(
                [100 * records[i][key] for i in known],
                [i + shift for i in known],
                xerr=[100 * records[i][f"{key}_error"] for i in known],
                linestyle="none",
                label=name,
                **styles[name],
            )
        low, high = axis.get_xlim()
        axis.set_xlim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        axis.set(ylim=(len(methods) - 0.5, -0.5), yticks=range(len(methods)))
        axis.set_yticklabels(methods)
        axis.tick_params(axis="y", length=0, labelleft=axis is grid.axes[0])
        axis.set_xlabel("Relative change [%]", loc="right")
    add_header(grid, f"{subtitle(metrics)}, {CUTS[AT_SIGNAL]}{working_point(metrics)} %")
    caption = (
        "Relative change of the signal efficiency and of the background rejection on varied jets, at the cut of the nominal "
        "ones. Error bars are statistical; where the varied jets are the same ones, those that pass both cancel."
    )
    return finish(grid, "shifts", "Efficiencies on varied jets", caption)


def plot_resilience(metrics: Metrics, config: TaggingConfig) -> Plot | None:
    """Resilience against performance, one panel a variation."""
    found = {
        name: {m: r for m, records in some["methods"].items() if (r := _at_working_point(records, config))["resilience"]}
        for name, some in metrics["variations"].items()
    }
    found = {name: some for name, some in found.items() if some}
    if not found:
        return None
    names = list(found)[:MAX_PANELS]
    grid = make_grid(names, labels=metrics["methods"])
    styles = _styles(metrics)
    for axis, name in zip(grid.axes, names, strict=True):
        for method, record in found[name].items():
            x, y = record["performance"], record["resilience"]
            errors = min(record["resilience_error"], 0.9 * y), record["performance_error"]
            axis.errorbar(x, y, *errors, linestyle="none", label=method, markersize=6, **styles[method])
        axis.set_yscale("log")
        axis.set_xscale("log")
    for get, put in ((Axes.get_xlim, Axes.set_xlim), (Axes.get_ylim, Axes.set_ylim)):
        _same_range(grid.axes, get, put)
    for axis in grid.axes:
        _round_log_limits(axis)
    share_axes(grid, r"Performance $\varepsilon_\mathrm{S}\,/\,\varepsilon_\mathrm{B}^{1/2}$", r"Resilience $\zeta$")
    add_header(grid, f"{subtitle(metrics)}, {CUTS[AT_SIGNAL]}{working_point(metrics)} %")
    caption = (
        "Resilience to a variation against performance: up is a tagger that changes less, right is a better one. A resilience "
        "whose change is within its error is a lower limit."
    )
    return finish(grid, "resilience", "Resilience against performance", caption)


def plot_ensembles(metrics: Metrics) -> Plot | None:
    """Share of wrong jets against the spread of an ensemble."""
    found = metrics["ensembles"]
    if not found:
        return None
    grid = make_grid(["Ensembles"], labels=list(found), panel_inch=ROC_INCH)
    styles = _styles(metrics)
    for method, some in found.items():
        x = [point["mean_spread"] for point in some["points"]]
        y, low, high = (np.array([p[f"efficiency{end}"] for p in some["points"]]) for end in ("", "_low", "_high"))
        grid.axes[0].errorbar(
            x, 100 * y, 100 * np.array([y - low, high - y]).clip(0), label=method, linewidth=0.8, **styles[method]
        )
    axis = grid.axes[0]
    axis.set(xlim=(0, 1.05 * axis.get_xlim()[1]), ylim=(0, 1.05 * axis.get_ylim()[1]))
    share_axes(grid, "Spread of the probability of the most probable class", "Wrong jets [%]")
    add_header(grid, subtitle(metrics))
    caption = (
        "Share of jets whose most probable class is not their own, in bins of the spread of the members of an ensemble with "
        "equally many jets each. It rises if the ensemble knows where it errs."
    )
    return finish(grid, "ensemble", "Wrong jets against the spread of an ensemble", caption)


def _styles(metrics: Metrics) -> dict[str, dict[str, Any]]:
    return method_styles(metrics["methods"], "")


def _lines(metrics: Metrics) -> dict[str, dict[str, Any]]:
    """Colour and kind of the line of each method: more methods than colours differ in the kind."""
    styles = _styles(metrics)
    colours = [styles[method]["color"] for method in metrics["methods"]]
    return {
        method: {"color": colour, "linestyle": LINES[colours[:index].count(colour) % len(LINES)]}
        for index, (method, colour) in enumerate(zip(metrics["methods"], colours, strict=True))
    }


def _rejection(curve: Record, config: TaggingConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points of a curve where enough jets pass: signal efficiency, rejection, its error."""
    x, y, passed = (np.array(curve[key]) for key in ("signal_efficiency", "background_efficiency", "num_passed"))
    keep = (passed >= config.min_passed) & (y > 0)
    return x[keep], 1 / y[keep], 1 / y[keep] / np.sqrt(curve["num_effective"] * y[keep])


def _draw_efficiencies(
    axis: Axes, records: Sequence[Record], shift: float | None, look: dict[str, Any], *, logarithmic: bool
) -> None:
    low, high = (np.array([record[key] for record in records]) for key in ("low", "high"))
    y, below, above = (np.array([record[f"efficiency{end}"] for record in records]) for end in ("", "_low", "_high"))
    if logarithmic:
        x = np.sqrt(low * high) * (high / low) ** (shift or 0.0)
    else:
        x = (low + high) / 2 + (shift or 0.0) * (high - low)
    bars = None if shift is not None else np.array([x - low, high - x])
    axis.errorbar(x, y, np.array([y - below, above - y]).clip(0), bars, linestyle="none", elinewidth=1.0, **look)


def _at_working_point(records: Sequence[Record], config: TaggingConfig) -> Record:
    return next(record for record in records if record["signal_efficiency"] == config.working_points[0])


def _undrawn(records: Sequence[Record], config: TaggingConfig) -> str:
    some = [f"{r['low']:g}\N{EN DASH}{r['high']:g} GeV ({r['num_jets']})" for r in records if not r["drawn"]]
    return f"Not drawn, fewer than {config.min_entries} jets: {', '.join(some)}." if some else ""


def _left_out(names: Any, shown: int, what: str) -> str:
    return f" {shown} of {len(names)} {what} are shown." if len(names) > shown else ""


def _limit_ratio(axis: Axes) -> None:
    """Show ratios around one, without letting a few jets at the end set the range."""
    values = np.concatenate([np.asarray(line.get_ydata(), float) for line in axis.lines] or [np.ones(1)])
    for patch in axis.patches:
        values = np.append(values, patch.get_data().values) if hasattr(patch, "get_data") else values
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, [0.02, 0.98]) if len(values) else (1.0, 1.0)
    pad = 0.15 * max(high - low, 0.2)
    axis.set_ylim(max(0.0, min(low, 1) - pad), max(high, 1) + pad)


def _same_log_range(axes: Sequence[Axes]) -> None:
    _same_range(axes, Axes.get_ylim, Axes.set_ylim)


def _same_top(axes: Sequence[Axes]) -> None:
    top = 1.05 * max(axis.get_ylim()[1] for axis in axes)
    for axis in axes:
        axis.set_ylim(0, top)


def _same_range(axes: Sequence[Axes], get: Callable[..., Any], put: Callable[..., Any]) -> None:
    low, high = min(get(axis)[0] for axis in axes), max(get(axis)[1] for axis in axes)
    for axis in axes:
        put(axis, low, high)


def _round_log_limits(axis: Axes) -> None:
    """Show room about the points, and at least a factor of ten."""
    for vertical, (low, high) in ((False, axis.get_xlim()), (True, axis.get_ylim())):
        middle, reach = np.sqrt(low * high), max(1.3 * np.sqrt(high / low), np.sqrt(10))
        set_log_axis(axis, middle / reach, middle * reach, vertical=vertical)
