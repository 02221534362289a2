"""Spec: the jets of the benchmarks are the same every time, in every format, and every one of them becomes a row."""

from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from benchmarks import jets
from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.execution import in_process

NUM_JETS = 1200
"More than one cluster."


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("jets")


def read(path: Path) -> dict[str, ak.Array]:
    with uproot.open(path) as file:
        return file[jets.TREE].arrays(list(jets.BRANCHES), how=dict)


def test_all_formats_hold_the_same_jets(folder):
    forms = [("ttree", "zstd"), ("ttree", "lz4"), ("ttree", "none"), ("rntuple", "zstd")]
    files = [jets.write_files(folder, NUM_JETS, *form)[0] for form in forms]
    contents = [read(path) for path in files]
    assert len(contents[0]["label"]) == NUM_JETS
    for content in contents[1:]:
        for name, values in contents[0].items():
            assert ak.array_equal(content[name], values, check_parameters=False, dtype_exact=False), name
    assert len({path.read_bytes()[:10_000] for path in files}) == len(forms)


def test_a_file_is_the_same_every_time_and_unlike_the_next(folder):
    for name, number in (("a.root", 3), ("b.root", 3), ("c.root", 4)):
        jets.write_file(folder / name, NUM_JETS, number)
    first, again, other = (read(folder / name) for name in ("a.root", "b.root", "c.root"))
    assert all(ak.array_equal(first[name], again[name]) for name in first)
    assert not ak.array_equal(first["jet_pt"], other["jet_pt"])


def test_numbers_are_like_those_of_jets():
    content = jets.make_jets(20_000, np.random.default_rng(1))
    counts = ak.num(content["part_px"])
    assert float(ak.mean(counts)) == pytest.approx(49.8, abs=0.5)
    assert 1 <= ak.min(counts) < 10
    assert 120 < ak.max(counts) <= jets.MAX_CONSTITUENTS
    px, py, pz, energy = (content[f"part_{name}"] for name in jets.MOMENTUM)
    assert ak.max(abs(np.sqrt(px**2 + py**2 + pz**2) / energy - 1)) < 1e-6
    pt = np.sqrt(px**2 + py**2)
    assert ak.all(pt[:, 1:] <= pt[:, :-1] * (1 + 1e-5))
    assert np.allclose(ak.sum(pt, axis=1), content["jet_pt"], rtol=1e-5)
    charged = content["part_charge"] != 0
    assert ak.all((content["part_d0err"] > 0) == charged)
    kinds = sum(content[f"part_{name}"] for name in jets.PARTICLE_KINDS)
    assert ak.all(kinds == 1)
    assert set(ak.to_list(content["label"])) == set(range(jets.NUM_CLASSES))


def test_every_jet_becomes_a_row_with_sixteen_numbers_per_constituent(folder, tmp_path):
    files = jets.write_files(folder, NUM_JETS)
    prepare(jets.config([str(path) for path in files], tmp_path / "out"), in_process)
    manifest = Manifest.load(tmp_path / "out")
    assert sum(manifest.content["rows"].values()) == NUM_JETS
    assert len(manifest.names("p4")) + len(manifest.names("node")) == 16
    assert manifest.content["graph"]["name"] == "delaunay"
