"""What the benchmark says of pileup in clusters is what was put in."""

import numpy as np
import pytest

from benchmarks.pileup import compare
from distjet.errors import UserError


def clusters(num: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(1)
    energy, eta, share = np.exp(rng.uniform(0, 4, num)), rng.uniform(0, 2.5, num), rng.choice([0.1, 0.5, 0.9], num)
    return 2.0 + 10 / energy - 0.5 * share, share, energy, eta


def test_factors_are_compared_at_the_same_energy_and_eta() -> None:
    found = compare(clusters(60_000))
    assert found["mean_factor_hard"] - found["mean_factor_pileup"] == pytest.approx(0.5 * 0.8, abs=0.02)
    assert -0.9 < found["spearman"] < -0.1  # within a bin, the energy still varies
    assert found["num_clusters"] == 60_000


def test_too_few_clusters_are_said() -> None:
    with pytest.raises(UserError, match="no bin of energy and"):
        compare(clusters(50))
