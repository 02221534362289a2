"""The files with which clusters are started are what Ray, Kubernetes and Slurm accept, checked without any of these.

Ray's own schema is blind inside of `provider` and `node_config`; what is in them is compared here with what the clouds know.
"""

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import metadata, requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from distjet.cli import load_verb, split_arguments
from distjet.cluster.upload import RUNTIME_ENV, check_paths
from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.training.checkpoint import CheckpointStore
from distjet.training.history import read_rows
from distjet.training.settings import TrainConfig
from distjet.verbs import CONFIGS
from tests.cluster.ray_nodes import BIN
from tests.dataset.files import PROJECT
from tests.training.test_loop import FAST, SMALL_MODEL

CLUSTER = PROJECT / "conf/cluster"
CLOUDS = {"aws": PROJECT / "cluster.yaml", "gcp": CLUSTER / "ray_up/gcp.yaml"}
ON_PREMISE = CLUSTER / "ray_up/on_premise.yaml"
SCRIPTS = sorted((CLUSTER / "slurm").iterdir())

PROVIDER_KEYS = {
    "aws": {"type", "region", "availability_zone", "cache_stopped_nodes"},
    "gcp": {"type", "region", "availability_zone", "project_id"},
}
NODE_KEYS = {
    "aws": {"InstanceType", "BlockDeviceMappings"},  # of the EC2 call RunInstances
    "gcp": {
        "machineType",
        "disks",
        "guestAccelerators",
        "metadata",
        "scheduling",
    },  # of the Compute Engine call instances.insert
}
GPUS = {"g5.12xlarge": {"CPU": 48, "GPU": 4}, "m6i.8xlarge": {"CPU": 32}, "n1-standard-32": {"CPU": 32, "GPU": 4}}


def read(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text())


def starts(cluster: dict[str, Any]) -> tuple[str, str]:
    """The commands that start a head and a worker."""
    head, worker = (cluster[f"{node}_start_ray_commands"][-1] for node in ("head", "worker"))
    return head, worker


@pytest.mark.parametrize("file", [*CLOUDS.values(), ON_PREMISE], ids=lambda file: file.name)
def test_ray_accepts_it(file: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(read(file))
    validate_config(prepared)
    assert prepared["cluster_name"] == read(file)["cluster_name"]
    assert prepared["head_node_type"] in prepared["available_node_types"]


@pytest.mark.parametrize("provider", CLOUDS)
def test_the_schema_would_refuse_a_misspelt_key(provider: str) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    cluster = read(CLOUDS[provider])
    cluster["max_worker"] = cluster.pop("max_workers")
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config(cluster))


@pytest.mark.parametrize("provider", CLOUDS)
def test_what_the_schema_does_not_see(provider: str) -> None:
    cluster = read(CLOUDS[provider])
    assert set(cluster["provider"]) == PROVIDER_KEYS[provider]
    assert cluster["provider"]["type"] == provider
    for zone in cluster["provider"]["availability_zone"].split(","):
        assert zone.startswith(cluster["provider"]["region"])
    types = cluster["available_node_types"]
    for node in types.values():
        assert set(node["node_config"]) <= NODE_KEYS[provider]
        machine = node["node_config"].get("InstanceType") or node["node_config"]["machineType"]
        if node is not types["head"]:
            assert node["resources"] == GPUS[machine]
    accelerators = types["gpu"]["node_config"].get(
        "guestAccelerators", [{"acceleratorCount": types["gpu"]["resources"]["GPU"]}]
    )
    assert sum(item["acceleratorCount"] for item in accelerators) == types["gpu"]["resources"]["GPU"]


