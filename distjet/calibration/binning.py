"""Which jets belong to which bin, and what is their response there?

A bin holds its lower edge. Where a correction is looked up, a jet beyond the edges is treated as one in the nearest bin; where
something is fitted or measured, it is left out.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distjet.calibration.jets import Array
from distjet.errors import DataError
from distjet.evaluation.config import EstimatorConfig
from distjet.evaluation.estimators import MIN_ENTRIES, Estimate, estimate

Rows = NDArray[np.intp]


def bin_numbers(values: Array, edges: Sequence[float]) -> NDArray[np.intp]:
    """Return the bin of each value, shape (J,); -1 below the first edge, the number of bins from the last edge on."""
    return np.searchsorted(np.asarray(edges), values, side="right") - 1


def nearest_bin_numbers(values: Array, edges: Sequence[float]) -> NDArray[np.intp]:
    """Return the bin of each value, shape (J,), and the nearest bin for values beyond the edges."""
    return np.clip(bin_numbers(values, edges), 0, len(edges) - 2)


def rows_by_bin(values: Array, edges: Sequence[float], rows: Rows | None = None) -> list[Rows]:
    """List the rows of each bin, out of all rows or out of some."""
    chosen = np.arange(len(values)) if rows is None else rows
    numbers = bin_numbers(values[chosen], edges)
    order = np.argsort(numbers, kind="stable")
    bounds = np.searchsorted(numbers[order], np.arange(len(edges)))
    return [chosen[order[bounds[n] : bounds[n + 1]]] for n in range(len(edges) - 1)]


def merged(bins: Sequence[Rows], min_entries: int) -> list[Rows]:
    """Join neighbouring bins until each holds enough jets, so that no jet is left out and the bins reach as far as the jets.

    Args:
        bins: Rows of each bin, in order.
        min_entries: Least number of jets of a bin.

    Returns:
        The rows of the joined bins, in order; nothing if all jets together are too few.
    """
    joined: list[Rows] = []
    waiting: list[Rows] = []
    for rows in bins:
        waiting.append(rows)
        if sum(map(len, waiting)) >= min_entries:
            joined.append(np.concatenate(waiting))
            waiting = []
    if joined:
        joined[-1] = np.concatenate([joined[-1], *waiting])
    return joined


def equal_shares(values: Array, num_bins: int, min_entries: int) -> list[Rows]:
    """Cut values into bins with about equal numbers of jets, never between equal values.

    A value that many jets share (no track, no muon segment) is a bin of its own, and the rest is divided among the others.

    Args:
        values: Shape (J,).
        num_bins: At most so many bins.
        min_entries: Least number of jets of a bin; a single bin may hold fewer.

    Returns:
        The rows of each bin, in the order of the values.
    """
    order = np.argsort(values, kind="stable")
    ends_of_equals = np.flatnonzero(np.append(np.diff(values[order]) > 0, True)) + 1
    cuts, start = [0], 0
    for left in range(num_bins, 1, -1):
        wanted = start + max((len(values) - start) / left, min_entries)
        place = min(int(np.searchsorted(ends_of_equals, wanted)), len(ends_of_equals) - 1)
        start = int(ends_of_equals[place])
        if len(values) - start < min_entries:
            break
        cuts.append(start)
    return [order[low:high] for low, high in zip(cuts, [*cuts[1:], len(values)], strict=True)]


def measure(values: Array, settings: EstimatorConfig) -> Estimate | None:
    """Scale and width of the values of one bin; None where they are too few to say."""
    return estimate(values, None, settings) if len(values) >= MIN_ENTRIES else None


def centres(edges: ArrayLike) -> Array:
    """Middles of bins, shape (number of bins,)."""
    bounds = np.asarray(edges, np.float64)
    return (bounds[1:] + bounds[:-1]) / 2


def nearest_filled(filled: Sequence[bool], what: str) -> Iterator[int]:
    """For each bin, the nearest one that is filled: itself, if it is.

    Args:
        filled: Whether each bin has a result of its own.
        what: What the bins are of, for the message.

    Raises:
        DataError: If none is filled.
    """
    own = np.flatnonzero(np.asarray(filled, bool))
    if len(own) == 0:
        raise DataError(f"{what}: no bin has enough jets; give more jets, wider bins or a smaller min_entries")
    for number in range(len(filled)):
        yield int(own[np.argmin(np.abs(own - number))])
