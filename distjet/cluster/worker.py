"""What does one worker of a training do, and how does it end?

It trains until the run is finished, or it is asked to stop. A problem of the user is written down before it is raised: where
workers are started again after a failure, they find it and leave at once, because trying again would not help.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distjet.cluster.deaths import add_death
from distjet.cluster.failures import FAILURE_FILE, record
from distjet.cluster.metrics import publisher
from distjet.cluster.signals import STOP_FILE, ShouldStop, told_to_go
from distjet.config import validate
from distjet.errors import UserError
from distjet.ranks import RankInfo
from distjet.run_directory import naming_a_full_disk
from distjet.training.settings import TrainConfig

logger = logging.getLogger(__name__)

Report = Callable[[dict[str, float]], None]
"Takes the row of a finished epoch."
OF_THE_WHOLE_JOB_S = 3.0
"A signal that reached a worker and the driver is the driver's, if its request to stop arrives within this time."


def run_worker(config: TrainConfig, ranks: RankInfo, report: Report, on_hang: Callable[[str], None] = logger.error) -> bool:
    """Train in the calling process, as one of `ranks.world_size`.

    Args:
        config: The training; paths are absolute.
        ranks: This process's place in the run.
        report: Called with the metrics of each epoch.
        on_hang: Called in another thread, of one worker, if there was no step for too long; says who hangs.

    Returns:
        Whether the training is over, rather than interrupted with a checkpoint.

    Raises:
        UserError: If the configuration, the data or the resources are the reason that it cannot go on.
    """
    import torch

    from distjet.training.loop import Interrupted, Trainer
    from distjet.training.watchdog import Watchdog

    use_gpu = config.resources.use_gpu if config.resources.use_gpu is not None else torch.cuda.is_available()
    device = torch.device("cuda", ranks.local_rank) if use_gpu else torch.device("cpu")
    if use_gpu:
        torch.cuda.set_device(device)
    torch.set_num_threads(config.resources.cpus_per_worker)
    if (config.output / FAILURE_FILE).exists():
        return True
    try:
        with naming_a_full_disk(config.output), Watchdog(ranks, config.resources.timeout_s, on_hang) as watchdog:
            should_stop, publish = ShouldStop(config.output / STOP_FILE), publisher(config, ranks)
            Trainer(config, ranks, device, report, should_stop, watchdog.at, publish).fit()
    except Interrupted as interruption:
        logger.info("%s", interruption)
        return False
    except UserError as error:
        record(config.output, error, ranks.world_rank)
        raise
    return True


def run_ray_worker(plain: Mapping[str, Any]) -> bool:
    """Body of a Ray Train worker: validate again, find the rank, train.

    Returns:
        Whether the run is over or has been asked to stop; else its workers are to be started again, because one was told to go.
    """
    from ray import train as ray_train

    from distjet.cluster.ranks import from_ray

    config, ranks = validate(TrainConfig, dict(plain)), from_ray()

    def leave(sentence: str) -> None:
        """End this process, whose training waits for ever: Ray then ends the others, and starts all of them again."""
        add_death(config.output, ranks.world_rank, f"found that one hangs: {sentence}")
        os._exit(1)

    is_over = run_worker(config, ranks, lambda metrics: ray_train.report(dict(metrics)), leave)
    if not is_over and (signal_name := told_to_go()) is not None:
        add_death(config.output, ranks.world_rank, f"was told to go by {signal_name}; a checkpoint is written")
    return is_over or _is_asked_to_stop(config.output / STOP_FILE)


def _is_asked_to_stop(stop_file: Path) -> bool:
    """Whether the driver wants the end, which may have got the same signal a moment later."""
    deadline = time.monotonic() + OF_THE_WHOLE_JOB_S
    while not (found := stop_file.exists()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found
