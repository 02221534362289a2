import numpy as np
import pytest

from distjet.physics.kinematics import to_cartesian


class Toy:
    """Massless particles of a few events, one of them empty."""

    def __init__(self, lengths, seed, max_abs_eta=4.5):
        rng = np.random.default_rng(seed)
        self.offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        size = int(self.offsets[-1])
        self.pt, self.eta = rng.exponential(2.0, size) + 0.2, rng.uniform(-max_abs_eta, max_abs_eta, size)
        self.phi = rng.uniform(-np.pi, np.pi, size)
        self.p4 = to_cartesian(self.pt, self.eta, self.phi)

    def event(self, number):
        return slice(self.offsets[number], self.offsets[number + 1])


@pytest.fixture(scope="session")
def toy():
    return Toy([200, 0, 300, 1], seed=3)


@pytest.fixture(scope="session")
def dense_toy():
    return Toy([2500] * 4, seed=4)
