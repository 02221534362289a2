"""What the validation says of scores, compared with the evaluation and with closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from distjet.errors import NonFiniteError, UserError
from distjet.ranks import SINGLE
from distjet.training.scores import ScoreHistogram

CPU = torch.device("cpu")


def gaussian_scores(num_jets: int, distance: float, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits whose difference is normal in each class, `distance` apart."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, num_jets)
    difference = rng.normal(size=num_jets) + distance * labels
    logits = np.stack([-difference / 2, difference / 2], 1)
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)


def test_scores_of_gaussians_have_the_area_and_rejection_of_the_closed_form() -> None:
    logits, labels = gaussian_scores(400_000, 2.0)
    found = ScoreHistogram(2, CPU)
    for part in range(4):  # as batches come
        mine = slice(100_000 * part, 100_000 * (part + 1))
        found.fill(logits[mine], labels[mine], torch.ones(100_000))
    metrics = found.metrics(SINGLE)
    assert metrics["auc"] == pytest.approx(norm.cdf(2 / math.sqrt(2)), abs=2e-3)
    assert metrics["rejection_50"] == pytest.approx(1 / norm.sf(2.0), rel=0.03)
    assert metrics["rejection_30"] == pytest.approx(1 / norm.sf(2.0 + norm.isf(0.3)), rel=0.08)
    assert metrics["accuracy"] == pytest.approx((norm.cdf(0) + norm.sf(-2.0)) / 2, abs=5e-3)


def test_jets_count_with_their_weights() -> None:
    logits, labels = gaussian_scores(2000, 1.0)
    weight = torch.arange(2000) % 3
    weighted, repeated = ScoreHistogram(2, CPU), ScoreHistogram(2, CPU)
    weighted.fill(logits, labels, weight.float())
    repeated.fill(logits.repeat_interleave(weight, 0), labels.repeat_interleave(weight), torch.ones(int(weight.sum())))
    assert weighted.metrics(SINGLE) == pytest.approx(repeated.metrics(SINGLE))


def test_more_than_two_classes_are_compared_pair_by_pair() -> None:
    rng = np.random.default_rng(3)
    labels = torch.tensor(rng.integers(0, 3, 60_000))
    logits = torch.tensor(rng.normal(size=(60_000, 3)), dtype=torch.float32)
    logits[torch.arange(60_000), labels] += 1.5
    found = ScoreHistogram(3, CPU)
    found.fill(logits, labels, torch.ones(60_000))
    # the difference of two logits is normal with deviation sqrt 2 and moves by 2 * 1.5 from one class to the other
    assert found.metrics(SINGLE)["auc"] == pytest.approx(norm.cdf(3 / 2), abs=3e-3)


def test_scores_that_are_not_finite_and_absent_classes_are_errors() -> None:
    found = ScoreHistogram(2, CPU)
    found.fill(torch.tensor([[0.0, 1.0], [math.nan, 0.0]]), torch.tensor([0, 1]), torch.ones(2))
    with pytest.raises(NonFiniteError, match="the scores of 1 validation jets are not finite"):
        found.metrics(SINGLE)
    found = ScoreHistogram(2, CPU)
    found.fill(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1]), torch.ones(2))
    with pytest.raises(UserError, match="a class has no jets in the validation split"):
        found.metrics(SINGLE)
