"""Which worker hangs?

When one process stops making steps, all wait for it, and a collective operation that times out names nobody. So a thread of
each process tells the others now and then where the training is, through a store of the main process. Once there was no step
for too long, each compares: who does not answer is named, or is behind the others, or does not wait for them. One process
reports, and may end the run's workers. A training step pays for a few assignments.
"""

import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from queue import Empty, Queue
from types import TracebackType

import torch.distributed as dist

from distjet.ranks import RankInfo
from distjet.training import parallel

logger = logging.getLogger(__name__)

BEATS = 8
"How often a process tells where it is, within the time that it may take for a step."
LONGEST_INTERVAL_S = 10.0
LONGEST_EXIT_S = 1.0
"A thread that talks with others, or reports a hang, is left behind after so long."
JUDGE_BEATS = 3
"Messages that a process may miss before it is taken for one that does not answer."
TORCH, COLLECTIVES = f"{os.sep}torch{os.sep}", f"{os.sep}torch{os.sep}distributed{os.sep}"
"Parts of the paths of torch's files, and of those among them that talk with other processes."


@dataclass(frozen=True)
class Beat:
    """What a process tells the others.

    Attributes:
        count: Number of the message.
        position: Epoch and step, counted from 1, and the part of the step.
        doing: The same in words.
        process: Host and process.
        line: Where in the code it is.
        waits: Whether it waits for the others there.
    """

    count: int
    position: tuple[int, int, int]
    doing: str
    process: str
    line: str
    waits: bool


