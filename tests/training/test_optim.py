import math

import pytest
import torch
from torch import nn

from distjet.training.optim import build_optimizer, build_schedule
from distjet.training.settings import OptimizerConfig, ScheduleConfig


def rates(config: ScheduleConfig, num_steps: int) -> list[float]:
    """The learning rate at every step, for a peak of 1."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = build_schedule(optimizer, config, num_steps)
    result = []
    for _ in range(num_steps):
        result.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return result


def test_cosine_rises_and_falls_to_the_final_fraction() -> None:
    lr = rates(ScheduleConfig(name="cosine", warmup_fraction=0.1, final_fraction=0.01), 1000)
    assert lr[50] == pytest.approx(0.5)
    assert lr[100] == pytest.approx(1.0)
    assert lr[550] == pytest.approx(0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * 0.5)))
    assert lr[-1] == pytest.approx(0.01, abs=1e-4)
    assert min(lr) > 0


def test_flat_then_anneal_is_flat_first() -> None:
    lr = rates(ScheduleConfig(name="flat_then_anneal", warmup_fraction=0, flat_fraction=0.7), 1000)
    assert set(lr[:700]) == {1.0}
    assert lr[850] == pytest.approx(0.01 + 0.99 * 0.5)


def test_one_cycle_is_a_triangle_and_constant_is_constant() -> None:
    lr = rates(ScheduleConfig(name="one_cycle", warmup_fraction=0.3, final_fraction=0.0), 1000)
    assert lr[150] == pytest.approx(0.5)
    assert lr[650] == pytest.approx(0.5, abs=1e-3)
    assert rates(ScheduleConfig(name="constant", warmup_fraction=0), 10) == [1.0] * 10


def test_plateau_falls_after_patience() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = build_schedule(optimizer, ScheduleConfig(name="plateau", plateau_patience=1, plateau_factor=0.3), 10)
    for metric in (1.0, 1.0, 1.0):
        schedule.step(metric)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.3)


def test_biases_and_normalisations_are_not_decayed() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.1))
    decayed = {tuple(p.shape): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decayed == {(4, 3): 0.1, (4,): 0.0}
