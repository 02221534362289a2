"""Which rows does each rank read at each step of an epoch? Index arithmetic alone: nothing here opens a file.

The row groups of a split are put into a random order and laid end to end. The line is cut into C lanes of equal length (to one
row), wherever a cut falls: also inside a row group. The lanes then give one row each in turn, in an order of lanes in which any
range of neighbours is spread evenly over the turn (the golden ratio's), and a step is a stretch of the rows so given. So

* the global batch of a step is the same for any number of ranks up to C, and the batches of an epoch are equal to one row;
* a rank owns neighbouring lanes, whose shares of each step are nearly equal, and no other rank reads their row groups, but for
  a row group that is cut by the boundary of two ranks: together k ranks decode at most k - 1 row groups twice;
* where a step begins is a formula, so an epoch is resumed at any step, by any number of ranks, without replaying anything.

Lanes with an even number run backwards. A row group that is cut by the boundary of two lanes is then needed by both at the
beginning of the epoch, or by both at its end: it is decoded once, and does not wait in memory for an epoch. Half of the lanes
begin and end in the row group of another, so an epoch begins with half as many row groups as it goes on with; those of the next
epoch fit into the places that become free at the end of this one.

Within a step, rows come by lane. The parts of the ranks, one after the other, are exactly the batch of a single rank.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from distjet.dataset.streaming.permutation import keys_of, places, shuffled
from distjet.errors import ConfigError
from distjet.ranks import RankInfo

GOLDEN = (5**0.5 - 1) / 2


class Lanes:
    """Equal lanes over a line of rows.

    Attributes:
        turn: Place of each lane in a turn, int64, shape (C,).
        starts: First position of each lane and, last, the number of rows, int64, shape (C + 1,).
        runs_back: Whether a lane gives its last row first, bool, shape (C,).
    """

    def __init__(self, num_rows: int, num_lanes: int, *, alternate: bool = True) -> None:
        self.num_rows, self.num_lanes = num_rows, num_lanes
        self.turn = np.argsort(np.argsort(np.arange(num_lanes) * GOLDEN % 1, kind="stable"))
        self.starts = np.concatenate([[0], np.cumsum(self.given(num_rows))])
        self.runs_back = (np.arange(num_lanes) % 2 == 0) & alternate

    def given(self, num_rows: int) -> np.ndarray:
        """Count the rows of each lane among the first `num_rows` that all give together, int64, shape (C,)."""
        return (num_rows + self.num_lanes - 1 - self.turn) // self.num_lanes

    def position(self, lane: np.ndarray, number: np.ndarray) -> np.ndarray:
        """Return where on the line the row stands that a lane gives after `number` others; any shape."""
        return np.where(self.runs_back[lane], self.starts[lane + 1] - 1 - number, self.starts[lane] + number)

    def number(self, lane: np.ndarray, position: np.ndarray) -> np.ndarray:
        """Return how many rows a lane gives before the one at a position, which must be its own; any shape."""
        return np.where(self.runs_back[lane], self.starts[lane + 1] - 1 - position, position - self.starts[lane])

    def owned_by(self, ranks: RankInfo) -> np.ndarray:
        """Return the lanes of a rank in order."""
        first, last = (self.num_lanes * (ranks.world_rank + i) // ranks.world_size for i in (0, 1))
        return np.arange(first, last)

    def smallest_share(self, world_size: int, num_rows: int) -> int:
        """Return the least that any rank has of any `num_rows` rows given one after the other."""
        whole_turns, rest = divmod(num_rows, self.num_lanes)
        shares = []
        for rank in range(world_size):
            lanes = self.owned_by(RankInfo(world_rank=rank, world_size=world_size))
            is_mine = np.zeros(self.num_lanes, np.int64)
            is_mine[self.turn[lanes]] = 1
            so_far = np.concatenate([[0], np.cumsum(np.tile(is_mine, 2))])
            shares.append(whole_turns * len(lanes) + (so_far[rest:] - so_far[: len(so_far) - rest]).min())
        return int(min(shares))


@dataclass(frozen=True)
class Needs:
    """The row groups that a rank needs in the rest of an epoch, in the order in which it needs them first.

    One that two lanes need, with a pause between them, counts as needed in the pause too.

    Attributes:
        group: Row group, int64, shape (K,).
        first_step: First step that needs it, shape (K,).
        last_step: Last step that needs it, shape (K,).
    """

    group: np.ndarray
    first_step: np.ndarray
    last_step: np.ndarray

    def most_at_once(self) -> int:
        """Return the largest number of row groups that one step needs."""
        if not len(self.group):
            return 0
        change = np.zeros(self.last_step.max() + 2, np.int64)
        np.add.at(change, self.first_step, 1)
        np.subtract.at(change, self.last_step + 1, 1)
        return int(change.cumsum().max())


class Line:
    """Row groups laid end to end, each with its rows permuted."""

    def __init__(self, sizes: np.ndarray, order: np.ndarray, keys: np.ndarray | None) -> None:
        """Lay them out.

        Args:
            sizes: Rows of each row group, int64, shape (R,).
            order: Row group at each place of the line, shape (R,).
            keys: Key of the permutation of each row group's rows, uint64, shape (R,); None leaves them in order.
        """
        self.sizes, self.order, self.keys = sizes, order, keys
        self.starts = np.concatenate([[0], np.cumsum(sizes[order])])

    def rows_at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the row group at each position, and the row within, int64, shapes (K,)."""
        place = self.place_of(positions)
        group, row = self.order[place], positions - self.starts[place]
        return group, row if self.keys is None else places(row, self.sizes[group], self.keys[group])

    def place_of(self, positions: np.ndarray) -> np.ndarray:
        """Return how many row groups end before each position, shape (K,)."""
        return np.searchsorted(self.starts, positions, side="right") - 1


