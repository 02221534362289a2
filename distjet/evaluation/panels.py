"""How does a grid of small panels look: style, header, legend, axes, and files that are the same bytes every time?

Figures are built without pyplot, so that importing this room neither chooses a backend nor leaves a figure in a global list.
Legend and label stand in a strip above the panels, where they cannot cover a point; it grows with the number of methods. The
files carry no date and no version.
"""

import functools
import io
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#882255", "#999933", "#332288")
MARKERS = ("o", "s", "D", "v", "P", "X", "<", "*")
REFERENCE_STYLE = {"color": "#444444", "marker": "o", "markerfacecolor": "white"}
SCALED_STYLE = {"color": "#e69f00", "marker": "^"}

PANEL_INCH = (3.7, 2.75)
RATIO_INCH = 1.15
MARGIN_INCH = {"left": 0.85, "right": 0.16, "bottom": 0.62, "header": 0.95, "between_x": 0.34, "between_y": 0.58}
MAX_COLUMNS = 3
LEGEND_ROW_INCH = 0.21
CHARACTER_INCH = 0.085
"Width of a letter in a legend, on average; a row of it is filled as far as it surely fits."
MARKER_INCH = 0.55

OVERRIDES = {
    "font.size": 10,
    "axes.labelsize": 11,
    "axes.titlesize": 10,
    "axes.titley": 1.0,  # else the title looks for its place among the ticks, at a fifth of the time of a figure
    "axes.labelpad": 4,
    "axes.autolimit_mode": "data",
    "axes.formatter.limits": (-4, 6),
    "axes.formatter.use_mathtext": False,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "ytick.major.size": 5,
    "ytick.minor.size": 3,
    "ytick.minor.visible": False,  # a third of the time of a figure
    "legend.fontsize": 10,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "svg.hashsalt": "distjet",
}


@dataclass(frozen=True)
class Plot:
    """A finished figure: its file name, its bytes in two formats, and what the reader has to know."""

    name: str
    title: str
    caption: str
    png: bytes
    pdf: bytes


@dataclass(frozen=True)
class Grid:
    """A figure with one main axis per panel and, if asked, a ratio axis below each."""

    figure: Figure
    axes: list[Axes]
    ratios: list[Axes]
    columns: int
    "Panels side by side."
    legend_columns: int = 0
    "Columns of a legend in a strip of its own; 0: it stands beside the subtitle."


@contextmanager
def style() -> Iterator[None]:
    """Use the style of the experiments inside the `with`, and leave the caller's settings alone."""
    settings: Any = {**_experiment_style(), **OVERRIDES}
    with rc_context(settings):
        yield


def make_grid(
    titles: Sequence[str],
    *,
    ratio: bool = False,
    labels: Sequence[str] = (),
    columns: int = MAX_COLUMNS,
    panel_inch: tuple[float, float] = PANEL_INCH,
    left_inch: float = MARGIN_INCH["left"],
) -> Grid:
    """Lay out panels in rows, with sizes in inches so that text never shrinks.

    Args:
        titles: One title per panel.
        ratio: Whether each panel has a ratio axis below.
        labels: What the legend will hold, if it is to have a strip of its own; it needs one if it is long.
        columns: Most panels of a row.
        panel_inch: Width and height of a panel.
        left_inch: Room for the labels at the left.
    """
    columns = min(columns, len(titles))
    rows = math.ceil(len(titles) / columns)
    cell_height = panel_inch[1] + (RATIO_INCH if ratio else 0)
    m = MARGIN_INCH
    width = max(left_inch + columns * panel_inch[0] + (columns - 1) * m["between_x"] + m["right"], 7.0)
    legend_columns = _legend_columns(labels, width - m["left"] - m["right"])
    strip = LEGEND_ROW_INCH * math.ceil(len(labels) / legend_columns) + 0.05 if labels else 0.0
    height = m["bottom"] + rows * cell_height + (rows - 1) * m["between_y"] + m["header"] + strip
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    main, below = [], []
    for index, title in enumerate(titles):
        row, column = divmod(index, columns)
        left = left_inch + column * (panel_inch[0] + m["between_x"])
        bottom = m["bottom"] + (rows - 1 - row) * (cell_height + m["between_y"])
        offset = RATIO_INCH + 0.07 if ratio else 0
        box = (left / width, (bottom + offset) / height, panel_inch[0] / width, (cell_height - offset) / height)
        axis = figure.add_axes(box)
        axis.set_title(title, loc="left", pad=4)
        main.append(axis)
        if ratio:
            below.append(
                figure.add_axes((left / width, bottom / height, panel_inch[0] / width, RATIO_INCH / height), sharex=axis)
            )
    return Grid(figure, main, below, columns, legend_columns)