@pytest.mark.parametrize("provider", CLOUDS)
def test_workers_start_from_zero_and_the_head_does_not_train(provider: str) -> None:
    types = read(CLOUDS[provider])["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0}
    workers = [node for name, node in types.items() if name != "head"]
    assert all(node["min_workers"] == 0 < node["max_workers"] for node in workers)
    assert any(node["resources"].get("GPU", 0) > 0 for node in workers)


@pytest.mark.parametrize("provider", CLOUDS)
def test_images_are_pinned_to_a_ray_that_distjet_accepts(provider: str) -> None:
    cluster = read(CLOUDS[provider])
    assert is_pinned(cluster["docker"]["image"])
    assert cluster["setup_commands"], "where there are none, Ray installs a nightly build of itself"


def is_pinned(image: str) -> bool:
    """Whether an image names a version of Ray that distjet accepts, a Python that it accepts, and GPUs."""
    ray, python, device = image.rpartition(":")[2].split("-")
    accepted = next(item for item in map(Requirement, requires("distjet") or []) if item.name == "ray")
    assert ray in accepted.specifier
    assert f"{python[2]}.{python[3:]}" in SpecifierSet(metadata("distjet")["Requires-Python"])
    return device == "gpu"


@pytest.mark.parametrize("file", [*CLOUDS.values(), ON_PREMISE], ids=lambda file: file.name)
def test_a_token_is_asked_for_and_the_dashboard_is_local(file: Path) -> None:
    cluster = read(file)
    assert cluster["file_mounts"] == {"~/.ray/auth_token": "~/.ray/auth_token"}
    in_container = "-e RAY_AUTH_MODE=token" in cluster.get("docker", {}).get("run_options", [])
    assert in_container or all("RAY_AUTH_MODE=token ray start" in command for command in starts(cluster))
    assert "--dashboard-host=127.0.0.1" in starts(cluster)[0]
    assert "--head" in starts(cluster)[0]
    assert "--address=$RAY_HEAD_IP:6379" in starts(cluster)[1]


def test_the_clouds_differ_in_their_machines_alone() -> None:
    own = {"provider", "available_node_types", "head_setup_commands", "worker_setup_commands"}
    aws, gcp = ({key: value for key, value in read(file).items() if key not in own} for file in CLOUDS.values())
    assert aws == gcp


def test_on_premise_names_every_machine() -> None:
    cluster = read(ON_PREMISE)
    provider = cluster["provider"]
    assert set(provider) == {"type", "head_ip", "worker_ips"}
    assert cluster["min_workers"] == cluster["max_workers"] == len(provider["worker_ips"])


def test_the_kubernetes_job_is_a_distjet_command_on_workers_from_zero() -> None:
    job = read(CLUSTER / "kuberay/rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert spec["submissionMode"] in {
        "K8sJobMode",
        "HTTPMode",
        "SidecarMode",
        "InteractiveMode",
    }  # a text in Kubernetes' schema
    python, module, package, verb, *arguments = spec["entrypoint"].split()
    assert (python, module, package, verb) == ("python", "-m", "distjet", "train")
    config = load(TrainConfig, [PROJECT / arguments[0]], arguments[1:])
    assert cluster["authOptions"] == {"mode": "token"}
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    pods = [group["template"]["spec"] for group in (head, workers)]
    for pod in pods:
        assert is_pinned(image := pod["containers"][0]["image"])
        assert cluster["rayVersion"] == image.rpartition(":")[2].split("-")[0]
    for pod in pods:
        mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod["volumes"]}
    limits = pods[1]["containers"][0]["resources"]["limits"]
    assert int(limits["nvidia.com/gpu"]) * workers["maxReplicas"] == config.resources.num_workers
    assert workers["minReplicas"] == workers["replicas"] == 0
    assert head["rayStartParams"] == {"num-cpus": "0"}
    assert all(Path(path).is_relative_to("/data") for path in (config.dataset, config.output))


def documented_commands() -> list[list[str]]:
    """Commands in blocks and tables of the documentation that hold a command line of distjet, as a shell would split them."""
    text = "".join((PROJECT / name).read_text() for name in ("README.md", "docs/clusters.md", "docs/observability.md"))
    whole = text.replace("\\\n", "")  # a backslash continues a line
    blocks = [line for block in re.findall(r"```bash\n(.*?)```", whole, re.DOTALL) for line in block.splitlines()]
    rows = re.findall(r"^\|.*`(distjet (?:quickstart|\w+ [^`]+))` \|", text, re.MULTILINE)
    lines = [shlex.split(line, comments=True) for line in [*blocks, *rows] if "..." not in line]
    return [line for line in lines if line[:1] in (["distjet"], ["sbatch"]) or "jobs.train" in line]


def runs_elsewhere(command: list[str]) -> bool:
    """Whether a command runs in a copy of the folder, or on nodes that see only a shared file system."""
    return command[0] != "distjet" or command[1] == "submit"


