"""What `distjet submit` does before and after it talks to a cluster; `test_submit_job.py` has the cluster."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from distjet.cli import app, split_arguments
from distjet.cluster import submit
from distjet.cluster.submit import JobOptions, check_arguments, entrypoint, exit_code
from distjet.cluster.upload import (
    KEY_FOLDERS,
    KEYS,
    LARGEST_UPLOAD_MIB,
    check_paths,
    check_paths_in_job,
    relative_paths,
    upload_of,
)
from distjet.config import load
from distjet.errors import ConfigError, UserError
from distjet.verbs import CONFIGS, EvaluateVerb, PrepareVerb, QuickstartVerb, TrainConfig
from tests.dataset.files import PROJECT


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory of a user who has installed distjet: a configuration, a network, and results."""
    for name in (
        "my.yaml",
        "networks/deep.py",
        "outputs/train/metrics.json",
        "outputs/x.yaml",
        "data/jets.root",
        "private.yaml",
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}\n")
    (tmp_path / ".gitignore").write_text("private.yaml\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_code_and_configurations_travel_and_data_do_not(project: Path) -> None:
    upload = upload_of(project)
    assert {str(path) for path in upload.sizes} == {".gitignore", "my.yaml", "networks/deep.py"}
    assert upload.runtime_env["working_dir"] == str(project)
    assert upload.runtime_env["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == "120"


SECRETS = (".env", ".env.x", ".aws/config", ".ssh/config", ".ray/x", ".netrc", ".pypirc", "host.pem", "my.key", "auth_token")
DATA = ("jets/.work/a.rows", "jets/.inputs/b", "c.rows", "mlflow.db", "study.journal", "jets.csv", "model.safetensors")


def test_neither_secrets_nor_data_travel(project: Path) -> None:
    for name in (*SECRETS, *DATA, *(f"{folder}/x" for folder in KEY_FOLDERS), *(name.replace("*", "x") for name in KEYS)):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).touch()
    upload = upload_of(project)
    assert {str(path) for path in upload.sizes} == {".gitignore", "my.yaml", "networks/deep.py"}
    upload.check_secrets()


@pytest.mark.parametrize("name", [*SECRETS, "networks/id_ed25519", "deep/.ssh/known_hosts"])
def test_a_key_that_is_not_left_out_is_refused_by_name(project: Path, name: str) -> None:
    (project / "conf").mkdir()
    (project / "conf/runtime_env.yaml").write_text("excludes: [outputs/]\n")
    (project / name).parent.mkdir(parents=True, exist_ok=True)
    (project / name).touch()
    with pytest.raises(ConfigError, match=f"^{re.escape(name)}: this looks like keys"):
        upload_of(project).check_secrets()


@pytest.mark.parametrize("home", [".", "me"])
def test_a_home_is_not_uploaded(project: Path, monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.setenv("HOME", str(project / home))
    with pytest.raises(ConfigError, match="is, or holds, your home folder"):
        upload_of(project)


@pytest.mark.parametrize("line", ["AWS_SECRET_ACCESS_KEY: abc", "STORE: 'https://me:abc@store'"])
def test_a_secret_in_the_runtime_environment_is_refused(project: Path, line: str) -> None:
    (project / "conf").mkdir()
    (project / "conf/runtime_env.yaml").write_text(f"env_vars: {{{line}}}\n")
    with pytest.raises(ConfigError, match=r"^conf/runtime_env\.yaml: .*Everybody who sees") as caught:
        upload_of(project)
    assert "abc" not in str(caught.value)


@pytest.mark.parametrize("secret", ["storage=postgresql://me:abc@db/x", "a=https://abc@host", "a=https://host?token=abc"])
def test_a_secret_on_the_command_line_is_refused(secret: str) -> None:
    with pytest.raises(ConfigError, match=r"\$\{oc\.env:NAME\}") as caught:
        check_arguments(["output=/x", secret])
    assert "abc" not in str(caught.value)
    check_arguments(["output=/x", secret.replace("abc", "${oc.env:NAME}"), "storage=${oc.env:NAME}"])
    with pytest.raises(ConfigError):
        check_arguments([secret.replace("abc", "${oc.env:NAME,abc}")])


def test_a_runtime_environment_in_the_folder_wins(project: Path) -> None:
    (project / "conf").mkdir()
    (project / "conf/runtime_env.yaml").write_text("excludes: [networks/]\n")
    assert Path("networks/deep.py") not in upload_of(project).sizes
    (project / "conf/runtime_env.yaml").write_text("- networks/\n")
    with pytest.raises(ConfigError, match=r"conf/runtime_env\.yaml must hold a mapping with excludes and env_vars"):
        upload_of(project)


def test_this_project_travels_with_everything_a_job_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    upload = upload_of(PROJECT)
    upload.check_size()
    paths = {str(path) for path in upload.sizes}
    assert {"distjet/cli.py", "jobs/train.py", "conf/calibration/constituent_gnn.yaml"} <= paths
    assert not {path for path in paths if path.endswith((".root", ".parquet", ".pt")) or "outputs/" in path}
    assert sum(upload.sizes.values()) < 10 * 2**20


def test_the_list_is_what_ray_packs(project: Path) -> None:
    from zipfile import ZipFile

    from ray._private.runtime_env.packaging import create_package

    upload = upload_of(project)
    create_package(str(project), project / "package.zip", include_gitignore=True, excludes=upload.runtime_env["excludes"])
    with ZipFile(project / "package.zip") as package:
        packed = {Path(name) for name in package.namelist() if not name.endswith("/")}
    assert packed == set(upload.sizes)


def test_a_folder_that_is_too_large_is_refused_by_the_names_of_its_largest_files(project: Path) -> None:
    with (project / "networks/weights.bin").open("wb") as file:
        file.truncate((LARGEST_UPLOAD_MIB + 1) * 2**20)  # sparse
    with pytest.raises(
        ConfigError, match=r"(?s)101 MiB to upload, at most 100.*:\n +101\.0 MiB  networks/weights\.bin\n.*excludes"
    ):
        upload_of(project).check_size()


@pytest.mark.parametrize("file", ["private.yaml", "outputs/x.yaml", "../elsewhere.yaml"])
def test_a_configuration_that_would_stay_behind_is_refused(project: Path, file: str) -> None:
    (project.parent / "elsewhere.yaml").write_text("{}\n")
    with pytest.raises(ConfigError, match=f"{file} does not travel with the job"):
        upload_of(project).check_files([Path("my.yaml"), Path(file)])


def test_configurations_of_distjet_and_of_a_shared_disk_need_not_travel(project: Path) -> None:
    upload_of(project).check_files([Path("my.yaml"), Path("conf/calibration/mse.yaml"), Path("/shared/mine.yaml")])


QUICKSTART = PROJECT / "conf/quickstart/quickstart.yaml"


def test_relative_paths_are_found_wherever_they_are() -> None:
    tasks = "tasks={performance_report: report.html, jobqueue: {log_directory: logs}}"
    config = load(PrepareVerb, [PROJECT / "conf/dataset/distjet.yaml"], ["inputs=/data", "output=out", tasks])
    expected = {"output": "out", "tasks.performance_report": "report.html", "tasks.jobqueue.log_directory": "logs"}
    assert {found.key: str(found.path) for found in relative_paths(config)} == expected
    assert [found.key for found in relative_paths(load(QuickstartVerb, [QUICKSTART]))] == ["output"]


TRAINING = ["dataset=/shared/jets", "output=/shared/train"]
PREPARATION = [str(PROJECT / "conf/dataset/distjet.yaml"), "output=/shared/jets", "inputs=/shared/ntuples"]
SWEEP = [str(PROJECT / "conf/sweep/tiny.yaml"), "output=/shared/tune", "base.dataset=/shared/jets"]
QUICK = [str(QUICKSTART), "output=/shared/quickstart"]

RELATIVE = [
    ("train", TRAINING, "tracking.mlflow=outputs/mlflow", "tracking.mlflow=/shared/outputs/mlflow"),
    ("train", TRAINING, "tracking.mlflow=sqlite:///mlflow.db", "tracking.mlflow=sqlite:////shared/mlflow.db"),
    ("tune", SWEEP, "storage=sqlite:///outputs/study.db", "storage=sqlite:////shared/outputs/study.db"),
    ("tune", SWEEP, "base.dataset=outputs/jets", "base.dataset=/shared/outputs/jets"),
    ("tune", SWEEP, "base.tracking.mlflow=mlflow", "base.tracking.mlflow=/shared/mlflow"),
    ("tune", SWEEP, "warm_start=outputs/tune", "warm_start.sweep=/shared/outputs/tune"),
    ("quickstart", QUICK, "train.tracking.mlflow=mlflow", "train.tracking.mlflow=/shared/mlflow"),
    ("quickstart", QUICK, "prepare.checksums=sums.txt", "prepare.checksums=/shared/sums.txt"),
    ("prepare", PREPARATION, "inputs=outputs/ntuples", "inputs=/shared/outputs/ntuples"),
    ("prepare", PREPARATION, "checksums={ntuples/a.root: 'adler32:1a2b3c4d'}", "checksums=/shared/ntuples/a.root"),
]


@pytest.mark.parametrize(("verb", "valid", "change", "advice"), RELATIVE, ids=[change for _, _, change, _ in RELATIVE])
def test_a_relative_place_is_refused_wherever_it_stands(verb: str, valid: list[str], change: str, advice: str) -> None:
    given = load(CONFIGS[verb], *split_arguments(verb, valid))
    check_paths(given, travelling={})
    with pytest.raises(ConfigError, match=f"copy is deleted .* e\\.g\\. {re.escape(advice)}; "):
        check_paths(load(CONFIGS[verb], *split_arguments(verb, [*valid, change])), travelling={})


def test_the_parts_of_a_configuration_do_not_repeat_its_own_paths() -> None:
    with pytest.raises(ConfigError, match=r"^output=out: a job runs"):
        check_paths(load(QuickstartVerb, [QUICKSTART], ["output=out"]), travelling={})
    with pytest.raises(ConfigError, match=r"^output=out, base\.dataset=jets: a job runs"):
        check_paths(load(CONFIGS["tune"], *split_arguments("tune", [*SWEEP, "output=out", "base.dataset=jets"])), travelling={})


@pytest.mark.parametrize("place", ["/shared/mlflow", "environment", "http://mlflow:5000", "postgresql://db/mlflow", "~/mlflow"])
def test_places_elsewhere_are_fine(place: str) -> None:
    check_paths(load(TrainConfig, [], [*TRAINING, f"tracking.mlflow={place}"]), travelling={})


def test_a_relative_output_is_refused_before_the_upload(project: Path) -> None:
    config = load(TrainConfig, [], ["dataset=/shared/jets", "output=outputs/train"])
    with pytest.raises(ConfigError, match=f"^output=outputs/train: a job .* output={project}/outputs/train if the nodes see"):
        check_paths(config, travelling=upload_of(project).sizes)
    check_paths(load(TrainConfig, [], ["dataset=/shared/jets", "output=/shared/train"]), travelling={})


def test_a_relative_path_to_a_file_that_travels_is_fine(project: Path) -> None:
    (project / "jets.table").write_text("")
    config = load(EvaluateVerb, [], ["output=/shared/evaluate", "predictions=jets.table"])
    check_paths(config, travelling=upload_of(project).sizes)


def test_a_relative_output_is_refused_in_the_copy_of_a_folder_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(TrainConfig, [], ["dataset=/shared/jets", "output=outputs/train"])
    check_paths_in_job(config)
    copy = tmp_path / "runtime_resources/working_dir_files/_ray_pkg_0123"
    (copy / "outputs/train").mkdir(parents=True)
    monkeypatch.chdir(copy)
    with pytest.raises(ConfigError, match=r"e\.g\. output=/shared/outputs/train$"):
        check_paths_in_job(config)


def test_the_command_survives_a_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments = ["my conf.yaml", "a=[1, 2.5e-4]", "b={c: 'd e'}", "output=/x/$HOME & `id`; *", 'quote="\'"', ""]
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs/train.py").write_text("print('of a stranger')\n")
    monkeypatch.chdir(tmp_path)
    command = entrypoint("train", arguments)
    assert command.startswith("python -m distjet train ")
    shown = shlex.join([sys.executable, "-c", "import sys; print(sys.argv[2:])", "-m"])
    result = subprocess.run(command.replace("python -m", shown), shell=True, capture_output=True, text=True, check=True)
    assert result.stdout == f"{['distjet', 'train', *arguments]}\n"


def job(status: str, driver_exit_code: int | None, message: str = "") -> Any:
    from ray.job_submission import JobDetails

    kind = {"type": "SUBMISSION", "entrypoint": "python -m jobs.train"}
    return JobDetails(status=status, driver_exit_code=driver_exit_code, message=message, **kind)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [("SUCCEEDED", 0, 0), ("FAILED", 2, 2), ("FAILED", -9, 137), ("FAILED", 143, 143), ("STOPPED", None, 143)],
)
def test_the_exit_code_is_what_a_shell_would_say(status: str, code: int | None, expected: int) -> None:
    assert exit_code(job(status, code)) == expected


def test_a_job_that_never_ran_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(job("FAILED", None, "Failed to set up runtime environment")) == 1
    assert "the job could not run: Failed to set up runtime environment" in capsys.readouterr().err


class BreakingConnection:
    """A job server that drops the connection in the middle of a log whose job ends then, and of questions, as a tunnel does."""

    def __init__(self) -> None:
        self.num_tails = self.num_questions = 0

    async def tail_job_logs(self, submission_id: str) -> AsyncIterator[str]:
        self.num_tails += 1
        if self.num_tails == 1:
            yield "epoch 1\nep"
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
        for text in ("epoch 1\n", "epoch 2\n"):
            yield text

    def get_job_info(self, submission_id: str) -> Any:
        self.num_questions += 1
        if self.num_questions in (1, 3):
            raise OSError("connection refused")
        return job("FAILED", 3)


def test_a_log_that_broke_off_as_the_job_ended_is_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(submit, "POLL_S", 0.0)
    server = BreakingConnection()
    assert submit.follow(server, "night") == 3
    assert capsys.readouterr().out == "epoch 1\nepoch 2\n"
    assert server.num_tails == 2


def test_a_log_that_is_lost_with_its_node_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    class LostNode:
        async def tail_job_logs(self, submission_id: str) -> AsyncIterator[str]:
            yield "epoch 1\n"
            raise RuntimeError("WebSocket connection closed unexpectedly with close code 1006")

        def get_job_info(self, submission_id: str) -> Any:
            return job("FAILED", None, "the node has died")

    monkeypatch.setattr(submit, "POLL_S", 0.0)
    assert submit.follow(LostNode(), "night") == 1
    said = capsys.readouterr()
    assert (said.out, said.err) == ("epoch 1\n", "the job could not run: the node has died\n")
    assert "the rest of the log of job night cannot be read" in caplog.text


def test_a_server_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask() -> None:
        raise OSError("connection refused")

    monkeypatch.setattr(submit, "POLL_S", 0.0)
    monkeypatch.setattr(submit, "PATIENCE_S", 0.05)
    with pytest.raises(UserError, match="has not answered for 0 s: connection refused"):
        submit._patiently(ask)


def test_an_id_that_cannot_be_in_an_address_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"got 'a/b'"):
        JobOptions(submission_id="a/b")


