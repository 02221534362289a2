"""Penalties on what scores tell of the mass: against their definitions, by autograd, and over real processes."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from distjet.config import implementation, import_path
from distjet.nn.adversary import MassAdversary
from distjet.nn.losses.classification_configs import DECORRELATIONS, AdversaryConfig, DiscoConfig, KlConfig
from distjet.nn.losses.distance_correlation import mean_distances
from distjet.ranks import SINGLE, RankInfo
from distjet.training.decorrelation import (
    AdversaryLikelihood,
    Decorrelation,
    DistanceCorrelation,
    SpectrumDivergence,
    TaggedJets,
    kl_divergence,
)
from tests.training.ranks import on_ranks

KL = KlConfig(num_bins=10, low=0, high=200)
PENALTIES: dict[str, Callable[[RankInfo], Decorrelation]] = {
    "disco": lambda ranks: DistanceCorrelation(DiscoConfig(), 0, ranks),
    "disco_squared": lambda ranks: DistanceCorrelation(DiscoConfig(power=2), 0, ranks),
    "disco_of_another_class": lambda ranks: DistanceCorrelation(DiscoConfig(), 2, ranks),
    "disco_of_the_first_jets": lambda ranks: DistanceCorrelation(DiscoConfig(max_jets=64), 0, ranks),
    "kl": lambda ranks: SpectrumDivergence(KL, 0, ranks),
    "kl_of_all": lambda ranks: SpectrumDivergence(KL.model_copy(update={"signals": True}), 0, ranks),
}


def sample(num: int = 200, num_classes: int = 3, seed: int = 1) -> TaggedJets:
    """Jets whose scores know the mass to some extent."""
    rng = np.random.default_rng(seed)
    mass = rng.gamma(4, 20, num)
    logits = rng.normal(size=(num, num_classes)) + (mass[:, None] / 80 - 1) * np.arange(num_classes)
    arrays = (logits, rng.integers(num_classes, size=num), mass, rng.uniform(0, 2, num))
    logits, labels, mass, weight = (torch.tensor(values) for values in arrays)
    return TaggedJets(logits.float().requires_grad_(), labels, mass.float(), weight.float())


def scores_of(jets: TaggedJets, background: int = 0) -> torch.Tensor:
    return 1 - torch.softmax(jets.logits.double(), 1)[:, background]


def distance_correlation(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """The definition, with all n^2 distances."""
    w = w / w.sum()

    def centred(values: torch.Tensor) -> torch.Tensor:
        distance = (values[:, None] - values).abs()
        mean = distance @ w
        return distance - mean[:, None] - mean + w @ mean

    a, b, pairs = centred(x), centred(y), w[:, None] * w
    return (pairs * a * b).sum() / ((pairs * a * a).sum() * (pairs * b * b).sum()).sqrt()


def divergence(score: torch.Tensor, jets: TaggedJets, chosen: torch.Tensor) -> torch.Tensor:
    """The definition, bin by bin."""
    place = (jets.variable / 20).long().clamp(0, 9)
    weight = jets.weight.double()
    passed, failed = (
        torch.stack([(weight * part)[chosen & (place == k)].sum() for k in range(10)]) for part in (score, 1 - score)
    )
    p, q = passed / passed.sum(), failed / failed.sum()
    p, q = p[p > 0], q[p > 0]
    return (p * (p / q).log()).sum()


def definition(name: str, jets: TaggedJets) -> torch.Tensor:
    background = 2 if name == "disco_of_another_class" else 0
    score, chosen = scores_of(jets, background), jets.labels == background
    if name.startswith("kl"):
        classes = range(3) if name == "kl_of_all" else (0,)
        return torch.stack([divergence(score, jets, jets.labels == k) for k in classes]).sum()
    if name == "disco_of_the_first_jets":
        chosen = torch.arange(len(chosen))[chosen][:64]
    correlation = distance_correlation(score[chosen], jets.variable.double()[chosen], jets.weight.double()[chosen])
    return correlation**2 if name == "disco_squared" else correlation


@pytest.mark.parametrize("name", PENALTIES)
def test_value_and_gradient_are_those_of_the_definition(name: str) -> None:
    jets = sample()
    found = PENALTIES[name](SINGLE)(jets)
    total = jets.weight.sum().item()
    expected = definition(name, jets)
    assert found.shape == (200,)
    assert found.sum().item() / total == pytest.approx(expected.item(), abs=1e-6)
    assert expected > 0.001
    gradient = torch.autograd.grad(found.sum() / total, jets.logits)[0]
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, jets.logits)[0], rtol=1e-4, atol=1e-7)


def test_distance_correlation_is_that_of_numpy_in_double_precision() -> None:
    rng = np.random.default_rng(2)
    x, y, w = rng.normal(size=80), rng.normal(size=80), rng.uniform(size=80)
    y += x**2
    w /= w.sum()

    def centred(values: np.ndarray) -> np.ndarray:
        distance = np.abs(values[:, None] - values)
        row = np.average(distance, axis=1, weights=w)
        return distance - row[:, None] - row[None] + np.average(row, weights=w)

    a, b, pairs = centred(x), centred(y), np.outer(w, w)
    expected = np.sum(pairs * a * b) / np.sqrt(np.sum(pairs * a * a) * np.sum(pairs * b * b))
    found = distance_correlation(*(torch.tensor(values) for values in (x, y, w)))
    assert found.item() == pytest.approx(expected, rel=1e-12)


def test_what_is_independent_has_no_distance_correlation() -> None:
    """Every score with every mass: independent to the last digit, where a random sample has 1 / n left."""
    score, mass = torch.meshgrid(torch.linspace(-3, 3, 13), torch.linspace(20, 300, 17) ** 1.1, indexing="ij")
    logits = torch.stack([torch.zeros(221), score.flatten()], 1).requires_grad_()
    jets = TaggedJets(logits, torch.zeros(221, dtype=torch.int64), mass.flatten(), torch.ones(221))
    found = DistanceCorrelation(DiscoConfig())(jets)
    assert abs(found.sum().item() / 221) < 1e-9
    knowing = TaggedJets(jets.logits, jets.labels, 90 - 40 * torch.sigmoid(score.flatten()), jets.weight)
    assert DistanceCorrelation(DiscoConfig())(knowing).sum().item() / 221 == pytest.approx(1, abs=1e-5)


def test_mean_distances_with_ties_are_their_definition() -> None:
    values, weight = torch.tensor([1.0, 3, 3, 0, 3, 7]), torch.tensor([0.1, 0.2, 0.1, 0.3, 0.2, 0.1])
    at = torch.tensor([3.0, -1, 9, 1])
    torch.testing.assert_close(mean_distances(at, values, weight), (at[:, None] - values).abs() @ weight)


def test_scores_that_are_all_the_same_have_no_penalty() -> None:
    for name, build in PENALTIES.items():
        jets = sample()
        flat = TaggedJets(torch.zeros_like(jets.logits).requires_grad_(), jets.labels, jets.variable, jets.weight)
        found = build(SINGLE)(flat)
        gradient = torch.autograd.grad(found.sum(), flat.logits)[0]
        assert found.sum().item() == pytest.approx(0, abs=1e-6), name
        assert gradient.isfinite().all(), name


@pytest.mark.parametrize("name", PENALTIES)
def test_without_background_and_without_gradients_there_is_no_penalty(name: str) -> None:
    jets = sample()
    without = TaggedJets(jets.logits, torch.ones_like(jets.labels), jets.variable, jets.weight)
    if name != "kl_of_all":
        assert torch.equal(PENALTIES[name](SINGLE)(without), torch.zeros(200))
    empty = TaggedJets(jets.logits[:0], jets.labels[:0], jets.variable[:0], jets.weight[:0])
    assert PENALTIES[name](SINGLE)(empty).shape == (0,)
    with torch.no_grad():
        assert torch.equal(PENALTIES[name](SINGLE)(jets), torch.zeros(200))


@pytest.mark.parametrize("name", PENALTIES)
def test_a_jet_that_is_not_finite_spoils_no_other(name: str) -> None:
    jets = sample()
    logits, variable = jets.logits.detach().clone(), jets.variable.clone()
    logits[0], variable[1] = torch.nan, torch.inf
    spoiled = TaggedJets(logits.requires_grad_(), jets.labels, variable, jets.weight)
    found = PENALTIES[name](SINGLE)(spoiled)
    others = TaggedJets(jets.logits[2:], jets.labels[2:], jets.variable[2:], jets.weight[2:])
    torch.testing.assert_close(found[2:], PENALTIES[name](SINGLE)(others))
    assert torch.autograd.grad(found[2:].sum(), logits)[0][2:].isfinite().all()


def test_gradients_of_the_divergence_are_those_of_autograd() -> None:
    rng = np.random.default_rng(4)
    passed, failed = (torch.tensor(rng.uniform(size=(2, 7))).requires_grad_() for _ in range(2))
    p, q = passed / passed.sum(1, keepdim=True), failed / failed.sum(1, keepdim=True)
    expected = (p * (p / q).log()).sum()
    found, of_passed, of_failed = kl_divergence(passed.detach(), failed.detach())
    assert found.sum().item() == pytest.approx(expected.item())
    for ours, theirs in zip((of_passed, of_failed), torch.autograd.grad(expected, (passed, failed)), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_adversary_is_paid_by_background_jets_alone() -> None:
    jets = sample()
    log_likelihood = torch.randn(200, requires_grad=True)
    given = TaggedJets(jets.logits, jets.labels, jets.variable, jets.weight, log_likelihood)
    found = AdversaryLikelihood(AdversaryConfig(weight=7))(given)
    is_background = jets.labels == 0
    expected = -(jets.weight * log_likelihood)[is_background].sum() / jets.weight[is_background].sum()
    assert (found.sum() / jets.weight.sum()).item() == pytest.approx(expected.item(), rel=1e-5)
    assert AdversaryLikelihood(AdversaryConfig(weight=7)).factor == 1
    found.sum().backward()
    assert torch.equal(log_likelihood.grad == 0, ~is_background)


def test_every_name_of_the_table_leads_to_a_penalty() -> None:
    assert set(DECORRELATIONS) == {"disco", "kl", "adversary"}
    for name, component in DECORRELATIONS.items():
        penalty = implementation(name, DECORRELATIONS)(import_path(component.config)(weight=3.0), 0, SINGLE)
        assert penalty.factor == (1.0 if name == "adversary" else 3.0)


def test_training_on_the_penalty_alone_makes_scores_that_do_not_know_the_mass() -> None:
    jets = sample(500)
    before = definition("disco", jets).item()
    for _ in range(30):
        found = DistanceCorrelation(DiscoConfig())(jets).sum() / jets.weight.sum()
        gradient = torch.autograd.grad(found, jets.logits)[0]
        jets = TaggedJets((jets.logits - 100 * gradient).detach().requires_grad_(), jets.labels, jets.variable, jets.weight)
    assert definition("disco", jets).item() < 0.2 * before


# --- over processes ------------------------------------------------------------------------------------------------


def share_of(jets: TaggedJets, ranks: RankInfo) -> TaggedJets:
    """Uneven shares, in the order of the ranks; with four processes, one has no jet at all."""
    bounds = {2: [0, 70, 200], 4: [0, 50, 50, 170, 200]}[ranks.world_size]
    part = slice(bounds[ranks.world_rank], bounds[ranks.world_rank + 1])
    logits = jets.logits.detach()[part].clone().requires_grad_()
    return TaggedJets(logits, jets.labels[part], jets.variable[part], jets.weight[part])


def penalties_of_a_share(ranks: RankInfo) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    found = {}
    for name, build in PENALTIES.items():
        jets = share_of(sample(), ranks)
        values = build(ranks)(jets)
        found[name] = values.detach(), torch.autograd.grad(values.sum(), jets.logits)[0]
    return found


@pytest.mark.integration
@pytest.mark.parametrize("world_size", [2, 4])
def test_processes_find_the_penalty_of_one(tmp_path: Path, pool: ProcessPoolExecutor, world_size: int) -> None:
    """Values and gradients of each jet: their sums over processes are what the loop divides by the sum of all weights."""
    shares = on_ranks(pool, world_size, tmp_path, penalties_of_a_share)
    for name, build in PENALTIES.items():
        jets = sample()
        values = build(SINGLE)(jets)
        gradient = torch.autograd.grad(values.sum(), jets.logits)[0]
        torch.testing.assert_close(torch.cat([share[name][0] for share in shares]), values.detach(), rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(torch.cat([share[name][1] for share in shares]), gradient, rtol=1e-4, atol=1e-6)


def gradients_of_a_step(ranks: RankInfo, name: str) -> dict[str, torch.Tensor]:
    """Gradients of a small tagger and its adversary after one step of the loop's convention, under DDP."""
    torch.manual_seed(5)
    jets = share_of(sample(), ranks) if ranks.world_size > 1 else sample()
    config = AdversaryConfig(batch_norm=False, start=0, full=0.1, hidden=(8,), num_components=2)
    model = WithAdversary(config)
    wrapped = DistributedDataParallel(model) if ranks.world_size > 1 else model
    logits, log_likelihood = wrapped(jets.logits.detach(), jets.variable)
    given = TaggedJets(logits, jets.labels, jets.variable, jets.weight, log_likelihood)
    penalty = AdversaryLikelihood(config, 0, ranks) if name == "adversary" else PENALTIES[name](ranks)
    total = jets.weight.sum()
    if ranks.world_size > 1:
        torch.distributed.all_reduce(total)
    (penalty(given).sum() * ranks.world_size / total + 0 * log_likelihood.sum()).backward()
    return {key: parameter.grad for key, parameter in model.named_parameters()}


class WithAdversary(torch.nn.Module):
    """A linear tagger, and the adversary that reads its logits."""

    def __init__(self, config: AdversaryConfig) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 3)
        self.adversary = MassAdversary(3, config, 80.0, 40.0)
        self.adversary.progress = 0.5

    def forward(self, x: torch.Tensor, mass: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.linear(x)
        return logits, self.adversary(logits, mass)


@pytest.mark.integration
@pytest.mark.parametrize("name", ["disco", "kl_of_all", "adversary"])
def test_processes_make_the_step_of_one(tmp_path: Path, pool: ProcessPoolExecutor, name: str) -> None:
    alone = gradients_of_a_step(SINGLE, name)
    for gradients in on_ranks(pool, 4, tmp_path, gradients_of_a_step, name):
        for key, gradient in alone.items():
            torch.testing.assert_close(gradients[key], gradient, rtol=1e-4, atol=1e-6)
    assert alone["linear.weight"].abs().max() > 1e-4
