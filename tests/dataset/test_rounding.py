"""Spec: rounding keeps float32 and every special value, is off by at most half a unit of the last bit kept, and saves space."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distjet.dataset.manifest import Manifest
from distjet.dataset.recipes.recipe import Recipe
from distjet.dataset.rounding import round_mantissa
from tests.dataset.files import configure, identities, read_all, run

SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(deadline=None)  # the first call compiles
@given(FLOATS, st.integers(1, 23))
def test_the_error_is_bounded(value, bits):
    found = round_mantissa(np.array([value], np.float32), bits)
    assert found.dtype == np.float32
    assert np.isfinite(found[0])
    assert abs(float(found[0]) - value) <= max(abs(value), SMALLEST_NORMAL) * 2.0 ** -(bits + 1)
    assert np.signbit(found[0]) == np.signbit(np.float32(value))
    assert int(found.view(np.uint32)[0]) % 2 ** (23 - bits) == 0


@settings(deadline=None)  # the first call compiles
@given(FLOATS, st.integers(1, 23))
def test_rounded_values_stay_and_order_is_kept(value, bits):
    values = np.array(sorted([value, value / 2, value * 0.99, 0.0]), np.float32)
    found = round_mantissa(values, bits)
    assert (np.diff(found) >= 0).all()
    np.testing.assert_array_equal(round_mantissa(found, bits), found)


@pytest.mark.parametrize("bits", [1, 10, 23])
def test_special_values_stay(bits):
    values = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -2.0, 2.0**-149 * 2**22], np.float32)
    np.testing.assert_array_equal(round_mantissa(values, bits).view(np.uint32), values.view(np.uint32))


def test_ties_go_to_the_even_neighbour_and_nothing_overflows():
    unit = 2.0**-10
    values = np.array([1 + unit / 2, 1 + 3 * unit / 2, np.finfo(np.float32).max], np.float32)
    np.testing.assert_array_equal(round_mantissa(values, 10), [1, 1 + 2 * unit, (2 - unit) * 2.0**127])


def test_the_values_given_are_left_alone():
    values = np.array([1.1, 2.2], np.float32)
    round_mantissa(values, 3)
    np.testing.assert_array_equal(values, np.array([1.1, 2.2], np.float32))


@pytest.mark.parametrize("bits", [0, 24, -1])
def test_bits_that_there_are_not(bits):
    with pytest.raises(ValueError, match="expected 1 to 23 bits of mantissa"):
        round_mantissa(np.zeros(1, np.float32), bits)


def rounded(dataset: Manifest, ntuples, folder, **bits: int) -> Manifest:
    recipe = configure(folder, "x").recipe.model_dump(mode="json") | {"mantissa_bits": bits}
    return run(folder, str(ntuples), recipe=recipe)


def test_a_dataset_of_rounded_columns(dataset, ntuples, tmp_path):
    other = rounded(dataset, ntuples, tmp_path / "out", px=10, log_energy=7)
    before, after = read_all(dataset), read_all(other)
    assert identities(after) == identities(before)
    for name, bits in (("px", 10), ("log_energy", 7)):
        values, found = (table[name].combine_chunks().flatten().to_numpy() for table in (before, after))
        np.testing.assert_array_equal(found, round_mantissa(values, bits))
        assert (found != values).any()
        assert other.column(name).mantissa_bits == bits
        assert after.schema.field(name).metadata[b"mantissa_bits"] == str(bits).encode()
    assert after.drop_columns(["px", "log_energy"]).equals(before.drop_columns(["px", "log_energy"]))
    assert other.statistics("log_energy")["max"] == round_mantissa(np.float32([dataset.statistics("log_energy")["max"]]), 7)[0]
    assert b"mantissa_bits" not in after.schema.field("py").metadata
    assert other.fingerprint != dataset.fingerprint
    sizes = [sum(shard.size_bytes for shard in manifest.shards("train")) for manifest in (dataset, other)]
    assert sizes[1] < sizes[0]


@pytest.mark.parametrize(
    ("bits", "message"),
    [
        ({"log_energi": 10}, "unknown column of constituents 'log_energi', did you mean 'log_energy'"),
        ({"jet_pt": 10}, "unknown column of constituents 'jet_pt'"),
        ({"px": 0}, "greater than or equal to 1"),
        ({"px": 24}, "less than or equal to 23"),
    ],
)
def test_columns_and_bits_are_checked(bits, message, tmp_path):
    recipe = configure(tmp_path, "x").recipe.model_dump(mode="json") | {"mantissa_bits": bits}
    with pytest.raises(ValueError, match=message):
        Recipe.model_validate(recipe)
