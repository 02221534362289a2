"""What are the mean, the deviation and the quantiles of a column, the same for any division of its numbers into parts?

A float32 is a whole number times a power of two, so sums of values and of squares are kept as whole numbers: they are exact,
adding up parts in any order gives the same bits, and a small deviation around a large mean loses nothing. Quantiles come from a
histogram over the leading 14 bits of the float32: its bins are 3 % wide everywhere, so no range has to be known beforehand, and
merging is again an addition. Inside a bin, values are taken to be spread evenly.
"""

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import njit

QUANTILES = (0.01, 0.05, 0.16, 0.5, 0.84, 0.95, 0.99)

SCALE_BITS = 149
"All float32 numbers are whole multiples of 2^-149."

_BIN_BITS = 14
_SHIFT = np.uint32(32 - _BIN_BITS)
_SIGN = np.uint32(1 << 31)
_LIMB_BITS = 24


class Moments:
    """Count, sum, sum of squares, minimum, maximum and histogram of the numbers of a column; all exact.

    Example:
        >>> moments = Moments()
        >>> moments.add(np.array([1, 2, 3], np.float32))
        >>> moments.describe()["mean"]
        2.0
    """

    def __init__(self) -> None:
        self.sum = 0  # in units of 2^-149
        self.sum_squares = 0  # in units of 2^-298
        self.minimum: float | None = None
        self.maximum: float | None = None
        self.histogram = np.zeros(1 << _BIN_BITS, np.int64)

    @property
    def count(self) -> int:
        """How many numbers were added."""
        return int(self.histogram.sum())

    def add(self, values: np.ndarray) -> None:
        """Add finite numbers, float32 or whole numbers of up to 32 bits, shape (N,)."""
        if not len(values):
            return
        floats = np.ascontiguousarray(values, np.float32)
        limbs = np.zeros((256, 3), np.int64)
        _add_bits(floats.view(np.uint32), self.histogram, limbs)
        if np.issubdtype(values.dtype, np.integer):
            total, squares = _integer_sums(values.astype(np.int64))
        else:
            total, squares = _join_limbs(limbs)
        self.sum += total
        self.sum_squares += squares
        self._widen(float(values.min()), float(values.max()))

    def merge(self, part: Mapping[str, Any]) -> None:
        """Add what another one has seen, as `as_dict` gives it."""
        self.sum += part["sum"]
        self.sum_squares += part["sum_squares"]
        self.histogram += array_from_text(part["histogram"], self.histogram)
        if part["minimum"] is not None:
            self._widen(part["minimum"], part["maximum"])

    def _widen(self, minimum: float, maximum: float) -> None:
        self.minimum = minimum if self.minimum is None else min(self.minimum, minimum)
        self.maximum = maximum if self.maximum is None else max(self.maximum, maximum)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; the sums are whole numbers of up to 200 digits."""
        return {
            "sum": self.sum,
            "sum_squares": self.sum_squares,
            "minimum": self.minimum,
            "maximum": self.maximum,
            "histogram": array_as_text(self.histogram),
        }

    def describe(self) -> dict[str, Any]:
        """Return what the manifest holds: count, mean, std, min, max and quantiles; None where nothing was added."""
        if not self.count:
            none = dict.fromkeys(("mean", "std", "min", "max"))
            return {"count": 0, **none, "quantiles": {f"{q:g}": None for q in QUANTILES}}
        count = self.count
        variance = (self.sum_squares * count - self.sum**2) / (count**2 << 2 * SCALE_BITS)
        return {
            "count": count,
            "mean": self.sum / (count << SCALE_BITS),
            "std": float(np.sqrt(variance)),
            "min": self.minimum,
            "max": self.maximum,
            "quantiles": {f"{q:g}": self._quantile(q) for q in QUANTILES},
        }

    def _quantile(self, q: float) -> float:
        assert self.minimum is not None
        assert self.maximum is not None
        upto = np.cumsum(self.histogram)
        target = q * upto[-1]
        place = int(np.searchsorted(upto, target, side="left"))
        low, high = _bin_edges(place)
        if max(-low, high) < np.finfo(np.float32).tiny:  # the bins on both sides of zero
            return 0.0
        low, high = max(low, self.minimum), min(high, self.maximum)
        inside = self.histogram[place]
        return low + (high - low) * float(target - (upto[place] - inside)) / float(inside)


def array_as_text(array: np.ndarray) -> str:
    """Compress an array to a text: a run holds the histograms of thousands of shards in memory, which are mostly zeros."""
    return base64.b64encode(zlib.compress(array.tobytes(), 1)).decode()


def array_from_text(text: str, like: np.ndarray) -> np.ndarray:
    """Restore what `array_as_text` has written, with the type and shape of another array."""
    return np.frombuffer(zlib.decompress(base64.b64decode(text)), like.dtype).reshape(like.shape)


@njit(cache=True, nogil=True)
def _add_bits(bits, histogram, limbs):  # type: ignore[no-untyped-def]
    """Count the leading bits of numbers and add up their mantissas and squared mantissas by exponent.

    Args:
        bits: Of float32 numbers, uint32, shape (N,).
        histogram: Numbers in each bin, in the order of the numbers, int64, shape (2^14,).
        limbs: For each exponent the sum of the mantissas with their sign, and of the leading and trailing 24 bits of their
            squares, int64, shape (256, 3); exact for up to 2^39 numbers.
    """
    for pattern in bits:
        exponent = (pattern >> np.uint32(23)) & np.uint32(0xFF)
        mantissa = np.int64(pattern & np.uint32(0x7FFFFF))
        mantissa |= np.int64(exponent != 0) << 23
        square = mantissa * mantissa
        negative = np.int64(pattern >> np.uint32(31))
        limbs[exponent, 0] += (mantissa ^ -negative) + negative
        limbs[exponent, 1] += square >> 24
        limbs[exponent, 2] += square & 0xFFFFFF
        ordered = ~pattern if negative else pattern | _SIGN
        histogram[ordered >> _SHIFT] += 1


def _join_limbs(limbs: np.ndarray) -> tuple[int, int]:
    """Return the sum and the sum of squares as whole numbers, in units of 2^-149 and 2^-298."""
    total = squares = 0
    for exponent in np.flatnonzero(limbs.any(axis=1)).tolist():
        shift = max(exponent, 1) - 1  # numbers with exponent 0 are as far apart as those with exponent 1
        mantissas, high, low = limbs[exponent].tolist()
        total += mantissas << shift
        squares += ((high << _LIMB_BITS) + low) << 2 * shift
    return total, squares


def _integer_sums(values: np.ndarray) -> tuple[int, int]:
    """Return the same for whole numbers of up to 32 bits, in pieces whose products fit into 64 bits."""
    high, low = values >> 16, values & 0xFFFF
    squares = (int((high * high).sum()) << 32) + (int((high * low).sum()) << 17) + int((low * low).sum())
    return int(values.sum()) << SCALE_BITS, squares << 2 * SCALE_BITS


def _bin_edges(number: int) -> tuple[float, float]:
    """Return the smallest and the largest float32 of a bin."""
    first = np.uint32(number) << _SHIFT
    ordered = np.array([first, first | np.uint32((1 << int(_SHIFT)) - 1)], np.uint32)
    bits = np.where(ordered & _SIGN, ordered & ~_SIGN, ~ordered)
    low, high = bits.astype(np.uint32).view(np.float32)
    return float(low), float(high)
