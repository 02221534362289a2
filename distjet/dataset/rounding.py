"""How is a float32 stored with fewer bits, so that it takes less space and stays a float32?

The trailing bits of the mantissa are set to zero after rounding to nearest, ties to even. Every reader reads the result as
before, and the zeros compress to almost nothing: with 10 of 23 bits, a jet takes about half of the space, and no number is off
by more than 1/2048 of itself. Nothing becomes infinite: what would round up beyond the largest number is cut off instead.
"""

import numpy as np
from numba import njit

from distjet.dataset.recipes.recipe import FULL_BITS

_EXPONENT = np.uint32(0x7F800000)


def round_mantissa(values: np.ndarray, bits: int) -> np.ndarray:
    """Round to so many bits of mantissa.

    Args:
        values: float32, shape (N,). Infinities and NaN stay what they are.
        bits: 1 to 23, which changes nothing.

    Returns:
        float32, shape (N,); off by at most 2^-(bits + 1) of the value, of 2^-126 for denormal numbers.

    Raises:
        ValueError: If there are not so many bits.
    """
    if not 1 <= bits <= FULL_BITS:
        raise ValueError(f"expected 1 to {FULL_BITS} bits of mantissa (got {bits})")
    if bits == FULL_BITS:
        return values
    patterns = np.array(values, np.float32).view(np.uint32)
    _round(patterns, np.uint32(FULL_BITS - bits))
    return patterns.view(np.float32)


@njit(cache=True, nogil=True)
def _round(patterns, dropped):  # type: ignore[no-untyped-def]
    """Round the bits of float32 numbers in place; a carry out of the mantissa into the exponent is what rounding up means."""
    kept = ~((np.uint32(1) << dropped) - np.uint32(1))
    below_half = (np.uint32(1) << (dropped - np.uint32(1))) - np.uint32(1)
    for i in range(len(patterns)):
        pattern = patterns[i]
        if pattern & _EXPONENT != _EXPONENT:
            rounded = (pattern + below_half + ((pattern >> dropped) & np.uint32(1))) & kept
            patterns[i] = rounded if rounded & _EXPONENT != _EXPONENT else pattern & kept
