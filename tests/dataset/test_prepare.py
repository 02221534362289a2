"""Spec: every jet has exactly one fate, shards depend on inputs, recipe and seed alone, and a killed run continues."""

import json
import shutil
from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import uproot

from distjet.dataset import convert as convert_module
from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.errors import ConfigError, DataError
from distjet.execution import in_process
from tests.dataset.files import TREE, configure, identities, pairs_of, random_ntuple, read_all, run, shard_bytes, write_ntuple


def backwards(function, tasks, *, description, measure=None):
    for index in reversed(range(len(tasks))):
        yield index, function(tasks[index])


def lenient(files: int = 0, rows: float = 0.0) -> dict:
    return {"tolerance": {"max_files": files, "max_row_fraction": rows}}


def expected_jets(path: Path) -> ak.Array:
    """Apply the cuts of conf/dataset/distjet.yaml with awkward."""
    with uproot.open(path) as file:
        jets = file[TREE].arrays()
    keep = jets.jet_isTruthMatched & jets.jet_isIsolated & jets.truthjet_isIsolated
    return jets[keep & (np.abs(jets.jet_eta) < 2.5) & (jets.truthjet_pt > 7) & (ak.num(jets.clus_E) > 0)]


def test_every_selected_jet_is_a_row_exactly_once(dataset, ntuples):
    wanted = []
    for path in sorted(ntuples.glob("*/*.root")):
        jets = expected_jets(path)
        columns = [ak.to_list(jets[name]) for name in ("runNumber", "eventNumber", "jet_index")]
        wanted += [(path.parent.name, *row) for row in zip(*columns, strict=True)]
    assert sorted(identities(read_all(dataset))) == sorted(wanted)
    accounting = dataset.content["accounting"]
    assert accounting["read"] == 1000
    assert accounting["rows"] == len(wanted)
    assert accounting["cuts"]["empty_graph"] > 0
    assert accounting["read"] == accounting["rows"] + accounting["cut"] + accounting["quarantined"]


