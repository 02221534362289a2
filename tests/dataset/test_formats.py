"""Spec: vectors, C arrays, nested vectors and RNTuples written by ROOT itself give the same rows."""

from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
import xxhash

from distjet.dataset import hashing
from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.dataset.reading.entries import describe_file, read_branches
from distjet.dataset.reading.reader import NO_UUID
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.errors import ConfigError, DataError
from distjet.execution import in_process
from tests.dataset.files import read_all

FOLDER = Path(__file__).parents[1] / "data"
FILES = {
    "vector": "jets_ttree_zstd.root",
    "c_array": "jets_carray_zstd.root",
    "nested": "events_vector_of_vector_zstd.root",
    "rntuple": "jets_rntuple_zstd.root",
}
PARTICLES = {"px": "part_px", "py": "part_py", "pz": "part_pz", "energy": "part_energy"}


def convert(output: Path, kind: str, **recipe) -> Manifest:
    layout = "event" if kind == "nested" else "jet"
    base = {
        "tree": "tree",
        "layout": layout,
        "constituents": PARTICLES,
        "nodes": ["log_pt", "delta_phi", {"charge": "part_charge"}],
    }
    inputs = {"toy": str(FOLDER / FILES[kind])}
    prepare(PrepareConfig(inputs=inputs, output=output, recipe=base | recipe), in_process)
    return Manifest.load(output)


def sorted_rows(manifest: Manifest) -> list[dict]:
    """Order rows by their content, because the identity is made from the file."""
    table = read_all(manifest).drop_columns(["run", "event", "jet_index"])
    return sorted(table.to_pylist(), key=lambda row: row["energy"])


@pytest.fixture(scope="module")
def vector_rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return sorted_rows(convert(tmp_path_factory.mktemp("vector") / "out", "vector"))


@pytest.mark.parametrize("kind", ["c_array", "nested", "rntuple"])
def test_all_formats_give_the_same_rows(vector_rows, tmp_path, kind):
    assert len(vector_rows) == 300
    assert sorted_rows(convert(tmp_path / "out", kind)) == vector_rows


def test_rows_equal_an_independent_reading(vector_rows):
    with uproot.open(FOLDER / FILES["vector"]) as file:
        jets = file["tree"].arrays()
    by_energy = sorted(ak.to_list(jets), key=lambda jet: jet["part_energy"])
    for row, jet in zip(vector_rows, by_energy, strict=True):
        assert row["px"] == jet["part_px"]
        assert row["charge"] == jet["part_charge"]
        np.testing.assert_allclose(row["log_pt"], np.log(np.hypot(jet["part_px"], jet["part_py"])), atol=1e-6)
        assert row["jet_energy"] == pytest.approx(np.sum(jet["part_energy"], dtype=np.float64), rel=1e-6)


@pytest.mark.parametrize("kind", FILES)
def test_ranges_of_entries_are_trimmed(kind):
    path = str(FOLDER / FILES[kind])
    whole = read_branches(path, "tree", ["part_px"], 0, 150)["part_px"]
    parts = [read_branches(path, "tree", ["part_px"], start, stop)["part_px"] for start, stop in ((0, 40), (40, 41), (41, 150))]
    assert all(part.offsets[0][0] == 0 and part.offsets[-1][-1] == len(part.content) for part in parts)
    np.testing.assert_array_equal(np.concatenate([part.content for part in parts]), whole.content)
    assert whole.content.dtype == np.dtype("=f4")
    assert whole.depth == (2 if kind == "nested" else 1)


def test_a_file_is_described(tmp_path):
    path = tmp_path / "a.root"
    with uproot.recreate(path) as file:
        file.mktree("t", {"x": "float64", "n": "var * int16", "flag": "bool", "vec": "3 * float32"})
        for size in (5, 7):
            branch = {
                "x": np.arange(float(size)),
                "n": ak.Array([[1, 2]] * size),
                "flag": np.ones(size, bool),
                "vec": np.ones((size, 3), "f4"),
            }
            file["t"].extend(branch | {"n": ak.values_astype(branch["n"], np.int16)})
    described = describe_file(str(path), "t", ["x", "n", "flag", "vec", "flaag"])
    assert described["entries"] == 12
    assert described["clusters"] == [0, 5, 12]
    assert described["branches"] == {"x": ("float64", 0), "n": ("int16", 1), "flag": ("bool", 0), "vec": ("float32", 1)}
    assert described["missing"] == {"flaag": ", did you mean 'flag'"}
    vec = read_branches(str(path), "t", ["vec"], 2, 4)["vec"]
    np.testing.assert_array_equal(vec.offsets[0], [0, 3, 6])


