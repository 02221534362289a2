"""How much does one number of a jet tell of another? Distance correlation is zero only where they are independent.

With weights w that sum to 1 and a_ij = |x_i - x_j|, b_ij = |y_i - y_j|,

    A_ij = a_ij - a_i - a_j + a,    a_i = sum_j w_j a_ij,    a = sum_i w_i a_i,    B_ij from b_ij in the same way,
    dCov^2(x, y) = sum_ij w_i w_j A_ij B_ij,    dCorr^2 = dCov^2(x, y) / sqrt(dCov^2(x, x) dCov^2(y, y))

The rows of B sum to zero, so that d dCov^2(x, y) / dx_i = 2 w_i sum_j w_j sign(x_i - x_j) B_ij; and dCov^2 grows in proportion
to x, so that its value is the sum of x_i times this gradient (Euler). Only sums over j are needed, which are made for a few
rows at a time: the n^2 distances are never held, and each of several processes makes the rows of its own jets. All of it is in
float64, because the sums of an almost independent pair cancel.

Reference:
    G. Szekely, M. Rizzo, N. Bakirov, arXiv:0803.4101; as a loss: G. Kasieczka, D. Shih, arXiv:2001.05310.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

ELEMENTS_AT_ONCE = 2**17
"Of the matrix of distances: 1 MB, which a processor keeps in its cache."


@dataclass(frozen=True)
class Pairs:
    """Pairs (x, y) with their weights, all float64 of shape (n,); the weights of a whole sample sum to 1."""

    x: Tensor
    y: Tensor
    weight: Tensor


def mean_distances(at: Tensor, values: Tensor, weight: Tensor) -> Tensor:
    """Sum weight_j |at_i - values_j| over j, in n log n steps.

    Args:
        at: Shape (m,).
        values: Shape (n,).
        weight: Sums to 1, shape (n,).
    """
    ordered, order = torch.sort(values)
    sums = pad(torch.stack([weight, weight * values])[:, order].cumsum(1), (1, 0))
    below, moment_below = sums[:, torch.searchsorted(ordered, at)]
    return at * (2 * below - 1) - 2 * moment_below + sums[1, -1]


def own_covariance(values: Tensor, weight: Tensor) -> Tensor:
    """dCov^2 of a number with itself, shape (); weights sum to 1."""
    mean = mean_distances(values, values, weight)
    variance = (weight * (values - (weight * values).sum()) ** 2).sum()
    return 2 * variance - 2 * (weight * mean**2).sum() + (weight * mean).sum() ** 2


def covariance_gradients(rows: Pairs, sample: Pairs) -> tuple[Tensor, Tensor]:
    """Gradients of dCov^2(x, y) and of dCov^2(x, x) of a sample with respect to x of some of its pairs.

    Args:
        rows: Pairs of the sample.
        sample: All pairs.

    Returns:
        Both of the shape of `rows`. Summed over all rows, x times the first is dCov^2(x, y).
    """
    w = sample.weight
    mean_a, mean_b = (mean_distances(values, values, w) for values in (sample.x, sample.y))
    signed, signed_b = _signed_sums(rows, sample, torch.stack([w, w * mean_a, w * mean_b], dim=1))
    of_one, of_mean_a, of_mean_b = signed.unbind(1)
    signed_a = rows.x - (w * sample.x).sum()  # sign(d) |d| = d
    centred_a = signed_a - of_mean_a - of_one * (mean_distances(rows.x, sample.x, w) - (w * mean_a).sum())
    centred_b = signed_b - of_mean_b - of_one * (mean_distances(rows.y, sample.y, w) - (w * mean_b).sum())
    return 2 * rows.weight * centred_b, 4 * rows.weight * centred_a


def _signed_sums(rows: Pairs, sample: Pairs, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Sum sign(x_i - x_j) times columns_j (m, K), and w_j sign(x_i - x_j) b_ij (m,), over j."""
    sums, sums_b = rows.x.new_empty(len(rows.x), columns.shape[1]), torch.empty_like(rows.x)
    at_once = max(1, ELEMENTS_AT_ONCE // max(len(sample.x), 1))
    for first in range(0, len(rows.x), at_once):
        part = slice(first, first + at_once)
        sign = torch.sign(rows.x[part, None] - sample.x)
        torch.matmul(sign, columns, out=sums[part])
        torch.matmul(sign.mul_((rows.y[part, None] - sample.y).abs_()), sample.weight, out=sums_b[part])
    return sums, sums_b