def test_columns_equal_a_direct_reading(dataset, ntuples):
    jets = ak.concatenate([expected_jets(path) for path in sorted(ntuples.glob("slice_1/*.root"))])
    rows = {(event, index): row for row, (event, index) in enumerate(zip(jets.eventNumber, jets.jet_index, strict=True))}
    table = read_all(dataset)
    table = table.filter(np.array(table["sample"].to_pylist()) == "slice_1")
    order = [
        rows[event, index] for event, index in zip(table["event"].to_pylist(), table["jet_index"].to_pylist(), strict=True)
    ]
    jets = jets[order]
    energy = ak.Array(table["energy"].to_pylist())
    pt = jets.clus_E / np.cosh(jets.clus_eta)
    assert ak.all(energy == jets.clus_E)
    np.testing.assert_allclose(_flat(table, "px"), ak.flatten(pt * np.cos(jets.clus_phi)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(_flat(table, "pz"), ak.flatten(pt * np.sinh(jets.clus_eta)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(_flat(table, "log_pt"), np.log(ak.flatten(pt)), rtol=1e-5, atol=1e-6)
    turn = ak.flatten(jets.clus_phi - jets.jet_phi)
    np.testing.assert_allclose(_flat(table, "delta_phi"), np.angle(np.exp(1j * ak.to_numpy(turn))), atol=1e-6)
    jet_energy = np.sqrt((jets.jet_pt * np.cosh(jets.jet_eta)) ** 2 + jets.jet_m**2)
    np.testing.assert_allclose(table["jet_energy"], jet_energy, rtol=1e-6)
    np.testing.assert_allclose(table["log_jet_energy"], np.log(jet_energy), atol=1e-6)
    np.testing.assert_array_equal(table["true_pt"], jets.truthjet_pt)
    np.testing.assert_array_equal(table["weight"], jets.mcEventWeight)
    np.testing.assert_array_equal(table["npv"], jets.NPV)
    np.testing.assert_array_equal(table["num_constituents"], ak.num(jets.clus_E))


def _flat(table, name):
    return np.concatenate([chunk.flatten() for chunk in table[name].chunks])


@pytest.mark.parametrize("entries_per_task", [25, 10**9])
def test_shards_do_not_depend_on_tasks_or_their_order(dataset, ntuples, tmp_path, entries_per_task):
    other = run(tmp_path / "out", str(ntuples), backwards, entries_per_task=entries_per_task)
    assert shard_bytes(other) == shard_bytes(dataset)
    assert other.fingerprint == dataset.fingerprint


def test_another_seed_shuffles_and_splits_otherwise(dataset, ntuples, tmp_path):
    other = run(tmp_path / "out", str(ntuples), seed=2)
    assert sorted(identities(read_all(other))) == sorted(identities(read_all(dataset)))
    assert identities(read_all(other)) != identities(read_all(dataset))
    assert other.fingerprint != dataset.fingerprint


def test_rows_are_mixed_uniformly(dataset):
    samples = np.array(read_all(dataset, ["train"])["sample"].to_pylist()) == "slice_1"
    first, second = np.array_split(samples, 2)
    spread = np.sqrt(samples.mean() * (1 - samples.mean()) * (1 / len(first) + 1 / len(second)))
    assert abs(first.mean() - second.mean()) < 4 * spread


def test_split_is_leak_free_and_stable_when_files_are_added(dataset, ntuples, tmp_path):
    smaller = run(tmp_path / "out", str(ntuples / "slice_1"))
    split_of = {}
    for manifest in (dataset, smaller):
        for split in ("train", "val", "test"):
            for sample, run_number, event, _ in identities(read_all(manifest, [split])):
                assert split_of.setdefault((sample, run_number, event), split) == split
    assert {"train", "val", "test"} == set(split_of.values())


def test_shards_have_the_promised_layout(dataset):
    shard = dataset.shards("train")[0]
    file = pq.ParquetFile(dataset.path / shard.path)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [
        rows for rows, _, _ in shard.row_groups
    ]
    assert {rows for rows, _, _ in shard.row_groups[:-1]} == {64}
    assert not any(field.nullable for field in file.schema_arrow)
    assert file.schema_arrow.field("log_energy").metadata[b"unit"] == b"ln(GeV)"
    assert [field.name for field in file.schema_arrow] == [column.name for column in dataset.columns]
    leaf = {file.metadata.schema.column(i).path: i for i in range(file.metadata.num_columns)}
    group = file.metadata.row_group(0)
    assert "BYTE_STREAM_SPLIT" in group.column(leaf["px.list.element"]).encodings
    assert any("DICTIONARY" in encoding for encoding in group.column(leaf["sample"]).encodings)
    rows = file.read().to_pylist()
    sizes, edges = [len(row["px"]) for row in rows], [len(pairs_of(row)) for row in rows]
    assert sizes == [row["num_nodes"] for row in rows]
    assert (shard.nodes, shard.edges, shard.largest_graph) == (sum(sizes), sum(edges), max(sizes))
    assert shard.row_groups[1] == (64, sum(sizes[64:128]), sum(edges[64:128]))


def test_a_finished_dataset_is_found_again(dataset, ntuples):
    before = {path: path.stat().st_mtime_ns for path in dataset.path.rglob("*.parquet")}
    summary = prepare(configure(dataset.path, str(ntuples)), in_process)
    assert summary["rows"] == dataset.content["rows"]
    assert before == {path: path.stat().st_mtime_ns for path in dataset.path.rglob("*.parquet")}
    with pytest.raises(ConfigError, match="different: seed"):
        prepare(configure(dataset.path, str(ntuples), seed=5), in_process)


def test_a_finished_dataset_does_not_take_new_files_silently(tmp_path):
    write_ntuple(tmp_path / "in/s/a.root", random_ntuple(20, seed=1))
    run(tmp_path / "out", str(tmp_path / "in"))
    write_ntuple(tmp_path / "in/s/b.root", random_ntuple(20, seed=2))
    with pytest.raises(ConfigError, match="made from other files"):
        run(tmp_path / "out", str(tmp_path / "in"))
    shutil.rmtree(tmp_path / "in")
    assert sum(run(tmp_path / "out", str(tmp_path / "in")).content["rows"].values()) > 0


@pytest.mark.parametrize("kill_after", [4, 14])
def test_a_killed_run_continues_to_the_same_bytes(dataset, ntuples, tmp_path, kill_after):
    done = []

    def killed(function, tasks, *, description, measure=None):
        for index, task in enumerate(tasks):
            if len(done) == kill_after:
                raise KeyboardInterrupt
            done.append(function(task))
            yield index, done[-1]

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "out", str(ntuples), killed)
    with pytest.raises(DataError, match="did not finish"):
        Manifest.load(tmp_path / "out")
    assert shard_bytes(run(tmp_path / "out", str(ntuples))) == shard_bytes(dataset)
    assert not (tmp_path / "out/.work").exists()


@pytest.fixture(scope="module")
def local(ntuples, tmp_path_factory) -> Manifest:
    """The three files in one pass."""
    return run(tmp_path_factory.mktemp("local") / "out", str(ntuples), shuffle="local")


class TestOnePass:
    """Spec: with `shuffle: local` each task makes its own shards: the same rows, splits and statistics, mixed within a task."""

    @pytest.mark.parametrize("split", ["train", "val", "test"])
    def test_rows_and_splits_are_those_of_two_passes(self, dataset, local, split):
        keys = [("sample", "ascending"), ("event", "ascending"), ("jet_index", "ascending")]
        assert read_all(local, [split]).sort_by(keys).equals(read_all(dataset, [split]).sort_by(keys))

    def test_statistics_fingerprints_and_accounting_are_those_of_two_passes(self, dataset, local):
        for key in ("statistics", "class_counts", "content", "accounting", "rows"):
            assert local.content[key] == dataset.content[key]
        assert local.content["config"]["shuffle"] == "local"
        assert local.fingerprint != dataset.fingerprint

    def test_rows_of_a_task_are_mixed(self, local):
        events = read_all(local, ["train"]).filter(pc.field("sample") == "slice_2")["event"].to_numpy()
        assert np.abs(np.diff(events)).mean() > 10
        for shard in local.shards("train"):
            events = pq.read_table(local.path / shard.path)["event"].to_numpy()
            assert events.max() - events.min() < 100

    def test_the_size_of_a_task_is_part_of_the_dataset(self, ntuples, local):
        assert prepare(configure(local.path, str(ntuples), shuffle="local"), in_process)["rows"] == local.content["rows"]
        with pytest.raises(ConfigError, match="different: entries_per_task"):
            prepare(configure(local.path, str(ntuples), shuffle="local", entries_per_task=50), in_process)

    @pytest.mark.parametrize("kill_after", [4, 8])
    def test_a_killed_run_continues_to_the_same_bytes_in_any_order(self, ntuples, tmp_path, local, kill_after):
        def killed(function, tasks, *, description, **_):
            for done, (index, result) in enumerate(backwards(function, tasks, description=description)):
                if description.startswith("convert") and done == kill_after:
                    raise KeyboardInterrupt
                yield index, result

        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "out", str(ntuples), killed, shuffle="local")
        again = run(tmp_path / "out", str(ntuples), backwards, shuffle="local")
        assert shard_bytes(again) == shard_bytes(local)
        assert again.fingerprint == local.fingerprint

    def test_shards_of_a_file_that_turns_out_to_be_bad_go(self, tmp_path):
        good = write_ntuple(tmp_path / "in/s/good.root", random_ntuple(60, seed=8), parts=3)
        bad = write_ntuple(tmp_path / "in/s/bad.root", random_ntuple(300, seed=9), parts=6, compression=uproot.LZ4(4))
        flip_in_basket(bad, "runNumber", basket=5)
        manifest = run(tmp_path / "out", str(tmp_path / "in"), shuffle="local", **lenient(files=1))
        assert sum(manifest.content["rows"].values()) == len(expected_jets(good))
        named = {shard.path for split in ("train", "val", "test") for shard in manifest.shards(split)}
        assert {str(path.relative_to(manifest.path)) for path in manifest.path.rglob("*.parquet")} == named


def flip_in_basket(path: Path, branch: str, basket: int = 0) -> None:
    """Flip a bit of compressed data, which LZ4 notices."""
    with uproot.open(path) as file:
        keys = file[TREE][branch].member("fBasketSeek"), file[TREE][branch].member("fBasketBytes")
    content = bytearray(path.read_bytes())
    content[int(keys[0][basket]) + int(keys[1][basket]) - 2] ^= 0x10
    path.write_bytes(content)


class TestQuarantine:
    """Spec: what cannot be used is named with its reason, fails the run by default, and takes nothing else with it."""

    def spoil(self, folder: Path, kind: str) -> Path:
        path = folder / "bad.root"
        arrays = random_ntuple(300, seed=9, first_event=5000)
        if kind == "no tree":
            return write_ntuple(path, arrays, tree="OtherJets")
        if kind == "no branch":
            del arrays["rho"]
            return write_ntuple(path, arrays)
        if kind == "flipped bit":
            write_ntuple(path, arrays, compression=uproot.LZ4(4))
            flip_in_basket(path, "runNumber")
            return path
        write_ntuple(path, arrays)
        content = path.read_bytes()
        broken = {"empty": b"", "truncated": content[: len(content) // 2], "garbage": b"not a ROOT file" * 100}
        path.write_bytes(broken[kind])
        return path

    @pytest.mark.parametrize("kind", ["empty", "truncated", "garbage", "no tree", "no branch", "flipped bit"])
    def test_a_bad_file_is_quarantined_as_a_whole(self, tmp_path, kind):
        good = write_ntuple(tmp_path / "in/s/good.root", random_ntuple(60, seed=8), parts=3)
        bad = self.spoil(tmp_path / "in/s", kind)
        out = tmp_path / "out"
        with pytest.raises(DataError, match=r"1 of 2 files were quarantined.*\n.*quarantine.jsonl"):
            run(out, str(tmp_path / "in"))
        line = json.loads((out / "quarantine.jsonl").read_text())
        assert line["file"] == str(bad)
        assert line["reason"]
        assert not (out / "manifest.json").exists()
        manifest = run(out, str(tmp_path / "in"), **lenient(files=1))
        fates = {item["path"]: item for item in manifest.content["inputs"]}
        assert fates[str(bad)]["fate"] == "quarantined"
        assert fates[str(bad)]["accounting"]["quarantined"] == fates[str(bad)]["entries"]
        assert sum(manifest.content["rows"].values()) == len(expected_jets(good))

    def test_a_tolerant_rerun_does_not_convert_again(self, tmp_path, monkeypatch):
        arrays = random_ntuple(60, seed=8)
        arrays["jet_pt"][41] = np.nan
        write_ntuple(tmp_path / "in/s/a.root", arrays, parts=3)
        with pytest.raises(DataError, match="1 of 120 jets were quarantined"):
            run(tmp_path / "out", str(tmp_path / "in"))
        monkeypatch.setattr(convert_module, "read_branches", None)
        run(tmp_path / "out", str(tmp_path / "in"), **lenient(rows=0.1))

    @pytest.mark.parametrize(
        ("branch", "value", "reason"),
        [
            ("jet_pt", np.nan, "column 'jet_pt' is not finite"),
            ("rho", np.inf, "column 'rho' is not finite"),
            ("jet_eta", np.nan, "cut 'in_tracker' is not a number"),
            ("truthjet_pt", np.nan, "cut 'truth_pt' is not a number"),
            ("clus_E", np.nan, "column 'px' is not finite"),
            ("clus_eta", 50.0, "delta_eta of a constituent is not a number below 8"),
            ("clus_density", np.nan, "column 'log_density' is not finite"),
        ],
    )
    def test_a_bad_number_quarantines_its_jet(self, tmp_path, branch, value, reason):
        arrays = random_ntuple(50, seed=4)
        for name in ("jet_isTruthMatched", "jet_isIsolated", "truthjet_isIsolated"):
            arrays[name][:] = True
        entry = 41
        if branch.startswith("clus_"):
            clusters = {name: ak.to_list(arrays["clus"][name]) for name in arrays["clus"].fields}
            clusters[branch.removeprefix("clus_")][entry][0] = value
            arrays["clus"] = ak.zip({name: ak.values_astype(ak.Array(lists), np.float32) for name, lists in clusters.items()})
        else:
            arrays[branch] = arrays[branch].copy()
            arrays[branch][entry] = value
        path = write_ntuple(tmp_path / "in/s/a.root", arrays, parts=4)
        out = tmp_path / "out"
        with pytest.raises(DataError, match="1 of 100 jets were quarantined"):
            run(out, str(path))
        lines = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
        assert lines == [{"file": str(path), "entry": entry, "jet_index": 0, "reason": reason}]
        manifest = run(out, str(path), **lenient(rows=0.01))
        accounting = manifest.content["accounting"]
        assert accounting["quarantined"] == 1
        assert (20, 1) not in {(event, index) for _, _, event, index in identities(read_all(manifest))}
        assert accounting["rows"] == 100 - 1 - accounting["cut"]

    def test_the_same_content_counts_once(self, tmp_path):
        good = write_ntuple(tmp_path / "in/s/a.root", random_ntuple(30, seed=8))
        shutil.copy(good, tmp_path / "in/s/copy_of_a.root")
        manifest = run(tmp_path / "out", str(tmp_path / "in"), **lenient(files=1))
        fates = {Path(item["path"]).name: item["fate"] for item in manifest.content["inputs"]}
        assert fates == {"a.root": "used", "copy_of_a.root": "duplicate"}
        assert sum(manifest.content["rows"].values()) == len(expected_jets(good))


class TestInputs:
    """Spec: inputs are found by folder, pattern or list; what does not fit is a message that names it."""

    def test_files_with_the_same_name_do_not_collide(self, dataset):
        assert dataset.samples == ("slice_1", "slice_2")
        names = [Path(item["path"]).name for item in dataset.content["inputs"]]
        assert sorted(names) == ["part_0.root", "part_0.root", "part_1.root"]

    def test_a_pattern_without_a_match_is_named(self, tmp_path):
        with pytest.raises(ConfigError, match=r"no file matches '.*nothing\*\.root' \(sample qcd\)"):
            run(tmp_path / "out", {"qcd": str(tmp_path / "nothing*.root")})
        (tmp_path / "ntuples").mkdir()
        with pytest.raises(ConfigError, match=r"\(sample qcd\), did you mean '.*/ntuples'"):
            run(tmp_path / "out", {"qcd": str(tmp_path / "ntuplez" / "*.root")})

    def test_a_file_listed_twice_is_refused(self, ntuples, tmp_path):
        with pytest.raises(ConfigError, match="listed twice"):
            run(tmp_path / "out", [str(ntuples), str(ntuples / "slice_2/part_0.root")])

    def test_an_unknown_branch_is_named_with_the_nearest(self, ntuples, tmp_path):
        recipe = configure(tmp_path, "x").recipe.model_dump(mode="json") | {"weight": "mcEventWeigth"}
        with pytest.raises(ConfigError, match=r"no branch 'mcEventWeigth', did you mean 'mcEventWeight'"):
            run(tmp_path / "out", str(ntuples), recipe=recipe)

    def test_an_unknown_tree_is_named_with_the_nearest(self, ntuples, tmp_path):
        recipe = configure(tmp_path, "x").recipe.model_dump(mode="json") | {"tree": "AntiKt2Jets"}
        with pytest.raises(ConfigError, match=r"recipe.tree: .* no tree 'AntiKt2Jets', did you mean 'AntiKt2EMTopoJets'"):
            run(tmp_path / "out", str(ntuples), recipe=recipe)

    def test_levels_are_checked_before_anything_is_converted(self, ntuples, tmp_path):
        recipe = configure(tmp_path, "x").recipe.model_dump(mode="json")
        recipe["graph"] = [{"first": "clus_fEM * 2"}]
        with pytest.raises(
            ConfigError, match=r"recipe.graph.first: 'clus_fEM \* 2' has one value per node, expected one per jet"
        ):
            run(tmp_path / "out", str(ntuples), recipe=recipe)
        assert not list((tmp_path / "out").glob(".work/rows-*"))

    def test_rows_without_event_numbers_are_told_apart_by_file(self, ntuples, tmp_path):
        recipe = configure(tmp_path, "x").recipe.model_dump(mode="json") | {"identity": {}}
        manifest = run(tmp_path / "out", str(ntuples), recipe=recipe)
        rows = identities(read_all(manifest))
        assert len(set(rows)) == len(rows) == sum(manifest.content["rows"].values())
        assert len({(sample, number) for sample, number, _, _ in rows}) == 3


def test_a_label_that_is_not_a_number_is_not_a_class(tmp_path):
    """One condition is unknown, the other false: that the unknown one holds would be a guess."""
    arrays = random_ntuple(20, seed=1)
    arrays["rho"] = np.where(np.arange(40) == 6, np.nan, 1.0).astype(np.float32)
    write_ntuple(tmp_path / "in/s/a.root", arrays)
    base = configure(tmp_path / "out", str(tmp_path / "in")).model_dump(mode="json")["recipe"]
    changes = {"graph": [], "cuts": {}, "labels": {"signal": "rho < 0", "background": "rho >= 0 and rho < 2"}}
    with pytest.raises(DataError, match=r"1 of 40 jets .*entry 6 jet 0: column 'label': not exactly one of"):
        run(tmp_path / "out", str(tmp_path / "in"), recipe=base | changes)
