"""How is a list of pure tasks run, without knowing where?

`simulate` and `prepare` are lists of pure functions of one plain argument. They receive an `Execute` and never learn whether
the tasks ran in this process, on a local Dask cluster or on a batch farm; `distjet.cluster.dask` holds the distributed one.
Results arrive in any order, each with the index of its task, so whoever needs an order restores it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

Measure = Callable[[dict[str, Any]], Mapping[str, int]]
"What a result adds to the counts that a progress bar shows, e.g. {'jets': 20000, 'quarantined': 3}; the first has a rate."


def measure_nothing(result: dict[str, Any]) -> Mapping[str, int]:
    """Count nothing but tasks."""
    del result
    return {}


class Execute(Protocol):
    """Runs `function` on every task and yields `(index, result)` as results arrive."""

    def __call__(
        self,
        function: Callable[[Any], dict[str, Any]],
        tasks: Sequence[Any],
        *,
        description: str,
        measure: Measure = measure_nothing,
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Start the tasks; `description` and what `measure` finds in the results are what a progress bar shows."""
        ...


def in_process(
    function: Callable[[Any], dict[str, Any]],
    tasks: Sequence[Any],
    *,
    description: str,
    measure: Measure = measure_nothing,
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Run the tasks one after the other in the calling process (the reference implementation)."""
    del description, measure
    for index, task in enumerate(tasks):
        yield index, function(task)
