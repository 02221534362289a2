"""Spec: dropout keeps the expected share, the same elements on the way back, and depends on the seed of torch alone."""

import pytest
import torch

from distjet.nn.dropout import Dropout, dropout


def test_share_and_scale() -> None:
    found = dropout(torch.ones(1000, 1000), 0.2)
    assert set(found.unique().tolist()) == {0.0, 1.25}
    assert (found == 0).float().mean().item() == pytest.approx(0.2, abs=0.002)


def test_elements_are_independent() -> None:
    """Of rows, columns and calls: counts scatter like those of a binomial distribution, and neighbours do not correlate."""
    first, second = (dropout(torch.ones(2000, 1000), 0.1) == 0).double(), (dropout(torch.ones(2000, 1000), 0.1) == 0).double()
    for dim, length in ((0, 2000), (1, 1000)):
        assert first.mean(dim).std().item() == pytest.approx((0.09 / length) ** 0.5, rel=0.1)
    for a, b in ((first, second), (first[:, 1:], first[:, :-1]), (first[1:], first[:-1])):
        assert ((a - 0.1) * (b - 0.1)).mean().item() == pytest.approx(0, abs=5 * 0.09 / 2e6**0.5)


def test_the_gradient_passes_where_values_did() -> None:
    values = torch.ones(50, 7, requires_grad=True)
    found = dropout(values.T, 0.5)
    found.sum().backward()
    assert torch.equal(values.grad.T, found)


def test_the_seed_of_torch_decides() -> None:
    layer, values = Dropout(0.3), torch.randn(100)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(layer(values))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_evaluation_and_zero_change_nothing() -> None:
    values = torch.randn(5)
    assert Dropout(0.5).eval()(values) is values
    assert dropout(values, 0.0) is values
    assert dropout(values.double(), 0.5).dtype == torch.float64
