"""Every row once an epoch, the same global batches for any number of ranks, and resume anywhere: without processes."""

import dataclasses
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from distjet.dataset.batch import GraphBatch
from distjet.dataset.manifest import Manifest
from distjet.dataset.stream import JetStream, StreamConfig
from distjet.errors import ConfigError, DataError
from distjet.ranks import RankInfo
from tests.dataset.files import pairs_of

ID = ("sample", "run", "event", "jet_index")
CONFIG = StreamConfig(batch_size=150, window_row_groups=3, row_columns=ID)


def ranks(world_size: int) -> list[RankInfo]:
    return [RankInfo(world_rank=rank, world_size=world_size) for rank in range(world_size)]


def identities(batch: GraphBatch) -> list[tuple]:
    return list(zip(*(batch.rows[name].tolist() for name in ID), strict=True))


def rows_of(manifest: Manifest, split: str) -> list[tuple]:
    tables = [pq.read_table(manifest.path / shard.path, columns=list(ID)) for shard in manifest.shards(split)]
    return [tuple(row[name] for name in ID) for table in tables for row in table.to_pylist()]


def global_batches(manifest: Manifest, world_size: int, epoch: int = 0) -> list[list[tuple]]:
    """What all ranks see together at each step, in the order of the ranks."""
    streams = [JetStream(manifest, "train", CONFIG, seed=3, ranks=rank) for rank in ranks(world_size)]
    for stream in streams:
        stream.epoch = epoch
    return [[i for batch in step for i in identities(batch)] for step in zip(*streams, strict=True)]


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
def test_every_row_exactly_once_in_the_same_global_batches(toy_dataset: Manifest, world_size: int) -> None:
    batches = global_batches(toy_dataset, world_size)
    assert batches == global_batches(toy_dataset, 1)
    seen = [row for batch in batches for row in batch]
    assert sorted(seen) == sorted(rows_of(toy_dataset, "train"))
    sizes = [len(batch) for batch in batches]
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= CONFIG.batch_size


def test_epochs_differ_and_repeat_with_the_seed(toy_dataset: Manifest) -> None:
    first, second = global_batches(toy_dataset, 1, epoch=0), global_batches(toy_dataset, 1, epoch=1)
    assert first != second
    assert first == global_batches(toy_dataset, 1, epoch=0)
    assert sorted(r for b in first for r in b) == sorted(r for b in second for r in b)


@pytest.mark.parametrize("step", [0, 1, 7, 13])
@pytest.mark.parametrize("new_size", [1, 3])
def test_a_resumed_epoch_sees_exactly_the_rest_on_any_number_of_ranks(toy_dataset: Manifest, step: int, new_size: int) -> None:
    interrupted = JetStream(toy_dataset, "train", CONFIG, seed=3, ranks=ranks(2)[0])
    iterator = iter(interrupted)
    for _ in range(step):
        next(iterator)
    state = interrupted.state_dict()
    iterator.close()
    resumed = [JetStream(toy_dataset, "train", CONFIG, seed=3, ranks=rank) for rank in ranks(new_size)]
    for stream in resumed:
        stream.load_state_dict(state)
    rest = [[i for batch in step for i in identities(batch)] for step in zip(*resumed, strict=True)]
    assert rest == global_batches(toy_dataset, 1)[step:]
    assert (resumed[0].epoch, resumed[0].step) == (1, 0)


def test_without_shuffling_rows_come_in_the_order_of_the_shards(toy_dataset: Manifest) -> None:
    stream = JetStream(toy_dataset, "test", StreamConfig(batch_size=64, shuffle=False, row_columns=ID))
    assert [row for batch in stream for row in identities(batch)] == rows_of(toy_dataset, "test")


def test_a_batch_holds_what_the_shards_hold(toy_dataset: Manifest) -> None:
    """Compare every graph with the Parquet rows, read as Python lists."""
    by_id = {}
    for shard in toy_dataset.shards("train"):
        for row in pq.read_table(toy_dataset.path / shard.path).to_pylist():
            by_id[tuple(row[name] for name in ID)] = row
    batch = next(iter(JetStream(toy_dataset, "train", CONFIG, seed=1)))
    node, graph = toy_dataset.names("node"), toy_dataset.names("graph")
    for g, identity in enumerate(identities(batch)):
        row, lo, hi = by_id[identity], int(batch.ptr[g]), int(batch.ptr[g + 1])
        np.testing.assert_array_equal(batch.x[lo:hi].numpy(), np.array([row[n] for n in node], np.float32).T)
        np.testing.assert_array_equal(
            batch.p4[lo:hi].numpy(), np.array([row[n] for n in ("px", "py", "pz", "energy")], np.float32).T
        )
        np.testing.assert_array_equal(batch.u[g].numpy(), np.array([row[n] for n in graph], np.float32))
        assert batch.targets["true_energy"][g].item() == row["true_energy"]
        assert batch.weight[g].item() == pytest.approx(row["weight"], rel=1e-6)
        assert batch.batch[lo:hi].tolist() == [g] * (hi - lo)
        mine = (batch.edge_index[0] >= lo) & (batch.edge_index[0] < hi)
        found = {tuple(edge) for edge in (batch.edge_index[:, mine] - lo).T.tolist()}
        pairs = set(pairs_of(row))
        assert found == pairs | {(b, a) for a, b in pairs}
        assert int(mine.sum()) == 2 * len(pairs)


