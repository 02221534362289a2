"""Losses of labels against torch's cross entropy, the formula of the focal loss, and the proportions that it was made for."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.special import log_softmax
from torch.nn.functional import cross_entropy

from distjet.config import implementation, import_path
from distjet.nn.losses.classification import CrossEntropy, Focal
from distjet.nn.losses.classification_configs import CLASSIFICATION_LOSSES, CrossEntropyConfig, FocalConfig

RNG = np.random.default_rng(1)
WEIGHTS = (0.5, 1.0, 2.5)


def sample(num_classes: int, num: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.tensor(3 * RNG.normal(size=(num, num_classes)), dtype=torch.float32)
    return logits, torch.tensor(RNG.integers(num_classes, size=num))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_that_of_torch(smoothing: float, weights: tuple[float, ...] | None) -> None:
    logits, labels = sample(3)
    found = CrossEntropy(CrossEntropyConfig(label_smoothing=smoothing, class_weights=weights))(logits, labels)
    table = None if weights is None else torch.tensor(weights)
    expected = cross_entropy(logits, labels, table, label_smoothing=smoothing)  # a mean over the weights of the true classes
    assert found.shape == (50,)
    total = 50 if table is None else table[labels].sum()
    assert (found.sum() / total).item() == pytest.approx(expected.item(), rel=1e-5)


def test_smoothing_is_its_definition() -> None:
    logits, labels = sample(4)
    found = CrossEntropy(CrossEntropyConfig(label_smoothing=0.2))(logits, labels)
    log_p = log_softmax(logits.double().numpy(), axis=1)
    truth = 0.05 + 0.8 * np.eye(4)[labels.numpy()]
    np.testing.assert_allclose(found, -(truth * log_p).sum(1), rtol=1e-5)


def test_focal_is_its_definition_and_without_gamma_cross_entropy() -> None:
    logits, labels = sample(3)
    log_p = log_softmax(logits.double().numpy(), axis=1)[np.arange(50), labels.numpy()]
    weight = np.array(WEIGHTS)[labels.numpy()]
    found = Focal(FocalConfig(gamma=1.5, class_weights=WEIGHTS))(logits, labels)
    np.testing.assert_allclose(found, -weight * (1 - np.exp(log_p)) ** 1.5 * log_p, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(Focal(FocalConfig(gamma=0))(logits, labels), cross_entropy(logits, labels, reduction="none"))


def test_focal_has_the_published_proportions() -> None:
    """At gamma 2, an example of probability 0.9 counts 100 times less than with cross entropy, and one of 0.968 1000 times."""
    logit = torch.tensor([math.log(p / (1 - p)) for p in (0.9, 0.968)])
    logits, labels = torch.stack([torch.zeros(2), logit], 1), torch.tensor([1, 1])
    plain, focal = cross_entropy(logits, labels, reduction="none"), Focal(FocalConfig())(logits, labels)
    assert (plain / focal).tolist() == pytest.approx([100, 976.6], rel=1e-3)
    weighted = Focal(FocalConfig(alpha=0.25))
    assert (weighted(logits, labels) / focal).tolist() == pytest.approx([0.25, 0.25])
    assert (weighted(logits, 1 - labels) / Focal(FocalConfig())(logits, 1 - labels)).tolist() == pytest.approx([0.75, 0.75])


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_has_a_finite_gradient_where_the_network_is_certain(gamma: float) -> None:
    logits = torch.tensor([[0.0, 60.0], [60.0, 0.0], [0.0, 200.0]], requires_grad=True)
    loss = Focal(FocalConfig(gamma=gamma))(logits, torch.tensor([1, 1, 0]))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert logits.grad.isfinite().all()
    assert logits.grad[1].tolist() == pytest.approx([1, -1], rel=1e-4)


@pytest.mark.parametrize("name", CLASSIFICATION_LOSSES)
def test_losses_are_in_float32_whatever_the_network_is_in(name: str) -> None:
    loss = implementation(name, CLASSIFICATION_LOSSES)(import_path(CLASSIFICATION_LOSSES[name].config)())
    logits, labels = sample(2)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(logits.bfloat16(), labels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, loss(logits.bfloat16().float(), labels))
    assert loss(logits[:0], labels[:0]).shape == (0,)


def test_the_number_of_class_weights_is_that_of_the_classes() -> None:
    logits, labels = sample(2)
    with pytest.raises(ValueError, match="one weight for each of 2 classes"):
        CrossEntropy(CrossEntropyConfig(class_weights=WEIGHTS))(logits, labels)
    with pytest.raises(ValidationError):
        CrossEntropyConfig(label_smoothing=1.0)
