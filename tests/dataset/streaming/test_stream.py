"""Every row once an epoch, the same global batches for any number of ranks, and resume anywhere: without processes."""

import dataclasses
import gc
import json
import threading
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from distjet.dataset.graphs.edges import decode_edges
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import GraphBatch
from distjet.dataset.streaming.pipeline import THREAD_NAME
from distjet.dataset.streaming.stream import JetStream, StreamConfig
from distjet.errors import ConfigError, DataError
from distjet.ranks import RankInfo

ID = ("sample", "run", "event", "jet_index")
CONFIG = StreamConfig(batch_size=150, lanes=12, row_columns=ID)
"With fewer lanes than row groups, so that row groups come and go."


def ranks(world_size: int) -> list[RankInfo]:
    return [RankInfo(world_rank=rank, world_size=world_size) for rank in range(world_size)]


def identities(batch: GraphBatch) -> list[tuple]:
    return list(zip(*(batch.rows[name].tolist() for name in ID), strict=True))


def rows_of(manifest: Manifest, split: str) -> list[tuple]:
    tables = [pq.read_table(manifest.path / shard.path, columns=list(ID)) for shard in manifest.shards(split)]
    return [tuple(row[name] for name in ID) for table in tables for row in table.to_pylist()]


def global_batches(manifest: Manifest, world_size: int, config: StreamConfig = CONFIG, epoch: int = 0) -> list[list[tuple]]:
    """What all ranks see together at each step, in the order of the ranks."""
    streams = [JetStream(manifest, "train", config, seed=3, ranks=rank) for rank in ranks(world_size)]
    for stream in streams:
        stream.epoch = epoch
    return [[i for batch in step for i in identities(batch)] for step in zip(*streams, strict=True)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("config", [CONFIG, CONFIG.model_copy(update={"max_nodes": 900})], ids=["graphs", "nodes"])
def test_every_row_exactly_once_in_the_same_global_batches(
    toy_dataset: Manifest, config: StreamConfig, world_size: int
) -> None:
    batches = global_batches(toy_dataset, world_size, config)
    assert batches == global_batches(toy_dataset, 1, config)
    assert sorted(row for batch in batches for row in batch) == sorted(rows_of(toy_dataset, "train"))
    if config.max_nodes is None:
        sizes = [len(batch) for batch in batches]
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= config.batch_size


def test_a_node_budget_is_never_exceeded_and_well_used(toy_dataset: Manifest) -> None:
    budget = 900
    stream = JetStream(toy_dataset, "train", StreamConfig(max_nodes=budget), seed=3)
    for _ in range(2):
        nodes = [batch.num_nodes for batch in stream]
        assert len(nodes) == len(stream)
        assert max(nodes) <= budget
        assert np.mean(nodes) > 0.9 * budget
    with pytest.raises(ConfigError, match="max_nodes=10 is too small"):
        JetStream(toy_dataset, "train", StreamConfig(max_nodes=10))


def test_epochs_differ_and_repeat_with_the_seed(toy_dataset: Manifest) -> None:
    first, second = global_batches(toy_dataset, 1, epoch=0), global_batches(toy_dataset, 1, epoch=1)
    assert first != second
    assert first == global_batches(toy_dataset, 1, epoch=0)
    assert sorted(r for b in first for r in b) == sorted(r for b in second for r in b)


def test_epochs_one_after_the_other_are_those_of_fresh_streams(toy_dataset: Manifest) -> None:
    """What is still in memory, or was decoded ahead, is what would have been decoded."""
    stream = JetStream(toy_dataset, "train", CONFIG, seed=3)
    for epoch in range(3):
        assert [identities(batch) for batch in stream] == global_batches(toy_dataset, 1, epoch=epoch)


@pytest.mark.parametrize("step", [0, 1, 7, 13])
@pytest.mark.parametrize("new_size", [1, 3])
def test_a_resumed_epoch_sees_exactly_the_rest_on_any_number_of_ranks(toy_dataset: Manifest, step: int, new_size: int) -> None:
    interrupted = JetStream(toy_dataset, "train", CONFIG, seed=3, ranks=ranks(2)[0])
    iterator = iter(interrupted)
    for _ in range(step):
        next(iterator)
    state = json.loads(json.dumps(interrupted.state_dict()))
    assert set(state) == {"plan", "seed", "epoch", "step"}
    iterator.close()
    resumed = [JetStream(toy_dataset, "train", CONFIG, seed=3, ranks=rank) for rank in ranks(new_size)]
    for stream in resumed:
        stream.load_state_dict(state)
    rest = [[i for batch in step for i in identities(batch)] for step in zip(*resumed, strict=True)]
    assert rest == global_batches(toy_dataset, 1)[step:]
    assert (resumed[0].epoch, resumed[0].step) == (1, 0)


@pytest.mark.parametrize("world_size", [1, 3])
def test_without_shuffling_ranks_read_their_parts_in_the_order_of_the_shards(toy_dataset: Manifest, world_size: int) -> None:
    config = StreamConfig(batch_size=64, shuffle=False, row_columns=ID)
    streams = [JetStream(toy_dataset, "test", config, ranks=rank) for rank in ranks(world_size)]
    assert len({len(stream) for stream in streams}) == 1
    assert [row for stream in streams for batch in stream for row in identities(batch)] == rows_of(toy_dataset, "test")


def test_a_batch_holds_what_the_shards_hold(toy_dataset: Manifest) -> None:
    """Compare every graph with the Parquet rows, read as Python lists."""
    by_id = {}
    for shard in toy_dataset.shards("train"):
        for row in pq.read_table(toy_dataset.path / shard.path).to_pylist():
            by_id[tuple(row[name] for name in ID)] = row
    node, graph = toy_dataset.names("node"), toy_dataset.names("graph")
    for batch in JetStream(toy_dataset, "train", CONFIG, seed=1):
        for g, identity in enumerate(identities(batch)):
            row, lo, hi = by_id[identity], int(batch.ptr[g]), int(batch.ptr[g + 1])
            np.testing.assert_array_equal(batch.x[lo:hi].numpy(), np.array([row[n] for n in node], np.float32).T)
            np.testing.assert_array_equal(
                batch.p4[lo:hi].numpy(), np.array([row[n] for n in ("px", "py", "pz", "energy")], np.float32).T
            )
            np.testing.assert_array_equal(batch.u[g].numpy(), np.array([row[n] for n in graph], np.float32))
            assert batch.targets["true_energy"][g].item() == row["true_energy"]
            assert batch.weight[g].item() == pytest.approx(row["weight"], rel=1e-6)
            assert batch.jet[g].tolist() == [row[f"jet_{n}"] for n in ("pt", "eta", "phi", "energy", "mass")]
            assert batch.batch[lo:hi].tolist() == [g] * (hi - lo)
            mine = (batch.edge_index[0] >= lo) & (batch.edge_index[0] < hi)
            packed = np.frombuffer(row["edges"], np.uint8)
            edges = decode_edges(packed, np.array([0, len(packed)]), np.array([0, hi - lo]))
            pairs = list(zip(edges.source.tolist(), edges.target.tolist(), strict=True))
            expected = [directed for a, b in pairs for directed in ((a, b), (b, a))]
            assert [tuple(edge) for edge in (batch.edge_index[:, mine] - lo).T.tolist()] == expected


def test_edge_attributes_are_distances_with_wrapped_azimuth(toy_dataset: Manifest) -> None:
    batch = next(iter(JetStream(toy_dataset, "train", CONFIG, seed=1)))
    px, py, pz, _ = batch.p4.double().unbind(1)
    eta, phi = torch.asinh(pz / torch.hypot(px, py)), torch.atan2(py, px)
    a, b = batch.edge_index
    d_phi = torch.arccos(torch.cos(phi[a] - phi[b]).clamp(-1, 1))
    torch.testing.assert_close(batch.edge_attr[:, 0].double(), torch.hypot(eta[a] - eta[b], d_phi), atol=1e-5, rtol=1e-4)
    assert batch.edge_attr.max() < 1.0


def test_features_leave_standardised_if_asked_for(toy_dataset: Manifest) -> None:
    plain = list(JetStream(toy_dataset, "train", CONFIG, seed=1))
    standardised = list(JetStream(toy_dataset, "train", CONFIG.model_copy(update={"standardise": True}), seed=1))
    for attribute, role in (("x", "node"), ("u", "graph")):
        found = [toy_dataset.statistics(name) for name in toy_dataset.names(role)]
        mean = torch.tensor([item["mean"] for item in found])
        std = torch.tensor([item["std"] if item["std"] > 0 else 1.0 for item in found])
        for a, b in zip(plain, standardised, strict=True):
            torch.testing.assert_close(getattr(b, attribute), (getattr(a, attribute) - mean) / std, rtol=1e-5, atol=1e-5)
    everything = torch.cat([batch.x for batch in standardised]).double()
    np.testing.assert_allclose(everything.mean(0), 0, atol=1e-3)


def test_a_state_of_another_dataset_order_or_seed_is_refused(toy_dataset: Manifest) -> None:
    stream = JetStream(toy_dataset, "train", CONFIG, seed=3)
    state = stream.state_dict()
    others = [CONFIG.model_copy(update=change) for change in ({"batch_size": 151}, {"lanes": 6}, {"max_nodes": 900})]
    states = [JetStream(toy_dataset, "train", config, seed=3).state_dict() for config in others]
    states += [JetStream(toy_dataset, "val", CONFIG, seed=3).state_dict(), state | {"seed": 4}]
    for other in states:
        with pytest.raises(ConfigError, match="does not belong to"):
            stream.load_state_dict(other)


def test_a_state_at_either_end_of_an_epoch_is_a_position_and_beyond_them_is_none(toy_dataset: Manifest) -> None:
    stream = JetStream(toy_dataset, "train", CONFIG, seed=3)
    for _ in stream:
        state = stream.state_dict()
    assert state["step"] == len(stream)
    other = JetStream(toy_dataset, "train", CONFIG, seed=3)
    other.load_state_dict(state)
    assert list(other) == []
    assert (other.epoch, other.step) == (1, 0)
    assert [identities(batch) for batch in other] == global_batches(toy_dataset, 1, epoch=1)
    for broken in ({"step": 1}, state | {"rank": 1}):
        with pytest.raises(ConfigError, match=r"a stream's state has \['epoch', 'plan', 'seed', 'step'\], this one has"):
            other.load_state_dict(broken)
    for wrong in ({"step": len(stream) + 1}, {"step": -1}, {"epoch": -1}):
        with pytest.raises(ConfigError, match=f"is no position in epochs of {len(stream)} steps"):
            other.load_state_dict(state | wrong)


def test_a_stream_that_is_moved_under_an_iteration_is_an_error(toy_dataset: Manifest) -> None:
    stream = JetStream(toy_dataset, "train", CONFIG, seed=3)
    start = stream.state_dict()
    for _ in range(2):
        first, second = iter(stream), iter(stream)
        next(first)
        next(second)
        with pytest.raises(RuntimeError, match="the stream was moved to step 2 of epoch 0 while an iteration was at step 1"):
            next(first)
        second.close()
        stream.load_state_dict(start)
    iterator = iter(stream)
    for _ in range(len(stream)):
        next(iterator)
    stream.load_state_dict(start)
    with pytest.raises(RuntimeError, match="the stream was moved to step 0 of epoch 0"):
        next(iterator)
    assert not stream_threads()
    assert [identities(batch) for batch in stream] == global_batches(toy_dataset, 1)


def test_threads_and_prefetching_do_not_change_the_order(toy_dataset: Manifest) -> None:
    other = CONFIG.model_copy(update={"num_threads": 3, "prefetch_bytes": 1})
    assert global_batches(toy_dataset, 1, other) == global_batches(toy_dataset, 1)


def test_lanes_follow_from_the_memory_that_may_be_used(toy_dataset: Manifest) -> None:
    most = [JetStream(toy_dataset, "train", StreamConfig(max_bytes=size)).lanes.num_lanes for size in (10**6, 10**7, 10**8)]
    assert most[0] < most[1] < most[2] == 240
    assert all(240 % number == 0 for number in most)
    with pytest.raises(ConfigError, match=r"stream\.max_bytes=1000 is too small"):
        JetStream(toy_dataset, "train", StreamConfig(max_bytes=1000))


def test_more_ranks_than_lanes_or_rows_and_unknown_columns_are_refused(toy_dataset: Manifest) -> None:
    with pytest.raises(ConfigError, match="100000 workers for 12 lanes: every worker needs at least one"):
        JetStream(toy_dataset, "test", CONFIG, ranks=RankInfo(world_rank=0, world_size=100_000))
    with pytest.raises(ConfigError, match="8 workers for steps of 4 rows: in some step, a worker would have none"):
        JetStream(toy_dataset, "train", StreamConfig(batch_size=5), ranks=ranks(8)[0])
    with pytest.raises(ConfigError, match="no_such"):
        JetStream(toy_dataset, "test", StreamConfig(row_columns=("no_such",)))


@pytest.fixture
def damaged(toy_dataset: Manifest, tmp_path) -> Manifest:
    """The toy dataset with a flipped bit in its first shard."""
    for split in ("train", "val", "test"):
        for shard in toy_dataset.shards(split):
            (tmp_path / shard.path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / shard.path).write_bytes((toy_dataset.path / shard.path).read_bytes())
    first = tmp_path / toy_dataset.shards("train")[0].path
    data = bytearray(first.read_bytes())
    data[len(data) // 3] ^= 0x10
    first.write_bytes(bytes(data))
    return dataclasses.replace(toy_dataset, path=tmp_path)


def test_a_damaged_shard_is_an_error_with_its_name_not_wrong_numbers(damaged: Manifest, tmp_path) -> None:
    message = rf"part-00000\.parquet: row group \d+ .* if it is damaged, remove the folder {tmp_path} and run"
    with pytest.raises(DataError, match=message):
        list(JetStream(damaged, "train", CONFIG))
    assert not stream_threads()


def test_a_manifest_that_says_otherwise_is_an_error(toy_dataset: Manifest) -> None:
    content = json.loads(json.dumps(toy_dataset.content))
    rows, nodes, edges = content["shards"]["train"][0]["row_groups"][0]
    content["shards"]["train"][0]["row_groups"][0] = [rows, nodes + 1, edges]
    with pytest.raises(DataError, match=rf"row group 0: it has {nodes} values of px, the manifest says {nodes + 1}"):
        list(JetStream(Manifest(toy_dataset.path, content), "train", CONFIG))


def stream_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD_NAME]


def test_background_threads_end_with_the_iteration(toy_dataset: Manifest) -> None:
    iterator = iter(JetStream(toy_dataset, "train", CONFIG))
    next(iterator)
    assert len(stream_threads()) > 0
    iterator.close()
    assert not stream_threads()
    iterator = iter(JetStream(toy_dataset, "train", CONFIG))
    next(iterator)
    del iterator
    gc.collect()
    assert not stream_threads()
    list(JetStream(toy_dataset, "train", CONFIG))
    assert not stream_threads()


def test_a_slow_consumer_is_waited_for_in_bounded_memory(toy_dataset: Manifest) -> None:
    stream = JetStream(toy_dataset, "train", CONFIG.model_copy(update={"prefetch_bytes": 1, "lanes": 4}), seed=3)
    iterator = iter(stream)
    next(iterator)
    deadline = time.monotonic() + 5
    while stream.counters.batches < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert stream.counters.batches == 2, "one was taken, one waits in the queue; the next waits for its place"
    assert stream.counters.row_groups_decoded <= 8 + 4, "two slots for each of four lanes, and what the first steps used up"
    iterator.close()


def test_an_epoch_that_was_left_can_be_continued(toy_dataset: Manifest) -> None:
    stream = JetStream(toy_dataset, "train", CONFIG, seed=3)
    for batch in stream:
        assert len(identities(batch)) > 0
        if stream.step == 5:
            break
    assert [identities(batch) for batch in stream] == global_batches(toy_dataset, 1)[5:]


def test_a_row_group_is_decoded_once_and_a_small_split_stays_in_memory(toy_dataset: Manifest) -> None:
    num_groups = sum(len(shard.row_groups) for shard in toy_dataset.shards("train"))
    stream = JetStream(toy_dataset, "train", StreamConfig(batch_size=150), seed=3)
    for _ in range(3):
        assert sum(batch.num_graphs for batch in stream) == toy_dataset.num_rows("train")
    assert stream.counters.row_groups_decoded == num_groups
    few_lanes = JetStream(toy_dataset, "train", StreamConfig(batch_size=20, lanes=2), seed=3)
    assert sum(batch.num_graphs for batch in few_lanes) == toy_dataset.num_rows("train")
    assert num_groups <= few_lanes.counters.row_groups_decoded <= num_groups + 2, "the next epoch begins with two lanes"
    assert few_lanes.counters.batches == len(few_lanes)
    assert few_lanes.counters.bytes > 0
    assert few_lanes.counters.seconds_waited > 0
    assert few_lanes.counters.cpu_seconds_decoding > 0
