"""Who makes the next batches while the network works on this one?

Threads, not processes: decoding and gathering release the interpreter lock, and tensors need no copy through shared memory.
Decoders fill slots in the order in which the rest of the epoch needs them, one thread makes batches of rows that are ready, and
finished batches wait in a queue that is bounded in bytes.

There is no deadlock, because slots are given in the order of need, and there are at least as many as one step needs: when none
is free, all are held by row groups that are needed no later, so the steps before can be made, after which a slot becomes free.
At the end of an epoch, slots that nobody holds take the row groups with which the next one begins.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from distjet.dataset.streaming.arena import Arena
from distjet.dataset.streaming.batch import GraphBatch
from distjet.dataset.streaming.cache import RowGroupCache
from distjet.dataset.streaming.decode import Decoder
from distjet.dataset.streaming.gather import Gatherer, pieces_of
from distjet.dataset.streaming.lanes import EpochPlan, Needs
from distjet.ranks import RankInfo

THREAD_NAME = "distjet-stream"


@dataclass
class Counters:
    """What a stream has done since it was made."""

    row_groups_decoded: int = 0
    "From Parquet."
    row_groups_from_cache: int = 0
    "Times that a row group on disk was used."
    row_groups_in_memory: int = 0
    "Times that a row group was still, or already, in memory."
    batches: int = 0
    "Made."
    bytes: int = 0
    "Of their tensors."
    seconds_waited: float = 0.0
    "In which the consumer was blocked."
    cpu_seconds_decoding: float = 0.0
    "Of all decoding threads, with reading and writing the cache."
    cpu_seconds_gathering: float = 0.0
    "Of the thread that makes batches."


@dataclass(frozen=True)
class Sources:
    """Where row groups come from and batches are made, for all epochs of a stream."""

    arena: Arena
    cache: RowGroupCache | None
    gatherer: Gatherer
    new_decoder: Callable[[], Decoder]
    counters: Counters
    finish: Callable[[GraphBatch], GraphBatch]
    "What is done with a batch before it waits for the consumer."


@dataclass(frozen=True)
class Pass:
    """One pass: a rank's part of an epoch from a step on, and what the next epoch begins with."""

    plan: EpochPlan
    ranks: RankInfo
    first_step: int
    needs: Needs
    next_needs: Callable[[], Needs]


