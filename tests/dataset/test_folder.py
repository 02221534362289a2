"""Spec: prepare touches what it wrote and nothing else, leaves no spills, and reports success for a whole dataset only."""

import contextlib
import shutil
from pathlib import Path

import pytest

from distjet.dataset import prepare as prepare_module
from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.dataset.shards import build_shard
from distjet.errors import DataError
from distjet.execution import in_process
from tests.dataset.files import configure, random_ntuple, run, shard_bytes, write_ntuple


@pytest.fixture
def inputs(tmp_path) -> str:
    write_ntuple(tmp_path / "in/s/a.root", random_ntuple(60, seed=1), parts=3)
    return str(tmp_path / "in")


def test_leftovers_of_prepare_go_and_files_of_others_stay(inputs, tmp_path):
    out = tmp_path / "out"
    mine = [out / "mine/part-00000.parquet", out / "mine/.a.txt.tmp", out / "train/notes.txt", out / "train/.notes.tmp"]
    leftovers = [out / "train/part-00099.parquet", out / "val/.part-00000.parquet.0123.tmp", out / ".work/rows-0.arrow"]

    def with_files(function, tasks, *, description):
        for path in (*mine, *leftovers):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("text")
        yield from in_process(function, tasks, description=description)

    run(out, inputs, with_files)
    assert [path.read_text() for path in mine] == ["text"] * 4
    assert not any(path.exists() for path in leftovers)


def test_a_run_killed_while_it_cleans_up_is_cleaned_up_by_the_next(inputs, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "_clean_up", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "out", inputs)
    manifest = Manifest.load(tmp_path / "out")
    leftover = manifest.path / "train/part-00099.parquet"
    leftover.write_text("of an earlier run")
    assert list(manifest.path.glob(".work/*.arrow"))
    before = shard_bytes(manifest)
    assert shard_bytes(run(tmp_path / "out", inputs)) == before
    assert not (tmp_path / "out/.work").exists()
    assert not leftover.exists()


def test_relative_paths_are_good_for_workers_in_other_folders(inputs, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)

    def remote(function, tasks, *, description):
        for index, task in enumerate(tasks):
            with contextlib.chdir(elsewhere):
                result = function(task)
            yield index, result

    prepare(configure(Path("out"), "in"), remote)
    assert shard_bytes(Manifest.load(tmp_path / "out")) == shard_bytes(run(tmp_path / "other", inputs))
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("loss", ["missing", "shorter"])
def test_a_shard_that_is_lost_before_the_end_is_noticed(inputs, tmp_path, loss):
    def losing(function, tasks, *, description):
        yield from in_process(function, tasks, description=description)
        if function is build_shard:
            shard = tmp_path / "out/train/part-00000.parquet"
            shard.unlink() if loss == "missing" else shard.write_bytes(b"half")

    with pytest.raises(DataError, match=r"shard train/part-00000.parquet (is missing|has 4 bytes).*all workers see"):
        run(tmp_path / "out", inputs, losing)
    assert not (tmp_path / "out/manifest.json").exists()
    assert shard_bytes(run(tmp_path / "out", inputs)) == shard_bytes(run(tmp_path / "other", inputs))


@pytest.mark.parametrize("damage", ["missing", "longer", "manifest", "version"])
def test_the_advice_for_a_damaged_dataset_works(inputs, tmp_path, damage):
    out = tmp_path / "out"
    whole = shard_bytes(run(out, inputs))
    shard, file = out / "train/part-00000.parquet", out / "manifest.json"
    if damage == "missing":
        shard.unlink()
    elif damage == "longer":
        shard.write_bytes(shard.read_bytes() + b"0")
    else:
        text = file.read_text()
        file.write_text(text[:-9] if damage == "manifest" else text.replace('"schema_version": 2', '"schema_version": 0'))
    advice = f"remove the folder {out} and run `distjet prepare` again"
    with pytest.raises(DataError, match=advice):
        run(out, inputs)
    shutil.rmtree(out)
    assert shard_bytes(run(out, inputs)) == whole


def test_verify_finds_a_flipped_bit_and_gives_the_same_advice(inputs, tmp_path):
    manifest = run(tmp_path / "out", inputs)
    manifest.verify()
    shard = manifest.path / manifest.shards("train")[0].path
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    with pytest.raises(DataError, match=f"is damaged: hash .* remove the folder {manifest.path} and run"):
        Manifest.load(manifest.path).verify()
