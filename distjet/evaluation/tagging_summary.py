"""All numbers of an evaluation of taggers, in the order in which the report tells them.

What a table does not allow is not measured; each such number is named with the reason.
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from distjet.errors import DataError
from distjet.evaluation.axes import Record
from distjet.evaluation.discriminants import Duel, curve_record, percent_name, separation
from distjet.evaluation.ensemble_spread import summarise_spread
from distjet.evaluation.multiclass import accuracy_of, confusion_of, one_versus_one
from distjet.evaluation.robustness import in_order_of, summarise_variation
from distjet.evaluation.score_tables import TaggedJets, discriminants_of
from distjet.evaluation.seeds import mean_and_deviation
from distjet.evaluation.tagging import Scores, roc, threshold_at_signal
from distjet.evaluation.tagging_config import TaggingConfig
from distjet.evaluation.tagging_mass import AT_BACKGROUND, AT_SIGNAL, mass_edges, sculpting, summarise_ddt
from distjet.evaluation.working_points import binned_efficiency

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
Metrics = dict[str, Any]

WIDE = 4.0
"Where the largest value is so many times the smallest, bins are made in its logarithm."
BULK = (0.01, 0.99)
"Bins that are chosen span this part of the jets."


def summarise_tagging(jets: TaggedJets, variations: Mapping[str, TaggedJets], config: TaggingConfig) -> Metrics:
    """All numbers of the evaluation as one nested dict, fit for JSON.

    Args:
        jets: Those of the tables.
        variations: Other jets with the same methods, by name.
        config: Classes, working points, bins.

    Returns:
        `headline` per method; `discriminants`, `efficiency_pt`, `efficiency_mass`, `sculpting`, `confusion`, `one_versus_one`,
        `ddt`, `variations` and `ensembles`; how many jets there are; and `not_made`, with reasons.

    Raises:
        DataError: If a discriminant has no jets of one side, or a variation lacks a class or a method.
    """
    duels = [Duel.of(jets, named, config) for named in discriminants_of(jets.classes, config).items()]
    main = duels[0]
    edges = mass_edges(main, config)
    pt_edges = config.pt_edges_gev or round_edges(main.jets.pt, config.num_bins)
    mass_bins = config.mass_edges_gev or round_edges(main.jets.mass, config.num_bins, may_be_logarithmic=False)
    not_made: dict[str, str] = {}
    metrics: Metrics = {
        "classes": list(jets.classes),
        "methods": list(jets.methods),
        "num_jets_total": jets.num_jets_total,
        "num_jets": jets.num_jets,
        "num_jets_of": {name: int(np.sum(jets.label == number)) for number, name in enumerate(jets.classes)},
        "main": main.name,
        "mass_edges_gev": edges.tolist(),
        "num_outside_mass": int(np.sum(~main.is_signal & ((main.jets.mass < edges[0]) | (main.jets.mass >= edges[-1])))),
        "accuracy": {method: _accuracy(jets, method) for method in jets.methods},
        "discriminants": {duel.name: _discriminant(duel, config) for duel in duels},
        "efficiency_pt": _binned(main, main.jets.pt, pt_edges, config),
        "efficiency_mass": _binned(main, main.jets.mass, mass_bins, config),
        "sculpting": {method: sculpting(main.scores(method), main.jets.mass, edges, config) for method in jets.methods},
        "confusion": {method: confusion_of(jets, method) for method in jets.methods},
        "ensembles": {method: summarise_spread(jets, method) for method in jets.methods if method in jets.spreads},
        "ddt": _ddt(main, edges, config, not_made),
        "variations": {name: _variation(main, some, config) for name, some in variations.items()},
    }
    if len(jets.classes) > 2:
        metrics["one_versus_one"] = {method: one_versus_one(jets, method) for method in jets.methods}
    return {**metrics, "headline": {method: headline(metrics, method, config) for method in jets.methods}, "not_made": not_made}


def summarise_numbers(jets: TaggedJets, config: TaggingConfig) -> Metrics:
    """Return the headline numbers alone of the first method, for the spread over seeds."""
    method = jets.methods[0]
    main = Duel.of(jets, next(iter(discriminants_of(jets.classes, config).items())), config)
    metrics: Metrics = {
        "main": main.name,
        "accuracy": {method: _accuracy(jets, method)},
        "discriminants": {main.name: {"methods": {method: separation(main.scores(method), config)}}},
        "sculpting": {method: sculpting(main.scores(method), main.jets.mass, mass_edges(main, config), config)},
    }
    if len(jets.classes) > 2:
        metrics["one_versus_one"] = {method: one_versus_one(jets, method)}
    return headline(metrics, method, config)


def summarise_tagger_seeds(members: list[tuple[Mapping[str, Any], Record]]) -> Record:
    """Mean and standard deviation over seeds of every headline number.

    Args:
        members: Per seed what is known of its training, and its headline numbers.
    """
    rows = [{**facts, **numbers} for facts, numbers in members]
    names = [name for name in members[0][1] if not name.endswith(("_error", "_passed"))]
    found = {name: mean_and_deviation([row[name] for row in rows]) for name in names}
    return {
        "members": rows,
        "mean": {name: some and some[0] for name, some in found.items()},
        "deviation": {name: some and some[1] for name, some in found.items()},
    }


def headline(metrics: Mapping[str, Any], method: str, config: TaggingConfig) -> Record:
    """Pick the headline numbers of a method, with their errors: accuracy, area, rejections and divergences."""
    main = metrics["discriminants"][metrics["main"]]["methods"][method]
    rejections = (f"rejection_{percent_name(efficiency)}" for efficiency in config.signal_efficiencies)
    found = {key: main[key] for name in ("area", *rejections) for key in (name, f"{name}_error")}
    found |= {f"rejection_{p}_passed": main[f"rejection_{p}_passed"] for p in map(percent_name, config.signal_efficiencies)}
    for name, cut in (("divergence", AT_SIGNAL), ("divergence_at_background", AT_BACKGROUND)):
        at = metrics["sculpting"][method][cut] or {}
        found |= {name: at.get("divergence"), f"{name}_error": at.get("divergence_error")}
    if pairs := metrics.get("one_versus_one"):
        found |= {key: pairs[method][key] for key in ("mean_area", "mean_area_error")}
    return {**metrics["accuracy"][method], **found}


def round_edges(values: Array, num_bins: int, *, may_be_logarithmic: bool = True) -> tuple[float, ...]:
    """Choose round edges of about so many bins that span the bulk of the values, in their logarithm if they reach far."""
    low, high = (float(limit) for limit in np.quantile(values, BULK))
    if may_be_logarithmic and low > 0 and high / low > WIDE:
        edges = np.geomspace(low, high, num_bins + 1)
        digits = 1 - np.floor(np.log10(edges))
        return tuple(sorted({float(round(edge, int(digit))) for edge, digit in zip(edges, digits, strict=True)}))
    ticks = MaxNLocator(nbins=num_bins).tick_values(low, high if high > low else low + 1)
    return tuple(float(tick) for tick in ticks if tick >= 0)


def _accuracy(jets: TaggedJets, method: str) -> Record:
    found = accuracy_of(jets, method)
    return {"accuracy": found.value, "accuracy_error": found.error}


def _discriminant(duel: Duel, config: TaggingConfig) -> Record:
    methods, curves = {}, {}
    unweighted = replace(duel, weight=duel.jets.weight)
    for method in duel.jets.methods:
        scores = duel.scores(method)
        methods[method] = separation(scores, config)
        curves[method] = curve_record(scores)
        if config.reweight_pt:
            plain = separation(unweighted.scores(method), config)
            methods[method] |= {f"{key}_without_reweighting": plain[key] for key in ("area", "area_error")}
    return {
        "signal": list(duel.config.signal),
        "background": list(duel.config.background),
        "num_signal": int(duel.is_signal.sum()),
        "num_background": int((~duel.is_signal).sum()),
        "pt_overlap": duel.pt_overlap,
        "methods": methods,
        "curves": curves,
    }


def _binned(duel: Duel, values: Array, edges: tuple[float, ...], config: TaggingConfig) -> dict[str, Any]:
    """Efficiencies of signal and background at the working points, in bins."""
    found: dict[str, Any] = {}
    for method in duel.jets.methods:
        scores = duel.scores(method)
        found[method] = {
            percent_name(efficiency): _sides(duel, scores, efficiency, (values, edges), config)
            for efficiency in config.working_points
        }
    return found


def _sides(
    duel: Duel, scores: Scores, efficiency: float, binning: tuple[Array, tuple[float, ...]], config: TaggingConfig
) -> dict[str, list[Record]]:
    values, edges = binning
    passes = scores.score >= threshold_at_signal(roc(scores), efficiency)
    return {
        name: binned_efficiency(
            duel.passing(passes, signal=signal), values[duel.is_signal == signal], edges, config.min_entries
        )
        for name, signal in (("signal", True), ("background", False))
    }


def _ddt(duel: Duel, edges: Array, config: TaggingConfig, not_made: dict[str, str]) -> dict[str, Record]:
    wanted = duel.jets.methods if config.ddt.methods is None else config.ddt.methods
    found = {}
    for method in wanted:
        if method not in duel.jets.methods:
            raise DataError(f"ddt.methods names {method!r}; the tables have {list(duel.jets.methods)}")
        try:
            found[method] = summarise_ddt(duel, method, edges, config)
        except DataError as error:
            not_made[f"DDT of {method}"] = str(error)
    return found


def _variation(main: Duel, varied: TaggedJets, config: TaggingConfig) -> Record:
    if varied.classes != main.jets.classes:
        raise DataError(f"{varied.source} has the classes {list(varied.classes)}; expected {list(main.jets.classes)}")
    logger.info("comparing %s jets of %s", f"{varied.num_jets:,}", varied.source)
    other = Duel.of(varied, (main.name, main.config), config)
    aligned, same = in_order_of(main.jets, other.jets)
    if same:
        other = Duel.of(aligned, (main.name, main.config), config)
    methods = {method: summarise_variation(main, other, method, config) for method in main.jets.methods}
    return {"source": str(varied.source), "num_jets": varied.num_jets, "same_jets": same, "methods": methods}
