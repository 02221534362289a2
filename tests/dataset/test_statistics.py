"""Spec: statistics agree with numpy for any division into parts, histograms count every jet, weights make a spectrum flat."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distjet.dataset.manifest import Manifest
from distjet.dataset.statistics import QUANTILES, finish, merge, summarise
from distjet.dataset.weights import flattening_weights
from distjet.errors import DataError
from tests.dataset.files import read_all


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


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=60), st.integers(0, 60))
def test_merging_parts_gives_the_whole(values, cut):
    array = np.array(values, dtype=np.float32)
    merged = merge([summarise(array[:cut]), summarise(array[cut:])])
    whole = merge([summarise(array)])
    assert (merged["count"], merged["min"], merged["max"]) == (whole["count"], whole["min"], whole["max"])
    assert (merged["bins"], merged["counts"]) == (whole["bins"], whole["counts"])
    scale = np.abs(array.astype(np.float64)).max()
    assert merged["mean"] == pytest.approx(array.mean(dtype=np.float64), abs=1e-9 * scale)
    assert merged["m2"] == pytest.approx(whole["m2"], rel=1e-6, abs=1e-9 * scale**2)


def test_quantiles_of_any_scale_are_close():
    rng = np.random.default_rng(0)
    for scale, shift in ((1e-6, 0), (1e6, 0), (1, -50)):
        values = (rng.normal(0, 1, 100_000) * scale + shift).astype(np.float32)
        quantiles = finish(merge([summarise(values)]))["quantiles"]
        for q in QUANTILES:
            assert quantiles[f"{q:g}"] == pytest.approx(np.quantile(values, q), rel=0.01, abs=0.01 * scale)


def test_an_empty_column_has_no_statistics():
    assert finish(merge([]))["mean"] is None


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
    expected, _, _ = np.histogram2d(table["jet_pt"].to_numpy(), table["jet_mass"].to_numpy(), bins=pt_mass["edges"])
    np.testing.assert_array_equal(pt_mass["counts"], expected)


def falling_spectrum(size: int = 200_000) -> tuple[np.ndarray, dict]:
    log_energy = np.random.default_rng(3).exponential(0.8, size) + 2.05
    log_energy = np.minimum(log_energy, 9.99)
    edges = np.round(np.arange(0, 10.05, 0.1), 1)
    counts, _ = np.histogram(log_energy, edges)
    return log_energy, {"edges": edges.tolist(), "counts": counts.tolist(), "sum_weights": (counts * 0.5).tolist()}


def test_weights_make_the_spectrum_flat():
    log_energy, histogram = falling_spectrum()
    weights = flattening_weights(histogram, cap=1e9)(np.exp(log_energy)).astype(np.float64)
    assert weights.mean() == pytest.approx(1, rel=1e-5)
    sums, _ = np.histogram(log_energy, histogram["edges"], weights=weights)
    filled = sums[np.array(histogram["counts"]) > 0]
    np.testing.assert_allclose(filled, filled.mean(), rtol=1e-4)


def test_capped_weights_have_mean_one_and_stay_below_the_cap():
    log_energy, histogram = falling_spectrum()
    weights = flattening_weights(histogram, cap=5.0)(np.exp(log_energy))
    assert weights.mean() == pytest.approx(1, rel=1e-3)
    assert weights.max() <= 5.0 * (1 + 1e-3)
    sums, _ = np.histogram(log_energy, histogram["edges"], weights=weights)
    low = slice(21, 30)
    np.testing.assert_allclose(sums[low], sums[low].mean(), rtol=1e-3)


def test_event_weights_can_be_made_flat_instead():
    _, histogram = falling_spectrum()
    assert flattening_weights(histogram, use_event_weights=True).values.max() > 0
    with pytest.raises(DataError, match="no positive sum of event weights"):
        flattening_weights(histogram | {"sum_weights": [0.0] * 100}, use_event_weights=True)
    with pytest.raises(DataError, match="no jets"):
        flattening_weights(histogram | {"counts": [0] * 100})


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

    def test_a_flipped_bit(self, dataset, tmp_path):
        manifest = self.copy(dataset, tmp_path / "d")
        manifest.verify()
        shard = tmp_path / "d/val/part-00000.parquet"
        content = bytearray(shard.read_bytes())
        content[len(content) // 3] ^= 4
        shard.write_bytes(content)
        with pytest.raises(DataError, match=r"val/part-00000.parquet is damaged"):
            manifest.verify()

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
