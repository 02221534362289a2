"""The verbs in a row, as a user runs them: through the command line, on real Dask workers."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from distjet.run_directory import read_json

ROOT = Path(__file__).parents[1]
TINY = ["simulate.events_per_task=40", "simulate.pileup.library_events=60", "simulate.generator.cross_section_trials=1000"]
SLICES = [f"simulate.samples.dijet_JZ{n}.num_events=80" for n in (1, 2, 3, 4)]
SHORT = ["train.num_epochs=2", "train.closure.min_entries=10"]
EASY = ["evaluate.response.min_entries=10", "evaluate.response.min_entries_drawn=10"]


def distjet(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from distjet.cli import main; main()", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)


def hashes(folder: Path, pattern: str) -> dict[str, str]:
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.rglob(pattern))}


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_quickstart_ends_with_a_table_a_report_and_metrics(tmp_path: Path) -> None:
    command = ["quickstart", f"output={tmp_path}", "train.resources.num_workers=0", *TINY, *SLICES, *SHORT, *EASY]
    result = distjet(*command)
    assert result.returncode == 0, result.stderr
    assert "energy response: raw → calibrated" in result.stdout
    assert str(tmp_path / "evaluate" / "report.html") in result.stdout + result.stderr
    metrics = read_json(tmp_path / "evaluate" / "metrics.json")
    for method in ("raw", "calibrated"):
        for key in ("max_abs_bias", "mean_abs_bias", "mean_resolution"):
            assert 0 <= metrics["energy_response"][method][key] < 1
    manifest = read_json(tmp_path / "dataset" / "manifest.json")
    test_rows = pq.read_table(tmp_path / "evaluate" / "predictions.parquet").num_rows
    assert metrics["num_jets_total"] == test_rows == manifest["rows"]["test"]
    assert metrics["provenance"]["dataset_fingerprint"] == manifest["fingerprint"]
    for item in [manifest, *manifest["inputs"]]:
        accounting = item["accounting"]
        assert accounting["read"] == accounting["rows"] + accounting["cut"] + accounting["quarantined"]
    assert manifest["accounting"]["read"] > 500
    again = distjet(*command)
    assert again.returncode == 0
    assert "is finished; nothing to do" in again.stderr


@pytest.mark.integration
@pytest.mark.timeout(400)
def test_the_lines_of_the_readme_work_as_written(tmp_path: Path) -> None:
    table = [line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("| `")]
    lines = [line.split("|")[3].strip().strip("`") for line in table if "| `distjet " in line]
    verbs = " ".join(line.split()[1] for line in lines)
    assert verbs == "simulate prepare inspect verify train tune evaluate predict export submit quickstart"
    for line in lines[:-2]:  # those two have tests of their own
        result = distjet(*line.replace("outputs/", f"{tmp_path}/").split()[1:])
        assert result.returncode == 0, f"{line}\n{result.stderr}"
    metrics = read_json(tmp_path / "evaluate" / "metrics.json")
    assert metrics["energy_response"]["calibrated"]["num_bins"] == 2


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_one_worker_and_two_workers_write_the_same_bytes(tmp_path: Path) -> None:
    for workers in ("1", "2"):
        ntuples, dataset = tmp_path / workers / "ntuples", tmp_path / workers / "dataset"
        where = f"tasks.num_workers={workers}"
        small = ["events_per_task=20", "samples.dijet_JZ1.num_events=40", "samples.dijet_JZ2.num_events=40"]
        simulated = distjet("simulate", "conf/simulation/tiny.yaml", f"output={ntuples}", where, *small)
        assert simulated.returncode == 0, simulated.stderr
        shards = ["rows_per_shard=100", "row_group_size=20", "recipe.cuts.isolated=null", "entries_per_task=100"]
        prepared = distjet("prepare", "conf/dataset/distjet.yaml", f"inputs={ntuples}", f"output={dataset}", where, *shards)
        assert prepared.returncode == 0, prepared.stderr
    files = hashes(tmp_path / "1", "*.root") | hashes(tmp_path / "1", "*.parquet")
    assert sum(name.endswith(".root") for name in files) == 4
    assert sum(name.endswith(".parquet") for name in files) >= 3
    assert files == hashes(tmp_path / "2", "*.root") | hashes(tmp_path / "2", "*.parquet")
    fingerprints = {read_json(tmp_path / w / "dataset" / "manifest.json")["fingerprint"] for w in ("1", "2")}
    assert len(fingerprints) == 1


def test_a_wheel_works_where_there_is_no_source_tree(tmp_path: Path) -> None:
    """The configurations travel inside the wheel and are found there."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    installed = tmp_path / "site" / "distjet"
    shipped = {path.relative_to(ROOT) for path in (ROOT / "conf").rglob("*.yaml")}
    assert {path.relative_to(installed) for path in (installed / "conf").rglob("*.yaml")} == shipped
    file = "conf/quickstart/quickstart.yaml"
    code = f"from pathlib import Path; from distjet.config import find_file; print(find_file(Path({file!r})))"
    environment = os.environ | {"PYTHONPATH": str(installed.parent)}
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(installed / file)
