"""Which constituents of each jet are the hardest, in which order?"""

import numpy as np
from numba import njit


def hardest(pt: np.ndarray, ptr: np.ndarray, max_constituents: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Sort the constituents of each jet by falling pT, and keep the first ones.

    Constituents of equal pT stay in their order.

    Args:
        pt: Transverse momentum of each constituent, shape (N,).
        ptr: First constituent of each jet and, last, N, shape (B + 1,).
        max_constituents: How many of a jet are kept; None: all.

    Returns:
        Places of the constituents that are kept, shape (M,), and the first of each jet among them, shape (B + 1,).
    """
    sizes = np.diff(ptr)
    kept = np.zeros_like(ptr)
    np.cumsum(sizes if max_constituents is None else np.minimum(sizes, max_constituents), out=kept[1:])
    places = np.empty(kept[-1], np.int64)
    _sort(pt, ptr, kept, places)
    return places, kept


@njit(cache=True, nogil=True)
def _sort(pt, ptr, kept, places):  # type: ignore[no-untyped-def]
    for jet in range(len(ptr) - 1):
        order = np.argsort(-pt[ptr[jet] : ptr[jet + 1]], kind="mergesort")
        for place in range(kept[jet + 1] - kept[jet]):
            places[kept[jet] + place] = ptr[jet] + order[place]
