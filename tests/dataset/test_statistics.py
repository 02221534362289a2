"""Spec: statistics agree with numpy for any division into parts, histograms count every jet."""

import json
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distjet.dataset.manifest import Manifest
from distjet.dataset.moments import QUANTILES, Moments
from distjet.errors import DataError
from tests.dataset.files import read_all, run


def test_the_manifest_agrees_with_numpy(dataset):
    table = read_all(dataset, ["train"])
    for name in ("log_energy", "delta_eta", "jet_pt", "true_mass", "npv"):
        column = table[name].combine_chunks()
        values = (column.flatten() if pa.types.is_list(column.type) else column).to_numpy().astype(np.float64)
        found = dataset.statistics(name)
        assert found["count"] == len(values)
        assert found["mean"] == pytest.approx(values.mean(), rel=1e-9, abs=1e-12)
        assert found["std"] == pytest.approx(values.std(), rel=1e-9)
        assert (found["min"], found["max"]) == (values.min(), values.max())
        for q in QUANTILES:
            below, upto = (
                np.searchsorted(np.sort(values), found["quantiles"][f"{q:g}"], side=side) for side in ("left", "right")
            )
            assert below / len(values) - 0.04 < q < upto / len(values) + 0.04


FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def moments_of(*parts: np.ndarray) -> Moments:
    moments = Moments()
    for part in parts:
        moments.add(part)
    return moments


@settings(deadline=None)  # the first call compiles
@given(st.lists(FLOATS, min_size=1, max_size=60))
def test_moments_are_those_of_exact_arithmetic(values):
    found = moments_of(np.array(values, np.float32)).describe()
    exact = [Fraction(value) for value in values]
    mean = sum(exact) / len(exact)
    assert found["mean"] == float(mean)
    assert found["std"] == pytest.approx(float(sum((value - mean) ** 2 for value in exact) / len(exact)) ** 0.5, rel=1e-14)
    assert (found["count"], found["min"], found["max"]) == (len(values), min(values), max(values))


@settings(deadline=None)  # the first call compiles
@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=60))
def test_moments_of_whole_numbers_are_exact(values):
    found = moments_of(np.array(values, np.int32)).describe()
    assert found["mean"] == float(Fraction(sum(values), len(values)))
    variance = Fraction(len(values) * sum(value**2 for value in values) - sum(values) ** 2, len(values) ** 2)
    assert found["std"] == pytest.approx(float(variance) ** 0.5, rel=1e-14)


@settings(deadline=None)  # the first call compiles
@given(st.lists(FLOATS, max_size=60), st.lists(st.integers(0, 60), max_size=5), st.randoms())
def test_parts_give_the_whole_in_any_grouping_and_order(values, cuts, random):
    array = np.array(values, np.float32)
    parts = [moments_of(part).as_dict() for part in np.split(array, sorted(min(cut, len(array)) for cut in cuts))]
    random.shuffle(parts)
    left, right, merged = Moments(), Moments(), Moments()
    for number, part in enumerate(parts):
        (left if number % 2 else right).merge(json.loads(json.dumps(part)))
    merged.merge(left.as_dict())
    merged.merge(right.as_dict())
    assert merged.as_dict() == moments_of(array).as_dict()
    assert merged.describe() == moments_of(array).describe()


def test_a_small_spread_around_a_large_mean_is_not_lost():
    values = (np.arange(1000, dtype=np.float32) % 2) + 2.0**23
    assert moments_of(values).describe()["std"] == 0.5


@pytest.mark.parametrize(("rows_per_shard", "row_group_size"), [(37, 10), (10**6, 10**6)])
def test_statistics_do_not_depend_on_shards(dataset, ntuples, tmp_path, rows_per_shard, row_group_size):
    other = run(tmp_path / "out", str(ntuples), rows_per_shard=rows_per_shard, row_group_size=row_group_size)
    assert len(other.shards("train")) != len(dataset.shards("train"))
    assert other.content["statistics"] == dataset.content["statistics"]
    assert other.class_counts == dataset.class_counts
    for name, histogram in dataset.content["histograms"].items():
        assert other.histogram(name)["counts"] == histogram["counts"]
        np.testing.assert_allclose(other.histogram(name)["sum_weights"], histogram["sum_weights"], rtol=1e-12)


