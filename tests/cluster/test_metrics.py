"""What Prometheus fetches from a real Ray is what the stream and the training counted."""

import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from distjet.cluster.metrics import COUNTERS, GAUGES, PREFIX
from distjet.cluster.train import train
from distjet.dataset.manifest import Manifest
from distjet.training.history import read_rows
from tests.cluster.test_train import config
from tests.conftest import PROJECT


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """Address of the metrics of a local Ray, which are gathered often."""
    import ray

    ray.init(
        address="local",
        num_cpus=1,
        object_store_memory=100 * 1024**2,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        _system_config={"metrics_report_interval_ms": 500},
    )
    (node,) = ray.nodes()
    yield f"http://127.0.0.1:{node['MetricsExportPort']}/metrics"
    ray.shutdown()


def fetch(endpoint: str, run: Path) -> dict[str, float]:
    """Fetch the samples of a run as Prometheus does, by name."""
    text = urllib.request.urlopen(endpoint, timeout=10).read().decode()
    families = text_string_to_metric_families(text)
    return {s.name: s.value for family in families for s in family.samples if s.labels.get("run") == str(run)}


@pytest.mark.integration
@pytest.mark.timeout(200)
def test_prometheus_gets_the_counters_of_the_stream_and_the_numbers_of_the_training(
    toy_dataset: Manifest, endpoint: str, tmp_path: Path
) -> None:
    metrics = train(config(toy_dataset, tmp_path / "run", "resources.num_workers=0"))
    steps = -(-toy_dataset.num_rows("train") // 64)
    batches, deadline = f"{PREFIX}distjet_stream_batches_total", time.monotonic() + 60
    while (found := fetch(endpoint, tmp_path / "run")).get(batches, 0) < 3 * steps and time.monotonic() < deadline:
        time.sleep(0.5)
    assert found[batches] >= 3 * steps
    assert found[f"{PREFIX}distjet_train_epoch"] == 3
    assert found[f"{PREFIX}distjet_train_step"] == steps
    assert found[f"{PREFIX}distjet_train_loss"] == pytest.approx(metrics["last"]["train_loss"])
    assert found[f"{PREFIX}distjet_train_jets_per_s"] > 0
    last = read_rows(tmp_path / "run" / "history.jsonl")[-1]
    waited = found[f"{PREFIX}distjet_stream_seconds_waited_total"]
    assert waited >= last["stall_fraction"] * toy_dataset.num_rows("train") / last["jets_per_s"]


def test_every_name_is_documented() -> None:
    page = (PROJECT / "docs/observability.md").read_text()
    for name in [f"{PREFIX}{name}_total" for name in COUNTERS] + [f"{PREFIX}{name}" for name in GAUGES]:
        assert f"`{name}`" in page, name
