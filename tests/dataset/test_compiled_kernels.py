"""Spec: kernels are compiled once on a machine: processes that start together agree, and a later one compiles nothing."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.dataset.files import random_ntuple, write_ntuple

CODE = """
import json, sys
from pathlib import Path
from numba.core.registry import CPUDispatcher
from tests.dataset.files import run

manifest = run(Path(sys.argv[2]), sys.argv[1])
modules = [module for name, module in sys.modules.items() if name.startswith("distjet.")]
kernels = {id(value): value for module in modules for value in vars(module).values() if isinstance(value, CPUDispatcher)}
compiled = sum(sum(kernel.stats.cache_misses.values()) for kernel in kernels.values())
print(json.dumps({"fingerprint": manifest.fingerprint, "kernels": len(kernels), "compiled": compiled}))
"""


def start(inputs: Path, output: Path, cache: Path) -> subprocess.Popen[str]:
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", CODE, str(inputs), str(output)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate(timeout=280)
    assert process.returncode == 0
    return json.loads(output)


@pytest.mark.slow
def test_processes_share_what_they_compile(tmp_path: Path) -> None:
    write_ntuple(tmp_path / "in/sample/jets.root", random_ntuple(100, seed=1))
    together = [start(tmp_path / "in", tmp_path / f"out_{n}", tmp_path / "cache") for n in range(3)]
    first = [result(process) for process in together]
    later = result(start(tmp_path / "in", tmp_path / "out_later", tmp_path / "cache"))
    assert min(found["compiled"] for found in first) >= 10
    assert later["compiled"] == 0
    assert later["kernels"] >= 10
    assert {found["fingerprint"] for found in first} == {later["fingerprint"]}
