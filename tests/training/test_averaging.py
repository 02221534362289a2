import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from distjet.training.averaging import WeightAverage


def test_it_equals_the_average_of_torch() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    ours, theirs = WeightAverage(model, 0.9), AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    for _ in range(5):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        ours.update(model)
        theirs.update_parameters(model)
    for a, b in zip(ours.module.parameters(), theirs.module.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_a_loaded_average_continues() -> None:
    model = nn.Linear(2, 2)
    first = WeightAverage(model, 0.5)
    first.update(model)
    second = WeightAverage(nn.Linear(2, 2), 0.5)
    second.load_state_dict(first.state_dict())
    with torch.no_grad():
        model.weight += 1
    first.update(model)
    second.update(model)
    assert torch.equal(first.module.weight, second.module.weight)
    assert not torch.equal(first.module.weight, model.weight)


def test_what_a_batch_norm_has_seen_is_kept_with_the_average() -> None:
    model = nn.BatchNorm1d(3)
    average = WeightAverage(model, 0.9)
    model(torch.randn(50, 3) + 7)
    average.update(model)
    assert torch.equal(average.module.running_mean, model.running_mean)
    assert average.module.running_mean.min() > 0.5
