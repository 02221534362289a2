"""Which edges can bins have?"""

from itertools import pairwise


def check_edges(name: str, edges: tuple[float, ...] | None) -> None:
    """Check the edges of a configuration; None stands for a choice that is made later.

    Raises:
        ValueError: If they do not increase, or begin below zero.
    """
    if edges is None:
        return
    if len(edges) < 2 or edges[0] < 0 or any(high <= low for low, high in pairwise(edges)):
        raise ValueError(f"{name} must be at least two increasing, non-negative edges (got {list(edges)})")
