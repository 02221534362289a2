"""Spec: a dataset on an object store has the bytes of one on a disk, and is read, checked and continued like it."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from distjet.cli import run_verb
from distjet.dataset.facts import facts
from distjet.dataset.manifest import FILE_NAME, Manifest, seal
from distjet.dataset.prepare import prepare
from distjet.dataset.reading.remote import list_files
from distjet.dataset.shards import build_shard
from distjet.dataset.streaming.settings import CacheConfig
from distjet.dataset.streaming.stream import JetStream, StreamConfig
from distjet.dataset.verify import verify
from distjet.errors import ConfigError, DataError
from distjet.execution import in_process
from distjet.run_directory import read_json, write_atomically, write_json
from distjet.storage import as_location
from tests.conftest import SECRET
from tests.dataset.files import PROJECT, configure, random_ntuple, run, shard_bytes, write_ntuple


@pytest.fixture(scope="module")
def ntuples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ntuples")
    write_ntuple(folder / "s/a.root", random_ntuple(60, seed=1), parts=4)
    write_ntuple(folder / "s/b.root", random_ntuple(40, seed=2, first_event=500), parts=2)
    return folder


@pytest.fixture(scope="module")
def on_disk(ntuples: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return run(tmp_path_factory.mktemp("disk") / "out", inputs(ntuples), **SMALL)


@pytest.fixture(scope="module")
def on_store(ntuples: Path, store: str) -> Manifest:
    """The same dataset, written to the store."""
    return run(f"{store}/{ntuples.name}", inputs(ntuples), **SMALL)


SMALL = {"entries_per_task": 60, "rows_per_shard": 100, "row_group_size": 40}


def inputs(ntuples: Path) -> dict[str, str]:
    return {"s": str(ntuples / "s")}


def names(place: str) -> set[str]:
    folder = as_location(place)
    return {name.removeprefix(f"{folder.path}/") for name in folder.fs.find(folder.path)}


class TestPrepare:
    def test_the_shards_are_those_on_a_disk_and_nothing_else_is_left(self, on_disk, on_store):
        assert shard_bytes(on_store) == shard_bytes(on_disk)
        assert on_store.fingerprint == on_disk.fingerprint
        shards = {shard.path for split in ("train", "val", "test") for shard in on_disk.shards(split)}
        left = names(str(on_store.path))
        assert left == shards | {"manifest.json", "config.yaml", "identity.json", "quarantine.jsonl"}
        assert not any(SECRET.encode() in (on_store.path / name).read_bytes() for name in left)

    def test_one_pass_is_written_there_too(self, ntuples, bucket, tmp_path):
        local = run(tmp_path / "out", inputs(ntuples), **SMALL, shuffle="local")
        assert shard_bytes(run(bucket, inputs(ntuples), **SMALL, shuffle="local")) == shard_bytes(local)

    @pytest.mark.parametrize("num_tasks", [3, 6])
    def test_a_run_that_was_stopped_continues(self, ntuples, on_disk, bucket, num_tasks):
        left = itertools.count()

        def stopped(function, tasks, *, description, measure=None):
            for number, task in enumerate(tasks):
                if next(left) == num_tasks:
                    raise KeyboardInterrupt
                yield number, function(task)

        with pytest.raises(KeyboardInterrupt):
            run(bucket, inputs(ntuples), stopped, **SMALL)
        assert not (as_location(bucket) / FILE_NAME).exists()
        assert shard_bytes(run(bucket, inputs(ntuples), **SMALL)) == shard_bytes(on_disk)

    def test_spills_can_wait_in_another_folder_which_is_removed(self, ntuples, on_disk, bucket, tmp_path):
        seen: list[str] = []

        def watching(function, tasks, *, description, measure=None):
            if function is build_shard:
                seen.extend(path.name for path in (tmp_path / "work").rglob("*.rows"))
            yield from ((number, function(task)) for number, task in enumerate(tasks))

        manifest = run(bucket, inputs(ntuples), watching, **SMALL, work=str(tmp_path / "work"))
        assert shard_bytes(manifest) == shard_bytes(on_disk)
        assert seen
        assert list((tmp_path / "work").iterdir()) == []

    def test_inputs_of_the_store_need_a_folder_for_copies_or_are_read_where_they_lie(self, ntuples, on_disk, bucket, tmp_path):
        place = as_location(f"{bucket}/ntuples/s")
        place.fs.put(str(ntuples / "s"), place.path, recursive=True)
        wanted = {"s": f"{place}/*.root"}
        with pytest.raises(ConfigError, match=r"a\.root is to be copied .* set work=FOLDER .* or remote=direct"):
            run(f"{bucket}/out", wanted, **SMALL)
        direct = run(f"{bucket}/out", wanted, **SMALL, remote="direct")
        staged = run(f"{bucket}/other", wanted, **SMALL, work=str(tmp_path))
        assert shard_bytes(direct) == shard_bytes(staged) == shard_bytes(on_disk)

    def test_inputs_of_the_store_are_all_found_or_none(self, bucket, fail_listings):
        place = as_location(bucket)
        for name in ("a/1.root", "a/2.root", "b/3.root", "b/note.txt", "b/c/4.root"):
            write_atomically(place / name, "file")
        found = {
            pattern: list_files(f"{bucket}/{pattern}", {}, 0) for pattern in ("*/*.root", "**/[1-3].root", "*/c/4*", "d/*")
        }
        assert found == {
            "*/*.root": [f"{bucket}/{name}" for name in ("a/1.root", "a/2.root", "b/3.root")],
            "**/[1-3].root": [f"{bucket}/{name}" for name in ("a/1.root", "a/2.root", "b/3.root")],
            "*/c/4*": [f"{bucket}/b/c/4.root"],
            "d/*": [],
        }
        for number in (1, 2, 3):  # of the folder, and of each folder there
            fail_listings(number)
            with pytest.raises(OSError, match=r"requests failed, the last with OSError.*does not answer"):
                list_files(f"{bucket}/*/*.root", {}, 0)

    def test_a_second_dataset_is_refused(self, ntuples, on_store):
        with pytest.raises(ConfigError, match=r"holds the output of another `distjet prepare` \(different: seed\)"):
            run(str(on_store.path), inputs(ntuples), **SMALL, seed=7)


class TestRead:
    def test_the_command_line_shows_and_verifies_it(self, on_store, on_disk, capsys):
        run_verb("inspect", [str(on_store.path), "format=json"])
        assert json.loads(capsys.readouterr().out)["rows"] == json.loads(json.dumps(facts(on_disk)["rows"]))
        checked = run_verb("verify", [str(on_store.path), "tasks.scheduler=in_process", "tasks.progress=off"])
        assert checked["content"] == verify(on_disk.path, in_process)["content"]

    def test_a_shard_that_was_changed_is_named(self, on_store, bucket):
        place = as_location(bucket)
        on_store.path.fs.copy(on_store.path.path, place.path, recursive=True)
        shard = on_store.shards("train")[0].path
        content = bytearray((place / shard).read_bytes())
        content[100] ^= 1
        write_atomically(place / shard, bytes(content))
        write_atomically(place / "train/part-00077.parquet", b"")
        with pytest.raises(DataError, match=rf"(?s){shard}: hash.*train/part-00077.parquet is not in the manifest"):
            verify(place, in_process)
        (place / shard).unlink()
        with pytest.raises(DataError, match=f"shard {shard} is missing"):
            Manifest.load(bucket)

    @pytest.mark.parametrize("settings", [{"batch_size": 16}, {"max_nodes": 100}, {"batch_size": 16, "shuffle": False}])
    def test_the_stream_is_that_of_the_disk(self, on_store, on_disk, settings):
        for mine, others in zip(
            JetStream(on_store, "train", StreamConfig(**settings), seed=3),
            JetStream(on_disk, "train", StreamConfig(**settings), seed=3),
            strict=True,
        ):
            np.testing.assert_array_equal(mine.x.numpy(), others.x.numpy())
            np.testing.assert_array_equal(mine.edge_index.numpy(), others.edge_index.numpy())

    def test_with_a_cache_the_second_epoch_asks_for_nothing(self, on_store, tmp_path, monkeypatch):
        cache = CacheConfig(directory=tmp_path, max_bytes=10**8)
        stream = JetStream(on_store, "train", StreamConfig(batch_size=16, cache=cache))
        first = sum(batch.num_graphs for batch in stream)
        monkeypatch.setattr(type(on_store.path.fs), "_cat_file", None)
        assert sum(batch.num_graphs for batch in stream) == first

    def test_a_network_that_fails_is_no_fault_of_the_dataset(self, on_store, monkeypatch):
        from distjet.dataset.streaming import remote_shard

        def fail(wanted: object) -> None:
            raise OSError("the network is down")

        monkeypatch.setattr(remote_shard, "read_ranges", fail)
        with pytest.raises(ConnectionError, match=r"train/part-00000\.parquet: the network is down"):
            list(JetStream(on_store, "train", StreamConfig(batch_size=16)))

    def test_a_shard_that_is_gone_is_named(self, on_store, bucket):
        place = as_location(bucket)
        on_store.path.fs.copy(on_store.path.path, place.path, recursive=True)
        stream = JetStream(Manifest.load(bucket), "train", StreamConfig(batch_size=16))
        for shard in on_store.shards("train"):
            (place / shard.path).unlink()
        with pytest.raises(DataError, match=r"train/part-0000.\.parquet: row group \d+ cannot be read"):
            list(stream)

    def test_a_row_group_is_one_request(self, on_store, monkeypatch):
        from distjet.dataset.streaming import remote_shard

        asked: list[int] = []
        real = remote_shard.read_ranges
        monkeypatch.setattr(remote_shard, "read_ranges", lambda wanted: asked.append(len(wanted)) or real(wanted))
        list(JetStream(on_store, "train", StreamConfig(batch_size=16)))
        assert asked == [1] * sum(len(shard.row_groups) for shard in on_store.shards("train"))


class TestEscapes:
    """A manifest that was changed by hand, with a hash that fits, leads nobody out of its folder."""

    @pytest.fixture(params=["../elsewhere/part-00000.parquet", "/tmp/part-00000.parquet", "train/../val/part-00000.parquet"])
    def changed(self, request, on_disk, tmp_path) -> Path:
        content = json.loads((on_disk.path / FILE_NAME).read_text())
        content["shards"]["train"][0]["path"] = request.param
        write_json(tmp_path / FILE_NAME, seal(content))
        return tmp_path

    def test_no_reader_follows(self, changed):
        for read in (
            Manifest.load,
            lambda path: Manifest.load(path, check_shards=False),
            lambda path: verify(path, in_process),
            lambda path: JetStream(Manifest(path, read_json(path / FILE_NAME)), "train"),
        ):
            with pytest.raises(DataError, match=r"is not the name of a file|is not in the folder of split"):
                read(changed)

    def test_the_name_of_a_split_is_a_folder(self, on_disk, tmp_path):
        content = json.loads((on_disk.path / FILE_NAME).read_text())
        content["shards"]["../../train"] = content["shards"].pop("train")
        write_json(tmp_path / FILE_NAME, seal(content))
        with pytest.raises(DataError, match="is not in the folder of split"):
            Manifest.load(tmp_path)

    def test_records_of_an_interrupted_run_lead_nowhere(self, ntuples, tmp_path):
        def changing(function, tasks, *, description, measure=None):
            if function is build_shard:
                spills = next((tmp_path / "out/.work").glob("spills-*.json"))
                write_json(spills, [["../../secret.rows", "s"]])
            yield from ((number, function(task)) for number, task in enumerate(tasks))

        with pytest.raises(DataError, match=r"'\.\./\.\./secret\.rows' is not the name of a file in this folder"):
            run(tmp_path / "out", inputs(ntuples), changing, **SMALL)

    def test_what_a_link_leads_to_is_not_removed(self, ntuples, tmp_path):
        (tmp_path / "precious").mkdir()
        (tmp_path / "precious/file").touch()

        def linking(function, tasks, *, description, measure=None):
            yield from ((number, function(task)) for number, task in enumerate(tasks))
            if function is build_shard:
                (tmp_path / "out/.work/link").symlink_to(tmp_path / "precious")
                (tmp_path / "out/.inputs").rename(tmp_path / "inputs")
                (tmp_path / "out/.inputs").symlink_to(tmp_path / "precious")

        run(tmp_path / "out", inputs(ntuples), linking, **SMALL)
        assert (tmp_path / "precious/file").exists()


@pytest.mark.integration
def test_dask_workers_write_to_the_store_and_one_that_dies_is_replaced(ntuples, on_disk, bucket):
    from distjet.cluster.dask import executor
    from distjet.cluster.settings import TasksConfig

    killed: list[int] = []
    with executor(TasksConfig(scheduler="local", num_workers=2, progress="off")) as execute:

        def killing(function, tasks, *, description, measure=None):
            for result in execute(function, tasks, description=description):
                if description.startswith("convert") and not killed:
                    killed.append(_kill_a_worker())
                yield result

        prepare(configure(bucket, inputs(ntuples), **SMALL), killing)
    assert killed
    assert shard_bytes(Manifest.load(bucket)) == shard_bytes(on_disk)


def _kill_a_worker() -> int:
    from distributed import default_client

    process = next(iter(default_client().run(os.getpid).values()))
    os.kill(process, signal.SIGKILL)
    return process


@pytest.mark.faults
@pytest.mark.slow
def test_a_process_that_is_killed_again_and_again_makes_the_same_dataset(ntuples, on_disk, bucket, tmp_path):
    settings = tmp_path / "prepare.yaml"
    content = configure(bucket, inputs(ntuples), **SMALL).model_dump(mode="json") | {"tasks": {"scheduler": "in_process"}}
    settings.write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "jobs.prepare", str(settings)]
    for pattern in ("rows-*.rows", "rows-*.json", "shard-*.json"):
        process = subprocess.Popen(command, cwd=PROJECT)
        limit = time.monotonic() + 60
        while process.poll() is None and not list((as_location(bucket) / ".work").glob(pattern)):
            assert time.monotonic() < limit
            time.sleep(0.02)
        process.kill()
        assert process.wait() == -signal.SIGKILL
    assert not (as_location(bucket) / FILE_NAME).exists()
    subprocess.run(command, cwd=PROJECT, check=True)
    assert shard_bytes(Manifest.load(bucket)) == shard_bytes(on_disk)
    assert not any(name.startswith((".work", ".lock", ".inputs")) for name in names(bucket))
