"""Spec: a row with a weight is as many rows; without weights it is the batch norm of torch."""

import torch

from distjet.nn.weighted_batch_norm import Moments, WeightedBatchNorm


def pair(num_channels: int = 4) -> tuple[WeightedBatchNorm, torch.nn.BatchNorm1d]:
    torch.manual_seed(0)
    mine, reference = WeightedBatchNorm(num_channels), torch.nn.BatchNorm1d(num_channels)
    torch.nn.init.normal_(mine.weight)
    torch.nn.init.normal_(mine.bias)
    reference.load_state_dict(mine.state_dict())
    return mine, reference


def test_weights_are_repetitions() -> None:
    mine, reference = pair()
    values = (3 + torch.randn(6, 4)).requires_grad_()
    weights = torch.tensor([0.0, 1, 2, 3, 0, 5])
    repeated = values.repeat_interleave(weights.long(), dim=0)
    direction = torch.randn(6, 4)
    found = mine(values, weights)
    expected = reference(repeated)
    torch.testing.assert_close(found.repeat_interleave(weights.long(), dim=0), expected, atol=1e-5, rtol=1e-5)
    (of_mine,) = torch.autograd.grad((found * direction * weights.unsqueeze(1)).sum(), values)
    (of_reference,) = torch.autograd.grad((expected * direction.repeat_interleave(weights.long(), dim=0)).sum(), values)
    torch.testing.assert_close(of_mine, of_reference, atol=1e-5, rtol=1e-4)
    for name, buffer in reference.named_buffers():
        torch.testing.assert_close(getattr(mine, name), buffer)
    mine.eval(), reference.eval()
    torch.testing.assert_close(mine(values, weights), reference(values), atol=1e-6, rtol=1e-6)


def test_rows_without_weights_are_those_of_torch() -> None:
    mine, reference = pair()
    values = torch.randn(9, 4)
    torch.testing.assert_close(mine(values), reference(values))


def test_moments_of_channels_side_by_side() -> None:
    values, weights = torch.randn(5, 3, 4), torch.rand(5, 3)
    joined = Moments.join([Moments.of(values[..., :1], weights), Moments.of(values[..., 1:], weights)])
    for mine, expected in zip(joined, Moments.of(values, weights), strict=True):
        torch.testing.assert_close(mine, expected)


def test_no_rows_say_nothing() -> None:
    mine, _ = pair()
    before = mine.running_mean.clone(), mine.running_var.clone()
    assert mine(torch.zeros(3, 4), torch.zeros(3)).isfinite().all()
    torch.testing.assert_close((mine.running_mean, mine.running_var), before)