class Watchdog:
    """Notices that no step is made, and who is the reason; runs while it is entered.

    Example:
        >>> with Watchdog(ranks, patience_s=300, on_hang=logger.error) as watchdog:
        ...     watchdog.at(epoch=1, step=1, doing="reads a batch")
    """

    def __init__(self, ranks: RankInfo, patience_s: float, on_hang: Callable[[str], None]) -> None:
        """Prepare to watch the calling thread.

        Args:
            ranks: This process's place in the run.
            patience_s: How long a step may take.
            on_hang: Called once, in one process, in the watching thread, with a sentence that names worker and step.
        """
        self.ranks, self.patience_s, self.on_hang = ranks, patience_s, on_hang
        self.interval_s = min(patience_s / BEATS, LONGEST_INTERVAL_S)
        self.answer_s = min(patience_s, LONGEST_INTERVAL_S)
        self.watched = threading.get_ident()
        self.process = f"host {socket.gethostname()}, process {os.getpid()}"
        self.closed = threading.Event()
        self.count = 0
        self.position, self.doing, self.moved_s = (0, 0, 0), "starts", time.monotonic()

    def at(self, epoch: int, step: int, doing: str) -> None:
        """Say where the training is; what is said next of the same step is a later part of it."""
        part = self.position[2] + 1 if self.position[:2] == (epoch, step) else 0
        self.position, self.doing, self.moved_s = (epoch, step, part), doing, time.monotonic()

    def __enter__(self) -> "Watchdog":
        """Agree on the store, and start the thread."""
        self.store = self._open_store()
        self._tell()
        parallel.barrier(self.ranks)  # everyone has told something
        self.thread = threading.Thread(target=self._watch, name="distjet-watchdog", daemon=True)
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        """Stop the thread."""
        self.closed.set()
        self.thread.join(LONGEST_EXIT_S)

    def _open_store(self) -> dist.TCPStore | None:
        """Connect to the main process, which listens where the process group does, on a port of its own."""
        if self.ranks.world_size == 1:
            return None
        host, timeout = os.environ["MASTER_ADDR"], timedelta(seconds=60)
        made = dist.TCPStore(host, 0, None, True, timeout, wait_for_workers=False) if self.ranks.is_main else None
        port = max(parallel.gather(made.port if made else 0, self.ranks))
        return made or dist.TCPStore(host, port, None, False, timeout)

    def _watch(self) -> None:
        try:
            self._watch_all()
        except dist.DistError as error:  # the main process has ended, as Ray or a collective operation will say
            logger.debug("the watchdog ends: %s", error)

    def _watch_all(self) -> None:
        named = None  # where a hang was reported; this process goes on telling, lest it seems to hang itself
        while not self.closed.wait(self.interval_s):
            self._tell()
            is_late = time.monotonic() - self.moved_s > self.patience_s and self.position != named
            if is_late and (sentence := self._judge_in_time()) is not None and not self.closed.is_set():
                named = self.position
                self.on_hang(sentence)

    def _judge_in_time(self) -> str | None:
        """Judge, unless the store does not answer: its process has stopped, and torch would wait for it."""
        verdict: Queue[str | None] = Queue()

        def judge() -> None:
            try:
                verdict.put(self._judge())
            except dist.DistError as error:  # the store has gone, which the next message finds as well
                logger.debug("nobody can be judged: %s", error)
                verdict.put(None)

        threading.Thread(target=judge, name="distjet-watchdog-judge", daemon=True).start()
        try:
            return verdict.get(timeout=2 * JUDGE_BEATS * self.interval_s + self.answer_s)
        except Empty:
            epoch, step, _ = self.position
            sentence = f"worker 0 has not answered for {self.patience_s:g} s, worker 1 is in epoch {epoch}, step {step}"
            return sentence if self.ranks.world_rank == 1 and not self.closed.is_set() else None

    def _tell(self) -> None:
        self.count += 1
        if self.store is not None:
            self.store.set(str(self.ranks.world_rank), json.dumps(asdict(self._beat())))

    def _beat(self) -> Beat:
        return Beat(self.count, self.position, self.doing, self.process, *self._line())

    def _line(self) -> tuple[str, bool]:
        """The innermost line of distjet, or of a user's code, that the training is in; and whether it talks with the others."""
        frame, waits = sys._current_frames().get(self.watched), False
        while frame is not None and TORCH in frame.f_code.co_filename:
            waits = waits or COLLECTIVES in frame.f_code.co_filename
            frame = frame.f_back
        line = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}" if frame else "an unknown line"
        del frame  # where it is that of this call, it would keep itself, this object and its store alive
        return line, waits

    def _judge(self) -> str | None:
        """Say who hangs where; None in the processes that leave that to another."""
        if self.store is None:
            return self._sentence([0], [self._beat()])
        before = self._everyone()
        for _ in range(JUDGE_BEATS):  # whoever lives tells something new meanwhile
            time.sleep(self.interval_s)
            self._tell()
        beats = self._everyone()
        if self.closed.is_set() or any(now.position != then.position for now, then in zip(beats, before, strict=True)):
            return None  # it goes on
        silent = [rank for rank, beat in enumerate(beats) if beat.count == before[rank].count]
        first = min(beat.position for beat in beats)
        behind = [rank for rank, beat in enumerate(beats) if beat.position == first]
        behind = [rank for rank in behind if not beats[rank].waits] or behind
        speaker = min(set(range(len(beats))) - set(silent))
        return self._sentence(silent or behind, beats) if self.ranks.world_rank == speaker else None

    def _everyone(self) -> list[Beat]:
        if self.store is None:
            return [self._beat()]
        parts = [json.loads(self.store.get(str(rank))) for rank in range(self.ranks.world_size)]  # multi_get may wait for ever
        return [Beat(**part | {"position": tuple(part["position"])}) for part in parts]

    def _sentence(self, ranks: list[int], beats: list[Beat]) -> str:
        named = "; ".join(
            f"worker {rank} ({beats[rank].process}) {beats[rank].doing} at {beats[rank].line} "
            f"in epoch {beats[rank].position[0]}, step {beats[rank].position[1]}"
            for rank in ranks[:4]
        )
        more = f"; and {len(ranks) - 4} more" if len(ranks) > 4 else ""
        return f"no step for {self.patience_s:g} s (resources.timeout_s): {named}{more}"
