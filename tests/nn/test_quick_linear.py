"""Spec: the quick layer is torch's, values and gradients; it steps aside where torch has to see its operations."""

import pytest
import torch
from torch import Tensor

from distjet.nn import quick_linear
from distjet.nn.batch_norm import BatchNorm, factor_and_shift
from distjet.nn.quick_linear import linear, takes_products


@pytest.mark.parametrize("num_rows", [0, 1, 9])
@pytest.mark.parametrize("has_bias", [True, False])
def test_values_and_gradients_are_those_of_torch(num_rows: int, has_bias: bool) -> None:
    torch.manual_seed(1)
    rows, weight, bias = torch.randn(num_rows, 14), torch.randn(3, 7), torch.randn(3)
    above = torch.randn(3, num_rows).t()  # neither rows nor gradients need stand one after the other

    def everything(layer) -> list[Tensor]:
        given = [tensor.clone().requires_grad_() for tensor in (rows, weight, bias)]
        out = layer(given[0][:, ::2], given[1], given[2] if has_bias else None)
        out.backward(above)
        return [out, *(tensor.grad for tensor in given[: 3 if has_bias else 2])]

    for mine, expected in zip(everything(linear), everything(torch.nn.functional.linear), strict=True):
        torch.testing.assert_close(mine, expected)


def test_a_norm_in_evaluation_is_a_factor_and_a_shift() -> None:
    norm, values = BatchNorm(4).eval(), torch.randn(5, 4)
    for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
        tensor.uniform_(0.5, 1.5)
    factor, shift = factor_and_shift(norm)
    torch.testing.assert_close(values * factor + shift, norm(values))


def test_where_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    monkeypatch.setattr(quick_linear._Linear, "apply", lambda values, weight, bias: used.append(1) or values @ weight.t())
    rows, layer = torch.randn(2, 3), torch.nn.Linear(3, 3)
    linear(rows, layer.weight)
    assert used == [1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(rows, layer.weight).dtype == torch.bfloat16
    linear(rows.double(), layer.weight.double())
    linear(rows.to("meta"), layer.weight.to("meta"))

    class Traced(torch.nn.Linear):
        def forward(self, rows: Tensor) -> Tensor:
            return linear(rows, self.weight, self.bias)

    torch.export.export(Traced(3, 3), (rows,))
    assert used == [1]
    assert not takes_products(rows.bfloat16())
