"""The adversary: what it learns, what the tagger gets of its gradient, and that both together forget the mass."""

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import stats

from distjet.nn.adversary import MassAdversary, ReverseGradient
from distjet.nn.losses.classification_configs import AdversaryConfig

PLAIN = AdversaryConfig(batch_norm=False)


def sample(num: int = 400, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Masses of which the first of two scores knows a part."""
    rng = np.random.default_rng(seed)
    mass = rng.normal(80, 20, num)
    scores = np.stack([(mass - 80) / 20 + rng.normal(size=num), rng.normal(size=num)], 1)
    return torch.tensor(scores, dtype=torch.float32), torch.tensor(mass, dtype=torch.float32)


def test_the_gradient_is_reversed_and_the_value_kept() -> None:
    x = torch.tensor([1.0, -2.0], requires_grad=True)
    y = ReverseGradient.apply(x, 0.7)
    assert torch.equal(y, x)
    (3 * y[0] + y[1] ** 2).backward()
    assert x.grad.tolist() == pytest.approx([-2.1, 2.8])


def test_the_likelihood_of_the_mixture_is_a_density_of_the_normalised_mass() -> None:
    adversary = MassAdversary(2, PLAIN, 80, 20)
    mass = torch.linspace(-400, 600, 20001)
    scores = torch.tensor([[0.3, -1.0]]).expand(len(mass), 2)
    density = adversary(scores, mass).exp().detach().double()
    assert torch.trapezoid(density, mass.double() / 20).item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("output", ["mixture", "bins"])
def test_an_adversary_begins_with_masses_of_the_whole_range(output: str) -> None:
    """It begins near what one knows without a score: for the mixture, the entropy of a normal distribution."""
    adversary = MassAdversary(2, AdversaryConfig(output=output), 80, 20)
    scores, mass = sample(2000)
    worst = {"mixture": stats.norm.entropy() + 0.5, "bins": math.log(20) + 0.3}[output]
    assert -adversary(scores, mass).mean().item() < worst


def test_bins_are_equal_and_take_what_is_beyond_and_their_probabilities_sum_to_one() -> None:
    adversary = MassAdversary(1, AdversaryConfig(output="bins", num_bins=6, batch_norm=False), 80, 20)
    mass = torch.tensor([-1e9, 30, 50, 70, 90, 110, 130, 1e9])
    likelihood = adversary(torch.zeros(8, 1), mass).exp()
    assert likelihood[1:7].sum().item() == pytest.approx(1, abs=1e-6)
    assert torch.equal(likelihood[[0, 7]], likelihood[[1, 6]])
    assert len(set(likelihood[1:7].tolist())) == 6
    assert adversary(torch.zeros(1, 1), torch.tensor([torch.nan])).shape == (1,)


def train(adversary: MassAdversary, columns: slice) -> float:
    """Train on a new sample in each step; return the loss on another."""
    optimizer = torch.optim.Adam(adversary.parameters(), lr=5e-3)
    for seed in range(10, 160):
        scores, mass = sample(1000, seed)
        optimizer.zero_grad()
        (-adversary(scores[:, columns], mass).mean()).backward()
        optimizer.step()
    scores, mass = sample(20_000, seed=2)
    with torch.no_grad():
        return -adversary.eval()(scores[:, columns], mass).mean().item()


def test_it_learns_what_the_scores_tell() -> None:
    """Of mass = 80 + 20 z and score = z + noise of size 1, p(z | score) is normal with variance 1/2."""
    torch.manual_seed(2)
    knowing = train(MassAdversary(2, AdversaryConfig(), 80, 20), slice(0, 2))
    assert knowing == pytest.approx(stats.norm(scale=math.sqrt(0.5)).entropy(), abs=0.04)
    ignorant = train(MassAdversary(1, AdversaryConfig(), 80, 20), slice(1, 2))
    assert ignorant == pytest.approx(stats.norm.entropy(), abs=0.04)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_gradient_reaches_every_parameter_and_the_tagger_gets_its_opposite(batch_norm: bool) -> None:
    torch.manual_seed(3)
    scores, mass = sample(64)
    config = AdversaryConfig(batch_norm=batch_norm, weight=4.0, start=0.2, full=0.6)
    adversary = MassAdversary(2, config, 80, 20)
    gradients = {}
    for progress in (0.0, 0.4, 0.6, 1.0):
        adversary.progress = progress
        adversary.zero_grad()
        given = scores.clone().requires_grad_()
        (-adversary(given, mass).sum()).backward()
        gradients[progress] = given.grad
        assert all(p.grad.abs().sum() > 0 for p in adversary.parameters())
    assert torch.equal(gradients[0.0], torch.zeros(64, 2))
    torch.testing.assert_close(gradients[0.4], gradients[1.0] / 2)
    torch.testing.assert_close(gradients[0.6], gradients[1.0])
    step = 1e-2 * gradients[1.0] / gradients[1.0].norm()
    with torch.no_grad():
        before, after = (-adversary(given, mass).sum() for given in (scores, scores - step))
    assert after > before, "where the tagger goes, the loss of the adversary rises"


def test_constants_come_with_the_weights_and_autocast_changes_nothing() -> None:
    scores, mass = sample(16)
    trained, fresh = MassAdversary(2, PLAIN, 80, 20), MassAdversary(2, PLAIN)
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh(scores, mass), trained(scores, mass))
    with torch.autocast("cpu", torch.bfloat16):
        found = trained(scores, mass)
    assert found.dtype == torch.float32
    assert torch.equal(found, trained(scores, mass))


def test_impossible_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="a variable that varies"):
        MassAdversary(2, PLAIN, 80, 0)
    with pytest.raises(ValidationError, match="full must be at least start"):
        AdversaryConfig(start=0.5, full=0.4)


def test_a_tagger_with_an_adversary_forgets_the_mass_and_still_tags() -> None:
    """Two inputs separate the classes, one of which is the mass: the tagger learns to do without it."""
    torch.manual_seed(4)
    rng = np.random.default_rng(5)
    num = 2000
    label = torch.tensor(rng.integers(2, size=num))
    mass = torch.tensor(rng.normal(80, 20, num) + 25 * label.numpy(), dtype=torch.float32)
    clean = torch.tensor(rng.normal(size=num) + 1.5 * label.numpy(), dtype=torch.float32)
    inputs = torch.stack([(mass - 90) / 25, clean], 1)
    correlation, accuracy = {}, {}
    for strength in (0.0, 10.0):
        tagger = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.Tanh(), torch.nn.Linear(16, 2))
        adversary = MassAdversary(1, AdversaryConfig(weight=strength or 1, hidden=(32, 32), start=0, full=0.3), 80, 20)
        optimizer = torch.optim.Adam([*tagger.parameters(), *adversary.parameters()], lr=1e-2)
        for step in range(150):
            adversary.progress = step / 150 if strength else -1.0
            logits = tagger(inputs)
            log_likelihood = adversary(logits[:, 1:] - logits[:, :1], mass)[label == 0].mean()
            optimizer.zero_grad()
            (torch.nn.functional.cross_entropy(logits, label) - log_likelihood).backward()
            optimizer.step()
        logits = tagger(inputs).detach()
        score = (logits[:, 1] - logits[:, 0])[label == 0]
        correlation[strength] = abs(stats.spearmanr(score, mass[label == 0]).statistic)
        accuracy[strength] = (logits.argmax(1) == label).float().mean().item()
    assert correlation[0.0] > 0.5
    assert correlation[10.0] < 0.2 * correlation[0.0]
    assert accuracy[10.0] > 0.72, "one of the two inputs alone: 77 %"
