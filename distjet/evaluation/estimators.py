"""What are the scale and the resolution of a response distribution, and how well are they known?

Three numbers describe a distribution: its median, its resolution (q84 - q16) / (2 q50), and its Gaussian core, a mode-like
scale that tails do not move. Decisions a reader would question:

* The core (m, s) solves  mean(x | window) = m  and  variance(x | window) = c(k) s^2  with the window |x - m| < k s, where c(k)
  is the variance of a unit Gaussian truncated at k. For a window that is symmetric about m these are the maximum-likelihood
  equations of a truncated Gaussian, so a Gaussian is estimated without bias whatever the window; a plain fit of a Gaussian to
  the window, or its plain standard deviation, is biased. No minimiser runs, so none can fail to converge on 200 jets.
* Values are first put into a histogram with bins of 1/25 of their 68 % half width, taken as flat within a bin. Its bins are
  seventy times finer than the window, so that values and the histograms of a training loop go through the same few lines, and
  a bootstrap replica costs the same for 200 jets as for a billion. In units of the half width all distributions have the same
  bins: many of them are fitted at a time, with all their replicas.
* Errors come from a bootstrap: each bin of the histogram fluctuates as a Poisson number scaled to its sum of weights and sum of
  squared weights. The formulas for the errors of an iterated window need the density at its edges, which 200 jets do not tell.

Legend of shapes: B distributions (or replicas of one), R bins of the histogram.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distjet.errors import DataError
from distjet.evaluation.config import EstimatorConfig

Array = NDArray[np.float64]
Rows = NDArray[np.intp]

MIN_ENTRIES = 10
"Fewer entries than this have no estimate at all."

QUANTILE_LOW, QUANTILE_HIGH = 0.158655253931457, 0.841344746068543
"The central 68.27 % of a Gaussian."

BINS_PER_HALF_WIDTH = 25
HALF_WIDTHS = 6
UNIT_EDGES = np.linspace(-HALF_WIDTHS, HALF_WIDTHS, 2 * HALF_WIDTHS * BINS_PER_HALF_WIDTH + 1)
"The fine histogram spans the median +- 6 half widths; what lies outside is counted in its outermost bins."

AT_A_TIME = 8
"Distributions that are fitted together: their replicas fit into the cache of a processor."

SIGMA_RANGE = (0.2, 3.0)
"A core narrower or wider than this, in units of the 68 % half width, is no core: one spike, or no peak."


@dataclass(frozen=True)
class Measurement:
    """A number and its statistical error, in the unit of the values."""

    value: float
    error: float


@dataclass(frozen=True)
class Estimate:
    """Scale and resolution of one distribution."""

    core: Measurement
    core_sigma: Measurement
    core_resolution: Measurement
    "core_sigma / core, dimensionless."
    median: Measurement
    half_width: Measurement
    "(q84 - q16) / 2."
    resolution: Measurement
    "(q84 - q16) / (2 q50), dimensionless."
    core_status: str
    "`ok`, or why the median and the half width stand in for the core: `few entries`, `no core`, `not settled`, `degenerate`."


@dataclass(frozen=True)
class Cores:
    """Gaussian cores of B distributions; where one of the flags is true, median and half width stand in."""

    mean: Array
    sigma: Array
    median: Array
    half_width: Array
    few_entries: NDArray[np.bool_]
    outside_range: NDArray[np.bool_]
    unsettled: NDArray[np.bool_]


def truncated_variance(window_sigmas: float) -> float:
    """Variance of a unit Gaussian that is truncated at +-`window_sigmas`."""
    inside = math.erf(window_sigmas / math.sqrt(2))
    density = math.exp(-(window_sigmas**2) / 2) / math.sqrt(2 * math.pi)
    return 1 - 2 * window_sigmas * density / inside


def weighted_quantile(values: ArrayLike, weights: ArrayLike | None, probability: float) -> float:
    """Quantile at which the cumulated weight reaches `probability` (mid-point of the two values where it is reached exactly).

    Repeating a value n times equals giving it the weight n, which interpolating definitions do not satisfy.

    Args:
        values: Shape (N,), N > 0.
        weights: Shape (N,), not negative; None for 1.
        probability: Between 0 and 1.
    """
    x = np.asarray(values, np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, np.float64)
    order = np.argsort(x, kind="stable")
    return _ordered_quantile(x[order], np.cumsum(w[order]), probability)


def _ordered_quantile(x: Array, cumulated: Array, probability: float) -> float:
    target = probability * cumulated[-1]
    slack = 1e-12 * cumulated[-1]
    low = np.searchsorted(cumulated, target - slack, side="left")
    high = np.searchsorted(cumulated, target + slack, side="left")
    return float((x[low] + x[min(high, len(x) - 1)]) / 2)


def histogram_quantile(counts: Array, edges: Array, probability: float) -> Array:
    """Quantiles of B histograms that are flat within each bin.

    Args:
        counts: Shape (B, R), not negative, each row with a positive sum.
        edges: Shape (R + 1,).
        probability: Between 0 and 1, exclusive.

    Returns:
        Shape (B,), in the unit of the edges.
    """
    cumulated = np.cumsum(counts, axis=1)
    target = probability * cumulated[:, -1]
    index = np.argmax(cumulated >= target[:, None], axis=1)
    rows = np.arange(len(counts))
    inside = counts[rows, index]
    fraction = 1 - (cumulated[rows, index] - target) / np.where(inside > 0, inside, 1)
    return edges[index] + fraction * (edges[index + 1] - edges[index])


def fit_cores(counts: Array, edges: Array, settings: EstimatorConfig) -> Cores:
    """Gaussian cores of B histograms.

    Args:
        counts: Entries or sums of weights, shape (B, R), each row with a positive sum.
        edges: Shape (R + 1,), increasing.
        settings: Window, iterations, and the fewest entries a window may hold.

    Returns:
        Means and sigmas in the unit of the edges, shape (B,). A distribution without a core carries its median and half width.
    """
    median = histogram_quantile(counts, edges, 0.5)
    half_width = _half_width(counts, edges)
    moments = _window_moments(counts, edges)
    k, correction = settings.core_window_sigmas, truncated_variance(settings.core_window_sigmas)
    low, high = SIGMA_RANGE[0] * half_width, SIGMA_RANGE[1] * half_width
    mean, sigma, step = median.copy(), half_width.copy(), np.full_like(median, np.inf)
    moving = np.arange(len(median))
    for _ in range(settings.max_iterations):
        old_mean, old_sigma = mean[moving], sigma[moving]
        _, mean[moving], variance = moments(moving, old_mean - k * old_sigma, old_mean + k * old_sigma)
        sigma[moving] = np.clip(np.sqrt(variance / correction), low[moving], high[moving])
        change = np.maximum(np.abs(mean[moving] - old_mean), np.abs(sigma[moving] - old_sigma))
        step[moving] = change / half_width[moving]
        moving = moving[step[moving] >= settings.tolerance]
        if len(moving) == 0:
            break
    few = moments(np.arange(len(mean)), mean - k * sigma, mean + k * sigma)[0] < settings.min_window_entries
    outside = (sigma <= low) | (sigma >= high)
    unsettled = step >= settings.tolerance
    bad = few | outside | unsettled
    mean, sigma = np.where(bad, median, mean), np.where(bad, half_width, sigma)
    return Cores(mean, sigma, median, half_width, few, outside, unsettled)


def estimate(values: ArrayLike, weights: ArrayLike | None, settings: EstimatorConfig) -> Estimate:
    """Scale and resolution of unbinned values.

    Args:
        values: Shape (N,), N >= 10, finite; response or residual.
        weights: Shape (N,), not negative, with a positive sum; None for 1.
        settings: Window, bootstrap.

    Raises:
        DataError: If there are too few values, a value is not finite, or a weight is negative.
    """
    return estimate_many([(values, weights)], settings)[0]


def estimate_many(samples: Sequence[tuple[ArrayLike, ArrayLike | None]], settings: EstimatorConfig) -> list[Estimate]:
    """Scale and resolution of several sets of values and weights, each as `estimate` has it, and in less time.

    Raises:
        DataError: If there are too few values in one, a value is not finite, or a weight is negative.
    """
    found: list[Estimate] = []
    for first in range(0, len(samples), AT_A_TIME):
        histograms = [_unit_histogram(*_checked(*sample)) for sample in samples[first : first + AT_A_TIME]]
        wide = [histogram for histogram in histograms if histogram.half_width > 0]
        estimates = iter(_estimate_binned(wide, UNIT_EDGES, settings) if wide else [])
        found += [next(estimates) if h.half_width > 0 else _degenerate(h.median) for h in histograms]
    return found


@dataclass(frozen=True)
class _Histogram:
    """Sums of weights and of squared weights per bin, each of shape (R,), of (values - median) / half width."""

    counts: Array
    squares: Array
    median: float = 0.0
    half_width: float = 1.0


def _unit_histogram(x: Array, w: Array) -> _Histogram:
    """Fill the fine histogram; the half width is 0 if there is none."""
    order = np.argsort(x, kind="stable")
    x, w = x[order], w[order]
    low, median, high = (_ordered_quantile(x, np.cumsum(w), p) for p in (QUANTILE_LOW, 0.5, QUANTILE_HIGH))
    half_width = (high - low) / 2
    if half_width <= 1e-12 * max(1.0, abs(median)):
        return _Histogram(w, w, median, 0.0)
    unit = np.clip((x - median) / half_width, 0.999999 * UNIT_EDGES[0], 0.999999 * UNIT_EDGES[-1])
    counts, squares = (np.histogram(unit, UNIT_EDGES, weights=v)[0] for v in (w, w**2))
    return _Histogram(counts, squares, median, half_width)


def estimate_histogram(counts: ArrayLike, centres: ArrayLike, settings: EstimatorConfig) -> Estimate:
    """Scale and resolution of a histogram of entries.

    Args:
        counts: Number of entries per bin, shape (R,), not negative.
        centres: Bin centres, shape (R,), increasing.
        settings: Window, bootstrap.

    Raises:
        DataError: If there are fewer than 10 entries or the shapes do not match.
    """
    rows, edges = checked_histograms(np.atleast_2d(np.asarray(counts, np.float64)), centres)
    if rows.sum() < MIN_ENTRIES:
        raise DataError(f"a scale needs at least {MIN_ENTRIES} entries (got {rows.sum():g})")
    return _estimate_binned([_Histogram(rows[0], rows[0])], edges, settings)[0]


def checked_histograms(counts: ArrayLike, centres: ArrayLike) -> tuple[Array, Array]:
    """Return counts (B, R) and the edges (R + 1,) half way between the centres.

    Raises:
        DataError: If the shapes do not match, a count is negative or not finite, or the centres do not increase.
    """
    rows, middle = np.asarray(counts, np.float64), np.asarray(centres, np.float64)
    if rows.ndim != 2 or middle.ndim != 1 or len(middle) < 2 or rows.shape[1] != len(middle):
        raise DataError(f"expected counts (B, R) and centres (R,), R > 1 (got {rows.shape} and {middle.shape})")
    if not np.all(np.isfinite(rows)) or np.any(rows < 0):
        raise DataError("counts must be finite and not negative")
    if np.any(np.diff(middle) <= 0):
        raise DataError("response centres must increase")
    between = (middle[1:] + middle[:-1]) / 2
    first, last = 2 * middle[0] - between[0], 2 * middle[-1] - between[-1]
    return rows, np.concatenate([[first], between, [last]])


def _estimate_binned(histograms: Sequence[_Histogram], edges: Array, settings: EstimatorConfig) -> list[Estimate]:
    """Estimate from histograms with the same edges, which are in units of their half widths."""
    rows = [np.vstack([h.counts, _replicas(h.counts, h.squares, settings)]) for h in histograms]
    entries = [_unit_entries(some, h.counts, h.squares) for some, h in zip(rows, histograms, strict=True)]
    cores = fit_cores(np.vstack(entries), edges, settings)
    number = 1 + settings.num_replicas
    return [_estimate_of(cores, slice(i * number, (i + 1) * number), h) for i, h in enumerate(histograms)]


def _estimate_of(cores: Cores, rows: slice, histogram: _Histogram) -> Estimate:
    """Collect one distribution and its replicas, which stand in `rows`, in the unit of its values."""
    unit = histogram.half_width
    mean, median = (values[rows] * unit + histogram.median for values in (cores.mean, cores.median))
    sigma, half_width = cores.sigma[rows] * unit, cores.half_width[rows] * unit
    return Estimate(
        core=_measure(mean),
        core_sigma=_measure(sigma),
        core_resolution=_measure(_ratio(sigma, mean)),
        median=_measure(median),
        half_width=_measure(half_width),
        resolution=_measure(_ratio(half_width, median)),
        core_status=core_status(cores, rows.start),
    )


def core_status(cores: Cores, row: int) -> str:
    """Say in words whether a distribution has a core."""
    if cores.few_entries[row]:
        return "few entries"
    if cores.outside_range[row]:
        return "no core"
    return "not settled" if cores.unsettled[row] else "ok"


def _unit_entries(rows: Array, counts: Array, squares: Array) -> Array:
    """Scale sums of weights to effective numbers of entries, so that thresholds on entries mean what they say."""
    return rows * (counts.sum() / squares.sum())


def _replicas(counts: Array, squares: Array, settings: EstimatorConfig) -> Array:
    """Bootstrap replicas, shape (num_replicas, R): Poisson numbers with the mean and variance of each bin's sum of weights."""
    scale = np.divide(squares, counts, out=np.ones_like(counts), where=counts > 0)
    rng = np.random.default_rng(settings.seed)
    replicas = rng.poisson(counts / scale, (settings.num_replicas, len(counts))) * scale
    empty = replicas.sum(axis=1) == 0
    return np.where(empty[:, None], counts, replicas)


