"""Spec: fields of an RNTuple are read from exactly their clusters, and no page is used that is not the one that was written."""

import json
import logging
from itertools import pairwise
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot
from hypothesis import given
from hypothesis import strategies as st

from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.dataset.reading.entries import describe_file, read_branches
from distjet.dataset.reading.ragged import Ragged
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.errors import DataError
from distjet.execution import in_process

DATA = Path(__file__).parents[2] / "data"
SHAPES = str(DATA / "rntuple_shapes.root")
"Written by ROOT: rntuple_shapes.cpp."
NAMES = ("number", "flag", "event", "list", "lists", "triple", "view", "late_number", "late_list")
NUM_ENTRIES = 60
RECIPE = {
    "tree": "tree",
    "constituents": {"px": "part_px", "py": "part_py", "pz": "part_pz", "energy": "part_energy"},
    "nodes": ["log_pt"],
}


def truth(entry: int) -> dict:
    """Return what the program that wrote the file has put in an entry."""
    late = entry >= 33
    return {
        "number": 0.5 * entry,
        "flag": entry % 3 == 0,
        "event": 9_000_000_000_000_000_000 + entry,
        "list": [1.25 * entry] * (entry % 4),
        "lists": [[entry - 100 * k] * (k + entry % 2) for k in range(entry % 3)],
        "triple": [entry, 2 * entry, 3 * entry],
        "view": [1.25 * entry] * (entry % 4),
        "late_number": 1000 + entry if late else 0,
        "late_list": [-entry] * (entry % 2 + 1) if late else [],
    }


def as_lists(ragged: Ragged) -> list:
    array = ragged.content.tolist()
    for offsets in reversed(ragged.offsets):
        array = [array[low:high] for low, high in pairwise(offsets)]
    return array


@given(st.integers(0, NUM_ENTRIES), st.integers(0, NUM_ENTRIES))
def test_any_range_is_what_was_written(first, second):
    start, stop = sorted((first, second))
    found = {name: as_lists(ragged) for name, ragged in read_branches(SHAPES, "tree", NAMES, start, stop).items()}
    expected = [truth(entry) for entry in range(start, stop)]
    assert found == {name: [entry[name] for entry in expected] for name in NAMES}


def test_types_and_clusters_are_described():
    found = describe_file(SHAPES, "tree", (*NAMES, "lis"))
    assert found["branches"] == {
        "number": ("float32", 0), "flag": ("bool", 0), "event": ("int64", 0), "list": ("float32", 1), "lists": ("int16", 2),
        "triple": ("float64", 1), "view": ("float32", 1), "late_number": ("float32", 0), "late_list": ("float32", 1),
    }  # fmt: skip
    assert found["clusters"] == [0, 10, 20, 30, 40, 50, 60]
    assert found["entries"] == NUM_ENTRIES
    assert found["missing"] == {"lis": ", did you mean 'list'"}
    assert found["page_checksums"] is True


def test_text_is_not_a_number():
    with pytest.raises(DataError, match="branch 'text' holds std::string; expected numbers or lists of numbers"):
        describe_file(SHAPES, "tree", ["text"])


def test_members_of_structs_in_lists_are_lists(tmp_path):
    path = tmp_path / "a.root"
    pt = ak.Array([[1.0, 2.0], [], [3.0]])
    with uproot.recreate(path) as file:
        file.mkrntuple("tree", {"jet": ak.zip({"pt": pt, "area": 2 * pt}), "mass": np.arange(3.0)})
    assert describe_file(str(path), "tree", ["jet.pt"])["branches"] == {"jet.pt": ("float64", 1)}
    found = read_branches(str(path), "tree", ["jet.pt", "jet.area"], 0, 3)
    assert as_lists(found["jet.pt"]) == pt.to_list()
    assert as_lists(found["jet.area"]) == (2 * pt).to_list()


def test_what_is_no_list_of_numbers_is_refused(tmp_path):
    path = tmp_path / "a.root"
    with uproot.recreate(path) as file:
        maybe, structs = ak.Array([1.0, None]), ak.zip({"pt": [1.0, 2.0]})
        file.mkrntuple("tree", {"maybe": maybe, "struct": structs, "structs": ak.unflatten(structs, [1, 1])})
    for name in ("maybe", "struct", "structs"):
        with pytest.raises(DataError, match=f"branch '{name}' holds .*; expected numbers or lists of numbers"):
            describe_file(str(path), "tree", [name])
    assert describe_file(str(path), "tree", ["struct.pt"])["branches"] == {"struct.pt": ("float64", 0)}
    assert read_branches(str(path), "tree", ["struct.pt"], 0, 2)["struct.pt"].content.tolist() == [1, 2]


def pages_of(path: str, field: str) -> list[tuple[int, int, int, int]]:
    """Return (cluster, page, first byte, size) of the pages of a field's last column, as uproot tells."""
    with uproot.open(path) as file:
        ntuple = file["tree"]
        ids = {found.path or number: number for number, found in enumerate(ntuple.all_fields)}
        chain = [number for number in ids.values() if number == ids[field] or _below(ntuple, number, ids[field])]
        column = next(index for index, record in enumerate(ntuple.column_records) if record.field_id == max(chain))
        return [
            (cluster, number, page.locator.offset, page.locator.num_bytes)
            for cluster, lists in enumerate(ntuple.page_link_list)
            if column < len(lists)
            for number, page in enumerate(lists[column].pages)
        ]


