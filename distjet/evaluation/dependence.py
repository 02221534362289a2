"""Does the response of a calibrated jet still depend on what the jet is made of?

Two questions with one cause: a calibration that knows only energy and direction is right for the mixture of jets that it was
made from, and wrong for each kind. Decisions a reader would question:

* Bins of true pT and |eta|, since quark jets are harder and more central than gluon jets.
* A property is standardised in each bin, so that a slope is the change of the response per standard deviation of the property
  at that pT, comparable between properties. The response is divided by its median in the bin: a wrong scale is not a
  dependence.
* The flavour of a jet is that of the hardest parton in it, which means something at leading order only. It is a label for two
  kinds of jets, not a truth.
"""

from typing import Any

import numpy as np

from distjet.evaluation.axes import Array, Bins, Record, Rows, pt_bins
from distjet.evaluation.config import ResponseConfig
from distjet.evaluation.predictions import Predictions
from distjet.evaluation.response import binned_response, entries, headline_bins, mean_abs_of, mean_of, observable_values
from distjet.evaluation.slopes import eta_limits, fit_slopes, largest, profile, rows_behind, slopes_by_eta

SLOPE = "slope_per_sd"


def summarise_properties(jets: Predictions, name: str, config: ResponseConfig) -> dict[str, Any]:
    """Slope of the energy response in a property (1 per standard deviation) of each method, and the profiles behind it.

    Args:
        jets: Selected jets that have the column `name`.
        name: The property.
        config: Bins and thresholds.
    """
    bins = pt_bins(config, edges_gev=config.dependence.pt_edges_gev)
    rows = bins.rows(jets, jets.reference)
    return {method: _of_method(jets, (method, name), (bins, rows), config) for method in jets.methods}


def summarise_flavour(jets: Predictions, config: ResponseConfig) -> dict[str, Any]:
    """Scale of quark jets less that of gluon jets, of each method.

    Args:
        jets: Selected jets with `flavour`.
        config: Bins, thresholds, and which pdg codes count.
    """
    bins = pt_bins(config, edges_gev=config.dependence.pt_edges_gev)
    code = np.abs(jets.columns["flavour"])
    kinds = [jets.select(np.isin(code, codes)) for codes in (config.dependence.quarks, config.dependence.gluons)]
    return {
        method: _flavours(*(binned_response(kind, method, "energy", config, bins) for kind in kinds)) for method in jets.methods
    }


def _flavours(quarks: list[Record], gluons: list[Record]) -> Record:
    records = [_difference(quark, gluon) for quark, gluon in zip(quarks, gluons, strict=True)]
    used = headline_bins(records)
    return {
        **mean_of(used, "difference_core", "mean_difference"),
        **mean_of(used, "difference_median", "mean_difference_median"),
        **mean_abs_of(used, "difference_core", "mean_abs_difference", expected=0.0),
        "num_bins": len(used),
        "bins": records,
    }


def _difference(quark: Record, gluon: Record) -> Record:
    """Quark less gluon: other jets, so their errors add in squares."""
    kept = {key: value for key, value in quark.items() if "_low" in key or "_high" in key}
    record = kept | {"num_quark_jets": quark["num_jets"], "num_gluon_jets": gluon["num_jets"]}
    record["num_jets"] = quark["num_jets"] + gluon["num_jets"]
    record |= {flag: quark[flag] and gluon[flag] for flag in ("enough_entries", "drawn")}
    means = [kind["mean_pt_gev"] for kind in (quark, gluon) if kind["mean_pt_gev"] is not None]
    record["mean_pt_gev"] = float(np.mean(means)) if means else None
    for name in ("core", "median"):
        both = [kind[f"scale_{name}"] is not None for kind in (quark, gluon)]
        value = quark[f"scale_{name}"] - gluon[f"scale_{name}"] if all(both) else None
        error = float(np.hypot(quark[f"scale_{name}_error"], gluon[f"scale_{name}_error"])) if all(both) else None
        record |= {f"difference_{name}": value, f"difference_{name}_error": error}
    return record


def _of_method(jets: Predictions, what: tuple[str, str], binned: tuple[Bins, list[Rows]], config: ResponseConfig) -> Record:
    method, name = what
    bins, rows = binned
    weights = jets.columns["weight"] if config.use_weights else np.ones(jets.num_jets)
    x, y = np.zeros(jets.num_jets), observable_values(jets, method, "energy")
    records = []
    for limits, found in zip(bins.limits(), rows, strict=True):
        if len(found):
            x[found] = _standardised(jets.columns[name][found])
            y[found] = _relative(y[found], weights[found])
        records.append(limits | _slope(x[found], y[found], weights[found] if config.use_weights else None, config))
    by_eta = slopes_by_eta(records, SLOPE)
    profiles = []
    for slope in by_eta:
        every = np.concatenate(rows_behind(slope, records, rows))
        points = profile(x[every], y[every], config.dependence.num_points, weights[every])
        profiles.append(eta_limits(slope) | {"points": points})
    mean = mean_abs_of(by_eta, SLOPE, f"mean_abs_{SLOPE}", expected=0.0)
    return {**largest(by_eta, SLOPE), **mean, "by_eta": by_eta, "profiles": profiles, "bins": records}


def _slope(x: Array, y: Array, weights: Array | None, config: ResponseConfig) -> Record:
    record = entries(y, weights, config)
    fitted = fit_slopes(y, x[:, None], weights) if record["drawn"] else None
    return record | {
        SLOPE: None if fitted is None else float(fitted.values[0]),
        f"{SLOPE}_error": None if fitted is None else float(fitted.errors[0]),
    }


def _standardised(values: Array) -> Array:
    """In units of standard deviations about the mean; a property that all jets share stays a constant, which has no slope."""
    spread = values.std()
    return (values - values.mean()) / (spread if spread > 0 else 1.0)


def _relative(response: Array, weights: Array) -> Array:
    """In units of its median, about its mean."""
    relative = response / np.median(response)
    return relative - np.average(relative, weights=weights)
