"""Spec: a key names a folder or an object store, never a secret; on a store, what appears is whole and locks are kept."""

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pydantic import BaseModel

from distjet import lease, storage
from distjet.config import Config, validate
from distjet.dataset.manifest import Manifest
from distjet.errors import ConfigError, DataError, MissingExtraError
from distjet.run_directory import (
    appearing_whole,
    claim,
    locked,
    read_json,
    write_atomically,
    write_json,
    write_json_once,
)
from distjet.storage import Location, as_location, check_options, local_copy, poll_interval_s, within, without_secrets


class Places(Config):
    output: Location
    other: Location | None = None


class TestLocation:
    def test_a_local_path_is_a_path(self):
        assert validate(Places, {"output": "a/b"}).output == Path("a/b")
        assert Places(output=Path("a/b")).model_dump(mode="json") == {"output": "a/b", "other": None}

    def test_a_url_has_the_interface_of_a_path_and_comes_back_from_its_text(self):
        pytest.importorskip("s3fs")
        places = validate(Places, {"output": "s3://jets/runs/one/"})
        assert str(places.output) == "s3://jets/runs/one"
        assert str(places.output / "a" / "b.json") == "s3://jets/runs/one/a/b.json"
        assert places.output.resolve() == places.output.absolute() == places.output
        assert validate(Places, places.model_dump(mode="json")) == places
        assert pickle.loads(pickle.dumps(places.output)) == places.output

    @pytest.mark.parametrize(
        ("given", "problem"),
        [
            ("gs://jets/a", "expected a path, or s3://bucket/folder (got 'gs://jets/a')"),
            (3, "expected a path, or s3://bucket/folder (got 3)"),
            ("s3://jets/a/../b", "expected s3://bucket/folder, without '..' (got 's3://jets/a/../b')"),
            ("s3://", "expected s3://bucket/folder, without '..' (got 's3://')"),
            (Path("s3://jets/a"), "a URL has two slashes, which pathlib.Path takes for one: give it as text"),
        ],
    )
    def test_what_is_neither_is_refused(self, given, problem):
        with pytest.raises(ConfigError) as caught:
            validate(Places, {"output": given})
        assert problem in str(caught.value)

    def test_the_extra_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "s3fs", None)
        with pytest.raises(MissingExtraError, match=r"s3://jets/a needs a package .*: pip install 'distjet\[remote\]'"):
            as_location("s3://jets/a")

    def test_a_look_at_a_store_is_rare(self):
        assert poll_interval_s(Path("a"), 0.5) == 0.5
        assert poll_interval_s(as_location("s3://jets/a"), 0.5) == storage.REMOTE_LOOK_S


class TestSecrets:
    @pytest.mark.parametrize(
        "url",
        [
            "s3://user:hunter2@jets/a",
            "s3://hunter2@jets/a",
            "s3://jets/a?X-Amz-Signature=hunter2",
            "s3://jets/a?versionId=1&access_token=hunter2",
            "s3://jets/a?sig=hunter2",
        ],
    )
    def test_a_url_with_a_secret_is_refused_and_the_message_does_not_repeat_it(self, url):
        with pytest.raises(ConfigError, match="credentials in the environment") as caught:
            validate(Places, {"output": url})
        assert "hunter2" not in str(caught.value)
        assert "hunter2" not in without_secrets(f"before {url} after")

    def test_what_is_no_secret_is_left_as_it_is(self):
        text = "root://user@host//a.root https://host/a?file=1&part=2 s3://jets/a:b mail@example.org"
        assert without_secrets(text) == text

    @pytest.mark.parametrize(
        "options",
        [
            {"s3": {"secret": "hunter2"}},
            {"s3": {"key": "hunter2"}},
            {"s3": {"client_kwargs": {"aws_session_token": "hunter2"}}},
            {"https": {"client_kwargs": {"headers": {"Authorization": "hunter2"}}}},
            {"https": {"client_kwargs": {"proxy": "http://user:hunter2@proxy"}}},
        ],
    )
    def test_options_with_a_secret_are_refused(self, options):
        with pytest.raises(ValueError, match="credentials in the environment") as caught:
            check_options(options)
        assert "hunter2" not in str(caught.value)

    def test_other_options_are_not(self):
        check_options({"s3": {"anon": True, "endpoint_url": "https://host", "config_kwargs": {"retries": {"max_attempts": 3}}}})


class TestNames:
    @pytest.mark.parametrize("name", ["../a", "a/../../b", "/etc/passwd", "", "a\0b", "..", "a\\..\\b", "s3://jets/a", 3, None])
    def test_a_name_that_leaves_the_folder_is_refused(self, tmp_path, name):
        with pytest.raises(DataError, match="is not the name of a file in this folder"):
            within(tmp_path, name)

    def test_other_names_are_files_of_the_folder(self, tmp_path):
        assert within(tmp_path, "train/part-0.parquet") == tmp_path / "train/part-0.parquet"
        assert str(within(as_location("s3://jets/a"), "b")) == "s3://jets/a/b"


