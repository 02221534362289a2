"""Spec: inputs are named by pattern, folder, list or URL; each file is hashed, and compared with what a catalogue says."""

import hashlib
import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import uproot
import xxhash

from distjet.config import load, validate
from distjet.dataset.inputs import find_files, folder_name
from distjet.dataset.reading.checksums import Adler32, Checksum, Hasher, read_catalogue
from distjet.dataset.recipes.recipe import PrepareConfig, Remote
from distjet.errors import ConfigError, DataError
from tests.dataset.files import TREE, configure, random_ntuple, run, shard_bytes, write_ntuple


def found(inputs, output: Path) -> list[tuple[str, str]]:
    return find_files(configure(output, inputs))


@pytest.fixture
def folder(tmp_path) -> Path:
    for name in ("s/a.root", "s/b.root", "t/a.root"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "in"


def test_a_folder_without_root_files_may_hold_other_formats(tmp_path):
    for name in ("x/b.npz", "x/a.h5", "x/deep/c.hdf5", "x/readme.txt", "y/a.h5", "y/a.root"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = [
        path.removeprefix(f"{tmp_path}/") for _, path in found([str(tmp_path / "x"), str(tmp_path / "y")], tmp_path / "out")
    ]
    assert names == ["x/a.h5", "x/b.npz", "x/deep/c.hdf5", "y/a.root"]


class TestLists:
    def test_each_line_is_an_input(self, folder, tmp_path):
        lines = [
            "# a comment",
            "",
            "s/b.root   # another",
            "t",
            "  s/a*.root  ",
            "https://host/path#1/c.root",
            "s3://box/d.root",
        ]
        (folder / "list.txt").write_text("\n".join(lines))
        assert found(str(folder / "list.txt"), tmp_path) == [
            ("s", str(folder / "s/b.root")),
            ("t", str(folder / "t/a.root")),
            ("s", str(folder / "s/a.root")),
            ("host", "https://host/path#1/c.root"),
            ("box", "s3://box/d.root"),
        ]

    def test_a_list_may_stand_among_other_inputs(self, folder, tmp_path):
        (folder / "list.txt").write_text("s/a.root")
        files = found({"x": [str(folder / "list.txt"), str(folder / "t")]}, tmp_path)
        assert files == [("x", str(folder / "s/a.root")), ("x", str(folder / "t/a.root"))]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("s/a.root\nno.root", r"no file matches '.*/in/no.root' \(.*list.txt line 2\)"),
            ("other.txt", r"list.txt line 1: a list cannot name another list \('other.txt'\)"),
            ("s/a.root\ns/*.root", r"s/a.root is listed twice, through '.*list.txt' and '.*list.txt'"),
        ],
    )
    def test_what_is_wrong_is_named_with_its_line(self, folder, tmp_path, text, message):
        (folder / "list.txt").write_text(text)
        with pytest.raises(ConfigError, match=message):
            found(str(folder / "list.txt"), tmp_path)

    def test_a_list_that_is_not_there_is_an_error(self, folder, tmp_path):
        with pytest.raises(ConfigError, match=r"there is no list '.*none.txt' \(sample by folder\)"):
            found(str(folder / "none.txt"), tmp_path)

    def test_the_dataset_is_that_of_the_pattern(self, ntuples, dataset, tmp_path):
        (tmp_path / "list.txt").write_text("\n".join(map(str, sorted(ntuples.rglob("*.root")))))
        assert shard_bytes(run(tmp_path / "out", str(tmp_path / "list.txt"))) == shard_bytes(dataset)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/data/s/a.root", "s"),
        ("https://host:80/x/s/a.root?version=1", "s"),
        ("root://host//eos/s/a.root", "s"),
        ("s3://bucket/a.root", "bucket"),
    ],
)
def test_the_sample_is_the_name_of_the_folder(path, expected):
    assert folder_name(path) == expected


@pytest.mark.parametrize("pattern", ["s", "s/*.root", "s/lost.root"])
def test_a_link_that_leads_nowhere_is_an_input_that_is_not_there(folder, tmp_path, pattern):
    (folder / "s/lost.root").symlink_to(tmp_path / "nowhere.root")
    assert str(tmp_path / "nowhere.root") in [path for _, path in found(str(folder / pattern), tmp_path)]


