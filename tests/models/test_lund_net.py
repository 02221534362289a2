"""Spec: LundNet is the published network, takes its weights, and reads nothing but the tree of a jet."""

import copy
import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import batch_norm

import distjet.nn.edge_sums
from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.lund_net import EdgeConvolution, LundNet, from_released
from distjet.models.tagger import TaggerSpec
from distjet.models.tagger_configs import LundNetConfig
from distjet.nn.batch_norm import BatchNorm
from distjet.physics.lund import lund_trees
from tests.batches import empty, make_batch, pairs_of, permute_nodes, single

SIZES = [1, 2, 3, 150, 20, 41]
WIDTHS = [32, 32, 64, 64, 128, 128]


def make(num_classes: int = 2, num_jet: int = 0, **keys: object) -> LundNet:
    torch.manual_seed(0)
    return LundNet(LundNetConfig(**keys), TaggerSpec(0, num_jet, num_classes))


def jets(sizes: list[int], seed: int = 0, num_jet: int = 0) -> GraphBatch:
    batch = make_batch(sizes, seed)
    return dataclasses.replace(batch, u=batch.u[:, :num_jet])


def logits(network: LundNet, batch: GraphBatch) -> Tensor:
    return network(network.on_host(batch))


def released_weights(num_inputs: int) -> dict[str, Tensor]:
    """Random weights with the names and shapes of the authors' implementation."""
    generator = torch.Generator().manual_seed(3)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / (shape[-1] if len(shape) > 1 else 4) ** 0.5

    def norm(name: str, width: int) -> dict[str, Tensor]:
        values = {"weight": 1 + random(width), "bias": random(width), "running_mean": random(width)}
        values |= {"running_var": 1 + random(width).square(), "num_batches_tracked": torch.tensor(7)}
        return {f"{name}.{key}": value for key, value in values.items()}

    found = norm("bn_fts", num_inputs)
    for number, (before, width) in enumerate(zip([num_inputs, *WIDTHS], WIDTHS, strict=False)):
        block = f"edge_convs.{number}"
        found |= {f"{block}.theta.weight": random(width, before), f"{block}.phi.weight": random(width, before)}
        found |= {f"{block}.fcs.0.weight": random(width, width)} | norm(f"{block}.bns.0", width) | norm(f"{block}.bns.1", width)
        if before != width:
            found |= {f"{block}.sc.weight": random(width, before)} | norm(f"{block}.sc_bn", width)
    found |= {"fusion_block.0.weight": random(384, 448), "fusion_block.0.bias": random(384)} | norm("fusion_block.2", 384)
    found |= {"fc.0.0.weight": random(256, 384), "fc.0.0.bias": random(256)}
    return found | {"fc.1.weight": random(2, 256), "fc.1.bias": random(2)}


def published(weights: dict[str, Tensor], coordinates: Tensor, parents: list[int]) -> Tensor:
    """Logits of one jet, edge by edge as in the paper."""

    def norm(name: str, values: Tensor) -> Tensor:
        keys = ("running_mean", "running_var", "weight", "bias")
        return batch_norm(values, *(weights[f"{name}.{key}"] for key in keys), training=False)

    neighbours: list[list[int]] = [[] for _ in parents]
    for node, parent in enumerate(parents):
        if parent >= 0:
            neighbours[node].append(parent)
            neighbours[parent].append(node)
    nodes, found = norm("bn_fts", coordinates), []
    for number in range(6):
        block = f"edge_convs.{number}"
        means = []
        for i, others in enumerate(neighbours):
            messages = [torch.zeros(WIDTHS[number])]
            for j in others:
                value = weights[f"{block}.theta.weight"] @ (nodes[i] - nodes[j]) + weights[f"{block}.phi.weight"] @ nodes[j]
                value = norm(f"{block}.bns.0", value[None]).relu() @ weights[f"{block}.fcs.0.weight"].T
                messages.append(norm(f"{block}.bns.1", value).relu()[0])
            means.append(sum(messages) / max(len(others), 1))
        shortcut = nodes
        if f"{block}.sc.weight" in weights:
            shortcut = norm(f"{block}.sc_bn", nodes @ weights[f"{block}.sc.weight"].T)
        nodes = (torch.stack(means) + shortcut).relu()
        found.append(nodes)
    fused = (torch.cat(found, 1) @ weights["fusion_block.0.weight"].T + weights["fusion_block.0.bias"]).relu()
    jet = norm("fusion_block.2", fused).mean(0)
    hidden = (weights["fc.0.0.weight"] @ jet + weights["fc.0.0.bias"]).relu()
    return weights["fc.1.weight"] @ hidden + weights["fc.1.bias"]


