"""How well are classes told apart on the validation split, at any number of processes and of jets?

For each pair of classes, the difference of their logits is counted in fine bins, apart for the jets of either class; counts of
all processes are added, so the numbers are the same for any number of them, and no jet is kept. The difference of two logits
orders jets as p_a / (p_a + p_b) does.
"""

from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from distjet.errors import NonFiniteError, UserError
from distjet.ranks import RankInfo
from distjet.training.parallel import all_reduce_sum

MAX_DIFFERENCE, NUM_BINS = 30.0, 6000
"Range and number of the bins of a difference of logits: 0.01 wide, so that ties within a bin are far below any error."


class ScoreHistogram:
    """Counts of jets in (pair of classes, which of them it is, difference of the logits)."""

    def __init__(self, num_classes: int, device: torch.device) -> None:
        """Lay out the bins."""
        self.pairs = list(combinations(range(num_classes), 2))
        self.counts = torch.zeros(len(self.pairs), 2, NUM_BINS, dtype=torch.float64, device=device)
        self.correct = torch.zeros(3, dtype=torch.float64, device=device)
        "Sum of weights of jets in their class, of all jets, and number of jets with a score that is not finite."

    def fill(self, logits: Tensor, labels: Tensor, weight: Tensor) -> None:
        """Add jets.

        Args:
            logits: Shape (B, C).
            labels: Class of each jet, int64, shape (B,).
            weight: Of each jet, shape (B,).
        """
        finite = torch.isfinite(logits).all(1)
        weight = torch.where(finite, weight, 0.0).double()
        logits = torch.where(finite[:, None], logits, 0.0)
        is_right = (logits.argmax(1) == labels).double()
        self.correct += torch.stack([(weight * is_right).sum(), weight.sum(), (~finite).sum().double()])
        for number, (first, second) in enumerate(self.pairs):
            difference = (logits[:, second] - logits[:, first]).clamp(-MAX_DIFFERENCE, MAX_DIFFERENCE)
            place = ((difference + MAX_DIFFERENCE) * (NUM_BINS / (2 * MAX_DIFFERENCE))).long().clamp(max=NUM_BINS - 1)
            for side, label in enumerate((first, second)):
                self.counts[number, side].index_add_(0, place, weight * (labels == label))

    def metrics(self, ranks: RankInfo) -> dict[str, float]:
        """Add the counts of all processes and say how well classes are told apart.

        Returns:
            auc: Area under the ROC curve, mean over pairs of classes; accuracy: share of jets whose class has the largest
            score; rejection_30, rejection_50: 1 / eps_B at that signal efficiency, geometric mean over pairs, of which the
            class that comes first is the background.

        Raises:
            NonFiniteError: If a score was not finite, on any process.
            UserError: If a class has no jets.
        """
        correct, total, num_bad = all_reduce_sum(self.correct.clone(), ranks).tolist()
        if num_bad:
            raise NonFiniteError(f"the scores of {num_bad:.0f} validation jets are not finite; lower optimizer.lr")
        counts = all_reduce_sum(self.counts.clone(), ranks).cpu().numpy()
        if not (counts.sum(2) > 0).all():
            raise UserError("a class has no jets in the validation split; raise split.val in `distjet prepare`")
        shares = counts / counts.sum(2, keepdims=True)
        found = [_separation(background, signal) for background, signal in shares]
        auc, rejection_30, rejection_50 = np.array(found).T
        return {
            "auc": float(auc.mean()),
            "accuracy": correct / total,
            "rejection_30": float(np.exp(np.log(rejection_30).mean())),
            "rejection_50": float(np.exp(np.log(rejection_50).mean())),
        }


def _separation(background: np.ndarray, signal: np.ndarray) -> tuple[float, float, float]:
    """Area under the curve, and 1 / eps_B at 30 and 50 % signal efficiency, from histograms with unit sum."""
    area = float(np.sum(signal * (np.cumsum(background) - 0.5 * background)))
    eps_s, eps_b = np.cumsum(signal[::-1]), np.cumsum(background[::-1])
    at = np.interp((0.3, 0.5), eps_s, eps_b)
    smallest = background[background > 0].min()  # fewer than one jet is not known
    return area, *(1 / np.maximum(at, smallest))