@dataclass(frozen=True)
class EpochPlan:
    """The rows of every step of one epoch.

    Attributes:
        line: All rows.
        lanes: Lanes over them.
        bounds: Rows given before each step and, last, after all of them, int64, shape (T + 1,).
    """

    line: Line
    lanes: Lanes
    bounds: np.ndarray

    @property
    def num_steps(self) -> int:
        """Number of steps T."""
        return len(self.bounds) - 1

    def rows(self, step: int, ranks: RankInfo) -> tuple[np.ndarray, np.ndarray]:
        """Return the row group of each row of a rank's part of a step, and its number within, int64, shapes (B,)."""
        owned = self.lanes.owned_by(ranks)
        before, after = (self.lanes.given(int(self.bounds[step + i]))[owned] for i in (0, 1))
        count = after - before
        lane = np.repeat(owned, count)
        number = np.arange(len(lane)) + np.repeat(after - count.cumsum(), count)
        return self.line.rows_at(self.lanes.position(lane, number))

    def needs(self, ranks: RankInfo, first_step: int = 0) -> Needs:
        """Return the row groups that a rank decodes from `first_step` to the end of the epoch."""
        owned = self.lanes.owned_by(ranks)
        starts = self.lanes.starts[owned[0] : owned[-1] + 2]
        inside = self.line.starts[(self.line.starts > starts[0]) & (self.line.starts < starts[-1])]
        cuts = np.unique(np.concatenate([starts, inside]))
        pieces = np.stack([cuts[:-1], cuts[1:] - 1])  # each lies in one lane and one row group
        place, steps = self.line.place_of(pieces[0]), self.step_of(pieces)
        new = np.flatnonzero(np.diff(place, prepend=-1))
        if not len(new):  # no row at all
            return Needs(*np.zeros((3, 0), np.int64))
        first, last = np.minimum.reduceat(steps.min(axis=0), new), np.maximum.reduceat(steps.max(axis=0), new)
        order = np.argsort(first, kind="stable")
        order = order[last[order] >= first_step]
        return Needs(self.line.order[place[new]][order], np.maximum(first[order], first_step), last[order])

    def step_of(self, positions: np.ndarray) -> np.ndarray:
        """Return the step in which the row at each position is given; any shape."""
        lane = np.searchsorted(self.lanes.starts, positions, side="right") - 1
        rows_before = self.lanes.number(lane, positions) * self.lanes.num_lanes + self.lanes.turn[lane]
        return np.searchsorted(self.bounds, rows_before, side="right") - 1


