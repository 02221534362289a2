"""What does an evaluation leave behind: metrics.json, table.md, figures, and one page that explains itself?

The page is complete without this program, without a network and without instructions; it names the data, the configuration and
the code that made it, what was left out, and what each number means. It goes from the table that compares methods to single
bins, topic by topic, and process by process.
"""

import logging
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from distjet.evaluation import html, topic_tables
from distjet.evaluation.axes import Record
from distjet.evaluation.config import ResponseConfig
from distjet.evaluation.curves import undrawn_text
from distjet.evaluation.headline_table import NOTE, headline_header, headline_rows, markdown, processes_of
from distjet.evaluation.panels import Plot
from distjet.evaluation.plots import make_plots, plot_processes
from distjet.evaluation.predictions import REFERENCE_NAME, read_predictions
from distjet.evaluation.report_parts import configuration_sections, figures, names_of, plain_provenance, write_results
from distjet.evaluation.response import headline_bins
from distjet.evaluation.seeds import summarise_seeds
from distjet.evaluation.sources import Process, Sources
from distjet.evaluation.summary import summarise, summarise_headline
from distjet.evaluation.tables import RESPONSE_HEADER, bin_header, bin_rows, number, response_rows, thousands, verdict

logger = logging.getLogger(__name__)

TITLE = "distjet: jet calibration report"

TOPICS = {
    "Energy scale": ("energy_scale", "energy_median", "energy_distributions", "processes"),
    "Energy resolution": ("energy_resolution", "resolution_fit"),
    "Mass": ("mass_",),
    "Rapidity": ("rapidity_",),
    "Pileup": ("pileup_",),
    "Flavour, and what a jet is made of": ("flavour", "dependence_"),
    "Predicted distributions": ("density",),
    "Seeds: same loss, different behaviour": ("seeds_",),
}
"Parts of the report, and how the names of their figures begin."
DRAWN_GROUPS = (
    *("energy_response_pt", "energy_response_eta", "energy_response_reco_energy", "energy_response_reco_pt"),
    *("mass_response_pt", "mass_response_shape", "rapidity_residual", "flavour", "pileup"),
)
"What is drawn bin by bin, beside the responses in bins of true energy."

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
        "Noise, sampling and constant term",
        (
            "N, S and C of resolution = N / pT \N{CIRCLED PLUS} S / \N{SQUARE ROOT}pT \N{CIRCLED PLUS} C (sum in squares), by "
            "least squares in bins of true pT. A term whose square comes out negative is left out, and the others are fitted "
            "again."
        ),
    ),
    (
        "Slope in N_PV and \N{GREEK SMALL LETTER MU}",
        (
            "Change of reconstructed less true pT per reconstructed vertex, and per mean number of interactions, from one "
            "least-squares fit of both in bins of true pT; the bins of one |\N{GREEK SMALL LETTER ETA}| are combined with the "
            "weights 1 / error\N{SUPERSCRIPT TWO}. Errors follow from the residuals and assume nothing about their spread."
        ),
    ),
    (
        "Slope per standard deviation",
        (
            "Relative change of the energy response when a property of the jet rises by one standard deviation of the jets in"
            " the same bin of true pT and |\N{GREEK SMALL LETTER ETA}|; combined like the slopes in pileup."
        ),
    ),
    (
        "Quark less gluon",
        "Scale of jets whose hardest parton is a light quark, less that of gluon jets, in the same bins; a mean over bins.",
    ),
    (
        "Probability integral transform (PIT) and coverage",
        (
            "Predicted probability of a response below the one of the jet: uniform if predicted distributions are true. KS: "
            "the largest distance of its cumulated distribution from the diagonal, and the test of Kolmogorov and Smirnov "
            "with a limited number of jets. Coverage: the share of jets in the central interval of a given predicted "
            "probability. All jets of the table, with the weights of the training where the table has them."
        ),
    ),
    (
        "Statistical error",
        "Spread of the number over {replicas} bootstrap replicas of the bin (Poisson; event weights enter with their squares).",
    ),
)