class Pipeline:
    """Makes the batches of a pass in background threads, which end with the block that it opens."""

    def __init__(self, sources: Sources, work: Pass, num_threads: int, prefetch_bytes: int) -> None:
        self.sources, self.work, self.prefetch_bytes = sources, work, prefetch_bytes
        self.lock = threading.RLock()  # a garbage collection inside a block may close this very pipeline
        self.slot_free, self.loaded, self.batch_made, self.batch_taken = (threading.Condition(self.lock) for _ in range(4))
        self.groups = work.needs.group.tolist()
        self.is_loaded = [False] * len(self.groups)
        self.num_taken = self.num_released = 0
        self.loading: set[int] = set()
        self.looks_ahead = False
        self.batches: deque[tuple[GraphBatch, int]] = deque()
        self.num_bytes = 0
        self.error: BaseException | None = None
        self.is_closed = False
        targets = [self._gather_all, *[self._load_all] * num_threads]
        self.threads = [threading.Thread(target=self._run, args=(t,), name=THREAD_NAME, daemon=True) for t in targets]

    def __enter__(self) -> "Pipeline":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._close()
        if threading.current_thread() not in self.threads:  # a garbage collection may end an iteration from any thread
            for thread in self.threads:
                thread.join()
            self.sources.arena.release_all()

    @property
    def has_ended(self) -> bool:
        """Whether no thread is at work any more, so that the arena may be used by another pipeline."""
        return not any(thread.is_alive() for thread in self.threads)

    def __iter__(self) -> Iterator[GraphBatch]:
        """Yield the batches in the order of the steps, and raise what a thread raised."""
        for _ in range(self.work.first_step, self.work.plan.num_steps):
            yield self._next_batch()

    def _next_batch(self) -> GraphBatch:
        started = time.monotonic()
        with self.lock:
            self.batch_made.wait_for(lambda: self.batches or self.error)
            self.sources.counters.seconds_waited += time.monotonic() - started
            if self.error is not None:
                raise self.error
            batch, num_bytes = self.batches.popleft()
            self.num_bytes -= num_bytes
            self.batch_taken.notify()
            return batch

    def _run(self, target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:  # handed to the consumer, who raises it
            self._close(error)

    def _close(self, error: BaseException | None = None) -> None:
        with self.lock:
            self.error = self.error or error
            self.is_closed = True
            for condition in (self.slot_free, self.loaded, self.batch_made, self.batch_taken):
                condition.notify_all()

    # --- row groups ------------------------------------------------------------------------------------------------

    def _load_all(self) -> None:
        decoder = self.sources.new_decoder()
        try:
            while (task := self._take()) is not None:
                self._load(*task, decoder)
        finally:
            decoder.close()

    def _take(self) -> tuple[int, int, int] | None:
        """Wait for the next row group that is not at hand, and for a slot.

        Returns:
            Its number among the needs, the row group and the slot; None when the work is done.
        """
        while True:
            with self.lock:
                while not self.is_closed and self.num_taken < len(self.groups):
                    if (slot := self._try_to_take()) is not None:
                        return self.num_taken - 1, self.groups[self.num_taken - 1], slot
                if self.is_closed or self.looks_ahead:
                    return None
                self.looks_ahead = True
            self._look_ahead()

    def _try_to_take(self) -> int | None:
        """Take the next need: return a slot for it; or None if it needs none, or after having waited for one."""
        arena, cache, counters = self.sources.arena, self.sources.cache, self.sources.counters
        number, group = self.num_taken, self.groups[self.num_taken]
        is_blocked = group in self.loading or number - self.num_released >= arena.num_slots
        slot = None
        if not is_blocked and arena.hold(group):
            counters.row_groups_in_memory += 1
        elif not is_blocked and cache is not None and cache.is_ready(group):
            counters.row_groups_from_cache += 1
        elif is_blocked or (slot := arena.claim()) is None:
            self.slot_free.wait()
            return None
        self.num_taken += 1
        if slot is None:
            self._mark_loaded(number)
        else:
            self.loading.add(group)
        return slot

    def _load(self, number: int, group: int, slot: int, decoder: Decoder) -> None:
        """Fill a slot, or give it back if the row group is in the cache."""
        started = time.thread_time()
        sources, columns = self.sources, None
        if sources.cache is None or not sources.cache.verify(group):
            columns = self._decode(group, slot, decoder)
        with self.lock:
            if columns is None:
                sources.arena.give_back(slot)
                sources.counters.row_groups_from_cache += 1
            else:
                sources.arena.settle(slot, group, columns)
                sources.counters.row_groups_decoded += 1
            sources.counters.cpu_seconds_decoding += time.thread_time() - started
            self.loading.remove(group)
            self._mark_loaded(number)
            self.slot_free.notify_all()

    def _decode(self, group: int, slot: int, decoder: Decoder) -> dict[str, np.ndarray]:
        part, source = self.sources.arena.part(slot, group), self.sources.arena.groups[group]
        try:
            columns = decoder.decode(source, part)
            if self.sources.cache is not None:
                self.sources.cache.fill(group, part)
        except Exception as error:
            error.add_note(f"while {source} was decoded")
            raise
        return columns

    def _mark_loaded(self, number: int) -> None:
        self.is_loaded[number] = True
        self.loaded.notify()

    def _look_ahead(self) -> None:
        """Add the row groups that the first step of the next epoch needs; nothing waits for them, and nothing releases them."""
        needs = self.work.next_needs()
        first = needs.group[needs.first_step == 0].tolist()
        with self.lock:
            self.groups += first
            self.is_loaded += [False] * len(first)

    # --- batches ---------------------------------------------------------------------------------------------------

    def _gather_all(self) -> None:
        needs = self.work.needs
        first, by_last = needs.first_step.tolist(), np.argsort(needs.last_step, kind="stable")
        last, to_release = needs.last_step[by_last].tolist(), needs.group[by_last].tolist()
        num_needed = 0
        for step in range(self.work.first_step, self.work.plan.num_steps):
            before = num_needed
            while num_needed < len(first) and first[num_needed] <= step:
                num_needed += 1
            if not self._wait_for(range(before, num_needed)):
                return
            batch = self._gather(step)
            self._release(to_release, last, step)
            if not self._put(batch):
                return

    def _wait_for(self, numbers: range) -> bool:
        """Wait until row groups are loaded; return False if nobody wants the batches any more."""
        with self.lock:
            self.loaded.wait_for(lambda: self.is_closed or all(self.is_loaded[number] for number in numbers))
            return not self.is_closed

    def _gather(self, step: int) -> GraphBatch:
        started = time.thread_time()
        sources = self.sources
        group, number = self.work.plan.rows(step, self.work.ranks)
        slot = sources.arena.slot_of[group]
        cached = sources.cache.store if sources.cache is not None else None
        pieces = pieces_of(slot, number, sources.arena.store, cached, group)
        batch = sources.finish(sources.gatherer.gather(pieces, len(group), sources.arena.rows_of(slot, number)))
        sources.counters.cpu_seconds_gathering += time.thread_time() - started
        return batch

    def _release(self, groups: list[int], last_steps: list[int], step: int) -> None:
        """Release the row groups that no step after `step` needs."""
        with self.lock:
            before = self.num_released
            while self.num_released < len(groups) and last_steps[self.num_released] <= step:
                self.sources.arena.release(groups[self.num_released])
                self.num_released += 1
            if self.num_released > before:
                self.slot_free.notify_all()

    def _put(self, batch: GraphBatch) -> bool:
        """Wait for room in the queue; return False if nobody wants the batch any more."""
        num_bytes = batch.num_bytes
        with self.lock:
            self.batch_taken.wait_for(
                lambda: self.is_closed or not self.batches or self.num_bytes + num_bytes <= self.prefetch_bytes
            )
            self.batches.append((batch, num_bytes))
            self.num_bytes += num_bytes
            self.sources.counters.batches += 1
            self.sources.counters.bytes += num_bytes
            self.batch_made.notify()
            return not self.is_closed
