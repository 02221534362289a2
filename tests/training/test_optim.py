import copy
import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from distjet.config import import_path, load
from distjet.training.optim import build_optimizer, build_schedule
from distjet.training.optim_configs import OPTIMIZERS, AdamConfig, AdamWConfig, OptimizerConfig, RangerConfig, ScheduleConfig
from distjet.training.settings import TrainConfig


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
    optimizer = build_optimizer(model, AdamWConfig(weight_decay=0.1))
    decayed = {tuple(p.shape): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decayed == {(4, 3): 0.1, (4,): 0.0}


class Part(nn.Linear):
    """A part of a model that learns faster than the rest."""

    lr_factor = 10.0


class Stack(nn.Module):
    """Three linear layers in one."""

    stacked_dims = 1

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(3, 5, 4)), nn.Parameter(torch.zeros(3, 5))


@pytest.mark.parametrize("config", [AdamWConfig(lr=0.2, weight_decay=0.1), RangerConfig(lr=0.2, weight_decay=0.1)])
def test_parts_have_their_own_rates_and_stacked_biases_are_biases(config: OptimizerConfig) -> None:
    model = nn.ModuleDict({"rest": nn.Linear(3, 4), "part": Part(3, 2), "stack": Stack()})
    optimizer = build_optimizer(model, config)
    found = {tuple(p.shape): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert found == {
        (4, 3): (0.2, 0.1),
        (4,): (0.2, 0.0),
        (3, 5, 4): (0.2, 0.1),
        (3, 5): (0.2, 0.0),
        (2, 3): (2.0, 0.1),
        (2,): (2.0, 0.0),
    }
    assert optimizer.param_groups[0]["lr"] == 0.2, "the rate that is told of a training is that of the model"
    schedule = build_schedule(optimizer, ScheduleConfig(name="constant", warmup_fraction=0.5), 100)
    for _ in range(25):
        optimizer.step()
        schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1, 0.1, 1.0, 1.0])


# --- published schedules, by the epoch: the rate of the first step of each ---------------------------------------------


def by_epoch(config: ScheduleConfig, num_epochs: int, steps_per_epoch: int = 10) -> list[float]:
    return rates(config, num_epochs * steps_per_epoch)[::steps_per_epoch]


def test_the_schedule_of_particlenet() -> None:
    """Up from 3e-4 to 3e-3 in 8 epochs, back in 8, and down to 5e-7 in 4 (arXiv:1902.08570)."""
    config = ScheduleConfig(
        name="one_cycle", start_fraction=0.1, warmup_fraction=0.4, fall_fraction=0.4, final_fraction=5e-7 / 3e-3
    )
    lr = [3e-3 * rate for rate in rates(config, 2000)]
    assert [lr[100 * epoch] for epoch in (0, 4, 8, 12, 16)] == pytest.approx([3e-4, 1.65e-3, 3e-3, 1.65e-3, 3e-4])
    assert lr[1800] == pytest.approx((3e-4 + 5e-7) / 2)
    assert lr[-1] == pytest.approx(5e-7, abs=1e-6)
    assert lr.index(max(lr)) == 800


def test_the_schedule_of_lorentznet() -> None:
    """The rates that the authors of arXiv:2201.08187 recorded after each epoch, which are those of the next."""
    recorded = [
        *(0.2, 0.4, 0.6, 0.8, 1.0, 0.8535533905932737, 0.5, 0.14644660940672628),
        *(1.0, 0.9619397662556434, 0.8535533905932737, 0.691341716182545, 0.5, 0.3086582838174551, 0.14644660940672628),
        *(0.03806023374435663, 1.0, 0.9903926402016153, 0.9619397662556434, 0.9157348061512727, 0.8535533905932737),
        *(0.7777851165098011, 0.691341716182545, 0.5975451610080642, 0.5, 0.40245483899193594, 0.3086582838174551),
        *(0.22221488349019903, 0.14644660940672628, 0.08426519384872733, 0.03806023374435663, 0.009607359798384786),
        *(0.004803679899192393, 0.0024018399495961964, 0.0012009199747980982),
    ]
    config = ScheduleConfig(
        name="warm_restarts",
        start_fraction=0.2,
        warmup_fraction=4 / 35,
        num_cycles=3,
        cycle_growth=2,
        cycles_end=32 / 35,
        num_halvings=3,
        final_fraction=recorded[-1],
    )
    assert by_epoch(config, 35) == pytest.approx(recorded, rel=1e-6)


