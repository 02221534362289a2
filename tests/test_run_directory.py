import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distjet.errors import ConfigError
from distjet.run_directory import claim, identity_hash, locked, write_atomically, write_json

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


def test_a_directory_with_files_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ConfigError, match=r"holds files that no run of distjet wrote \(thesis.tex"):
        claim(tmp_path, "train", {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_run_that_made_nothing_does_not_block_a_corrected_one(tmp_path: Path) -> None:
    claim(tmp_path, "train", {"seed": 1})
    (tmp_path / "config.yaml").touch()
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


def test_claim_lets_the_same_run_in_and_keeps_others_out(tmp_path: Path) -> None:
    claim(tmp_path, "train", {"model": {"width": 3}, "seed": 1})
    claim(tmp_path, "train", {"seed": 1, "model": {"width": 3}})
    (tmp_path / "history.jsonl").touch()
    with pytest.raises(ConfigError, match=r"different: model\.width, seed"):
        claim(tmp_path, "train", {"model": {"width": 4}, "seed": 2})
    with pytest.raises(ConfigError, match="holds the output of `distjet train`"):
        claim(tmp_path, "prepare", {"model": {"width": 3}, "seed": 1})
    assert json.loads((tmp_path / "identity.json").read_text())["verb"] == "train"
