"""A batch norm is torch's, and that of several processes is that of one on all their rows."""

import copy
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import nn

from distjet.nn.batch_norm import BatchNorm
from distjet.nn.edge_conv import EdgeConv
from distjet.nn.neighbours import nearest
from distjet.ranks import SINGLE, RankInfo
from distjet.training import parallel
from tests.training.ranks import on_ranks, processes

SHAPES = {"rows": (20, 6), "sequences": (20, 6, 5), "images": (20, 6, 4, 3)}
KINDS = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}
SHARES = {
    "even": [0, 10, 20],
    "uneven": [0, 3, 20],
    "one row": [0, 1, 20],
    "no row": [0, 0, 20],
    "no row of the other": [0, 20, 20],
}


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with processes(2) as pool:
        yield pool


def make_norm(kind: type[nn.Module] = BatchNorm) -> nn.Module:
    torch.manual_seed(2)
    norm = kind(6)
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return norm


def make_values(shape: tuple[int, ...]) -> torch.Tensor:
    torch.manual_seed(4)
    return 3 * torch.randn(shape) + 5


def train(norm: nn.Module, values: torch.Tensor, steps: int = 2) -> list[torch.Tensor]:
    """Outputs of the last of some steps, gradients of it, and what the norm remembers."""
    for _ in range(steps):
        norm.zero_grad()
        rows = values.clone().requires_grad_()
        outputs = norm(rows)
        (outputs * values.square()).sum().backward()
    kept = [buffer for buffer in norm.buffers() if buffer.is_floating_point()]
    return [outputs.detach(), rows.grad, *(parameter.grad for parameter in norm.parameters()), *kept]


def train_share(ranks: RankInfo, shape: tuple[int, ...], bounds: list[int]) -> list[torch.Tensor]:
    """The same with a share of the rows."""
    share = slice(bounds[ranks.world_rank], bounds[ranks.world_rank + 1])
    model = parallel.wrap(make_norm(), ranks)
    found = train(model.module, make_values(shape)[share])
    for gradient in found[2:4]:  # as a wrapped model does, but for the mean
        parallel.all_reduce_sum(gradient, ranks)
    assert model.module.num_processes == 2
    return found


@pytest.mark.integration
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("bounds", SHARES.values(), ids=SHARES)
def test_processes_normalise_as_one(
    pool: ProcessPoolExecutor, tmp_path: Path, shape: tuple[int, ...], bounds: list[int]
) -> None:
    expected = train(make_norm(KINDS[len(shape)]), make_values(shape))
    ours, theirs = on_ranks(pool, 2, tmp_path, train_share, shape, bounds)
    for place, value in enumerate(expected):
        found = torch.cat([ours[place], theirs[place]]) if place < 2 else ours[place]
        torch.testing.assert_close(found, value, atol=1e-4, rtol=1e-4)
    assert all(torch.equal(a, b) for a, b in zip(ours[2:], theirs[2:], strict=True))


def convolve(ranks: RankInfo, bounds: list[int]) -> list[torch.Tensor]:
    """A step of an edge convolution with a share of six jets: outputs and gradients of nodes, then what all have in common."""
    torch.manual_seed(5)
    model = parallel.wrap(EdgeConv(4, (6, 8)), ranks)
    first = torch.tensor([0, 9, 12, 20, 21, 30, 38])
    ptr = first[bounds[ranks.world_rank] : bounds[ranks.world_rank + 1] + 1]
    nodes = torch.randn(38, 4)[ptr[0] : ptr[-1]]
    table = nearest(nodes, ptr - ptr[0], 5)
    nodes.requires_grad_()
    outputs = model(nodes, table)
    (ranks.world_size * outputs.square().sum()).backward()
    own = [outputs.detach(), nodes.grad / ranks.world_size]
    return [*own, *(p.grad for p in model.parameters()), *(b for b in model.buffers() if b.is_floating_point())]


@pytest.mark.integration
@pytest.mark.parametrize("bounds", [[0, 2, 6], [0, 5, 6], [0, 0, 6], [0, 6, 6]])
def test_processes_convolve_edges_as_one(pool: ProcessPoolExecutor, tmp_path: Path, bounds: list[int]) -> None:
    expected = convolve(SINGLE, [0, 6])
    ours, theirs = on_ranks(pool, 2, tmp_path, convolve, bounds)
    for place, value in enumerate(expected):
        found = torch.cat([ours[place], theirs[place]]) if place < 2 else ours[place]
        torch.testing.assert_close(found, value, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("is_training", [True, False])
def test_one_process_normalises_as_torch(shape: tuple[int, ...], is_training: bool) -> None:
    norms = make_norm().train(is_training), make_norm(KINDS[len(shape)]).train(is_training)
    for found, expected in zip(*(train(norm, make_values(shape)) for norm in norms), strict=True):
        assert torch.equal(found, expected)


def test_evaluation_of_nothing() -> None:
    assert make_norm().eval()(torch.zeros(0, 6)).shape == (0, 6)


def test_a_norm_of_several_processes_can_be_copied() -> None:
    norm = make_norm()
    norm.num_processes = 3
    assert copy.deepcopy(norm).num_processes == 3
