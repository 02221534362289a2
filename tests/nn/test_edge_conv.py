"""Edge convolutions are those of weaver-core, and of the equations; pieces in the cache give what operations of torch give."""

import copy

import numpy as np
import pytest
import torch

from distjet.nn import edge_conv, edge_conv_pieces
from distjet.nn.edge_conv import EdgeConv
from distjet.nn.neighbours import nearest

SIZES = [30, 3, 1, 17, 22]
K = 6


def make_inputs(width: int, sizes: list[int] = SIZES) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes, and the table of their neighbours, some of which do not exist."""
    torch.manual_seed(width)
    nodes = torch.randn(sum(sizes), width)
    return nodes, nearest(nodes, torch.tensor([0, *np.cumsum(sizes)], dtype=torch.int64), K)


def make_layer(num_inputs: int, widths: tuple[int, ...]) -> EdgeConv:
    torch.manual_seed(1)
    layer = EdgeConv(num_inputs, widths)
    for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
        if "norm" in name or "shortcut.1" in name:  # no norm that does nothing
            tensor.data = torch.rand_like(tensor) + 0.5 if tensor.is_floating_point() else tensor
    return layer


@pytest.fixture(params=["one piece", "many pieces"])
def pieces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many pieces":
        monkeypatch.setattr(edge_conv_pieces, "NUMBERS", 4 * K * 8)


def by_equations(layer: EdgeConv, nodes: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """The published layer in evaluation, edge by edge."""
    padded = torch.cat([nodes, torch.zeros(1, nodes.shape[1])])
    edges = torch.cat([nodes[:, None].expand(-1, K, -1), padded[table] - nodes[:, None]], dim=2)
    for linear, norm in zip(layer.layers, layer.norms, strict=True):
        edges = torch.relu(norm((edges @ linear.weight.T).flatten(0, 1)).unflatten(0, table.shape))
    return torch.relu(layer.shortcut(nodes) + edges.mean(1))


SHAPES = {"wider": (5, (8, 4, 6)), "as wide": (8, (8, 8)), "one layer": (5, (8,)), "two layers": (3, (4, 8))}


@pytest.mark.parametrize(("num_inputs", "widths"), SHAPES.values(), ids=SHAPES)
def test_evaluation_is_that_of_the_equations(num_inputs: int, widths: tuple[int, ...], pieces: None) -> None:
    layer = make_layer(num_inputs, widths).eval()
    nodes, table = make_inputs(num_inputs)
    with torch.no_grad():
        expected = by_equations(layer, nodes, table)
        torch.testing.assert_close(layer(nodes, table), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer(nodes, table), expected, atol=1e-5, rtol=1e-5)  # with gradients, by operations


def train(layer: EdgeConv, nodes: torch.Tensor, table: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs, gradients and running moments of a step."""
    nodes = nodes.clone().requires_grad_()
    outputs = layer.train()(nodes, table)
    torch.manual_seed(3)
    outputs.backward(torch.randn(outputs.shape, dtype=torch.float32).to(outputs.dtype))
    gradients = {f"gradient of {name}": parameter.grad for name, parameter in layer.named_parameters()}
    return {"outputs": outputs.detach(), "gradient": nodes.grad, **gradients, **dict(layer.named_buffers())}


@pytest.mark.parametrize(("num_inputs", "widths"), SHAPES.values(), ids=SHAPES)
def test_training_in_pieces_is_that_by_operations_in_float64(num_inputs: int, widths: tuple[int, ...], pieces: None) -> None:
    layer = make_layer(num_inputs, widths)
    nodes, table = make_inputs(num_inputs)
    exact = train(copy.deepcopy(layer).double(), nodes.double(), table)
    for name, value in train(layer, nodes, table).items():
        torch.testing.assert_close(
            value.double(), exact[name].double(), atol=1e-4, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_moments_survive_a_large_mean() -> None:
    layer = make_layer(3, (4, 8))
    nodes, table = make_inputs(3)
    table = table.clamp(max=len(nodes) - 1)  # a missing neighbour would not be far away
    nodes = nodes + 300.0
    exact = train(copy.deepcopy(layer).double(), nodes.double(), table)
    found = train(layer, nodes, table)
    torch.testing.assert_close(found["norms.0.running_var"].double(), exact["norms.0.running_var"], rtol=1e-3, atol=0)
    torch.testing.assert_close(found["outputs"].double(), exact["outputs"], rtol=1e-2, atol=1e-2)


def test_the_gradient_of_a_step_can_be_taken_once() -> None:
    nodes, table = make_inputs(3)
    loss = make_layer(3, (4, 4)).train()(nodes, table).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="can be taken once"):
        loss.backward()


