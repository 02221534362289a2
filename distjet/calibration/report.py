"""How does a fitted chain prove itself to a reader who was not there?

One page that needs nothing but itself: what each step changes in numbers, the figures, where bins were empty, and what the
numbers mean. It is made from the metrics alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from distjet.calibration.closure import HEADLINE_RANGES, SLOPE_RANGE
from distjet.calibration.figures import stage_text
from distjet.calibration.settings import ChainConfig
from distjet.evaluation import html
from distjet.evaluation.panels import Plot
from distjet.evaluation.tables import DASH, ETA, number, percent, thousands

TITLE = "distjet: the classical calibration chain"
REFERENCES = (
    "Area subtraction: arXiv:0707.1378. Residual correction, energy scale, eta correction and global sequential calibration: "
    "arXiv:2007.02645 (ATLAS), arXiv:1607.03663 (CMS). Numerical inversion: arXiv:1609.05195."
)

DEFINITIONS = (
    ("Response", "Energy of a jet over its true energy; its scale is the Gaussian core of its distribution in a bin."),
    (
        "Closure",
        "|core \N{MINUS SIGN} 1| in bins of true pT and true |\N{GREEK SMALL LETTER ETA}|: worst bin and mean of bins.",
    ),
    ("Resolution", "Half of the central 68 % interval of the response, divided by its median."),
    (
        "Slopes",
        "GeV of pT per vertex at fixed mu, and per interaction at fixed number of vertices, from one fit in bins of true pT.",
    ),
    ("Dependence", "Change of the core of the response per standard deviation of a variable, at fixed true pT."),
    ("Jets", "Each jet counts once: bins of the truth make the result independent of the spectrum, but for bin widths."),
)


def render_report(metrics: Mapping[str, Any], plots: Sequence[Plot], config: ChainConfig) -> str:
    """Return the report as one self-contained HTML page."""
    closure = metrics["closure"]
    return html.page(
        TITLE,
        [
            f"<h1>{html.escape(TITLE)}</h1>",
            html.paragraph(_verdict(metrics), "lead"),
            html.heading("Closure after each step"),
            html.table(_closure_header(), _closure_rows(closure["response"])),
            html.paragraph(_how_to_read(config), "note"),
            html.paragraph(_left_out(closure["response"]["raw"]["bins"]), "note"),
            *_pileup_section(closure),
            *_sequential_section(closure),
            html.heading("Figures"),
            *(
                html.image(plot.png, f"Figure {number}. {plot.caption}", plot.title)
                for number, plot in enumerate(plots, start=1)
            ),
            html.heading("Fits"),
            *_fit_sections(metrics["fits"]),
            html.heading("Jets"),
            html.facts(_jet_rows(metrics["num_jets"])),
            html.heading("Definitions"),
            html.definitions(DEFINITIONS),
            html.paragraph(REFERENCES, "note"),
            html.heading("Provenance"),
            html.facts([(name, value) for name, value in metrics["provenance"].items() if not isinstance(value, Mapping)]),
        ],
    )


def _verdict(metrics: Mapping[str, Any]) -> str:
    last = metrics["steps"][-1]
    found = metrics["closure"]["response"][last]
    text = (
        f"After {len(metrics['steps'])} steps the energy scale of the validation jets is within "
        f"{percent(found['max_abs_bias_above_60'], found['max_abs_bias_above_60_error'])} of 1 in the worst bin above a true "
        f"pT of 60 GeV, and within {percent(found['max_abs_bias_30_60'], found['max_abs_bias_30_60_error'])} at 30{DASH}60 GeV."
    )
    change = metrics["closure"].get("sequential", {})
    if not change.get("num_bins"):
        return text
    return (
        f"{text} The sequential steps improve the resolution by {percent(change['mean_resolution_gain'])} in the mean of "
        f"{change['num_bins']} bins and move the scale by {percent(change['mean_shift'], change['mean_shift_error'])} in the "
        f"mean, {percent(change['max_abs_shift'], change['max_abs_shift_error'])} in the worst bin."
    )


def _closure_header() -> tuple[str, ...]:
    ranges = [name.replace("_", " ").replace("above", ">") for name in HEADLINE_RANGES]
    worst = [f"worst |core \N{MINUS SIGN} 1|, {name.replace(' ', DASH, 1) if name[0] != '>' else name} GeV" for name in ranges]
    return ("after", *worst, "mean, > 60 GeV", "mean resolution", "bins")


def _closure_rows(response: Mapping[str, Any]) -> list[list[str]]:
    return [
        [
            stage_text(name),
            *(percent(found[f"max_abs_bias_{key}"], found[f"max_abs_bias_{key}_error"]) for key in HEADLINE_RANGES),
            percent(found["mean_abs_bias_above_60"]),
            percent(found["mean_resolution"]),
            str(sum(record["drawn"] for record in found["bins"])),
        ]
        for name, found in response.items()
    ]


def _how_to_read(config: ChainConfig) -> str:
    return (
        f"Over the bins of true pT and |{ETA}| with at least {config.closure.min_entries} validation jets. Errors are "
        "statistical; the worst of many bins is above zero even for a perfect calibration, by about two to three of its errors."
    )


def _left_out(bins: Sequence[Mapping[str, Any]]) -> str:
    """Name the bins that hold jets, but too few."""
    few = [
        f"|{ETA}| {r['abs_eta_low']:g}{DASH}{r['abs_eta_high']:g}, {r['pt_true_low_gev']:g}{DASH}{r['pt_true_high_gev']:g} GeV "
        f"({r['num_jets']})"
        for r in bins
        if r["num_jets"] and not r["drawn"]
    ]
    return f"Bins with fewer jets, not measured: {'; '.join(few)}." if few else "No bin that holds jets was left out."


def _pileup_section(closure: Mapping[str, Any]) -> list[str]:
    if "pileup" not in closure:
        return []
    rows = [
        [
            stage_text(name),
            number(found["max_abs_slope_npv_gev"], found["max_abs_slope_npv_gev_error"]),
            number(found["max_abs_slope_mu_gev"], found["max_abs_slope_mu_gev_error"]),
            str(len(found["bins"])),
        ]
        for name, found in closure["pileup"].items()
    ]
    header = ("after", "worst |dpT / dN_PV| [GeV]", "worst |dpT / d\N{GREEK SMALL LETTER MU}| [GeV]", "bins")
    return [html.heading("Dependence on pileup"), html.table(header, rows)]


def _sequential_section(closure: Mapping[str, Any]) -> list[str]:
    if "sequential" not in closure:
        return []
    rows = [
        [name, *(percent(found[f"slope_per_sd_{when}"]) for when in ("before", "after", "end"))]
        for name, found in closure["sequential"]["variables"].items()
    ]
    where = (
        f"Per standard deviation of the variable, for |{ETA}| < {SLOPE_RANGE['max_abs_eta']:g} and true pT of "
        f"{SLOPE_RANGE['pt_true_low_gev']:g}{DASH}{SLOPE_RANGE['pt_true_high_gev']:g} GeV."
    )
    header = ("variable", "before its step", "after its step", "end of the chain")
    title = html.heading("Dependence of the response on the sequential variables")
    return [title, html.table(header, rows), html.paragraph(where, "note")]


def _fit_sections(fits: Mapping[str, Any]) -> list[str]:
    parts = []
    for name, found in fits.items():
        plain = [(key.replace("_", " "), value) for key, value in found.items() if key != "bins"]
        parts += [html.paragraph(f"Step {stage_text(name)}"), *([html.facts(plain)] if plain else [])]
        if "bins" in found:
            parts.append(html.table((f"|{ETA}|", "training jets", "numbers from", "fit"), _fit_rows(found["bins"])))
    return parts


def _fit_rows(bins: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    ranges = [f"{r['abs_eta_low']:g}{DASH}{r['abs_eta_high']:g}" for r in bins]
    return [
        [
            ranges[index],
            thousands(r["num_jets"]),
            "own" if r["taken_from"] == index else f"{ranges[r['taken_from']]} (too few jets)",
            _fit_text(r),
        ]
        for index, r in enumerate(bins)
    ]


def _fit_text(record: Mapping[str, Any]) -> str:
    if "slopes" in record:
        return f"{len(record['slopes'])} bins of true pT"
    if not record["num_points"]:
        return DASH
    text = (
        f"{record['num_points']} points, degree {record['degree']}, \N{GREEK SMALL LETTER CHI}\N{SUPERSCRIPT TWO} "
        f"{record['chi2']:.1f} / {record['num_degrees_of_freedom']}"
    )
    without = record["num_points_without_core"]
    text += f", {without} without a core (median)" if without else ""
    return f"{text}, {record['remark']}" if record["remark"] else text


def _jet_rows(counts: Mapping[str, Mapping[str, int]]) -> list[tuple[str, object]]:
    return [
        (
            split,
            ", ".join(f"{name.removeprefix('num_').replace('_', ' ')}: {thousands(count)}" for name, count in found.items()),
        )
        for split, found in counts.items()
    ]
