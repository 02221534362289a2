"""How is a tagger made independent of the mass after its training?

T_DDT = T - T^(x%)(rho, pT), with rho = ln(m^2 / pT^2): the score that x % of the background jets of this rho and pT exceed is
taken from the score, so that a cut at zero lets x % of them pass everywhere. Decisions a reader would question:

* The map begins with a polynomial in rho and ln pT (quantile regression), which follows what changes slowly, with least noise.
  What it leaves is taken from the k nearest background jets of each point of a regular grid, smoothed by a Gaussian, and taken
  again from what that leaves, as neighbours at the border of the jets are all on one side. Between points the map is linear,
  beyond them constant. Event weights do not enter: neighbours have about the same.
* How many neighbours is what predicts jets best that the map is not made of (pinball loss, of maps of half of the jets): many
  where the score changes slowly, few where it has a peak in the mass.
* It is made of one half of the background jets and judged on the other; jets of one event are in the same half. A map that is
  judged on its own jets is flat by construction. The fluctuations of its own half are a part of what the other one finds, so
  that chi2 / ndf is above one by about the number of details of the map over the number of cells.

References:
    J. Dolen et al., "Thinking outside the ROCs: Designing Decorrelated Taggers", arXiv:1603.00027.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distjet.errors import DataError
from distjet.evaluation.tagging_config import DdtConfig

Array = NDArray[np.float64]
Record = dict[str, Any]

FEWEST_NEIGHBOURS_THAT_PASS = 25
"A quantile with fewer jets above it is that of chance."
DEGREES = (4, 2)
"Of the polynomial, in rho and ln pT."
SPREAD = (0.002, 0.998)
"The grid spans this part of the jets; beyond, the map is constant."


@dataclass(frozen=True)
class DdtMap:
    """T^(x%) at the points of a grid.

    Attributes:
        rho: Points in rho, ascending, shape (R,).
        log_pt: Points in ln(pT / GeV), ascending, shape (P,).
        threshold: T^(x%), shape (R, P).
        num_neighbours: Jets behind each point.
    """

    rho: Array
    log_pt: Array
    threshold: Array
    num_neighbours: int

    def transformed(self, score: Array, mass_gev: Array, pt_gev: Array) -> Array:
        """Return T - T^(x%)(rho, pT), shape (J,)."""
        return score - self(rho_of(mass_gev, pt_gev), np.log(pt_gev))

    def __call__(self, rho: Array, log_pt: Array) -> Array:
        """Return T^(x%), shape (J,)."""
        from scipy.interpolate import RegularGridInterpolator

        between = RegularGridInterpolator((self.rho, self.log_pt), self.threshold)
        return between(np.stack([_within(rho, self.rho), _within(log_pt, self.log_pt)], 1))


def rho_of(mass_gev: Array, pt_gev: Array) -> Array:
    """Return ln(m^2 / pT^2), shape (J,)."""
    return 2 * np.log(mass_gev / pt_gev)


def halves(event: ArrayLike, run: ArrayLike) -> NDArray[np.bool_]:
    """Say of each jet whether it belongs to the first half; jets of one event do together, whatever their order."""
    number = np.asarray(event).astype(np.uint64) + np.asarray(run).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # events are often numbered in steps
        number = (number ^ (number >> np.uint64(shift))) * np.uint64(factor)
    return (number >> np.uint64(63)).astype(bool)


def fit_map(score: Array, mass_gev: Array, pt_gev: Array, config: DdtConfig, background_efficiency: float) -> DdtMap:
    """Make the map of one half of the background jets.

    Args:
        score: T, shape (J,).
        mass_gev: Positive, shape (J,).
        pt_gev: Shape (J,).
        config: Points, neighbours, smoothing.
        background_efficiency: x, the share that is to pass.

    Raises:
        DataError: If there are too few jets to tell the quantile.
    """
    points = np.stack([rho_of(mass_gev, pt_gev), np.log(pt_gev)], 1)
    fewest = int(np.ceil(FEWEST_NEIGHBOURS_THAT_PASS / background_efficiency))
    if background_efficiency < smallest_efficiency(len(score)):
        raise DataError(
            f"{len(score)} background jets do not tell which score {background_efficiency:.3g} of them exceed in a part of "
            f"their masses: that takes {fewest} neighbours, more than a quarter of all jets"
        )
    shares = sorted({max(share, fewest / len(score)) for share in config.neighbour_shares})
    if len(shares) > 1:
        shares = [min(shares, key=lambda share: _loss(score, points, config, background_efficiency, share))]
    return _fit(score, points, config, background_efficiency, shares[0])


def smallest_efficiency(num_jets: int) -> float:
    """Return the least background efficiency that a map of so many jets can have: of a quarter of them, enough have to pass."""
    return 4 * FEWEST_NEIGHBOURS_THAT_PASS / max(num_jets, 1)


def _loss(score: Array, points: Array, config: DdtConfig, background_efficiency: float, share: float) -> float:
    """Pinball loss of every other jet by the map of the others."""
    found = _fit(score[::2], points[::2], config, background_efficiency, share)
    left = score[1::2] - found(*points[1::2].T)
    return float(np.mean(np.where(left >= 0, (1 - background_efficiency) * left, -background_efficiency * left)))


def _fit(score: Array, points: Array, config: DdtConfig, background_efficiency: float, share: float) -> DdtMap:
    from scipy.ndimage import gaussian_filter
    from scipy.spatial import cKDTree

    width = np.maximum(points.std(axis=0), 1e-9)
    rho, log_pt = (
        np.linspace(np.quantile(values, SPREAD[0]), np.quantile(values, SPREAD[1]), number)
        for values, number in zip(points.T, (config.num_rho_points, config.num_pt_points), strict=True)
    )
    grid = np.stack(np.meshgrid(rho, log_pt, indexing="ij"), -1)
    num_neighbours = max(round(share * len(score)), 1)
    near = cKDTree(points / width).query(grid.reshape(-1, 2) / width, num_neighbours)[1]
    inside = np.stack([_within(points[:, 0], rho), _within(points[:, 1], log_pt)], 1)
    start = _polynomial(score, inside, grid.reshape(-1, 2), 1 - background_efficiency)
    found = DdtMap(rho, log_pt, start.reshape(grid.shape[:2]), num_neighbours)
    for _ in range(config.num_passes):
        left = score - found(*points.T)
        quantile = np.quantile(left[near], 1 - background_efficiency, axis=1).reshape(grid.shape[:2])
        if config.smoothing_points:
            quantile = gaussian_filter(quantile, config.smoothing_points, mode="nearest")
        found = DdtMap(rho, log_pt, found.threshold + quantile, num_neighbours)
    return found


def _polynomial(score: Array, points: Array, where: Array, level: float) -> Array:
    """Return a quantile of the score at some places, by a regression with the pinball loss, rounded off at its kink."""
    from scipy.optimize import minimize
    from scipy.special import expit

    middle, width = points.mean(axis=0), np.maximum(points.std(axis=0), 1e-9)
    terms, at = (_terms((some - middle) / width) for some in (points, where))
    weights = np.linalg.lstsq(terms, score, rcond=None)[0]
    spread = np.std(score - terms @ weights)
    weights[0] += np.quantile(score - terms @ weights, level)

    def loss(values: Array, rounding: float) -> tuple[float, Array]:
        left = score - terms @ values
        rounded = rounding * np.logaddexp(0, left / rounding) - (1 - level) * left
        return float(rounded.mean()), -terms.T @ (expit(left / rounding) - (1 - level)) / len(score)

    for rounding in (0.5 * spread, 0.1 * spread):
        if spread > 0:
            weights = minimize(loss, weights, (rounding,), jac=True, method="L-BFGS-B").x
    return at @ weights


def _terms(points: Array) -> Array:
    """Return the powers of both coordinates, the constant first, shape (J, T)."""
    powers = [
        points[:, 0] ** i * points[:, 1] ** j
        for i in range(DEGREES[0] + 1)
        for j in range(DEGREES[1] + 1)
        if i / DEGREES[0] + j / DEGREES[1] <= 1
    ]
    return np.stack(powers, 1)


def flatness(
    passes: NDArray[np.bool_], mass_gev: Array, pt_gev: Array, config: DdtConfig, background_efficiency: float
) -> Record:
    """Count the background jets that pass in cells of rho and pT.

    Args:
        passes: Jets that did not make the map, shape (J,).
        mass_gev: Positive, shape (J,).
        pt_gev: Shape (J,).
        config: Cells.
        background_efficiency: The share that is to pass.

    Returns:
        `cells` with their limits, jets, jets that pass and their `ratio` to the wanted share; `chi2` and `ndf` of all
        cells against that share; and `max_deviation`, the largest |ratio - 1| among the `num_cells_judged` cells in which
        enough jets pass, with its error, None if there is none.
    """
    rho = rho_of(mass_gev, pt_gev)
    pt_edges = _quantile_edges(pt_gev, config.num_pt_cells)
    column = np.searchsorted(pt_edges[1:-1], pt_gev, side="right")
    cells = []
    for number, (pt_low, pt_high) in enumerate(pairwise(pt_edges)):
        here = column == number
        rho_edges = _quantile_edges(rho[here], config.num_rho_cells)
        row = np.searchsorted(rho_edges[1:-1], rho[here], side="right")
        for index, (low, high) in enumerate(pairwise(rho_edges)):
            limits = {
                "pt_low_gev": float(pt_low),
                "pt_high_gev": float(pt_high),
                "rho_low": float(low),
                "rho_high": float(high),
            }
            cells.append(limits | _cell(passes[here][row == index], background_efficiency))
    variance = background_efficiency * (1 - background_efficiency)
    chi2 = sum((c["num_passed"] - background_efficiency * c["num_jets"]) ** 2 / (variance * c["num_jets"]) for c in cells)
    judged = [cell for cell in cells if cell["num_passed"] >= config.min_passed_flat]
    worst = max(judged, key=lambda cell: abs(cell["ratio"] - 1), default=None)
    return {
        "background_efficiency": float(passes.mean()),
        "chi2": float(chi2),
        "ndf": len(cells),
        "max_deviation": worst and abs(worst["ratio"] - 1),
        "max_deviation_error": worst and worst["ratio_error"],
        "num_cells_judged": len(judged),
        "cells": cells,
    }


def _cell(passes: NDArray[np.bool_], wanted: float) -> Record:
    number, passed = len(passes), int(passes.sum())
    error = np.sqrt(wanted * (1 - wanted) / number) / wanted
    return {"num_jets": number, "num_passed": passed, "ratio": passed / number / wanted, "ratio_error": float(error)}


def _quantile_edges(values: Array, number: int) -> Array:
    return np.quantile(values, np.linspace(0, 1, number + 1))


def _within(values: Array, points: Array) -> Array:
    return np.clip(values, points[0], points[-1])
