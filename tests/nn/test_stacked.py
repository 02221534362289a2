"""Networks trained side by side are those trained alone: values, gradients, moments of batch norms, steps."""

import copy

import pytest
import torch
from torch import Tensor, nn

from distjet.models.particle_flow_network import ParticleFlowNetwork
from distjet.models.tagger import TaggerSpec
from distjet.nn.batch_norm import BatchNorm
from distjet.nn.stacked import StackedEnsemble
from distjet.training.optim import build_optimizer
from distjet.training.optim_configs import AdamWConfig, RangerConfig
from tests.batches import NUM_GRAPH, NUM_NODE, make_batch

HOWS = ["vmap", "loop"]


class DeepNetwork(nn.Module):
    """A multilayer perceptron, with or without a batch norm."""

    def __init__(self, seed: int, batch_norm: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Linear(6, 10),
            BatchNorm(10) if batch_norm else nn.LayerNorm(10),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(10, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


def flow_networks(num: int) -> list[nn.Module]:
    config = ParticleFlowNetwork.Config(inputs=tuple("abcde"), jet_inputs=())
    torch.manual_seed(7)
    return [ParticleFlowNetwork(config, TaggerSpec(NUM_NODE, NUM_GRAPH, 2)) for _ in range(num)]


def gradients(member: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in member.named_parameters()}


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("kind", ["deep", "batch_norm", "flow"])
def test_values_and_gradients_are_those_of_each_member(kind: str, how: str) -> None:
    if kind == "flow":
        members, inputs = flow_networks(3), make_batch([3, 1, 20, 7])
    else:
        members, inputs = [DeepNetwork(seed, kind == "batch_norm") for seed in range(3)], torch.randn(16, 6)
    ensemble = StackedEnsemble(members, how)
    found = ensemble(inputs)
    expected = torch.stack([member(inputs) for member in members])
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    assert found.shape == (3, len(expected[0]), expected.shape[2])
    weight = torch.randn_like(expected)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    for name, stacked in gradients(ensemble.skeleton).items():
        torch.testing.assert_close(stacked, torch.stack([gradients(member)[name] for member in members]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", HOWS)
def test_a_batch_norm_keeps_the_moments_of_each_member(how: str) -> None:
    members = [DeepNetwork(seed, batch_norm=True) for seed in range(3)]
    ensemble = StackedEnsemble(members, how)
    for _ in range(3):
        x = torch.randn(50, 6)
        ensemble(x)
        for member in members:
            member(x)
    for member, state in zip(members, ensemble.unstack(), strict=True):
        assert state.keys() == member.state_dict().keys()
        assert state["layers.1.num_batches_tracked"] == 3
        for name, value in member.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-6)
    x = torch.randn(5, 6)
    torch.testing.assert_close(ensemble.eval()(x), torch.stack([member.eval()(x) for member in members]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("config", [AdamWConfig(weight_decay=0.1, lr=0.01), RangerConfig(weight_decay=0.1, lr=0.01)])
def test_members_train_as_if_each_were_alone(how: str, config: AdamWConfig) -> None:
    members = [DeepNetwork(seed) for seed in range(3)]
    ensemble = StackedEnsemble(members, how)
    together = build_optimizer(ensemble, config)
    alone = [build_optimizer(member, config) for member in members]
    generator = torch.Generator().manual_seed(1)
    for _ in range(10):
        x = torch.randn(32, 6, generator=generator)
        target = x[:, :3] ** 2
        together.zero_grad()
        (ensemble(x) - target).square().mean((1, 2)).sum().backward()
        norms = ensemble.clip_gradients(0.5)
        together.step()
        for number, (member, optimizer) in enumerate(zip(members, alone, strict=True)):
            optimizer.zero_grad()
            (member(x) - target).square().mean().backward()
            norm = nn.utils.clip_grad_norm_(member.parameters(), 0.5)
            assert norm > 0.5, "all are clipped"
            assert norms[number].item() == pytest.approx(norm.item(), rel=1e-4)
            optimizer.step()
    for member, state in zip(members, ensemble.unstack(), strict=True):
        for name, value in member.state_dict().items():
            torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", HOWS)
def test_members_drop_different_nodes(how: str) -> None:
    member = DeepNetwork(1, dropout=0.5)
    found = StackedEnsemble([member, copy.deepcopy(member)], how)(torch.randn(8, 6))
    assert not torch.equal(found[0], found[1])


def test_a_member_that_is_unstacked_gives_the_same_and_a_shared_tensor_stays_one() -> None:
    members = flow_networks(2)
    batch, ensemble = make_batch([4, 9]), StackedEnsemble(members)
    fresh = flow_networks(2)[1]
    fresh.load_state_dict(ensemble.unstack()[1])
    torch.testing.assert_close(fresh(batch), ensemble(batch)[1])
    tied = [nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)]) for _ in range(2)]
    for member in tied:
        member[1].weight = member[0].weight
    skeleton = StackedEnsemble(tied).skeleton
    assert skeleton[0].weight is skeleton[1].weight
    assert skeleton[0].weight.shape == (2, 3, 3)


def test_networks_of_another_architecture_are_refused() -> None:
    with pytest.raises(ValueError, match="member 1 differs from member 0"):
        StackedEnsemble([nn.Linear(3, 2), nn.Linear(3, 4)])
    with pytest.raises(ValueError, match="all in training or none"):
        StackedEnsemble([nn.Linear(3, 2), nn.Linear(3, 2).eval()])
    with pytest.raises(ValueError, match="at least one network"):
        StackedEnsemble([])
    with pytest.raises(ValueError, match="one of auto, vmap, loop"):
        StackedEnsemble([nn.Linear(3, 2)], "batched")
