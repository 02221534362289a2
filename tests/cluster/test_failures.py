"""How a training ended is named by whoever knows: the worker, Ray's memory monitor, or what happened to the last worker."""

from pathlib import Path

import pytest

from distjet.cluster.deaths import add_death
from distjet.cluster.failures import FAILURE_FILE, lost_workers, record, recorded
from distjet.config import load
from distjet.errors import ConfigError, DiskFullError, HinderedError, LostError, NonFiniteError, OutOfMemoryError, UserError
from distjet.run_directory import read_json
from distjet.training.settings import TrainConfig


@pytest.mark.parametrize(
    ("error", "outcome", "read_as"),
    [
        (NonFiniteError("nan"), "non_finite", NonFiniteError),
        (OutOfMemoryError("full"), "out_of_memory", OutOfMemoryError),
        (DiskFullError("no room"), "hindered", HinderedError),
        (ConfigError("typo"), "error", UserError),
    ],
)
def test_the_first_failure_is_the_cause(tmp_path: Path, error: UserError, outcome: str, read_as: type[UserError]) -> None:
    assert recorded(tmp_path) is None
    record(tmp_path, error, world_rank=3)
    record(tmp_path, UserError("what followed from it"), world_rank=1)
    assert read_json(tmp_path / FAILURE_FILE) == {"outcome": outcome, "message": str(error), "world_rank": 3}
    found = recorded(tmp_path)
    assert type(found) is read_as
    assert str(found) == str(error)


def configure(output: Path) -> TrainConfig:
    return load(TrainConfig, [], ["dataset=/nowhere", f"output={output}", "resources.max_failures=2"])


@pytest.mark.integration
def test_a_worker_that_ray_ends_to_save_memory_ran_out_of_memory(tmp_path: Path) -> None:
    import ray
    from ray.exceptions import RayError
    from ray.train import WorkerGroupError

    quiet = {"include_dashboard": False, "log_to_driver": False, "_node_ip_address": "127.0.0.1"}
    limits = {"memory_usage_threshold": 0.001, "memory_monitor_refresh_ms": 100}
    ray.init(address="local", num_cpus=1, _system_config=limits, **quiet)
    try:
        actor = ray.remote(Waiting).remote()
        with pytest.raises(RayError) as death:
            ray.get(actor.wait.remote())
    finally:
        ray.shutdown()
    error = lost_workers(WorkerGroupError("", {1: death.value}), configure(tmp_path), num_oom_kills=0)
    assert isinstance(error, OutOfMemoryError)
    assert "a worker was lost 3 times" in str(error)
    assert "set batch_size lower" in str(error)
    assert read_json(tmp_path / FAILURE_FILE)["outcome"] == "out_of_memory"


class Waiting:
    def wait(self) -> None:
        import time

        time.sleep(60)


def test_what_ray_gives_up_is_told_by_what_happened_last(tmp_path: Path) -> None:
    import ray
    from ray.exceptions import ActorDiedError
    from ray.train import WorkerGroupError

    add_death(tmp_path, 1, "was unplugged")
    lost = lost_workers(WorkerGroupError("", {1: ActorDiedError()}), configure(tmp_path), num_oom_kills=0)
    assert isinstance(lost, LostError)
    assert isinstance(recorded(tmp_path), LostError)
    assert "a worker was lost 3 times" in str(lost)
    assert "was unplugged" in str(lost)
    (tmp_path / FAILURE_FILE).unlink()
    for cause, num_oom_kills in ((ActorDiedError(), 1), (ray.exceptions.OutOfMemoryError("low"), 0)):
        killed = lost_workers(WorkerGroupError("", {1: cause}), configure(tmp_path), num_oom_kills)
        assert isinstance(killed, OutOfMemoryError)


def test_a_problem_that_could_not_be_written_down_is_still_the_cause(tmp_path: Path) -> None:
    from ray.train import WorkerGroupError

    full = DiskFullError("no room, not even for this sentence")
    assert lost_workers(WorkerGroupError("", {1: full}), configure(tmp_path), num_oom_kills=0) is full


def test_a_defect_stays_what_it_is(tmp_path: Path) -> None:
    from ray.train import WorkerGroupError

    defect = WorkerGroupError("", {0: IndexError("a defect")})
    assert lost_workers(defect, configure(tmp_path), num_oom_kills=0) is None
    assert lost_workers(KeyError("another"), configure(tmp_path), num_oom_kills=0) is None
    assert recorded(tmp_path) is None