def _below(ntuple, number: int, top: int) -> bool:
    parent = ntuple.field_records[number].parent_field_id
    return parent == top or (parent != number and _below(ntuple, parent, top))


class TestPageChecksums:
    """Spec: a page whose bytes are not those that its checksum is of is an error that names file, field, cluster and page."""

    def flipped(self, tmp_path: Path, place: int, bit: int = 0) -> str:
        content = bytearray(Path(SHAPES).read_bytes())
        content[place] ^= 1 << bit
        path = tmp_path / f"flipped_{place}.root"
        path.write_bytes(content)
        return str(path)

    @pytest.mark.parametrize("field", ["number", "flag", "list", "lists", "triple", "late_list"])
    def test_a_flipped_bit_in_a_page_is_found_and_named(self, tmp_path, field):
        for cluster, page, start, size in pages_of(SHAPES, field):
            for place in (start, start + size - 1, start + size, start + size + 7):  # the last two: of the checksum
                path = self.flipped(tmp_path, place, place % 8)
                with pytest.raises(DataError) as caught:
                    read_branches(path, "tree", [field], 0, NUM_ENTRIES)
                assert str(caught.value).startswith(f"{path}: field {field!r}, cluster {cluster}, column ")
                assert f"page {page} at byte {start} is damaged" in str(caught.value)

    def test_only_what_is_read_is_checked(self, tmp_path):
        cluster, _, start, _ = pages_of(SHAPES, "number")[-1]
        path = self.flipped(tmp_path, start)
        assert cluster == 5
        assert len(read_branches(path, "tree", NAMES, 0, 50)["number"].content) == 50
        assert len(read_branches(path, "tree", ["list"], 0, 60)["list"].offsets[0]) == 61

    def test_a_flipped_bit_in_a_list_of_pages_is_found(self, tmp_path):
        """What uproot cannot make sense of, it finds itself."""
        with uproot.open(SHAPES) as file:
            groups = [record.page_list_link.locator for record in file["tree"].footer.cluster_group_records]
        assert len(groups) == 3
        message = r"flipped_\d+.root(: the list of pages of cluster group \d is damaged| cannot be read)"
        for number, group in enumerate(groups):
            for place in range(group.offset + 9, group.offset + group.num_bytes, 7):
                with pytest.raises(DataError, match=message):
                    read_branches(self.flipped(tmp_path, place), "tree", NAMES, 20 * number, 20 * number + 1)

    @pytest.mark.parametrize("seed", range(4))
    def test_no_flipped_bit_anywhere_changes_a_number(self, tmp_path, seed):
        rng = np.random.default_rng(seed)
        expected = {name: as_lists(ragged) for name, ragged in read_branches(SHAPES, "tree", NAMES, 0, NUM_ENTRIES).items()}
        found = 0
        for place in rng.integers(0, Path(SHAPES).stat().st_size, 40):
            path = self.flipped(tmp_path, int(place), int(rng.integers(8)))
            try:
                values = read_branches(path, "tree", NAMES, 0, NUM_ENTRIES)
            except DataError:
                found += 1
            else:
                assert {name: as_lists(ragged) for name, ragged in values.items()} == expected
        assert found > 5

    def test_a_file_with_a_damaged_page_is_quarantined(self, tmp_path):
        content = bytearray((DATA / "jets_rntuple_zstd.root").read_bytes())
        content[pages_of(str(DATA / "jets_rntuple_zstd.root"), "part_py")[0][2] + 100] ^= 4
        (tmp_path / "bad.root").write_bytes(content)
        config = PrepareConfig(inputs=str(tmp_path / "bad.root"), output=tmp_path / "out", recipe=RECIPE)
        with pytest.raises(DataError, match="1 of 1 files were quarantined"):
            prepare(config, in_process)
        line = json.loads((tmp_path / "out/quarantine.jsonl").read_text())
        assert "field 'part_py', cluster 0" in line["reason"]

    def test_pages_without_checksums_are_said_once(self, tmp_path, caplog):
        with uproot.open(DATA / "jets_rntuple_zstd.root") as file:
            arrays = file["tree"].arrays()
        folder = tmp_path / "in"
        folder.mkdir()
        for name, part in (("a", arrays[:150]), ("b", arrays[150:])):
            with uproot.recreate(folder / f"{name}.root") as file:
                file.mkrntuple("tree", {field: part[field] for field in arrays.fields})
        config = PrepareConfig(inputs=str(tmp_path / "in"), output=tmp_path / "out", recipe=RECIPE)
        with caplog.at_level(logging.WARNING):
            prepare(config, in_process)
        assert [item["page_checksums"] for item in Manifest.load(tmp_path / "out").content["inputs"]] == [False, False]
        assert len([text for text in caplog.messages if "pages that have no checksum" in text]) == 1
