"""The loop over edges gives the messages and gradients of the operations of torch, and of the equations in float64."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distjet.nn.edge_attention import attend, attend_by_operations
from distjet.nn.edge_kernels import EdgeAttention

WIDTH, NUM_HEADS, NUM_EDGE_FEATURES = 12, 3, 2


def make_inputs(num_nodes: int, ends: Sequence[tuple[int, int]], scale: float = 1.0) -> list[torch.Tensor]:
    torch.manual_seed(num_nodes + len(ends))
    shapes = [(num_nodes, WIDTH)] * 3 + [(NUM_EDGE_FEATURES, WIDTH), (NUM_HEADS, WIDTH), (len(ends), NUM_EDGE_FEATURES)]
    numbers = [scale * torch.randn(shape) for shape in shapes]
    return [*numbers, torch.tensor(ends, dtype=torch.long).reshape(-1, 2).T.contiguous()]


def with_gradients(function, inputs: list[torch.Tensor], dtype: torch.dtype) -> list[torch.Tensor]:
    """Return the messages, and the gradients of all but the edges."""
    leaves = [tensor.detach().clone().to(dtype).requires_grad_(number < 5) for number, tensor in enumerate(inputs[:-1])]
    message = function(*leaves, inputs[-1])
    torch.manual_seed(1)
    message.backward(torch.randn(message.shape).to(dtype))
    return [message.detach(), *(leaf.grad for leaf in leaves[:5])]


edges_of_eight_nodes = st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=40)


@settings(deadline=None, max_examples=30)
@given(edges_of_eight_nodes)
def test_messages_and_gradients_are_those_of_the_operations_in_float64(ends: list[tuple[int, int]]) -> None:
    inputs = make_inputs(8, ends)
    found = with_gradients(EdgeAttention.apply, inputs, torch.float32)
    expected = with_gradients(attend_by_operations, inputs, torch.float64)
    rounded = with_gradients(attend_by_operations, inputs, torch.float32)
    for mine, exact, rough in zip(found, expected, rounded, strict=True):
        # sums of large terms that cancel are known to no better in float32
        lost = float((rough.double() - exact).abs().max()) if exact.numel() else 0.0
        torch.testing.assert_close(mine.double(), exact, atol=max(3e-6, 4 * lost), rtol=3e-6)


def test_large_states_neither_overflow_nor_lose_a_digit() -> None:
    inputs = make_inputs(5, [(0, 1), (2, 1), (3, 1), (1, 4), (0, 4)], scale=30.0)
    found, expected = EdgeAttention.apply(*inputs), attend_by_operations(*(t.double() for t in inputs[:-1]), inputs[-1])
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-5)


def test_a_number_that_is_none_stays_visible() -> None:
    inputs = make_inputs(3, [(0, 1), (1, 2)])
    inputs[1][0, 3] = float("nan")
    message = EdgeAttention.apply(*inputs)
    assert torch.isnan(message[1]).any()
    assert torch.isfinite(message[2]).all()


def test_where_the_loop_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 and below on a CPU; float64, a compiler and an exporter get operations."""
    used = []
    monkeypatch.setattr(EdgeAttention, "apply", lambda *inputs: used.append(inputs[0].dtype) or torch.zeros(3, WIDTH))
    inputs = make_inputs(3, [(0, 1)])
    attend(*inputs)
    attend(*(tensor.bfloat16() for tensor in inputs[:-1]), inputs[-1])
    assert used == [torch.float32, torch.float32]
    attend(*(tensor.double() for tensor in inputs[:-1]), inputs[-1])
    exported = torch.export.export(Attend(), tuple(inputs))
    assert used == [torch.float32, torch.float32]
    assert any("scatter_reduce" in str(node.target) for node in exported.graph.nodes)


class Attend(torch.nn.Module):
    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return attend(*inputs)