def evaluate_predictions(
    sources: Sources, config: ResponseConfig, provenance: Mapping[str, Any], output: Path
) -> dict[str, Any]:
    """Evaluate tables of predictions and write metrics.json, table.md, plots/ and report.html.

    Args:
        sources: The tables, by process.
        config: Selection, bins, estimator.
        provenance: What identifies the result: dataset fingerprint, configuration, git commit, seeds; nested
            dicts of plain values.
        output: Folder to write to.

    Returns:
        The metrics, as in metrics.json: those of the first process, and below `processes` those of the others.

    Raises:
        DataError: If a table is empty, lacks columns or jets, or holds values that are not finite.
    """
    first, *others = [_evaluate(process, sources, config) for process in sources.processes]
    metrics = {
        **first[0],
        "processes": {process.label: found for process, (found, _) in zip(sources.processes[1:], others, strict=True)},
        "training": {method: dict(facts) for method, facts in sources.training.items()},
        "evaluation": {"predictions": names_of(sources.processes[0].tables), **config.model_dump(mode="json")},
        "dataset_fingerprint": provenance.get("dataset_fingerprint"),
        "provenance": dict(provenance),
    }
    plots = {"": [*first[1], *plot_processes(metrics, config)]}
    plots |= {process.label: drawn for process, (_, drawn) in zip(sources.processes[1:], others, strict=True)}
    write_results(output, metrics, plots, (render_report(metrics, plots, config), markdown(metrics)))
    return metrics


def render_report(metrics: Mapping[str, Any], plots: Mapping[str, list[Plot]], config: ResponseConfig) -> str:
    """Return the report as one self-contained HTML page; `plots` holds those of the first process under an empty label."""
    contents = dict(metrics)
    return html.page(
        TITLE,
        [
            f"<h1>{html.escape(TITLE)}</h1>",
            *(html.paragraph(line, "lead") for line in verdict(contents)),
            html.table(headline_header(contents), headline_rows(contents), dense=True),
            html.paragraph(NOTE, "note"),
            html.heading("What was evaluated"),
            html.facts(_identity_rows(contents)),
            *(
                part
                for index, (label, found) in enumerate(processes_of(contents))
                for part in _process_parts(label, found, plots[label if index else ""], config)
            ),
            html.heading("Definitions"),
            html.definitions(_definitions(config)),
            html.paragraph(REFERENCES, "note"),
            *configuration_sections(contents),
        ],
    )


def _evaluate(process: Process, sources: Sources, config: ResponseConfig) -> tuple[dict[str, Any], list[Plot]]:
    """Measure and draw one process."""
    table = read_predictions(process.tables, config)
    logger.info("measuring the response of %s jets %s", f"{table.num_jets:,}", process.label)
    metrics = {"process": process.label, **summarise(table, config)}
    metrics["seeds"] = {
        method: summarise_seeds(
            [(facts, _of_seed(path, method, config)) for facts, path in zip(sources.seeds[method], paths, strict=True)]
        )
        for method, paths in process.seeds.items()
    }
    logger.info("drawing it")
    return metrics, make_plots(table, metrics, config)


def _of_seed(path: Path, method: str, config: ResponseConfig) -> dict[str, Any]:
    logger.info("measuring %s", path)
    alone = config.model_copy(update={"methods": (REFERENCE_NAME, method)})
    return summarise_headline(read_predictions(path, alone), alone)


def _process_parts(label: str, metrics: Mapping[str, Any], plots: Sequence[Plot], config: ResponseConfig) -> list[str]:
    """All that is said of one process: topic by topic, bin by bin, and what was left out."""
    contents = dict(metrics)
    parts = [html.heading(f"Process: {label}")] if label else []
    level = 3 if label else 2
    numbers = count(1)
    for title, names in TOPICS.items():
        drawn = figures(plots, names, numbers)
        tables = _topic_tables(title, contents, config)
        if drawn or tables:
            parts += [html.heading(title, level), *tables, *drawn]
    parts += [
        html.heading("Bin by bin", level),
        *_bin_section(contents, "energy_response"),
        *_bin_section(contents, "mass_response"),
    ]
    return [*parts, html.heading("What was left out", level), html.facts(_exclusion_rows(contents, config))]


