"""How does the table look by which methods are compared, on the page and as Markdown?

A row is a method on a process; a method that was trained with several seeds has a second row, with mean and standard deviation
over them. A number comes with its statistical error, and a missing one is a dash.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from distjet.evaluation.axes import Record
from distjet.evaluation.headline import RANGES_GEV
from distjet.evaluation.tables import DASH, markdown_table, number, percent, text_table, thousands

if TYPE_CHECKING:
    from rich.table import Table

SUBSCRIPT_PV = "N_PV"

COLUMNS: dict[str, tuple[str, str]] = {
    "max_abs_bias_pt_30_60": ("worst |closure|, 30\N{EN DASH}60 GeV", "percent"),
    "mean_abs_bias_pt_30_60": ("mean |closure|, 30\N{EN DASH}60 GeV", "percent"),
    "max_abs_bias_pt_above_60": ("worst |closure|, > 60 GeV", "percent"),
    "mean_abs_bias_pt_above_60": ("mean |closure|, > 60 GeV", "percent"),
    "mean_resolution": ("mean resolution", "percent"),
    "mean_abs_mass_bias": ("mean |mass closure|", "percent"),
    "mean_mass_resolution": ("mean mass resolution", "percent"),
    "slope_npv_gev": (f"slope in {SUBSCRIPT_PV} [GeV]", "number"),
    "slope_mu_gev": ("slope in \N{GREEK SMALL LETTER MU} [GeV]", "number"),
}
"What stands in each column, and how it is written."

BINS = "{} + {}"
"Bins in both ranges of true pT."

NOTE = (
    "Closure is |Gaussian core of E_reco / E_true \N{MINUS SIGN} 1| in bins of true pT and |\N{GREEK SMALL LETTER ETA}|, the "
    "same bins for all methods; resolution and mass are means over the bins above 30 GeV. A slope is that of the worst bin of "
    "|\N{GREEK SMALL LETTER ETA}|, with its sign. Bins are counted below and above 60 GeV. Errors are statistical; in "
    "rows of several seeds, they are the standard deviation over them."
)


def headline_header(metrics: Mapping[str, Any]) -> list[str]:
    """Return the head of the table."""
    process = ["process"] if metrics.get("process") else []
    return ["method", *process, *(title for title, _ in COLUMNS.values()), "bins", "parameters", "training"]


def headline_rows(metrics: Mapping[str, Any]) -> list[list[str]]:
    """Return one row per process and method, and one more for its seeds.

    Args:
        metrics: What an evaluation writes to metrics.json.
    """
    labelled = bool(metrics.get("process"))
    rows = []
    for label, found in processes_of(metrics):
        for method in found["methods"]:
            for name, cells in _rows_of(found, method, metrics.get("training", {}).get(method, {})):
                rows.append([name, *([label] if labelled else []), *cells])
    return rows


def processes_of(metrics: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Go through the processes of an evaluation, the first first."""
    yield metrics.get("process", ""), metrics
    yield from metrics.get("processes", {}).items()


def markdown(metrics: Mapping[str, Any]) -> str:
    """Return the table in Markdown, with the note that explains it."""
    return f"{markdown_table(headline_header(metrics), headline_rows(metrics))}\n\n{NOTE}\n"


def text_summary(metrics: dict[str, Any]) -> "Table":
    """The result for the terminal: bin by bin for one method, the first numbers of each for several."""
    if len(metrics["methods"]) <= 2 and not metrics.get("processes"):
        return text_table(metrics)
    from rich.table import Table

    table = Table(title="Energy response: mean |closure| and resolution; all numbers are in table.md")
    for title in ("", "30\N{EN DASH}60 GeV", "> 60 GeV", "resolution"):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    names = ("mean_abs_bias_pt_30_60", "mean_abs_bias_pt_above_60", "mean_resolution")
    for label, found in processes_of(metrics):
        for method in found["methods"]:
            numbers = found["headline"][method]
            table.add_row(f"{method} {label}".strip(), *(percent(numbers[name], numbers[f"{name}_error"]) for name in names))
    return table


def duration(seconds: float | None) -> str:
    """Write a time in the unit that suits it."""
    if seconds is None:
        return DASH
    for limit, unit, length in ((120, "s", 1), (7200, "min", 60), (float("inf"), "h", 3600)):
        if seconds < limit:
            return f"{seconds / length:.{1 if length > 1 else 0}f} {unit}"
    raise AssertionError("every time is below infinity")


def _rows_of(found: Mapping[str, Any], method: str, facts: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    count = facts.get("num_parameters")
    numbers = found["headline"][method]
    known = [
        BINS.format(*(numbers.get(f"num_bins_{name}", 0) for name in RANGES_GEV)),
        DASH if count is None else thousands(int(count)),
        duration(facts.get("train_seconds")),
    ]
    yield method, [*_cells(numbers, {name: numbers[f"{name}_error"] for name in COLUMNS}), *known]
    if seeds := found.get("seeds", {}).get(method):
        yield f"{method}, {len(seeds['members'])} seeds", [*_cells(seeds["mean"], seeds["deviation"]), *known[:2], DASH]


def _cells(values: Record, errors: Record) -> list[str]:
    write = {"percent": percent, "number": number}
    return [write[kind](values[name], errors[name]) for name, (_, kind) in COLUMNS.items()]
