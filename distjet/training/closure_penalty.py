"""How does a training learn that the mean response of every bin is one?

A loss of single jets is at peace with a bias that differs from bin to bin, as long as the resolution gains from it. This
penalty adds, for each bin of true energy and |eta|, the square of the mean residual of its jets in the global batch,

    sum over bins of W_b m_b^2,    m_b = sum_j w_j psi(r_j - 1) / W_b,    W_b = sum_j w_j,    psi(x) = h tanh(x / h)

where psi bounds what the tails count, as the Gaussian core does. Its gradient is that of 2 m_b psi for each jet with m_b held,
so it is added jet by jet like any other term, and W processes that agree on m_b make the step of one.

With n jets in a bin of a batch, the mean of m_b^2 is that of the bias plus the variance over n: what remains of it is a bounded
squared error, which larger batches make smaller.
"""

import torch
from torch import Tensor

from distjet.evaluation.config import BinsConfig
from distjet.ranks import RankInfo
from distjet.training.closure import ResponseBins
from distjet.training.parallel import all_reduce_sum


class ClosurePenalty:
    """Squares of the mean residuals of bins, over all processes."""

    def __init__(
        self, half_width: float, bins: BinsConfig, energy_range_gev: tuple[float, float], device: torch.device, ranks: RankInfo
    ) -> None:
        """Lay out the bins; residuals beyond `half_width` count as much as those at it."""
        self.half_width, self.ranks = half_width, ranks
        self.bins = ResponseBins(bins, energy_range_gev, device)

    def __call__(self, residual: Tensor, weight: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Return what each jet adds to the penalty, times its weight; zero outside the bins and for residuals that are NaN.

        All processes must call it in the same step.

        Args:
            residual: Response minus one (1), shape (B,).
            weight: Weight of each jet, shape (B,).
            targets: True jets.

        Returns:
            Shape (B,); the values sum up to the penalty, and their gradients to its gradient.
        """
        place, inside = self.bins(targets)
        bounded = self.half_width * torch.tanh(residual / self.half_width)
        inside = inside & ~bounded.detach().isnan()
        weight, held = weight * inside, torch.where(inside, bounded.detach(), 0.0)
        sums = held.new_zeros(2, self.bins.num_bins)
        sums = sums.index_add(1, place, torch.stack([weight * held, weight]))
        all_reduce_sum(sums, self.ranks)
        mean = (sums[0] / sums[1].clamp(min=torch.finfo(sums.dtype).tiny))[place]
        return weight * torch.where(inside, mean**2 + 2 * mean * (bounded - bounded.detach()), 0.0)
