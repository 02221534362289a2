"""Where does a step begin if it is bounded by the number of nodes, not of graphs?

The nodes of an epoch are cut into T equal parts: step t begins with the first graph at which the nodes given so far reach t / T
of all. A step then has at most ceil(total / T) - 1 nodes and one graph more, so T follows from the budget, the nodes of all
graphs and the largest graph alone: the same in every epoch and on every rank. Only the column `num_nodes` is read for it.
"""

from dataclasses import dataclass

import numpy as np
from numba import njit

from distjet.dataset.streaming.lanes import Lanes, Line
from distjet.errors import ConfigError


@dataclass(frozen=True)
class NodeBudget:
    """The nodes of every graph of a split, and the largest number of them in a step.

    Attributes:
        num_nodes: Nodes of each row in the order of the shards, any unsigned type, shape (N,).
        first_row: First row of each row group, int64, shape (R,).
    """

    num_nodes: np.ndarray
    first_row: np.ndarray

    def __call__(self, line: Line, lanes: Lanes, num_steps: int) -> np.ndarray:
        """Cut an epoch into steps with equal numbers of nodes; bounds as in `distjet.dataset.streaming.lanes.EpochPlan`."""
        counts = self._along(line)
        per_turn = np.zeros(-(-lanes.num_rows // lanes.num_lanes), np.int64)
        for lane in range(lanes.num_lanes):
            piece = counts[lanes.starts[lane] : lanes.starts[lane + 1]]
            per_turn[: len(piece)] += piece[::-1] if lanes.runs_back[lane] else piece
        before = np.concatenate([[0], per_turn.cumsum()])
        goals = -(-np.arange(1, num_steps) * before[-1] // num_steps)
        turns = np.searchsorted(before, goals) - 1
        inside = _rows_to_reach(counts, lanes.starts, lanes.runs_back, np.argsort(lanes.turn), turns, goals - before[turns])
        return np.concatenate([[0], turns * lanes.num_lanes + inside, [lanes.num_rows]])

    def _along(self, line: Line) -> np.ndarray:
        """Return the nodes of the row at each position of the line, shape (N,)."""
        counts = np.empty(line.starts[-1], self.num_nodes.dtype)
        for start, stop in zip(line.starts[:-1], line.starts[1:], strict=True):
            group, row = line.rows_at(np.arange(start, stop))
            counts[start:stop] = self.num_nodes[self.first_row[group] + row]
        return counts


def steps_for_budget(max_nodes: int, total_nodes: int, largest_graph: int) -> tuple[int, int]:
    """Return the number of steps of an epoch, and the fewest rows that a step may have.

    Args:
        max_nodes: Most nodes in a step.
        total_nodes: Nodes of all graphs.
        largest_graph: Nodes of the largest graph.

    Raises:
        ConfigError: If the budget does not hold two of the largest graphs.
    """
    if max_nodes < 2 * largest_graph:
        raise ConfigError(f"max_nodes={max_nodes} is too small: the largest graph has {largest_graph} nodes, two must fit")
    num_steps = max(-(-total_nodes // max(max_nodes - largest_graph, 1)), 1)
    fewest_nodes = total_nodes // num_steps - largest_graph + 1
    return num_steps, -(-fewest_nodes // max(largest_graph, 1))


@njit(cache=True, nogil=True)
def _rows_to_reach(counts, starts, runs_back, lane_at, turns, missing):  # type: ignore[no-untyped-def]
    """Count the rows of a turn, lane by lane, until they have the nodes that are missing before it."""
    rows = np.zeros(len(turns), np.int64)
    for i in range(len(turns)):
        found = 0
        while found < missing[i]:
            lane = lane_at[rows[i]]
            position = starts[lane + 1] - 1 - turns[i] if runs_back[lane] else starts[lane] + turns[i]
            found += counts[position]
            rows[i] += 1
    return rows
