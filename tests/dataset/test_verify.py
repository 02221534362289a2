"""Spec: whatever is changed in a dataset is found and named, also where the hashes were corrected afterwards."""

import errno
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distjet.cli import run_verb
from distjet.dataset import verify as verify_module
from distjet.dataset.commit import dataset_fingerprint
from distjet.dataset.graphs.edges import num_edges
from distjet.dataset.manifest import Manifest
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.dataset.shard_check import ShardCheck, check_shard
from distjet.dataset.shards import file_hash
from distjet.dataset.verify import differences, verify
from distjet.errors import DataError
from distjet.execution import in_process
from tests.dataset.files import TREE, configure, random_ntuple, rewrite_manifest, run, write_ntuple
from tests.dataset.servers import serving


@pytest.fixture
def copy(dataset: Manifest, tmp_path: Path) -> Manifest:
    shutil.copytree(dataset.path, tmp_path / "copy")
    return Manifest.load(tmp_path / "copy")


def change_manifest(manifest: Manifest, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the manifest, and its fingerprint and hash so that it agrees with itself."""
    content = json.loads((manifest.path / "manifest.json").read_text())
    change(content)
    config = PrepareConfig.model_validate(content["config"])
    content["fingerprint"] = dataset_fingerprint(config, manifest.columns, content["shards"])
    rewrite_manifest(manifest, content)


def forge(manifest: Manifest, tables: Mapping[str, pa.Table]) -> None:
    """Write shards anew and correct all that the manifest says about their files and the numbers of their rows."""

    def correct(content: dict[str, Any]) -> None:
        for split, shards in content["shards"].items():
            for shard in shards:
                if shard["path"] in tables:
                    shard.update(write(manifest.path, shard["path"], tables[shard["path"]]))
            content["rows"][split] = sum(shard["rows"] for shard in shards)

    change_manifest(manifest, correct)


def write(folder: Path, name: str, table: pa.Table) -> dict[str, Any]:
    size = 64  # rows of a row group in these tests
    pq.write_table(table, folder / name, row_group_size=size, write_page_checksum=True)
    nodes = table["num_nodes"].to_numpy().astype(np.int64)
    edges = num_edges(np.array([len(blob.as_py()) for blob in table["edges"]]), nodes)
    groups = [[part.sum().item() for part in (np.ones_like(nodes[g : g + size]), nodes[g : g + size], edges[g : g + size])]
              for g in range(0, len(nodes), size)]  # fmt: skip
    names, counts = np.unique(table["sample"].to_numpy().astype(str), return_counts=True)
    return {
        "rows": len(nodes),
        "sample_rows": dict(zip(names.tolist(), counts.tolist(), strict=True)),
        "nodes": nodes.sum().item(),
        "edges": edges.sum().item(),
        "largest_graph": nodes.max().item(),
        "row_groups": groups,
        "size_bytes": (folder / name).stat().st_size,
        "xxh3_128": file_hash(folder / name),
    }


def read(manifest: Manifest, name: str) -> pa.Table:
    return pq.read_table(manifest.path / name)


def replaced(table: pa.Table, name: str, values: Any) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))


def problems(manifest: Manifest) -> list[str]:
    with pytest.raises(DataError) as raised:
        verify(manifest.path, in_process)
    first, *found, hint = str(raised.value).splitlines()
    assert first == f"{manifest.path}: {len(found)} problem{'s' if len(found) > 1 else ''}"
    assert hint == f"remove the folder {manifest.path} and run `distjet prepare` again"
    return found


def test_a_good_dataset_is_good_and_says_what_was_checked(dataset):
    found = verify(dataset.path, in_process)
    shards = [shard for split in ("train", "val", "test") for shard in dataset.shards(split)]
    assert found["fingerprint"] == dataset.fingerprint
    assert found["content"] == dataset.content["content"]["total"]
    assert found["rows"] == {split: dataset.num_rows(split) for split in ("train", "val", "test")}
    assert found["shards"] == len(shards) > 3
    assert found["size_bytes"] == sum((dataset.path / shard.path).stat().st_size for shard in shards)
    assert found["nodes"] == sum(len(pq.read_table(dataset.path / s.path)["px"].combine_chunks().flatten()) for s in shards)


def test_a_dataset_that_was_mixed_locally(ntuples, tmp_path):
    manifest = run(tmp_path / "out", str(ntuples), shuffle="local")
    assert verify(manifest.path, in_process)["shards"] > 10
    name = manifest.shards("train")[0].path
    table = read(manifest, name)
    forge(manifest, {name: table.take(pa.array([1, 0, *range(2, table.num_rows)]))})
    assert problems(manifest) == [f"{name}: row 1: belongs before the row before it"]


@pytest.mark.parametrize(
    "changes",
    [
        {"edges": "none"},
        {"edges": "fully_connected"},
        {"edges": {"name": "knn", "k": 3}},
        {"labels": {"light": "abs(jet_eta) < 1", "heavy": "abs(jet_eta) >= 1"}},
    ],
)
def test_other_kinds_of_datasets_are_good(ntuples, tmp_path, changes):
    recipe = configure(tmp_path, "unused").recipe.model_dump(mode="json") | changes
    manifest = run(tmp_path / "out", str(ntuples / "slice_2"), recipe=recipe)
    assert verify(manifest.path, in_process)["row_groups"] > 3


@pytest.mark.parametrize("part", ["rows", "footer"])
def test_a_flipped_bit_wherever_it_is(copy, part):
    """A damaged footer can name columns that are not there, in letters that are none."""
    rng = np.random.default_rng(7)
    shard = copy.shards("train")[0]
    content = (copy.path / shard.path).read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    for place in rng.integers(*((0, footer) if part == "rows" else (footer, len(content))), size=100):
        flipped = bytearray(content)
        flipped[place] ^= 1 << rng.integers(8)
        (copy.path / shard.path).write_bytes(flipped)
        found = check_shard(ShardCheck(str(copy.path), "train", 0))["problems"]
        assert found[0].startswith(f"{shard.path}: hash: ")
    assert any(text.startswith(f"{shard.path}: hash: ") for text in problems(copy))


def test_a_damaged_page_is_named_and_the_others_are_read(copy):
    name = copy.shards("train")[0].path
    column = pq.read_metadata(copy.path / name).row_group(1).column(5)
    content = bytearray((copy.path / name).read_bytes())
    content[column.data_page_offset + column.total_compressed_size // 2] ^= 16
    (copy.path / name).write_bytes(content)
    found = problems(copy)
    (unreadable,) = [text for text in found if "cannot be read" in text]
    assert unreadable.startswith(f"{name}: row group 1 cannot be read: ")


def test_a_missing_and_a_shortened_shard_are_both_named(copy):
    (copy.path / "train/part-00000.parquet").unlink()
    shard = copy.path / "val/part-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    found = problems(copy)
    assert "train/part-00000.parquet: is missing" in found
    assert any(text.startswith("val/part-00000.parquet: size in bytes: ") for text in found)
    assert any(text.startswith("val/part-00000.parquet: cannot be read: ") for text in found)


def test_a_row_group_without_rows(copy):
    table = read(copy, "train/part-00000.parquet")
    with pq.ParquetWriter(copy.path / "train/part-00000.parquet", table.schema) as writer:
        for rows in (table[:0], table):
            writer.write_table(rows)
    assert "train/part-00000.parquet: row group 0 cannot be read: it has no rows" in problems(copy)


def test_two_rows_that_changed_places_in_a_shard(copy):
    name = copy.shards("train")[1].path
    table = read(copy, name)
    order = np.arange(table.num_rows)
    order[[20, 90]] = order[[90, 20]]
    forge(copy, {name: table.take(pa.array(order))})
    found = problems(copy)
    assert found[0].startswith(f"{name}: row")
    assert found[0].endswith(": belongs before the row before it")
    assert not any("content" in text or "converted" in text for text in found)


def test_a_row_at_the_border_of_two_row_groups_is_compared_with_the_one_before(copy):
    name = copy.shards("train")[0].path
    table = read(copy, name)
    order = np.arange(table.num_rows)
    order[[63, 64]] = order[[64, 63]]
    forge(copy, {name: table.take(pa.array(order))})
    assert problems(copy) == [f"{name}: row 64: belongs before the row before it"]


def test_a_row_in_another_split(copy):
    train, val = copy.shards("train")[0].path, copy.shards("val")[0].path
    tables = {train: read(copy, train), val: read(copy, val)}
    forge(copy, {train: tables[train].slice(1), val: pa.concat_tables([tables[train].slice(0, 1), tables[val]])})
    found = problems(copy)
    assert f"{val}: row 0: run and event belong to another split" in found
    assert any(text.startswith(f"{train}: content: ") for text in found)


def test_a_row_in_another_shard(copy):
    first, second = (copy.shards("train")[number].path for number in (0, 1))
    tables = {first: read(copy, first), second: read(copy, second)}
    forge(copy, {first: tables[first].slice(0, 10), second: pa.concat_tables([tables[first].slice(10), tables[second]])})
    rows = tables[first].num_rows - 10
    assert f"{second}: rows 0, 1, 2, 3, 4 and {min(rows, 64) - 5} more: run, event and jet_index belong to another shard" in (
        problems(copy)
    )


def test_one_altered_value(copy):
    name = copy.shards("test")[0].path
    table = read(copy, name)
    values = table["jet_pt"].to_numpy().copy()
    values[3] = np.nextafter(values[3], np.float32(0))
    forge(copy, {name: replaced(table, "jet_pt", values)})
    sample = table["sample"][3].as_py()
    content, converted = problems(copy)
    assert content.startswith(f"{name}: content: ")
    assert converted.startswith(f"the rows of sample {sample!r} are not those that were converted: fingerprint ")


def test_two_rows_that_exchanged_a_value(copy):
    name = copy.shards("test")[0].path
    table = read(copy, name)
    values = table["weight"].to_numpy().copy()
    values[[0, 1]] = values[[1, 0]]
    forge(copy, {name: replaced(table, "weight", values)})
    assert any(text.startswith(f"{name}: content: ") for text in problems(copy))


def test_a_dropped_row(copy):
    name = copy.shards("val")[0].path
    table = read(copy, name)
    forge(copy, {name: pa.concat_tables([table.slice(0, 7), table.slice(8)])})
    found = problems(copy)
    rows = sum(copy.content["rows"].values())
    assert f"manifest.json: {rows} rows were converted, the shards have {rows - 1}" in found
    assert any("are not those that were converted" in text for text in found)


def test_a_doubled_row(copy):
    name = copy.shards("val")[0].path
    table = read(copy, name)
    forge(copy, {name: pa.concat_tables([table.slice(0, 8), table.slice(7)])})
    found = problems(copy)
    assert "1 rows repeat an identity, the manifest says 0" in found
    assert any("are not those that were converted" in text for text in found)


def test_lists_of_the_wrong_length(copy):
    name = copy.shards("train")[0].path
    table = read(copy, name)
    lists = table["log_pt"].to_pylist()
    lists[5], lists[6] = [*lists[5], *lists[6][:1]], lists[6][1:]
    forge(copy, {name: replaced(table, "log_pt", lists)})
    assert f"{name}: rows 5, 6: 'log_pt' has not num_nodes values" in problems(copy)


@pytest.mark.parametrize("kind", ["out of range", "twice", "out of order", "too short"])
def test_edges_that_make_no_sense(copy, kind):
    name = copy.shards("train")[0].path
    table = read(copy, name)
    blobs = table["edges"].to_pylist()
    row = next(i for i in range(10, table.num_rows) if table["num_nodes"][i].as_py() > 4 and blobs[i][0] > 1)
    size, blob = table["num_nodes"][row].as_py(), bytearray(blobs[row])
    if kind == "out of range":
        blob[size] = size
    elif kind == "twice":
        blob[size] = blob[size + 1]
    elif kind == "out of order":
        blob[size], blob[size + 1] = blob[size + 1], blob[size]
    else:
        del blob[-1]
    blobs[row] = bytes(blob)
    forge(copy, {name: replaced(table, "edges", blobs)})
    wanted = "the edges are not in order" if kind in ("twice", "out of order") else f"its {len(blob)} bytes"
    assert any(f"row {row}: {wanted}" in text for text in problems(copy))


def test_a_sample_of_another_name(copy):
    name = copy.shards("train")[0].path
    table = read(copy, name)
    samples = table["sample"].to_pylist()
    samples[2] = "slice_3"
    forge(copy, {name: replaced(table, "sample", samples)})
    assert f"{name}: row 2: 'sample' is none of ['slice_1', 'slice_2']" in problems(copy)


def test_another_type_or_unit_of_a_column(copy):
    name = copy.shards("train")[0].path
    table = read(copy, name)
    place = table.schema.get_field_index("rho")
    field = table.schema.field("rho").with_metadata({**table.schema.field("rho").metadata, b"unit": b"MeV"})
    forge(copy, {name: table.set_column(place, field, table["rho"])})
    assert any(text.startswith(f"{name}: column 'rho' is ") for text in problems(copy))


def test_a_shard_that_nobody_names(copy):
    shutil.copy(copy.path / "val/part-00000.parquet", copy.path / "val/part-00077.parquet")
    assert problems(copy) == ["val/part-00077.parquet is not in the manifest"]


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        (("statistics", "log_pt", "mean"), "statistics.log_pt.mean"),
        (("statistics", "jet_pt", "quantiles", "0.5"), "statistics.jet_pt.quantiles.0.5"),
        (("histograms", "log_true_energy", "counts", 40), "histograms.log_true_energy.counts"),
        (("histograms", "pt_mass", "edges", 1, 3), "histograms.pt_mass.edges[1]"),
        (("histograms", "log_true_energy", "sum_weights", 40), "histograms.log_true_energy.sum_weights"),
    ],
)
def test_a_changed_statistic(copy, keys, place):
    def change(content: dict[str, Any]) -> None:
        for key in keys[:-1]:
            content = content[key]
        content[keys[-1]] += 1 if isinstance(content[keys[-1]], int) else 1e-6

    change_manifest(copy, change)
    (found,) = problems(copy)
    assert found.startswith(f"manifest.json: {place} is not what the rows give")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("fingerprint", "0" * 32, "manifest.json: fingerprint is 0"),
        ("repeated_identities", 3, "0 rows repeat an identity, the manifest says 3"),
        ("rows", {"train": 1, "val": 1, "test": 1}, "manifest.json: rows are {'train': 1"),
        ("graph", {"name": "knn", "k": 16}, "manifest.json: graph is {'name': 'knn', 'k': 16}, the configuration says"),
        ("classes", ["quark"], "manifest.json: classes is ['quark'], the configuration says []"),
    ],
)
def test_a_changed_manifest(copy, key, value, message):
    rewrite_manifest(copy, copy.content | {key: value})
    (found,) = problems(copy)
    assert found.startswith(message)


def test_a_changed_seed_or_split_is_found_in_the_rows(copy):
    change_manifest(copy, lambda content: content["config"].update(seed=2))
    found = problems(copy)
    assert any("belong to another split" in text for text in found)
    assert any("belong to another shard" in text for text in found)


def test_an_accounting_that_does_not_add_up(copy):
    change_manifest(copy, lambda content: content["inputs"][0]["accounting"].update(read=7))
    lost, total = problems(copy)
    assert "part_0.root: jets were lost or doubled: {'read': 7" in lost
    assert total.startswith("manifest.json: read: the inputs have ")


def test_an_accounting_of_an_input_that_is_not_part_of_the_whole(copy):
    def change(content: dict[str, Any]) -> None:
        jets = content["inputs"][0]["accounting"]
        jets.update(read=jets["read"] + 1, quarantined=jets["quarantined"] + 1)

    change_manifest(copy, change)
    read, quarantined = problems(copy)
    assert read.startswith("manifest.json: read: the inputs have ")
    assert quarantined == "manifest.json: quarantined: the inputs have 1 jets, all together 0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("content"), "manifest.json is damaged: it has no content; remove"),
        (lambda content: content["config"].update(shuffle="locap"), "manifest.json is damaged: config.shuffle: "),
    ],
)
def test_a_manifest_that_cannot_be_used(copy, change, message):
    content = json.loads((copy.path / "manifest.json").read_text())
    change(content)
    rewrite_manifest(copy, content)
    with pytest.raises(DataError, match=message):
        verify(copy.path, in_process)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["inputs"][0].update(path="/elsewhere/part_0.root"),
        lambda content: content["inputs"][0].update(size_bytes=1),
        lambda content: content["inputs"][0].update(fate="duplicate"),
        lambda content: content["created_with"].update(uproot="0"),
        lambda content: content["columns"][0].update(formula="1 + 1"),
        lambda content: content.update(xxh3_128="0" * 32),
        lambda content: content.update(more=1),
    ],
)
def test_a_manifest_that_was_changed_anywhere(copy, change):
    """Also where nothing else in the dataset says the same."""
    file = copy.path / "manifest.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content))
    Manifest.load(copy.path)  # blanks do not matter
    change(content)
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"manifest\.json is damaged: it was changed, its hash is .*; remove the folder"):
        verify(copy.path, in_process)


@pytest.mark.parametrize("content", [b"[]", b"{", b"\xff{}"])
def test_a_manifest_that_is_none(copy, content):
    (copy.path / "manifest.json").write_bytes(content)
    with pytest.raises(DataError, match=r"manifest\.json is damaged: "):
        verify(copy.path, in_process)


def test_floats_may_differ_by_rounding_and_whole_numbers_not_at_all():
    found = {"a": {"sums": [[1e6, 3e-17], [0.0, 2.0]], "counts": [10**12]}, "b": None}
    assert not list(differences(found, {"a": {"sums": [[1e6 + 1e-9, 5e-17], [0, 2]], "counts": [10**12]}, "b": None}, "x"))
    stated = {"a": {"sums": [[1e6 + 1, 3e-17], [0.0, 2.0]], "counts": [10**12 + 1]}, "b": 0.0}
    assert [text.split()[1] for text in differences(found, stated, "x")] == ["x.a.sums", "x.a.counts", "x.b"]
    assert list(differences(found, {"a": found["a"]}, "x")) == ["manifest.json: x is not what the rows give"]


class TestInputs:
    """Spec: input files that are still there are compared with what was read."""

    @pytest.fixture
    def prepared(self, tmp_path) -> Manifest:
        for number in range(3):
            write_ntuple(tmp_path / f"in/s/{number}.root", random_ntuple(20, seed=number, first_event=20 * number), tree=TREE)
        return run(tmp_path / "out", str(tmp_path / "in"))

    def test_unchanged_and_gone(self, prepared, tmp_path):
        (tmp_path / "in/s/1.root").unlink()
        found = verify(prepared.path, in_process, inputs=True)
        assert (found["unchanged"], found["gone"]) == (2, [str(tmp_path / "in/s/1.root")])
        assert "gone" not in verify(prepared.path, in_process)

    def test_changed(self, prepared, tmp_path):
        content = bytearray((tmp_path / "in/s/0.root").read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / "in/s/0.root").write_bytes(content)
        with (tmp_path / "in/s/2.root").open("ab") as handle:
            handle.write(b"more")
        with pytest.raises(DataError) as raised:
            verify(prepared.path, in_process, inputs=True)
        assert f"{tmp_path}/in/s/0.root has changed: hash " in str(raised.value)
        assert f"{tmp_path}/in/s/2.root has {(tmp_path / 'in/s/2.root').stat().st_size} bytes, it had " in str(raised.value)

    def test_a_disk_that_fails_is_named_with_the_file(self, prepared, tmp_path, monkeypatch):
        def failing(path):
            raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(verify_module, "file_hash", failing)
        with pytest.raises(OSError, match="Input/output error") as raised:
            verify(prepared.path, in_process, inputs=True)
        assert raised.value.__notes__ == [f"while reading {tmp_path}/in/s/0.root"]

    def test_a_server_that_does_not_answer_any_more_is_one_message(self, tmp_path, monkeypatch, capsys):
        write_ntuple(tmp_path / "served/s/a.root", random_ntuple(20, seed=1))
        with serving(tmp_path / "served") as server:
            url = f"{server.url}/s/a.root"
            run(tmp_path / "out", url, remote={"retries": 0})
        fsspec.filesystem("http").clear_instance_cache()
        with pytest.raises(SystemExit, match="2"):
            run_verb("verify", [str(tmp_path / "out"), "inputs=true", "tasks.scheduler=in_process"])
        assert f"distjet verify: error: while reading {url}: " in capsys.readouterr().err

    def test_on_a_server(self, tmp_path):
        for name in "abc":
            write_ntuple(tmp_path / f"served/s/{name}.root", random_ntuple(20, seed=ord(name)))
        changed, gone = tmp_path / "served/s/b.root", tmp_path / "served/s/c.root"
        with serving(tmp_path / "served") as server:
            urls = [f"{server.url}/s/{name}.root" for name in "abc"]
            staged = run(tmp_path / "staged", {"s": urls})
            direct = run(tmp_path / "direct", {"s": urls}, remote="direct")
            gone.unlink()
            assert verify(staged.path, in_process, inputs=True)["unchanged"] == 2
            assert verify(direct.path, in_process, inputs=True)["not_hashed"] == urls[:2]
            content = bytearray(changed.read_bytes())
            content[len(content) // 2] ^= 1
            changed.write_bytes(content)
            with pytest.raises(DataError, match=rf"1 problem\n{urls[1]} has changed: hash "):
                verify(staged.path, in_process, inputs=True)
        fsspec.filesystem("http").clear_instance_cache()
