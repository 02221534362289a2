"""How does a signal become a checkpoint?

The driver's signals do not reach workers on other nodes, so its request to stop travels as a file in the run's directory.
A worker that is told to go (SIGTERM of a node that is taken away, SIGUSR1 to all processes of a job) raises a flag, which makes
all workers write a checkpoint together at their next look; Ray then starts them again where there is room.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from distjet.storage import poll_interval_s

STOP_FILE = "stop"
AT_WORK_FILE = "at_work"
"Mark in the directory of a run that has workers: they find a request to stop. It is absent while they wait for room."
NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"What asks a training to stop. SIGUSR1 is what batch systems send before a time limit, where they are asked to."
LOOK_INTERVAL_S = 0.5
"The file system, which may be far away, is asked so often whether to stop."
NOBODY_FOR_S = 15.0
"A request that finds no worker for so long is granted without one; workers that start later lose no more than their start."

_told_to_go: list[int] = []
"Signals that this worker has received. A signal handler has nobody to hand its finding to, hence a variable of the module."


class Stopped(Exception):
    """The training was interrupted by a signal; the same command continues it."""

    def __init__(self, signal_number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signal_number).name}; the same command continues")
        self.exit_code = 128 + signal_number


@contextmanager
def stop_on_signal(stop_file: Path) -> Iterator[list[int]]:
    """Turn the first SIGTERM, SIGINT or SIGUSR1 into a request to checkpoint and stop; a second one ends at once.

    Args:
        stop_file: How the request reaches the workers; removed at the end.

    Yields:
        The signals received so far.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # signals reach the main thread alone
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if received:
            signal.default_int_handler(number, frame)
        received.append(number)
        stop_file.touch()
        sys.stderr.write(f"{signal.Signals(number).name}: writing a checkpoint, then stopping (again: stop at once)\n")

    previous = {number: signal.signal(number, handle) for number in NUMBERS}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        stop_file.unlink(missing_ok=True)


def notice_signals() -> None:
    """Let this worker note the first signal instead of ending by it; a second one does what it did before.

    To be called in the main thread of a worker, which looks for signals between the questions of Ray's controller.
    """
    previous = {number: signal.getsignal(number) for number in NUMBERS}

    def handle(number: int, frame: FrameType | None) -> None:
        del frame
        for other, handler in previous.items():
            signal.signal(other, handler)
        _told_to_go.append(number)

    for number in NUMBERS:
        signal.signal(number, handle)


def told_to_go() -> str | None:
    """Name the signal that this worker has received, if any."""
    return f"{signal.Signals(_told_to_go[0]).name} (process {os.getpid()})" if _told_to_go else None


@dataclass
class ShouldStop:
    """Whether a worker is to write a checkpoint and stop, asked after every few steps.

    Attributes:
        stop_file: What the driver makes.
        clock: Time in seconds.
    """

    stop_file: Path
    clock: Callable[[], float] = time.monotonic
    last_look_s: float = field(default=float("-inf"), init=False)
    is_asked: bool = field(default=False, init=False)

    def __call__(self) -> bool:
        """Look at the flag, and now and then for the file."""
        if not self.is_asked and self.clock() - self.last_look_s >= poll_interval_s(self.stop_file, LOOK_INTERVAL_S):
            self.last_look_s = self.clock()
            self.is_asked = self.stop_file.exists()
        return self.is_asked or told_to_go() is not None


@dataclass
class NobodyHears:
    """Whether a request to stop reaches nobody, because the workers of a run wait for room; asked again and again.

    All that such a run has is in its last checkpoint.

    Attributes:
        run: The run's directory.
        clock: Time in seconds.
    """

    run: Path
    clock: Callable[[], float] = time.monotonic
    since_s: float | None = field(default=None, init=False)

    def __call__(self) -> bool:
        """Look for the request and for workers."""
        if not (self.run / STOP_FILE).exists() or (self.run / AT_WORK_FILE).exists():
            self.since_s = None
            return False
        self.since_s = self.clock() if self.since_s is None else self.since_s
        return self.clock() - self.since_s >= NOBODY_FOR_S
