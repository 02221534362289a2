"""Is a predicted distribution of the response true?

The probability integral transform (PIT) of a jet is the predicted probability of a response below the one that it has. If every
predicted distribution is true, it is uniform between 0 and 1, and the central interval of probability c holds a share c of the
jets, which is the same statement: a jet lies inside if |PIT - 1/2| < c / 2.

Decisions a reader would question:

* ALL jets of the table are used, also those below the cut in true pT. A density of the response given what is reconstructed is
  not true any more for jets that were chosen by the truth.
* For the same reason, a model that was trained with weights is true under these weights alone; a table with a column
  M_pit_weight is judged with them.
* The test of Kolmogorov and Smirnov sees a fixed number of jets: with a million of them it rejects what is good enough for any
  use. Its largest distance over all jets stands beside it, and does say how good.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distjet.evaluation.config import DensityConfig, ResponseConfig
from distjet.evaluation.predictions import Predictions
from distjet.evaluation.response import effective_entries

Array = NDArray[np.float64]


def density_methods(predictions: Predictions) -> list[str]:
    """List the methods that predict a distribution."""
    return [method for method in predictions.methods if f"{method}_pit" in predictions.columns]


def summarise_density(predictions: Predictions, config: ResponseConfig) -> dict[str, Any]:
    """Histogram, test of uniformity and coverage of each method that predicts a distribution.

    Args:
        predictions: All jets of the table.
        config: Bins, levels, size of the test.
    """
    found = {}
    for method in density_methods(predictions):
        pit = predictions.columns[f"{method}_pit"]
        weights = predictions.columns.get(f"{method}_pit_weight")
        found[method] = {
            "num_jets": len(pit),
            "weighted": weights is not None,
            **uniformity(pit, weights, config.density, config.estimator.seed),
            **_histogram(pit, weights, config.density),
            **coverage(pit, weights, config.density),
        }
    return found


def uniformity(pit: Array, weights: Array | None, config: DensityConfig, seed: int) -> dict[str, Any]:
    """Test whether values are uniform between 0 and 1.

    Args:
        pit: Shape (N,), N > 0.
        weights: Shape (N,), not negative; None for 1.
        config: How many jets the test sees.
        seed: Of their choice, which does not depend on the order of the jets.

    Returns:
        `ks_distance` of all jets; `ks_p_value` and the effective number `ks_num_jets` of those in the test.
    """
    from scipy.stats import kstwobign

    w = np.ones_like(pit) if weights is None else weights
    order = np.lexsort((w, pit))
    pit, w = pit[order], w[order]
    chosen = np.random.default_rng(seed).permutation(len(pit))[: config.num_test_jets]
    chosen.sort()
    number = effective_entries(len(chosen), w[chosen])
    distance = _distance(pit[chosen], w[chosen])
    # Stephens 1970: makes the asymptotic distribution hold for few jets too
    stretched = distance * (np.sqrt(number) + 0.12 + 0.11 / np.sqrt(number))
    return {
        "ks_distance": _distance(pit, w),
        "ks_p_value": float(kstwobign.sf(stretched)),
        "ks_num_jets": number,
    }


def coverage(pit: Array, weights: Array | None, config: DensityConfig) -> dict[str, Any]:
    """Share of the jets in the central interval of each probability.

    Args:
        pit: Shape (N,), N > 0.
        weights: Shape (N,), not negative; None for 1.
        config: The probabilities.

    Returns:
        `coverage`: one record per level with `level`, `covered` and its binomial error; `max_abs_coverage_difference`.
    """
    inside = np.abs(pit - 0.5)[:, None] < np.asarray(config.levels) / 2
    covered = np.average(inside, axis=0, weights=weights)
    errors = np.sqrt(covered * (1 - covered) / effective_entries(len(pit), weights))
    records = [
        {"level": level, "covered": float(share), "covered_error": float(error)}
        for level, share, error in zip(config.levels, covered, errors, strict=True)
    ]
    return {"coverage": records, "max_abs_coverage_difference": float(np.max(np.abs(covered - np.asarray(config.levels))))}


def _distance(ordered: Array, weights: Array) -> float:
    """Largest distance between the cumulated share of the jets and the diagonal; `ordered` ascends."""
    total = np.cumsum(weights)
    above = total / total[-1] - ordered
    below = ordered - (total - weights) / total[-1]
    return float(max(above.max(), below.max()))


def _histogram(pit: Array, weights: Array | None, config: DensityConfig) -> dict[str, Any]:
    """Density per bin, which is 1 for a true prediction, with statistical errors."""
    w = np.ones_like(pit) if weights is None else weights
    edges = np.linspace(0, 1, config.num_bins + 1)
    sums, squares = (np.histogram(pit, edges, weights=v)[0] for v in (w, w**2))
    norm = w.sum() / config.num_bins
    return {
        "pit_edges": edges.tolist(),
        "pit_density": (sums / norm).tolist(),
        "pit_density_error": (np.sqrt(squares) / norm).tolist(),
    }
