"""Spec: prepare touches what it wrote and nothing else, leaves no spills, and reports success for a whole dataset only."""

import contextlib
import shutil
from pathlib import Path

import pytest

from distjet.dataset import commit as commit_module
from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.dataset.shards import build_shard
from distjet.errors import ConfigError, DataError
from distjet.execution import in_process
from tests.dataset.files import configure, random_ntuple, run, shard_bytes, write_ntuple


@pytest.fixture
def inputs(tmp_path) -> str:
    write_ntuple(tmp_path / "in/s/a.root", random_ntuple(60, seed=1), parts=3)
    return str(tmp_path / "in")


def test_leftovers_of_prepare_go_and_files_of_others_stay(inputs, tmp_path):
    out = tmp_path / "out"
    names = ("mine/part-00000.parquet", "mine/.a.txt.tmp", "train/notes.txt", "train/.notes.tmp", f".notes.json.{32 * '0'}.tmp")
    mine = [out / name for name in names]
    temporary = [f"val/.part-00000.parquet.{32 * '0'}.tmp", f".manifest.json.{32 * 'a'}.tmp", f".config.yaml.{32 * 'f'}.tmp"]
    leftovers = [out / name for name in ("train/part-00099.parquet", ".work/rows-0.rows", ".inputs/look-0.json", *temporary)]

    def with_files(function, tasks, *, description, measure=None):
        for path in (*mine, *leftovers):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("text")
        yield from in_process(function, tasks, description=description)

    run(out, inputs, with_files)
    assert [path.read_text() for path in mine] == ["text"] * len(mine)
    assert not any(path.exists() for path in leftovers)


def test_a_run_killed_while_it_cleans_up_is_cleaned_up_by_the_next(inputs, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(commit_module, "finish_folder", killed)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "out", inputs)
    manifest = Manifest.load(tmp_path / "out")
    leftover = manifest.path / "train/part-00099.parquet"
    leftover.write_text("of an earlier run")
    assert list(manifest.path.glob(".work/*.rows"))
    before = shard_bytes(manifest)
    assert shard_bytes(run(tmp_path / "out", inputs)) == before
    assert not (tmp_path / "out/.work").exists()
    assert not leftover.exists()


def test_relative_paths_are_good_for_workers_in_other_folders(inputs, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(tmp_path)

    def remote(function, tasks, *, description, measure=None):
        for index, task in enumerate(tasks):
            with contextlib.chdir(elsewhere):
                result = function(task)
            yield index, result

    prepare(configure(Path("out"), "in"), remote)
    assert shard_bytes(Manifest.load(tmp_path / "out")) == shard_bytes(run(tmp_path / "other", inputs))
    assert not list(elsewhere.iterdir())


@pytest.mark.parametrize("loss", ["missing", "shorter"])
def test_a_shard_that_is_lost_before_the_end_is_noticed(inputs, tmp_path, loss):
    def losing(function, tasks, *, description, measure=None):
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


def test_a_recipe_may_be_corrected_before_anything_was_converted(inputs, tmp_path):
    wrong = configure(tmp_path / "out", inputs).recipe.model_dump(mode="json") | {"weight": "mcEventWeigth"}
    with pytest.raises(ConfigError, match="did you mean 'mcEventWeight'"):
        run(tmp_path / "out", inputs, recipe=wrong)
    manifest = run(tmp_path / "out", inputs)
    assert manifest.num_rows("train")
    assert sorted(path.name for path in manifest.path.iterdir()) == [
        *("config.yaml", "identity.json", "manifest.json", "quarantine.jsonl", "test", "train", "val")
    ]
