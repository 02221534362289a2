"""Spec: a key names a folder or an object store, never a secret; on a store, what appears is whole and locks are kept."""

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
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
from distjet.storage import (
    Location,
    as_location,
    check_options,
    check_url,
    local_copy,
    poll_interval_s,
    reaching,
    within,
    without_secrets,
)


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
            *(
                (url, f"expected s3://bucket/folder, without '.', '..', '//' and any of *?[]# (got '{url}')")
                for url in (
                    *("s3://", "s3:///jets/a", "s3://jets//a", "s3://jets/a//", "s3://jets/a/../b", "s3://jets/./a"),
                    *("s3://jets/run*", "s3://jets/a?versionId=1", "s3://jets/run[1]", "s3://jets/a]", "s3://jets/a#2"),
                )
            ),
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
            "s3://jets/a#access_token=hunter2",
            "s3://user:/hunter2@jets/a",
            "s3://user:12/hunter2@jets/a",
            "s3://user:?#/hunter2@jets/a",
            "s3://user:@hunter2@jets/a",
        ],
    )
    def test_a_url_with_a_secret_is_refused_and_the_message_does_not_repeat_it(self, url):
        with pytest.raises(ConfigError, match="credentials in the environment") as caught:
            validate(Places, {"output": url})
        assert "hunter2" not in str(caught.value)
        assert "hunter2" not in without_secrets(f"before {url} after")

    @pytest.mark.parametrize("bucket", ["jets:hunter2", "user:80"])
    def test_a_bucket_has_no_mark_of_a_password(self, bucket):
        with pytest.raises(ConfigError, match=r"a bucket has neither ':' nor '@'; .* credentials in the environment"):
            validate(Places, {"output": f"s3://{bucket}/a"})

    @pytest.mark.parametrize("url", ["root://user:/hunter2@host//a", "https://user:1/hunter2@host/a"])
    def test_other_urls_with_a_password_are_refused(self, url):
        with pytest.raises(ValueError, match="credentials in the environment"):
            check_url(url)
        assert "hunter2" not in without_secrets(url)

    @pytest.mark.parametrize(
        "url", ["root://user@host:1094//a/b@c.root", "root://host:1094//a@b", "https://host/a@b", "https://h:8/a"]
    )
    def test_other_urls_are_not(self, url):
        check_url(url)

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
            {"https": {"client_kwargs": {"headers": [["Authorization", "hunter2"]]}}},
            {"https": {"headers": (("accept", "*/*"), ("X-Api-Key", "hunter2"))}},
            {"https": {"proxies": ["http://host", {"first": "http://user:hunter2@proxy"}]}},
            *(
                {"https": {name: "hunter2"}}
                for name in ("api_key", "apikey", "db_pwd", "passphrase", "cookies", "bearer", "private-key", "privatekey")
            ),
        ],
    )
    def test_options_with_a_secret_are_refused(self, options):
        with pytest.raises(ValueError, match="credentials in the environment") as caught:
            check_options(options)
        assert "hunter2" not in str(caught.value)

    def test_other_options_are_not(self):
        check_options({"s3": {"anon": True, "endpoint_url": "https://host", "config_kwargs": {"retries": {"max_attempts": 3}}}})
        check_options({"https": {"headers": [("accept", "text/html")], "sizes": [1, 2], "block_size": 4096}})


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

    def test_a_file_that_is_not_there_is_no_matter_of_credentials(self, store):
        as_location(store).fs.mkdir("my-bucket", exist_ok=True)
        missing = as_location("s3://my-bucket/bucket")
        for ask in (missing.read_text, lambda: missing.fs.cat_file(missing.path)):
            with pytest.raises(FileNotFoundError), reaching(missing):
                ask()

    @pytest.mark.parametrize("only_once", [True, False])
    def test_a_conflict_is_asked_again(self, bucket, monkeypatch, tmp_path, only_once):
        monkeypatch.setattr(storage, "CONFLICT_PAUSE_S", 0.01)
        target, source = as_location(bucket) / "a", tmp_path / "a"
        source.write_bytes(b"text")
        for method, write in (
            ("pipe_file", lambda: storage.put(target, b"text", only_once=only_once)),
            ("put_file", lambda: storage.put_file(source, target, only_once=only_once)),
        ):
            with monkeypatch.context() as patch:
                asked = conflicting(patch, target, method, times=2)
                write()
            assert (len(asked), target.read_bytes()) == (3, b"text")
            target.unlink()
            with monkeypatch.context() as patch:
                asked = conflicting(patch, target, method, times=100)
                with pytest.raises(OSError, match="conflicting"):
                    write()
            assert len(asked) == storage.CONFLICT_TRIES

    def test_other_failures_are_not_asked_again(self, bucket, monkeypatch):
        target = as_location(bucket) / "a"
        asked = conflicting(monkeypatch, target, "pipe_file", times=1, code="EntityTooLarge")
        with pytest.raises(OSError, match="conflicting"):
            storage.put(target, b"text", only_once=True)
        assert len(asked) == 1


