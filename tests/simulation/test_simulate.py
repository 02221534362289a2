import contextlib
import hashlib
import threading
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from distjet.errors import ConfigError, DataError
from distjet.execution import in_process
from distjet.physics.kinematics import to_cartesian
from distjet.run_directory import read_json, write_atomically
from distjet.simulation.simulate import check_arrived, simulate
from distjet.storage import as_location

from .conftest import small_config


def backwards(function, tasks, *, description):
    """Run the tasks in another order."""
    for index in reversed(range(len(tasks))):
        yield index, function(tasks[index])


def never(function, tasks, *, description):
    """Accept no task."""
    assert not tasks, f"{description} was asked for again"
    return iter(())


def hashes(output):
    return {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in output.rglob("*.root")}


def pretend(function, tasks, *, description):
    """Say that all is done, and leave nothing."""
    for index, task in enumerate(tasks):
        record = {"cross_section_pb": 1.0, "size_bytes": 100}
        if description == "simulate":
            record |= {"sample": task.sample, "file": Path(task.path).name}
        yield index, record


def jets_of(config, summary, tree="AntiKt4EMTopoJets"):
    files = [f"{config.output / name}:{tree}" for sample in summary.values() for name in sample["files"]]
    return uproot.concatenate(files)


def test_files_do_not_depend_on_order_or_place(small_run, tmp_path):
    config, summary = small_run
    again = simulate(small_config(tmp_path), backwards)
    assert again == summary
    assert hashes(tmp_path) == hashes(config.output)
    assert len(hashes(tmp_path)) == 3


def fast_config(output):
    """All that needs no calorimeter, and the gun, in two files of two samples."""
    gun = {"process": "resonance_gun", "decay": "bb", "mass_gev": [15, 250], "pthat_min_gev": 450, "pthat_max_gev": 1000}
    samples = {"dijet": {"pthat_min_gev": 400, "num_events": 6}, "gun": {**gun, "num_events": 6}}
    jets = {"radii": [0.4, 0.8], "constituents": ["eflow", "truth"], "label_distance_in_r": 1.0}
    return small_config(output, samples=samples, jets=jets, pileup={"mu": [0, 0]})


def test_files_without_pileup_do_not_depend_on_order_either(tmp_path):
    summaries = [simulate(fast_config(tmp_path / name), run) for name, run in (("a", in_process), ("b", backwards))]
    assert summaries[0] == summaries[1]
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")
    assert [path.name for path in tmp_path.rglob("library*")] == []
    with uproot.open(tmp_path / "a/gun/gun_00000.root") as file:
        found = {tree.name: set(tree.keys()) for tree in file.values()}
    assert set(found) == {f"AntiKt{radius}{kind}Jets" for radius in (4, 8) for kind in ("EFlow", "Truth")}
    for name, branches in found.items():
        assert ("truthjet_label" in branches) == ("AntiKt8" in name)
        objects = {"part_pt", "part_eta", "part_phi", "part_E", "part_charge", "part_pdg", "part_index", "npart"}
        assert {branch for branch in branches if "part" in branch} == objects
    assert summaries[0]["gun"]["sum_of_weights_pb"] == pytest.approx(1.0)


def test_an_object_store_gets_the_same_files(small_run, bucket):
    config, summary = small_run
    assert simulate(small_config(bucket), backwards) == summary
    output = as_location(bucket)
    found = {path: hashlib.sha256((output / path).read_bytes()).hexdigest() for path in hashes(config.output)}
    assert found == hashes(config.output)
    assert simulate(small_config(bucket), never) == summary


def test_finished_work_is_not_repeated(small_run):
    config, summary = small_run
    before = {path: path.stat().st_mtime_ns for path in config.output.rglob("*.root")}
    assert simulate(config, never) == summary == read_json(config.output / "samples.json")
    assert {path: path.stat().st_mtime_ns for path in config.output.rglob("*.root")} == before


def test_a_killed_run_continues(small_run, tmp_path):
    config = small_config(tmp_path, samples={"dijet_JZ1": small_run[0].samples["dijet_JZ1"].model_dump()})

    def killed(function, tasks, *, description):
        for index, result in in_process(function, tasks, description=description):
            yield index, result
            if description == "simulate":
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(config, killed)
    assert not (tmp_path / "samples.json").exists()
    (tmp_path / "dijet_JZ1" / ".dijet_JZ1_00001.root.abc.tmp").write_text("half a file")
    asked = []

    def watched(function, tasks, *, description):
        asked.extend(tasks)
        return in_process(function, tasks, description=description)

    simulate(config, watched)
    assert [task.index for task in asked] == [1]
    assert list(tmp_path.rglob("*.tmp")) == []
    assert hashes(tmp_path) == {name: value for name, value in hashes(small_run[0].output).items() if "JZ1" in name}


def test_a_truncated_file_is_made_anew(tmp_path):
    samples = {"a": {"pthat_min_gev": 60, "num_events": 2}}
    config = small_config(tmp_path, samples=samples, pileup={"mu": [0, 0]})
    simulate(config, in_process)
    expected = hashes(tmp_path)
    path = tmp_path / "a" / "a_00000.root"
    path.write_bytes(path.read_bytes()[:-100])
    simulate(config, in_process)
    assert hashes(tmp_path) == expected


