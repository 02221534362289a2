import numpy as np
import pytest
import torch

from distjet.errors import UserError
from distjet.evaluation.config import BinsConfig
from distjet.ranks import SINGLE
from distjet.training.closure import MAX_RESPONSE, NUM_RESPONSE_BINS, ResponseHistogram

CONFIG = BinsConfig(energy_edges_gev=(20, 50, 100, 200), abs_eta_edges=(0.0, 0.8, 2.5), pt_true_min_gev=20)


def sample(num: int, seed: int = 1) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    rng = np.random.default_rng(seed)
    pt, eta = rng.uniform(10, 150, num), rng.uniform(-3, 3, num)
    response = rng.normal(0.8, 0.1, num)
    targets = {"true_pt": pt, "true_eta": eta, "true_energy": pt * np.cosh(eta)}
    return torch.from_numpy(response), {k: torch.from_numpy(v).float() for k, v in targets.items()}


def test_counts_equal_numpy() -> None:
    response, targets = sample(20_000)
    histogram = ResponseHistogram(CONFIG, (20.0, 200.0), torch.device("cpu"))
    histogram.fill(response, targets)
    pt, eta, energy = (targets[k].double().numpy() for k in ("true_pt", "true_eta", "true_energy"))
    kept = pt > 20
    expected, _ = np.histogramdd(
        np.stack([energy[kept], np.abs(eta[kept]), response.float().numpy()[kept]], 1),
        bins=[np.array([20, 50, 100, 200.0]), np.array([0, 0.8, 2.5]), np.linspace(0, MAX_RESPONSE, NUM_RESPONSE_BINS + 1)],
    )
    found = histogram.counts.numpy().reshape(3, 2, NUM_RESPONSE_BINS)
    np.testing.assert_array_equal(found.sum(-1), expected.sum(-1))
    assert np.abs(found - expected).sum() <= 4  # float32 against float64 at a bin's edge


def test_closure_finds_the_bias_and_the_resolution() -> None:
    response, targets = sample(60_000)
    histogram = ResponseHistogram(CONFIG, (20.0, 200.0), torch.device("cpu"))
    for part in range(3):
        rows = slice(part * 20_000, (part + 1) * 20_000)
        histogram.fill(response[rows], {name: value[rows] for name, value in targets.items()})
    closure = histogram.closure(SINGLE)
    assert closure["num_bins"] == 6
    assert closure["mean_abs_bias"] == pytest.approx(0.2, abs=0.005)
    assert closure["mean_resolution"] == pytest.approx(0.1 / 0.8, rel=0.05)


def test_a_response_that_is_not_finite_is_an_error_not_a_zero() -> None:
    _, targets = sample(3)
    histogram = ResponseHistogram(CONFIG, (20.0, 200.0), torch.device("cpu"))
    histogram.fill(torch.tensor([torch.nan, 1.0, torch.inf]), targets)
    with pytest.raises(UserError, match="2 validation jets is not finite"):
        histogram.closure(SINGLE)


def test_extreme_responses_are_counted_at_the_edge() -> None:
    _, targets = sample(3)
    targets = {"true_pt": torch.full((3,), 60.0), "true_eta": torch.zeros(3), "true_energy": torch.full((3,), 60.0)}
    histogram = ResponseHistogram(CONFIG, (20.0, 200.0), torch.device("cpu"))
    histogram.fill(torch.tensor([-1.0, 1e9, 1.0]), targets)
    assert histogram.counts.sum() == 3
