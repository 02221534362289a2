"""Which statistic of a skewed sample each loss picks, against the closed forms of the lognormal distribution."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

from distjet.nn.losses.configs import LOSSES, HuberConfig, LgkConfig, MaeConfig, MseConfig
from distjet.nn.losses.residual import AbsoluteError, Huber, LeakyGaussianKernel, SquaredError

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


def test_every_name_of_the_table_leads_to_a_loss() -> None:
    from distjet.config import implementation, import_path

    assert set(LOSSES) == {"lgk", "mse", "mae", "huber"}
    for name, component in LOSSES.items():
        loss = implementation(name, LOSSES)(import_path(component.config)())
        assert loss(torch.tensor([0.3])).shape == (1,)