def test_the_schedule_of_lundnet() -> None:
    """A tenth after 10 epochs of 30, and again after 20 (arXiv:2012.08526)."""
    lr = by_epoch(ScheduleConfig(name="steps", warmup_fraction=0), 30)
    assert lr == pytest.approx([1.0] * 10 + [0.1] * 10 + [0.01] * 10)


def test_flat_then_exponential_has_at_the_end_of_each_epoch_the_rate_of_weaver() -> None:
    """weaver lowers the rate at the beginning of each epoch of the last 30 % (`flat+decay`); here it falls in every step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones=list(range(14, 20)), gamma=0.01 ** (1 / 6))
    expected = []
    for _ in range(20):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    config = ScheduleConfig(name="flat_then_anneal", anneal="exponential", warmup_fraction=0, flat_fraction=0.7)
    lr = [*rates(config, 2000), 0.01]
    assert [lr[100 * (epoch + 1)] for epoch in range(20)] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["cosine", "flat_then_anneal", "one_cycle", "steps", "warm_restarts", "constant"])
def test_every_schedule_warms_up_and_stays_within_its_bounds(name: str) -> None:
    lr = rates(ScheduleConfig(name=name, warmup_fraction=0.25, start_fraction=0.5), 400)
    assert lr[0] == 0.5
    assert lr[50] == pytest.approx(0.75)
    assert lr[100] == pytest.approx(1.0)
    assert all(0 <= rate <= 1 for rate in lr)


def test_milestones_rise() -> None:
    for milestones in ((0.5, 0.5), (0.7, 0.2), (0.0, 0.5), (0.5, 1.0)):
        with pytest.raises(ValidationError, match="rising parts of all steps"):
            ScheduleConfig(name="steps", milestones=milestones)


# --- optimisers ------------------------------------------------------------------------------------------------------


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 2))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    """Make a step on data that depend on its number alone."""
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(number))
    optimizer.zero_grad()
    (model(x) - x[:, :2] ** 2).square().mean().backward()
    optimizer.step()


def test_ranger_makes_the_steps_of_weaver() -> None:
    pytest.importorskip("weaver", reason="weaver-core is in the extra bench")
    from weaver.utils.nn.optimizer.ranger import Ranger

    ours, theirs = network(), network()
    optimizer = build_optimizer(ours, RangerConfig(lr=5e-2, weight_decay=0.05))
    decayed = [p for p in theirs.parameters() if p.ndim > 1]
    free = [p for p in theirs.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.05}, {"params": free, "weight_decay": 0.0}]
    reference = Ranger(groups, lr=5e-2)
    for number in range(25):
        step(ours, optimizer, number)
        step(theirs, reference, number)
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_without_lookahead_ranger_is_rectified_adam() -> None:
    ours, theirs = network(), network()
    optimizer = build_optimizer(ours, RangerConfig(slow_rate=1.0))
    reference = torch.optim.RAdam(theirs.parameters(), lr=5e-3, betas=(0.95, 0.999), eps=1e-5)
    for number in range(10):
        step(ours, optimizer, number)
        step(theirs, reference, number)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("interruption", [4, 6])
def test_an_optimiser_goes_on_from_its_state_as_if_never_stopped(name: str, interruption: int) -> None:
    config = import_path(OPTIMIZERS[name].config)(lr=1e-2)
    whole = network()
    optimizer = build_optimizer(whole, config)
    for number in range(interruption):
        step(whole, optimizer, number)
    resumed = copy.deepcopy(whole)
    other = build_optimizer(resumed, config)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for number in range(interruption, 20):
        step(whole, optimizer, number)
        step(resumed, other, number)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_ranger_lets_parameters_without_a_gradient_alone() -> None:
    model = nn.ModuleList([network(), nn.Linear(2, 2)])
    before = copy.deepcopy(model[1].state_dict())
    optimizer = build_optimizer(model, RangerConfig())
    for number in range(13):
        step(model[0], optimizer, number)
    assert all(torch.equal(value, before[name]) for name, value in model[1].state_dict().items())


def test_defaults_are_those_of_the_optimiser_that_is_named() -> None:
    settings = ["dataset=/d", "output=/o"]
    ranger = load(TrainConfig, [], [*settings, "optimizer.name=ranger", "optimizer.lr=1e-3"]).optimizer
    assert (ranger.lr, ranger.betas, ranger.eps, ranger.slow_every) == (1e-3, (0.95, 0.999), 1e-5, 6)
    assert load(TrainConfig, [], settings).optimizer == AdamWConfig()
    assert isinstance(build_optimizer(network(), AdamConfig()), torch.optim.Adam)
