"""Jet sums against float64 arithmetic on the plain definition, with FastJet's E-scheme as the physics."""

import numpy as np
import pytest
import torch

from distjet.nn.four_vectors import rapidity_of, sum_constituents
from tests.batches import make_batch


def plain_sums(p4: np.ndarray, batch: np.ndarray, factor: np.ndarray, shift: np.ndarray) -> dict[str, np.ndarray]:
    """Corrected massless constituents, added in float64: E' = c E, y' = y + d, pT' = E' / cosh(y')."""
    px, py, pz = p4[:, :3].astype(np.float64).T
    pt = np.hypot(px, py)
    y = np.arcsinh(pz / pt) + shift
    energy = factor * pt * np.cosh(np.arcsinh(pz / pt))
    phi = np.arctan2(py, px)
    new_pt = energy / np.cosh(y)
    sums = np.zeros((batch.max() + 1, 4))
    np.add.at(sums, batch, np.stack([new_pt * np.cos(phi), new_pt * np.sin(phi), energy * np.tanh(y), energy], 1))
    x, yy, z, e = sums.T
    return {
        "energy": e,
        "mass": np.sqrt(np.maximum(e**2 - x**2 - yy**2 - z**2, 0)),
        "rapidity": np.arctanh(z / e),
        "pt": np.hypot(x, yy),
        "phi": np.arctan2(yy, x),
    }


@pytest.mark.parametrize("boost", [0.0, 2.0, 4.0])
def test_sums_equal_float64(boost: float) -> None:
    batch = make_batch([3, 8, 20, 2], seed=4)
    p4 = batch.p4.double().numpy()
    pt = np.hypot(p4[:, 0], p4[:, 1])
    eta = np.arcsinh(p4[:, 2] / pt) + boost
    p4[:, 2], p4[:, 3] = pt * np.sinh(eta), pt * np.cosh(eta)
    rng = np.random.default_rng(1)
    factor, shift = rng.uniform(0.6, 1.6, len(p4)), rng.uniform(-0.05, 0.05, len(p4))
    tensors = [torch.from_numpy(a).float() for a in (p4, factor, shift)]
    jets = sum_constituents(tensors[0], batch.batch, 4, tensors[1], tensors[2])
    expected = plain_sums(p4.astype(np.float32), batch.batch.numpy(), factor, shift)
    for name, value in expected.items():
        np.testing.assert_allclose(
            getattr(jets, name).numpy(), value, rtol=2e-4 if name == "mass" else 2e-5, atol=1e-5, err_msg=name
        )


def test_without_corrections_the_sum_is_the_jet() -> None:
    batch = make_batch([5, 9], seed=2)
    ones = torch.ones(batch.num_nodes)
    jets = sum_constituents(batch.p4, batch.batch, 2, ones, 0 * ones)
    for graph in range(2):
        total = batch.p4[batch.batch == graph].double().sum(0)
        assert jets.energy[graph].item() == pytest.approx(total[3].item(), rel=1e-6)
        assert jets.rapidity[graph].item() == pytest.approx(torch.atanh(total[2] / total[3]).item(), abs=1e-6)


def test_massive_constituents_keep_their_mass_share() -> None:
    p4 = torch.tensor([[3.0, 0.0, 4.0, 13.0]])
    jets = sum_constituents(p4, torch.tensor([0]), 1, torch.tensor([2.0]), torch.tensor([0.0]))
    assert jets.energy.item() == pytest.approx(26.0, rel=1e-6)
    assert jets.mass.item() == pytest.approx(24.0, rel=1e-5)


def test_energy_is_scaled_exactly_whatever_the_shift() -> None:
    batch = make_batch([6], seed=3)
    factor = torch.full((6,), 1.3)
    jets = sum_constituents(batch.p4, batch.batch, 1, factor, torch.full((6,), 0.07))
    assert jets.energy.item() == pytest.approx(1.3 * batch.p4[:, 3].sum().item(), rel=1e-6)
    plain = sum_constituents(batch.p4, batch.batch, 1, factor, torch.zeros(6))
    assert (jets.rapidity - plain.rapidity).item() == pytest.approx(
        0.07, abs=2e-4
    )  # energies are kept, so transverse masses differ a little


def test_gradients_are_finite_for_a_single_massless_constituent() -> None:
    batch = make_batch([1])
    factor = torch.ones(1, requires_grad=True)
    jets = sum_constituents(batch.p4, batch.batch, 1, factor, torch.zeros(1))
    (jets.energy + jets.mass + jets.rapidity).sum().backward()
    assert torch.isfinite(factor.grad).all()


def test_rapidity_equals_its_definition() -> None:
    pt, eta, mass = (torch.tensor([v], dtype=torch.float64) for v in (50.0, 2.1, 12.0))
    pz = pt * torch.sinh(eta)
    energy = torch.sqrt(pt**2 + pz**2 + mass**2)
    assert rapidity_of(pt, eta, mass).item() == pytest.approx(
        (0.5 * torch.log((energy + pz) / (energy - pz))).item(), rel=1e-12
    )
