"""Which commands are behind a page of results, and do the numbers on it stand?

A configuration in `conf/benchmark/` lists steps, each a verb with files and keys, and what of their results goes on the page.
Each step runs as a user would run it, in a process of its own, from a file that is written beside its output; verbs leave alone
what is finished, so the same command goes on after an interruption. Tables, checks and figures of the page are then
renewed in place; the words between them are written by hand.

    python -m benchmarks.page conf/benchmark/calibration.yaml [--only STEP ...] [--write]

The last line is one JSON object: for each check, its value, error and bound, and whether it holds.
"""

import argparse
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import OmegaConf
from pydantic import Field, model_validator

from distjet.config import Config, validate
from distjet.errors import UserError
from distjet.evaluation.tables import number, percent

BLOCK = re.compile(r"(?P<begin><!-- (?P<name>[\w-]+) -->\n).*?(?P<end><!-- end -->)", re.DOTALL)
"What is renewed on a page."


class Step(Config):
    """A verb with its files and keys; its output is the folder of its name."""

    verb: str
    "As on the command line."
    files: tuple[Path, ...] = ()
    "Configurations, left to right."
    keys: dict[str, Any] = Field(default_factory=dict)
    "What follows the files."


class Check(Config):
    """A number that has a bound."""

    text: str
    "What it is."
    metrics: Path
    "The metrics.json that holds it."
    key: str
    "Its dotted key."
    over: str | None = None
    "Dotted key of what it is divided by."
    below: float | None = None
    "It must be less."
    above: float | None = None
    "It must be more."
    form: Literal["percent", "number"] = "percent"
    "How it is written."

    @model_validator(mode="after")
    def _one_bound(self) -> "Check":
        if (self.below is None) == (self.above is None):
            raise ValueError("give one of below and above")
        return self

    @property
    def bound(self) -> str:
        """The bound as it is shown."""
        return f"< {self.shown(self.below)}" if self.above is None else f"> {self.shown(self.above)}"

    def shown(self, value: float | None, error: float | None = None) -> str:
        """Write a number in the check's form."""
        return percent(value, error) if self.form == "percent" else number(value, error)


class Page(Config):
    """What is on a page, by the name of its block there."""

    file: Path
    "The page."
    tables: dict[str, Path] = Field(default_factory=dict)
    "Markdown files."
    figures: dict[Path, Path] = Field(default_factory=dict)
    "Where a picture goes, and where it is made."
    checks: tuple[Check, ...] = ()
    "The block `checks`."


class Benchmark(Config):
    """Steps and their page."""

    output: Path
    "Everything is written below."
    steps: dict[str, Step]
    "In their order."
    page: Page
    "What is shown of them."


def main() -> None:
    """Run, check, and renew the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configuration", type=Path)
    parser.add_argument("--only", nargs="+", metavar="STEP", help="steps to run; without it, all")
    parser.add_argument("--write", action="store_true", help="renew tables and figures of the page")
    arguments = parser.parse_args()
    benchmark = read(arguments.configuration)
    if unknown := set(arguments.only or ()) - set(benchmark.steps):
        raise UserError(f"no step {sorted(unknown)[0]!r} in {arguments.configuration}; there are {', '.join(benchmark.steps)}")
    for name in arguments.only or benchmark.steps:
        run(name, benchmark)
    if arguments.write:
        renew(benchmark.page)
    checks = [
        {"text": check.text, "bound": check.bound, **judge(check)} for check in benchmark.page.checks if check.metrics.is_file()
    ]
    sys.stdout.write(json.dumps({"checks": checks, "failed": sum(not check["holds"] for check in checks)}) + "\n")


def read(path: Path) -> Benchmark:
    """Read a configuration; `${output}` stands for its output."""
    return validate(Benchmark, OmegaConf.to_container(OmegaConf.load(path), resolve=True))


def command(name: str, benchmark: Benchmark) -> list[str]:
    """Write the keys of a step into a file, and return the command that runs it."""
    step = benchmark.steps[name]
    own = benchmark.output / "steps" / f"{name}.yaml"
    own.parent.mkdir(parents=True, exist_ok=True)
    own.write_text(yaml.safe_dump({"output": str(benchmark.output / name), **step.keys}, sort_keys=False))
    return ["distjet", step.verb, *map(str, step.files), str(own)]


def run(name: str, benchmark: Benchmark) -> None:
    """Run a step in a process of its own.

    Raises:
        subprocess.CalledProcessError: If it fails.
    """
    arguments = command(name, benchmark)
    report(f"== {name}: {shlex.join(arguments)}")
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", *arguments], check=True, stdout=sys.stderr)
    report(f"== {name}: {(time.monotonic() - started) / 60:.1f} min")


def report(message: str) -> None:
    """Tell what is being done."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


# --- the page ----------------------------------------------------------------------------------------------------------------


def judge(check: Check) -> dict[str, Any]:
    """Look a number up, and compare it with its bound: `below` is a bound of its size.

    Returns:
        `value` and `error` (None where there is none), and whether it `holds`.
    """
    metrics = json.loads(check.metrics.read_text())
    value, error = look_up(metrics, check.key), look_up(metrics, f"{check.key}_error")
    if value is None:
        return {"value": None, "error": None, "holds": False}
    if check.over is not None:
        other = look_up(metrics, check.over)
        if not other:
            raise UserError(f"{check.metrics} has no number to divide by at {check.over}")
        value, error = value / other, None if error is None else error / other
    holds = value > check.above if check.above is not None else abs(value) < (check.below or 0.0)
    return {"value": value, "error": error, "holds": holds}


def look_up(content: Any, key: str) -> float | None:
    """Return what stands under a dotted key, None where nothing does."""
    for part in key.split("."):
        content = content.get(part) if isinstance(content, Mapping) else None
    return None if content is None else float(content)


def renew(page: Page) -> None:
    """Write tables and checks into their blocks, and copy the pictures."""
    rows = [(check, judge(check)) for check in page.checks]
    lines = ["| what | bound | measured | holds |", "|---|---:|---:|---|"]
    lines += [
        f"| {check.text.replace('|', '&#124;')} | {check.bound} | {check.shown(found['value'], found['error'])} "
        f"| {'yes' if found['holds'] else '**no**'} |"
        for check, found in rows
    ]
    blocks = {name: path.read_text() for name, path in page.tables.items()} | {"checks": "\n".join(lines) + "\n"}
    text = page.file.read_text()
    if missing := set(blocks) - {match["name"] for match in BLOCK.finditer(text)}:
        raise UserError(f"{page.file} has no block <!-- {sorted(missing)[0]} --> ... <!-- end -->")
    page.file.write_text(BLOCK.sub(lambda match: f"{match['begin']}{blocks[match['name']].strip()}\n{match['end']}", text))
    for target, source in page.figures.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