@pytest.mark.parametrize("pattern", ["u", "u/*.root", "u/a.root", "u/../u", "v", "v/a.root"])
def test_the_sample_is_the_folder_as_the_user_sees_it(folder, tmp_path, monkeypatch, pattern):
    """A link to a file in a store, or to a folder, has the name of the place where it is found."""
    (folder / "u").mkdir()
    (folder / "u/a.root").symlink_to(folder / "s/a.root")
    (folder / "v").symlink_to(folder / "u")
    monkeypatch.chdir(folder)
    for inputs in (pattern, str(folder / pattern)):
        assert found(inputs, tmp_path) == [(pattern[0], str(folder / "s/a.root"))]


@pytest.mark.parametrize("pattern", ["s", "s/*.root"])
def test_a_folder_with_the_name_of_a_file_is_none(folder, tmp_path, pattern):
    (folder / "s/c.root").mkdir()
    assert [Path(path).name for _, path in found(str(folder / pattern), tmp_path)] == ["a.root", "b.root"]


def test_a_name_may_hold_the_signs_of_a_pattern(folder, tmp_path):
    path = folder / "s/a[1].root"
    path.write_bytes(b"")
    assert found(str(path), tmp_path) == [("s", str(path))]


def test_a_file_that_two_patterns_match_is_named_with_both(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"s/a.root is listed twice, through '.*/in/s' and '.*/a.root'"):
        found([str(folder / "s"), str(folder / "*/a.root")], tmp_path)


class TestHashes:
    def test_the_manifest_has_the_hash_of_each_file(self, dataset, ntuples):
        found = {item["path"]: item["xxh3_128"] for item in dataset.content["inputs"]}
        assert found == {str(path): xxhash.xxh3_128_hexdigest(path.read_bytes()) for path in ntuples.rglob("*.root")}
        assert all(item["checksum"] is None and item["page_checksums"] is None for item in dataset.content["inputs"])

    def test_the_same_content_under_the_same_base_name_is_a_duplicate(self, tmp_path):
        first = write_ntuple(tmp_path / "in/s/a.root", random_ntuple(30, seed=8))
        (tmp_path / "in/t").mkdir()
        (tmp_path / "in/t/a.root").write_bytes(first.read_bytes())
        manifest = run(tmp_path / "out", str(tmp_path / "in"), tolerance={"max_files": 1})
        assert [item["fate"] for item in manifest.content["inputs"]] == ["used", "duplicate"]
        assert manifest.content["inputs"][1]["reason"] == f"same content as {first}"

    def test_the_same_identifier_with_another_content_is_another_file(self, tmp_path):
        first = write_ntuple(tmp_path / "in/s/a.root", random_ntuple(30, seed=8))
        content = first.read_bytes()
        second = write_ntuple(tmp_path / "other.root", random_ntuple(30, seed=8, first_event=900)).read_bytes()
        with uproot.open(first) as file, uproot.open(tmp_path / "other.root") as other:
            mine, theirs = file.file.uuid.bytes, other.file.uuid.bytes
        (tmp_path / "in/s/b.root").write_bytes(second.replace(theirs, mine))
        assert content.count(mine) == second.count(theirs) > 0
        manifest = run(tmp_path / "out", str(tmp_path / "in"))
        assert [item["fate"] for item in manifest.content["inputs"]] == ["used", "used"]

    def test_a_file_that_changes_while_it_is_converted_is_named(self, tmp_path):
        path = write_ntuple(tmp_path / "in/s/a.root", random_ntuple(60, seed=1), parts=4)
        write_ntuple(tmp_path / "in/s/b.root", random_ntuple(60, seed=2))

        def touching(function, tasks, *, description, measure=None):
            for number, task in enumerate(tasks):
                if description.startswith("convert") and number == 1:
                    os.utime(path, ns=(1, 1))
                yield number, function(task)

        with pytest.raises(DataError, match=r"1 of 2 files .*a.root has changed since it was looked at"):
            run(tmp_path / "out", str(tmp_path / "in"), touching, entries_per_task=30)

    def test_a_run_that_continues_does_not_hash_again(self, tmp_path, monkeypatch):
        path = write_ntuple(tmp_path / "in/s/a.root", random_ntuple(60, seed=1))

        def killed(function, tasks, *, description, measure=None):
            if description.startswith("convert"):
                raise KeyboardInterrupt
            yield from ((number, function(task)) for number, task in enumerate(tasks))

        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "out", str(path), killed)
        with monkeypatch.context() as patch:
            patch.setattr(Hasher, "update_from", None)
            run(tmp_path / "out", str(path))
        os.utime(path, ns=(1, 1))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "other", str(path), killed)
        os.utime(path, ns=(2, 2))
        monkeypatch.setattr(Hasher, "update_from", None)
        with pytest.raises(DataError, match="'NoneType' object is not callable"):
            run(tmp_path / "other", str(path))