def test_a_file_without_identifier_is_known_by_its_bytes():
    path = str(FOLDER / FILES["rntuple"])
    with uproot.open(path) as file:
        assert file.file.uuid.hex == NO_UUID
    assert describe_file(path, "tree", ["part_px"])["uuid"] == xxhash.xxh3_128_hexdigest(Path(path).read_bytes())


def test_text_is_not_a_number(tmp_path):
    with uproot.recreate(tmp_path / "a.root") as file:
        file["t"] = {"name": np.array(["a", "b"]), "x": np.ones(2)}
    with pytest.raises(DataError, match="branch 'name' holds"):
        describe_file(str(tmp_path / "a.root"), "t", ["name"])


def test_lists_that_disagree_are_found(tmp_path):
    path = tmp_path / "a.root"
    with uproot.recreate(path) as file:
        file.mktree("t", {"x": "var * float32", "y": "var * float32"})
        file["t"].extend({"x": ak.Array([[1.0, 2.0], [3.0]]), "y": ak.Array([[1.0], [2.0, 3.0]])})
    recipe = {"tree": "t", "constituents": {"pt": "x", "eta": "y", "phi": "x"}}
    with pytest.raises(DataError, match="'y' and 'x' disagree on the number of constituents"):
        prepare(PrepareConfig(inputs=str(path), output=tmp_path / "out", recipe=recipe), in_process)


def test_too_many_levels_need_an_element(tmp_path):
    with pytest.raises(
        ConfigError, match=r"'part_charge' has 2 levels of lists, one too many .*; pick an element: part_charge\[0\]|per node"
    ):
        convert(tmp_path / "out", "nested", graph=[{"first": "part_charge"}])
    manifest = convert(tmp_path / "other", "nested", graph=[{"first": "part_charge[0]"}])
    assert all(row["first"] == row["charge"][0] for row in read_all(manifest).to_pylist())


def test_a_foreign_file_needs_less_than_twenty_lines(tmp_path):
    text = """
inputs: {toys: %s}
output: %s
recipe:
  tree: tree
  constituents: {px: part_px, py: part_py, pz: part_pz, energy: part_energy}
  jet: {pt: jet_pt, eta: jet_eta, phi: jet_phi, energy: jet_energy}
  nodes: [log_energy, log_pt, delta_eta, delta_phi, {charge: part_charge}]
  graph: [log_jet_pt, mass_over_energy, num_constituents, {tau21: tau2 / tau1}]
  labels: {quark: label < 5, gluon: label >= 5}
  cuts: {hard: jet_pt > 100}
  spectators: [tau3]
"""
    (tmp_path / "mine.yaml").write_text(text % (FOLDER / FILES["rntuple"], tmp_path / "out"))
    from distjet.config import load

    assert len(text.strip().splitlines()) < 20
    prepare(load(PrepareConfig, [tmp_path / "mine.yaml"]), in_process)
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.classes == ("quark", "gluon")
    with uproot.open(FOLDER / FILES["rntuple"]) as file:
        jets = file["tree"].arrays(["jet_pt", "label", "tau1", "tau2"])
    assert sum(manifest.content["rows"].values()) == int(ak.sum(jets.jet_pt > 100))
    assert sum(manifest.class_counts.values()) == manifest.num_rows("train")


def test_keys_are_those_of_the_published_generator():
    """First outputs of splitmix64 seeded with 1234567, as in the public test vectors of the algorithm."""
    state = np.array([(1234567 + i * 0x9E3779B97F4A7C15) % 2**64 for i in range(3)], dtype=np.uint64)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert hashing.splitmix64(state).tolist() == expected


def test_splits_have_their_fractions_and_keys_are_uniform():
    run, event = np.ones(200_000, np.int64), np.arange(200_000)
    keys = hashing.split_keys(1, "a", run, event)
    counts = np.bincount(hashing.split_numbers(keys, 0.8, 0.15), minlength=3)
    np.testing.assert_allclose(counts / 200_000, [0.8, 0.15, 0.05], atol=0.004)
    assert set(hashing.split_numbers(keys, 0.9, 0.1).tolist()) == {0, 1}
    assert set(hashing.split_numbers(keys, 1.0, 0.0).tolist()) == {0}
    shuffled = hashing.shuffle_keys(1, "a", run, event, np.zeros(200_000, np.int64))
    chi2 = np.square(np.bincount((shuffled >> np.uint64(58)).astype(int), minlength=64) - 3125).sum() / 3125
    assert 20 < chi2 < 120
    assert abs(np.corrcoef(keys.astype(float), shuffled.astype(float))[0, 1]) < 0.01
