"""Spec: each option changes what it says and nothing else, as much as it says; no jet is left without a constituent."""

import numpy as np
import pytest
import torch

from distjet.models.tagger_configs import KINEMATICS, AugmentationConfig
from distjet.nn.augmentation import augment, kinematic_inputs
from tests.batches import make_batch

BATCH = make_batch([30, 1, 2, 60] * 50)


def changed(seed: int = 0, **strengths: float):
    return augment(BATCH.p4, BATCH.ptr, AugmentationConfig(**strengths), torch.Generator().manual_seed(seed))


def test_nothing_is_changed_by_default() -> None:
    result = changed()
    assert torch.equal(result.places, torch.arange(BATCH.num_nodes))
    assert torch.equal(result.p4, BATCH.p4)
    assert torch.equal(result.ptr, BATCH.ptr)


def test_the_same_state_gives_the_same_change() -> None:
    strengths = {"input_dropout": 0.2, "scale": 0.1, "smear": 0.1, "shift": 0.1, "pt_dropout_gev": 1.0}
    one, same, other = changed(1, **strengths), changed(1, **strengths), changed(2, **strengths)
    assert torch.equal(one.p4, same.p4)
    assert one.p4.shape != other.p4.shape


def test_a_share_of_constituents_is_left_out_but_never_the_last() -> None:
    result = changed(input_dropout=0.5)
    assert result.ptr.diff().min() >= 1
    of_large = result.ptr.diff()[0::4].double().mean() / 30
    assert of_large == pytest.approx(0.5, abs=0.05)
    assert torch.equal(result.p4, BATCH.p4[result.places])
    for graph in range(BATCH.num_graphs):
        mine = (result.places >= BATCH.ptr[graph]) & (result.places < BATCH.ptr[graph + 1])
        assert mine.sum() == result.ptr[graph + 1] - result.ptr[graph]


def test_soft_constituents_are_left_out() -> None:
    pt = torch.hypot(BATCH.p4[:, 0], BATCH.p4[:, 1])
    result = changed(pt_dropout_gev=10.0)
    lost = torch.ones(BATCH.num_nodes, dtype=torch.bool)
    lost[result.places] = False
    jets = BATCH.batch
    assert lost.any()
    for jet in jets[lost].unique()[:20]:
        here = (jets == jet) & (pt < pt[jets == jet].max())
        if (here & ~lost).any():
            assert pt[here & lost].max() < pt[here & ~lost].min()


def test_a_jet_is_scaled_as_a_whole() -> None:
    factor = changed(scale=0.1).p4 / BATCH.p4
    for lo, hi in zip(BATCH.ptr[:-1].tolist(), BATCH.ptr[1:].tolist(), strict=True):
        torch.testing.assert_close(factor[lo:hi], factor[lo, 0].expand(hi - lo, 4))
    of_jets = factor[BATCH.ptr[:-1], 3]
    assert of_jets.std().item() == pytest.approx(0.1, rel=0.15)
    assert of_jets.mean().item() == pytest.approx(1, abs=0.03)


def test_constituents_are_smeared_each_on_its_own() -> None:
    factor = changed(smear=0.05).p4 / BATCH.p4
    torch.testing.assert_close(factor, factor[:, :1].expand(-1, 4))
    assert factor[:, 0].std().item() == pytest.approx(0.05, rel=0.05)


def test_a_shift_keeps_energy_and_transverse_momentum() -> None:
    before, after = BATCH.p4.double().numpy(), changed(shift=0.02).p4.double().numpy()
    np.testing.assert_allclose(after[:, 3], before[:, 3])
    np.testing.assert_allclose(np.hypot(after[:, 0], after[:, 1]), np.hypot(before[:, 0], before[:, 1]), rtol=1e-5)
    turn = np.angle(np.exp(1j * (np.arctan2(after[:, 1], after[:, 0]) - np.arctan2(before[:, 1], before[:, 0]))))
    assert turn.std() == pytest.approx(0.02, rel=0.05)
    shift = np.arctanh(after[:, 2] / after[:, 3]) - np.arctanh(before[:, 2] / before[:, 3])
    assert shift.std() == pytest.approx(0.02, rel=0.05)


def test_inputs_are_those_of_a_dataset() -> None:
    found = kinematic_inputs(BATCH.p4, BATCH.ptr)
    assert set(found) == set(KINEMATICS)
    lo, hi = BATCH.ptr[3].item(), BATCH.ptr[4].item()
    p4 = BATCH.p4[lo:hi].double().numpy()
    jet = p4.sum(0)
    eta, jet_eta = np.arcsinh(p4[:, 2] / np.hypot(p4[:, 0], p4[:, 1])), np.arcsinh(jet[2] / np.hypot(jet[0], jet[1]))
    turn = np.angle(np.exp(1j * (np.arctan2(p4[:, 1], p4[:, 0]) - np.arctan2(jet[1], jet[0]))))
    np.testing.assert_allclose(found["delta_eta"][lo:hi], eta - jet_eta, atol=1e-5)
    np.testing.assert_allclose(found["delta_r"][lo:hi], np.hypot(eta - jet_eta, turn), atol=1e-5)
    np.testing.assert_allclose(found["log_energy_fraction"][lo:hi].exp().sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(found["log_pt"][lo:hi], np.log(np.hypot(p4[:, 0], p4[:, 1])), rtol=1e-5)