def _topic_tables(title: str, metrics: dict[str, Any], config: ResponseConfig) -> list[str]:
    """Tables and sentences that belong to a topic."""
    if title == "Seeds: same loss, different behaviour":
        found = metrics["seeds"].items()
        return [
            part
            for method, some in found
            for part in (
                html.paragraph(topic_tables.seed_sentence(method, some)),
                html.table(*topic_tables.seed_table(some), dense=True),
            )
        ]
    if group := {"Energy scale": "energy_response", "Mass": "mass_response"}.get(title):
        rows = response_rows(metrics, group)
        return [html.table(RESPONSE_HEADER, rows, dense=True), html.paragraph(_how_to_read(config), "note")] if rows else []
    make = {
        "Energy resolution": topic_tables.fit_table,
        "Rapidity": _rapidity_table,
        "Pileup": topic_tables.pileup_table,
        "Flavour, and what a jet is made of": topic_tables.dependence_table,
        "Predicted distributions": topic_tables.density_table,
    }.get(title)
    header, rows = make(metrics) if make else ((), [])
    return [html.table(header, rows, dense=True)] if rows else []


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
        *plain_provenance(metrics),
    ]


def _rapidity_table(metrics: Mapping[str, Any]) -> topic_tables.Table:
    header = ("", "worst |median of y reco \N{MINUS SIGN} y true|", "mean width", "bins")
    rows = [
        [
            method,
            number(summary["max_abs_median"], summary["max_abs_median_error"], 4),
            number(summary["mean_width"], summary["mean_width_error"], 4),
            str(summary["num_bins"]),
        ]
        for method, summary in metrics.get("rapidity_residual", {}).items()
    ]
    return header, rows


def _bin_section(metrics: dict[str, Any], group: str) -> list[str]:
    if group not in metrics:
        return []
    reference = metrics["methods"][0]
    methods = [name for name in metrics[group] if name in metrics["methods"][1:]] or [reference]
    parts = []
    for method in methods:
        rows, weak = bin_rows(metrics, group, method)
        title = f"{group.replace('_', ' ').capitalize()}: {reference} and {method} in bins of true energy"
        note = html.paragraph("Grey: too few jets for the headline numbers.", "note")
        parts.append(html.folded(title, [note, html.table(bin_header(reference, method), rows, weak, dense=True)]))
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
        if group in metrics:
            rows += _left_out_of_response(metrics, group, config)
    nowhere = [name.replace("_", " ") for name in DRAWN_GROUPS if name in metrics and not _is_drawn(metrics, name)]
    rows += [(f"{name}: not drawn", f"no bin holds {config.min_entries_drawn} jets") for name in nowhere]
    dependences = {key: metrics[key] for key in ("pileup", "flavour") if key in metrics} | metrics["properties"]
    rows += [_few_entries(name, found[metrics["methods"][0]]["bins"], config) for name, found in dependences.items()]
    return rows + [(f"not made: {name.replace('_', ' ')}", reason) for name, reason in metrics["not_made"].items()]


def _is_drawn(metrics: Mapping[str, Any], group: str) -> bool:
    return any(record["drawn"] for record in metrics[group][metrics["methods"][-1]]["bins"])


def _left_out_of_response(metrics: Mapping[str, Any], group: str, config: ResponseConfig) -> list[tuple[str, object]]:
    name, records = group.replace("_", " "), metrics[group][metrics["methods"][0]]["bins"]
    without = {method: s["num_bins_without_core"] for method, s in metrics[group].items() if s["num_bins_without_core"]}
    stands_in = "; ".join(f"{method}: {bins}, the median stands in" for method, bins in without.items())
    return [
        _few_entries(name, records, config),
        (f"{name}: bins not drawn", undrawn_text(records, config) or "none"),
        (f"{name}: headline bins without a core", stands_in or "none"),
    ]


def _few_entries(name: str, records: list[Record], config: ResponseConfig) -> tuple[str, object]:
    few = sum(record["num_jets"] > 0 for record in records) - len(headline_bins(records))
    return f"{name.replace('_', ' ')}: bins with {config.min_entries} jets or fewer", f"{few}, not in the headline numbers"


def _definitions(config: ResponseConfig) -> list[tuple[str, str]]:
    window, replicas = config.estimator.core_window_sigmas, config.estimator.num_replicas
    return [(term, text.format(window=window, replicas=replicas)) for term, text in DEFINITIONS]
