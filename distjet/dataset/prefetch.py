"""Who makes the next batch while the network works on this one?

A thread, not a process: decoding and gathering release the interpreter lock, and tensors need no copy through shared memory.
"""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Item = TypeVar("Item")


@dataclass(frozen=True)
class _Failure:
    error: Exception


class _End:
    """Marks the end of the items."""


@dataclass
class _Producer(Generic[Item]):
    """Puts items into a bounded queue until they end, fail, or nobody wants them any more."""

    items: Iterator[Item]
    ready: "queue.Queue[Item | _Failure | type[_End]]"
    closed: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        try:
            for item in self.items:
                if not self._put(item):
                    return
        except Exception as error:  # handed to the consumer, who raises it
            self._put(_Failure(error))
        else:
            self._put(_End)

    def _put(self, item: "Item | _Failure | type[_End]") -> bool:
        while not self.closed.is_set():
            try:
                self.ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False


def ahead(items: Iterator[Item], depth: int) -> Iterator[Item]:
    """Yield items that a background thread makes up to `depth` ahead.

    An exception in the thread is raised here; the thread ends when the caller stops iterating.
    """
    producer = _Producer(items, queue.Queue(maxsize=depth))
    thread = threading.Thread(target=producer.run, name="distjet-stream", daemon=True)
    thread.start()
    try:
        while (item := producer.ready.get()) is not _End:
            if isinstance(item, _Failure):
                raise item.error
            yield item  # type: ignore[misc]
    finally:
        producer.closed.set()
        thread.join()
