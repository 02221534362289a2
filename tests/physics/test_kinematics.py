import itertools

import fastjet
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distjet.physics.kinematics import (
    delta_phi,
    delta_r,
    mass,
    pseudorapidity,
    pt,
    rapidity,
    sum_groups,
    to_cartesian,
    to_cylindrical,
    wrap_phi,
)

ANGLES = st.floats(-50, 50)


@given(ANGLES)
def test_wrapped_azimuth_is_the_same_direction_in_half_open_range(phi):
    wrapped = float(wrap_phi(phi))
    assert -np.pi <= wrapped < np.pi
    assert np.exp(1j * wrapped) == pytest.approx(np.exp(1j * phi), abs=1e-12)


@given(ANGLES, ANGLES)
def test_azimuthal_distance_is_the_angle_between_unit_vectors(a, b):
    cosine = np.clip(np.cos(a) * np.cos(b) + np.sin(a) * np.sin(b), -1, 1)
    assert abs(float(delta_phi(a, b))) == pytest.approx(np.arccos(cosine), abs=1e-6)


@given(
    pt_gev=st.floats(0.1, 1e4),
    eta=st.floats(-5, 5),
    phi=st.floats(-3.1, 3.1),
    mass_gev=st.floats(0, 500),
)
def test_four_vectors_agree_with_fastjet(pt_gev, eta, phi, mass_gev):
    p4 = to_cartesian(pt_gev, eta, phi, mass_gev)
    jet = fastjet.PseudoJet(*p4.tolist())
    assert float(pt(p4)) == pytest.approx(jet.pt(), rel=1e-12)
    assert float(pseudorapidity(p4)) == pytest.approx(jet.eta(), abs=1e-9)
    assert float(to_cylindrical(p4).phi_rad) == pytest.approx(jet.phi_std(), abs=1e-12)
    assert float(mass(p4)) == pytest.approx(mass_gev, rel=1e-4, abs=1e-4 * float(p4[3]))
    assert float(rapidity(p4)) == pytest.approx(jet.rap(), abs=1e-6)


def test_distance_agrees_with_fastjet_across_the_seam():
    a, b = (fastjet.PseudoJet(*to_cartesian(10.0, eta, phi).tolist()) for eta, phi in ((0.3, 3.1), (-0.2, -3.1)))
    assert float(delta_r(0.3, 3.1, -0.2, -3.1)) == pytest.approx(a.delta_R(b), rel=1e-9)


def test_directions_along_the_beam():
    p4 = np.array([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, -2.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    np.testing.assert_array_equal(pseudorapidity(p4), [np.inf, -np.inf, 0.0])


def test_space_like_rounding_gives_no_mass():
    assert float(mass(np.array([3.0, 4.0, 0.0, 5.0 - 1e-12]))) == 0.0


@given(st.lists(st.integers(0, 4), min_size=1, max_size=12))
def test_group_sums_agree_with_a_loop(lengths):
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    values = np.arange(2.0 * offsets[-1]).reshape(-1, 2)
    expected = [values[first:last].sum(axis=0) for first, last in itertools.pairwise(offsets)]
    np.testing.assert_array_equal(sum_groups(values, offsets), np.reshape(expected, (-1, 2)))
