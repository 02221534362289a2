"""What every network on whole jets promises, and what each of them gives for a jet."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from distjet.config import implementation, import_path
from distjet.models.configs import (
    MODELS,
    DensityConfig,
    GaussianResponseConfig,
    JetModelConfig,
    MixtureDensityConfig,
    QuantileRegressionConfig,
    ResponseDnnConfig,
)
from distjet.models.mixture_density import MixtureDensity
from distjet.models.quantile_regression import QuantileRegression
from distjet.models.response_dnn import ResponseDnn
from distjet.nn.losses.configs import LOSSES

NUM_INPUTS = 7
CASES = {
    "response_dnn": ResponseDnnConfig(hidden=(16, 8)),
    "response_dnn_softplus": ResponseDnnConfig(hidden=(16, 8), output="softplus"),
    "gaussian_response": GaussianResponseConfig(hidden=(16,)),
    "mixture_density": MixtureDensityConfig(hidden=(16,), num_components=3),
    "quantile_regression": QuantileRegressionConfig(hidden=(16,)),
}


def loss_of(config: JetModelConfig, estimate, response: torch.Tensor) -> torch.Tensor:
    """The loss of the table that fits the network."""
    if config.estimate == "point":
        return (estimate.value - response).abs()
    (component,) = [c for c in LOSSES.values() if import_path(c.config).estimate == config.estimate]
    return import_path(component.implementation)(import_path(component.config)())(estimate, response)


def build(config: JetModelConfig, seed: int = 3, num_inputs: int = NUM_INPUTS) -> nn.Module:
    torch.manual_seed(seed)
    return implementation(config.name, MODELS)(config, num_inputs)


def inputs_of(num_jets: int, seed: int = 1) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(num_jets, NUM_INPUTS)).astype(np.float32))


def test_every_network_on_jets_of_the_table_is_covered() -> None:
    on_jets = {name for name, component in MODELS.items() if issubclass(import_path(component.config), JetModelConfig)}
    assert {config.name for config in CASES.values()} == on_jets


@pytest.mark.parametrize("case", CASES)
def test_it_starts_near_the_initial_response_and_every_parameter_learns(case: str) -> None:
    config, inputs = CASES[case], inputs_of(64)
    network = build(config)
    estimate = network.estimate(network(inputs))
    response = estimate.response()
    assert response.shape == (64,)
    assert response.detach().numpy() == pytest.approx(
        config.initial_response, abs=0.2 if isinstance(config, DensityConfig) else 2
    )
    loss_of(config, estimate, torch.linspace(0.2, 1.8, 64)).sum().backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent


@pytest.mark.parametrize("case", CASES)
def test_a_batch_equals_its_single_jets_and_no_jets_are_none(case: str) -> None:
    network, inputs = build(CASES[case]).eval(), inputs_of(9)
    with torch.no_grad():
        together = network.estimate(network(inputs)).response()
        alone = torch.cat([network.estimate(network(row[None])).response() for row in inputs])
        nothing = network.estimate(network(inputs[:0]))
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    assert nothing.response().shape == (0,)
    assert all(len(values) == 0 for values in nothing.describe(torch.zeros(0)).values())


@pytest.mark.parametrize("case", CASES)
def test_extreme_inputs_and_responses_give_finite_losses_and_gradients(case: str) -> None:
    config = CASES[case]
    network = build(config)
    inputs = 10 * torch.sign(inputs_of(64))  # where the standardisation clips
    response = torch.logspace(-4, 4, 64)
    loss = loss_of(config, network.estimate(network(inputs)), response)
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())


def test_the_published_network_has_its_97409_parameters() -> None:
    network = ResponseDnn(ResponseDnnConfig(), num_inputs=len(ResponseDnnConfig().inputs))
    assert sum(p.numel() for p in network.parameters()) == 97_409
    assert [layer.out_features for layer in network.layers if isinstance(layer, nn.Linear)] == [
        *(32, 32, 64, 64, 128, 256, 128, 64, 64, 32, 32),
        1,
    ]


def test_the_published_network_starts_alive_for_every_seed() -> None:
    for seed in range(20):
        network = build(ResponseDnnConfig(), seed)
        assert (network(inputs_of(200)) > 0).all()


def test_quantiles_never_cross() -> None:
    network = build(QuantileRegressionConfig())
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=2.0)
    values = network.estimate(network(10 * inputs_of(500))).values
    assert (values.diff(dim=1) >= 0).all()


def test_quantiles_start_as_those_of_a_gaussian() -> None:
    config = QuantileRegressionConfig(initial_response=0.8, initial_sigma=0.2)
    network = QuantileRegression(config, NUM_INPUTS)
    nn.init.zeros_(network.layers[-1].weight)
    found = network.estimate(network(inputs_of(1))).values[0].detach().numpy()
    np.testing.assert_allclose(found, stats.norm.ppf(config.levels, 0.8, 0.2), atol=1e-5)


@pytest.mark.parametrize("levels", [(0.16, 0.84), (0.5, 0.16, 0.84), (0.1, 0.4, 0.9), (0.0, 0.5, 1.0)])
def test_levels_without_a_median_in_the_middle_are_refused(levels: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"levels must rise between 0 and 1, with 0.5 in the middle"):
        QuantileRegressionConfig(levels=levels)


def test_inputs_stand_once() -> None:
    with pytest.raises(ValueError, match="inputs must be some columns, each once"):
        ResponseDnnConfig(inputs=("rho", "rho"))


# --- what they learn -----------------------------------------------------------------------------------------------


def train(config: JetModelConfig, x: torch.Tensor, response: torch.Tensor, num_steps: int, lr: float = 5e-3) -> nn.Module:
    """Minimise the loss on random batches, with a rate that falls to zero."""
    network = build(config, num_inputs=x.shape[1])
    optimizer = torch.optim.Adam(network.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    order = torch.Generator().manual_seed(1)
    for _ in range(num_steps):
        rows = torch.randint(len(x), (2048,), generator=order)
        loss = loss_of(config, network.estimate(network(x[rows])), response[rows]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def bimodal(num_jets: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two narrow peaks, whose heights and places depend on the input."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, num_jets)
    is_high = rng.random(num_jets) < 0.5 + 0.3 * x
    response = np.where(is_high, 1.1 + 0.1 * x, 0.6) + rng.normal(0, np.where(is_high, 0.05, 0.08))
    return torch.from_numpy(x).float()[:, None], torch.from_numpy(response).float()


@pytest.fixture(scope="module")
def mixture() -> MixtureDensity:
    return train(MixtureDensityConfig(inputs=("x",), num_components=2, hidden=(32, 32)), *bimodal(100_000, 1), num_steps=800)


def test_a_mixture_beats_a_gaussian_where_there_are_two_peaks(mixture: MixtureDensity) -> None:
    gaussian = train(GaussianResponseConfig(inputs=("x",), hidden=(32, 32)), *bimodal(100_000, 1), num_steps=300)
    x, response = bimodal(10_000, 2)
    with torch.no_grad():
        losses = [-n.estimate(n(x)).log_density(response).mean().item() for n in (mixture, gaussian)]
    assert losses[0] < losses[1] - 0.3
    x_of, share = x[:, 0].double().numpy(), 0.5 + 0.3 * x[:, 0].double().numpy()
    truth = share * stats.norm.pdf(response, 1.1 + 0.1 * x_of, 0.05) + (1 - share) * stats.norm.pdf(response, 0.6, 0.08)
    assert losses[0] == pytest.approx(-np.log(truth).mean(), abs=0.02), "the best that any density can do"


def test_the_probabilities_of_a_mixture_are_uniform(mixture: MixtureDensity) -> None:
    x, response = bimodal(10_000, 5)
    with torch.no_grad():
        pit = mixture.estimate(mixture(x)).describe(response)["pit"].double().numpy()
    assert stats.kstest(pit, "uniform").pvalue > 0.01
    assert stats.kstest(np.clip(pit * 1.05, 0, 1), "uniform").pvalue < 0.01, "the test sees 5 %"


def test_the_mode_of_a_mixture_is_its_higher_peak(mixture: MixtureDensity) -> None:
    with torch.no_grad():
        modes = mixture.estimate(mixture(torch.tensor([[-0.9], [0.9]]))).response()
    assert modes.numpy() == pytest.approx([0.6, 1.19], abs=0.02)


def test_quantiles_cover_what_they_say() -> None:
    rng = np.random.default_rng(8)

    def skewed(num_jets: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = rng.uniform(-1, 1, num_jets)
        response = np.exp(rng.normal(-0.2 + 0.1 * x, 0.2 + 0.1 * x))
        return torch.from_numpy(x).float()[:, None], torch.from_numpy(response).float()

    config = QuantileRegressionConfig(inputs=("x",), hidden=(32, 32))
    network = train(config, *skewed(100_000), num_steps=600)
    x, response = skewed(20_000)
    with torch.no_grad():
        estimate = network.estimate(network(x))
    found = (response[:, None] < estimate.values).float().mean(0).numpy()
    deviation = np.sqrt(np.array(config.levels) * (1 - np.array(config.levels)) / len(x))
    np.testing.assert_allclose(found, config.levels, atol=0.008 + 3 * deviation.max())
    at_edges = x[:, 0].abs() > 0.8
    in_core = (response < estimate.values[:, 5]) & (response > estimate.values[:, 1])
    assert in_core[at_edges].float().mean().item() == pytest.approx(0.68, abs=0.03), "also where the width is another"


@pytest.mark.slow
@pytest.mark.parametrize("case", ["mixture_density", "response_dnn"])
def test_many_steps_with_extreme_jets_stay_finite(case: str) -> None:
    """A heavy tail in inputs and responses, a high learning rate, no clipping: 20,000 steps."""
    config = CASES[case]
    network = build(config)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    rng = torch.Generator().manual_seed(1)
    for _ in range(20_000):
        inputs = (torch.randn(64, NUM_INPUTS, generator=rng) ** 3).clamp(-10, 10)
        response = torch.exp(0.3 * torch.randn(64, generator=rng) ** 3).clamp(1e-4, 1e4)
        loss = loss_of(config, network.estimate(network(inputs)), response).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert math.isfinite(loss.item())
    assert all(torch.isfinite(p).all() for p in network.parameters())
    with torch.no_grad():
        assert torch.isfinite(network.estimate(network(10 * torch.sign(inputs))).response()).all()