def test_a_number_that_is_none_stays_visible() -> None:
    nodes, table = make_inputs(3)
    nodes[4, 1] = torch.nan
    layer = make_layer(3, (4, 4)).eval()
    with torch.no_grad():
        found = layer(nodes, table)
    assert found[4].isnan().all()
    assert found[-1].isfinite().all()


def test_where_pieces_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 on a CPU, but not for gradients of an evaluation, under autocast, for a compiler or for an exporter."""
    used = []
    monkeypatch.setattr(EdgeConv, "messages_by_operations", lambda self, own, *_: used.append("operations") or own)
    monkeypatch.setattr(edge_conv_pieces.AverageMessages, "apply", lambda norms, table, own, *_: used.append("training") or own)
    monkeypatch.setattr(edge_conv_pieces, "average_messages", lambda edges, _: used.append("evaluation") or edges.own)
    nodes, table = make_inputs(4)
    layer = EdgeConv(4, (4, 4))
    layer.train()(nodes, table)
    layer.eval()(nodes, table)
    with torch.no_grad():
        layer(nodes, table)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer.train()(nodes, table)
    torch.export.export(layer, (nodes, table))
    layer.double()(nodes.double(), table)
    assert used == ["training", "operations", "evaluation", "operations", "operations", "operations"]


@pytest.mark.parametrize("num_nodes", [0, 1])
def test_few_nodes(num_nodes: int) -> None:
    layer = make_layer(4, (4, 4)).eval()
    nodes, table = torch.ones(num_nodes, 4), torch.full((num_nodes, K), num_nodes)
    with torch.no_grad():
        torch.testing.assert_close(layer(nodes, table), by_equations(layer, nodes, table))


def test_where_operations_are_used_they_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The product without oneDNN is the same."""
    from distjet.nn import products

    a, b, bias = torch.randn(5, 7), torch.randn(4, 7), torch.randn(4)
    found = products.multiply(a, b, bias, relu=True), products.multiply(a, b.t().contiguous().t())
    monkeypatch.setattr(products, "HAS_ONEDNN", False)
    expected = products.multiply(a, b, bias, relu=True), products.multiply(a, b)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(expected, (torch.relu(a @ b.T + bias), a @ b.T))


def test_weaver_has_the_same_layer() -> None:
    reason = "weaver-core comes with the extra `bench`"
    theirs_of = pytest.importorskip("weaver.nn.model.ParticleNet", reason=reason).EdgeConvBlock
    layer = make_layer(5, (8, 4, 6)).eval()
    theirs = theirs_of(K, 5, (8, 4, 6)).eval()
    state = {name.replace("layers", "convs").replace("norms", "bns"): tensor for name, tensor in layer.state_dict().items()}
    state = {name.replace("shortcut.0", "sc").replace("shortcut.1", "sc_bn"): tensor for name, tensor in state.items()}
    shapes = theirs.state_dict()
    theirs.load_state_dict({name: tensor.view(shapes[name].shape) for name, tensor in state.items()})
    nodes, table = make_inputs(5, [25])
    with torch.no_grad():
        expected = theirs(nodes.T[None], nodes.T[None])[0].T
        torch.testing.assert_close(layer(nodes, table), expected, atol=1e-5, rtol=1e-5)
    assert edge_conv._takes_pieces(nodes)
