"""Spec: inputs on a server give the dataset of local ones, through failures that pass; what is not there is named."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.dataset.reading import remote, retries
from distjet.dataset.reading.checksums import Hasher
from distjet.dataset.reading.remote import RemoteFile, merge
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.errors import ConfigError, DataError, MissingExtraError
from distjet.execution import in_process
from tests.dataset.files import configure, random_ntuple, run, shard_bytes, write_ntuple
from tests.dataset.servers import Requests, serving

DATA = Path(__file__).parents[2] / "data"
MODES = ("stage", "direct")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files, of about 100 kB."""
    path = tmp_path_factory.mktemp("server")
    write_ntuple(path / "s/a.root", random_ntuple(60, seed=1), parts=4)
    write_ntuple(path / "s/b.root", random_ntuple(40, seed=2, first_event=500), parts=2)
    return path


@pytest.fixture(scope="module")
def expected(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The shards of the same files without a server."""
    return shard_bytes(run(tmp_path_factory.mktemp("local") / "out", {"s": str(folder)}))


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE_S", 0.001)


@pytest.fixture
def server(folder: Path):
    with serving(folder) as requests:
        yield requests
        fsspec.filesystem("http").clear_instance_cache()


def urls(server: Requests) -> dict[str, list[str]]:
    return {"s": [f"{server.url}/s/{name}.root" for name in "ab"]}


class TestHttp:
    @pytest.mark.parametrize("mode", MODES)
    def test_the_dataset_is_that_of_the_local_files(self, folder, expected, server, tmp_path, mode):
        manifest = run(tmp_path / "out", urls(server), remote=mode, entries_per_task=50)
        assert shard_bytes(manifest) == expected
        items = manifest.content["inputs"]
        assert [item["path"] for item in items] == urls(server)["s"]
        hasher = Hasher()
        hasher.update((folder / "s/a.root").read_bytes())
        assert items[0]["xxh3_128"] == (hasher.result()["xxh3_128"] if mode == "stage" else None)
        assert items[0]["size_bytes"] == (folder / "s/a.root").stat().st_size
        assert not (tmp_path / "out/.inputs").exists()

    @pytest.mark.parametrize("mode", MODES)
    @pytest.mark.parametrize("fault", [503, 429, "cut"])
    def test_a_failure_that_passes_is_survived(self, expected, server, tmp_path, mode, fault):
        server.fault = lambda number: fault if number % 4 else None
        manifest = run(tmp_path / "out", urls(server), remote=mode)
        assert shard_bytes(manifest) == expected
        assert len(server.gets()) >= 8

    def test_a_server_that_does_not_tell_the_size_at_first(self, expected, server, tmp_path):
        """fsspec then says that the file is not there."""
        server.head_fault = 503
        server.fault = lambda number: 503 if number < 3 else None
        assert shard_bytes(run(tmp_path / "out", urls(server))) == expected

    def test_a_failure_that_does_not_pass_is_raised_and_the_copy_continued_later(self, folder, server, tmp_path, monkeypatch):
        monkeypatch.setattr(remote, "BLOCK_BYTES", 10_000)
        server.fault = lambda number: 500 if number > 3 else None
        with pytest.raises(OSError, match="3 requests failed, the last with ClientResponseError: 500"):
            run(tmp_path / "out", urls(server), remote={"retries": 2})
        parts = list((tmp_path / "out/.inputs/copies").iterdir())
        assert [(part.suffix, part.stat().st_size) for part in parts] == [(".part", 30_000)]
        server.fault = lambda number: None
        server.seen.clear()
        run(tmp_path / "out", urls(server))
        assert server.gets()[0] == "bytes=30000-39999"

    @pytest.mark.parametrize("mode", MODES)
    def test_a_file_that_is_not_there_is_quarantined_and_not_asked_for_again(self, server, tmp_path, mode):
        missing = f"{server.url}/s/none.root"
        with pytest.raises(DataError, match="1 of 3 files were quarantined"):
            run(tmp_path / "out", {"s": [*urls(server)["s"], missing]}, remote=mode)
        line = json.loads((tmp_path / "out/quarantine.jsonl").read_text())
        assert line["file"] == missing
        assert line["reason"] == f"{missing} does not exist, says the server"
        assert [method for method, path, _ in server.seen if path == "/s/none.root"] == ["HEAD", "GET"]

    @pytest.mark.parametrize("mode", MODES)
    def test_a_broken_file_is_quarantined_under_its_url(self, folder, server, tmp_path, mode):
        whole = (folder / "s/b.root").read_bytes()
        (folder / "s/broken.root").write_bytes(whole[: len(whole) // 2])
        try:
            with pytest.raises(DataError, match="1 of 2 files"):
                run(tmp_path / "out", {"s": [urls(server)["s"][0], f"{server.url}/s/broken.root"]}, remote=mode)
        finally:
            (folder / "s/broken.root").unlink()
        line = json.loads((tmp_path / "out/quarantine.jsonl").read_text())
        assert line["file"] == f"{server.url}/s/broken.root"
        assert "broken.root cannot be read" in line["reason"]
        assert ".inputs" not in line["reason"]

    def test_a_refusal_is_for_the_user(self, server, tmp_path):
        server.fault = lambda number: 403
        with pytest.raises(ConfigError, match=r"a.root: the server refuses \(ClientResponseError: 403.*credentials"):
            run(tmp_path / "out", urls(server))
        assert len(server.gets()) == 1

    def test_a_server_without_ranges_sends_whole_files(self, expected, server, tmp_path):
        server.knows_ranges = False
        assert shard_bytes(run(tmp_path / "out", urls(server))) == expected
        with pytest.raises(ConfigError, match="the server does not know ranges of bytes; use remote=stage"):
            run(tmp_path / "direct", urls(server), remote="direct")

    def test_a_server_that_never_tells_the_size(self, expected, server, tmp_path):
        server.says_size = False
        assert shard_bytes(run(tmp_path / "out", urls(server))) == expected
        with pytest.raises(ConfigError, match="does not say how large the file is; use remote=stage"):
            run(tmp_path / "direct", urls(server), remote="direct")

    @pytest.mark.parametrize("mode", MODES)
    def test_a_file_that_changes_between_looking_and_converting_is_named(self, folder, server, tmp_path, mode):
        shutil.copy(folder / "s/a.root", folder / "s/changing.root")

        def changing(function, tasks, *, description, measure=None):
            if description.startswith("convert"):
                shutil.copy(folder / "s/b.root", folder / "s/changing.root")
                for copy in tmp_path.glob("out/.inputs/copies/*changing.root"):
                    copy.unlink()
            yield from ((number, function(task)) for number, task in enumerate(tasks))

        try:
            with pytest.raises(DataError, match=r"changing\.root has changed since it was looked at"):
                run(tmp_path / "out", {"s": f"{server.url}/s/changing.root"}, changing, remote=mode)
        finally:
            (folder / "s/changing.root").unlink()

    def test_copies_go_when_they_are_not_needed(self, server, tmp_path):
        left = []

        def watching(function, tasks, *, description, measure=None):
            for number, task in enumerate(tasks):
                yield number, function(task)
                if description.startswith("convert"):
                    left.append(len(list((tmp_path / "out/.inputs/copies").iterdir())))

        run(tmp_path / "out", urls(server), watching, entries_per_task=30)
        assert left[0] == 2
        assert left[-2:] == [1, 0]
        assert left == sorted(left, reverse=True)

    def test_a_run_that_continues_asks_for_nothing_twice(self, expected, server, tmp_path):
        def killed(function, tasks, *, description, measure=None):
            if description == "build shards":
                raise KeyboardInterrupt
            yield from ((number, function(task)) for number, task in enumerate(tasks))

        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "out", urls(server), killed)
        server.seen.clear()
        assert shard_bytes(run(tmp_path / "out", urls(server))) == expected
        assert server.gets() == []

    def test_few_requests_are_made_for_many_branches(self, server, tmp_path):
        """A task asks for its baskets at once; what lies close together is one request."""
        run(tmp_path / "out", urls(server), remote="direct")
        assert len(server.gets()) < 30

    def test_an_rntuple_is_read_where_it_lies(self, tmp_path):
        config = {
            "output": str(tmp_path / "out"),
            "recipe": {
                "tree": "tree",
                "constituents": {"px": "part_px", "py": "part_py", "pz": "part_pz", "energy": "part_energy"},
                "nodes": ["log_pt"],
            },
            "remote": "direct",
        }
        with serving(DATA) as requests:
            inputs = f"{requests.url}/jets_rntuple_zstd.root"
            prepare(PrepareConfig.model_validate(config | {"inputs": inputs}), in_process)
            assert len(requests.gets()) < 30
        manifest = Manifest.load(tmp_path / "out")
        assert sum(manifest.content["rows"].values()) == 300
        assert manifest.content["inputs"][0]["page_checksums"] is True


@pytest.fixture(scope="module")
def bucket(folder: Path) -> Iterator[dict]:
    """A server of the S3 protocol on this machine, with the two files in a bucket."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    credentials = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in credentials.items():
            patch.setenv(name, value)
        server.start()
        options = {"endpoint_url": "http://{}:{}".format(*server.get_host_and_port())}
        files = fsspec.filesystem("s3", **options)
        files.mkdir("jets")
        for name in "ab":
            files.put_file(str(folder / f"s/{name}.root"), f"jets/s/{name}.root")
        yield {"s3": options}
        files.clear_instance_cache()
        server.stop()


class TestS3:
    @pytest.mark.parametrize("mode", MODES)
    def test_the_dataset_is_that_of_the_local_files(self, expected, bucket, tmp_path, mode):
        manifest = run(tmp_path / "out", {"s": "s3://jets/s/*.root"}, remote={"mode": mode, "options": bucket})
        assert shard_bytes(manifest) == expected
        assert [item["path"] for item in manifest.content["inputs"]] == ["s3://jets/s/a.root", "s3://jets/s/b.root"]

    def test_what_is_not_there_is_quarantined(self, bucket, tmp_path):
        with pytest.raises(DataError, match=r"s3://jets/s/none\.root does not exist, says the server"):
            run(tmp_path / "out", {"s": ["s3://jets/s/a.root", "s3://jets/s/none.root"]}, remote={"options": bucket})

    def test_a_pattern_without_a_match_is_an_error(self, bucket, tmp_path):
        with pytest.raises(ConfigError, match=r"no file matches 's3://jets/t/\*.root'"):
            run(tmp_path / "out", {"s": "s3://jets/t/*.root"}, remote={"options": bucket})


class TestXRootD:
    """A server of the protocol root:// on this machine, where one is installed."""

    @pytest.fixture
    def address(self, folder, tmp_path):
        pytest.importorskip("fsspec_xrootd")
        program = shutil.which("xrootd")
        if program is None:
            pytest.skip("there is no xrootd server on this machine")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        own = tempfile.mkdtemp()  # short, as the server puts a socket there
        Path(own, "cfg").write_text(f"xrd.port {port}\nall.export /\nall.adminpath {own}\nall.pidpath {own}\n")
        shutil.copytree(folder, Path(own, "data"))
        for path in (Path(own), *Path(own).rglob("*")):
            path.chmod(0o777)
        user = ["-R", "nobody"] if os.geteuid() == 0 else []
        server = subprocess.Popen([program, *user, "-c", f"{own}/cfg", "-l", f"{own}/log"])
        try:
            self.wait_for(port)
            yield f"root://127.0.0.1:{port}/{own}/data"
        finally:
            server.terminate()
            server.wait()
            shutil.rmtree(own)

    def wait_for(self, port: int) -> None:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.1)
        raise TimeoutError("the xrootd server does not start")

    @pytest.mark.parametrize("mode", MODES)
    def test_the_dataset_is_that_of_the_local_files(self, expected, address, tmp_path, mode):
        manifest = run(tmp_path / "out", {"s": f"{address}/s/*.root"}, remote=mode)
        assert shard_bytes(manifest) == expected
        assert [item["path"] for item in manifest.content["inputs"]] == [f"{address}/s/a.root", f"{address}/s/b.root"]

    def test_what_is_not_there_is_quarantined(self, address, tmp_path):
        with pytest.raises(DataError, match=r"/s/none\.root does not exist, says the server"):
            run(tmp_path / "out", {"s": [f"{address}/s/a.root", f"{address}/s/none.root"]})


