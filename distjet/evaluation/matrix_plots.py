"""Which figures of a tagger are maps: of classes against classes, and of mass against pT?

Numbers stand in the cells as long as they can be read; colours tell the rest.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes

from distjet.evaluation.axes import Record
from distjet.evaluation.curves import spaced, spread
from distjet.evaluation.panels import CHARACTER_INCH, MARGIN_INCH, Plot, add_header, finish, make_grid, set_log_axis, share_axes
from distjet.evaluation.tagging_summary import WIDE

Metrics = Mapping[str, Any]

MAX_MATRICES = 6
MAX_MAPS = 3
CELL_INCH = 0.52
"Side of a cell in which a number can be read."
SMALLEST_INCH = 2.2
FLAT_RANGE = (0.5, 1.5)
"Range of the colours of an efficiency over the wanted one."
RHO = r"$\rho = \ln(m^2 / p_\mathrm{T}^2)$"


def plot_confusion(metrics: Metrics) -> Plot | None:
    """Shares of the most probable classes among the jets of each class, one panel a method."""
    matrices = {
        method: [row or [None] * len(metrics["classes"]) for row in found["shares"]]
        for method, found in metrics["confusion"].items()
    }
    caption = (
        "Share of the jets of a true class (row) whose most probable class is that of the column; a row adds up to one. Their "
        f"numbers stand in metrics.json.{_left_out(metrics['methods'], MAX_MATRICES)}"
    )
    labels = ("Most probable class", "True class")
    return _plot_matrices(metrics, matrices, ("confusion", "Confusion of classes", caption), labels, (0.0, 1.0))


def plot_pairs(metrics: Metrics) -> Plot | None:
    """Area under the curve of every pair of classes, one panel a method; None for two classes."""
    if "one_versus_one" not in metrics:
        return None
    matrices = {method: found["areas"] for method, found in metrics["one_versus_one"].items()}
    lowest = min((value for rows in matrices.values() for row in rows for value in row if value is not None), default=0.5)
    caption = (
        "Area under the curve of each class (row) against each other class (column), by the ratio of their two scores: the "
        f"same on both sides of the diagonal.{_left_out(metrics['methods'], MAX_MATRICES)}"
    )
    labels = ("Background class", "Signal class")
    return _plot_matrices(metrics, matrices, ("pairs", "Area under the curve of pairs", caption), labels, (lowest, 1.0))


def plot_ddt(metrics: Metrics) -> list[Plot]:
    """The map of DDT, and the efficiency in cells before and after, one row a method."""
    methods = list(metrics["ddt"])
    shown = [methods[i] for i in spread(len(methods), MAX_MAPS)]
    if not shown:
        return []
    titles = [f"{method}: {what}" for method in shown for what in ("before", "after", "the map")]
    grid = make_grid(titles, panel_inch=(3.3, 2.6))
    for row, method in enumerate(shown):
        found = metrics["ddt"][method]
        for axis, name in zip(grid.axes[3 * row :], ("flatness_before", "flatness"), strict=False):
            _draw_cells(axis, found[name]["cells"])
        _draw_map(grid.axes[3 * row + 2], found["map"])
        limits = found["map"]["rho"], np.exp(found["map"]["log_pt"])
        for axis in grid.axes[3 * row : 3 * row + 3]:
            if limits[1][-1] > WIDE * limits[1][0]:
                set_log_axis(axis, limits[1][0], limits[1][-1], vertical=True)
            axis.set(xlim=(limits[0][0], limits[0][-1]), ylim=(limits[1][0], limits[1][-1]))
    share_axes(grid, RHO, r"Jet $p_\mathrm{T}$ [GeV]")
    wanted = metrics["ddt"][shown[0]]["wanted"]
    add_header(grid, f"{subtitle(metrics)}, " + rf"$\varepsilon_\mathrm{{B}}$ = {100 * wanted:g} %")
    caption = (
        f"Left and middle: efficiency of the background in cells with equally many jets, over the wanted {100 * wanted:g} %, "
        "for one cut on the score and after the map was taken from it; jets that the map was not made of. Right: the map, the "
        f"log-odds that {100 * wanted:g} % of the background exceed.{_left_out(methods, MAX_MAPS)}"
    )
    return [finish(grid, "ddt_flatness", "Flatness of the background efficiency", caption)]


def subtitle(metrics: Metrics) -> str:
    """Say which jets a figure of the first discriminant shows."""
    process = f"{metrics['process']}, " if metrics.get("process") else ""
    some = metrics["discriminants"][metrics["main"]]
    return f"{process}{metrics['main']}, {spaced(some['num_signal'])} signal, {spaced(some['num_background'])} background jets"


def _plot_matrices(
    metrics: Metrics,
    matrices: Mapping[str, Sequence[Sequence[float | None]]],
    texts: tuple[str, str, str],
    labels: tuple[str, str],
    colours: tuple[float, float],
) -> Plot:
    methods = [list(matrices)[i] for i in spread(len(matrices), MAX_MATRICES)]
    classes = metrics["classes"]
    side = max(SMALLEST_INCH, CELL_INCH * len(classes))
    longest = CHARACTER_INCH * max(map(len, classes))
    columns = max(1, min(3, int(12 / side)))
    grid = make_grid(methods, panel_inch=(side, side + longest), columns=columns, left_inch=MARGIN_INCH["left"] + longest)
    for axis, method in zip(grid.axes, methods, strict=True):
        _draw_matrix(axis, matrices[method], classes, colours)
    share_axes(grid, labels[0], labels[1])
    jets = f"{metrics['process']}, " if metrics.get("process") else ""
    add_header(grid, f"{jets}{spaced(metrics['num_jets'])} jets")
    return finish(grid, *texts)


def _draw_matrix(
    axis: Axes, rows: Sequence[Sequence[float | None]], classes: Sequence[str], colours: tuple[float, float]
) -> None:
    values = np.array([[np.nan if value is None else value for value in row] for row in rows], float)
    axis.imshow(values, cmap="Blues", vmin=colours[0], vmax=colours[1], aspect="equal", origin="upper")
    middle = (colours[0] + 1.5 * colours[1]) / 2.5
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            colour = "white" if value > middle else "black"
            axis.text(column, row, f"{value:.3f}", ha="center", va="center", size=8, color=colour)
    axis.set(xticks=range(len(classes)), yticks=range(len(classes)))
    axis.set_xticklabels(classes, rotation=90)
    axis.set_yticklabels(classes)
    axis.tick_params(length=0, which="both")


def _draw_cells(axis: Axes, cells: Sequence[Record]) -> None:
    """Draw the efficiency over the wanted one; cells in rho are others in each bin of pT."""
    for low, high in sorted({(cell["pt_low_gev"], cell["pt_high_gev"]) for cell in cells}):
        row = [cell for cell in cells if cell["pt_low_gev"] == low]
        edges = [row[0]["rho_low"], *(cell["rho_high"] for cell in row)]
        ratios = np.array([[cell["ratio"] for cell in row]])
        drawn = axis.pcolormesh(edges, [low, high], ratios, cmap="RdBu_r", vmin=FLAT_RANGE[0], vmax=FLAT_RANGE[1])
    _add_scale(axis, drawn, extend="both")


def _draw_map(axis: Axes, found: Record) -> None:
    values = np.array(found["threshold"]).T
    drawn = axis.pcolormesh(found["rho"], np.exp(found["log_pt"]), values, cmap="viridis", shading="nearest")
    _add_scale(axis, drawn)


def _add_scale(axis: Axes, drawn: Any, extend: Literal["neither", "both"] = "neither") -> None:
    """Put the scale of the colours at the right, on a part of the panel."""
    box = axis.get_position()
    axis.set_position((box.x0, box.y0, 0.84 * box.width, box.height))
    place = axis.figure.add_axes((box.x0 + 0.86 * box.width, box.y0, 0.035 * box.width, box.height))
    axis.figure.colorbar(drawn, cax=place, extend=extend)
    place.tick_params(labelsize=8)


def _left_out(names: Sequence[str], shown: int) -> str:
    return f" {shown} of {len(names)} methods are shown." if len(names) > shown else ""
