"""What are the energy correlation functions of jets?

All pairs and all triples of the constituents of a jet are summed, exactly: n^3 / 6 triples, which a compiled loop over the
innermost constituent takes several at a time. The three triple functions differ only in how many of the three angles they
multiply, the smallest ones; so all are summed in one pass.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from distjet.physics.kinematics import Floats
from distjet.physics.recombination import squared_distance

FAST = {"contract", "nsz", "reassoc"}
"What a compiler may do to sums to make vectors of them; no NaN is assumed away."

E2, E2_SQUARED, E3_SMALLEST, E3_TWO_SMALLEST, E3 = range(5)
"Columns of `energy_correlators`."


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def energy_correlators(
    pt: Floats, rapidity: Floats, phi: Floats, ptr: NDArray[np.int64]
) -> Floats:  # pragma: no cover - compiled
    """Sum over pairs and triples of the constituents of each jet, with z = pT / sum of pT.

    Args:
        pt: Transverse momenta, float64, shape (N,).
        rapidity: Rapidities, shape (N,).
        phi: Azimuths in [-pi, pi], shape (N,).
        ptr: First constituent of each jet and, last, N, shape (J + 1,).

    Returns:
        By column: 1e2 with beta = 1 and 2; 1e3, 2e3, 3e3 with beta = 1 (3e3 is the e3 of the ratios C2 and D2), shape (J, 5).

    Reference:
        A. Larkoski, G. P. Salam, J. Thaler, "Energy correlation functions for jet substructure", arXiv:1305.0007;
        I. Moult, L. Necib, J. Thaler, "New angles on energy correlation functions", arXiv:1609.07483.
    """
    sums = np.zeros((len(ptr) - 1, 5))
    largest = np.diff(ptr).max() if len(ptr) > 1 else 0
    distance, share = np.empty((largest, largest)), np.empty(largest)
    for jet in range(len(ptr) - 1):
        start, size = ptr[jet], ptr[jet + 1] - ptr[jet]
        total = pt[start : start + size].sum()
        for i in range(size):
            share[i] = pt[start + i] / total
            for j in range(i):
                between = squared_distance(rapidity[start + i], phi[start + i], rapidity[start + j], phi[start + j])
                distance[i, j] = distance[j, i] = np.sqrt(between)
        _sum_jet(share[:size], distance, sums[jet])
    return sums


@njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")
def _sum_jet(share, distance, sums):  # type: ignore[no-untyped-def]
    for i in range(len(share)):
        for j in range(i):
            pair, angle = share[i] * share[j], distance[i, j]
            sums[E2] += pair * angle
            sums[E2_SQUARED] += pair * angle * angle
            smallest = two_smallest = all_three = 0.0
            to_first, to_second = distance[i], distance[j]
            for k in range(j):
                a, b = to_first[k], to_second[k]
                smallest += share[k] * min(angle, a, b)
                two_smallest += share[k] * min(angle * min(a, b), a * b)
                all_three += share[k] * a * b
            sums[E3_SMALLEST] += pair * smallest
            sums[E3_TWO_SMALLEST] += pair * two_smallest
            sums[E3] += pair * angle * all_three