ALGORITHMS = {
    "adler32": lambda data: f"{zlib.adler32(data):08x}",
    "md5": lambda data: hashlib.md5(data).hexdigest(),
    "sha256": lambda data: hashlib.sha256(data).hexdigest(),
    "xxh3_128": xxhash.xxh3_128_hexdigest,
}


class TestCatalogue:
    """Spec: a file that is not the catalogue's is quarantined with both checksums; a line without a file is a mistake."""

    @pytest.mark.parametrize("algorithm", ALGORITHMS)
    def test_a_flipped_bit_is_found_that_nothing_else_would_find(self, tmp_path, algorithm):
        path = write_ntuple(tmp_path / "in/s/a.root", random_ntuple(60, seed=1))
        content = bytearray(path.read_bytes())
        expected = ALGORITHMS[algorithm](content)
        content[-1] ^= 1
        with uproot.open(path) as file:
            content[int(file[TREE].file.fSeekInfo) + 2] ^= 1  # part of a key that nobody reads
        path.write_bytes(content)
        assert run(tmp_path / "unchecked", str(path)).content["inputs"][0]["fate"] == "used"
        checksums = {str(path): f"{algorithm}:{expected}"}
        with pytest.raises(DataError, match="1 of 1 files"):
            run(tmp_path / "out", str(path), checksums=checksums)
        reason = json.loads((tmp_path / "out/quarantine.jsonl").read_text())["reason"]
        assert reason == (
            f"{path} is not the file of the catalogue: its {algorithm} is {ALGORITHMS[algorithm](content)}, not {expected}"
        )

    def test_a_file_of_the_catalogue_is_used_and_the_manifest_says_so(self, tmp_path):
        path = write_ntuple(tmp_path / "in/s/a.root", random_ntuple(60, seed=1))
        write_ntuple(tmp_path / "in/s/b.root", random_ntuple(60, seed=2))
        value = ALGORITHMS["adler32"](path.read_bytes())
        (tmp_path / "in/sums.list").write_text(f"# from the catalogue\n\nadler32 {value.upper()} s/a.root\n")
        manifest = run(tmp_path / "out", str(tmp_path / "in"), checksums=str(tmp_path / "in/sums.list"))
        items = manifest.content["inputs"]
        assert [item["checksum"] for item in items] == [{"algorithm": "adler32", "value": value}, None]
        assert manifest.fingerprint == run(tmp_path / "other", str(tmp_path / "in")).fingerprint

    @pytest.mark.parametrize(
        ("checksums", "message"),
        [
            ({"{in}/s/c.root": "adler32:1"}, r"checksums: .*/s/c.root is not among the inputs, did you mean '.*/s/a.root'"),
            ({"{in}/s/a.root": "crc32:1"}, r"checksums: .*a.root: unknown checksum algorithm 'crc32'; expected one of"),
            ({"{in}/s/a.root": "adler32:123456789"}, r"expected adler32 as 8 hexadecimal digits \(got '123456789'\)"),
            ({"{in}/s/a.root": "adler32:xyz"}, r"expected adler32 as 8 hexadecimal digits \(got 'xyz'\)"),
            ("none.list", r"checksums: there is no file none.list"),
        ],
    )
    def test_mistakes_are_named(self, tmp_path, checksums, message):
        write_ntuple(tmp_path / "in/s/a.root", random_ntuple(5, seed=1))
        if isinstance(checksums, dict):
            checksums = {path.replace("{in}", str(tmp_path / "in")): value for path, value in checksums.items()}
        with pytest.raises(ConfigError, match=message):
            run(tmp_path / "out", str(tmp_path / "in"), checksums=checksums)

    def test_checksums_that_come_too_late_are_named(self, tmp_path, caplog):
        path = write_ntuple(tmp_path / "in/s/a.root", random_ntuple(60, seed=1))
        right = {str(path): f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}"}
        run(tmp_path / "out", str(path), checksums=right)
        run(tmp_path / "out", str(path), checksums=right)
        assert "were not compared" not in caplog.text
        run(tmp_path / "out", str(path), checksums={str(path): f"md5:{'0' * 32}"})
        assert f"1 of its inputs were not compared with the checksums that are given now (the first: {path})" in caplog.text

    def test_a_line_that_is_none_is_named(self, tmp_path):
        (tmp_path / "sums").write_text("adler32 1 a.root\nadler32 2\n")
        with pytest.raises(ConfigError, match=r"sums line 2: expected `algorithm value path` \(got 'adler32 2'\)"):
            read_catalogue(tmp_path / "sums")

    def test_a_file_has_one_checksum(self, tmp_path):
        (tmp_path / "sums").write_text("adler32 1 a.root\nadler32 00000001 a.root\nadler32 2 a.root\n")
        with pytest.raises(ConfigError, match=r"a.root has two, 00000001 and 00000002"):
            read_catalogue(tmp_path / "sums")

    def test_paths_may_hold_blanks_and_be_urls(self, tmp_path):
        (tmp_path / "sums").write_text("adler32 1 my files/a.root\nmd5 2 https://host/a b.root\n")
        assert read_catalogue(tmp_path / "sums") == {
            str(tmp_path / "my files/a.root"): Checksum("adler32", "00000001"),
            "https://host/a b.root": Checksum("md5", "0" * 31 + "2"),
        }

    def test_direct_reading_cannot_be_compared(self, tmp_path):
        with pytest.raises(ConfigError, match="is not read as a whole with remote=direct; use remote=stage"):
            run(tmp_path / "out", "http://127.0.0.1/a.root", remote="direct", checksums={"http://127.0.0.1/a.root": "md5:1"})

    def test_adler32_is_that_of_zlib_in_any_pieces(self):
        data = np.random.default_rng(1).bytes(100_000)
        digest = Adler32()
        for start in range(0, len(data), 777):
            digest.update(data[start : start + 777])
        assert digest.hexdigest() == f"{zlib.adler32(data):08x}"
        assert zlib.adler32(b"Wikipedia") == 0x11E60398  # the example of the algorithm's article


