import numpy as np

from distjet.simulation.constituents import collect, join

FIELDS = ("E", "eta", "phi")


def two_events():
    first, last = np.array([[5.0, 0.5, 1.0], [3.0, -2.0, -3.0]]), np.array([[1.0, 0.0, 0.0]])
    return collect("clus", FIELDS, [first, np.empty((0, 3)), last])


def test_constituents_are_numbered_within_their_event():
    clusters = two_events()
    np.testing.assert_array_equal(clusters.offsets, [0, 2, 2, 3])
    np.testing.assert_array_equal(clusters["index"], [0, 1, 0])
    assert clusters.fields == (*FIELDS, "index")
    assert clusters.values.dtype == np.float32


def test_massless_momenta():
    p4 = two_events().momenta()
    np.testing.assert_array_equal(p4[:, 3], [5.0, 3.0, 1.0])
    np.testing.assert_allclose((p4[:, :3] ** 2).sum(axis=1), p4[:, 3] ** 2, rtol=1e-12)
    np.testing.assert_allclose(p4[0, 2], 5.0 * np.tanh(0.5), rtol=1e-12)


def test_momenta_with_a_mass():
    particles = collect("part", ("pt", *FIELDS), [np.array([[3.0, 5.0, 0.0, np.pi / 2]])])
    np.testing.assert_allclose(particles.momenta(), [[0.0, 3.0, 0.0, 5.0]], atol=1e-6)


def test_groups_can_be_picked_remade_and_joined():
    clusters = two_events()
    np.testing.assert_array_equal(clusters.select(np.array([2, 0]))["E"], [1.0, 5.0, 3.0])
    jets = clusters.regroup(np.array([2, 1]), np.array([0, 1, 2]))
    np.testing.assert_array_equal(jets["index"], [0, 1])
    both = join([clusters, jets])
    np.testing.assert_array_equal(both.offsets, [0, 2, 2, 3, 4, 5])
    np.testing.assert_array_equal(both["E"], [5.0, 3.0, 1.0, 1.0, 3.0])
