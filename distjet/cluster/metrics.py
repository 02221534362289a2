"""How do Prometheus and Ray's dashboard see a training?

Each worker hands its numbers to Ray, whose agent on every machine serves them for Prometheus to fetch. Sums that only grow are
counters, so that rates and averages over any time are Prometheus's to make; all other numbers are as they were at the last
look of the training.
"""

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from distjet.ranks import RankInfo
from distjet.training.settings import TrainConfig

if TYPE_CHECKING:
    from distjet.training.meter import Publish

COUNTERS = {
    "distjet_stream_row_groups_decoded": "Row groups decoded from Parquet",
    "distjet_stream_row_groups_from_cache": "Row groups taken from the cache on the local disk",
    "distjet_stream_row_groups_in_memory": "Row groups that were in memory when they were needed",
    "distjet_stream_batches": "Batches made",
    "distjet_stream_bytes": "Bytes of the tensors of these batches",
    "distjet_stream_seconds_waited": "Seconds in which training steps waited for a batch",
    "distjet_stream_cpu_seconds_decoding": "CPU seconds of the threads that decode, or read and write the cache",
    "distjet_stream_cpu_seconds_gathering": "CPU seconds of the thread that makes batches",
}
"Of the stream of the training split, since the worker was started; Prometheus appends _total."
GAUGES = {
    "distjet_train_epoch": "Epoch under way, counted from 1",
    "distjet_train_step": "Steps of this epoch that are done",
    "distjet_train_loss": "Mean loss of this epoch so far, over all workers",
    "distjet_train_jets_per_s": "Jets per second in this epoch, all workers together",
    "distjet_train_stall_fraction": "Share of this epoch in which this worker's steps waited for a batch",
    "distjet_train_gpu_memory_gib": "Most memory of tensors on this worker's GPU in this epoch",
}
"The worker as it was at its last look."
PREFIX = "ray_"
"What Ray puts before every name."


class RayMetrics:
    """Hands the numbers of one worker to Ray.

    Args:
        run: The run's directory, as the label `run`.
        world_rank: Which worker, as the label `rank`.
    """

    def __init__(self, run: str, world_rank: int) -> None:
        from ray.util.metrics import Counter, Gauge

        labels = {"run": run, "rank": str(world_rank)}
        self.counters = {name: _labelled(Counter, name, what, labels) for name, what in COUNTERS.items()}
        self.gauges = {name: _labelled(Gauge, name, what, labels) for name, what in GAUGES.items()}
        self.before = dict.fromkeys(COUNTERS, 0.0)

    def __call__(self, sums: Mapping[str, float], values: Mapping[str, float]) -> None:
        """Take what the stream has counted, and what else there is to say of this moment."""
        for name, total in sums.items():
            key = f"distjet_stream_{name}"
            if total > self.before[key]:
                self.counters[key].inc(total - self.before[key])
                self.before[key] = total
        for name, value in values.items():
            self.gauges[f"distjet_train_{name}"].set(value)


def publisher(config: TrainConfig, ranks: RankInfo) -> "Publish | None":
    """Return what takes the numbers of this process, if it is part of a Ray cluster."""
    ray = sys.modules.get("ray")  # a training without Ray must not wait for its import
    return RayMetrics(str(config.output), ranks.world_rank) if ray is not None and ray.is_initialized() else None


def _labelled(kind: Any, name: str, description: str, labels: dict[str, str]) -> Any:
    metric = kind(name, description=description, tag_keys=tuple(labels))
    metric.set_default_tags(labels)
    return metric
