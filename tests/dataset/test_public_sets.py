"""Spec: the shipped mappings read the public sets of tagging: every jet once, the published split, the published inputs."""

import json
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from distjet.config import load
from distjet.dataset import convert as convert_module
from distjet.dataset.facts import facts
from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.dataset.streaming.stream import JetStream, StreamConfig
from distjet.dataset.verify import verify
from distjet.errors import ConfigError, DataError
from distjet.execution import in_process
from distjet.physics.substructure import substructure
from distjet.physics.substructure_variables import SUBSTRUCTURE
from tests.dataset.files import PROJECT, read_all, rewrite_manifest, shard_bytes
from tests.dataset.public_files import (
    HIGH_LEVEL,
    atlas_arrays,
    quark_gluon_arrays,
    random_jets,
    write_atlas,
    write_top_landscape,
)
from tests.dataset.servers import serving

KINEMATICS = ("delta_eta", "delta_phi", "log_pt", "log_energy", "log_pt_fraction", "log_energy_fraction", "delta_r")
SPLIT_OF = {"train": 0, "test": 1, "val": 2}
SMALL = ("rows_per_shard=100", "row_group_size=64", "entries_per_task=80")


def convert(
    mapping: str, inputs: str, output: Path, *overrides: str, execute: Callable[..., Iterator[Any]] = in_process
) -> Manifest:
    arguments = [f"inputs={inputs}", f"output={output}", *SMALL, *overrides]
    prepare(load(PrepareConfig, [PROJECT / f"conf/dataset/{mapping}.yaml"], arguments), execute)
    return Manifest.load(output)


