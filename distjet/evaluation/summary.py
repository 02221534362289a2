"""All numbers of an evaluation, in the order in which the report tells them.

What a table does not hold is not measured; each such number is named with the reason, and so is everything that was cut away.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from distjet.evaluation.axes import Bins, energy_bins, eta_bins, mass_bins, pt_bins
from distjet.evaluation.config import FEWEST_REPLICAS, ResponseConfig
from distjet.evaluation.density import density_methods, summarise_density
from distjet.evaluation.dependence import summarise_flavour, summarise_properties
from distjet.evaluation.headline import headline
from distjet.evaluation.mass import summarise_beyond_energy
from distjet.evaluation.pileup import summarise_pileup
from distjet.evaluation.predictions import Predictions
from distjet.evaluation.resolution import fit_resolutions
from distjet.evaluation.response import (
    binned_response,
    mass_methods,
    massive_jets,
    select_jets,
    summarise_residual,
    summarise_response,
)

Metrics = dict[str, Any]
Make = Callable[[], Metrics]

HEADLINE_GROUPS = ("energy_response_pt", "mass_response_pt", "pileup")


def summarise(predictions: Predictions, config: ResponseConfig) -> Metrics:
    """All numbers of the evaluation as one nested dict, fit for JSON.

    Args:
        predictions: All jets of the table; the selection is applied here.
        config: Selection, bins, estimator.

    Returns:
        `headline` per method; the groups of the module (`energy_response`, `pileup`, ...), each per method; how many jets were
        left out and why; and `not_made`, the groups that the table does not allow, each with the reason.

    Raises:
        DataError: If no jet is left.
    """
    jets = select_jets(predictions, config)
    metrics = _counts(predictions, jets, config)
    groups, reasons = _possible(predictions, jets, config)
    metrics |= {name: make() for name, make in groups.items()}
    metrics["properties"] = {name: metrics.pop(name) for name in config.dependence.properties if name in metrics}
    if "energy_response_pt" in metrics:
        metrics["resolution_fit"] = {m: fit_resolutions(s["bins"]) for m, s in metrics["energy_response_pt"].items()}
    if "mass_response_pt" in metrics:
        metrics["mass_beyond_energy"] = summarise_beyond_energy(metrics["mass_response_pt"])
    return {**metrics, "headline": {method: headline(metrics, method) for method in jets.methods}, "not_made": reasons}


def summarise_headline(predictions: Predictions, config: ResponseConfig) -> Metrics:
    """The groups that headline numbers are taken from, quickly: with few bootstrap replicas, so with rough errors."""
    quick = config.model_copy(update={"estimator": config.estimator.model_copy(update={"num_replicas": FEWEST_REPLICAS})})
    groups, _ = _possible(predictions, jets := select_jets(predictions, quick), quick)
    return {"methods": list(jets.methods)} | {name: groups[name]() for name in HEADLINE_GROUPS if name in groups}


def _counts(predictions: Predictions, jets: Predictions, config: ResponseConfig) -> Metrics:
    inside = sum(len(rows) for rows in energy_bins(jets, config).rows(jets, jets.reference))
    metrics = {
        "num_jets_total": predictions.num_jets_total,
        "num_jets": jets.num_jets,
        "num_jets_outside_bins": jets.num_jets - inside,
        "methods": list(jets.methods),
    }
    if "mass" in config.observables:
        metrics["num_jets_below_true_mass"] = int(np.sum(jets.columns["true_mass"] <= config.mass_true_min_gev))
    return metrics


def _possible(predictions: Predictions, jets: Predictions, config: ResponseConfig) -> tuple[dict[str, Make], dict[str, str]]:
    """What can be measured with this table, and why the rest cannot."""
    groups = _of_observables(predictions, jets, config)
    reasons: dict[str, str] = {}
    if "energy" not in config.observables:
        return groups, reasons
    optional: dict[str, tuple[tuple[str, ...], Make]] = {
        "energy_response_reco_pt": (("M_pt",), partial(_response, predictions, "energy", config, pt_bins(config, "reco_pt"))),
        "pileup": (("M_pt", "npv", "mu"), partial(summarise_pileup, jets, config)),
        "flavour": (("flavour",), partial(summarise_flavour, jets, config)),
        **{name: ((name,), partial(summarise_properties, jets, name, config)) for name in config.dependence.properties},
    }
    for name, (columns, make) in optional.items():
        if lacking := jets.lacking(*columns):
            reasons[name] = f"no column {', '.join(lacking)}"
        else:
            groups[name] = make
    if density_methods(predictions):
        groups["density"] = partial(summarise_density, predictions, config)
    return groups, reasons


def _of_observables(predictions: Predictions, jets: Predictions, config: ResponseConfig) -> dict[str, Make]:
    """What every table allows; jets in bins of a reconstructed quantity are all jets, as nobody could cut on the truth."""
    groups: dict[str, Make] = {}
    if "energy" in config.observables:
        reconstructed = energy_bins(predictions, config, "reco_energy")
        groups |= {
            "energy_response": partial(_response, jets, "energy", config, energy_bins(jets, config)),
            "energy_response_pt": partial(_response, jets, "energy", config, pt_bins(config)),
            "energy_response_eta": partial(_response, jets, "energy", config, eta_bins(config)),
            "energy_response_reco_energy": partial(_response, predictions, "energy", config, reconstructed),
        }
    if "mass" in config.observables:
        massive = massive_jets(jets, config)
        groups |= {
            "mass_response": partial(_response, massive, "mass", config, energy_bins(jets, config)),
            "mass_response_pt": partial(_response, massive, "mass", config, pt_bins(config)),
            "mass_response_shape": partial(_response, massive, "mass", config, mass_bins(config)),
        }
    if "rapidity" in config.observables:
        groups["rapidity_residual"] = partial(_residual, jets, config)
    return groups


def _response(jets: Predictions, observable: str, config: ResponseConfig, bins: Bins) -> Metrics:
    methods = mass_methods(jets) if observable == "mass" else jets.methods
    return {method: summarise_response(binned_response(jets, method, observable, config, bins)) for method in methods}


def _residual(jets: Predictions, config: ResponseConfig) -> Metrics:
    return {method: summarise_residual(binned_response(jets, method, "rapidity", config)) for method in jets.methods}