def test_edge_attributes_are_distances_with_wrapped_azimuth(toy_dataset: Manifest) -> None:
    batch = next(iter(JetStream(toy_dataset, "train", CONFIG, seed=1)))
    px, py, pz, _ = batch.p4.double().unbind(1)
    eta, phi = torch.asinh(pz / torch.hypot(px, py)), torch.atan2(py, px)
    a, b = batch.edge_index
    d_phi = torch.arccos(torch.cos(phi[a] - phi[b]).clamp(-1, 1))
    torch.testing.assert_close(batch.edge_attr[:, 0].double(), torch.hypot(eta[a] - eta[b], d_phi), atol=1e-5, rtol=1e-4)
    assert batch.edge_attr.max() < 1.0


def test_to_pyg_shares_memory_and_comes_apart(toy_dataset: Manifest) -> None:
    from torch_geometric.data import Batch, Data

    batch = next(iter(JetStream(toy_dataset, "train", CONFIG, seed=1)))
    pyg = batch.to_pyg()
    assert isinstance(pyg, Batch)
    for name in ("x", "edge_index", "edge_attr", "batch", "ptr", "u"):
        assert getattr(pyg, name).data_ptr() == getattr(batch, name).data_ptr()
    assert pyg.num_graphs == batch.num_graphs
    assert pyg.true_energy.data_ptr() == batch.targets["true_energy"].data_ptr()
    singles = pyg.to_data_list()
    again = Batch.from_data_list([Data(**dict(item.items())) for item in singles])
    assert torch.equal(again.edge_index, batch.edge_index)
    assert torch.equal(again.x, batch.x)
    assert torch.equal(again.batch, batch.batch)
    assert torch.equal(again.u, batch.u)


def test_to_dense_pads_and_masks(toy_dataset: Manifest) -> None:
    batch = next(iter(JetStream(toy_dataset, "train", CONFIG, seed=1)))
    dense, mask = batch.to_dense(max_nodes=20)
    assert dense.shape == (batch.num_graphs, 20, batch.x.shape[1])
    assert torch.equal(dense[mask], batch.x)
    assert not dense[~mask].any()
    assert torch.equal(mask.sum(1), batch.ptr[1:] - batch.ptr[:-1])
    with pytest.raises(ValueError, match="max_nodes=2 is too small"):
        batch.to_dense(max_nodes=2)


def test_a_state_of_another_dataset_seed_or_batch_size_is_refused(toy_dataset: Manifest) -> None:
    stream = JetStream(toy_dataset, "train", CONFIG, seed=3)
    state = stream.state_dict()
    for key, value in (("fingerprint", "other"), ("seed", 4), ("num_steps", 1)):
        with pytest.raises(ConfigError, match="does not belong to"):
            stream.load_state_dict({**state, key: value})


def test_more_ranks_than_rows_and_unknown_columns_are_refused(toy_dataset: Manifest) -> None:
    with pytest.raises(ConfigError, match="every worker needs at least one"):
        JetStream(toy_dataset, "test", CONFIG, ranks=RankInfo(world_rank=0, world_size=100_000))
    with pytest.raises(ConfigError, match="no_such"):
        JetStream(toy_dataset, "test", StreamConfig(row_columns=("no_such",)))


def test_a_damaged_shard_is_an_error_with_its_name_not_wrong_numbers(toy_dataset: Manifest, tmp_path) -> None:
    shard = toy_dataset.shards("train")[0]
    data = bytearray((toy_dataset.path / shard.path).read_bytes())
    data[len(data) // 3] ^= 0x10
    (tmp_path / shard.path).parent.mkdir(parents=True)
    (tmp_path / shard.path).write_bytes(bytes(data))
    damaged = dataclasses.replace(toy_dataset, path=tmp_path)
    for other in toy_dataset.shards("train")[1:]:
        (tmp_path / other.path).write_bytes((toy_dataset.path / other.path).read_bytes())
    with pytest.raises(DataError, match=rf"part-00000\.parquet.* if it is damaged, remove the folder {tmp_path} and run"):
        list(JetStream(damaged, "train", CONFIG))


def test_the_background_thread_ends_with_the_iteration(toy_dataset: Manifest) -> None:
    iterator = iter(JetStream(toy_dataset, "train", CONFIG))
    next(iterator)
    assert any(thread.name == "distjet-stream" for thread in threading.enumerate())
    iterator.close()
    assert not any(thread.name == "distjet-stream" for thread in threading.enumerate())
