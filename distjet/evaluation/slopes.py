"""How does a quantity change, per unit of another, and how sure is that?

Ordinary least squares with a constant, by matrix algebra. Its errors come from the residuals themselves (the "sandwich" of
White, 1980, with the small-sample factor N / (N - K - 1)): they hold where the spread differs from jet to jet, as that of a pT
does, and need no model of it. Slopes of the bins of true pT are combined to one per |eta| bin with the weights 1 / error^2.
"""

from dataclasses import dataclass

import numpy as np

from distjet.evaluation.axes import Array, Record, Rows
from distjet.evaluation.response import effective_entries, headline_bins

SMALLEST_ERROR = 1e-12
MAX_CONDITION = 1e6
"Standardised predictors with a larger condition number are one and the same: no slope belongs to either."


@dataclass(frozen=True)
class Slopes:
    """Slopes in K quantities at the same time, each at fixed values of the others; shapes (K,)."""

    values: Array
    errors: Array


def fit_slopes(y: Array, predictors: Array, weights: Array | None = None) -> Slopes | None:
    """Fit y = constant + sum of slopes times predictors.

    Args:
        y: Shape (N,).
        predictors: Shape (N, K).
        weights: Shape (N,), not negative; None for 1.

    Returns:
        Slopes in units of y per unit of the predictor; None where the jets do not determine them: they are too few, or a
        predictor is constant or a combination of the others.
    """
    num_jets, num_slopes = predictors.shape
    w = np.ones(num_jets) if weights is None else weights
    if num_jets <= num_slopes + 1 or w.sum() <= 0:
        return None
    centred = predictors - np.average(predictors, axis=0, weights=w)
    spread = np.sqrt(np.average(centred**2, axis=0, weights=w))
    if np.any(spread <= 1e-9 * (1 + np.abs(predictors).max(axis=0))):
        return None
    unit = centred / spread
    normal = unit.T @ (unit * w[:, None])
    if np.linalg.cond(normal) > MAX_CONDITION:
        return None
    inverse = np.linalg.inv(normal)
    residual_y = y - np.average(y, weights=w)
    slopes = inverse @ (unit.T @ (w * residual_y))
    pulls = unit * (w * (residual_y - unit @ slopes))[:, None]
    covariance = inverse @ (pulls.T @ pulls) @ inverse * (num_jets / (num_jets - num_slopes - 1))
    return Slopes(slopes / spread, np.sqrt(np.diag(covariance)) / spread)


def combine(values: Array, errors: Array) -> tuple[float, float]:
    """Mean with the weights 1 / error^2, and its error; both of shape (B,), B > 0. An error of 0 counts as a very small one."""
    weights = 1 / np.square(np.maximum(errors, SMALLEST_ERROR))
    return float(np.sum(values * weights) / np.sum(weights)), float(1 / np.sqrt(np.sum(weights)))


def slopes_by_eta(records: list[Record], name: str) -> list[Record]:
    """Combine the bins of true pT into one slope per |eta| bin; bins without one are left out."""
    found = []
    for low in sorted({record["abs_eta_low"] for record in records}):
        some = [r for r in headline_bins(records) if r["abs_eta_low"] == low and r[name] is not None]
        if some:
            value, error = combine(np.array([r[name] for r in some]), np.array([r[f"{name}_error"] for r in some]))
            num_jets = sum(r["num_jets"] for r in some)
            found.append({**eta_limits(some[0]), name: value, f"{name}_error": error, "num_jets": num_jets})
    return found


def largest(by_eta: list[Record], name: str) -> Record:
    """The slope of the |eta| bin with the largest one, with its sign."""
    if not by_eta:
        return {name: None, f"{name}_error": None}
    worst = max(by_eta, key=lambda record: abs(record[name]))
    return {name: worst[name], f"{name}_error": worst[f"{name}_error"]}


def rows_behind(found: Record, records: list[Record], rows: list[Rows]) -> list[Rows]:
    """Rows of the jets of each bin that was combined to the slope of one |eta| bin."""
    return [
        some
        for some, record in zip(rows, records, strict=True)
        if record["enough_entries"] and eta_limits(record) == eta_limits(found)
    ]


def eta_limits(record: Record) -> Record:
    """The |eta| bin of a record."""
    return {key: record[key] for key in ("abs_eta_low", "abs_eta_high")}


def profile(x: Array, y: Array, num_points: int, weights: Array | None = None) -> list[Record]:
    """Mean of y in ranges of x that hold about equally many jets.

    Args:
        x: Shape (N,); whole numbers are kept together, so that there may be fewer ranges.
        y: Shape (N,).
        num_points: Ranges.
        weights: Shape (N,); None for 1.

    Returns:
        Per range `x` and `y` (means), `y_error` (standard error of the mean) and `num_jets`; ranges with one jet are left out.
    """
    w = np.ones_like(x) if weights is None else weights
    edges = np.unique(np.quantile(x, np.linspace(0, 1, num_points + 1)))
    number = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, max(len(edges) - 2, 0))
    points = []
    for index in np.unique(number):
        inside = number == index
        effective = effective_entries(int(inside.sum()), w[inside])
        if effective > 1:
            mean_x, mean_y = (float(np.average(values[inside], weights=w[inside])) for values in (x, y))
            variance = np.average((y[inside] - mean_y) ** 2, weights=w[inside])
            error = float(np.sqrt(variance / (effective - 1)))
            points.append({"x": mean_x, "y": mean_y, "y_error": error, "num_jets": int(inside.sum())})
    return points
