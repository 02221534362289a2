"""Spec: the page says what the manifest says, without cutting a number, on a terminal of any width."""

import io
import json
import re
import shutil
from pathlib import Path

import pyarrow.compute as pc
import pytest
from rich.console import Console

from distjet.dataset.facts import facts
from distjet.dataset.inspection import describe_verified, print_page
from distjet.dataset.manifest import Manifest
from tests.dataset.files import configure, random_ntuple, read_all, run, write_ntuple


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Two classes, an input that cannot be read, nearest neighbours, rounded features."""
    folder = tmp_path_factory.mktemp("varied")
    write_ntuple(folder / "in/soft/jets.root", random_ntuple(150, seed=1))
    write_ntuple(folder / "in/hard/jets.root", random_ntuple(100, seed=2))
    (folder / "in/hard/broken.root").write_bytes(b"not a ROOT file")
    recipe = configure(folder / "out", str(folder / "in")).model_dump(mode="json")["recipe"] | {
        "labels": {"quark": "abs(truthjet_flavour) < 6", "gluon": "truthjet_flavour == 21"},
        "edges": {"name": "knn", "k": 3},
        "mantissa_bits": {"log_pt": 10},
    }
    return run(folder / "out", str(folder / "in"), recipe=recipe, tolerance={"max_files": 1})


def shown(manifest: Manifest, width: int) -> str:
    stream = io.StringIO()
    print_page(facts(manifest), Console(file=stream, width=width, color_system=None))
    return stream.getvalue()


def test_the_facts_are_those_of_the_rows(varied: Manifest) -> None:
    found = facts(varied)
    for split in ("train", "val", "test"):
        table = read_all(varied, [split])
        samples = {str(item["values"]): item["counts"] for item in pc.value_counts(table["sample"]).to_pylist()}
        assert {name: rows for name, rows in found["rows"][split]["samples"].items() if rows} == samples
        assert found["rows"][split]["total"] == table.num_rows
    table = read_all(varied)
    assert found["graph"]["kind"] == {"name": "knn", "k": 3}
    assert found["graph"]["mean_nodes"] == pytest.approx(pc.mean(table["num_nodes"]).as_py())
    assert found["graph"]["largest_graph"] == pc.max(table["num_nodes"]).as_py()
    files = [file for split in ("train", "val", "test") for file in (varied.path / split).glob("*.parquet")]
    assert found["storage"]["shards"] == len(files)
    assert found["storage"]["size_bytes"] == sum(file.stat().st_size for file in files)
    assert found["inputs"]["fates"] == {"used": 2, "quarantined": 1}
    assert [Path(file["path"]).name for file in found["inputs"]["not_used"]] == ["broken.root"]
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("width", [40, 100, 160, 300])
def test_every_fact_is_on_the_page(varied: Manifest, width: int) -> None:
    page, found = shown(varied, width), facts(varied)
    words = " ".join(page.split())
    assert "…" not in page
    for text in (varied.fingerprint, found["identity"]["content"]["total"], "knn, k 3", "read = cut + quarantined + rows"):
        assert text in words
    for name, rows in found["classes"].items():
        assert re.search(rf"^{name} +{rows:,} ", page, re.MULTILINE)
    for name, jets in found["accounting"]["cuts"].items():
        assert re.search(rf"^cut: {name} +{jets:,} ", page, re.MULTILINE)
    assert re.search(r"^quarantined .*broken.root", page, re.MULTILINE)
    assert re.search(r"^log_pt +node +ln\(GeV\) +float32, 10 bits ", page, re.MULTILINE)
    for column in found["columns"]:
        assert re.search(rf"^{column['name']} +{column['role']} ", page, re.MULTILINE)
        if "mean" in column:
            line = re.search(rf"^{column['name']}( / \S+)? +(\S+ .*)$", page[page.index("training rows ") :], re.MULTILINE)
            assert line is not None
            numbers = [column["mean"], column["std"], column["min"], *column["quantiles"].values(), column["max"]]
            if width < 140:
                numbers = [numbers[place] for place in (0, 1, 2, 3, 6, 9, 10)]
            assert line[2].split() == [f"{number:.4g}" for number in numbers]
    assert max(map(len, page.splitlines())) <= max(width, 100)


def test_what_does_not_add_up_is_said(varied: Manifest) -> None:
    content = json.loads(json.dumps(varied.content))
    content["accounting"]["cut"] += 1
    content["repeated_identities"] = 7
    page = " ".join(shown(Manifest(varied.path, content), 100).split())
    assert "THIS DOES NOT ADD UP; 7 rows repeat run, event and jet_index of another" in page


def test_jets_without_graphs_have_a_page(tmp_path: Path) -> None:
    write_ntuple(tmp_path / "in/soft/jets.root", random_ntuple(60, seed=1))
    recipe = configure(tmp_path, "in").model_dump(mode="json")["recipe"] | {"constituents": None, "nodes": []}
    recipe |= {"graph": [{"axis_eta": "jet_eta"}]}
    page = shown(run(tmp_path / "out", str(tmp_path / "in"), recipe=recipe), 100)
    assert "edges are not stored" in page


def test_many_files_are_not_all_listed(varied: Manifest) -> None:
    found = facts(varied)
    found["inputs"]["not_used"] *= 30
    stream = io.StringIO()
    print_page(found, Console(file=stream, width=100, color_system=None))
    assert stream.getvalue().count("broken.root") == 20
    assert "... and 10 more" in stream.getvalue()


def test_what_was_verified_is_said() -> None:
    checked = {
        "fingerprint": "f" * 32, "content": "c" * 32, "shards": 3, "rows": {"train": 1200, "val": 30, "test": 40},
        "row_groups": 5, "nodes": 4000, "edges": 9000, "size_bytes": 123_456_789, "repeated_identities": 0,
        "unchanged": 2, "gone": ["/a.root"], "not_hashed": [],
    }  # fmt: skip
    stream = io.StringIO()
    Console(file=stream, width=100).print(describe_verified(Path("/data"), checked))
    text = stream.getvalue()
    for part in ("3 shards, 5 row groups, 123.46 MB", "1,270 (train 1,200, val 30, test 40)", "/a.root is gone", "/data: ok"):
        assert part in text


def test_a_copy_elsewhere_has_the_same_facts(varied: Manifest, tmp_path: Path) -> None:
    shutil.copytree(varied.path, tmp_path / "copy")
    there, here = facts(Manifest.load(tmp_path / "copy")), facts(varied)
    assert (there.pop("path"), here.pop("path")) == (str(tmp_path / "copy"), str(varied.path))
    assert there == here
