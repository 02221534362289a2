"""What does an evaluation of taggers leave behind: metrics.json, table.md, figures, and one page that explains itself?

It looks like that of a calibration and is made of the same parts: from the table that compares methods to single bins, topic by
topic and process by process.
"""

import logging
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from distjet.evaluation import html, tagging_rows
from distjet.evaluation.headline_table import processes_of
from distjet.evaluation.panels import Plot, style
from distjet.evaluation.report_parts import configuration_sections, figures, names_of, plain_provenance, write_results
from distjet.evaluation.score_tables import TaggedJets, read_scores
from distjet.evaluation.sources import Process, Sources
from distjet.evaluation.tables import percent, thousands
from distjet.evaluation.tagging_config import TaggingConfig
from distjet.evaluation.tagging_plots import make_tagging_plots
from distjet.evaluation.tagging_summary import summarise_numbers, summarise_tagger_seeds, summarise_tagging

logger = logging.getLogger(__name__)

TITLE = "distjet: jet tagging report"
KIND = "tagging"
"What `kind` of metrics.json is, where taggers were evaluated."

TOPICS = {
    "Signal against background": ("roc", "scores"),
    "Efficiencies in bins of pT and mass": ("efficiency_",),
    "Mass of the background": ("sculpting", "front"),
    "Made independent of the mass after the training (DDT)": ("ddt_",),
    "Classes": ("confusion", "pairs"),
    "Other jets: how robust is it?": ("shifts", "resilience"),
    "Ensembles": ("ensemble",),
    "Seeds": ("seeds",),
}
"Parts of the report, and how the names of their figures begin."
TABLES = {
    "Signal against background": ("discriminants", tagging_rows.discriminant_rows),
    "Mass of the background": ("sculpting", tagging_rows.sculpting_rows),
    "Made independent of the mass after the training (DDT)": ("ddt", tagging_rows.ddt_rows),
    "Other jets: how robust is it?": ("variations", tagging_rows.variation_rows),
    "Ensembles": ("ensembles", tagging_rows.ensemble_rows),
    "Seeds": ("seeds", tagging_rows.seed_rows),
}
"The table of a part: where its numbers stand in the metrics, and what makes its rows."

REFERENCES = (
    "Comparison of top taggers: arXiv:1902.09914. Error of the area: E. DeLong et al., Biometrics 44 (1988) 837. Divergence of "
    "the mass: ATL-PHYS-PUB-2018-014. DDT: arXiv:1603.00027. Resilience: arXiv:2012.08526. Mean area of pairs: D. Hand and R. "
    "Till, Machine Learning 45 (2001) 171."
)