def test_workers_in_another_directory_write_to_the_same_place(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()

    def elsewhere(function, tasks, *, description):
        for index, task in enumerate(tasks):
            with contextlib.chdir(there):
                result = function(task)
            yield index, result

    monkeypatch.chdir(here)
    summary = simulate(small_config(Path("out"), samples={"a": {"pthat_min_gev": 60, "num_events": 2}}), elsewhere)
    assert summary["a"]["files"] == ["a/a_00000.root"]
    assert (here / "out" / "a" / "a_00000.root").is_file()
    assert list(there.iterdir()) == []
    assert [path.name for path in here.rglob("*.json") if str(tmp_path) in path.read_text()] == []


@pytest.mark.parametrize(("mu", "missing"), [([0, 0], "dijet_JZ1_00000.root"), ([5, 20], "library_")])
def test_files_that_stay_on_another_machine_are_missed(tmp_path, monkeypatch, mu, missing):
    monkeypatch.setattr("distjet.simulation.simulate.PATIENCE_S", 0.0)
    with pytest.raises(DataError, match=rf"{missing}.* is not there; workers must see the same file system"):
        simulate(small_config(tmp_path, pileup={"mu": mu}), pretend)
    assert not (tmp_path / "samples.json").exists()


def test_a_file_of_another_size_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("distjet.simulation.simulate.PATIENCE_S", 0.0)

    def truncated(function, tasks, *, description):
        for index, record in pretend(function, tasks, description=description):
            if description == "simulate":
                write_atomically(Path(tasks[index].path), b"x" * 99)
            yield index, record

    with pytest.raises(DataError, match=r"dijet_JZ1_00000\.root with 100 bytes, but seen from here it has 99"):
        simulate(small_config(tmp_path, pileup={"mu": [0, 0]}), truncated)
    assert not (tmp_path / "samples.json").exists()


def test_a_file_may_appear_late(tmp_path):
    late = threading.Timer(0.3, (tmp_path / "late").write_bytes, [b"123"])
    late.start()
    check_arrived(tmp_path / "late", 3)
    late.join()
    assert (tmp_path / "late").stat().st_size == 3


def test_another_configuration_is_refused(small_run):
    config, _ = small_run
    other = small_config(config.output, detector={"e_over_h": 1.0})
    with pytest.raises(ConfigError, match=r"detector\.e_over_h"):
        simulate(other, never)


def test_weights_add_up_to_the_cross_section(small_run):
    config, summary = small_run
    jets = jets_of(config, summary)
    for number, (name, sample) in enumerate(summary.items(), start=1):
        own = jets[jets.runNumber == number]
        _, first = np.unique(own.eventNumber.to_numpy(), return_index=True)
        assert sample["sum_of_weights_pb"] == pytest.approx(sample["cross_section_pb"], rel=1e-12)
        assert len(first) == sample["num_events"] == config.samples[name].num_events
        assert own.mcEventWeight.to_numpy()[first].sum() == pytest.approx(sample["cross_section_pb"], rel=1e-9)


def test_rows_are_identified_once(small_run):
    config, summary = small_run
    for tree, radius in (("AntiKt2EMTopoJets", 0.2), ("AntiKt4EMTopoJets", 0.4)):
        jets = jets_of(config, summary, tree)
        rows = list(zip(jets.runNumber.tolist(), jets.eventNumber.tolist(), jets.jet_index.tolist(), strict=True))
        assert len(set(rows)) == len(rows) == sum(sample["num_jets"][tree] for sample in summary.values())
        assert radius in config.jets.radii
        assert set(jets.mcChannelNumber.tolist()) == {800001, 800002}


@pytest.mark.parametrize("tree", ["AntiKt2EMTopoJets", "AntiKt4EMTopoJets"])
def test_jets_are_the_sum_of_their_stored_clusters(small_run, tree):
    jets = jets_of(*small_run, tree)
    counts = ak.num(jets.clus_E).to_numpy()
    energy, eta, phi = (ak.flatten(jets[f"clus_{name}"]).to_numpy().astype(np.float64) for name in ("E", "eta", "phi"))
    p4 = to_cartesian(energy / np.cosh(eta), eta, phi)
    total = np.add.reduceat(p4, np.concatenate([[0], np.cumsum(counts)[:-1]]))
    np.testing.assert_allclose(jets.jet_E.to_numpy(), total[:, 3], rtol=1e-6)
    np.testing.assert_allclose(jets.jet_pt.to_numpy(), np.hypot(total[:, 0], total[:, 1]), rtol=1e-6)
    np.testing.assert_allclose(jets.jet_eta.to_numpy(), np.arcsinh(total[:, 2] / np.hypot(total[:, 0], total[:, 1])), atol=1e-6)
    np.testing.assert_allclose(jets.jet_phi.to_numpy(), np.arctan2(total[:, 1], total[:, 0]), atol=1e-6)
    mass = np.sqrt(np.maximum(total[:, 3] ** 2 - (total[:, :3] ** 2).sum(axis=1), 0))
    np.testing.assert_allclose(jets.jet_m.to_numpy(), mass, rtol=1e-4, atol=1e-3)
    samplings = sum(jets[f"jet_EnergyPerSampling{k}"].to_numpy() for k in range(3))
    np.testing.assert_allclose(samplings, total[:, 3], rtol=1e-5)


def test_cuts_and_flags_of_the_jets(small_run):
    jets = jets_of(*small_run)
    matched = jets.jet_isTruthMatched.to_numpy()
    assert np.all(jets.jet_pt >= 5)
    assert np.all(np.abs(jets.jet_eta) < 4.5)
    assert 0 < matched.sum() < len(matched)
    np.testing.assert_array_equal(matched, jets.truthjet_dR >= 0)
    assert np.all(jets.truthjet_dR[matched] < 0.3)
    assert np.all(jets.truthjet_pt[matched] >= 5)
    assert np.all(jets.truthjet_pt[~matched] == -1)
    assert np.all(jets.truthjet_flavour[~matched] == 0)
    assert set(np.unique(jets.truthjet_flavour)) <= {0, 1, 2, 3, 4, 5, 21}
    assert np.all(jets.leading_truth_pt[matched] >= jets.truthjet_pt[matched] - 1e-3)
    assert np.all((ak.flatten(jets.clus_fPU) >= 0) & (ak.flatten(jets.clus_fPU) <= 1))
    assert np.all((jets.averageInteractionsPerCrossing >= 5) & (jets.averageInteractionsPerCrossing < 20))


def test_events_dominated_by_pileup_can_be_told(small_run, tmp_path):
    """The event's jets of R = 0.4 stand in every tree, whichever radii are written."""
    config, summary = small_run
    large, small = jets_of(config, summary), jets_of(config, summary, "AntiKt2EMTopoJets")
    known = {}
    for key in set(zip(large.runNumber.tolist(), large.eventNumber.tolist(), strict=True)):
        own = large[(large.runNumber == key[0]) & (large.eventNumber == key[1])]
        if set(own.jet_index.tolist()) >= {0, 1}:  # the leading jets are within max_abs_eta
            known[key] = own.jet_pt[own.jet_index < 2].to_numpy().mean()
    assert len(known) > 5
    samples = {"dijet_JZ1": config.samples["dijet_JZ1"].model_dump()}
    alone_config = small_config(tmp_path, samples=samples, jets={"radii": [0.2]})
    alone = jets_of(alone_config, simulate(alone_config, in_process), "AntiKt2EMTopoJets")
    for jets in (large, small, alone):
        keys = zip(jets.runNumber.tolist(), jets.eventNumber.tolist(), strict=True)
        pairs = [(value, known[key]) for key, value in zip(keys, jets.leading_jets_pt.tolist(), strict=True) if key in known]
        assert len(pairs) > 20
        np.testing.assert_allclose(*np.transpose(pairs), rtol=1e-6)


def test_without_cuts_each_tree_holds_every_constituent_once(tmp_path):
    """The event-level input: constituents are numbered as in their event, in the trees of all radii."""
    jets = {"radii": [0.2, 0.4, 1.0], "constituents": ["topo", "pflow"], "min_pt_gev": 0, "max_abs_eta": 5}
    config = small_config(tmp_path, samples={"a": {"pthat_min_gev": 60, "num_events": 3}}, jets=jets)
    summary = simulate(config, in_process)
    for kind, prefix in (("Topo", "clus"), ("PFlow", "part")):
        trees = [jets_of(config, summary, f"AntiKt{radius}EM{kind}Jets") for radius in (2, 4, 10)]
        rows = [events_constituents(tree, prefix) for tree in trees]
        assert rows[0] == rows[1] == rows[2]
        for tree in trees:
            np.testing.assert_allclose(ak.sum(tree[f"{prefix}_E"], axis=1).to_numpy(), tree.jet_E.to_numpy(), rtol=1e-5)
        for event in range(3):
            own = [index for number, index, _ in rows[0] if number == event]
            assert own == list(range(len(own)))
            assert len(own) > 20


def events_constituents(jets, prefix):
    """Event, place in the event and energy of each constituent of all jets, in order."""
    event, index = ak.broadcast_arrays(jets.eventNumber, jets[f"{prefix}_index"])
    columns = (ak.flatten(values).tolist() for values in (event, index, jets[f"{prefix}_E"]))
    return sorted(zip(*columns, strict=True))


def test_matched_only_keeps_the_same_matched_jets(small_run, tmp_path):
    config, summary = small_run
    everything = jets_of(config, summary, "AntiKt2EMTopoJets")
    samples = {"dijet_JZ1": config.samples["dijet_JZ1"].model_dump()}
    only = small_config(tmp_path, samples=samples, jets={"matched_only": True, "radii": [0.2]})
    kept = jets_of(only, simulate(only, in_process), "AntiKt2EMTopoJets")
    expected = everything[everything.jet_isTruthMatched & (everything.runNumber == 1)]
    for branch in ("eventNumber", "jet_index", "jet_pt", "truthjet_E"):
        assert kept[branch].tolist() == expected[branch].tolist()