def conflicting(patch: pytest.MonkeyPatch, target: Path, method: str, *, times: int, code="ConditionalRequestConflict") -> list:
    """Let a store answer with a conflict so many times, which the one of these tests cannot; returns the requests."""
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    asked, write = [], getattr(target.fs, method)

    def answer(*args, **named):
        asked.append(args)
        if len(asked) <= times:
            answered = {"Error": {"Code": code, "Message": "a conflicting operation"}}
            raise translate_boto_error(ClientError(answered, "PutObject"))
        return write(*args, **named)

    patch.setattr(target.fs, method, answer)
    return asked


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

    def test_a_file_can_be_read_while_it_is_replaced(self, bucket, monkeypatch):
        file = as_location(bucket) / "a"
        write_atomically(file, "one")
        told = file.fs.info

        def then_replaced(*args, **named):
            found = told(*args, **named)
            write_atomically(file, b"two\r\n")
            return found

        monkeypatch.setattr(file.fs, "info", then_replaced)
        assert file.read_text() in ("one", "two\n")
        assert file.read_bytes() in (b"one", b"two\r\n")

    def test_a_pattern_finds_what_it_finds_in_a_folder(self, bucket, tmp_path):
        for folder in (as_location(bucket), tmp_path):
            for name in ("a.json", "b.json", "b.pt", "c/a.json", "c/d/a.json"):
                write_atomically(folder / name, "text")

        def found(folder: Path) -> list[list[str]]:
            listed = [[*folder.glob("*.json")], [*folder.glob("*")], [*folder.glob("c/*.json")], [*folder.rglob("a.json")]]
            return [sorted(str(path).removeprefix(f"{folder}/") for path in paths) for paths in listed]

        assert found(as_location(bucket)) == found(tmp_path)
        assert list(as_location(bucket).glob("c/e/*")) == list((as_location(bucket) / "e").glob("*")) == []

    @pytest.mark.parametrize("pattern", ["*", "*/b", "**/b"])
    def test_a_listing_that_fails_is_not_an_empty_folder(self, bucket, fail_listings, pattern):
        write_atomically(as_location(bucket) / "a/b", "text")
        whole = list(as_location(bucket).glob(pattern))
        for number in (1, 2, 3):
            fail_listings(number)
            with suppress(OSError):
                assert list(as_location(bucket).glob(pattern)) == whole
        fail_listings(1)
        with pytest.raises(OSError, match="does not answer"):
            list(as_location(bucket).glob(pattern))


def gone_process() -> int:
    """Return the number of a process that has ended."""
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    return int(done.stdout)


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so, for 10 s at most."""
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


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

    def test_a_lock_is_not_overlooked_where_the_store_does_not_answer(self, bucket, fail_listings):
        output = as_location(bucket)
        self.pretend(output, process=gone_process(), machine=lease._machine())  # so that the lock is not the first one
        with locked(output):
            for number in (1, 2, 3):  # of those that the one who comes second may need
                fail_listings(number)
                with pytest.raises((OSError, ConfigError), match=r"does not answer|by another process"), locked(output):
                    pass

    def test_a_lock_is_renewed_when_the_store_answers_again(self, bucket, monkeypatch, fail_listings):
        output, ended = as_location(bucket), threading.Event()
        monkeypatch.setattr(lease.os, "kill", lambda process, number: ended.set())
        with locked(output):
            fail_listings(1, 2)
            lock = output / lease.LOCKS / "00000001"
            wait_for(lambda: "renewal" in read_json(lock))
            lock.unlink()  # by hand: nobody else is there
            wait_for(lock.exists)
        assert not ended.is_set()

    def test_a_lease_that_ends_is_taken_by_one_of_those_who_wait_and_those_who_come(self, bucket, monkeypatch):
        monkeypatch.setattr(lease, "LOOK_S", 1.0)
        monkeypatch.setattr(lease, "LEASE_S", 5.0)
        output, waiting = as_location(bucket), threading.Event()
        before = self.pretend(output)
        monkeypatch.setattr(lease.logger, "warning", lambda *args: waiting.set())
        refused: list[ConfigError] = []

        def wait() -> None:
            try:
                with locked(output):
                    pass
            except ConfigError as error:
                refused.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.wait(5)
        before.unlink()
        with locked(output):  # it sees no lock, while the other one still believes in the lock that has gone
            thread.join()
        assert "is being written by another process" in str(*refused)

    def test_who_finds_a_lower_lock_after_taking_gives_way(self, bucket, monkeypatch):
        output, taken = as_location(bucket), []
        self.pretend(output, process=gone_process(), machine=lease._machine())
        checked = lease._check_that_it_counts

        def come_first(mine: Path, owner: lease.Owner) -> None:
            checked(mine, owner)
            taken.append(mine.name)
            if len(taken) == 1:
                write_json(output / lease.LOCKS / "00000001", owner | {"process": gone_process()})

        monkeypatch.setattr(lease, "_check_that_it_counts", come_first)
        with locked(output):
            assert [lock.name for lock in (output / lease.LOCKS).iterdir()] == taken[1:] == ["00000008"]

    @pytest.mark.parametrize("stays", [True, False])
    def test_who_finds_a_higher_lock_after_taking_waits_whether_it_stays(self, bucket, monkeypatch, stays):
        output = as_location(bucket)
        mine, other = self.pretend(output).with_name("00000001"), self.pretend(output)
        write_json(mine, {})
        monkeypatch.setattr(lease.time, "sleep", lambda seconds: None if stays else other.unlink())
        assert lease._has_to_give_way(mine, []) == stays

    def test_machines_with_one_name_are_told_apart_by_their_start(self, monkeypatch, tmp_path):
        here = lease._machine()
        (tmp_path / "boot_id").write_text("another\n")
        monkeypatch.setattr(lease, "START", tmp_path / "boot_id")
        assert lease._machine() != here
        assert lease._machine().endswith(" another")

    def test_a_process_of_this_machine_that_is_gone_is_not_waited_for(self, bucket, monkeypatch):
        monkeypatch.setattr(lease, "LEASE_S", 1e6)
        output = as_location(bucket)
        self.pretend(output, process=gone_process(), machine=lease._machine())
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
            assert [lock.name for lock in (output / lease.LOCKS).iterdir()] == ["00000008"]

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
