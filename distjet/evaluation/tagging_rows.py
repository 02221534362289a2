"""Which rows tell, in words and numbers, what the metrics say about taggers?

The same rows go into the report, into Markdown and onto the terminal. A number is printed with its statistical error; a missing
one is a dash, and one behind which few jets stand has a dagger.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from distjet.evaluation.axes import Record
from distjet.evaluation.headline_table import duration, processes_of
from distjet.evaluation.seeds import seed_text
from distjet.evaluation.tables import DASH, PLUS_MINUS, markdown_table, number, percent, thousands
from distjet.evaluation.tagging_mass import AT_BACKGROUND, AT_SIGNAL

if TYPE_CHECKING:
    from rich.table import Table

Rows = tuple[Sequence[str], list[list[str]]]
"Head and rows."

EPSILON = "\N{GREEK SMALL LETTER EPSILON}"
CHI2 = "\N{GREEK SMALL LETTER CHI}\N{SUPERSCRIPT TWO}"
ZETA = "\N{GREEK SMALL LETTER ZETA}"
DAGGER = "\N{DAGGER}"
SQUARE_ROOT = "\N{SQUARE ROOT}"
AFTER_DDT = "{} + DDT"

AREA_DIGITS = 4


def significant(value: float | None, error: float | None, fewest: int = 0) -> str:
    """Write a number of any size with its error, whose two leading digits tell how far both are written, at least `fewest`."""
    if value is None:
        return DASH
    if not error:
        return f"{value:.4g}"
    digits = max(fewest, 1 - _exponent(error))
    return f"{value:.{digits}f} {PLUS_MINUS} {error:.{digits}f}"


def rejection_text(record: Mapping[str, Any], name: str, min_passed: int) -> str:
    """Write 1 / eps_B, with a dagger if few jets pass."""
    text = significant(record[name], record[f"{name}_error"])
    return f"{text} {DAGGER}" if text != DASH and record.get(f"{name}_passed", min_passed) < min_passed else text


def headline_header(metrics: Mapping[str, Any]) -> list[str]:
    """Return the head of the table by which taggers are compared."""
    process = ["process"] if metrics.get("process") else []
    pairs = ["mean AUC of pairs"] if "one_versus_one" in metrics else []
    rejections = [f"1/{EPSILON}_B at {EPSILON}_S = {name} %" for name in rejection_names(metrics)]
    divergences = [f"JSD at {EPSILON}_S = {working_point(metrics)} % [10\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT THREE} bit]"]
    return [
        "method",
        *process,
        "accuracy",
        *pairs,
        "AUC",
        *rejections,
        *divergences,
        "parameters",
        "training",
        "inference per jet",
    ]


def headline_rows(metrics: Mapping[str, Any]) -> list[list[str]]:
    """Return one row per process and method, one more for its seeds, and one after DDT.

    Args:
        metrics: What `evaluate_tagging` writes to metrics.json.
    """
    labelled = [metrics["process"]] if metrics.get("process") else []
    rows = []
    for label, found in processes_of(metrics):
        for method in found["methods"]:
            for name, cells in _rows_of(metrics, found, method):
                rows.append([name, *([label] if labelled else []), *cells])
    return rows


def markdown(metrics: Mapping[str, Any]) -> str:
    """Return the table in Markdown, with the note that explains it."""
    return f"{markdown_table(headline_header(metrics), headline_rows(metrics))}\n\n{headline_note(metrics)}\n"


def headline_note(metrics: Mapping[str, Any]) -> str:
    """Say what stands in the table."""
    some = metrics["discriminants"][metrics["main"]]
    signal, background = (" + ".join(some[side]) for side in ("signal", "background"))
    weights = "Signal jets are weighted to the pT spectrum of the background, but in the accuracy. "
    return (
        f"AUC, rejections and JSD: {signal} against {background}. "
        + (weights if metrics["evaluation"]["reweight_pt"] else "")
        + "JSD: divergence of the mass of the background that passes from that of all of it. Errors are statistical; in rows "
        f"of several seeds, they are the standard deviation over them. {DAGGER}: fewer than "
        f"{metrics['evaluation']['min_passed']} background jets pass. Rows with DDT: half of the background, which did not "
        "make the map."
    )


def text_summary(metrics: Mapping[str, Any]) -> "Table":
    """The first numbers of each method for the terminal."""
    from rich.table import Table

    name = working_point(metrics)
    table = Table(title=f"{metrics['main']}; all numbers are in table.md")
    for title in ("", "accuracy", "AUC", f"1/{EPSILON}_B at {name} %"):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for label, found in processes_of(metrics):
        for method in found["methods"]:
            numbers = found["headline"][method]
            table.add_row(
                f"{method} {label}".strip(),
                significant(numbers["accuracy"], numbers["accuracy_error"], AREA_DIGITS),
                significant(numbers["area"], numbers["area_error"], AREA_DIGITS),
                rejection_text(numbers, f"rejection_{name}", metrics["evaluation"]["min_passed"]),
            )
    return table


def verdict(metrics: Mapping[str, Any]) -> str:
    """Name the best method, and which others are as good within errors."""
    name = f"rejection_{working_point(metrics)}"
    known = {m: numbers for m, numbers in metrics["headline"].items() if numbers[name] is not None}
    if not known:
        return "No background jet passes at the working point: evaluate more jets."
    best = max(known, key=lambda method: known[method][name])
    text = (
        f"{metrics['main']}: {best} rejects most at {EPSILON}_S = {working_point(metrics)} %, "
        f"1/{EPSILON}_B = {significant(known[best][name], known[best][f'{name}_error'])}"
    )
    alike = [m for m in known if m != best and known[best][name] - known[m][name] < _both_errors(known, (best, m), name)]
    return f"{text}; within one standard deviation of the difference: {', '.join(alike)}." if alike else f"{text}."


def discriminant_rows(metrics: Mapping[str, Any]) -> Rows:
    """One row per discriminant and method."""
    names, limit = rejection_names(metrics), metrics["evaluation"]["min_passed"]
    plain = ["AUC without pT weights"] if metrics["evaluation"]["reweight_pt"] else []
    rejections = [f"1/{EPSILON}_B at {EPSILON}_S = {name} %" for name in names]
    header = ("discriminant", "method", "signal jets", "background jets", "AUC", *plain, *rejections)
    rows = []
    for label, found in metrics["discriminants"].items():
        for method, numbers in found["methods"].items():
            keys = ["area", *(["area_without_reweighting"] if plain else [])]
            errors = ["area_error", *(["area_error_without_reweighting"] if plain else [])]
            areas = [significant(numbers[key], numbers[error], AREA_DIGITS) for key, error in zip(keys, errors, strict=True)]
            cells = [rejection_text(numbers, f"rejection_{name}", limit) for name in names]
            rows.append([label, method, thousands(found["num_signal"]), thousands(found["num_background"]), *areas, *cells])
    return header, rows


def sculpting_rows(metrics: Mapping[str, Any]) -> Rows:
    """One row per method: divergences at both cuts, before and after DDT."""
    cuts = {
        AT_SIGNAL: f"{EPSILON}_S = {working_point(metrics)} %",
        AT_BACKGROUND: f"{EPSILON}_B = {background_point(metrics)} %",
    }
    header = ["method"]
    for text in cuts.values():
        header += [
            f"JSD at {text} [10\N{SUPERSCRIPT MINUS}\N{SUPERSCRIPT THREE} bit]",
            "of as many random jets",
            "jets that pass",
        ]
    rows = []
    for method in metrics["methods"]:
        found = {method: metrics["sculpting"][method]}
        if after := metrics["ddt"].get(method, {}).get("decorrelated"):
            found[AFTER_DDT.format(method)] = after["sculpting"]
        rows += [[name, *(cell for cut in cuts for cell in _sculpting_cells(some[cut]))] for name, some in found.items()]
    return header, rows


def ddt_rows(metrics: Mapping[str, Any]) -> Rows:
    """One row per method: how flat the efficiency is before and after, and what it costs."""
    name = working_point(metrics)
    header = (
        *("method", f"wanted {EPSILON}_B", f"{EPSILON}_B after", f"{CHI2} / ndf before", f"{CHI2} / ndf after"),
        *("largest deviation before", "largest deviation after", "cells judged"),
        *(f"1/{EPSILON}_B at {EPSILON}_S = {name} % before", "after", f"{EPSILON}_B of that map", "background jets of the map"),
    )
    rows = []
    for method, found in metrics["ddt"].items():
        before, after = found["flatness_before"], found["flatness"]
        limit, decorrelated = metrics["evaluation"]["min_passed"], found["decorrelated"]
        rows.append(
            [
                method,
                percent(found["wanted"]),
                percent(after["background_efficiency"]),
                *(f"{some['chi2']:.1f} / {some['ndf']}" for some in (before, after)),
                *(percent(some["max_deviation"], some["max_deviation_error"]) for some in (before, after)),
                str(after["num_cells_judged"]),
                rejection_text(metrics["headline"][method], f"rejection_{name}", limit),
                rejection_text(decorrelated, f"rejection_{name}", limit),
                percent(decorrelated["background_efficiency_of_map"]),
                thousands(found["num_made_of"]),
            ]
        )
    return header, rows


def variation_rows(metrics: Mapping[str, Any]) -> Rows:
    """One row per variation, method and working point; the other signal efficiencies stand in metrics.json."""
    header = (
        *("variation", "method", f"{EPSILON}_S", f"change of {EPSILON}_S", f"change of 1/{EPSILON}_B"),
        *(f"resilience {ZETA}", f"{EPSILON}_S/{SQUARE_ROOT}{EPSILON}_B", "jets"),
    )
    rows = []
    for name, found in metrics["variations"].items():
        jets = f"{thousands(found['num_jets'])}{', the same ones' if found['same_jets'] else ''}"
        for method, records in found["methods"].items():
            for record in (r for r in records if r["signal_efficiency"] in metrics["evaluation"]["working_points"]):
                cells = [percent(record[key], record[f"{key}_error"]) for key in ("signal_change", "rejection_change")]
                cells += [significant(record[key], record[f"{key}_error"]) for key in ("resilience", "performance")]
                rows.append([name, method, f"{record['name']} %", *cells, jets])
    return header, rows


def seed_rows(metrics: Mapping[str, Any]) -> Rows:
    """One row per training of a method with several seeds."""
    names, limit = rejection_names(metrics), metrics["evaluation"]["min_passed"]
    rejections = [f"1/{EPSILON}_B at {EPSILON}_S = {name} %" for name in names]
    header = ("method", "training", "validation loss", "accuracy", "AUC", *rejections)
    rows = []
    for method, found in metrics["seeds"].items():
        for index, row in enumerate(found["members"], start=1):
            loss = row.get("val_loss")
            areas = [significant(row[key], row[f"{key}_error"], AREA_DIGITS) for key in ("accuracy", "area")]
            cells = [rejection_text(row, f"rejection_{name}", limit) for name in names]
            rows.append([method, seed_text(row, index), DASH if loss is None else f"{loss:.5g}", *areas, *cells])
    return header, rows


def ensemble_rows(metrics: Mapping[str, Any]) -> Rows:
    """One row per ensemble."""
    header = ("method", "rank correlation of spread and error", "mean spread of the most probable class", "jets")
    return header, [
        [
            method,
            number(found["rank_correlation"], found["rank_correlation_error"]),
            number(found["mean_spread"], None, AREA_DIGITS),
            thousands(found["num_jets"]),
        ]
        for method, found in metrics["ensembles"].items()
    ]


def working_point(metrics: Mapping[str, Any]) -> str:
    """Write the signal efficiency of the first working point, %."""
    return f"{100 * metrics['evaluation']['working_points'][0]:g}"


def background_point(metrics: Mapping[str, Any]) -> str:
    """Write the background efficiency at which the mass is compared, %."""
    return f"{100 * metrics['evaluation']['background_efficiency']:g}"


def rejection_names(metrics: Mapping[str, Any]) -> list[str]:
    """Write the signal efficiencies, %."""
    return [f"{100 * efficiency:g}" for efficiency in metrics["evaluation"]["signal_efficiencies"]]


def per_jet(seconds: float | None) -> str:
    """Write the time of one jet."""
    if seconds is None:
        return DASH
    return f"{1e3 * seconds:.3g} ms" if seconds >= 1e-3 else f"{1e6 * seconds:.3g} \N{MICRO SIGN}s"


def _rows_of(metrics: Mapping[str, Any], found: Mapping[str, Any], method: str) -> Iterator[tuple[str, list[str]]]:
    facts = metrics.get("training", {}).get(method, {})
    count = facts.get("num_parameters")
    times = duration(facts.get("train_seconds")), per_jet(facts.get("infer_seconds_per_jet"))
    known = [DASH if count is None else thousands(int(count)), *times]
    numbers = found["headline"][method]
    yield method, [*_cells(metrics, numbers, numbers), *known]
    if seeds := found["seeds"].get(method):
        errors = {f"{name}_error": value for name, value in seeds["deviation"].items()}
        yield f"{method}, {len(seeds['members'])} seeds", [*_cells(metrics, seeds["mean"], errors), known[0], DASH, DASH]
    if after := found["ddt"].get(method, {}).get("decorrelated"):
        at = after["sculpting"][AT_SIGNAL] or {}
        shown = {**dict.fromkeys(numbers), **after}
        shown |= {"divergence": at.get("divergence"), "divergence_error": at.get("divergence_error")}
        yield AFTER_DDT.format(method), [*_cells(metrics, shown, shown), known[0], DASH, DASH]


def _cells(metrics: Mapping[str, Any], values: Record, errors: Record) -> list[str]:
    areas = ["accuracy", *(["mean_area"] if "one_versus_one" in metrics else []), "area"]
    merged = {**values, **{key: value for key, value in errors.items() if key.endswith("_error")}}
    limit = metrics["evaluation"]["min_passed"]
    return [
        *(significant(values[name], errors[f"{name}_error"], AREA_DIGITS) for name in areas),
        *(rejection_text(merged, f"rejection_{name}", limit) for name in rejection_names(metrics)),
        _thousandths(values["divergence"], errors["divergence_error"]),
    ]


def _sculpting_cells(found: Record | None) -> list[str]:
    if found is None:
        return [DASH, DASH, "too few"]
    return [
        _thousandths(found["divergence"], found["divergence_error"]),
        _thousandths(found["of_chance"], None),
        thousands(found["num_passed"]),
    ]


def _thousandths(value: float | None, error: float | None) -> str:
    if value is None:
        return DASH
    return significant(1e3 * value, None if error is None else 1e3 * error) if error else f"{1e3 * value:.2g}"


def _both_errors(known: Mapping[str, Record], methods: tuple[str, str], name: str) -> float:
    return float(sum(known[method][f"{name}_error"] ** 2 for method in methods) ** 0.5)


def _exponent(value: float) -> int:
    return int(f"{value:e}".split("e")[1])
