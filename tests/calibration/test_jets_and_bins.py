"""Four-momenta stay four-momenta, and no jet falls between two bins."""

from itertools import pairwise

import numpy as np
import pytest
from scipy import stats

from distjet.calibration.binning import bin_numbers, equal_shares, merged, nearest_bin_numbers, nearest_filled, rows_by_bin
from distjet.calibration.jets import CalibratedJets, constituent_scale
from distjet.errors import DataError
from distjet.physics.kinematics import mass, rapidity, to_cartesian
from tests.calibration.toys import toy_columns


@pytest.fixture
def jets() -> CalibratedJets:
    return constituent_scale(toy_columns(500, 1))


def four_vectors(jets: CalibratedJets) -> np.ndarray:
    return to_cartesian(jets.pt, jets.eta, jets.phi, jets.mass)


def test_a_scaled_jet_is_the_scaled_four_momentum(jets):
    factor = np.random.default_rng(2).uniform(0.5, 2, 500)
    scaled = jets.scaled(factor)
    np.testing.assert_allclose(four_vectors(scaled), factor[:, None] * four_vectors(jets), rtol=1e-12)
    np.testing.assert_allclose(scaled.energy, four_vectors(scaled)[:, 3], rtol=1e-12)


def test_a_turned_jet_keeps_energy_mass_and_momentum(jets):
    turned = jets.pointing_to(jets.eta + 0.3)
    before, after = four_vectors(jets), four_vectors(turned)
    np.testing.assert_allclose(after[:, 3], before[:, 3], rtol=1e-12)
    np.testing.assert_allclose(mass(after), mass(before), rtol=1e-9)
    np.testing.assert_allclose(np.arcsinh(after[:, 2] / np.hypot(after[:, 0], after[:, 1])), jets.eta + 0.3, rtol=1e-9)
    np.testing.assert_array_equal(turned.energy, jets.energy)
    assert np.all(turned.pt[jets.eta > 0] < jets.pt[jets.eta > 0])


def test_the_rapidity_is_that_of_the_four_momentum(jets):
    np.testing.assert_allclose(jets.rapidity, rapidity(four_vectors(jets)), rtol=1e-10)


def test_a_jet_without_energy_or_with_a_hole_is_named():
    columns = toy_columns(10, 1)
    with pytest.raises(DataError, match=r"got 0\.0 and .* GeV in row 3, and 1 such jets"):
        constituent_scale(columns | {"jet_pt": np.where(np.arange(10) == 3, 0.0, columns["jet_pt"])})
    with pytest.raises(DataError, match=r"'jet_mass' must be finite; got nan in row 7"):
        constituent_scale(columns | {"jet_mass": np.where(np.arange(10) == 7, np.nan, 1.0)})
    del columns["jet_eta"]
    with pytest.raises(DataError, match="no column 'jet_eta', which the jet itself needs"):
        constituent_scale(columns)


def test_bins_are_those_of_scipy():
    values, edges = np.random.default_rng(4).uniform(-5, 5, 400), (-3.0, -1.0, 0.0, 0.5, 4.0)
    found = rows_by_bin(values, edges)
    expected = stats.binned_statistic(values, None, "count", bins=edges)
    assert [len(rows) for rows in found] == expected.statistic.tolist()
    for number, rows in enumerate(found):
        np.testing.assert_array_equal(expected.binnumber[rows], number + 1)
    chosen = np.arange(0, 400, 3)
    for rows, some in zip(found, rows_by_bin(values, edges, chosen), strict=True):
        np.testing.assert_array_equal(some, np.intersect1d(rows, chosen))


def test_a_jet_beyond_the_edges_belongs_to_the_nearest_bin():
    values = np.array([-1.0, 0.0, 0.9, 1.0, 7.0])
    assert bin_numbers(values, (0.0, 1.0, 2.0)).tolist() == [-1, 0, 0, 1, 2]
    assert nearest_bin_numbers(values, (0.0, 1.0, 2.0)).tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize("seed", range(40))
def test_equal_shares_split_no_value_and_leave_no_jet_out(seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, rng.integers(1, 12), rng.integers(1, 200)).astype(float)
    num_bins, min_entries = int(rng.integers(2, 10)), int(rng.integers(1, 40))
    shares = equal_shares(x, num_bins, min_entries)
    assert sorted(np.concatenate(shares).tolist()) == list(range(len(x)))
    assert len(shares) <= num_bins
    assert len(shares) == 1 or min(map(len, shares)) >= min_entries
    for low, high in pairwise(shares):
        assert x[low].max() < x[high].min()


def test_bins_with_too_few_jets_are_joined_with_their_neighbours():
    bins = [np.arange(3), np.arange(3, 5), np.arange(5, 10), np.arange(0), np.arange(10, 12)]
    assert [rows.tolist() for rows in merged(bins, 4)] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9, 10, 11]]
    assert [rows.tolist() for rows in merged(bins, 12)] == [list(range(12))]
    assert merged(bins, 13) == []


def test_continuous_values_are_cut_at_their_quantiles():
    x = np.random.default_rng(3).normal(size=1000)
    shares = equal_shares(x, 8, 10)
    assert [len(rows) for rows in shares] == [125] * 8
    np.testing.assert_allclose([x[rows].max() for rows in shares[:-1]], np.quantile(x, np.arange(1, 8) / 8), atol=0.02)


def test_a_value_that_most_jets_share_is_a_bin_of_its_own():
    x = np.concatenate([np.zeros(900), np.arange(1, 101)])
    shares = equal_shares(x, 5, 20)
    assert len(shares[0]) == 900
    assert [len(rows) for rows in shares[1:]] == [25, 25, 25, 25]


def test_empty_bins_take_the_nearest_filled_one():
    assert list(nearest_filled([False, True, False, False, True], "toys")) == [1, 1, 1, 4, 4]
    with pytest.raises(DataError, match="toys: no bin has enough jets"):
        list(nearest_filled([False, False], "toys"))