def verb_and_arguments(command: list[str]) -> tuple[str, list[str]]:
    """Take away what stands before the verb: `distjet submit`, `ray job submit ... -m`, `sbatch OPTIONS SCRIPT`."""
    if command[0] == "sbatch":
        script = next(word for word in command[1:] if not word.startswith("-"))
        assert PROJECT / script in SCRIPTS
        return "train", command[command.index(script) + 1 :]
    if command[0] == "ray":
        assert command[command.index("--runtime-env") + 1] == str(RUNTIME_ENV)
        return "train", command[command.index("jobs.train") + 1 :]
    words = command[2:] if command[1] == "submit" else command[1:]
    return words[0], words[1:]


def test_there_are_documented_commands() -> None:
    commands = documented_commands()
    assert {command[0] for command in commands} == {"distjet", "sbatch", "ray"}
    assert {verb_and_arguments(command)[0] for command in commands} == set(CONFIGS)
    assert any("tracking.mlflow=outputs/mlflow" in command for command in commands)


@pytest.mark.parametrize("command", documented_commands(), ids=" ".join)
def test_a_documented_command_is_valid(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(PROJECT)
    verb, arguments = verb_and_arguments(command)
    config = load_verb(verb, *split_arguments(verb, arguments))
    if runs_elsewhere(command):
        check_paths(config, travelling={})


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_right_for_bash_and_shellcheck(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    checked = subprocess.run([BIN / "shellcheck", "-x", script], capture_output=True, text=True, cwd=PROJECT, check=False)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.parametrize("script", [item for item in SCRIPTS if item.suffix == ".sbatch"], ids=lambda script: script.name)
def test_slurm_jobs_are_told_before_their_time_is_over_and_keep_their_log(script: Path) -> None:
    directives = [line.removeprefix("#SBATCH ") for line in script.read_text().splitlines() if line.startswith("#SBATCH ")]
    assert {"--signal=B:USR1@300", "--requeue", "--open-mode=append"} <= set(directives)
    names = [directive.partition("=")[0] for directive in directives]
    assert len(names) == len(set(names))
    assert ("--exclusive" in names) == ("symmetric-run" in script.read_text().partition("set -uo")[2]), "it ends all of Ray"


NOTHING_INHERITED = "env --default-signal=USR1"
"What Slurm starts does not ignore what the batch script ignores."

RUN_BEHIND_DASHES = f'while [ "$1" != -- ]; do shift; done; shift; exec {NOTHING_INHERITED} "$@"'
"A `srun` of one node, whose `ray symmetric-run` is only what it calls."


def add_command(file: Path, script: str) -> None:
    file.write_text(f"#!/bin/bash\n{script}\n")
    file.chmod(0o755)


@pytest.fixture
def batch_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node of a batch system, as a job sees it: its variables, and a `scontrol` that writes down what it is asked for."""
    calls = tmp_path / "calls"
    (tmp_path / "bin").mkdir()
    add_command(tmp_path / "bin/scontrol", f'echo "$@" >>{calls}')
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{BIN}:{os.environ['PATH']}")
    for name, value in {"JOB_ID": "4711", "JOB_NUM_NODES": "2", "GPUS_ON_NODE": "1", "CPUS_PER_TASK": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    return calls


@pytest.mark.integration
@pytest.mark.timeout(120)
def test_a_slurm_job_whose_time_is_over_writes_a_checkpoint_and_is_put_back(
    toy_dataset: Manifest, batch_system: Path, tmp_path: Path
) -> None:
    output = tmp_path / "a run"
    places = [f"dataset={toy_dataset.path}", f"output={output}", "resources.num_workers=0", "checkpoint_minutes=60"]
    arguments = [*places, *FAST, SMALL_MODEL, "num_epochs=3000"]
    script = ["bash", str(CLUSTER / "slurm/one_node.sbatch")]
    with subprocess.Popen([*script, *arguments], cwd=PROJECT, stderr=subprocess.PIPE, text=True) as job:
        deadline = time.monotonic() + 90
        while not read_rows(output / "history.jsonl") and job.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        job.send_signal(signal.SIGUSR1)
        messages = job.communicate(timeout=60)[1]
    assert job.returncode == 128 + signal.SIGUSR1, messages
    assert "the same command continues" in messages
    assert CheckpointStore(output / "checkpoints").newest() is not None
    assert batch_system.read_text() == "requeue 4711\n"


@pytest.mark.parametrize(("code", "calls"), [(0, ""), (2, ""), (143, ""), (138, "requeue 4711\n")])
def test_only_a_job_whose_time_was_over_is_put_back(batch_system: Path, code: int, calls: str) -> None:
    command = f"source {CLUSTER}/slurm/requeue.sh; run_and_pass_on_signals bash -c 'exit {code}'; finish $?"
    assert subprocess.run(["bash", "-c", command], check=False).returncode == code
    assert (batch_system.read_text() if batch_system.exists() else "") == calls


@pytest.mark.parametrize(("restarts", "most", "is_put_back"), [("99", None, True), ("100", None, False), ("3", "3", False)])
def test_a_job_is_not_put_back_for_ever(
    batch_system: Path, monkeypatch: pytest.MonkeyPatch, restarts: str, most: str | None, is_put_back: bool
) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
    if most is not None:
        monkeypatch.setenv("DISTJET_MAX_RESTARTS", most)
    result = subprocess.run(
        ["bash", "-c", f"source {CLUSTER}/slurm/requeue.sh; finish 138"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 138
    assert batch_system.exists() == is_put_back
    assert (f"was put back {restarts} times, and is not again" in result.stderr) != is_put_back


def test_a_command_that_is_not_ready_for_the_signal_does_not_end_by_it(batch_system: Path) -> None:
    command = f"source {CLUSTER}/slurm/requeue.sh; run_and_pass_on_signals bash -c 'kill -USR1 $$; exit 3'; finish $?"
    assert subprocess.run(["bash", "-c", command], check=False).returncode == 3
    assert not batch_system.exists()


def test_a_signal_before_the_named_process_has_started_is_not_passed_on(batch_system: Path, tmp_path: Path) -> None:
    (tmp_path / "number").touch()
    ready, go = tmp_path / "ready", tmp_path / "go"
    child = tmp_path / "child.sh"
    child.write_text(f"trap 'exit 138' USR1; touch {ready}; until [ -e {go} ]; do sleep 0.05; done; exit 5")
    run = f"PID_FILE={tmp_path}/number; run_and_pass_on_signals {NOTHING_INHERITED} bash {child}; finish $?"
    with subprocess.Popen(["bash", "-c", f"source {CLUSTER}/slurm/requeue.sh; {run}"]) as job:
        wait_until(ready.exists)
        job.send_signal(signal.SIGUSR1)
        time.sleep(0.3)  # so long a child that was told would live
        go.touch()
        assert job.wait(timeout=20) == 5
    assert not batch_system.exists()


@pytest.mark.parametrize(
    ("srun", "verb", "code", "calls", "message"),
    [
        ("exit 0", "exit 0", 1, "", "distjet was not started, as Ray did not start on all of the 2 nodes"),
        ("exit 138", "exit 0", 1, "", "distjet was not started"),
        (RUN_BEHIND_DASHES, "exit 0", 0, "", ""),
        (RUN_BEHIND_DASHES, "exit 138", 138, "requeue 4711\n", ""),
        (RUN_BEHIND_DASHES, "kill -USR1 $$; exit 3", 3, "", ""),
    ],
)
def test_the_job_on_many_nodes_ends_as_its_verb(
    batch_system: Path, tmp_path: Path, srun: str, verb: str, code: int, calls: str, message: str
) -> None:
    for name, script in {"srun": srun, "ray": "exit 0", "python": verb}.items():
        add_command(tmp_path / "bin" / name, script)
    command = ["bash", str(CLUSTER / "slurm/many_nodes.sbatch"), "output=/x"]
    result = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stderr
    assert message in result.stderr
    assert (batch_system.read_text() if batch_system.exists() else "") == calls


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_signal_goes_to_the_process_that_is_named(batch_system: Path, tmp_path: Path) -> None:
    """As with `srun ray symmetric-run`, which a signal would end before it could end Ray."""
    number, said = tmp_path / "number", tmp_path / "said"
    grandchild = tmp_path / "grandchild.sh"
    grandchild.write_text(f"trap 'echo told >{said}; exit 138' USR1; echo $$ >{number}; while :; do sleep 0.05; done")
    child = f"bash -c '{NOTHING_INHERITED} bash {grandchild}; exit $?'"
    command = f"source {CLUSTER}/slurm/requeue.sh; PID_FILE={number}; run_and_pass_on_signals {child}; finish $?"
    with subprocess.Popen(["bash", "-c", command]) as job:
        wait_until(lambda: number.exists() and bool(number.read_text()))
        job.send_signal(signal.SIGUSR1)
        assert job.wait(timeout=20) == 128 + signal.SIGUSR1
    assert said.read_text() == "told\n"
    assert batch_system.read_text() == "requeue 4711\n"
