"""Spec: an index of a reference jet that the file does not have is a jet without one; a link to nowhere is a broken file."""

from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.errors import DataError
from distjet.execution import in_process
from tests.dataset.files import read_all

COMPONENTS = ("pt", "eta", "phi", "mass")
JET = {name: f"Jet_{name}" for name in COMPONENTS}


def collection(name: str, pts: list[list[float]]) -> dict[str, ak.Array]:
    """Make a collection of massless objects near the axis."""
    pt = ak.values_astype(ak.Array(pts), np.float32)
    return {f"{name}_pt": pt} | {f"{name}_{other}": pt * 0 for other in COMPONENTS[1:]}


def write(path: Path, branches: dict[str, ak.Array]) -> Path:
    with uproot.recreate(path) as file:
        file.mktree("Events", {name: ak.type(values).content for name, values in branches.items()})
        file["Events"].extend(branches)
    return path


def convert(path: Path, **recipe) -> Manifest:
    base = {"tree": "Events", "layout": "event", "jet": JET, "weight": "1"}
    output = path.parent / "out"
    prepare(PrepareConfig(inputs=str(path), output=output, recipe=base | recipe), in_process)
    return Manifest.load(output)


def test_an_index_beyond_the_reference_jets_means_no_match(tmp_path):
    """As in NanoAOD: the index counts generator jets that a pT cut has removed; also in an event without any."""
    branches = collection("Jet", [[50, 40, 30, 20], [25], [60, 15]]) | collection("GenJet", [[55, 45], [], [65]])
    branches["Jet_genJetIdx"] = ak.values_astype(ak.Array([[1, 0, 2, -1], [0], [0, 7]]), np.int32)
    truth = {name: f"GenJet_{name}" for name in COMPONENTS} | {"index": "Jet_genJetIdx"}
    manifest = convert(write(tmp_path / "a.root", branches), truth=truth)
    rows = {row["jet_pt"]: row["true_pt"] for row in read_all(manifest).to_pylist()}
    assert rows == {50: 45, 40: 55, 60: 65}
    accounting = manifest.content["accounting"]
    assert accounting == {"read": 7, "rows": 3, "cut": 4, "quarantined": 0, "cuts": {"truth_matched": 4}}


@pytest.mark.parametrize(
    ("jets", "candidates", "message"),
    [
        ([[0, 0, 2]], [[0, 1, 2]], "jet_link points to element 2 of a collection of 2"),
        ([[0, 0, 1]], [[0, 1, 3]], "constituent_link points to element 3 of a collection of 3"),
    ],
)
def test_a_link_to_nowhere_is_a_broken_file(tmp_path, jets, candidates, message):
    branches = collection("Jet", [[50, 40]]) | collection("Cand", [[30, 20, 40]])
    branches |= {"Link_jet": ak.Array(jets), "Link_cand": ak.Array(candidates)}
    constituents = {name: f"Cand_{name}" for name in COMPONENTS} | {"jet_link": "Link_jet", "constituent_link": "Link_cand"}
    with pytest.raises(DataError, match=message):
        convert(write(tmp_path / "a.root", branches), constituents=constituents)