class TestSecrets:
    @pytest.mark.parametrize("url", ["https://user:hunter2@host/a.root", "https://host/a.root?X-Amz-Signature=hunter2"])
    def test_a_url_with_a_password_is_refused_and_not_repeated(self, tmp_path, url):
        with pytest.raises(ConfigError, match=r"inputs.*credentials in the environment") as caught:
            load(
                PrepareConfig, [], [f"inputs={url}", f"output={tmp_path}/out", "recipe={jet: {pt: a, eta: b, phi: c, mass: d}}"]
            )
        assert "hunter2" not in str(caught.value)

    def test_nor_is_one_in_a_list(self, tmp_path):
        (tmp_path / "files.txt").write_text("https://user:hunter2@host/a.root\n")
        with pytest.raises(
            ConfigError, match=r"https://user:\*\*\*@host/a.root .*files.txt line 1.*in the environment"
        ) as caught:
            find_files(configure(tmp_path / "out", str(tmp_path / "files.txt")))
        assert "hunter2" not in str(caught.value)

    def test_options_with_a_secret_are_refused(self, tmp_path):
        options = {"s3": {"client_kwargs": {"aws_secret_access_key": "hunter2"}}}
        with pytest.raises(ConfigError, match=r"client_kwargs.aws_secret_access_key would be written beside") as caught:
            validate(Remote, {"options": options})
        assert "hunter2" not in str(caught.value)
