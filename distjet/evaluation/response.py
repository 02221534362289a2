"""How well do a method's energies, masses and rapidities agree with the truth, bin by bin and in one number?

Decisions a reader would question:

* Every headline number is taken over the same bins for all methods: those with more than `min_entries` jets.
* The bias of a bin is |core - 1|; the median stands beside it, since a method can be unbiased in one and not in the other.
* The worst bin is quoted with the statistical error OF THAT BIN. The largest of many fluctuating numbers is above zero even for
  a perfect calibration; its error says by how much.
* The mass is also compared with the reference mass scaled by the method's energy correction: only what is better than that has
  learnt something about the mass.

Records and metrics are plain dicts: what stands in metrics.json is what plots, report and tables are made from.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distjet.errors import DataError
from distjet.evaluation.config import EstimatorConfig, ResponseConfig
from distjet.evaluation.estimators import (
    MIN_ENTRIES,
    Estimate,
    checked_histograms,
    core_status,
    estimate,
    fit_cores,
)
from distjet.evaluation.predictions import Predictions

Array = NDArray[np.float64]
Record = dict[str, Any]

SCALED_SUFFIX = "_mass_scaled"
"`calibrated_mass_scaled` is the reference mass, multiplied by the energy correction of `calibrated`."


def select_jets(predictions: Predictions, config: ResponseConfig) -> Predictions:
    """Keep the jets above the true pT threshold.

    Raises:
        DataError: If none is left.
    """
    selected = predictions.select(predictions.columns["true_pt"] > config.pt_true_min_gev)
    if selected.num_jets == 0:
        raise DataError(
            f"{predictions.source}: none of {predictions.num_jets} jets has true_pt > {config.pt_true_min_gev:g} GeV; "
            "lower pt_true_min_gev"
        )
    return selected


def observable_values(predictions: Predictions, method: str, observable: str) -> Array:
    """Response (energy, mass: dimensionless) or residual (rapidity) of each jet, shape (J,).

    Raises:
        DataError: If a reference energy is not positive, so that the mass cannot be scaled.
    """
    columns = predictions.columns
    if observable == "rapidity":
        return columns[f"{method}_rapidity"] - columns["true_rapidity"]
    if observable == "mass" and method.endswith(SCALED_SUFFIX):
        return _scaled_mass(predictions, method.removesuffix(SCALED_SUFFIX)) / columns["true_mass"]
    return columns[f"{method}_{observable}"] / columns[f"true_{observable}"]


def mass_methods(predictions: Predictions) -> tuple[str, ...]:
    """List the methods and, for each but the reference, the reference mass scaled by its energy correction."""
    reference, *others = predictions.methods
    return (reference, *(name for method in others for name in (f"{method}{SCALED_SUFFIX}", method)))


def rows_per_bin(predictions: Predictions, config: ResponseConfig) -> dict[tuple[int, int], NDArray[np.intp]]:
    """Row numbers of the jets in each (|eta|, energy) bin; low edges belong to their bin."""
    energy_edges, eta_edges = np.asarray(energy_edges_gev(predictions, config)), np.asarray(config.abs_eta_edges)
    energy = np.searchsorted(energy_edges, predictions.columns["true_energy"], side="right") - 1
    eta = np.searchsorted(eta_edges, np.abs(predictions.columns["true_eta"]), side="right") - 1
    num_energy, num_eta = len(energy_edges) - 1, len(eta_edges) - 1
    inside = (energy >= 0) & (energy < num_energy) & (eta >= 0) & (eta < num_eta)
    flat = np.where(inside, eta * num_energy + energy, num_eta * num_energy)
    order = np.argsort(flat, kind="stable")
    bounds = np.searchsorted(flat[order], np.arange(num_eta * num_energy + 1))
    return {divmod(i, num_energy): order[bounds[i] : bounds[i + 1]] for i in range(num_eta * num_energy)}


def energy_edges_gev(predictions: Predictions, config: ResponseConfig) -> tuple[float, ...]:
    """Edges of the bins in true energy: configured, or log-spaced over the range of the jets."""
    if config.energy_edges_gev is not None:
        return tuple(float(edge) for edge in config.energy_edges_gev)
    energy = predictions.columns["true_energy"]
    low, high = float(energy.min()), float(energy.max()) * (1 + 1e-9)
    return tuple(np.geomspace(low, max(high, low * 1.01), config.num_log_energy_bins + 1).tolist())


def binned_response(predictions: Predictions, method: str, observable: str, config: ResponseConfig) -> list[Record]:
    """Scale and resolution in each (|eta|, energy) bin.

    Args:
        predictions: Selected jets.
        method: One of the methods; for the mass also `<method>_mass_scaled`.
        observable: `energy`, `mass` (responses) or `rapidity` (residual).
        config: Bins, thresholds, estimator.

    Returns:
        One record per bin. Numbers that need at least 10 jets are None below that.
    """
    if observable == "mass":
        predictions = predictions.select(predictions.columns["true_mass"] > config.mass_true_min_gev)
    values = observable_values(predictions, method, observable)
    energy_edges = energy_edges_gev(predictions, config)
    records = []
    for (eta_bin, energy_bin), rows in rows_per_bin(predictions, config).items():
        record: Record = {
            "energy_low_gev": energy_edges[energy_bin],
            "energy_high_gev": energy_edges[energy_bin + 1],
            "abs_eta_low": float(config.abs_eta_edges[eta_bin]),
            "abs_eta_high": float(config.abs_eta_edges[eta_bin + 1]),
            "mean_energy_gev": float(predictions.columns["true_energy"][rows].mean()) if len(rows) else None,
        }
        weights = predictions.columns["weight"][rows] if config.use_weights else None
        records.append(record | _bin_numbers(values[rows], weights, observable, config))
    return records


def summarise(predictions: Predictions, config: ResponseConfig) -> dict[str, Any]:
    """All numbers of the evaluation as one nested dict, fit for JSON.

    Args:
        predictions: All jets of the table; the selection is applied here.
        config: Selection, bins, estimator.

    Returns:
        `num_jets_total`, `num_jets`, `num_jets_outside_bins`, and `energy_response`, `mass_response`, `rapidity_residual`, each
        with headline numbers and `bins` per method.

    Raises:
        DataError: If no jet is left.
    """
    jets = select_jets(predictions, config)
    inside = sum(len(rows) for rows in rows_per_bin(jets, config).values())
    metrics: dict[str, Any] = {
        "num_jets_total": predictions.num_jets_total,
        "num_jets": jets.num_jets,
        "num_jets_outside_bins": jets.num_jets - inside,
        "methods": list(jets.methods),
    }
    if "energy" in config.observables:
        metrics["energy_response"] = {m: _response_summary(binned_response(jets, m, "energy", config)) for m in jets.methods}
    if "mass" in config.observables:
        metrics["num_jets_below_true_mass"] = int(np.sum(jets.columns["true_mass"] <= config.mass_true_min_gev))
        metrics["mass_response"] = {m: _response_summary(binned_response(jets, m, "mass", config)) for m in mass_methods(jets)}
    if "rapidity" in config.observables:
        metrics["rapidity_residual"] = {
            m: _residual_summary(binned_response(jets, m, "rapidity", config)) for m in jets.methods
        }
    return metrics


def closure_from_histograms(
    counts: ArrayLike, response_centres: ArrayLike, min_entries: int = 200, settings: EstimatorConfig | None = None
) -> dict[str, float]:
    """Headline numbers from response histograms, for the validation of a training: the estimator of the report, without errors.

    If no bin holds more than `min_entries`, the sum of all bins is used as one, and `num_bins` is 0.

    Args:
        counts: Entries, shape (B, R): energy (and |eta|) bins x response bins; what lies outside belongs
            in the first or last bin.
        response_centres: Shape (R,), increasing.
        min_entries: A bin counts if it holds more than this.
        settings: Estimator; None for its defaults.

    Returns:
        `max_abs_bias`, `mean_abs_bias`, `mean_resolution`, `num_bins`, `num_without_core` (bins where the median stands in).

    Raises:
        DataError: If there are fewer than 10 entries in all, or the shapes do not match.
    """
    settings = settings or EstimatorConfig()
    rows, edges = checked_histograms(counts, response_centres)
    if rows.sum() < MIN_ENTRIES:
        raise DataError(f"a closure needs at least {MIN_ENTRIES} jets (got {rows.sum():g}); use more validation jets")
    used = rows[rows.sum(axis=1) > min_entries]
    num_bins = len(used)
    cores = fit_cores(used if num_bins else rows.sum(axis=0, keepdims=True), edges, settings)
    bias = np.abs(cores.mean - 1)
    return {
        "max_abs_bias": float(bias.max()),
        "mean_abs_bias": float(bias.mean()),
        "mean_resolution": float(np.mean(cores.half_width / cores.median)),
        "num_bins": num_bins,
        "num_without_core": sum(core_status(cores, row) != "ok" for row in range(len(bias))),
    }


def headline_bins(records: list[Record]) -> list[Record]:
    """Keep the bins that enter headline numbers."""
    return [record for record in records if record["enough_entries"]]


def _scaled_mass(predictions: Predictions, method: str) -> Array:
    """M_reference * E_method / E_reference in GeV."""
    reference = predictions.reference
    energy = predictions.columns[f"{reference}_energy"]
    if np.any(energy <= 0):
        raise DataError(f"{predictions.source}: {reference}_energy must be positive to scale the mass (got {energy.min()} GeV)")
    return predictions.columns[f"{reference}_mass"] * predictions.columns[f"{method}_energy"] / energy


def _bin_numbers(values: Array, weights: Array | None, observable: str, config: ResponseConfig) -> Record:
    num_effective = _effective_entries(values, weights)
    result = None if num_effective < MIN_ENTRIES else estimate(values, weights, config.estimator)
    numbers = {
        "num_jets": len(values),
        "num_effective": num_effective,
        "enough_entries": num_effective > config.min_entries,
        "drawn": num_effective >= config.min_entries_drawn,
    }
    return numbers | (_residual_numbers(result) if observable == "rapidity" else _response_numbers(result))


def _effective_entries(values: Array, weights: Array | None) -> float:
    if weights is None:
        return float(len(values))
    squares = float(np.sum(weights**2))
    return float(np.sum(weights)) ** 2 / squares if squares > 0 else 0.0


def _response_numbers(result: Estimate | None) -> Record:
    names = {"scale_core": "core", "scale_median": "median", "resolution": "resolution", "core_resolution": "core_resolution"}
    return _numbers(result, names) | {"core_status": result.core_status if result else "few entries"}


def _residual_numbers(result: Estimate | None) -> Record:
    return _numbers(result, {"median": "median", "width": "half_width"})


def _numbers(result: Estimate | None, names: dict[str, str]) -> Record:
    record: Record = {}
    for name, attribute in names.items():
        measurement = getattr(result, attribute) if result else None
        record |= {name: measurement and measurement.value, f"{name}_error": measurement and measurement.error}
    return record


def _response_summary(records: list[Record]) -> Record:
    used = headline_bins(records)
    return {
        **_worst(used, "scale_core", "max_abs_bias"),
        **_mean_abs(used, "scale_core", "mean_abs_bias"),
        **_worst(used, "scale_median", "max_abs_bias_median"),
        **_mean_abs(used, "scale_median", "mean_abs_bias_median"),
        **_mean(used, "resolution", "mean_resolution"),
        **_mean(used, "core_resolution", "mean_core_resolution"),
        "num_bins": len(used),
        "num_bins_without_core": sum(record["core_status"] != "ok" for record in used),
        "bins": records,
    }


def _residual_summary(records: list[Record]) -> Record:
    used = headline_bins(records)
    return {
        **_worst(used, "median", "max_abs_median", expected=0.0),
        **_mean(used, "width", "mean_width"),
        "num_bins": len(used),
        "bins": records,
    }


def _worst(used: list[Record], key: str, name: str, expected: float = 1.0) -> Record:
    if not used:
        return {name: None, f"{name}_error": None}
    worst = max(used, key=lambda record: abs(record[key] - expected))
    return {name: abs(worst[key] - expected), f"{name}_error": worst[f"{key}_error"]}


def _mean_abs(used: list[Record], key: str, name: str) -> Record:
    return _average([abs(record[key] - 1) for record in used], [record[f"{key}_error"] for record in used], name)


def _mean(used: list[Record], key: str, name: str) -> Record:
    return _average([record[key] for record in used], [record[f"{key}_error"] for record in used], name)


def _average(values: list[float], errors: list[float], name: str) -> Record:
    """Unweighted mean over bins; bins are statistically independent."""
    if not values:
        return {name: None, f"{name}_error": None}
    return {name: float(np.mean(values)), f"{name}_error": float(np.sqrt(np.sum(np.square(errors))) / len(errors))}