def run(*command: str, cwd: Path = PROJECT) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_errors_are_those_of_the_verb_and_come_without_ray() -> None:
    wrong = ["train", "output=/tmp/o", "dataset=/tmp/d", "model.width=wide", "optimiser.lr=1"]
    verb, submitted = run("-m", "distjet", *wrong), run("-X", "importtime", "-m", "distjet", "submit", *wrong)
    messages = [line for line in submitted.stderr.splitlines() if not line.startswith("import time:")]
    assert verb.returncode == submitted.returncode == 2
    assert verb.stderr.splitlines() == messages
    assert "| ray" not in submitted.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "unknown verb 'trian', did you mean 'train'"),
        ([], "expected VERB FILE.yaml dotted.key=value; or --submission-id ID"),
        (["--stop", "train", "output=/x"], "expected VERB FILE.yaml dotted.key=value; or --submission-id ID"),
        (["train", "--adress", "x"], "expected FILE.yaml or dotted.key=value (got 'x')"),
        (["train", "-v", "dataset=/jets", "output=train"], "output=train: a job runs in a copy"),
        (["tune", *SWEEP, "storage=postgresql://me:abc@db/x"], "storage=postgresql://me:***@db/x: everybody who sees"),
        (["tune", *SWEEP, "base.num_epochs=none"], "distjet tune: error: base.num_epochs: "),
        (
            ["--address", "http://127.0.0.1:9", "--submission-id", "x"],
            "Failed to connect to Ray at address: http://127.0.0.1:9",
        ),
    ],
)
def test_problems_of_the_user_are_one_message(arguments: list[str], message: str) -> None:
    result = run("-m", "distjet", "submit", *arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["inspect", "--json", "/jets"], ["format=json", "/jets"]),
        (["verify", "/jets", "--inputs"], ["/jets", "inputs=true"]),
        (["train", "-v", "dataset=/jets", "output=/x"], ["-v", "dataset=/jets", "output=/x"]),
    ],
)
def test_flags_of_a_verb_are_understood(monkeypatch: pytest.MonkeyPatch, line: list[str], expected: list[str]) -> None:
    sent: list[Any] = []

    def note(*given: Any) -> int:
        sent.append(given)
        return 0

    monkeypatch.setattr(submit, "submit", note)
    assert CliRunner().invoke(app, ["submit", *line]).exit_code == 0
    verb, arguments, _, config, _ = sent[0]
    assert (verb, arguments) == (line[0], expected)
    assert load(CONFIGS[verb], *split_arguments(verb, [item for item in arguments if item != "-v"])) == config


