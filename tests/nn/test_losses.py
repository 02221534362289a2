"""Which statistic of a skewed sample each loss picks, against the closed forms of the lognormal distribution."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.optimize import minimize_scalar

from distjet.config import implementation, import_path
from distjet.nn.losses.configs import (
    LOSSES,
    GaussianNllConfig,
    HuberConfig,
    LgkConfig,
    MaeConfig,
    MixtureNllConfig,
    MseConfig,
    PinballConfig,
)
from distjet.nn.losses.density import GaussianNll, MixtureNll, Pinball
from distjet.nn.losses.residual import AbsoluteError, Huber, LeakyGaussianKernel, SquaredError
from distjet.nn.response_estimates import Gaussian, Mixture, Quantiles

SIGMA = 0.3
MEAN, MEDIAN, MODE = np.exp(SIGMA**2 / 2), 1.0, np.exp(-(SIGMA**2))
SAMPLE = torch.from_numpy(np.exp(SIGMA * np.random.default_rng(1).normal(size=200_000)))


def argmin(loss) -> float:
    """The constant c that minimises the mean loss of x - c."""
    return minimize_scalar(lambda c: loss(SAMPLE - c).mean().item(), bounds=(0.3, 2.5), method="bounded").x


def test_lgk_picks_the_mode() -> None:
    narrow = argmin(LeakyGaussianKernel(LgkConfig(bandwidth=0.05, leak=0.0)))
    assert narrow == pytest.approx(MODE, abs=0.02)
    published = argmin(LeakyGaussianKernel(LgkConfig(bandwidth=0.1, leak=0.05)))
    assert MODE - 0.02 < published < 0.5 * (MODE + MEDIAN)


def test_mse_picks_the_mean_and_mae_the_median() -> None:
    assert argmin(SquaredError(MseConfig())) == pytest.approx(MEAN, abs=0.005)
    assert argmin(AbsoluteError(MaeConfig())) == pytest.approx(MEDIAN, abs=0.005)


def test_lgk_has_its_minimum_at_zero_and_the_published_depth() -> None:
    loss = LeakyGaussianKernel(LgkConfig(bandwidth=0.1, leak=0.05))
    at = loss(torch.tensor([0.0, 0.1, -0.1, 2.0], dtype=torch.float64))
    assert at[0].item() == pytest.approx(-1 / (0.1 * np.sqrt(2 * np.pi)))
    assert at[1].item() == pytest.approx(0.005 - np.exp(-0.5) / (0.1 * np.sqrt(2 * np.pi)))
    assert at[1] == at[2]
    assert at[3].item() == pytest.approx(0.1, abs=1e-6)


def test_huber_equals_its_two_branches() -> None:
    at = Huber(HuberConfig(delta=0.5))(torch.tensor([0.2, -3.0]))
    torch.testing.assert_close(at, torch.tensor([0.5 * 0.04, 0.5 * (3.0 - 0.25)]))


def test_the_second_phase_of_lgk_has_no_leak_and_picks_the_mode_better() -> None:
    loss = LeakyGaussianKernel(LgkConfig(bandwidth=0.05, leak=0.5, leaky_fraction=0.5))
    far = torch.tensor([2.0])
    assert [loss.at(progress)(far).item() for progress in (0.0, 0.49)] == pytest.approx([1.0, 1.0])
    assert [loss.at(progress)(far).item() for progress in (0.5, 0.99)] == pytest.approx([0.0, 0.0])
    first, second = argmin(loss.at(0.0)), argmin(loss.at(0.5))
    assert abs(second - MODE) < abs(first - MODE)
    published = LeakyGaussianKernel(LgkConfig())
    assert published.at(0.99) is published


def test_the_gaussian_loss_is_minus_the_logarithm_of_scipys_density() -> None:
    rng = np.random.default_rng(2)
    response, mean, sigma = rng.uniform(0.5, 1.5, (3, 100))
    found = GaussianNll(GaussianNllConfig())(
        Gaussian(torch.from_numpy(mean), torch.from_numpy(sigma)), torch.from_numpy(response)
    )
    np.testing.assert_allclose(found, -stats.norm.logpdf(response, mean, sigma), rtol=1e-6, atol=1e-9)


def test_a_mixture_of_one_has_the_loss_of_a_gaussian() -> None:
    mean, sigma, response = torch.tensor([0.8, 1.1]), torch.tensor([0.1, 0.3]), torch.tensor([0.9, 0.7])
    mixture = Mixture(torch.zeros(2, 1), mean[:, None], sigma[:, None])
    torch.testing.assert_close(
        MixtureNll(MixtureNllConfig())(mixture, response), GaussianNll(GaussianNllConfig())(Gaussian(mean, sigma), response)
    )


def test_the_pinball_loss_picks_the_quantiles_and_is_its_definition() -> None:
    loss = Pinball(PinballConfig())
    levels = torch.tensor([0.16, 0.5, 0.84], dtype=torch.float64)
    for place, level in enumerate((0.16, 0.5, 0.84)):

        def mean_loss(value: float, place: int = place) -> float:
            values = torch.tensor([0.5, 0.7, 0.9], dtype=torch.float64).index_fill(0, torch.tensor(place), value)
            return loss(Quantiles(levels, values.expand(len(SAMPLE), 3)), SAMPLE).mean().item()

        found = minimize_scalar(mean_loss, bounds=(0.3, 2.5), method="bounded").x
        assert found == pytest.approx(np.quantile(SAMPLE.numpy(), level), abs=2e-3)
    above, below = (loss(Quantiles(levels, torch.full((1, 3), 1.0).double()), torch.tensor([r]).double()) for r in (1.3, 0.9))
    assert above.item() == pytest.approx(0.3 * (0.16 + 0.5 + 0.84) / 3)
    assert below.item() == pytest.approx(0.1 * (0.84 + 0.5 + 0.16) / 3)


def test_every_name_of_the_table_leads_to_a_loss() -> None:
    estimates = {
        "point": torch.tensor([0.3]),
        "gaussian": Gaussian(torch.tensor([0.8]), torch.tensor([0.1])),
        "mixture": Mixture(torch.zeros(1, 1), torch.ones(1, 1), torch.ones(1, 1)),
        "quantiles": Quantiles(torch.tensor([0.5]), torch.ones(1, 1)),
    }
    assert set(LOSSES) == {"lgk", "mse", "mae", "huber", "gnll", "mdn", "quantile"}
    for name, component in LOSSES.items():
        config = import_path(component.config)()
        loss, given = implementation(name, LOSSES)(config), estimates[config.estimate]
        assert (loss(given) if config.estimate == "point" else loss(given, torch.tensor([1.1]))).shape == (1,)
