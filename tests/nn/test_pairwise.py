"""Spec: pairwise features are the definitions of arXiv:2202.03772, for edges, neighbours and all pairs alike."""

import numpy as np
import pytest
import torch

from distjet.nn.pairwise import all_pairs_features, edge_features, neighbour_features, rapidity
from tests.batches import make_batch

P4 = make_batch([12]).p4.double()
MASSIVE = torch.cat([P4[:, :3], (P4[:, :3].square().sum(1, keepdim=True) + 0.14**2).sqrt()], dim=1)


def by_definition(a: np.ndarray, b: np.ndarray) -> list[float]:
    def polar(p: np.ndarray) -> tuple[float, float, float]:
        return np.hypot(p[0], p[1]), np.arctanh(p[2] / p[3]), np.arctan2(p[1], p[0])

    (pt_a, y_a, phi_a), (pt_b, y_b, phi_b) = polar(a), polar(b)
    delta = np.hypot(y_a - y_b, np.angle(np.exp(1j * (phi_a - phi_b))))
    total = a + b
    mass_squared = total[3] ** 2 - (total[:3] ** 2).sum()
    return np.log(np.maximum([min(pt_a, pt_b) * delta, min(pt_a, pt_b) / (pt_a + pt_b), delta, mass_squared], 1e-8)).tolist()


def test_all_pairs_are_as_defined() -> None:
    found = all_pairs_features(MASSIVE.unsqueeze(0))[0]
    expected = [[by_definition(a, b) for b in MASSIVE.numpy()] for a in MASSIVE.numpy()]
    np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-8)


def test_edges_and_neighbours_are_pairs() -> None:
    all_pairs = all_pairs_features(MASSIVE.unsqueeze(0))[0]
    source, target = torch.tensor([[0, 3, 5, 5], [1, 1, 5, 2]])
    torch.testing.assert_close(edge_features(MASSIVE, source, target), all_pairs[source, target])
    table = torch.tensor([[i, (i + 1) % 12, 12] for i in range(12)])
    found = neighbour_features(MASSIVE, table)
    torch.testing.assert_close(found[:, :2], all_pairs[torch.arange(12).unsqueeze(1), table[:, :2]])
    assert found.isfinite().all()


def test_float32_is_weaver_to_the_last_digits() -> None:
    theirs = pytest.importorskip("weaver.nn.model.ParticleTransformer", reason="weaver-core comes with the extra 'bench'")
    p4 = make_batch([40]).p4
    p4 = p4[p4[:, 2] > 0]
    columns = p4.T.unsqueeze(0)
    expected = theirs.pairwise_lv_fts_pp(columns.unsqueeze(-1), columns.unsqueeze(-2))[0].permute(1, 2, 0)
    torch.testing.assert_close(all_pairs_features(p4.unsqueeze(0))[0], expected, atol=1e-6, rtol=1e-6)


def test_a_constituent_with_itself_is_at_the_floor() -> None:
    found = edge_features(MASSIVE, torch.tensor([4]), torch.tensor([4]))[0]
    np.testing.assert_allclose(found, [np.log(1e-8), np.log(0.5), np.log(1e-8), np.log(4 * 0.14**2)], rtol=1e-6)


def test_jets_along_the_beam_are_finite_and_alike_on_both_sides() -> None:
    pz, energy = torch.tensor([1e4, -1e4, 0.0]), torch.tensor([1e4, 1e4, 1.0])
    found = rapidity(pz, energy)
    assert found.isfinite().all()
    assert found[0] == -found[1]
    assert found[2] == 0
    forward = torch.tensor([[0.1, 0.0, -1e4, 1e4], [0.0, 0.1, -1e4, 1e4]])
    assert edge_features(forward, torch.tensor([0]), torch.tensor([1])).isfinite().all()


def test_no_edges() -> None:
    none = torch.zeros(0, dtype=torch.long)
    assert edge_features(MASSIVE, none, none).shape == (0, 4)
    assert neighbour_features(MASSIVE[:0], torch.zeros(0, 3, dtype=torch.long)).shape == (0, 3, 4)