class TestMissingPackages:
    @pytest.mark.parametrize(("url", "package"), [("root://host//a.root", "fsspec_xrootd"), ("s3://bucket/a.root", "s3fs")])
    def test_the_extra_is_named(self, monkeypatch, tmp_path, url, package):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.delitem(sys.modules["fsspec.registry"]._registry, url.partition(":")[0], raising=False)
        with pytest.raises(MissingExtraError, match=rf"{url} needs a package .*: pip install 'distjet\[remote\]'"):
            run(tmp_path / "out", {"s": url})

    def test_an_unknown_protocol_is_named(self, tmp_path):
        with pytest.raises(ConfigError, match=r"unknown protocol 'htps', did you mean 'https'"):
            run(tmp_path / "out", {"s": "htps://host/a.root"})
        with pytest.raises(ValueError, match=r"remote.options.s4"):
            configure(tmp_path / "out", "a.root", remote={"options": {"s4": {"anon": True}}})


class TestRanges:
    @given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**5)), max_size=30))
    def test_merged_ranges_hold_all_ranges_and_do_not_touch(self, given_ranges):
        ranges = [(start, start + size) for start, size in given_ranges]
        merged = merge(ranges)
        assert merged == sorted(merged)
        assert all(any(low <= start and stop <= high for low, high in merged) for start, stop in ranges)
        assert all(left[1] < right[0] or right[1] - left[0] > remote.LARGEST_MERGED for left, right in pairwise(merged))

    def test_ranges_come_back_in_their_order(self, folder, server):
        content = (folder / "s/a.root").read_bytes()
        file = RemoteFile(f"{server.url}/s/a.root", 0)
        ranges = [(70_000, 70_010), (0, 4), (2, 9), (70_005, 70_006), (5, 5)]
        assert file.read(ranges) == [content[start:stop] for start, stop in ranges]
        assert len(server.gets()) == 2

    def test_two_tasks_make_one_copy(self, folder, server, tmp_path):
        content = (folder / "s/a.root").read_bytes()
        target = tmp_path / "copies/a.root"
        hashers = [Hasher(), Hasher()]
        file = RemoteFile(f"{server.url}/s/a.root", 0)
        threads = [threading.Thread(target=file.download, args=(target, len(content), hasher)) for hasher in hashers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert target.read_bytes() == content
        assert hashers[0].result() == hashers[1].result()
        assert len(server.gets()) == 1
        assert [path.name for path in target.parent.iterdir()] == ["a.root"]

    def test_pauses_grow_and_are_bounded(self, monkeypatch):
        monkeypatch.setattr(retries, "FIRST_PAUSE_S", 1.0)
        for attempt in range(10):
            span = min(2**attempt, retries.LONGEST_PAUSE_S)
            assert all(span / 2 <= retries.pause_s(attempt) <= span for _ in range(20))
