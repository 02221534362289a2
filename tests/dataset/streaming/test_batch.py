"""What networks get, for graphs of every kind, and what travels to a device."""

import dataclasses
from itertools import permutations
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import GraphBatch
from distjet.dataset.streaming.stream import JetStream, StreamConfig
from tests.batches import make_batch
from tests.dataset.handmade import NUM_FEATURES, Graph, make, path_graph

SMALL = [path_graph(n) for n in (0, 1, 2, 5, 0, 3, 1)]
WIDE = [path_graph(300), Graph(256, ((0, 255), (100, 200), (254, 255))), path_graph(255), Graph(4), Graph(0)]


def whole(manifest: Manifest, **options) -> GraphBatch:
    """The training split as one batch in the order of its rows."""
    config = StreamConfig(batch_size=manifest.num_rows("train"), shuffle=False, row_columns=("event",), **options)
    batches = list(JetStream(manifest, "train", config))
    assert len(batches) == 1
    assert batches[0].rows["event"].tolist() == list(range(manifest.num_rows("train")))
    return batches[0]


def directed(graphs: list[Graph]) -> list[tuple[int, int]]:
    """Edges of all graphs, each in both directions, between flat nodes."""
    starts = np.cumsum([0, *(graph.num_nodes for graph in graphs)]).tolist()
    pairs = [(start + a, start + b) for start, graph in zip(starts, graphs, strict=False) for a, b in sorted(graph.pairs)]
    return [edge for a, b in pairs for edge in ((a, b), (b, a))]


@pytest.mark.parametrize("graphs", [SMALL, WIDE, SMALL + WIDE], ids=["small", "wide", "mixed"])
def test_edges_of_graphs_of_any_size_arrive(graphs: list[Graph], tmp_path: Path) -> None:
    batch = whole(make(tmp_path, graphs, row_group_size=3))
    assert [tuple(edge) for edge in batch.edge_index.T.tolist()] == directed(graphs)
    assert batch.edge_index.dtype == torch.int64
    assert batch.num_edges == batch.edge_index.shape[1] == len(batch.edge_attr)
    assert batch.ptr.tolist() == np.cumsum([0, *(graph.num_nodes for graph in graphs)]).tolist()
    assert batch.batch.tolist() == [number for number, graph in enumerate(graphs) for _ in range(graph.num_nodes)]
    narrow = max(graph.num_nodes for graph in graphs) <= 255
    assert batch.edge_degrees.dtype == batch.edge_ends.dtype == (torch.uint8 if narrow else torch.int32)


def test_columns_arrive_in_their_places(tmp_path: Path) -> None:
    manifest = make(tmp_path, SMALL + WIDE, row_group_size=3)
    batch = whole(manifest)
    table = pq.read_table(tmp_path / "train/part.parquet")
    for number in range(NUM_FEATURES):
        np.testing.assert_array_equal(batch.x[:, number], np.concatenate(table[f"f{number}"].to_pylist()).astype(np.float32))
    for number, name in enumerate(("px", "py", "pz", "energy")):
        np.testing.assert_array_equal(batch.p4[:, number], np.concatenate(table[name].to_pylist()).astype(np.float32))
    np.testing.assert_array_equal(batch.u, np.stack([table["g0"], table["g1"]], 1))
    np.testing.assert_array_equal(batch.targets["true_energy"], table["true_energy"])
    np.testing.assert_array_equal(batch.weight, table["weight"].to_numpy().astype(np.float32))
    assert all(tensor.is_contiguous() for tensor in (batch.x, batch.p4, batch.u, batch.jet, *batch.targets.values()))


def test_a_batch_without_wide_graphs_is_narrow_also_in_a_wide_dataset(tmp_path: Path) -> None:
    graphs = [*SMALL, path_graph(300)]
    config = StreamConfig(batch_size=7, shuffle=False)
    first, second = JetStream(make(tmp_path, graphs), "train", config)
    assert first.edge_ends.dtype == torch.uint8
    assert second.edge_ends.dtype == torch.int32
    found = [tuple(edge) for batch in (first,) for edge in batch.edge_index.T.tolist()]
    assert found == directed(graphs[:4])


def test_complete_graphs_are_made_from_their_sizes(tmp_path: Path) -> None:
    graphs = [Graph(n) for n in (3, 0, 1, 2, 4)]
    batch = whole(make(tmp_path, graphs, edges="fully_connected"))
    assert batch.edge_degrees is None
    assert batch.edge_ends is None
    expected = [(s + a, s + b) for s, n in ((0, 3), (4, 2), (6, 4)) for a, b in permutations(range(n), 2)]
    assert [tuple(edge) for edge in batch.edge_index.T.tolist()] == expected
    assert batch.num_edges == 6 + 2 + 12
    source, target = batch.edge_index
    eta = torch.asinh(batch.p4[:, 2] / torch.hypot(batch.p4[:, 0], batch.p4[:, 1]))
    phi = torch.atan2(batch.p4[:, 1], batch.p4[:, 0])
    d_phi = torch.arccos(torch.cos(phi[source] - phi[target]).clamp(-1, 1))
    torch.testing.assert_close(batch.edge_attr[:, 0], torch.hypot(eta[source] - eta[target], d_phi), atol=1e-3, rtol=1e-3)


