"""Which rows tell, in words and numbers, what the metrics say?

The same rows go into the report and onto the terminal. A number is printed with its statistical error; a missing one is a dash.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from distjet.evaluation.axes import Record
from distjet.evaluation.response import SCALED_SUFFIX, headline_bins

if TYPE_CHECKING:
    from rich.table import Table

DASH = "\N{EN DASH}"
ARROW = "\N{RIGHTWARDS ARROW}"
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"
ETA = "\N{GREEK SMALL LETTER ETA}"
NO_BIN = "No bin holds enough jets for a headline number: evaluate more jets or wider bins."
GROUP_NAMES = {"energy_response": "energy", "mass_response": "mass"}

RESPONSE_HEADER = (
    "",
    "worst |core \N{MINUS SIGN} 1|",
    "mean |core \N{MINUS SIGN} 1|",
    "worst |median \N{MINUS SIGN} 1|",
    "mean resolution",
    "bins within 1 %",
    "bins within 2 %",
)


def percent(value: float | None, error: float | None = None) -> str:
    """Write `1.23 +- 0.45 %`, or a dash if there is no number."""
    if value is None:
        return DASH
    return f"{100 * value:.2f} %" if error is None else f"{100 * value:.2f} {PLUS_MINUS} {100 * error:.2f} %"


def number(value: float | None, error: float | None = None, digits: int = 3) -> str:
    """Write `0.987 +- 0.004`, or a dash if there is no number."""
    if value is None:
        return DASH
    return f"{value:.{digits}f}" if error is None else f"{value:.{digits}f} {PLUS_MINUS} {error:.{digits}f}"


def thousands(count: int) -> str:
    """Write `1 234 567`."""
    return f"{count:,}".replace(",", "\N{NO-BREAK SPACE}")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown, the first column to the left."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


MAX_SENTENCES = 2
"More methods than this are not described one by one: the table does it."
BEST = {
    "mean_abs_bias_pt_above_60": ("Smallest mean |closure| above 60 GeV", percent),
    "mean_resolution": ("Best mean resolution", percent),
    "mean_mass_resolution": ("Best mean mass resolution", percent),
    "slope_npv_gev": ("Smallest slope of the pT (GeV) per vertex", number),
}


def core_remark(before: Record, after: Record) -> str:
    """Say which of the two has no core, and why."""
    return "; ".join(r["core_status"] for r in (before, after) if r["core_status"] != "ok")


def energy_range(record: Record) -> str:
    """Write the energy range of a bin, in GeV."""
    return f"{record['energy_low_gev']:.4g}{DASH}{record['energy_high_gev']:.4g}"


def eta_range(record: Record) -> str:
    """Write the |eta| range of a bin."""
    return f"{record['abs_eta_low']:g}{DASH}{record['abs_eta_high']:g}"


def method_name(method: str, reference: str) -> str:
    """Say what a method is."""
    if method.endswith(SCALED_SUFFIX):
        return f"{reference} \N{MULTIPLICATION SIGN} energy correction of {method.removesuffix(SCALED_SUFFIX)}"
    return method


def response_rows(metrics: dict[str, Any], group: str) -> list[list[str]]:
    """One row per method: worst and mean bias, resolution, and how many bins are within 1 and 2 %."""
    return [
        [
            method_name(method, metrics["methods"][0]),
            percent(summary["max_abs_bias"], summary["max_abs_bias_error"]),
            percent(summary["mean_abs_bias"], summary["mean_abs_bias_error"]),
            percent(summary["max_abs_bias_median"], summary["max_abs_bias_median_error"]),
            percent(summary["mean_resolution"], summary["mean_resolution_error"]),
            *(f"{count_within(summary['bins'], limit)} of {summary['num_bins']}" for limit in (0.01, 0.02)),
        ]
        for method, summary in metrics.get(group, {}).items()
    ]


def count_within(records: Sequence[Record], limit: float) -> int:
    """Count the headline bins with |core - 1| below a limit."""
    return sum(abs(record["scale_core"] - 1) < limit for record in headline_bins(list(records)))


def verdict(metrics: dict[str, Any]) -> list[str]:
    """One sentence per calibrated method."""
    reference, *others = metrics["methods"]
    energy = metrics.get("energy_response", {})
    if not energy:
        return ["The energy response was not evaluated."]
    if energy[reference]["num_bins"] == 0:
        return [NO_BIN]
    if len(others) > MAX_SENTENCES:
        return _best(metrics, others)
    before = energy[reference]
    lines = []
    for method in others:
        after = energy[method]
        lines.append(
            f"{method} against {reference}: the worst bin is {percent(after['max_abs_bias'], after['max_abs_bias_error'])} "
            f"from the true energy scale (before: {percent(before['max_abs_bias'])}), the mean bin "
            f"{percent(after['mean_abs_bias'], after['mean_abs_bias_error'])} (before: {percent(before['mean_abs_bias'])}); "
            f"the mean resolution is {percent(after['mean_resolution'], after['mean_resolution_error'])} "
            f"(before: {percent(before['mean_resolution'])}), in {after['num_bins']} bins."
        )
    return lines or [f"Only {reference} was evaluated; there is nothing to compare it with."]


def _best(metrics: dict[str, Any], others: Sequence[str]) -> list[str]:
    """One sentence per quantity: the method that does it best."""
    lines = []
    for name, (words, write) in BEST.items():
        known = [m for m in others if metrics["headline"][m][name] is not None]
        if known:
            best = min(known, key=lambda method: abs(metrics["headline"][method][name]))
            numbers = metrics["headline"][best]
            lines.append(f"{words}: {best}, {write(numbers[name], numbers[f'{name}_error'])}.")
    return [" ".join(lines)] if lines else [NO_BIN]


def bin_rows(metrics: dict[str, Any], group: str, method: str) -> tuple[list[list[str]], list[bool]]:
    """One row per bin with jets, before and after `method`; and which rows hold too few jets for the headline numbers."""
    before = metrics[group][metrics["methods"][0]]["bins"]
    after = metrics[group][method]["bins"]
    rows, weak = [], []
    for b, a in zip(before, after, strict=True):
        if not b["num_jets"]:
            continue
        rows.append(
            [
                energy_range(b),
                eta_range(b),
                thousands(b["num_jets"]),
                number(b["scale_core"], b["scale_core_error"]),
                number(a["scale_core"], a["scale_core_error"]),
                number(b["scale_median"], b["scale_median_error"]),
                number(a["scale_median"], a["scale_median_error"]),
                number(b["resolution"], b["resolution_error"]),
                number(a["resolution"], a["resolution_error"]),
                core_remark(b, a),
            ]
        )
        weak.append(not b["enough_entries"])
    return rows, weak


def bin_header(reference: str, method: str) -> tuple[str, ...]:
    """Head of the table of bins."""
    both = [f"{quantity}, {name}" for quantity in ("core", "median", "resolution") for name in (reference, method)]
    return ("E true [GeV]", f"|{ETA}|", "jets", *both, "remark")


def text_table(metrics: dict[str, Any], method: str | None = None, group: str = "energy_response") -> "Table":
    """The result as a table for the terminal: per bin the scale and the resolution, before and after.

    Args:
        metrics: What `evaluate_predictions` returned.
        method: Which method; None for the first that is not the reference.
        group: `energy_response` or `mass_response`.
    """
    from rich.table import Table

    reference = metrics["methods"][0]
    method = method or (metrics["methods"][1] if len(metrics["methods"]) > 1 else reference)
    summary = metrics[group][method]
    table = Table(title=f"{GROUP_NAMES[group]} response: {reference} {ARROW} {method}")
    for title in ("E true [GeV]", f"|{ETA}|", "jets", "scale", "resolution"):
        table.add_column(title, justify="right", no_wrap=True)
    table.caption = (
        NO_BIN
        if summary["num_bins"] == 0
        else (
            f"worst |scale - 1| {percent(summary['max_abs_bias'], summary['max_abs_bias_error'])}, "
            f"mean {percent(summary['mean_abs_bias'], summary['mean_abs_bias_error'])}, {summary['num_bins']} bins"
        )
    )
    for b, a in zip(metrics[group][reference]["bins"], summary["bins"], strict=True):
        if b["drawn"]:
            scale = f"{number(b['scale_core'])} {ARROW} {number(a['scale_core'], a['scale_core_error'])}"
            resolution = f"{number(b['resolution'])} {ARROW} {number(a['resolution'])}"
            table.add_row(energy_range(b), eta_range(b), str(b["num_jets"]), scale, resolution)
    return table
