"""A training on a cluster that loses a machine goes on with the workers that there is room for."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distjet.cluster.deaths import read_deaths
from distjet.cluster.train import train
from distjet.dataset.manifest import Manifest
from tests.cluster.test_train import assert_same_training, config

QUICK = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
"How soon Ray finds that a machine is gone."


@pytest.fixture
def second_node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Connect to a cluster of two nodes with one core each, and give the second node."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "15")  # it first asks for two again, for a minute otherwise
    size = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False, "_system_config": QUICK})
    node = cluster.add_node(**size)
    ray.init(address=cluster.address, log_to_driver=False)
    yield node
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_a_training_goes_on_with_fewer_workers_when_a_raylet_is_killed(
    toy_dataset: Manifest, tmp_path: Path, second_node: Any
) -> None:
    epochs = "num_epochs=8"
    train(config(toy_dataset, tmp_path / "whole", epochs, "resources.num_workers=0"))
    seen: list[int] = []

    def kill_after_the_second_epoch(row: dict[str, float]) -> None:
        seen.append(int(row["epoch"]))
        if len(seen) == 2:
            second_node.kill_raylet()

    resources = "resources={num_workers: 2, min_workers: 1, use_gpu: false}"
    metrics = train(config(toy_dataset, tmp_path / "parts", epochs, resources), kill_after_the_second_epoch)
    assert metrics["num_workers"] == 1
    assert seen == list(range(1, 9))
    assert len(read_deaths(tmp_path / "parts")) == 1
    assert_same_training(tmp_path / "whole", tmp_path / "parts")