def test_graphs_without_edges_and_rows_without_constituents(tmp_path: Path) -> None:
    batch = whole(make(tmp_path / "edges", SMALL, edges="none"))
    assert batch.edge_index.shape == (2, 0)
    assert batch.edge_attr.shape == (0, 1)
    assert batch.num_nodes == 12
    batch = whole(make(tmp_path / "nodes", [Graph(0)] * 6, with_nodes=False))
    assert (batch.num_graphs, batch.num_nodes, batch.num_edges) == (6, 0, 0)
    assert batch.u.shape == (6, 2)
    assert batch.edge_index.shape == (2, 0)
    assert batch.edge_attr.shape == (0, 1)
    assert batch.to_padded()[0].shape == (6, 0, 0)


def test_a_batch_of_nothing_but_empty_graphs(tmp_path: Path) -> None:
    batch = whole(make(tmp_path, [Graph(0)] * 3))
    assert batch.x.shape == (0, NUM_FEATURES)
    assert batch.edge_index.shape == (2, 0)
    assert batch.to_padded()[0].shape == (3, 0, NUM_FEATURES)


def test_a_batch_without_graphs() -> None:
    nothing = torch.zeros(0)
    batch = GraphBatch(nothing.view(0, 3), nothing.view(0, 4), torch.zeros(1, dtype=torch.long), nothing.view(0, 2),
                       nothing.view(0, 5), {"true_energy": nothing}, nothing)  # fmt: skip
    assert batch.num_graphs == 0
    assert batch.batch.shape == (0,)
    assert batch.edge_index.shape == (2, 0)
    assert batch.to_padded()[1].shape == (0, 0)


def test_what_travels_is_small_and_complete(toy_dataset: Manifest) -> None:
    batch = next(iter(JetStream(toy_dataset, "train", StreamConfig(batch_size=300))))
    expanded = sum(tensor.nbytes for tensor in (batch.edge_index, batch.batch, batch.edge_attr))
    assert batch.edge_ends.nbytes + batch.edge_degrees.nbytes < expanded / 15
    names: list[str] = []
    copy = batch.map(lambda tensor: names.append(str(tensor.dtype)) or tensor.clone())
    assert len(names) == 8 + len(batch.targets)
    assert torch.equal(copy.edge_index, batch.edge_index)
    assert batch.num_bytes == copy.num_bytes == batch.to("cpu").num_bytes


def test_a_copy_to_the_host_is_waited_for_and_one_to_a_device_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy from a device that does not block could be read before it is there."""
    batch, waits = make_batch([2, 3]), {}

    def to(tensor: torch.Tensor, device: str, *, non_blocking: bool) -> torch.Tensor:
        waits.setdefault(device, set()).add(not non_blocking)
        return tensor

    monkeypatch.setattr(torch.Tensor, "to", to)
    for device in ("cpu", "meta"):
        batch.to(device)
    assert waits == {"cpu": {True}, "meta": {False}}


def test_other_inputs_share_the_structure() -> None:
    batch = make_batch([4, 1, 3])
    index = batch.edge_index
    changed = batch.with_inputs(2 * batch.x, 3 * batch.u, edge_unit=0.5)
    assert changed.edge_index is index
    torch.testing.assert_close(changed.edge_attr, 2 * batch.edge_attr)
    assert torch.equal(changed.x, 2 * batch.x)
    assert torch.equal(changed.u, 3 * batch.u)
    fresh = make_batch([4, 1, 3]).with_inputs(batch.x, batch.u, edge_unit=1.0)
    assert torch.equal(fresh.edge_index, index)


def test_to_pyg_shares_memory_and_comes_apart(toy_dataset: Manifest) -> None:
    from torch_geometric.data import Batch, Data

    batch = next(iter(JetStream(toy_dataset, "train", StreamConfig(batch_size=150), seed=1)))
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


def test_to_padded_pads_and_masks(toy_dataset: Manifest) -> None:
    batch = next(iter(JetStream(toy_dataset, "train", StreamConfig(batch_size=150), seed=1)))
    padded, mask = batch.to_padded(max_nodes=20)
    assert padded.shape == (batch.num_graphs, 20, batch.x.shape[1])
    assert torch.equal(padded[mask], batch.x)
    assert not padded[~mask].any()
    assert torch.equal(mask.sum(1), batch.ptr.diff())
    with pytest.raises(ValueError, match="max_nodes=2 is too small"):
        batch.to_padded(max_nodes=2)


@pytest.mark.gpu
def test_edges_are_made_on_the_device_without_waiting(toy_dataset: Manifest) -> None:
    batch = next(iter(JetStream(toy_dataset, "train", StreamConfig(batch_size=150), pin_memory=True)))
    assert batch.x.is_pinned()
    assert batch.edge_ends.is_pinned()
    num_edges = int((batch.ptr.diff() ** 2).sum()) - batch.num_nodes
    complete = dataclasses.replace(batch, edge_degrees=None, edge_ends=None, num_edges=num_edges)
    for one in (batch, complete):
        expected = one.edge_index
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = one.to("cuda").with_inputs(one.x.cuda(non_blocking=True), one.u.cuda(non_blocking=True), 1.0)
            found.edge_attr
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.equal(found.edge_index.cpu(), expected)
        torch.testing.assert_close(found.edge_attr.cpu(), one.edge_attr)