DEFINITIONS = (
    (
        "Discriminant",
        (
            "Sum of the probabilities of the signal classes over that of signal and background classes. It is computed as the "
            "logarithm of a ratio, which keeps jets apart whose probability is one in single precision."
        ),
    ),
    ("Accuracy", "Share of jets whose most probable class is their own; it depends on how many jets there are of each class."),
    (
        "AUC",
        (
            "Area under the curve of signal against background efficiency: the probability that a signal jet scores above a "
            "background jet, ties counting half. Its error is that of DeLong."
        ),
    ),
    (
        "Rejection 1/\N{GREEK SMALL LETTER EPSILON}_B",
        (
            "One over the share of background jets that pass a cut which a given share \N{GREEK SMALL LETTER EPSILON}_S of the "
            "signal passes. Its relative error is 1 / \N{SQUARE ROOT}(N_B \N{GREEK SMALL LETTER EPSILON}_B): that of the "
            "background jets that pass."
        ),
    ),
    (
        "pT weights",
        (
            "Signal jets are weighted to the pT spectrum of the background in {num_reweight_bins} bins with equally many "
            "background jets each, so that a tagger gains nothing from the pT."
        ),
    ),
    ("Efficiency in a bin", "Share of the jets of a bin that pass; its error bar is Wilson's interval of one sigma."),
    (
        "Divergence of the mass (JSD)",
        (
            "Jensen-Shannon divergence, in bits, of the histograms ({num_mass_bins} bins) of the mass of background jets that "
            "pass and of all of them: 0 if the shape stays, 1 if they have no bin in common. As many jets taken at random "
            "have a divergence above 0 of their own, which is given. Its error is the spread over {num_replicas} replicas of "
            "the bins."
        ),
    ),
    (
        "DDT",
        (
            "T \N{MINUS SIGN} T^(x%)(\N{GREEK SMALL LETTER RHO}, pT): from the log-odds of a jet the value is taken that x % "
            "of the background jets of the same \N{GREEK SMALL LETTER RHO} = ln(m\N{SUPERSCRIPT TWO} / "
            "pT\N{SUPERSCRIPT TWO}) and pT exceed. The map is made of one half of the background and judged on the other; "
            "\N{GREEK SMALL LETTER CHI}\N{SUPERSCRIPT TWO} and the largest deviation are those of the efficiencies in "
            "{cells} cells from x, the latter in cells where at least {min_passed_flat} jets pass. For the rejection, the map "
            "is that of the background efficiency at the working point, or of the least that the number of jets allows."
        ),
    ),
    (
        "Change on other jets",
        (
            "Relative change of an efficiency at the cut of the nominal jets. Resilience is (\N{GREEK CAPITAL LETTER DELTA}"
            "\N{GREEK SMALL LETTER EPSILON}_S\N{SUPERSCRIPT TWO} / \N{LEFT ANGLE BRACKET}\N{GREEK SMALL LETTER EPSILON}_S"
            "\N{RIGHT ANGLE BRACKET}\N{SUPERSCRIPT TWO} + the same of B) to the power of \N{MINUS SIGN}1/2; performance is "
            "\N{GREEK SMALL LETTER EPSILON}_S / \N{SQUARE ROOT}\N{GREEK SMALL LETTER EPSILON}_B."
        ),
    ),
    (
        "Rank correlation of spread and error",
        (
            "Correlation (Spearman) of the ranks of two numbers: the standard deviation of the probabilities that the members "
            "give to the true class, and 1 less their mean."
        ),
    ),
    ("Mean AUC of pairs", "Mean over all ordered pairs of classes of the area under the curve, by the score of the first."),
)


def evaluate_tagging(sources: Sources, config: TaggingConfig, provenance: Mapping[str, Any], output: Path) -> dict[str, Any]:
    """Evaluate tables of scores and write metrics.json, table.md, plots/ and report.html.

    Args:
        sources: The tables, by process, with those of seeds and variations.
        config: Classes, working points, bins.
        provenance: What identifies the result: dataset fingerprint, configuration, git commit, seeds; nested
            dicts of plain values.
        output: Folder to write to.

    Returns:
        The metrics, as in metrics.json: those of the first process, and below `processes` those of the others.

    Raises:
        DataError: If a table is empty, does not name its classes, lacks columns or jets, or holds values that are not
            probabilities.
    """
    first, *others = [_measure(process, sources, config) for process in sources.processes]
    common = {
        "kind": KIND,
        "training": {method: dict(facts) for method, facts in sources.training.items()},
        "evaluation": {"predictions": names_of(sources.processes[0].tables), **config.model_dump(mode="json")},
        "dataset_fingerprint": provenance.get("dataset_fingerprint"),
        "provenance": dict(provenance),
    }
    metrics = {**first, "processes": {some["process"]: some for some in others}, **common}
    plots = {"": _draw({**first, **common}, config)}
    plots |= {some["process"]: _draw({**some, **common}, config) for some in others}
    write_results(output, metrics, plots, (render_report(metrics, plots, config), tagging_rows.markdown(metrics)))
    return metrics


def render_report(metrics: Mapping[str, Any], plots: Mapping[str, Sequence[Plot]], config: TaggingConfig) -> str:
    """Return the report as one self-contained HTML page; `plots` holds those of the first process under an empty label."""
    return html.page(
        TITLE,
        [
            f"<h1>{html.escape(TITLE)}</h1>",
            html.paragraph(tagging_rows.verdict(metrics), "lead"),
            html.table(tagging_rows.headline_header(metrics), tagging_rows.headline_rows(metrics), dense=True),
            html.paragraph(tagging_rows.headline_note(metrics), "note"),
            html.heading("What was evaluated"),
            html.facts(_identity_rows(metrics)),
            *(
                part
                for index, (label, found) in enumerate(processes_of(metrics))
                for part in _process_parts(label, {**metrics, **found}, plots[label if index else ""], config)
            ),
            html.heading("Definitions"),
            html.definitions(_definitions(config)),
            html.paragraph(REFERENCES, "note"),
            *configuration_sections(metrics),
        ],
    )