def test_quantiles_of_any_scale_are_close():
    rng = np.random.default_rng(0)
    for scale, shift in ((1e-6, 0), (1e6, 0), (1, -50)):
        values = (rng.normal(0, 1, 100_000) * scale + shift).astype(np.float32)
        quantiles = moments_of(values).describe()["quantiles"]
        for q in QUANTILES:
            assert quantiles[f"{q:g}"] == pytest.approx(np.quantile(values, q), rel=0.01, abs=0.01 * scale)


def test_an_empty_column_has_no_statistics():
    found = moments_of().describe()
    assert found["count"] == 0
    assert found["mean"] is found["std"] is found["min"] is found["max"] is found["quantiles"]["0.5"] is None


def test_histograms_count_every_training_jet(dataset):
    table = read_all(dataset, ["train"])
    histogram = dataset.histogram("log_true_energy")
    expected, _ = np.histogram(np.log(table["true_energy"].to_numpy().astype(np.float64)), bins=histogram["edges"])
    assert histogram["counts"] == expected.tolist()
    assert sum(histogram["sum_weights"]) == pytest.approx(table["weight"].to_numpy().sum())
    values = [np.log(table["true_energy"].to_numpy().astype(np.float64)), np.abs(table["true_eta"].to_numpy())]
    plane = dataset.histogram("log_true_energy_abs_eta")
    expected, _, _ = np.histogram2d(*values, bins=plane["edges"])
    np.testing.assert_array_equal(plane["counts"], expected)
    pt_mass = dataset.histogram("pt_mass")
    values = [
        np.clip(table[name].to_numpy(), edges[0], edges[-1])
        for name, edges in zip(("jet_pt", "jet_mass"), pt_mass["edges"], strict=True)
    ]
    expected, _, _ = np.histogram2d(*values, bins=pt_mass["edges"])
    np.testing.assert_array_equal(pt_mass["counts"], expected)
    expected, _, _ = np.histogram2d(*values, bins=pt_mass["edges"], weights=table["weight"].to_numpy())
    np.testing.assert_allclose(pt_mass["sum_weights"], expected)


class TestManifest:
    """Spec: a damaged or foreign folder is refused with a reason."""

    def copy(self, dataset: Manifest, folder) -> Manifest:
        import shutil

        shutil.copytree(dataset.path, folder)
        return Manifest.load(folder)

    def test_a_folder_without_manifest(self, tmp_path):
        with pytest.raises(DataError, match=r"is not a dataset: it has no manifest\.json$"):
            Manifest.load(tmp_path)

    def test_another_version(self, dataset, tmp_path):
        file = self.copy(dataset, tmp_path / "d").path / "manifest.json"
        file.write_text(file.read_text().replace('"schema_version": 2', '"schema_version": 99'))
        with pytest.raises(DataError, match="schema version 99, this distjet reads 2"):
            Manifest.load(tmp_path / "d")

    def test_a_missing_and_a_shortened_shard(self, dataset, tmp_path):
        shard = tmp_path / "d/train/part-00001.parquet"
        self.copy(dataset, tmp_path / "d")
        shard.write_bytes(shard.read_bytes()[:-1])
        with pytest.raises(DataError, match=r"part-00001.parquet has \d+ bytes, the manifest says \d+"):
            Manifest.load(tmp_path / "d")
        shard.unlink()
        with pytest.raises(DataError, match=r"shard train/part-00001.parquet is missing"):
            Manifest.load(tmp_path / "d")

    def test_names_that_do_not_exist(self, dataset):
        with pytest.raises(DataError, match="unknown split 'valid', did you mean 'val'"):
            dataset.shards("valid")
        with pytest.raises(DataError, match="unknown column 'log_energi', did you mean 'log_energy'"):
            dataset.statistics("log_energi")
        with pytest.raises(DataError, match="unknown histogram"):
            dataset.histogram("mass")
        with pytest.raises(DataError, match="unknown column"):
            dataset.column("x")

    def test_columns_by_role(self, dataset):
        assert dataset.names("p4") == ("px", "py", "pz", "energy")
        assert dataset.names("target") == ("true_pt", "true_eta", "true_phi", "true_energy", "true_mass")
        assert dataset.names("edge") == ("edges",)
        assert dataset.names("label") == ()
        assert len(dataset.names("node")) == 15
        assert dataset.column("npv").dtype == "int32"
        assert dataset.column("jet_pt").unit == "GeV"
