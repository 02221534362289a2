"""How does a quantity depend on the energy (or the pT), smoothly, from a few bins?

A polynomial in ln E by weighted least squares, in a variable that runs from -1 to 1 over the bins, so that its coefficients are
of the size of the quantity. Outside of the bins it keeps its value at the end: a polynomial must not be believed there.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.polynomial import polynomial

from distjet.calibration.binning import measure, merged, rows_by_bin
from distjet.calibration.jets import Array
from distjet.config import Config
from distjet.evaluation.config import EstimatorConfig


class Curve(Config):
    """A polynomial in ln E or ln pT, constant outside of its range."""

    log_low: float
    "ln of the lowest energy or pT (GeV) that was fitted."
    log_high: float
    "ln of the highest one."
    coefficients: tuple[float, ...]
    "Of t^0, t^1, ..., with t from -1 to 1 over the range."

    def __call__(self, logarithm: Array) -> Array:
        """Evaluate at ln(E / GeV), any shape."""
        inside = np.clip(logarithm, self.log_low, self.log_high)
        return polynomial.polyval(self._scaled(inside), np.asarray(self.coefficients))

    def _scaled(self, logarithm: Array) -> Array:
        half = (self.log_high - self.log_low) / 2
        return (logarithm - self.log_low) / half - 1 if half > 0 else np.zeros_like(logarithm)


@dataclass(frozen=True)
class Points:
    """What is measured in the bins of one curve, shape (number of bins that were measured,) each."""

    logarithm: Array
    "Mean ln(E_true / GeV), or of what else the curve is a function of."
    value: Array
    error: Array
    num_jets: Array
    without_core: int
    "Bins whose median stands in for a Gaussian core."


@dataclass(frozen=True)
class Fit:
    """A curve and how well it follows its points."""

    curve: Curve
    points: Points
    chi2: float
    num_degrees_of_freedom: int
    remark: str = ""
    "Why it is not what was asked for, or nothing."


def measure_points(values: Array, log_energy: Array, edges: Array, min_entries: int, settings: EstimatorConfig) -> Points:
    """Measure the core of a quantity in bins of the true energy.

    Args:
        values: Response or residual of each jet, shape (J,).
        log_energy: ln(E_true / GeV), shape (J,).
        edges: Edges in ln(E_true / GeV), shape (R + 1,).
        min_entries: A bin with fewer jets is joined with its neighbour.
        settings: Estimator.
    """
    rows = merged(rows_by_bin(log_energy, edges.tolist()), min_entries)
    found = [(chosen, result) for chosen in rows if (result := measure(values[chosen], settings)) is not None]
    return Points(
        np.array([log_energy[chosen].mean() for chosen, _ in found]),
        np.array([result.core.value for _, result in found]),
        np.array([result.core.error for _, result in found]),
        np.array([len(chosen) for chosen, _ in found]),
        sum(result.core_status != "ok" for _, result in found),
    )


def fit_curve(points: Points, max_degree: int, min_error: float, accept: Callable[[Curve], bool] = lambda _: True) -> Fit:
    """Fit a polynomial of the highest degree that the points carry and that is acceptable.

    Args:
        points: At least one point.
        max_degree: Highest degree; a degree needs two points more than it has, so that the fit can be tested.
        min_error: Added in quadrature to the errors.
        accept: Says whether a curve will do; a constant is taken without asking.
    """
    errors = np.hypot(points.error, min_error)
    errors = np.where(errors > 0, errors, 1.0)
    highest = max(0, min(max_degree, len(points.value) - 2))
    for degree in range(highest, -1, -1):
        curve = _least_squares(points, errors, degree)
        if degree == 0 or accept(curve):
            break
    remark = f"degree {degree} instead of {highest}: R(E) E would not increase" if degree < highest else ""
    chi2 = float(np.sum(((points.value - curve(points.logarithm)) / errors) ** 2))
    return Fit(curve, points, chi2, len(points.value) - degree - 1, remark)


def _least_squares(points: Points, errors: Array, degree: int) -> Curve:
    low, high = float(points.logarithm.min()), float(points.logarithm.max())
    empty = Curve(log_low=low, log_high=high, coefficients=(0.0,))
    design = polynomial.polyvander(empty._scaled(points.logarithm), degree)
    solution = np.linalg.lstsq(design / errors[:, np.newaxis], points.value / errors, rcond=None)[0]
    return empty.model_copy(update={"coefficients": tuple(float(c) for c in solution)})
