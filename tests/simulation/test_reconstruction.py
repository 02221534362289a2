import numpy as np
import pytest

from distjet.physics.clustering import Jets
from distjet.physics.kinematics import to_cartesian
from distjet.simulation.matching import Axes
from distjet.simulation.readout import Objects
from distjet.simulation.reconstruction import _track_columns, mean_leading_pt


@pytest.mark.parametrize(("num_leading", "expected"), [(1, [30.0, 0.0, 20.0]), (2, [25.0, 0.0, 20.0])])
def test_leading_jets_of_events_with_few(num_leading, expected):
    p4 = to_cartesian(np.array([30.0, 20.0, 10.0, 20.0]), np.zeros(4), np.arange(4.0))
    jets = Jets(p4, np.array([0, 3, 3, 4]), np.arange(4), np.arange(5))
    np.testing.assert_allclose(mean_leading_pt(jets, num_leading), expected, rtol=1e-12)


def test_no_jets_at_all():
    jets = Jets(np.empty((0, 4)), np.zeros(3, np.int64), np.empty(0, np.int64), np.zeros(1, np.int64))
    np.testing.assert_array_equal(mean_leading_pt(jets, 2), [0.0, 0.0])


@pytest.mark.parametrize("tracks", [[], [0.7]])
def test_batches_without_hard_tracks(tracks):
    zeros = np.zeros(len(tracks))
    axes = Axes(np.array([0.0, 1.0]), np.zeros(2), np.array([0, 2]))
    objects = Objects(np.array(tracks), zeros, zeros, np.array([0, len(tracks)]))
    columns = _track_columns(axes, np.array([10.0, 20.0]), objects, 0.4)
    np.testing.assert_array_equal(columns["jet_NumTrkPt1000"], [0, 0])
    np.testing.assert_array_equal(columns["jet_TrackWidthPt1000"], [-1.0, -1.0])
    np.testing.assert_allclose(columns["jet_fCharged"], [sum(tracks) / 10, 0.0])