def _measure(values: Array) -> Measurement:
    """First row: the estimate; the others: its bootstrap replicas."""
    return Measurement(float(values[0]), float(np.std(values[1:], ddof=1)))


def _ratio(width: Array, scale: Array) -> Array:
    """Return width / scale, and the bare width where the scale is not positive (a residual around 0 has no relative width)."""
    return width / np.where(scale > 0, scale, 1.0)


def _half_width(counts: Array, edges: Array) -> Array:
    return (histogram_quantile(counts, edges, QUANTILE_HIGH) - histogram_quantile(counts, edges, QUANTILE_LOW)) / 2


def _window_moments(counts: Array, edges: Array) -> Callable[[Rows, Array, Array], tuple[Array, Array, Array]]:
    """Prepare the entries, mean and variance between two positions of a row, each in constant time after one cumulation."""
    origin = (edges[0] + edges[-1]) / 2
    grid = edges - origin
    density = counts / np.diff(grid)
    powers = np.arange(1, 4)
    steps = np.diff(grid[:, None] ** powers, axis=0) / powers
    cumulated = np.zeros((*(counts.shape + np.array([0, 1])), 3))
    np.cumsum(density[:, :, None] * steps, axis=1, out=cumulated[:, 1:])

    def below(rows: Rows, position: Array) -> Array:
        x = np.clip(position - origin, grid[0], grid[-1])
        index = np.clip(np.searchsorted(grid, x, side="right") - 1, 0, len(grid) - 2)
        partial = (x[:, None] ** powers - grid[index, None] ** powers) / powers
        return cumulated[rows, index] + density[rows, index, None] * partial

    def moments(rows: Rows, low: Array, high: Array) -> tuple[Array, Array, Array]:
        entries, first, second = (below(rows, high) - below(rows, low)).T
        filled = entries > 0
        mean = np.where(filled, first / np.where(filled, entries, 1), (low + high) / 2 - origin)
        variance = np.where(filled, second / np.where(filled, entries, 1) - mean**2, 0.0)
        return entries, mean + origin, np.maximum(variance, 0.0)

    return moments


def _checked(values: ArrayLike, weights: ArrayLike | None) -> tuple[Array, Array]:
    x = np.asarray(values, np.float64)
    w = np.ones_like(x) if weights is None else np.asarray(weights, np.float64)
    if x.ndim != 1 or x.shape != w.shape:
        raise DataError(f"values and weights must be one-dimensional and equally long (got {x.shape} and {w.shape})")
    if len(x) < MIN_ENTRIES:
        raise DataError(f"a scale needs at least {MIN_ENTRIES} values (got {len(x)})")
    if not np.all(np.isfinite(x)):
        raise DataError(f"values must be finite (got {x[~np.isfinite(x)][0]} at row {np.flatnonzero(~np.isfinite(x))[0]})")
    if not np.all(np.isfinite(w)) or np.any(w < 0) or w.sum() <= 0:
        raise DataError("weights must be finite, not negative, with a positive sum; use_weights: false ignores them")
    return x, w


def _degenerate(median: float) -> Estimate:
    """Describe values that are all the same: a scale, no width, and no statement about errors."""
    scale, zero = Measurement(median, 0.0), Measurement(0.0, 0.0)
    return Estimate(scale, zero, zero, scale, zero, zero, "degenerate")
