import errno
import fcntl
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distjet import run_directory
from distjet.errors import ConfigError, DiskFullError
from distjet.run_directory import (
    claim,
    identity_hash,
    is_temporary,
    locked,
    naming_a_full_disk,
    read_json,
    write_atomically,
    write_json,
    write_json_once,
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=5), json_values, max_size=5))
def test_identity_does_not_depend_on_the_order_of_keys(content: dict) -> None:
    assert identity_hash(content) == identity_hash(dict(reversed(content.items())))
    assert identity_hash(content) != identity_hash(content | {"another key": 1})


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.json"
    write_atomically(path, "old")

    def fail(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not list(tmp_path.iterdir())


def test_of_many_that_write_once_one_succeeds(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"

    def write(number: int) -> bool:
        try:
            write_json_once(path, {"by": number})
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        succeeded = list(threads.map(write, range(40)))
    assert succeeded.count(True) == 1
    assert read_json(path) == {"by": succeeded.index(True)}
    assert list(tmp_path.iterdir()) == [path]
    write_json_once(path, {"by": succeeded.index(True)})


def system_error(number: int):
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


def test_without_hard_links_a_file_is_written_once_all_the_same(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(os, "link", system_error(errno.EPERM))
    write_json_once(tmp_path / "a.json", 1)
    write_json_once(tmp_path / "a.json", 1)
    assert "has no hard links" in caplog.text
    with pytest.raises(FileExistsError):
        write_json_once(tmp_path / "a.json", 2)
    assert read_json(tmp_path / "a.json") == 1
    monkeypatch.setattr(os, "link", system_error(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        write_json_once(tmp_path / "b.json", 1)


def test_without_file_locks_a_run_goes_on_with_a_warning(tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(fcntl, "flock", system_error(errno.ENOLCK))
    with locked(tmp_path):
        pass
    assert "has no file locks" in caplog.text
    monkeypatch.setattr(fcntl, "flock", system_error(errno.EIO))
    with pytest.raises(OSError, match="Input/output"), locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_synced_is_no_error_but_a_broken_one_is(tmp_path, monkeypatch) -> None:
    sync = run_directory._sync

    def refused(number: int):
        return lambda path: system_error(number)() if path.is_dir() else sync(path)

    monkeypatch.setattr(run_directory, "_sync", refused(errno.EINVAL))
    write_atomically(tmp_path / "a", "text")
    monkeypatch.setattr(run_directory, "_sync", refused(errno.EIO))
    with pytest.raises(OSError, match="Input/output"):
        write_atomically(tmp_path / "b", "text")


def test_a_temporary_file_is_known_by_its_name(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Path, "replace", system_error(errno.EIO))
    monkeypatch.setattr(Path, "unlink", lambda path, missing_ok: None)
    with pytest.raises(OSError, match="Input/output"):
        write_atomically(tmp_path / "part-00001.parquet", "text")
    (left,) = tmp_path.iterdir()
    assert is_temporary(left, r"part-\d+\.parquet")
    assert not is_temporary(left, r"identity\.json")
    assert not is_temporary(tmp_path / ".part-00001.parquet.mine.tmp", r"part-\d+\.parquet")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_a_message(tmp_path, number) -> None:
    output = tmp_path / "out"
    message = rf"out cannot be written to: .*{os.strerror(number)}; [\d,.]+ MB of [\d,.]+ MB are left there\. What is"
    with pytest.raises(DiskFullError, match=message), locked(output):
        system_error(number)()
    with pytest.raises(DiskFullError, match="are left there, 5 MB more"), naming_a_full_disk(output, lambda: ", 5 MB more"):
        system_error(number)()


def test_the_disk_of_another_folder_is_named_where_that_is_full(tmp_path) -> None:
    work = tmp_path / "work"
    message = rf"^{work} cannot be written to: .* are left there"
    with (
        pytest.raises(DiskFullError, match=message),
        locked(tmp_path / "out"),
        run_directory.appearing_whole(work / "spill"),
    ):
        system_error(errno.ENOSPC)()


def test_a_directory_with_files_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"holds files that no run of distjet wrote \(thesis.tex"):
        claim(tmp_path, "train", {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_that_made_nothing_does_not_block_a_corrected_one(tmp_path: Path) -> None:
    claim(tmp_path, "train", {"seed": 1})
    for name in ("config.yaml", "progress.json", "failure.json", "deaths.jsonl", "mlflow.json", "stop"):
        (tmp_path / name).touch()
    claim(tmp_path, "train", {"seed": 2})
    assert json.loads((tmp_path / "identity.json").read_text())["config"] == {"seed": 2}


def test_a_refused_run_leaves_no_trace(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such dataset"), locked(tmp_path / "new"):
        raise ConfigError("no such dataset")
    assert not list(tmp_path.iterdir())


def test_a_locked_directory_keeps_other_processes_out(tmp_path: Path) -> None:
    code = (
        f"from pathlib import Path; from distjet.run_directory import locked\nwith locked(Path({str(tmp_path)!r})): print('in')"
    )
    command = [sys.executable, "-c", code]
    with locked(tmp_path):
        kept_out = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"is being written by another process (process {os.getpid()} on" in kept_out.stderr
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "in\n"


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_an_output_that_cannot_be_a_folder_is_a_message(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"output: .*{name} is no folder that can be written to: "), locked(tmp_path / name):
        raise AssertionError
    assert (tmp_path / "file").is_file()


def test_claim_lets_the_same_run_in_and_keeps_others_out(tmp_path: Path) -> None:
    claim(tmp_path, "train", {"model": {"width": 3}, "seed": 1})
    claim(tmp_path, "train", {"seed": 1, "model": {"width": 3}})
    (tmp_path / "history.jsonl").touch()
    with pytest.raises(ConfigError, match=r"different: model\.width, seed"):
        claim(tmp_path, "train", {"model": {"width": 4}, "seed": 2})
    with pytest.raises(ConfigError, match="holds the output of `distjet train`"):
        claim(tmp_path, "prepare", {"model": {"width": 3}, "seed": 1})
    assert json.loads((tmp_path / "identity.json").read_text())["verb"] == "train"
