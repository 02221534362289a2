"""The command line as a user meets it: in a process of its own."""

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distjet.dataset.manifest import Manifest
from distjet.run_directory import IDENTITY_FILE
from tests.dataset.files import PROJECT

VERBS = [
    *(
        "simulate",
        "prepare",
        "inspect",
        "verify",
        "train",
        "tune",
        "import-weights",
        "evaluate",
        "predict",
        "export",
        "quickstart",
    )
]
HEAVY = ["torch", "ray", "optuna", "dask", "distributed", "numba", "uproot", "awkward", "matplotlib", "pandas"]


def distjet(*arguments: str, module: str = "distjet.cli") -> subprocess.CompletedProcess[str]:
    code = "from distjet.cli import main; main()" if module == "distjet.cli" else ""
    command = [sys.executable, *(["-c", code] if code else ["-m", module]), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], *([verb, "--help"] for verb in VERBS)])
def test_help_and_version_come_at_once(arguments: list[str]) -> None:
    times = []
    for _ in range(3):
        before = cpu_seconds_of_children()
        result = distjet(*arguments)
        times.append(cpu_seconds_of_children() - before)
        assert result.returncode == 0, result.stderr
    assert "distjet" in result.stdout
    assert min(times) < 1.0


def cpu_seconds_of_children() -> float:
    """Time of the processor, because other tests run at the same time."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_a_configuration_error_imports_nothing_heavy() -> None:
    code = (
        "import sys; from distjet.cli import run_verb\n"
        "try: run_verb('train', ['output=/tmp/o', 'dataset=/tmp/d', 'model.hidden=3', 'loss.energy.wieght=1'])\n"
        "except SystemExit as stop: print(stop.code, [m for m in " + repr(HEAVY) + " if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "2 []"
    assert "loss.energy.wieght is not a field of LgkConfig, did you mean 'weight'" in result.stderr


def test_importing_the_package_imports_no_torch_geometric() -> None:
    code = "import sys, distjet.training.loop, distjet.models.pyg_network; print('torch_geometric' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nothere.yaml"], "configuration file nothere.yaml does not exist"),
        (["train", "output=/tmp/o", "dataset=/nowhere/d", "resources.num_workers=0"], "/nowhere/d"),
        (["train", "something"], "expected FILE.yaml or dotted.key=value (got 'something')"),
        (["tune", "output=/tmp/o"], "base is required and missing"),
        (
            ["tune", "output=/tmp/o", "base.dataset=/nowhere/d", "space.optimizer.lr={low: 0, high: 0.1}"],
            "space.optimizer.lr: Input should be greater than 0 (got 0",
        ),
        (["evaluate", "output=/tmp/o"], "give either run=DIRECTORY"),
        (["evaluate", "output=/tmp/o", "run=/nowhere/r"], "/nowhere/r is not the output of `distjet train`"),
        (["inspect"], "dataset is required and missing\nFor example `distjet inspect outputs/dataset`"),
        (["inspect", "/nowhere/d"], "dataset /nowhere/d does not exist"),
        (["inspect", "/nowhere/2024"], "dataset /nowhere/2024 does not exist"),
        (
            ["verify", "/nowhere/d", "dataset=/nowhere/e"],
            "expected one DATASET, FILE.yaml or dotted.key=value (got '/nowhere/d')",
        ),
        (["verify", "/nowhere/d", "/nowhere/e"], "expected one DATASET, FILE.yaml or dotted.key=value (got '/nowhere/e')"),
        (["prepare", "/nowhere/d"], "expected FILE.yaml or dotted.key=value (got '/nowhere/d')"),
    ],
)
def test_problems_of_the_user_are_one_message_without_traceback(arguments: list[str], message: str) -> None:
    result = distjet(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_a_server_that_does_not_answer_is_one_message(tmp_path: Path) -> None:
    url = "http://127.0.0.1:9/s/x.root"
    places = [f"inputs={url}", f"output={tmp_path / 'out'}", "remote.retries=0", "tasks.scheduler=in_process"]
    result = distjet("prepare", str(PROJECT / "conf/dataset/distjet.yaml"), *places)
    assert result.returncode == 2
    assert f"distjet prepare: error: while reading {url}: " in result.stderr
    assert "Traceback" not in result.stderr


def test_an_interrupted_verb_says_how_it_continues(tmp_path: Path) -> None:
    arguments = ["conf/simulation/tiny.yaml", f"output={tmp_path}", "tasks.scheduler=in_process"]
    # a job in the background ignores the signal, a terminal does not
    as_in_a_terminal = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    command = [sys.executable, "-c", f"{as_in_a_terminal}; from distjet.cli import main; main()", "simulate", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=PROJECT) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / IDENTITY_FILE).exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        error = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGINT
    assert error.endswith("distjet simulate: interrupted; the same command continues\n")
    assert "Traceback" not in error


def test_keys_lists_what_can_be_configured() -> None:
    result = distjet("train", "--keys")
    lines = result.stdout.splitlines()
    assert "output=required  # The run's directory, or s3://bucket/folder." in lines
    assert "optimizer.lr=0.002  # Peak learning rate." in lines
    assert any(line.startswith("loss.energy.bandwidth=0.1") for line in lines)
    assert any(line.startswith("model.width=64") for line in lines)
    assert any(line.startswith("schedule.name=cosine") and "One of cosine, flat_then_anneal," in line for line in lines)
    losses = "One of lgk, mse, mae, huber, gnll, mdn, quantile, or package"
    assert any(line.startswith("loss.energy:") and losses in line for line in lines)
    assert "mass_edges_gev=[0.0,5.0,10.0,...,300.0]" in distjet("prepare", "--keys").stdout
    for verb in VERBS:
        assert distjet(verb, "--keys").returncode == 0


def test_inspect_shows_a_page_or_plain_facts(toy_dataset: Manifest) -> None:
    page = distjet("inspect", str(toy_dataset.path))
    assert page.returncode == 0, page.stderr
    assert toy_dataset.fingerprint in page.stdout
    assert "training rows" in page.stdout
    for arguments in ([str(toy_dataset.path), "--json"], [f"dataset={toy_dataset.path}", "format=json"]):
        found = json.loads(distjet("inspect", *arguments).stdout)
        assert found["rows"]["train"]["total"] == toy_dataset.num_rows("train")
        assert found["identity"]["fingerprint"] == toy_dataset.fingerprint


def test_verify_says_ok_or_what_is_wrong(toy_dataset: Manifest, tmp_path: Path) -> None:
    folder = tmp_path / "2024"
    shutil.copytree(toy_dataset.path, folder)
    fine = distjet("verify", str(folder), "--inputs", "tasks.scheduler=in_process")
    assert fine.returncode == 0, fine.stderr
    assert " ".join(fine.stdout.split()).endswith("/2024: ok")  # a long path is wrapped
    assert "inputs" in fine.stdout
    shard = folder / toy_dataset.shards("val")[0].path
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    broken = distjet(f"dataset={folder}", "tasks.scheduler=in_process", module="jobs.verify")
    assert broken.returncode == 2
    assert "distjet verify: error: " in broken.stderr
    assert toy_dataset.shards("val")[0].path in broken.stderr
    assert "ok" not in broken.stdout


def test_jobs_are_the_same_verbs(tmp_path: Path) -> None:
    for verb in ("simulate", "prepare", "verify", "train", "evaluate", "predict", "export"):
        as_job = distjet(f"output={tmp_path}", "no_such_key=1", module=f"jobs.{verb}")
        as_verb = distjet(verb, f"output={tmp_path}", "no_such_key=1")
        assert as_job.returncode == as_verb.returncode == 2
        assert as_job.stderr == as_verb.stderr
        assert "no_such_key" in as_job.stderr
