import hashlib

import awkward as ak
import numpy as np
import pytest
import uproot

from distjet.execution import in_process
from distjet.simulation import ntuple
from distjet.simulation.constituents import Constituents
from distjet.simulation.ntuple import SCALAR_BRANCHES, concatenate, fixed_dates, write_ntuple
from distjet.simulation.reconstruction import JetTable
from distjet.simulation.simulate import simulate
from distjet.simulation.topoclusters import CLUSTER_FIELDS

from .conftest import small_config

# Written out a second time on purpose: readers depend on these names and types.
CONTRACT = {
    "runNumber": "int32_t", "eventNumber": "int64_t", "jet_index": "int32_t", "mcChannelNumber": "int32_t",
    "mcEventWeight": "double", "averageInteractionsPerCrossing": "float", "nPUtrue": "int32_t", "NPV": "int32_t",
    "rho": "float",
    "pthat": "float", "leading_truth_pt": "float", "leading_jets_pt": "float",
    "jet_pt": "float", "jet_eta": "float", "jet_phi": "float", "jet_m": "float",
    "jet_E": "float", "jet_area": "float", "jet_DetectorEta": "float", "jet_NumTrkPt1000": "int32_t",
    "jet_TrackWidthPt1000": "float", "jet_fCharged": "float", "jet_EnergyPerSampling0": "float",
    "jet_EnergyPerSampling1": "float", "jet_EnergyPerSampling2": "float", "jet_GhostMuonSegmentCount": "int32_t",
    "jet_isTruthMatched": "bool", "jet_isIsolated": "bool", "truthjet_pt": "float", "truthjet_eta": "float",
    "truthjet_phi": "float", "truthjet_m": "float", "truthjet_E": "float", "truthjet_dR": "float",
    "truthjet_isIsolated": "bool",
    "truthjet_flavour": "int32_t", "nclus": "int32_t", "clus_E": "float[]", "clus_eta": "float[]", "clus_phi": "float[]",
    "clus_fEM": "float[]", "clus_fHAD1": "float[]", "clus_fHAD2": "float[]", "clus_lambda": "float[]", "clus_r2": "float[]",
    "clus_density": "float[]", "clus_significance": "float[]", "clus_ncell": "float[]", "clus_emaxfrac": "float[]",
    "clus_fPU": "float[]", "clus_index": "int32_t[]",
}  # fmt: skip
OF_PARTICLES = {
    "npart": "int32_t", "part_pt": "float[]", "part_charge": "int32_t[]", "part_index": "int32_t[]",
    **{name.replace("clus", "part"): kind for name, kind in CONTRACT.items() if name.startswith("clus_")},
}  # fmt: skip
FIELDS = (*CLUSTER_FIELDS, "index")


def random_table(lengths, seed=1):
    rng = np.random.default_rng(seed)
    columns = {name: rng.integers(0, 2, len(lengths)).astype(kind) for name, kind in SCALAR_BRANCHES.items()}
    columns["mcEventWeight"] = rng.random(len(lengths))
    columns["eventNumber"] = rng.integers(2**40, 2**41, len(lengths))
    clusters = rng.random((sum(lengths), len(FIELDS))).astype(np.float32)
    clusters[:, -1] = np.arange(len(clusters))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return JetTable(columns, Constituents("clus", FIELDS, clusters, offsets))


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_branches_are_those_of_the_contract(small_run):
    config, summary = small_run
    with uproot.open(config.output / summary["dijet_JZ1"]["files"][0]) as file:
        assert [key.split(";")[0] for key in file.keys()] == ["AntiKt2EMTopoJets", "AntiKt4EMTopoJets"]  # noqa: SIM118
        for tree in file.values():
            assert {branch.name: branch.typename for branch in tree.branches} == CONTRACT


def test_branches_of_particle_flow_jets(tmp_path):
    samples = {"dijet_JZ2": {"pthat_min_gev": 60, "num_events": 2}}
    config = small_config(tmp_path, samples=samples, jets={"radii": [0.4], "constituents": ["pflow", "topo"]})
    summary = simulate(config, in_process)
    jet = {name: kind for name, kind in CONTRACT.items() if not name.startswith(("clus_", "nclus"))}
    with uproot.open(config.output / summary["dijet_JZ2"]["files"][0]) as file:
        found = {tree.name: {branch.name: branch.typename for branch in tree.branches} for tree in file.values()}
    assert found == {"AntiKt4EMPFlowJets": jet | OF_PARTICLES, "AntiKt4EMTopoJets": CONTRACT}


@pytest.mark.parametrize("lengths", [[3, 0, 5], [], [0]])
def test_round_trip(tmp_path, lengths):
    table = random_table(lengths)
    write_ntuple(tmp_path / "jets.root", {"AntiKt4EMTopoJets": table}, "hash")
    with uproot.open(tmp_path / "jets.root") as file:
        content = file["AntiKt4EMTopoJets"].arrays()
    for name, values in table.columns.items():
        np.testing.assert_array_equal(content[name], values)
    for name in FIELDS:
        assert ak.num(content[f"clus_{name}"]).tolist() == lengths == content["nclus"].tolist()
        np.testing.assert_array_equal(ak.flatten(content[f"clus_{name}"]), table.constituents[name])


def test_bytes_depend_on_content_and_identity_alone(tmp_path, monkeypatch):
    table = {"AntiKt2EMTopoJets": random_table([2, 1])}
    write_ntuple(tmp_path / "a.root", table, "hash")
    monkeypatch.setattr("time.time", lambda: 4e9)
    write_ntuple(tmp_path / "b.root", table, "hash")
    write_ntuple(tmp_path / "c.root", table, "other")
    assert digest(tmp_path / "a.root") == digest(tmp_path / "b.root") != digest(tmp_path / "c.root")
    uuids = [uproot.open(tmp_path / f"{name}.root").file.uuid for name in "abc"]
    assert uuids[0] == uuids[1] != uuids[2]


def test_dates_are_fixed_only_while_writing():
    original = uproot._util.datetime_to_code
    with fixed_dates():
        assert uproot._util.code_to_datetime(uproot._util.datetime_to_code(None)).year == 2024
    assert uproot._util.datetime_to_code is original


def test_concatenation_keeps_the_jets_clusters():
    first, second = random_table([2, 3], 1), random_table([0, 4], 2)
    both = concatenate([first, second])
    np.testing.assert_array_equal(both.constituents.offsets, [0, 2, 5, 5, 9])
    np.testing.assert_array_equal(both.constituents.values[5:], second.constituents.values)
    np.testing.assert_array_equal(both.columns["eventNumber"][2:], second.columns["eventNumber"])


def test_no_partial_file_remains_when_writing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(ntuple, "_write_tree", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_ntuple(tmp_path / "jets.root", {"AntiKt2EMTopoJets": random_table([1])}, "hash")
    assert list(tmp_path.iterdir()) == []