@pytest.mark.parametrize(("coordinates", "columns"), [(5, [0, 1, 2, 3, 4]), (3, [0, 1, 4])])
def test_weights_of_the_authors_give_the_published_function(coordinates: int, columns: list[int]) -> None:
    weights = released_weights(coordinates)
    network = make(coordinates=coordinates).eval()
    network.load_state_dict(from_released(weights))
    batch = jets([1, 2, 3, 30, 17])
    trees = lund_trees(batch.p4.numpy(), batch.ptr.numpy())
    expected = []
    for first, last in pairwise(trees.ptr):
        rows = torch.from_numpy(trees.coordinates[first:last][:, columns].copy())
        expected.append(published(weights, rows, trees.parents[first:last].tolist()))
    torch.testing.assert_close(logits(network, batch), torch.stack(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("coordinates", "number"), [(5, 391_724), (3, 391_528)])
def test_it_has_the_published_number_of_parameters(coordinates: int, number: int) -> None:
    assert sum(parameter.numel() for parameter in make(coordinates=coordinates).parameters()) == number


def test_the_graph_is_the_tree_of_declusterings() -> None:
    batch = jets([1, 2, 7, 300])
    trees = lund_trees(batch.p4.numpy(), batch.ptr.numpy())
    found = make().on_host(batch)
    assert found.ptr.tolist() == trees.ptr.tolist()
    assert found.num_nodes == len(found.p4) == len(found.x)
    assert found.num_edges == 2 * (0 + 0 + 5 + 298)
    for jet in range(4):
        parents = trees.parents[trees.ptr[jet] : trees.ptr[jet + 1]].tolist()
        assert pairs_of(found, jet) == sorted((parent, node) for node, parent in enumerate(parents) if parent >= 0)
    np.testing.assert_array_equal(found.x.numpy(), trees.coordinates)


def test_a_cut_on_kt_makes_smaller_trees() -> None:
    sizes = [make(min_ln_kt=cut).on_host(jets(SIZES)).num_nodes for cut in (None, -1.0, 0.0, 1.0)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4


@pytest.mark.parametrize("num_classes", [2, 5])
def test_jets_of_any_size_have_finite_logits_and_every_parameter_learns(num_classes: int) -> None:
    network = make(num_classes, num_jet=2)
    out = logits(network, jets(SIZES, num_jet=2))
    assert out.shape == (len(SIZES), num_classes)
    assert out.isfinite().all()
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in network.parameters())


def test_neither_order_nor_company_changes_a_score() -> None:
    network, batch = make().eval(), jets(SIZES)
    together = logits(network, batch)
    torch.testing.assert_close(logits(network, permute_nodes(batch)[0]), together, rtol=1e-5, atol=1e-5)
    alone = torch.cat([logits(network, single(batch, jet)) for jet in range(len(SIZES))])
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
    assert logits(network, empty(batch)).shape == (0, 2)


def test_weights_are_saved_and_read(tmp_path: Path) -> None:
    network, other = make().eval(), LundNet(LundNetConfig(), TaggerSpec(0, 0, 2)).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(logits(other, jets(SIZES)), logits(network, jets(SIZES)))


def test_plain_operations_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def everything() -> list[Tensor]:
        network, batch = make(dropout=0.0), make().on_host(jets(SIZES))
        out = network.double()(dataclasses.replace(batch, x=batch.x.double(), u=batch.u.double()))
        out.square().sum().backward()
        return [out, *(p.grad for p in network.parameters())]

    compiled = everything()
    monkeypatch.setattr(distjet.nn.edge_sums, "takes_kernels", lambda *_: False)
    for mine, plain in zip(compiled, everything(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-7, atol=1e-9)


def with_busy_norms(network: LundNet) -> LundNet:
    """Give every norm weights and moments that do something."""
    for module in network.modules():
        if isinstance(module, BatchNorm):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5)
    return network


def in_float64(network: LundNet, batch: GraphBatch) -> tuple[LundNet, GraphBatch]:
    """The same by plain products of torch."""
    return copy.deepcopy(network).double(), dataclasses.replace(batch, x=batch.x.double(), u=batch.u.double())


@pytest.mark.parametrize("sizes", [SIZES, [1, 1]], ids=["any size", "no edge"])
def test_evaluation_with_norms_in_the_layers_is_that_of_float64(sizes: list[int]) -> None:
    network = with_busy_norms(make()).eval()
    batch = network.on_host(jets(sizes))
    exact, exact_batch = in_float64(network, batch)
    expected = exact(exact_batch)
    with torch.no_grad():
        folded = network(batch)
    torch.testing.assert_close(folded.double(), expected, rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(network(batch).double(), expected, rtol=2e-5, atol=2e-5)  # with gradients


def test_a_training_step_is_that_of_float64() -> None:
    network = with_busy_norms(make(dropout=0.0))
    batch = network.on_host(jets(SIZES))

    def step(network: LundNet, batch: GraphBatch) -> dict[str, Tensor]:
        out = network.train()(batch)
        out.square().sum().backward()
        gradients = {f"gradient of {name}": parameter.grad for name, parameter in network.named_parameters()}
        return {"logits": out.detach(), **gradients, **dict(network.named_buffers())}

    exact = step(*in_float64(network, batch))
    for name, value in step(network, batch).items():
        # the norms behind the first bias cancel it: its gradient is zero, and in float32 what is left of sums over all edges
        atol = 1e-4 * max(float(exact[name].abs().max()), 0.1)
        torch.testing.assert_close(
            value.double(), exact[name].double(), rtol=1e-4, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_where_norms_become_part_of_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """In evaluation in float32 on a CPU, but not for gradients, under autocast, for an exporter or in training."""
    used: list[str] = []
    evaluate = EdgeConvolution._in_evaluation
    monkeypatch.setattr(EdgeConvolution, "_in_evaluation", lambda *args: used.append("folded") or evaluate(*args))
    layer, nodes, edge_index = EdgeConvolution(4, (4, 4)), torch.randn(6, 4), torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])
    with torch.no_grad():
        layer.eval()(nodes, edge_index)
        assert used == ["folded"]
        layer.train()(nodes, edge_index)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            layer.eval()(nodes, edge_index)
        torch.export.export(layer.eval(), (nodes, edge_index))
        copy.deepcopy(layer).double()(nodes.double(), edge_index)
    layer.eval()(nodes, edge_index)
    assert used == ["folded"]


def test_columns_of_constituents_are_refused() -> None:
    with pytest.raises(ValueError, match="reads declusterings and no columns"):
        LundNetConfig(inputs=("log_pt",))