def test_a_configuration_that_a_part_names_must_travel_as_well(project: Path) -> None:
    result = run("-m", "distjet", "submit", "tune", *SWEEP, "base.files=[private.yaml]", cwd=project)
    assert result.returncode == 2
    assert "distjet submit: error: private.yaml does not travel with the job" in result.stderr


def test_help_names_the_options() -> None:
    page = run("-m", "distjet", "submit", "--help").stdout
    assert all(option in page for option in ("--address", "--submission-id", "--no-wait", "--stop", "--entrypoint-num-cpus"))


def test_every_verb_has_a_job_that_runs_as_module_and_as_file(tmp_path: Path) -> None:
    jobs = {file.stem for file in (PROJECT / "jobs").glob("*.py")} - {"__init__"}
    assert jobs == {verb.replace("-", "_") for verb in CONFIGS}
    for verb in ("inspect", "train"):
        module, file = run("-m", f"jobs.{verb}", "nothing=1"), run(f"{PROJECT}/jobs/{verb}.py", "nothing=1", cwd=tmp_path)
        command = run("-m", "distjet", verb, "nothing=1")
        assert module.returncode == file.returncode == command.returncode == 2
        assert module.stderr == file.stderr == command.stderr
        assert f"distjet {verb}: error: " in file.stderr


def test_a_job_that_is_run_as_a_file_uses_the_distjet_beside_it(tmp_path: Path) -> None:
    (tmp_path / "distjet").mkdir()
    (tmp_path / "distjet/__init__.py").touch()
    (tmp_path / "distjet/cli.py").write_text("import inspect\ndef main(verb): print(verb, inspect.getfile(main))\n")
    shutil.copytree(PROJECT / "jobs", tmp_path / "jobs")
    for verb in CONFIGS:
        assert run(f"jobs/{verb.replace('-', '_')}.py", cwd=tmp_path).stdout == f"{verb} {tmp_path}/distjet/cli.py\n"
