import numpy as np
import pytest

from distjet.physics.kinematics import to_cartesian
from distjet.simulation.generator import Particles
from distjet.simulation.tracks import count_vertices, from_primary_vertex, reconstruct_tracks


def particles(pt_gev, eta, charge, lengths):
    num = sum(lengths)
    p4 = np.tile(to_cartesian(pt_gev, eta, 0.5, 0.14), (num, 1))
    return Particles(p4, np.full(num, 211), np.full(num, charge), np.concatenate([[0], np.cumsum(lengths)]))


@pytest.mark.parametrize(("pt_gev", "eta", "efficiency"), [(5.0, 0.5, 0.92), (5.0, 2.0, 0.84), (0.7, 0.5, 0.87)])
def test_efficiency_and_resolution(pt_gev, eta, efficiency):
    tracks = reconstruct_tracks(particles(pt_gev, eta, 1.0, [4000, 0, 6000]), np.random.default_rng(1))
    np.testing.assert_allclose(np.diff(tracks.offsets) / np.array([4000, 1, 6000]), [efficiency, 0, efficiency], atol=0.015)
    assert np.median(tracks.pt_gev) == pytest.approx(pt_gev, rel=0.002)
    assert tracks.pt_gev.std() / pt_gev == pytest.approx(0.015, rel=0.1)
    assert tracks.eta.std() == pytest.approx(5e-4, rel=0.05)


@pytest.mark.parametrize(("pt_gev", "eta", "charge"), [(5.0, 0.5, 0.0), (0.4, 0.5, 1.0), (5.0, 2.6, 1.0)])
def test_what_has_no_track(pt_gev, eta, charge):
    tracks = reconstruct_tracks(particles(pt_gev, eta, charge, [100]), np.random.default_rng(1))
    assert len(tracks.pt_gev) == 0


def test_tracks_know_charge_and_leptons():
    mixed = particles(5.0, 0.5, 1.0, [400])
    mixed.charge[::2] = -1.0
    mixed.pdg[:100] = np.repeat([11, -13], 50)
    tracks = reconstruct_tracks(mixed, np.random.default_rng(1))
    assert tracks.charge.sum() == pytest.approx(0, abs=40)
    assert set(tracks.charge) == {-1.0, 1.0}
    assert 0 < np.count_nonzero(~tracks.is_hadron) <= 100
    np.testing.assert_array_equal(tracks.is_hadron, np.sort(tracks.is_hadron))


def test_own_tracks_are_associated():
    tracks = reconstruct_tracks(particles(2.0, 1.0, 1.0, [2000]), np.random.default_rng(1))
    assert from_primary_vertex(tracks.dz_mm, tracks.eta).mean() > 0.99
    assert not from_primary_vertex(tracks.dz_mm + 10.0, tracks.eta).any()


def test_near_vertices_merge():
    assert count_vertices(np.array([3.0, -20.0, 3.5, 40.0])) == 3
    assert count_vertices(np.empty(0)) == 0
