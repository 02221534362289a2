"""Random batches of jets for tests of networks: a batch, its single graphs, and reordered copies of it."""

import dataclasses

import numpy as np
import torch

from distjet.dataset.batch import GraphBatch
from distjet.dataset.windows import edge_distance

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
    pairs = np.stack([np.arange(size - 1), np.arange(1, size)], 1) if size > 1 else np.zeros((0, 2), np.int64)
    edge_index = np.concatenate([pairs, pairs[:, ::-1]]).T.copy()
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
        edge_index=torch.from_numpy(edge_index),
        edge_attr=torch.from_numpy(edge_distance(p4, edge_index)),
        batch=torch.zeros(size, dtype=torch.long),
        ptr=torch.tensor([0, size]),
        u=torch.from_numpy(rng.normal(size=(1, NUM_GRAPH)).astype(np.float32)),
        jet=torch.zeros(1, 5),
        targets={name: torch.tensor([value]) for name, value in targets.items()},
        weight=torch.ones(1),
    )


def join(parts: list[GraphBatch]) -> GraphBatch:
    """Put batches of one graph each into one batch."""
    sizes = [part.num_nodes for part in parts]
    starts = np.cumsum([0, *sizes])
    return GraphBatch(
        x=torch.cat([p.x for p in parts]),
        p4=torch.cat([p.p4 for p in parts]),
        edge_index=torch.cat([p.edge_index + int(s) for p, s in zip(parts, starts, strict=False)], dim=1),
        edge_attr=torch.cat([p.edge_attr for p in parts]),
        batch=torch.repeat_interleave(torch.arange(len(parts)), torch.tensor(sizes)),
        ptr=torch.from_numpy(starts),
        u=torch.cat([p.u for p in parts]),
        jet=torch.cat([p.jet for p in parts]),
        targets={name: torch.cat([p.targets[name] for p in parts]) for name in parts[0].targets},
        weight=torch.cat([p.weight for p in parts]),
    )


def single(batch: GraphBatch, graph: int) -> GraphBatch:
    """Cut one graph out of a batch."""
    lo, hi = int(batch.ptr[graph]), int(batch.ptr[graph + 1])
    mine = (batch.edge_index[0] >= lo) & (batch.edge_index[0] < hi)
    row = slice(graph, graph + 1)
    return GraphBatch(
        x=batch.x[lo:hi],
        p4=batch.p4[lo:hi],
        edge_index=batch.edge_index[:, mine] - lo,
        edge_attr=batch.edge_attr[mine],
        batch=torch.zeros(hi - lo, dtype=torch.long),
        ptr=torch.tensor([0, hi - lo]),
        u=batch.u[row],
        jet=batch.jet[row],
        targets={name: value[row] for name, value in batch.targets.items()},
        weight=batch.weight[row],
    )


def permute_nodes(batch: GraphBatch, seed: int = 0) -> tuple[GraphBatch, torch.Tensor]:
    """Shuffle the constituents within each jet; return the new batch and the old place of each node."""
    rng = np.random.default_rng(seed)
    sizes = np.diff(batch.ptr.numpy())
    order = np.concatenate([s + rng.permutation(n) for s, n in zip(batch.ptr.numpy(), sizes, strict=False)])
    old = torch.from_numpy(order)
    new_place = torch.empty_like(old)
    new_place[old] = torch.arange(len(old))
    edges = torch.from_numpy(rng.permutation(batch.edge_index.shape[1]))
    return dataclasses.replace(
        batch,
        x=batch.x[old],
        p4=batch.p4[old],
        edge_index=new_place[batch.edge_index][:, edges],
        edge_attr=batch.edge_attr[edges],
    ), old