class TestFilesOnAStore:
    def test_files_appear_whole(self, bucket):
        folder = as_location(bucket)
        write_atomically(folder / "a/text", "one")
        write_json(folder / "a/json", {"two": 2})
        with appearing_whole(folder / "b") as temporary:
            temporary.write_bytes(b"three")
            assert not (folder / "b").exists()
        assert ((folder / "a/text").read_text(), read_json(folder / "a/json"), (folder / "b").read_bytes()) == (
            *("one", {"two": 2}),
            b"three",
        )

    def test_what_raises_leaves_nothing(self, bucket):
        folder = as_location(bucket)

        def fail(temporary: Path) -> None:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), appearing_whole(folder / "a") as temporary:
            fail(temporary)
        assert not (folder / "a").exists()
        assert not temporary.parent.exists()

    def test_of_many_that_write_once_one_succeeds(self, bucket):
        file, failures = as_location(bucket) / "manifest.json", []

        def write(number: int) -> None:
            try:
                write_json_once(file, number)
            except FileExistsError:
                failures.append(number)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted([*failures, read_json(file)]) == list(range(8))
        write_json_once(file, read_json(file))  # the same content is no conflict

    def test_a_directory_is_claimed_once(self, bucket):
        output = as_location(bucket)
        claim(output, "train", {"seed": 1})
        claim(output, "train", {"seed": 1})
        write_json(output / "metrics.json", {})
        with pytest.raises(ConfigError, match=rf"{bucket} holds the output of another `distjet train` \(different: seed\)"):
            claim(output, "train", {"seed": 2})

    def test_a_local_copy_is_there_for_the_time_of_the_block(self, bucket):
        write_atomically(as_location(bucket) / "a.txt", "text")
        with local_copy(as_location(bucket) / "a.txt") as copy:
            assert copy.read_text() == "text"
            assert copy.name == "a.txt"
        assert not copy.exists()

    def test_a_store_that_is_not_there_is_named_with_what_to_do(self, store):
        with (
            pytest.raises(ConfigError, match=r"s3://nobody-has-this/a cannot be reached .*bucket.*AWS_ENDPOINT_URL"),
            locked(as_location("s3://nobody-has-this/a")),
        ):
            pass


class TestAnswers:
    """A store that does not answer, or refuses, is not taken for one that has nothing."""

    def test_what_is_there(self, bucket):
        folder = as_location(bucket)
        write_atomically(folder / "a/b", "text")
        kinds = {
            name: ((folder / name).exists(), (folder / name).is_file(), (folder / name).is_dir()) for name in ("a", "a/b", "c")
        }
        assert kinds == {"a": (True, False, True), "a/b": (True, True, False), "c": (False, False, False)}

    def test_a_store_that_does_not_answer_is_an_error(self, bucket, monkeypatch):
        location = as_location(bucket) / "history.jsonl"

        def refuse(path: str, **options: object) -> None:
            raise PermissionError("Access Denied")

        monkeypatch.setattr(location.fs, "info", refuse)
        for ask in (location.exists, location.is_file, location.is_dir):
            with pytest.raises(PermissionError, match="Access Denied"):
                ask()
        with pytest.raises(ConfigError, match=r"cannot be reached \(PermissionError: Access Denied\).*AWS_PROFILE"):
            Manifest.load(bucket)


class TestLease:
    @pytest.fixture(autouse=True)
    def short_times(self, monkeypatch):
        monkeypatch.setattr(lease, "LEASE_S", 1.5)
        monkeypatch.setattr(lease, "RENEWAL_S", 0.3)
        monkeypatch.setattr(lease, "LOOK_S", 0.1)

    def pretend(self, output: Path, **changes) -> Path:
        """Leave the lock of another process behind."""
        owner = {"process": os.getpid(), "machine": "another", "id": "other"} | changes
        lock = output / lease.LOCKS / "00000007"
        write_atomically(lock, json.dumps(owner))
        return lock

    def test_a_second_process_is_refused_while_the_first_one_renews(self, bucket):
        output = as_location(bucket)
        with (
            locked(output),
            pytest.raises(ConfigError, match=rf"{bucket} is being written by another process \(process {os.getpid()} on "),
            locked(output),
        ):
            pass
        with locked(output):
            assert [lock.name for lock in (output / lease.LOCKS).iterdir()] == ["00000001"]
        assert not (output / lease.LOCKS).exists()

    def test_a_process_of_this_machine_that_is_gone_is_not_waited_for(self, bucket, monkeypatch):
        monkeypatch.setattr(lease, "LEASE_S", 1e6)
        output = as_location(bucket)
        gone = subprocess.run(
            [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True
        )
        self.pretend(output, process=int(gone.stdout), machine=lease._machine())
        with locked(output):
            assert [lock.name for lock in (output / lease.LOCKS).iterdir()] == ["00000008"]

    def test_a_lock_that_nobody_renews_is_over_after_a_while(self, bucket):
        output = as_location(bucket)
        self.pretend(output)
        started = time.monotonic()
        with locked(output):
            assert time.monotonic() - started >= 1.5

    def test_an_old_lock_is_over_at_once(self, bucket, monkeypatch):
        output = as_location(bucket)
        self.pretend(output)
        monkeypatch.setattr(lease, "LARGEST_SKEW_S", -1.0)
        monkeypatch.setattr(lease, "LEASE_S", 1e6)
        with locked(output):
            pass

    def test_of_two_that_find_a_lock_over_one_takes_it(self, bucket):
        output, taken = as_location(bucket), []
        self.pretend(output)

        def take(number: int) -> None:
            try:
                with locked(output):
                    taken.append(number)
                    time.sleep(3)
            except ConfigError:
                pass

        threads = [threading.Thread(target=take, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(taken) == 1

    def test_a_store_that_ignores_conditions_is_refused(self, bucket, monkeypatch):
        monkeypatch.setattr(storage, "_mode", lambda only_once: {})
        output = as_location(bucket)
        with pytest.raises(ConfigError, match=rf"{bucket}: this object store ignores conditions"), locked(output):
            pass
        assert not output.exists()

    def test_who_was_overtaken_ends(self, bucket, monkeypatch):
        output, ended = as_location(bucket), threading.Event()
        monkeypatch.setattr(lease.os, "kill", lambda process, number: ended.set())
        with locked(output):
            self.pretend(output)
            assert ended.wait(5)


def test_a_location_can_be_a_field_of_any_model():
    class Model(BaseModel):
        place: Location

    assert Model(place="a").place == Path("a")
