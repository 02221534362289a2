"""Spec: compiled loops give what torch's operations give, values and gradients, and step aside where torch has to trace."""

import pytest
import torch
from torch import Tensor

import distjet.nn.edge_sums
from distjet.nn.edge_sums import add_ends, mean_at_targets, mean_over_nodes, takes_kernels


def graph(num_nodes: int = 7, num_edges: int = 15) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, num_nodes, 4, dtype=torch.float64, generator=generator)
    edge_index = torch.randint(num_nodes - 2, (2, num_edges), generator=generator)  # no edge ends at the last two nodes
    return a.requires_grad_(), b.requires_grad_(), edge_index


def test_sums_of_ends() -> None:
    a, b, edge_index = graph()
    expected = torch.stack([a[j] + b[i] for i, j in edge_index.T.tolist()])
    torch.testing.assert_close(add_ends(a, b, edge_index), expected)
    assert torch.autograd.gradcheck(lambda a, b: add_ends(a, b, edge_index), (a, b))


def test_means_at_targets() -> None:
    a, _, edge_index = graph()
    values = torch.randn(15, 4, dtype=torch.float64, requires_grad=True)
    rows = [values[edge_index[1] == node] for node in range(7)]
    expected = torch.stack([row.mean(0) if len(row) else torch.zeros_like(a[0]) for row in rows])
    torch.testing.assert_close(mean_at_targets(values, edge_index, 7), expected)
    assert torch.autograd.gradcheck(lambda values: mean_at_targets(values, edge_index, 7), (values,))


def test_means_over_graphs() -> None:
    values, batch = torch.randn(6, 3), torch.tensor([0, 0, 0, 1, 3, 3])
    expected = torch.stack([values[:3].mean(0), values[3], torch.zeros(3), values[4:].mean(0)])
    torch.testing.assert_close(mean_over_nodes(values, batch, 4), expected)


def test_plain_operations_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def everything() -> list[Tensor]:
        a, b, edge_index = graph()
        out = mean_over_nodes(mean_at_targets(add_ends(a, b, edge_index).square(), edge_index, 7), torch.arange(7) // 3, 3)
        out.square().sum().backward()
        return [out, a.grad, b.grad]

    compiled = everything()
    monkeypatch.setattr(distjet.nn.edge_sums, "takes_kernels", lambda *_: False)
    for mine, plain in zip(compiled, everything(), strict=True):
        torch.testing.assert_close(mine, plain)


def test_kernels_take_full_precision_on_a_cpu_alone() -> None:
    assert takes_kernels(torch.zeros(1), torch.zeros(1, dtype=torch.float64))
    assert not takes_kernels(torch.zeros(1), torch.zeros(1, dtype=torch.bfloat16))
    assert not takes_kernels(torch.zeros(1, device="meta"))
