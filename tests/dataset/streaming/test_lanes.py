"""The lane plan against its definition, played out turn by turn in plain Python, and its promises for any sizes and ranks."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distjet.dataset.streaming.lanes import LanePlan, Lanes, check_shares, cut_equal_rows, lanes_that_fit, num_slots
from distjet.dataset.streaming.node_budget import NodeBudget, steps_for_budget
from distjet.errors import ConfigError
from distjet.ranks import SINGLE, RankInfo

WORLD_SIZES = [1, 2, 3, 4, 8, 5, 7, 12]
plans = settings(deadline=None, max_examples=60)

sizes_of_groups = st.lists(st.integers(0, 40), min_size=1, max_size=30).filter(lambda sizes: sum(sizes) > 0)


@st.composite
def lane_plans(draw: st.DrawFn) -> LanePlan:
    """Any row groups (some empty), more or fewer lanes than row groups, batches below and above a row group."""
    sizes = np.array(draw(sizes_of_groups))
    num_rows, batch_size = int(sizes.sum()), draw(st.integers(1, 60))
    lanes = Lanes(num_rows, draw(st.sampled_from([1, 2, 3, 8, 12, 24, 60])))
    return LanePlan(sizes, lanes, -(-num_rows // batch_size), draw(st.integers(0, 5)), cut_equal_rows)


def ranks(world_size: int) -> list[RankInfo]:
    return [RankInfo(world_rank=rank, world_size=world_size) for rank in range(world_size)]


def pairs(rows: tuple[np.ndarray, np.ndarray]) -> list[tuple[int, int]]:
    return list(zip(*(part.tolist() for part in rows), strict=True))


@plans
@given(lane_plans(), st.integers(0, 3))
def test_every_row_once_in_steps_that_are_equal_to_one_row(plan: LanePlan, number: int) -> None:
    epoch = plan.epoch(number)
    steps = [pairs(epoch.rows(step, SINGLE)) for step in range(plan.num_steps)]
    every_row = [(group, row) for group, size in enumerate(plan.sizes) for row in range(size)]
    assert sorted(row for step in steps for row in step) == every_row
    assert max(map(len, steps)) - min(map(len, steps)) <= 1


@plans
@given(lane_plans(), st.sampled_from(WORLD_SIZES))
def test_the_parts_of_the_ranks_are_the_global_batch_of_one_rank(plan: LanePlan, world_size: int) -> None:
    world_size = min(world_size, plan.lanes.num_lanes)
    epoch = plan.epoch(1)
    for step in range(plan.num_steps):
        parts = [pairs(epoch.rows(step, rank)) for rank in ranks(world_size)]
        assert [row for part in parts for row in part] == pairs(epoch.rows(step, SINGLE))


@plans
@given(lane_plans())
def test_the_plan_is_its_definition_played_out_turn_by_turn(plan: LanePlan) -> None:
    epoch, lanes = plan.epoch(0), plan.lanes
    positions = list(range(lanes.num_rows))
    length, longer = divmod(lanes.num_rows, lanes.num_lanes)
    queues = []
    for lane in range(lanes.num_lanes):
        size = length + (lanes.turn[lane] < longer)
        piece, positions = positions[:size], positions[size:]
        queues.append(piece[::-1] if lane % 2 == 0 else piece)
    in_turn = np.argsort(lanes.turn)
    given_order = []
    while any(queues):
        given_order += [(lane, queues[lane].pop(0)) for lane in in_turn if queues[lane]]
    for step in range(plan.num_steps):
        mine = sorted(given_order[epoch.bounds[step] : epoch.bounds[step + 1]], key=lambda item: item[0])
        expected = epoch.line.rows_at(np.array([position for _, position in mine], np.int64))
        assert pairs(epoch.rows(step, SINGLE)) == pairs(expected)


@plans
@given(lane_plans(), st.sampled_from(WORLD_SIZES), st.floats(0, 1))
def test_needs_are_the_row_groups_that_the_steps_touch(plan: LanePlan, world_size: int, part: float) -> None:
    world_size, first_step = min(world_size, plan.lanes.num_lanes), int(part * (plan.num_steps - 1))
    epoch = plan.epoch(2)
    for rank in ranks(world_size):
        touched: dict[int, list[int]] = {}
        for step in range(first_step, plan.num_steps):
            for group in np.unique(epoch.rows(step, rank)[0]).tolist():
                touched.setdefault(group, []).append(step)
        needs = epoch.needs(rank, first_step)
        found = {g: (a, b) for g, a, b in zip(*(v.tolist() for v in vars(needs).values()), strict=True)}
        assert found.keys() == touched.keys()
        for group, steps in touched.items():
            assert found[group][1] == steps[-1]
            assert (first_step if first_step else steps[0]) <= found[group][0] <= steps[0]
        assert len(found) == len(needs.group)
        assert (np.diff(needs.first_step) >= 0).all()
        at_once = [sum(a <= step <= b for a, b in found.values()) for step in range(plan.num_steps)]
        assert needs.most_at_once() == max(at_once)


@plans
@given(lane_plans(), st.sampled_from(WORLD_SIZES))
def test_a_row_group_is_decoded_twice_only_where_two_ranks_meet(plan: LanePlan, world_size: int) -> None:
    world_size = min(world_size, plan.lanes.num_lanes)
    epoch = plan.epoch(0)
    needed = [epoch.needs(rank).group for rank in ranks(world_size)]
    not_empty = int((plan.sizes > 0).sum())
    assert sum(map(len, needed)) <= not_empty + world_size - 1
    assert set(np.concatenate(needed).tolist()) == set(np.flatnonzero(plan.sizes).tolist())


def test_nothing_is_decoded_twice_where_the_ranks_part_between_row_groups() -> None:
    plan = LanePlan(np.full(32, 30), Lanes(960, 24), 40, 1, cut_equal_rows)
    for world_size in (1, 2, 4, 8):
        assert sum(len(plan.epoch(3).needs(rank).group) for rank in ranks(world_size)) == 32


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8, 16, 24])
def test_ranks_share_every_step_almost_equally(world_size: int) -> None:
    plan = LanePlan(np.full(100, 500), Lanes(50_000, 240), -(-50_000 // 512), 1, cut_equal_rows)
    epoch = plan.epoch(0)
    shares = np.array([[len(epoch.rows(step, rank)[0]) for rank in ranks(world_size)] for step in range(plan.num_steps)])
    assert (shares.max(axis=1) - shares.min(axis=1)).max() <= 4
    assert shares.min() >= plan.lanes.smallest_share(world_size, 50_000 // plan.num_steps)
    whole_turns = LanePlan(np.full(96, 500), Lanes(48_000, 240), 100, 1, cut_equal_rows).epoch(0)
    assert len({len(whole_turns.rows(7, rank)[0]) for rank in ranks(world_size)}) == 1


def test_an_epoch_begins_with_half_of_the_row_groups_that_it_goes_on_with() -> None:
    plan = LanePlan(np.full(1003, 200), Lanes(200_600, 40), 2000, 4, cut_equal_rows)
    needs = plan.epoch(0).needs(SINGLE)
    assert (needs.first_step == 0).sum() <= 21
    assert (needs.last_step >= plan.num_steps - 1).sum() <= 21
    assert needs.most_at_once() <= num_slots(40)
    assert len(needs.group) == 1003


def test_row_groups_are_mixed_over_the_whole_split_and_epochs_differ() -> None:
    plan = LanePlan(np.full(200, 50), Lanes(10_000, 40), 100, 2, cut_equal_rows)
    first, again, next_epoch = (pairs(plan.epoch(number).rows(5, SINGLE)) for number in (0, 0, 1))
    assert first == again != next_epoch
    groups = [group for group, _ in first]
    assert len(set(groups)) > 35
    assert min(groups) < 25
    assert max(groups) > 175
    other = LanePlan(np.full(200, 50), plan.lanes, 100, 3, cut_equal_rows)
    assert pairs(other.epoch(0).rows(5, SINGLE)) != first


def test_one_forward_lane_for_each_rank_keeps_the_order_of_the_shards() -> None:
    for world_size in (1, 3):
        sizes = np.array([7, 0, 30, 11, 25])
        plan = LanePlan(sizes, Lanes(73, world_size, alternate=False), 8, None, cut_equal_rows)
        epoch = plan.epoch(0)
        read = [row for rank in ranks(world_size) for step in range(8) for row in pairs(epoch.rows(step, rank))]
        assert read == [(group, row) for group, size in enumerate(sizes) for row in range(size)]


@plans
@given(sizes_of_groups, st.integers(0, 2**32), st.sampled_from([1, 3, 12]), st.integers(2, 20), st.sampled_from([1, 9, 300]))
def test_a_node_budget_is_never_exceeded(sizes: list[int], seed: int, num_lanes: int, graphs: int, largest: int) -> None:
    counts = np.random.default_rng(seed).integers(0, largest + 1, sum(sizes))
    first_row = np.cumsum([0, *sizes[:-1]])
    largest, total = int(counts.max()), int(counts.sum())
    max_nodes = graphs * max(largest, 1)
    num_steps, fewest = steps_for_budget(max_nodes, total, largest)
    lanes = Lanes(len(counts), num_lanes)
    plan = LanePlan(np.array(sizes), lanes, num_steps, 1, NodeBudget(counts.astype(np.min_scalar_type(largest)), first_row))
    for number in (0, 1):
        epoch = plan.epoch(number)
        steps = [epoch.rows(step, SINGLE) for step in range(num_steps)]
        nodes = [int(counts[first_row[group] + row].sum()) for group, row in steps]
        assert max(nodes) <= max_nodes
        assert sum(nodes) == total
        assert sum(len(group) for group, _ in steps) == len(counts)
        assert min(len(group) for group, _ in steps) >= min(fewest, len(counts))


def test_a_budget_below_two_of_the_largest_graphs_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_nodes=199 is too small: the largest graph has 100 nodes, two must fit"):
        steps_for_budget(199, 5000, 100)


def test_ranks_without_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"9 workers for 8 lanes.*raise stream\.lanes"):
        check_shares(Lanes(1000, 8), 9, 100)
    with pytest.raises(ConfigError, match="8 workers for steps of 5 rows: in some step, a worker would have none"):
        check_shares(Lanes(1000, 8), 8, 5)
    check_shares(Lanes(1000, 8), 8, 8)


def test_lanes_are_as_many_as_fit() -> None:
    assert lanes_that_fit(240, 10, 10**6) == 240
    assert lanes_that_fit(240, 10, 10 * num_slots(240)) == 240
    assert lanes_that_fit(240, 10, 10 * num_slots(240) - 1) == 120
    assert lanes_that_fit(7, 10, 10 * num_slots(6)) == 1
    with pytest.raises(ConfigError, match=r"stream\.max_bytes=49 is too small: one lane needs 50 bytes"):
        lanes_that_fit(240, 10, 49)


def test_planning_a_hundred_million_rows_takes_milliseconds() -> None:
    sizes = np.full(50_000, 2000)
    lanes = Lanes(10**8, 240)
    plan = LanePlan(sizes, lanes, -(-(10**8) // 512), 1, cut_equal_rows)
    rank = RankInfo(world_rank=3, world_size=8)
    plan.epoch(0).rows(0, rank)  # compiles
    started = time.process_time()
    epoch = plan.epoch(1)
    needs = epoch.needs(rank, first_step=123_456)
    group, _ = epoch.rows(123_456, rank)
    assert time.process_time() - started < 0.2
    assert set(group.tolist()) <= set(needs.group[needs.first_step == 123_456].tolist())
