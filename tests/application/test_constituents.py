"""Corrected constituents add up to the jets that the networks' own sums give, and keep what must not change."""

import numpy as np
import torch

from distjet.application.constituents import corrected_constituents
from distjet.nn.four_vectors import sum_constituents
from distjet.physics.kinematics import mass, pt, rapidity, sum_groups, to_cartesian
from tests.batches import make_batch


def test_sums_are_those_of_the_networks() -> None:
    batch = make_batch([4, 1, 9], seed=3)
    rng = np.random.default_rng(1)
    factor = rng.uniform(0.7, 1.6, batch.num_nodes).astype(np.float32)
    shift = rng.normal(0, 0.03, batch.num_nodes).astype(np.float32)
    jets = sum_constituents(batch.p4, batch.batch, 3, torch.from_numpy(factor), torch.from_numpy(shift))
    total = sum_groups(corrected_constituents(batch.p4.numpy(), factor, shift), batch.ptr.numpy())
    np.testing.assert_allclose(jets.energy.numpy(), total[:, 3], rtol=1e-6)
    np.testing.assert_allclose(jets.pt.numpy(), pt(total), rtol=1e-5)
    np.testing.assert_allclose(jets.rapidity.numpy(), rapidity(total), atol=1e-5)
    np.testing.assert_allclose(jets.mass.numpy()[[0, 2]], mass(total)[[0, 2]], rtol=1e-3)


def test_energy_rapidity_and_azimuth_do_what_is_said() -> None:
    p4 = to_cartesian([10.0, 5.0, 2.0], [0.5, -2.0, 4.0], [1.0, -3.0, 3.1], [0.0, 1.5, 0.14])
    new = corrected_constituents(p4, np.array([1.3, 0.9, 1.0]), np.array([0.02, -0.01, 0.0]))
    np.testing.assert_allclose(new[:, 3], p4[:, 3] * np.array([1.3, 0.9, 1.0]))
    np.testing.assert_allclose(rapidity(new), rapidity(p4) + np.array([0.02, -0.01, 0.0]), atol=1e-9)
    np.testing.assert_allclose(np.arctan2(new[:, 1], new[:, 0]), [1.0, -3.0, 3.1])
    np.testing.assert_allclose((mass(new) / np.hypot(mass(new), pt(new)))[1], 1.5 / np.hypot(1.5, 5.0), rtol=1e-9)
    np.testing.assert_allclose(new[2], p4[2], rtol=1e-3)  # a mass below what float32 resolves counts as none
