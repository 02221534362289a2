import dataclasses

import numpy as np
import pytest
import torch

from distjet.nn.jet_frame import to_jet_frame
from distjet.nn.jet_images import jet_images
from distjet.physics import kinematics
from distjet.physics.kinematics import delta_phi, to_cartesian
from tests.batches import make_batch


def one_jet(pt, eta, phi):
    """Four-momenta of one jet and the index of its jet."""
    p4 = torch.from_numpy(to_cartesian(np.asarray(pt), np.asarray(eta), np.asarray(phi)))
    return p4.float(), torch.zeros(len(p4), dtype=torch.long)


def test_jet_frame_has_the_mean_rapidity_and_the_summed_azimuth():
    batch = make_batch([6, 1, 9], seed=2)
    frame = to_jet_frame(batch.p4, batch.batch, 3)
    for jet in range(3):
        own = slice(int(batch.ptr[jet]), int(batch.ptr[jet + 1]))
        p4 = batch.p4[own].double().numpy()
        pt, total = kinematics.pt(p4), p4.sum(0)
        rapidity = kinematics.pseudorapidity(p4)  # they are massless
        turn = delta_phi(np.arctan2(p4[:, 1], p4[:, 0]), np.arctan2(total[1], total[0]))
        np.testing.assert_allclose(frame.share[own], pt / pt.sum(), rtol=1e-5)
        np.testing.assert_allclose(frame.delta_y[own], rapidity - (pt * rapidity).sum() / pt.sum(), atol=1e-5)
        np.testing.assert_allclose(frame.delta_phi[own], turn, atol=1e-5)


def test_mass_counts_in_the_rapidity_and_rounding_does_not():
    heavy = torch.tensor([[3.0, 0, 4.0, 13.0], [1.0, 0, 0, 1.0]])
    light = torch.tensor([[300.0, 0, 4000.0, float(np.float32(np.hypot(300, 4000)))], [1.0, 0, 0, 1.0]])
    batch = torch.zeros(2, dtype=torch.long)
    first, second = (to_jet_frame(p4, batch, 1).delta_y for p4 in (heavy, light))
    torch.testing.assert_close(first[0] - first[1], torch.tensor(np.arctanh(4 / 13)).float())
    torch.testing.assert_close(second[0] - second[1], torch.tensor(np.arcsinh(4000 / 300)).float())


def test_pixels_hold_all_pt_of_a_jet_that_fits():
    batch = make_batch([30, 12, 1], seed=3)
    images = jet_images(batch.p4, batch.batch, 3, size=64, width=4.0)
    assert images.shape == (3, 1, 64, 64)
    torch.testing.assert_close(images.sum((1, 2, 3)), torch.ones(3))
    narrow = jet_images(batch.p4, batch.batch, 3, size=16, width=0.1)
    assert (narrow.sum((1, 2, 3))[:2] < 0.9).all(), "what is outside is not drawn"
    assert narrow[2, 0, 8, 8] == pytest.approx(1), "one constituent is the middle"


def test_an_image_knows_the_shape_of_a_jet_but_not_how_it_lies():
    pt = np.array([50.0, 30, 12, 8, 3])
    x, y = np.array([[0.31, -0.33, -0.1, 0.22, 0.02], [0.01, 0.06, -0.11, 0.17, -0.2]])
    pictures = []
    for angle, mirror in ((0.0, 1), (1.1, 1), (2.9, -1), (4.4, -1)):
        eta, phi = np.cos(angle) * x - np.sin(angle) * mirror * y, np.sin(angle) * x + np.cos(angle) * mirror * y
        pictures.append(jet_images(*one_jet(pt, 0.7 + eta, 3.1 + phi), 1, size=13, width=1.3)[0, 0])
    for picture in pictures[1:]:
        torch.testing.assert_close(picture, pictures[0], atol=1e-6, rtol=0)
    assert (pictures[0] > 0).sum() == 5
    row, column = torch.meshgrid(torch.arange(13) - 6, torch.arange(13) - 6, indexing="ij")
    assert (pictures[0] * column**2).sum() > 5 * (pictures[0] * row**2).sum(), "the long side is the second coordinate"
    for coordinate in (row, column):
        assert (pictures[0] * coordinate.sign()).sum() > 0


def test_two_constituents_lie_on_the_middle_line_whatever_rounding_says():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        p4, batch = one_jet(rng.uniform(5, 50, 2), rng.uniform(-0.3, 0.3, 2), rng.uniform(-0.3, 0.3, 2))
        image = jet_images(p4, batch, 1, size=64, width=1.6)
        assert image[0, 0, 32].sum() == pytest.approx(1)


def test_images_of_a_batch_are_those_of_its_jets():
    batch = make_batch([9, 20], seed=5)
    together = jet_images(batch.p4, batch.batch, 2, 32, 1.6)
    swapped = dataclasses.replace(batch, p4=torch.cat([batch.p4[9:], batch.p4[:9]]), ptr=torch.tensor([0, 20, 29]))
    torch.testing.assert_close(jet_images(swapped.p4, swapped.batch, 2, 32, 1.6), together.flip(0), atol=1e-6, rtol=0)