def _legend_columns(labels: Sequence[str], width_inch: float) -> int:
    """Say how many entries fit side by side; 0 for none."""
    if not labels:
        return 0
    longest = MARKER_INCH + CHARACTER_INCH * max(len(label.replace(r"$\times$", "x")) for label in labels)
    return max(1, min(len(labels), int(width_inch / longest)))


def share_axes(grid: Grid, x_label: str, y_label: str, ratio_label: str = "") -> None:
    """Label the outer axes only: x below the last panel of each column, y at the left of each row."""
    for index, axis in enumerate(grid.axes):
        lowest = index + grid.columns >= len(grid.axes)
        bottom_axis = grid.ratios[index] if grid.ratios else axis
        if grid.ratios:
            axis.tick_params(labelbottom=False)
        bottom_axis.tick_params(labelbottom=True)
        if lowest:
            bottom_axis.set_xlabel(x_label, loc="right")
        if index % grid.columns == 0:
            axis.set_ylabel(y_label, loc="top" if not grid.ratios else "center")
            if grid.ratios:
                grid.ratios[index].set_ylabel(ratio_label, loc="center")
        else:
            axis.tick_params(labelleft=False)
            if grid.ratios:
                grid.ratios[index].tick_params(labelleft=False)


def add_header(grid: Grid, subtitle: str) -> None:
    """Write the label, the subtitle and one legend for all panels above them."""
    figure = grid.figure
    width, height = figure.get_size_inches()
    left = MARGIN_INCH["left"] / width
    figure.text(left, 1 - 0.16 / height, "distjet", weight="bold", style="italic", size=14, va="top")
    figure.text(left + 0.72 / width, 1 - 0.16 / height, "simulation", size=14, va="top")
    figure.text(left, 1 - 0.44 / height, subtitle, size=9.5, va="top")
    found: dict[str, Any] = {}
    for axis in grid.axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    beside = grid.legend_columns == 0
    right = 1 - MARGIN_INCH["right"] / width
    figure.legend(
        found.values(),
        found.keys(),
        loc="upper right" if beside else "upper left",
        bbox_to_anchor=(right, 1 - 0.06 / height) if beside else (left - 0.1 / width, 1 - 0.66 / height),
        ncols=grid.legend_columns or (2 if len(found) > 2 else 1),
        borderpad=0.2,
        borderaxespad=0.0,
        columnspacing=1.2,
        handletextpad=0.5,
    )


def set_log_axis(axis: Axes, low: float, high: float, *, vertical: bool = False) -> None:
    """Draw a logarithmic axis with plain numbers at 1, 2, 5; x unless `vertical`."""
    scale, limit, one = (
        (axis.set_yscale, axis.set_ylim, axis.yaxis) if vertical else (axis.set_xscale, axis.set_xlim, axis.xaxis)
    )
    scale("log")
    limit(low, high)
    one.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    one.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    one.set_minor_locator(LogLocator(subs=tuple(range(1, 10))))
    one.set_minor_formatter(NullFormatter())


def finish(grid: Grid, name: str, title: str, caption: str) -> Plot:
    """Render a figure to PNG and PDF bytes that depend on its content alone."""
    png, pdf = io.BytesIO(), io.BytesIO()
    grid.figure.savefig(png, format="png", dpi=120, metadata={"Software": None})
    grid.figure.savefig(pdf, format="pdf", metadata={"Creator": None, "Producer": None, "CreationDate": None})
    return Plot(name, title, caption, png.getvalue(), pdf.getvalue())


def method_styles(methods: Sequence[str], reference: str, scaled: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Give each method its colour and marker, the same in all figures."""
    styles: dict[str, dict[str, Any]] = {}
    others = [name for name in methods if name != reference and name not in scaled]
    for name in methods:
        if name == reference:
            styles[name] = REFERENCE_STYLE
        elif name in scaled:
            styles[name] = SCALED_STYLE
        else:
            turn, index = divmod(others.index(name), len(COLOURS))
            styles[name] = {"color": COLOURS[index], "marker": MARKERS[(index + turn) % len(MARKERS)]}
    return styles


@functools.cache
def _experiment_style() -> dict[str, Any]:
    import mplhep

    return dict(mplhep.style.ATLAS)
