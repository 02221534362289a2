"""How does Ray Train start a training?

As processes that torch connects, each on its own cores and at most one GPU, and started again when one is lost; with a smaller
number of them where a run allows it. Checkpoints are not Ray's, so its storage holds nothing of value. This file imports Ray
at once: it is imported when Ray is running.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from distjet.cluster.deaths import noting_deaths
from distjet.cluster.signals import AT_WORK_FILE, notice_signals
from distjet.cluster.worker import run_ray_worker
from distjet.run_directory import write_atomically
from distjet.storage import for_arrow
from distjet.training.settings import ResourcesConfig, TrainConfig

LONGER_THAN_A_HANG_S = 120
"A collective operation fails so much later than the watchdog, which can name who is missing."


class NoticingBackend(TorchConfig().backend_cls):  # type: ignore[misc]
    """Connects the processes as Ray Train does, lets them note signals, and marks the run while it has workers.

    Ray's controller calls it; what it executes runs in the main threads of the workers.
    """

    def on_training_start(self, worker_group: Any, backend_config: "NoticingTorchConfig") -> None:
        """Install the handlers of signals before the training begins in another thread."""
        super().on_training_start(worker_group, backend_config)
        worker_group.execute(notice_signals)
        write_atomically(backend_config.at_work, "")

    def on_shutdown(self, worker_group: Any, backend_config: "NoticingTorchConfig") -> None:
        """Take the mark away, however the workers ended."""
        backend_config.at_work.unlink(missing_ok=True)
        super().on_shutdown(worker_group, backend_config)


@dataclass(kw_only=True)
class NoticingTorchConfig(TorchConfig):
    """Names the backend to Ray.

    Attributes:
        at_work: File that is there while workers are.
    """

    at_work: Path

    @property
    def backend_cls(self) -> type[NoticingBackend]:
        """The backend."""
        return NoticingBackend


def build_trainer(config: TrainConfig, *, use_gpu: bool) -> TorchTrainer:
    """Build the trainer of a run; `fit` starts it.

    Args:
        config: The training; paths are absolute.
        use_gpu: Whether each worker has a GPU.

    Returns:
        A trainer whose result's `return_value` is that of the main worker.
    """
    resources = config.resources
    gpus = {"GPU": resources.gpus_per_worker} if use_gpu else {}
    files, place = for_arrow(config.output)
    return TorchTrainer(
        run_ray_worker,
        train_loop_config=config.model_dump(mode="json") | {"resources": {**resources.model_dump(), "use_gpu": use_gpu}},
        scaling_config=ScalingConfig(
            num_workers=_num_workers(resources),
            use_gpu=use_gpu,
            resources_per_worker={"CPU": resources.cpus_per_worker} | gpus,
        ),
        torch_config=NoticingTorchConfig(
            backend="nccl" if use_gpu else "gloo",
            timeout_s=resources.timeout_s + LONGER_THAN_A_HANG_S,
            at_work=config.output / AT_WORK_FILE,
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=place,
            storage_filesystem=files,
            failure_config=FailureConfig(max_failures=resources.max_failures),
            callbacks=[noting_deaths(config.output)],
        ),
    )


def _num_workers(resources: ResourcesConfig) -> int | tuple[int, int]:
    """Return a number, or the least and the most."""
    least = resources.min_workers
    return resources.num_workers if least is None else (least, resources.num_workers)