@dataclass(frozen=True)
class LanePlan:
    """The order of all epochs of a split, the same for any number of ranks.

    Attributes:
        sizes: Rows of each row group in the order of the shards, int64, shape (R,).
        lanes: Lanes over all rows.
        num_steps: Steps in an epoch.
        seed: Of the order; None keeps the order of the shards.
        cut: Returns the bounds of the steps, given the line, the lanes and the number of steps.
    """

    sizes: np.ndarray
    lanes: Lanes
    num_steps: int
    seed: int | None
    cut: "Callable[[Line, Lanes, int], np.ndarray]"

    def epoch(self, epoch: int) -> EpochPlan:
        """Plan an epoch."""
        numbers = np.arange(len(self.sizes))
        if self.seed is None:
            line = Line(self.sizes, numbers, None)
        else:
            order = shuffled(len(self.sizes), keys_of(self.seed, epoch, 0))
            line = Line(self.sizes, order, keys_of(self.seed, epoch, 1, numbers))
        return EpochPlan(line, self.lanes, self.cut(line, self.lanes, self.num_steps))


def cut_equal_rows(line: Line, lanes: Lanes, num_steps: int) -> np.ndarray:
    """Cut an epoch into steps that are equal to one row; bounds as in `EpochPlan`."""
    return np.arange(num_steps + 1) * lanes.num_rows // num_steps


def check_shares(lanes: Lanes, world_size: int, rows_in_step: int) -> None:
    """Make sure that every rank has a row in every step.

    Args:
        lanes: Of the stream.
        world_size: Number of ranks.
        rows_in_step: The fewest rows that any step has.

    Raises:
        ConfigError: If a rank could be left without a row, with which its network cannot make a step.
    """
    if world_size > lanes.num_lanes:
        raise ConfigError(
            f"{world_size} workers for {lanes.num_lanes} lanes: every worker needs at least one; raise stream.lanes, or "
            "stream.max_bytes if that is what keeps their number low, or use fewer workers"
        )
    if lanes.smallest_share(world_size, rows_in_step) < 1:
        raise ConfigError(
            f"{world_size} workers for steps of {rows_in_step} rows: in some step, a worker would have none; "
            "raise batch_size (or max_nodes), or use fewer workers"
        )


def lanes_that_fit(num_lanes: int, slot_bytes: int, max_bytes: int) -> int:
    """Return the largest divisor of `num_lanes` for which the decoded row groups of all lanes fit in `max_bytes`.

    The answer may depend on the dataset and the configuration, never on the rank: the lanes define the order of an epoch.

    Raises:
        ConfigError: If a single lane does not fit.
    """
    for divisor in range(num_lanes, 0, -1):
        if num_lanes % divisor == 0 and num_slots(divisor) * slot_bytes <= max_bytes:
            return divisor
    raise ConfigError(
        f"stream.max_bytes={max_bytes} is too small: one lane needs {num_slots(1) * slot_bytes} bytes, for {num_slots(1)} "
        "decoded row groups; raise it, or prepare the dataset with a smaller row_group_size"
    )


def num_slots(num_lanes: int) -> int:
    """Return how many decoded row groups a rank with so many lanes keeps: one in use and one ahead for each, and a few more."""
    return num_lanes + max(num_lanes, 4)
