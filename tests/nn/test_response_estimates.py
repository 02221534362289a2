"""Densities against scipy, modes against a fine grid."""

import numpy as np
import pytest
import torch
from scipy import stats

from distjet.nn.response_estimates import Gaussian, Mixture, Quantiles

RNG = np.random.default_rng(4)


def mixtures(num_jets: int, num_components: int) -> Mixture:
    """Mixtures of all shapes: one peak, several, shoulders, narrow beside wide."""
    weights = RNG.dirichlet(np.ones(num_components), num_jets)
    means, sigmas = RNG.normal(0.9, 0.2, weights.shape), RNG.uniform(0.02, 0.3, weights.shape)
    return Mixture(*(torch.from_numpy(values).float() for values in (np.log(weights), means, sigmas)))


def density(mixture: Mixture, at: np.ndarray) -> np.ndarray:
    """The same density from scipy, at places of shape (P,), shape (B, P)."""
    weights, means, sigmas = (part.double().numpy()[:, :, None] for part in vars(mixture).values())
    return (np.exp(weights) * stats.norm.pdf(at, means, sigmas)).sum(1)


def test_densities_and_probabilities_are_those_of_scipy() -> None:
    mixture, at = mixtures(50, 4), 0.83
    found = mixture.log_density(torch.full((50,), at)).exp()
    np.testing.assert_allclose(found, density(mixture, np.array([at]))[:, 0], rtol=1e-4)
    weights, means, sigmas = (part.double().numpy() for part in vars(mixture).values())
    expected = (np.exp(weights) * stats.norm.cdf(at, means, sigmas)).sum(1)
    np.testing.assert_allclose(mixture.cumulative(torch.full((50,), at)), expected, atol=1e-5)


def test_a_gaussian_is_that_of_scipy() -> None:
    mean, sigma, at = (torch.from_numpy(RNG.uniform(0.5, 1.5, 30)) for _ in range(3))
    gaussian = Gaussian(mean, sigma)
    np.testing.assert_allclose(gaussian.log_density(at), stats.norm.logpdf(at, mean, sigma), rtol=1e-6)
    np.testing.assert_allclose(gaussian.describe(at)["pit"], stats.norm.cdf(at, mean, sigma), rtol=1e-6)
    assert set(gaussian.describe(None)) == {"mode", "sigma"}


@pytest.mark.parametrize("num_components", [1, 2, 3, 5])
def test_the_mode_is_the_highest_point_of_a_fine_grid(num_components: int) -> None:
    mixture = mixtures(400, num_components)
    grid = np.arange(-0.2, 2.2, 2e-4)
    heights = density(mixture, grid)
    found = mixture.response().double().numpy()
    reached = np.array([np.interp(mode, grid, row) for mode, row in zip(found, heights, strict=True)])
    assert (reached / heights.max(1)).min() > 1 - 1e-3, "there is no higher peak elsewhere"
    clear = heights.max(1) > 1.01 * np.sort(heights, axis=1)[:, -1000]  # not a plateau
    assert clear.mean() > 0.9
    np.testing.assert_allclose(found[clear], grid[heights.argmax(1)][clear], atol=2e-3)


def test_the_moments_of_a_mixture_are_those_of_a_sample() -> None:
    mixture = mixtures(1, 3)
    weights, means, sigmas = (part[0].double().numpy() for part in vars(mixture).values())
    component = RNG.choice(3, 400_000, p=np.exp(weights) / np.exp(weights).sum())
    sample = RNG.normal(means[component], sigmas[component])
    assert mixture.mean().item() == pytest.approx(sample.mean(), abs=2e-3)
    assert mixture.sigma().item() == pytest.approx(sample.std(), rel=5e-3)


def test_a_jet_far_from_all_components_has_a_finite_density_and_gradient() -> None:
    mixture = mixtures(3, 3)
    means = mixture.means.clone().requires_grad_()
    far = Mixture(mixture.log_weights, means, mixture.sigmas).log_density(torch.tensor([1e4, -50.0, 0.0]))
    far.sum().backward()
    assert torch.isfinite(far).all()
    assert torch.isfinite(means.grad).all()


def test_a_probability_is_never_above_one() -> None:
    logits = torch.randn(100_000, 5, generator=torch.Generator().manual_seed(1))
    mixture = Mixture(torch.log_softmax(logits, dim=1), torch.ones(100_000, 5), torch.ones(100_000, 5))
    assert mixture.log_weights.exp().sum(1).max() > 1, "or this tests nothing"
    assert mixture.cumulative(torch.full((100_000,), 100.0)).max() == 1


def test_no_jets_have_no_estimates() -> None:
    nothing = Mixture(*(torch.zeros(0, 3) for _ in range(3)))
    assert nothing.response().shape == nothing.sigma().shape == (0,)


def test_the_response_of_quantiles_is_the_median() -> None:
    quantiles = Quantiles(torch.tensor([0.1, 0.5, 0.9]), torch.tensor([[0.7, 0.8, 1.0], [0.6, 0.9, 1.1]]))
    torch.testing.assert_close(quantiles.response(), torch.tensor([0.8, 0.9]))
    assert quantiles.describe(None)["quantile_levels"].shape == (2, 3)
