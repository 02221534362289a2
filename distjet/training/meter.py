"""How fast does a process train, and what does it wait for?

Clocks and counters that exist anyway are read at the looks that the loop takes: a step costs nothing for it. Only GPU memory
and use come from the device, without waiting for it.
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from pynvml import NVMLError

from distjet.dataset.streaming.stream import JetStream

logger = logging.getLogger(__name__)

GIB = 2**30
Publish = Callable[[Mapping[str, float], Mapping[str, float]], None]
"Takes what the stream of this process has counted since it was made, and the numbers of the moment."


@dataclass
class Meter:
    """Measures the steps of one process since `start`, at the beginning of an epoch or of its resumed rest.

    Attributes:
        stream: The batches that the steps take.
        device: Where they compute.
    """

    stream: JetStream
    device: torch.device
    can_tell_use: bool = True

    def start(self) -> None:
        """Begin to measure."""
        self.first, self.waited_s = (self.stream.epoch, self.stream.step), self.stream.counters.seconds_waited
        self.started_s = time.monotonic()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    @property
    def num_steps(self) -> int:
        """Steps since the start; at the end of its epoch the stream is at the beginning of the next one."""
        epoch, step = self.first
        return (self.stream.epoch - epoch) * len(self.stream) + self.stream.step - step

    @property
    def jets_per_s(self) -> float:
        """The rate of all processes together."""
        return self.num_steps * self.stream.mean_batch_size / self.seconds

    @property
    def seconds_per_step(self) -> float:
        """Mean time of a step."""
        return self.seconds / max(self.num_steps, 1)

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return max(time.monotonic() - self.started_s, 1e-9)

    @property
    def stall_fraction(self) -> float:
        """Share of the time in which a step waited for its batch."""
        return (self.stream.counters.seconds_waited - self.waited_s) / self.seconds

    @property
    def gpu_memory_gib(self) -> float:
        """Most memory that tensors took on this process's GPU since the start; 0 without one."""
        return torch.cuda.max_memory_allocated(self.device) / GIB if self.device.type == "cuda" else 0.0

    def gpu_utilisation(self) -> float | None:
        """Share of the last second in which this process's GPU was busy; None where there is none or nobody can tell."""
        if self.device.type != "cuda" or not self.can_tell_use:
            return None
        try:
            return torch.cuda.utilization(self.device) / 100
        except (NVMLError, ImportError, RuntimeError) as error:  # a part of a GPU, or AMD's without its package
            logger.debug("no GPU utilisation: %s", error)
            self.can_tell_use = False
            return None