def _measure(process: Process, sources: Sources, config: TaggingConfig) -> dict[str, Any]:
    jets = read_scores(process.tables, config)
    logger.info("measuring %s jets %s", f"{jets.num_jets:,}", process.label)
    alike = config.model_copy(update={"methods": jets.methods})
    variations = {name: read_scores(tables, alike) for name, tables in process.variations.items()}
    metrics = {"process": process.label, **summarise_tagging(jets, variations, config)}
    metrics["seeds"] = {
        method: summarise_tagger_seeds(
            [(facts, _of_seed(path, method, config)) for facts, path in zip(sources.seeds[method], paths, strict=True)]
        )
        for method, paths in process.seeds.items()
    }
    return metrics


def _of_seed(path: Path, method: str, config: TaggingConfig) -> dict[str, Any]:
    logger.info("measuring %s", path)
    alone: TaggedJets = read_scores(path, config.model_copy(update={"methods": (method,)}))
    return summarise_numbers(alone, config)


def _draw(metrics: Mapping[str, Any], config: TaggingConfig) -> list[Plot]:
    logger.info("drawing it")
    with style():
        return make_tagging_plots(metrics, config)


def _process_parts(label: str, metrics: Mapping[str, Any], plots: Sequence[Plot], config: TaggingConfig) -> list[str]:
    """All that is said of one process: topic by topic, and what was left out."""
    parts = [html.heading(f"Process: {label}")] if label else []
    level = 3 if label else 2
    numbers = count(1)
    for title, names in TOPICS.items():
        key, make = TABLES.get(title, ("", None))
        tables = [html.table(*make(metrics), dense=True)] if make and metrics[key] else []
        if drawn := figures(plots, names, numbers):
            tables += drawn
        if tables:
            parts += [html.heading(title, level), *tables]
    return [*parts, html.heading("What was left out", level), html.facts(_exclusion_rows(metrics, config))]


def _identity_rows(metrics: Mapping[str, Any]) -> list[tuple[str, object]]:
    rows = [
        ("predictions", metrics["evaluation"]["predictions"]),
        ("jets in the table", thousands(metrics["num_jets_total"])),
        ("jets evaluated", thousands(metrics["num_jets"])),
        ("classes", ", ".join(f"{name} ({thousands(number)} jets)" for name, number in metrics["num_jets_of"].items())),
        ("methods", ", ".join(metrics["methods"])),
        ("weighting", "event weights" if metrics["evaluation"]["use_weights"] else "each jet counts once"),
        *((f"variation {name}", some["source"]) for name, some in metrics["variations"].items()),
    ]
    return [*rows, *plain_provenance(metrics)]


def _exclusion_rows(metrics: Mapping[str, Any], config: TaggingConfig) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    if config.pt_range_gev:
        outside = metrics["num_jets_total"] - metrics["num_jets"]
        rows.append((f"pT outside {config.pt_range_gev[0]:g} to {config.pt_range_gev[1]:g} GeV", f"{outside} jets"))
    rows.append(("background jets outside the histogram of the mass", thousands(metrics["num_outside_mass"])))
    for name, found in metrics["discriminants"].items():
        if found["pt_overlap"] < 1:
            rows.append((f"{name}: background at a pT without signal jets", percent(1 - found["pt_overlap"])))
    for method, found in metrics["ddt"].items():
        rows.append((f"DDT of {method}: background jets below {config.ddt.min_mass_gev:g} GeV", thousands(found["num_light"])))
    for quantity in ("pt", "mass"):
        bins = next(iter(next(iter(metrics[f"efficiency_{quantity}"].values())).values()))
        for side, records in bins.items():
            few = sum(not record["drawn"] for record in records)
            what = f"{side} efficiency, bins in {quantity} with fewer than {config.min_entries} jets"
            rows.append((what, f"{few}, not drawn"))
    return rows + [(f"not made: {name}", reason) for name, reason in metrics["not_made"].items()]


def _definitions(config: TaggingConfig) -> list[tuple[str, str]]:
    known = {
        **config.model_dump(include={"num_reweight_bins", "num_mass_bins", "num_replicas"}),
        "cells": config.ddt.num_rho_cells * config.ddt.num_pt_cells,
        "min_passed_flat": config.ddt.min_passed_flat,
    }
    return [(term, text.format(**known)) for term, text in DEFINITIONS if term != "pT weights" or config.reweight_pt]
