"""Random batches of jets for tests of networks: a batch, its single graphs, and reordered copies of it."""

import dataclasses

import numpy as np
import torch

from distjet.dataset.streaming.batch import GraphBatch

NUM_NODE, NUM_GRAPH = 5, 3


def make_batch(sizes: list[int], seed: int = 0) -> GraphBatch:
    """Jets with the given numbers of constituents, each a path of edges (so a single constituent has none)."""
    rng = np.random.default_rng(seed)
    parts = [_jet(size, rng) for size in sizes]
    return join(parts)


def _jet(size: int, rng: np.random.Generator) -> GraphBatch:
    eta, phi = rng.uniform(-2, 2) + 0.1 * rng.normal(size=size), rng.uniform(-3, 3) + 0.1 * rng.normal(size=size)
    pt = rng.exponential(10, size) + 0.5
    p4 = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)], 1).astype(np.float32)
    total = p4.sum(0)
    true_pt = float(np.hypot(total[0], total[1]) * rng.uniform(1.1, 1.5))
    true_eta = float(np.arcsinh(total[2] / np.hypot(total[0], total[1])))
    true_mass = 0.1 * true_pt
    targets = {
        "true_pt": true_pt,
        "true_eta": true_eta,
        "true_phi": float(np.arctan2(total[1], total[0])),
        "true_energy": float(np.hypot(true_pt * np.cosh(true_eta), true_mass)),
        "true_mass": true_mass,
    }
    return GraphBatch(
        x=torch.from_numpy(rng.normal(size=(size, NUM_NODE)).astype(np.float32)),
        p4=torch.from_numpy(p4),
        ptr=torch.tensor([0, size]),
        u=torch.from_numpy(rng.normal(size=(1, NUM_GRAPH)).astype(np.float32)),
        jet=torch.zeros(1, 5),
        targets={name: torch.tensor([value]) for name, value in targets.items()},
        weight=torch.ones(1),
        **stored_edges([(size, [(i, i + 1) for i in range(size - 1)])]),
    )


def stored_edges(graphs: list[tuple[int, list[tuple[int, int]]]]) -> dict:
    """Fields of a batch for graphs given by their size and their undirected edges, in local numbers."""
    wide = any(size > 255 for size, _ in graphs)
    dtype = torch.int32 if wide else torch.uint8
    degrees = [sum(min(pair) == node for pair in pairs) for size, pairs in graphs for node in range(size)]
    ends = [max(pair) for _, pairs in graphs for pair in sorted((min(pair), max(pair)) for pair in pairs)]
    packed = {"edge_degrees": torch.tensor(degrees, dtype=dtype), "edge_ends": torch.tensor(ends, dtype=dtype)}
    return packed | {"num_edges": 2 * len(ends)}


def pairs_of(batch: GraphBatch, graph: int) -> list[tuple[int, int]]:
    """The undirected edges of one graph in local numbers."""
    lo, hi = int(batch.ptr[graph]), int(batch.ptr[graph + 1])
    mine = (batch.edge_index[0] >= lo) & (batch.edge_index[0] < hi)
    return [(a, b) for a, b in (batch.edge_index[:, mine] - lo).T.tolist() if a < b]


def join(parts: list[GraphBatch]) -> GraphBatch:
    """Put batches of one graph each into one batch."""
    sizes = [part.num_nodes for part in parts]
    return GraphBatch(
        x=torch.cat([p.x for p in parts]),
        p4=torch.cat([p.p4 for p in parts]),
        ptr=torch.from_numpy(np.cumsum([0, *sizes])),
        u=torch.cat([p.u for p in parts]),
        jet=torch.cat([p.jet for p in parts]),
        targets={name: torch.cat([p.targets[name] for p in parts]) for name in parts[0].targets},
        weight=torch.cat([p.weight for p in parts]),
        **stored_edges([(size, pairs_of(part, 0)) for size, part in zip(sizes, parts, strict=True)]),
    )


def single(batch: GraphBatch, graph: int) -> GraphBatch:
    """Cut one graph out of a batch."""
    lo, hi = int(batch.ptr[graph]), int(batch.ptr[graph + 1])
    row = slice(graph, graph + 1)
    return GraphBatch(
        x=batch.x[lo:hi],
        p4=batch.p4[lo:hi],
        ptr=torch.tensor([0, hi - lo]),
        u=batch.u[row],
        jet=batch.jet[row],
        targets={name: value[row] for name, value in batch.targets.items()},
        weight=batch.weight[row],
        **stored_edges([(hi - lo, pairs_of(batch, graph))]),
    )


def empty(batch: GraphBatch) -> GraphBatch:
    """A batch without a jet."""
    nothing = {name: getattr(batch, name)[:0] for name in ("x", "p4", "u", "jet", "weight")}
    targets = {name: value[:0] for name, value in batch.targets.items()}
    return GraphBatch(ptr=torch.tensor([0]), targets=targets, **nothing, **stored_edges([]))


def permute_nodes(batch: GraphBatch, seed: int = 0) -> tuple[GraphBatch, torch.Tensor]:
    """Shuffle the constituents within each jet; return the new batch and the old place of each node."""
    rng = np.random.default_rng(seed)
    sizes = np.diff(batch.ptr.numpy())
    orders = [rng.permutation(size) for size in sizes]
    old = torch.from_numpy(np.concatenate([start + order for start, order in zip(batch.ptr.numpy(), orders, strict=False)]))
    moved = []
    for graph, order in enumerate(orders):
        new_place = np.argsort(order)
        moved.append((len(order), [(int(new_place[a]), int(new_place[b])) for a, b in pairs_of(batch, graph)]))
    return dataclasses.replace(batch, x=batch.x[old], p4=batch.p4[old], **stored_edges(moved)), old
