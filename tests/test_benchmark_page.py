"""A page of results holds what its commands have written, and says of each bound whether it holds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.page import Check, Page, command, judge, read, renew
from distjet.errors import ConfigError, UserError

PAGE = "words\n<!-- table -->\nold\n<!-- end -->\nbetween\n<!-- checks -->\n<!-- end -->\nmore words\n"


@pytest.fixture
def metrics(tmp_path: Path) -> Path:
    path = tmp_path / "metrics.json"
    path.write_text(
        json.dumps(
            {"headline": {"chain": {"bias": -0.012, "bias_error": 0.002, "width": 0.1, "none": None}, "raw": {"width": 0.2}}}
        )
    )
    return path


def write(path: Path, **content: object) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize(
    ("bounds", "key", "holds"),
    [
        ({"below": 0.02}, "bias", True),
        ({"below": 0.01}, "bias", False),  # the size counts, not the sign
        ({"above": 0.05}, "width", True),
        ({"above": -0.02}, "bias", True),
        ({"above": 0.0}, "bias", False),
        ({"below": 1.0}, "none", False),  # a number that is missing holds nothing
        ({"below": 1.0}, "unknown", False),
    ],
)
def test_a_bound_holds_or_not(metrics: Path, bounds: dict[str, float], key: str, holds: bool) -> None:
    assert judge(Check(text="x", metrics=metrics, key=f"headline.chain.{key}", **bounds))["holds"] is holds


def test_a_ratio_has_the_error_of_its_numerator(metrics: Path) -> None:
    check = Check(text="x", metrics=metrics, key="headline.chain.bias", over="headline.raw.width", below=0.1)
    found = judge(check)
    assert (found["value"], found["error"], found["holds"]) == (pytest.approx(-0.06), pytest.approx(0.01), True)
    with pytest.raises(UserError, match=r"headline\.raw\.nothing"):
        judge(check.model_copy(update={"over": "headline.raw.nothing"}))


def test_a_page_is_renewed_between_its_words(tmp_path: Path, metrics: Path) -> None:
    (tmp_path / "table.md").write_text("| a |\n|---|\n| 1 |\n")
    (tmp_path / "made.png").write_bytes(b"picture")
    (tmp_path / "page.md").write_text(PAGE)
    checks = (Check(text="bias", metrics=metrics, key="headline.chain.bias", below=0.02),)
    figures = {tmp_path / "docs/shown.png": tmp_path / "made.png"}
    page = Page(file=tmp_path / "page.md", tables={"table": tmp_path / "table.md"}, figures=figures, checks=checks)
    for _ in range(2):  # again changes nothing
        renew(page)
        text = page.file.read_text()
        assert text.startswith("words\n<!-- table -->\n| a |\n|---|\n| 1 |\n<!-- end -->\nbetween\n<!-- checks -->\n| what |")
        assert text.endswith("| bias | < 2.00 % | -1.20 \N{PLUS-MINUS SIGN} 0.20 % | yes |\n<!-- end -->\nmore words\n")
    assert (tmp_path / "docs/shown.png").read_bytes() == b"picture"
    page.file.write_text("no block")
    with pytest.raises(UserError, match="no block <!-- checks -->"):
        renew(page)


def test_bad_files_are_named(tmp_path: Path, metrics: Path) -> None:
    page = {"file": "page.md"}
    path = write(tmp_path / "a.yaml", output="o", steps={"a": {"verb": "train", "keys": {}}}, page=page, stepz=1)
    with pytest.raises(ConfigError, match="stepz"):
        read(path)
    with pytest.raises(ConfigError, match="one of below and above"):
        read(write(path, output="o", steps={}, page=page | {"checks": [{"text": "x", "metrics": "m.json", "key": "k"}]}))


@pytest.mark.integration
def test_steps_run_as_commands_and_write_the_page(tmp_path: Path) -> None:
    output = tmp_path / "results"
    steps = {
        "jets": {
            "verb": "simulate",
            "files": ["conf/simulation/tiny.yaml"],
            "keys": {"samples": {"dijet_JZ1": {"num_events": 2}}},
        },
        "looked": {"verb": "verify", "keys": {"dataset": "${output}/nothing"}},
    }
    path = write(tmp_path / "a.yaml", output=str(output), steps=steps, page={"file": str(tmp_path / "page.md")})
    assert command("looked", read(path)) == ["distjet", "verify", str(output / "steps/looked.yaml")]
    assert yaml.safe_load((output / "steps/looked.yaml").read_text())["dataset"] == f"{output}/nothing"
    (tmp_path / "page.md").write_text("words\n<!-- checks -->\n<!-- end -->\n")
    runner = [sys.executable, "-m", "benchmarks.page", str(path)]
    found = subprocess.run([*runner, "--only", "nothing"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr.strip()) == (1, f"error: no step 'nothing' in {path}; there are jets, looked")
    found = subprocess.run([*runner, "--only", "jets", "--write"], capture_output=True, text=True, check=True)
    assert json.loads(found.stdout.splitlines()[-1]) == {"checks": [], "failed": 0}
    assert list(output.glob("jets/**/*.root"))
