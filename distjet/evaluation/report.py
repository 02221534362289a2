"""What does an evaluation leave behind: metrics.json, figures, and one page that explains itself?

The page is complete without this program, without a network and without instructions; it names the data, the configuration and
the code that made it, what was left out, and what each number means.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distjet.evaluation import html
from distjet.evaluation.config import ResponseConfig
from distjet.evaluation.panels import Plot
from distjet.evaluation.plots import make_plots, undrawn_text
from distjet.evaluation.predictions import read_predictions
from distjet.evaluation.response import headline_bins, summarise
from distjet.evaluation.tables import HEADLINE_HEADER, bin_header, bin_rows, headline_rows, number, thousands, verdict
from distjet.run_directory import write_atomically, write_json

logger = logging.getLogger(__name__)

TITLE = "distjet: jet calibration report"

REFERENCES = (
    "Modes and the leaky Gaussian kernel: arXiv:1910.03773. Closure in bins of the true energy and the bias of calibrations: "
    "arXiv:1609.05195. Jet energy scale and resolution, standard chain: arXiv:2007.02645 (ATLAS), arXiv:1607.03663 (CMS). "
    "Energy and mass together: arXiv:2311.08885."
)

DEFINITIONS = (
    ("Response", "Reconstructed over true energy (or mass) of a jet; 1 for a perfect calibration."),
    (
        "Core (scale)",
        (
            "Mean of a Gaussian in a window of \N{PLUS-MINUS SIGN}{window:g} of its own \N{GREEK SMALL LETTER SIGMA} about "
            "its own mean, by maximum likelihood, which allows for the truncation. Tails hardly move it; it is what a "
            "calibration by the mode, like the leaky Gaussian kernel loss, aims at."
        ),
    ),
    ("Median", "Half of the jets lie below it; an asymmetric tail moves it away from the core."),
    (
        "Resolution",
        (
            "Half of the central 68 % interval, divided by the median: (q84 \N{MINUS SIGN} q16) / (2 q50). The division "
            "removes the gain that a low scale would seem to give."
        ),
    ),
    (
        "Reference \N{MULTIPLICATION SIGN} energy correction (mass)",
        (
            "Mass of the reference, multiplied by the energy correction of the method. A method that knows no more about "
            "the mass than the energy scale is as good as this, not better."
        ),
    ),
    ("Rapidity residual", "Reconstructed minus true rapidity: its median, and half of its central 68 % interval."),
    (
        "Statistical error",
        "Spread of the number over {replicas} bootstrap replicas of the bin (Poisson; event weights enter with their squares).",
    ),
)


def evaluate_predictions(
    predictions: Path, config: ResponseConfig, provenance: Mapping[str, Any], output: Path
) -> dict[str, Any]:
    """Evaluate a table of predictions and write metrics.json, plots/ and report.html.

    Args:
        predictions: A Parquet file, or a folder of them, with one row per jet.
        config: Selection, bins, estimator.
        provenance: What identifies the result: dataset fingerprint, configuration, git commit, seeds; nested
            dicts of plain values.
        output: Folder to write to.

    Returns:
        The metrics, as in metrics.json.

    Raises:
        DataError: If the table is empty, lacks columns, or holds values that are not finite.
    """
    table = read_predictions(predictions, config)
    logger.info("measuring the response of %s jets, then drawing it", f"{table.num_jets:,}")
    metrics = {
        **summarise(table, config),
        "evaluation": {"predictions": str(predictions), **config.model_dump(mode="json")},
        "dataset_fingerprint": provenance.get("dataset_fingerprint"),
        "provenance": dict(provenance),
    }
    plots = make_plots(table, metrics, config)
    for plot in plots:
        write_atomically(output / "plots" / f"{plot.name}.png", plot.png)
        write_atomically(output / "plots" / f"{plot.name}.pdf", plot.pdf)
    write_atomically(output / "report.html", render_report(metrics, plots, config))
    write_json(output / "metrics.json", metrics)
    return metrics


def render_report(metrics: Mapping[str, Any], plots: list[Plot], config: ResponseConfig) -> str:
    """Return the report as one self-contained HTML page."""
    contents = dict(metrics)
    return html.page(
        TITLE,
        [
            f"<h1>{html.escape(TITLE)}</h1>",
            *(html.paragraph(line, "lead") for line in verdict(contents)),
            html.table(HEADLINE_HEADER, headline_rows(contents)),
            html.paragraph(_how_to_read(config), "note"),
            *_rapidity_section(contents),
            html.heading("What was evaluated"),
            html.facts(_identity_rows(contents)),
            html.heading("Figures"),
            *(html.image(plot.png, f"{number_} {plot.caption}", plot.title) for number_, plot in _numbered(plots)),
            *_bin_section(contents, "energy_response", "Energy response, bin by bin"),
            *_bin_section(contents, "mass_response", "Mass response, bin by bin"),
            html.heading("What was left out"),
            html.facts(_exclusion_rows(contents, config)),
            html.heading("Definitions"),
            html.definitions(_definitions(config)),
            html.paragraph(REFERENCES, "note"),
            *_configuration_sections(contents),
        ],
    )


def flatten(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, object]]:
    """List the leaves of nested dicts with their dotted keys."""
    rows: list[tuple[str, object]] = []
    for name, value in content.items():
        if isinstance(value, Mapping):
            rows += flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            rows.append((f"{prefix}{name}", ", ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)))
        else:
            rows.append((f"{prefix}{name}", value))
    return rows


def _numbered(plots: list[Plot]) -> list[tuple[str, Plot]]:
    return [(f"Figure {index}.", plot) for index, plot in enumerate(plots, start=1)]


def _how_to_read(config: ResponseConfig) -> str:
    return (
        f"Over the bins of true energy and |\N{GREEK SMALL LETTER ETA}| with more than {config.min_entries} jets, the same "
        "bins for all methods. Errors are statistical; the error of the worst bin is the error of that bin. The worst of "
        "many bins is above zero even for a perfect calibration, by about two to three of these errors."
    )


def _identity_rows(metrics: Mapping[str, Any]) -> list[tuple[str, object]]:
    weighting = "event weights" if metrics["evaluation"]["use_weights"] else "each jet counts once"
    return [
        ("predictions", metrics["evaluation"]["predictions"]),
        ("jets in the table", thousands(metrics["num_jets_total"])),
        ("jets evaluated", thousands(metrics["num_jets"])),
        ("methods", ", ".join(metrics["methods"])),
        ("weighting", weighting),
        *((name, value) for name, value in metrics["provenance"].items() if not isinstance(value, Mapping)),
    ]


def _configuration_sections(metrics: Mapping[str, Any]) -> list[str]:
    """What is long comes last: the settings of the evaluation, and each nested part of the provenance."""
    parts = {"Configuration of the evaluation": metrics["evaluation"]}
    nested = {name: value for name, value in metrics["provenance"].items() if isinstance(value, Mapping)}
    parts |= {f"Provenance: {name}": value for name, value in nested.items()}
    return [part for title, content in parts.items() for part in (html.heading(title), html.facts(flatten(content)))]


def _rapidity_section(metrics: Mapping[str, Any]) -> list[str]:
    if "rapidity_residual" not in metrics:
        return []
    rows = [
        [
            f"rapidity: {method}",
            number(summary["max_abs_median"], summary["max_abs_median_error"], 4),
            number(summary["mean_width"], summary["mean_width_error"], 4),
            summary["num_bins"],
        ]
        for method, summary in metrics["rapidity_residual"].items()
    ]
    return [html.table(("", "worst |median of y reco \N{MINUS SIGN} y true|", "mean width", "bins"), rows)]


def _bin_section(metrics: dict[str, Any], group: str, title: str) -> list[str]:
    if group not in metrics:
        return []
    reference = metrics["methods"][0]
    methods = [name for name in metrics[group] if name in metrics["methods"][1:]] or [reference]
    parts = [html.heading(title), html.paragraph("Grey: too few jets for the headline numbers.", "note")]
    for method in methods:
        rows, weak = bin_rows(metrics, group, method)
        parts.append(html.table(bin_header(reference, method), rows, weak))
    return parts


def _exclusion_rows(metrics: Mapping[str, Any], config: ResponseConfig) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [
        (f"true pT not above {config.pt_true_min_gev:g} GeV", f"{metrics['num_jets_total'] - metrics['num_jets']} jets"),
        ("outside all bins", f"{metrics['num_jets_outside_bins']} jets"),
    ]
    if "mass_response" in metrics:
        below = f"{metrics['num_jets_below_true_mass']} jets, in the mass response only"
        rows.append((f"true mass not above {config.mass_true_min_gev:g} GeV", below))
    for group in ("energy_response", "mass_response"):
        if group not in metrics:
            continue
        records = metrics[group][metrics["methods"][0]]["bins"]
        few = sum(record["num_jets"] > 0 for record in records) - len(headline_bins(records))
        rows.append(
            (f"{group.replace('_', ' ')}: bins with {config.min_entries} jets or fewer", f"{few}, not in the headline numbers")
        )
        rows.append((f"{group.replace('_', ' ')}: bins not drawn", undrawn_text(records, config) or "none"))
        without = {name: s["num_bins_without_core"] for name, s in metrics[group].items() if s["num_bins_without_core"]}
        stands_in = "; ".join(f"{name}: {count}, the median stands in" for name, count in without.items())
        rows.append((f"{group.replace('_', ' ')}: headline bins without a core", stands_in or "none"))
    return rows


def _definitions(config: ResponseConfig) -> list[tuple[str, str]]:
    window, replicas = config.estimator.core_window_sigmas, config.estimator.num_replicas
    return [(term, text.format(window=window, replicas=replicas)) for term, text in DEFINITIONS]
