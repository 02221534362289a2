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

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distjet.errors import DataError
from distjet.evaluation.axes import Bins, Record, energy_bins
from distjet.evaluation.config import EstimatorConfig, ResponseConfig
from distjet.evaluation.estimators import (
    MIN_ENTRIES,
    Estimate,
    checked_histograms,
    core_status,
    estimate_many,
    fit_cores,
)
from distjet.evaluation.predictions import Predictions

Array = NDArray[np.float64]

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


def massive_jets(predictions: Predictions, config: ResponseConfig) -> Predictions:
    """Keep the jets whose true mass can be a denominator."""
    keep = predictions.columns["true_mass"] > config.mass_true_min_gev
    return predictions if np.all(keep) else predictions.select(keep)


def binned_response(
    predictions: Predictions, method: str, observable: str, config: ResponseConfig, bins: Bins | None = None
) -> list[Record]:
    """Scale and resolution in each bin.

    Args:
        predictions: Selected jets.
        method: One of the methods; for the mass also `<method>_mass_scaled`.
        observable: `energy`, `mass` (responses) or `rapidity` (residual).
        config: Thresholds, estimator.
        bins: By default those of the true energy.

    Returns:
        One record per bin. Numbers that need at least 10 jets are None below that.
    """
    if observable == "mass":
        predictions = massive_jets(predictions, config)
    bins = bins or energy_bins(predictions, config)
    values, x = observable_values(predictions, method, observable), bins.x.values(predictions, method)
    records, samples = [], []
    for limits, rows in zip(bins.limits(), bins.rows(predictions, method), strict=True):
        mean = {bins.x.mean: float(x[rows].mean()) if len(rows) else None}
        samples.append((values[rows], predictions.columns["weight"][rows] if config.use_weights else None))
        records.append(limits | mean | entries(*samples[-1], config))
    enough = [record["num_effective"] >= MIN_ENTRIES for record in records]
    estimates = iter(estimate_many([sample for sample, some in zip(samples, enough, strict=True) if some], config.estimator))
    found = [next(estimates) if some else None for some in enough]
    numbers = _residual_numbers if observable == "rapidity" else _response_numbers
    return [record | numbers(result) for record, result in zip(records, found, strict=True)]


def entries(values: Array, weights: Array | None, config: ResponseConfig) -> Record:
    """Count the jets of a bin, and say what they are enough for."""
    num_effective = effective_entries(len(values), weights)
    return {
        "num_jets": len(values),
        "num_effective": num_effective,
        "enough_entries": num_effective > config.min_entries,
        "drawn": num_effective >= config.min_entries_drawn,
    }


def effective_entries(num_jets: int, weights: Array | None) -> float:
    """Return the number of unweighted jets that would have the same statistical error."""
    if weights is None:
        return float(num_jets)
    squares = float(np.sum(weights**2))
    return float(np.sum(weights)) ** 2 / squares if squares > 0 else 0.0


def summarise_response(records: list[Record]) -> Record:
    """Headline numbers of a response, and its bins."""
    used = headline_bins(records)
    return {
        **worst_of(used, "scale_core", "max_abs_bias"),
        **mean_abs_of(used, "scale_core", "mean_abs_bias"),
        **worst_of(used, "scale_median", "max_abs_bias_median"),
        **mean_abs_of(used, "scale_median", "mean_abs_bias_median"),
        **mean_of(used, "resolution", "mean_resolution"),
        **mean_of(used, "core_resolution", "mean_core_resolution"),
        "num_bins": len(used),
        "num_bins_without_core": sum(record["core_status"] != "ok" for record in used),
        "bins": records,
    }


def summarise_residual(records: list[Record]) -> Record:
    """Headline numbers of a residual, and its bins."""
    used = headline_bins(records)
    return {
        **worst_of(used, "median", "max_abs_median", expected=0.0),
        **mean_of(used, "width", "mean_width"),
        "num_bins": len(used),
        "bins": records,
    }


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


def worst_of(used: list[Record], key: str, name: str, expected: float = 1.0) -> Record:
    """The largest distance of a number from what is expected, with the error of that bin."""
    if not used:
        return {name: None, f"{name}_error": None}
    found = max(used, key=lambda record: abs(record[key] - expected))
    return {name: abs(found[key] - expected), f"{name}_error": found[f"{key}_error"]}


def mean_abs_of(used: list[Record], key: str, name: str, expected: float = 1.0) -> Record:
    """The mean distance of a number from what is expected."""
    return _average([abs(record[key] - expected) for record in used], [record[f"{key}_error"] for record in used], name)


def mean_of(used: list[Record], key: str, name: str) -> Record:
    """The mean of a number over bins."""
    return _average([record[key] for record in used], [record[f"{key}_error"] for record in used], name)


def _average(values: list[float], errors: list[float], name: str) -> Record:
    """Unweighted mean over bins; bins are statistically independent."""
    if not values:
        return {name: None, f"{name}_error": None}
    return {name: float(np.mean(values)), f"{name}_error": float(np.sqrt(np.sum(np.square(errors))) / len(errors))}
