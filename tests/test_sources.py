"""Spec: nothing that distjet reads can run code: no file is unpickled, no YAML makes objects, no text is evaluated."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("distjet", "jobs", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
BUILTINS = {"eval", "exec"}
METHODS = {"yaml.load", "yaml.load_all", "yaml.full_load", "yaml.unsafe_load", "pandas.read_pickle", "pd.read_pickle"}


def dangers(tree: ast.AST) -> Iterator[str]:
    """Name what in a source could run code that a file holds."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (f"import {name.name}" for name in node.names if name.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in MODULES:
            yield f"from {node.module} import"
        elif isinstance(node, ast.Call):
            yield from dangers_of_call(ast.unparse(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords})


def dangers_of_call(name: str, keywords: dict[str | None, str]) -> Iterator[str]:
    if name in BUILTINS | METHODS:
        yield name
    if name == "torch.load" and keywords.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if keywords.get("allow_pickle", "False") != "False":
        yield f"{name} with allow_pickle"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_reads_what_could_run(path):
    assert list(dangers(ast.parse(path.read_text()))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import dill.settings",
        "from joblib import load",
        "eval('1')",
        "yaml.load(file)",
        "torch.load(file)",
        "torch.load(file, weights_only=False)",
        "np.load(file, allow_pickle=True)",
    ],
)
def test_what_is_looked_for_would_be_found(source):
    assert list(dangers(ast.parse(source)))


def test_what_is_safe_is_not_taken_for_it():
    safe = "model.eval(); torch.load(f, weights_only=True); np.load(f); np.load(f, allow_pickle=False); yaml.safe_load(f)"
    assert list(dangers(ast.parse(safe))) == []
