"""How is a list of pure tasks run, without knowing where?

`simulate` and `prepare` are lists of pure functions of one plain argument. They receive an `Execute` and never learn whether
the tasks ran in this process, on a local Dask cluster or on a batch farm; `distjet.cluster.dask` holds the distributed one.
Results arrive in any order, each with the index of its task, so whoever needs an order restores it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol


class Execute(Protocol):
    """Runs `function` on every task and yields `(index, result)` as results arrive."""

    def __call__(
        self, function: Callable[[Any], dict[str, Any]], tasks: Sequence[Any], *, description: str
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Start the tasks; `description` is what a progress bar shows."""
        ...


def in_process(
    function: Callable[[Any], dict[str, Any]], tasks: Sequence[Any], *, description: str
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Run the tasks one after the other in the calling process (the reference implementation)."""
    del description
    for index, task in enumerate(tasks):
        yield index, function(task)
