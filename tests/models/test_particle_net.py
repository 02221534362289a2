"""ParticleNet is the published network: its size, weaver-core's outputs with the same weights, and the contract of taggers."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from distjet.config import implementation, import_path
from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.particle_net import ParticleNet, points_around_axes
from distjet.models.tagger import TaggerSpec
from distjet.models.tagger_configs import TAGGERS, ParticleNetConfig
from distjet.models.weaver_weights import particle_net_from_weaver
from tests.batches import NUM_NODE, empty, make_batch, permute_nodes, single

SIZES = [1, 2, 3, 20, 150, 40]
NETWORKS = ("particle_net", "particle_net_lite")
INPUTS = tuple("abcde")


def around_the_axis(batch: GraphBatch) -> GraphBatch:
    """The batch with the axes of its jets, also across the seam of the azimuth."""
    total = torch.stack([batch.p4[lo:hi].sum(0) for lo, hi in zip(batch.ptr[:-1], batch.ptr[1:], strict=True)])
    pt = total[:, :2].norm(dim=1)
    jet = torch.stack([pt, torch.asinh(total[:, 2] / pt), torch.atan2(total[:, 1], total[:, 0]), total[:, 3], pt], 1)
    return dataclasses.replace(batch, jet=jet, u=batch.u[:, :0])


def make(name: str, num_classes: int = 2, num_jet: int = 0, **keys: object) -> ParticleNet:
    torch.manual_seed(0)
    config = import_path(TAGGERS[name].config)(**{"inputs": INPUTS, "max_constituents": None, **keys})
    network = implementation(name, TAGGERS)(config, TaggerSpec(len(config.inputs), num_jet, num_classes))
    jets = around_the_axis(make_batch([30, 40, 50], seed=9))
    x = torch.randn(jets.num_nodes, len(config.inputs))
    return settle(network, dataclasses.replace(jets, x=x, u=torch.randn(3, num_jet)))


def settle(network: nn.Module, *arguments: object) -> nn.Module:
    """Let the norms remember the moments of a batch: without, states hardly depend on the inputs, and any test would pass."""
    for norm in (part for part in network.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)):
        norm.momentum = 1.0
    with torch.no_grad():
        network.train()(*arguments)
    return network.eval()


@pytest.fixture(scope="module")
def batch() -> GraphBatch:
    assert len(INPUTS) == NUM_NODE
    return around_the_axis(make_batch(SIZES))


@pytest.mark.parametrize(("name", "number"), [("particle_net", 366_160), ("particle_net_lite", 26_416)])
def test_the_size_is_the_published_one(name: str, number: int) -> None:
    network = make(name, inputs=tuple("abcdefg"))
    assert sum(parameter.numel() for parameter in network.parameters()) == number


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("num_classes", [2, 5])
def test_contract(name: str, num_classes: int, batch: GraphBatch, tmp_path: Path) -> None:
    network = make(name, num_classes)
    with torch.no_grad():
        logits = network(batch)
        assert logits.shape == (len(SIZES), num_classes)
        assert logits.isfinite().all()
        assert logits.std(0).min() > 0.01
        torch.testing.assert_close(network(permute_nodes(batch)[0]), logits, atol=1e-5, rtol=1e-5)
        singles = torch.cat([network(single(batch, jet)) for jet in range(len(SIZES))])
        torch.testing.assert_close(singles, logits, atol=1e-5, rtol=1e-5)
        assert network(empty(batch)).shape == (0, num_classes)
        torch.save(network.state_dict(), tmp_path / "weights.pt")
        again = make(name, num_classes)
        again.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
        assert torch.equal(again(batch), logits)


@pytest.mark.parametrize("options", [{}, {"use_fusion": True, "hidden": (8, 4)}, {"num_neighbours": 200}])
def test_a_gradient_reaches_every_parameter(batch: GraphBatch, options: dict) -> None:
    network = make("particle_net_lite", num_jet=3, **options).train()
    torch.manual_seed(1)
    network(dataclasses.replace(batch, u=torch.randn(len(SIZES), 3))).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in network.parameters())


def test_points_are_relative_to_the_axis_across_the_seam(batch: GraphBatch) -> None:
    points = points_around_axes(batch)
    turned = batch.p4.clone()
    turned[:, :2] *= -1
    jet = batch.jet.clone()
    jet[:, 2] = torch.where(jet[:, 2] > 0, jet[:, 2] - torch.pi, jet[:, 2] + torch.pi)
    torch.testing.assert_close(points_around_axes(dataclasses.replace(batch, p4=turned, jet=jet)), points, atol=2e-6, rtol=0)
    assert points.abs().max() < 1


def test_points_may_be_two_of_the_inputs(batch: GraphBatch) -> None:
    found, plain = make("particle_net_lite", points=("b", "a")), make("particle_net_lite")
    found.load_state_dict(plain.state_dict())
    x = batch.x.clone()
    x[:, :2] = points_around_axes(batch)
    changed = dataclasses.replace(batch, x=x)
    with torch.no_grad():  # a distance does not know the order of the two
        torch.testing.assert_close(found(changed), plain(changed), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(found(batch), plain(batch))
    with pytest.raises(ValueError, match="points: expected two of the inputs"):
        ParticleNetConfig(inputs=INPUTS, points=("a", "z"))


def padded(values: torch.Tensor, batch: GraphBatch, length: int) -> torch.Tensor:
    """Shape (B, F, length), as weaver-core reads it."""
    result = values.new_zeros(batch.num_graphs, values.shape[1], length)
    for jet, (lo, hi) in enumerate(zip(batch.ptr[:-1].tolist(), batch.ptr[1:].tolist(), strict=True)):
        result[jet, :, : hi - lo] = values[lo:hi].T
    return result


@pytest.mark.parametrize("use_fusion", [False, True])
@pytest.mark.parametrize(("name", "k"), [("particle_net", 16), ("particle_net_lite", 7)])
def test_outputs_are_those_of_weaver_with_the_same_weights(name: str, k: int, use_fusion: bool, batch: GraphBatch) -> None:
    reason = "weaver-core comes with the extra `bench`"
    module = pytest.importorskip("weaver.nn.model.ParticleNet", reason=reason)
    torch.manual_seed(3)
    sizes = import_path(TAGGERS[name].config)()
    blocks = [(k, widths) for widths in sizes.blocks]
    theirs = module.ParticleNet(NUM_NODE, 3, blocks, [(sizes.hidden[0], 0.1)], use_fusion=use_fusion)
    cut = around_the_axis(make_batch([k + 1, 3, 1, 100, 60, k, 30]))
    mask = padded(torch.ones(cut.num_nodes, 1), cut, 128)
    inputs = padded(points_around_axes(cut), cut, 128), padded(cut.x, cut, 128), mask
    settle(theirs, *inputs)
    config, state = particle_net_from_weaver(theirs.state_dict(), k, INPUTS)
    assert (config.blocks, config.hidden, config.use_fusion) == (sizes.blocks, sizes.hidden, use_fusion)
    ours = ParticleNet(config, TaggerSpec(NUM_NODE, 0, 3)).eval()
    ours.load_state_dict(state)
    with torch.no_grad():
        expected = theirs(*inputs)
        assert expected.std(0).min() > 0.01
        torch.testing.assert_close(ours(cut), expected, atol=1e-5, rtol=1e-5)