def features_of(p4: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the seven published inputs of one jet with numpy alone, from px, py, pz, energy, shape (P, 4)."""
    px, py, pz, energy = p4.astype(np.float64).T
    jet = p4.astype(np.float64).sum(axis=0)
    pt, jet_pt = np.hypot(px, py), np.hypot(jet[0], jet[1])
    delta_eta = np.arctanh(pz / np.sqrt(px**2 + py**2 + pz**2)) - np.arctanh(jet[2] / np.sqrt((jet[:3] ** 2).sum()))
    delta_phi = np.angle((px + 1j * py) / (jet[0] + 1j * jet[1]))
    fractions = {"log_pt_fraction": np.log(pt / jet_pt), "log_energy_fraction": np.log(energy / jet[3])}
    logs = {"log_pt": np.log(pt), "log_energy": np.log(energy)}
    return {"delta_eta": delta_eta, "delta_phi": delta_phi, "delta_r": np.hypot(delta_eta, delta_phi), **fractions, **logs}


def backwards(function, tasks, *, description, measure=None):
    for index in reversed(range(len(tasks))):
        yield index, function(tasks[index])


class TestTopLandscape:
    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory) -> tuple[Path, dict[str, pd.DataFrame]]:
        """train.h5, val.h5 and test.h5, of which one also holds jets of another split."""
        folder = tmp_path_factory.mktemp("top")
        ttv = {name: np.full(size, SPLIT_OF[name]) for name, size in (("train", 300), ("val", 120), ("test", 110))}
        ttv["val"][::10] = SPLIT_OF["train"]
        frames = {
            name: write_top_landscape(folder / f"{name}.h5", random_jets(len(values), seed=number), values)
            for number, (name, values) in enumerate(ttv.items())
        }
        return folder, frames

    @pytest.fixture(scope="class")
    @classmethod
    def manifest(cls, folder, tmp_path_factory) -> Manifest:
        return convert("top_landscape", f"{{tl: {folder[0]}}}", tmp_path_factory.mktemp("dataset") / "out")

    @pytest.fixture(scope="class")
    @classmethod
    def entries(cls, manifest, folder) -> dict[int, pd.DataFrame]:
        """The frame of each run, as the number of a run is made from the file."""
        table = read_all(manifest)
        runs = {name: set() for name in folder[1]}
        first_px = {name: frame["PX_0"].to_numpy() for name, frame in folder[1].items()}
        for row in table.select(["run", "event", "px"]).to_pylist():
            for name, values in first_px.items():
                if row["event"] < len(values) and values[row["event"]] == np.float32(row["px"][0]):
                    runs[name].add(row["run"])
        assert all(len(found) == 1 for found in runs.values())
        return {found.pop(): folder[1][name] for name, found in runs.items()}

    def test_every_jet_has_one_fate(self, manifest, entries):
        table = read_all(manifest)
        found = sorted(zip(table["run"].to_pylist(), table["event"].to_pylist(), strict=True))
        assert found == sorted((run, e) for run, frame in entries.items() for e in np.flatnonzero(frame["E_0"] > 0).tolist())
        accounting = manifest.content["accounting"]
        empty = sum(int((frame["E_0"] == 0).sum()) for frame in entries.values())
        assert empty > 10
        assert (accounting["read"], accounting["rows"], accounting["cuts"]) == (530, 530 - empty, {"empty_graph": empty})

    def test_the_published_split_is_kept(self, manifest, entries):
        for split, number in SPLIT_OF.items():
            table = read_all(manifest, [split])
            assert table.num_rows > 50
            for run, event in zip(table["run"].to_pylist(), table["event"].to_pylist(), strict=True):
                assert entries[run]["ttv"][event] == number
        assert verify(manifest.path, in_process)["rows"] == manifest.content["rows"]

    def test_columns_equal_numpy_on_the_frame(self, manifest, entries):
        for row in read_all(manifest).to_pylist():
            jet = entries[row["run"]].iloc[row["event"]]
            p4 = np.array([[jet[f"{name}_{number}"] for name in ("PX", "PY", "PZ", "E")] for number in range(20)], np.float32)
            p4 = p4[p4[:, 3] > 0]
            assert row["num_nodes"] == len(p4) == row["num_constituents"]
            np.testing.assert_array_equal(np.stack([row[name] for name in ("px", "py", "pz", "energy")], axis=1), p4)
            for name, values in features_of(p4).items():
                np.testing.assert_allclose(row[name], values, rtol=2e-5, atol=2e-5, err_msg=name)
            total = p4.astype(np.float64).sum(axis=0)
            np.testing.assert_allclose(row["jet_pt"], np.hypot(total[0], total[1]), rtol=1e-6)
            assert row["label"] == jet["is_signal_new"]
            assert row["truth_energy"] == np.float32(jet["truthE"])

    def test_it_says_what_it_is(self, manifest):
        assert manifest.classes == ("qcd", "top")
        assert manifest.names("node") == KINEMATICS
        assert manifest.names("edge") == manifest.names("target") == ()
        assert facts(manifest)["identity"]["conditions"] == {"train": "ttv == 0", "val": "ttv == 2", "test": "ttv == 1"}
        used = [item for item in manifest.content["inputs"] if item["fate"] == "used"]
        assert [Path(item["path"]).name for item in used] == ["test.h5", "train.h5", "val.h5"]
        assert all(len(item["xxh3_128"]) == 32 for item in used)

    @pytest.mark.parametrize("changes", [{"entries_per_task": 17}, {"entries_per_task": 10_000}], ids=["small", "large"])
    def test_the_same_bytes_however_the_work_is_divided(self, manifest, folder, tmp_path, changes):
        overrides = [f"{key}={value}" for key, value in changes.items()]
        again = convert("top_landscape", f"{{tl: {folder[0]}}}", tmp_path / "out", *overrides, execute=backwards)
        assert shard_bytes(again) == shard_bytes(manifest)
        assert again.fingerprint == manifest.fingerprint

    def test_a_killed_run_continues(self, manifest, folder, tmp_path, monkeypatch):
        def killed(function, tasks, *, description, measure=None):
            limit = 3 if function is convert_module.convert else len(tasks)
            yield from islice(in_process(function, tasks, description=description, measure=measure), limit)
            if limit < len(tasks):
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            convert("top_landscape", f"{{tl: {folder[0]}}}", tmp_path / "out", execute=killed)
        reads = []
        read = convert_module.read_branches
        monkeypatch.setattr(convert_module, "read_branches", lambda *given: reads.append(given[3:5]) or read(*given))
        again = convert("top_landscape", f"{{tl: {folder[0]}}}", tmp_path / "out")
        num_tasks = sum(-(-item["entries"] // 80) for item in manifest.content["inputs"])
        assert 0 < len(reads) <= num_tasks - 2
        assert max(stop - start for start, stop in reads) < 3 * 80
        assert shard_bytes(again) == shard_bytes(manifest)

    @pytest.mark.parametrize("size", [3000, 30_000])
    def test_a_truncated_file_is_quarantined_by_name(self, manifest, folder, tmp_path, size):
        for name in ("train", "test", "val"):
            (tmp_path / f"{name}.h5").write_bytes((folder[0] / f"{name}.h5").read_bytes())
        os.truncate(tmp_path / "val.h5", size)
        with pytest.raises(
            DataError, match=r"1 of 3 files were quarantined.*val\.h5 cannot be read: OSError: .*truncated file"
        ):
            convert("top_landscape", f"{{tl: {tmp_path}/*.h5}}", tmp_path / "out")
        rest = convert("top_landscape", f"{{tl: {tmp_path}/*.h5}}", tmp_path / "out", "tolerance.max_files=1")
        lines = [json.loads(line) for line in (tmp_path / "out/quarantine.jsonl").read_text().splitlines()]
        assert [Path(line["file"]).name for line in lines] == ["val.h5"]
        assert rest.content["rows"] | {"val": 0, "train": 0} == {"train": 0, "val": 0, "test": manifest.content["rows"]["test"]}

    def test_a_damaged_chunk_spoils_its_file_alone(self, folder, tmp_path):
        content = bytearray((folder[0] / "val.h5").read_bytes())
        for place in range(len(content) // 3, len(content) // 2):
            content[place] = 0
        (tmp_path / "val.h5").write_bytes(content)
        (tmp_path / "test.h5").write_bytes((folder[0] / "test.h5").read_bytes())
        manifest = convert("top_landscape", f"{{tl: {tmp_path}/*.h5}}", tmp_path / "out", "tolerance.max_files=1")
        inputs = {Path(item["path"]).name: item for item in manifest.content["inputs"]}
        assert inputs["val.h5"]["fate"] == "quarantined"
        assert inputs["val.h5"]["reason"].endswith("(filter returned failure during read)")
        assert inputs["val.h5"]["accounting"]["quarantined"] == inputs["val.h5"]["accounting"]["read"] == 120

    @pytest.mark.parametrize("mode", ["stage", "direct"])
    def test_files_on_a_server(self, manifest, folder, tmp_path, mode):
        with serving(folder[0]) as server:
            urls = ", ".join(f"{server.url}/{name}.h5" for name in ("train", "val", "test"))
            there = convert("top_landscape", f"{{tl: [{urls}]}}", tmp_path / "out", f"remote={mode}", "remote.retries=0")
        if mode == "stage":
            assert {key: sorted(rows) for key, rows in rows_by_split(there).items()} == {
                key: sorted(rows) for key, rows in rows_by_split(manifest).items()
            }
        else:  # a file that was not hashed has its URL for an identity
            assert there.content["rows"] == manifest.content["rows"]

    def test_a_jet_in_no_split_is_quarantined(self, tmp_path):
        ttv = np.zeros(40, int)
        ttv[7] = 3
        write_top_landscape(tmp_path / "a.h5", random_jets(40, seed=1, length=3), ttv)
        with pytest.raises(DataError, match=r"a.h5 entry 7 jet 0: split: not exactly one of \['train', 'val', 'test'\] holds"):
            convert("top_landscape", f"{{tl: {tmp_path}/a.h5}}", tmp_path / "out")
        share = "tolerance.max_row_fraction=0.1"
        accounting = convert("top_landscape", f"{{tl: {tmp_path}/a.h5}}", tmp_path / "out", share).content["accounting"]
        assert (accounting["read"], accounting["rows"], accounting["quarantined"]) == (40, 38, 1)

    def test_a_stream_has_labels_and_no_other_target(self, manifest):
        config = StreamConfig(batch_size=100, row_columns=("event", "truth_pt"))
        seen, rows = [], {}
        for batch in JetStream(manifest, "train", config):
            assert set(batch.targets) == {"label"}
            assert batch.targets["label"].dtype == torch.float32
            assert torch.equal(batch.weight, torch.ones(batch.num_graphs))
            assert batch.x.shape == (batch.num_nodes, 7)
            label, truth_pt = batch.targets["label"].tolist(), batch.rows["truth_pt"].tolist()
            seen += list(zip(batch.jet[:, 0].tolist(), label, truth_pt, strict=True))
        rows = read_all(manifest, ["train"]).select(["jet_pt", "label", "truth_pt"]).to_pylist()
        assert sorted(seen) == sorted((row["jet_pt"], row["label"], row["truth_pt"]) for row in rows)


def rows_by_split(manifest: Manifest) -> dict[str, list[tuple]]:
    tables: dict[str, pa.Table] = {split: read_all(manifest, [split]) for split in SPLIT_OF}
    return {split: [(row["jet_pt"], row["label"], *row["px"]) for row in table.to_pylist()] for split, table in tables.items()}


class TestPublishedSplit:
    """Splits by conditions, beside the top landscape."""

    @pytest.fixture(scope="class")
    @classmethod
    def file(cls, tmp_path_factory) -> Path:
        path = tmp_path_factory.mktemp("split") / "a.h5"
        write_top_landscape(path, random_jets(900, seed=1, length=3), np.arange(900) % 3)
        return path

    def convert(self, file: Path, output: Path, split: str, *overrides: str) -> dict[str, set[int]]:
        """Return the events of each split; their `ttv` is the rest of a division by three."""
        unset = [f"recipe.split.{name}=null" for name in SPLIT_OF]
        manifest = convert("top_landscape", f"{{tl: {file}}}", output, *unset, f"recipe.split={split}", *overrides)
        assert verify(manifest.path, in_process)["rows"] == manifest.content["rows"]
        return {name: set(read_all(manifest, [name])["event"].to_pylist()) for name in ("train", "val", "test")}

    def test_the_rest_goes_to_the_other_splits_in_proportion(self, file, tmp_path):
        by_chance = self.convert(file, tmp_path / "chance", "{}")
        found = self.convert(file, tmp_path / "out", "{test: ttv == 1}", "split={train: 0.6, val: 0.2}")
        assert {event % 3 for event in found["test"]} == {1}
        assert {event % 3 for event in found["train"] | found["val"]} == {0, 2}
        everything = set().union(*by_chance.values())
        assert set().union(*found.values()) == everything
        assert sum(map(len, found.values())) == len(everything)
        assert len(found["train"]) / len(found["train"] | found["val"]) == pytest.approx(0.75, abs=0.05)

    def test_one_split_is_left(self, file, tmp_path):
        found = self.convert(file, tmp_path / "out", "{test: ttv == 1, val: ttv == 2}")
        assert {name: {event % 3 for event in events} for name, events in found.items()} == {
            "train": {0},
            "val": {2},
            "test": {1},
        }

    def test_two_conditions_that_hold(self, file, tmp_path):
        with pytest.raises(DataError, match=r"split: more than one of \['val', 'test'\] holds"):
            self.convert(file, tmp_path / "out", "{test: ttv == 1, val: ttv > 0}")

    def test_nothing_is_left_for_a_split(self, file, tmp_path):
        with pytest.raises(ConfigError, match=r"split leaves no jets for val and test, which recipe.split does not name"):
            self.convert(file, tmp_path / "out", "{train: ttv == 0}", "split={train: 1.0, val: 0.0}")

    def test_samples_can_be_splits(self, file, tmp_path):
        write_top_landscape(tmp_path / "b.h5", random_jets(50, seed=2, length=3), 0)
        inputs = f"{{training: {file}, testing: {tmp_path}/b.h5}}"
        changes = ["recipe.split.train=null", "recipe.split.val=null", "recipe.split.test=\"sample == 'testing'\""]
        manifest = convert("top_landscape", inputs, tmp_path / "out", *changes)
        samples = {name: set(read_all(manifest, [name])["sample"].to_pylist()) for name in SPLIT_OF}
        assert samples == {"train": {"training"}, "val": {"training"}, "test": {"testing"}}

    def test_a_row_in_a_split_by_chance_is_checked(self, file, tmp_path):
        """With other fractions than it was made with, a dataset has rows in wrong places, but for the published test."""
        self.convert(file, tmp_path / "out", "{test: ttv == 1}")
        manifest = Manifest.load(tmp_path / "out")
        config = manifest.content["config"] | {"split": {"train": 0.3, "val": 0.6}}
        rewrite_manifest(manifest, manifest.content | {"config": config})
        with pytest.raises(DataError, match="run and event belong to another split") as caught:
            verify(tmp_path / "out", in_process)
        assert "train/part" in str(caught.value)
        assert "test/part" not in str(caught.value)

    def test_datasets_without_the_new_keys_stay_what_they_were(self):
        recipe = {"tree": "t", "constituents": {"pt": "a", "eta": "b", "phi": "c"}}
        config = PrepareConfig(inputs="a", output=Path("b"), recipe=recipe)
        assert not {"split", "substructure", "optional"} & set(config.identity()["recipe"])
        assert "padding" not in config.identity()["recipe"]["constituents"]
        recipe |= {"split": {"test": "x"}, "constituents": recipe["constituents"] | {"padding": "a == 0"}}
        changed = PrepareConfig(inputs="a", output=Path("b"), recipe=recipe).identity()["recipe"]
        assert (changed["split"], changed["constituents"]["padding"]) == ({"test": "x"}, "a == 0")


class TestQuarkGluon:
    NUM_JETS = 200

    @pytest.fixture(scope="class")
    @classmethod
    def arrays(cls) -> list[dict[str, np.ndarray]]:
        """Of two archives with lists of different lengths."""
        return [quark_gluon_arrays(random_jets(cls.NUM_JETS, seed, length=12 + seed), seed) for seed in (1, 2)]

    @pytest.fixture(scope="class")
    @classmethod
    def manifest(cls, arrays, tmp_path_factory) -> Manifest:
        folder = tmp_path_factory.mktemp("qg")
        for number, content in enumerate(arrays):
            np.savez_compressed(folder / f"QG_jets_{number}.npz", **content)
        return convert("quark_gluon", f"{{pythia: {folder}/*.npz}}", folder / "out")

    def test_columns_equal_numpy_on_the_arrays(self, manifest, arrays):
        table = read_all(manifest)
        runs = list(dict.fromkeys(sorted(table["run"].to_pylist())))
        assert len(runs) == 2
        found = set()
        for row in table.to_pylist():
            candidates = [number for number in (0, 1) if np.isclose(arrays[number]["X"][row["event"], 0, 0], row_pt(row)[0])]
            (number,) = candidates
            found.add((number, row["event"]))
            particles = arrays[number]["X"][row["event"]]
            pt, eta, phi, pid = particles[particles[:, 0] > 0].T
            p4 = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)], axis=1)
            assert row["num_nodes"] == len(pt)
            for name, values in features_of(p4).items():
                np.testing.assert_allclose(row[name], values, rtol=2e-5, atol=2e-5, err_msg=name)
            assert row["charge"] == [charge_of(int(number)) for number in pid]
            kinds = ("is_electron", "is_muon", "is_charged_hadron", "is_neutral_hadron", "is_photon")
            one_hot = np.stack([row[name] for name in kinds])
            assert (one_hot.sum(axis=0) == 1).all()
            assert [kinds[place] for place in one_hot.argmax(axis=0)] == [kind_of(int(number)) for number in pid]
            assert row["label"] == arrays[number]["y"][row["event"]]
        assert len(found) == table.num_rows == sum(int((content["X"][:, 0, 0] > 0).sum()) for content in arrays)

    def test_the_inputs_are_the_thirteen_published(self, manifest):
        particles = ("charge", "is_electron", "is_muon", "is_charged_hadron", "is_neutral_hadron", "is_photon")
        assert manifest.names("node") == (*KINEMATICS, *particles)
        assert manifest.classes == ("gluon", "quark")
        assert [item["page_checksums"] for item in manifest.content["inputs"]] == [True, True]

    @pytest.mark.parametrize("where", [0.3, 0.8])
    def test_a_flipped_bit_quarantines_its_archive(self, manifest, tmp_path, where):
        paths = [Path(item["path"]) for item in manifest.content["inputs"]]
        content = bytearray(paths[1].read_bytes())
        content[int(where * len(content))] ^= 4
        (tmp_path / "QG_jets_0.npz").write_bytes(paths[0].read_bytes())
        (tmp_path / "QG_jets_1.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"1 of 2 files were quarantined.*QG_jets_1.npz cannot be read"):
            convert("quark_gluon", f"{{pythia: {tmp_path}}}", tmp_path / "out")
        rest = convert("quark_gluon", f"{{pythia: {tmp_path}}}", tmp_path / "out", "tolerance.max_files=1")
        assert rest.content["accounting"] | {"cuts": {}} == {
            "read": 2 * self.NUM_JETS,
            "rows": self.NUM_JETS - 6,
            "cut": 6,
            "quarantined": self.NUM_JETS,
            "cuts": {},
        }

    def test_the_same_bytes_however_the_work_is_divided(self, manifest, tmp_path):
        folder = Path(manifest.content["inputs"][0]["path"]).parent
        again = convert(
            "quark_gluon", f"{{pythia: {folder}/*.npz}}", tmp_path / "out", "entries_per_task=33", execute=backwards
        )
        assert shard_bytes(again) == shard_bytes(manifest)


def row_pt(row: dict) -> np.ndarray:
    return np.hypot(row["px"], row["py"])


def charge_of(pid: int) -> int:
    negative = (11, 13, -211, -321, -2212)
    return 0 if pid in (22, 130, 2112, -2112) else -1 if pid in negative else 1


def kind_of(pid: int) -> str:
    kinds = {22: "is_photon", 11: "is_electron", 13: "is_muon", 130: "is_neutral_hadron", 2112: "is_neutral_hadron"}
    return kinds.get(abs(pid), "is_charged_hadron")


class TestAtlas:
    @pytest.fixture(scope="class")
    @classmethod
    def arrays(cls) -> dict[str, dict[str, np.ndarray]]:
        return {
            "train": atlas_arrays(random_jets(260, seed=1, length=30), 1, is_training=True),
            "test": atlas_arrays(random_jets(140, seed=2, length=30), 2, is_training=False),
        }

    @pytest.fixture(scope="class")
    @classmethod
    def manifest(cls, arrays, tmp_path_factory) -> Manifest:
        folder = tmp_path_factory.mktemp("atlas")
        for name, content in arrays.items():
            write_atlas(folder / f"{name}_nominal_000.h5", content)
        inputs = ", ".join(f"{name}: {folder}/{name}_nominal*.h5" for name in arrays)
        return convert("atlas_top_tagging", f"{{{inputs}}}", folder / "out")

    def test_columns_equal_numpy_on_the_arrays(self, manifest, arrays):
        table = read_all(manifest)
        for row in table.to_pylist():
            jets = {name: values[row["event"]] for name, values in arrays[row["sample"]].items()}
            real = jets["fjet_clus_pt"] > 0
            assert row["num_nodes"] == real.sum()
            np.testing.assert_allclose(row_pt(row), jets["fjet_clus_pt"][real] / 1000, rtol=1e-5)
            np.testing.assert_allclose(row["energy"], jets["fjet_clus_E"][real] / 1000, rtol=1e-6)
            np.testing.assert_allclose(row["delta_eta"], jets["fjet_clus_eta"][real] - jets["fjet_eta"], atol=1e-5)
            assert row["jet_mass"] == pytest.approx(jets["fjet_m"] / 1000, rel=1e-6)
            tastes = np.stack([row[name] for name in ("is_charged", "is_neutral", "is_combined")])
            assert tastes.argmax(axis=0).tolist() == jets["fjet_clus_taste"][real].tolist()
            assert row["weight"] == jets.get("training_weights", 1)
            assert row["split12"] == pytest.approx(jets["fjet_Split12"] / 1000)
            assert row["label"] == jets["labels"]
        assert table.num_rows == sum(int((content["fjet_clus_pt"][:, 0] > 0).sum()) for content in arrays.values())

    def test_the_test_files_are_the_test_split_and_have_no_weights(self, manifest):
        samples = {name: set(read_all(manifest, [name])["sample"].to_pylist()) for name in SPLIT_OF}
        assert samples == {"train": {"train"}, "val": {"train"}, "test": {"test"}}
        assert len(manifest.names("graph")) == 4 + len(HIGH_LEVEL)
        batch = next(iter(JetStream(manifest, "train", StreamConfig(batch_size=64))))
        assert batch.weight.std() > 0.1

    def test_a_file_that_lacks_what_it_must_have(self, arrays, tmp_path):
        write_atlas(tmp_path / "a.h5", arrays["train"])
        write_atlas(tmp_path / "b.h5", {name: values for name, values in arrays["test"].items() if name != "fjet_C2"})
        with pytest.raises(DataError, match=r"b.h5: no branch 'fjet_C2', which other files have"):
            convert("atlas_top_tagging", f"{{train: {tmp_path}/a.h5, test: {tmp_path}/b.h5}}", tmp_path / "out")


@pytest.mark.parametrize("name", ["jetclass", "jetclass_full"])
def test_the_published_split_of_jetclass_is_one_override(name):
    """As the command in the file has it."""
    file = PROJECT / f"conf/dataset/{name}.yaml"
    override = next(line for line in file.read_text().splitlines() if "recipe.split=" in line).strip("# ").replace('"', "")
    config = load(PrepareConfig, [file], ["inputs=unused", "output=unused", override])
    assert config.recipe.split == {split: f"sample == '{split}'" for split in SPLIT_OF}
    assert config.recipe.labels["QCD"] == "label_QCD"
    assert next(iter(config.recipe.labels)) == "QCD"


class TestSubstructure:
    """Variables that are computed from the constituents at preparation."""

    def test_they_are_features_of_the_jet(self, tmp_path):
        jets = random_jets(150, seed=1)
        write_top_landscape(tmp_path / "a.h5", jets, np.arange(150) % 3)
        names = tuple(SUBSTRUCTURE)
        manifest = convert(
            "top_landscape", f"{{tl: {tmp_path}/a.h5}}", tmp_path / "out", f"recipe.substructure=[{', '.join(names)}]"
        )
        assert manifest.names("graph")[-len(names) :] == names
        columns = {column.name: column for column in manifest.columns}
        assert (columns["tau21"].unit, columns["tau21"].description) == SUBSTRUCTURE["tau21"]
        for row in read_all(manifest).to_pylist():
            p4 = np.stack([row[name] for name in ("px", "py", "pz", "energy")], axis=1).astype(np.float64)
            expected = substructure(p4, np.array([0, len(p4)]), names)
            for name, (value,) in expected.items():
                assert row[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name
        batch = next(iter(JetStream(manifest, "train", StreamConfig(batch_size=30))))
        assert batch.u.shape == (batch.num_graphs, 4 + len(names))

    def test_an_unknown_name(self):
        recipe = {"tree": "t", "constituents": {"pt": "a", "eta": "b", "phi": "c"}, "substructure": ["tau12"]}
        with pytest.raises(ValueError, match=r"variable of substructure 'tau12'.*tau21"):
            PrepareConfig(inputs="a", output=Path("b"), recipe=recipe)

    def test_two_columns_of_one_name(self):
        recipe = {
            "tree": "t",
            "constituents": {"pt": "a", "eta": "b", "phi": "c"},
            "substructure": ["tau1"],
            "graph": {"tau1": "x"},
        }
        with pytest.raises(ValueError, match="two columns are called 'tau1'"):
            PrepareConfig(inputs="a", output=Path("b"), recipe=recipe)

    def test_jets_without_constituents_have_none(self):
        recipe = {"tree": "t", "jet": {"pt": "a", "eta": "b", "phi": "c", "mass": "d"}, "substructure": ["tau1"]}
        with pytest.raises(ValueError, match="substructure need constituents"):
            PrepareConfig(inputs="a", output=Path("b"), recipe=recipe)
