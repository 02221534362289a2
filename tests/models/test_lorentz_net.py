"""Spec: LorentzNet is the published network, takes its weights, and its scores are the same in every frame."""

import dataclasses
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import batch_norm

import distjet.models.lorentz_net
from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.lorentz_net import LorentzNet, from_released
from distjet.models.tagger import TaggerSpec
from distjet.models.tagger_configs import LorentzNetConfig
from tests.batches import empty, make_batch, permute_nodes, single

SIZES = [1, 2, 3, 60, 12]


def make(num_classes: int = 2, num_jet: int = 0, **keys: object) -> LorentzNet:
    torch.manual_seed(0)
    return LorentzNet(LorentzNetConfig(**keys), TaggerSpec(0, num_jet, num_classes))


def jets(sizes: list[int], seed: int = 0, num_jet: int = 0) -> GraphBatch:
    batch = make_batch(sizes, seed)
    return dataclasses.replace(batch, u=batch.u[:, :num_jet])


def logits(network: LorentzNet, batch: GraphBatch) -> Tensor:
    return network(network.on_host(batch))


def double(batch: GraphBatch) -> GraphBatch:
    return dataclasses.replace(batch, x=batch.x.double(), p4=batch.p4.double(), u=batch.u.double())


def released_weights() -> dict[str, Tensor]:
    """Random weights with the names and shapes of the authors' implementation, whose messages move four-vectors noticeably."""
    generator = torch.Generator().manual_seed(3)

    def linear(name: str, before: int, after: int, *, bias: bool = True, scale: float = 1.0) -> dict[str, Tensor]:
        found = {f"{name}.weight": scale * torch.randn(after, before, generator=generator) / before**0.5}
        return found | ({f"{name}.bias": 0.3 * torch.randn(after, generator=generator)} if bias else {})

    def norm(name: str) -> dict[str, Tensor]:
        mean, shift, variance, scale = torch.randn(4, 72, generator=generator)
        values = {"weight": 1 + 0.1 * scale, "bias": 0.1 * shift, "running_mean": mean, "running_var": 4 + variance.square()}
        return {f"{name}.{key}": value for key, value in values.items()} | {f"{name}.num_batches_tracked": torch.tensor(7)}

    found = linear("module.embedding", 2, 72)
    for number in range(6):
        block = f"module.LGEBs.{number}"
        found |= linear(f"{block}.phi_e.0", 146, 72, bias=False) | norm(f"{block}.phi_e.1") | linear(f"{block}.phi_e.3", 72, 72)
        found |= linear(f"{block}.phi_h.0", 146, 72) | norm(f"{block}.phi_h.1") | linear(f"{block}.phi_h.3", 72, 72, scale=0.5)
        found |= linear(f"{block}.phi_m.0", 72, 1)
        if number < 5:
            found |= linear(f"{block}.phi_x.0", 72, 72) | linear(f"{block}.phi_x.2", 72, 1, bias=False, scale=30.0)
    return found | linear("module.graph_dec.0", 72, 72) | linear("module.graph_dec.3", 72, 2)


def published(weights: dict[str, Tensor], particles: Tensor, length: int, by_sum: bool = False) -> Tensor:
    """Logits of one jet of particles (px, py, pz, E), pair by pair, in the authors' order (E, px, py, pz)."""
    weights = {name.removeprefix("module."): value.double() for name, value in weights.items()}

    def linear(name: str, values: Tensor) -> Tensor:
        return values @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    def norm(name: str, values: Tensor) -> Tensor:
        keys = ("running_mean", "running_var", "weight", "bias")
        return batch_norm(values, *(weights[f"{name}.{key}"] for key in keys), training=False)

    def squeeze(values: Tensor) -> Tensor:
        return torch.sign(values) * torch.log(values.abs() + 1)

    metric = torch.tensor([1.0, -1.0, -1.0, -1.0], dtype=torch.float64)
    beams = torch.tensor([[2**0.5, 0, 0, 1], [2**0.5, 0, 0, -1]], dtype=torch.float64)
    x = torch.cat([beams, particles.double()[:, [3, 0, 1, 2]]])
    mass = (x.square() @ metric).abs().sqrt()
    kinds = torch.tensor([[0.0, 1.0]] * 2 + [[1.0, 0.0]] * len(particles), dtype=torch.float64)
    scalars = squeeze(kinds * mass[:, None])
    i, j = torch.tensor([(i, j) for i in range(len(x)) for j in range(len(x)) if i != j]).T
    h = linear("embedding", scalars)
    for number in range(6):
        block = f"LGEBs.{number}"
        difference = x[i] - x[j]
        invariants = squeeze(torch.stack([difference.square() @ metric, (x[i] * x[j]) @ metric], 1))
        m = norm(f"{block}.phi_e.1", linear(f"{block}.phi_e.0", torch.cat([h[i], h[j], invariants], 1))).relu()
        m = linear(f"{block}.phi_e.3", m).relu()
        m = m * linear(f"{block}.phi_m.0", m).sigmoid()
        totals = torch.stack([m[i == node].sum(0) for node in range(len(x))])
        if number < 5:
            factor = linear(f"{block}.phi_x.2", linear(f"{block}.phi_x.0", m).relu())
            if by_sum:
                x = x + 5e-3 * torch.stack([(factor * x[j])[i == node].sum(0) for node in range(len(x))])
            else:
                steps = (factor * difference).clamp(-100, 100)
                x = x + 5e-3 * torch.stack([steps[i == node].mean(0) for node in range(len(x))])
        inputs = torch.cat([h, totals, scalars], 1)
        h = h + linear(f"{block}.phi_h.3", norm(f"{block}.phi_h.1", linear(f"{block}.phi_h.0", inputs)).relu())
    return linear("graph_dec.3", linear("graph_dec.0", h.sum(0) / length).relu())


@pytest.mark.parametrize("padded_length", [None, 80])
def test_weights_of_the_authors_give_the_published_function(padded_length: int | None) -> None:
    """With the length of their padded batch, the scores are theirs; without, a jet is read as the mean over its particles."""
    network = make(padded_length=padded_length).double().eval()
    network.load_state_dict(from_released(released_weights()))
    batch = jets([1, 2, 3, 30, 17])
    expected = []
    for first, last in pairwise(batch.ptr.tolist()):
        expected.append(published(released_weights(), batch.p4[first:last], padded_length or last - first + 2))
    found = network(double(network.on_host(double(batch))))
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-5)
    frozen = make(padded_length=padded_length, coordinate_step=1e-12).double().eval()
    frozen.load_state_dict(network.state_dict())
    assert (frozen(double(network.on_host(double(batch)))) - found).abs().max() > 1e-2  # moves of four-vectors matter


def test_the_sum_of_the_paper() -> None:
    network = make(coordinate_update="sum").double().eval()
    network.load_state_dict(from_released(released_weights()))
    batch = jets([5, 2])
    expected = [published(released_weights(), p4, len(p4) + 2, by_sum=True) for p4 in batch.p4.split([5, 2])]
    found = network(network.on_host(double(batch)))
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-5, atol=1e-5)


def test_it_has_the_published_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in make().parameters()) == 224_072


def transform(p4: Tensor, rapidity: float, angle: float) -> Tensor:
    """Boost along x, then turn about an axis that is none of the coordinate axes."""
    c, s = torch.cosh(torch.tensor(rapidity)).double(), torch.sinh(torch.tensor(rapidity)).double()
    px, py, pz, energy = p4.unbind(1)
    boosted = torch.stack([c * px + s * energy, py, pz], 1)
    axis = torch.tensor([0.36, 0.48, 0.8], dtype=torch.float64)
    across = torch.linalg.cross(axis.expand_as(boosted), boosted)
    cosine, sine = torch.cos(torch.tensor(angle)).double(), torch.sin(torch.tensor(angle)).double()
    turned = cosine * boosted + sine * across + (1 - cosine) * (boosted @ axis)[:, None] * axis
    return torch.cat([turned, (c * energy + s * px)[:, None]], 1)


@pytest.mark.parametrize("update", ["mean_difference", "sum"])
def test_every_frame_gives_the_same_scores(update: str) -> None:
    """Constituents and beams are boosted and turned together; a boost of the constituents alone is another jet.

    Moves are too small to be clamped: a clamp of components has a frame.
    """
    network = make(coordinate_update=update).double().eval()
    network.load_state_dict(from_released(released_weights()))
    network.load_state_dict({k: v * 1e-2 if ".move.2." in k else v for k, v in network.state_dict().items()})
    batch = network.on_host(double(jets(SIZES)))
    here = network(batch)
    for rapidity, angle in ((0.0, 1.1), (1.5, 0.0), (-2.0, 2.5)):
        there = dataclasses.replace(batch, p4=transform(batch.p4, rapidity, angle))
        torch.testing.assert_close(network(there), here, rtol=1e-4, atol=1e-4)
    constituents = network.on_host(double(dataclasses.replace(jets(SIZES), p4=transform(jets(SIZES).p4.double(), 1.5, 0.0))))
    assert (network(constituents) - here).abs().max() > 1e-2


@pytest.mark.parametrize("num_classes", [2, 5])
def test_jets_of_any_size_have_finite_logits_and_every_parameter_learns(num_classes: int) -> None:
    network = make(num_classes, num_jet=2)
    out = logits(network, jets([*SIZES, 150], num_jet=2))
    assert out.shape == (len(SIZES) + 1, num_classes)
    assert out.isfinite().all()
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in network.parameters())


def test_neither_order_nor_company_changes_a_score() -> None:
    network, batch = make().eval(), jets(SIZES)
    with torch.no_grad():
        together = logits(network, batch)
        torch.testing.assert_close(logits(network, permute_nodes(batch)[0]), together, rtol=1e-5, atol=1e-5)
        alone = torch.cat([logits(network, single(batch, jet)) for jet in range(len(SIZES))])
        torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)
        assert logits(network, empty(batch)).shape == (0, 2)


def test_weights_are_saved_and_read(tmp_path: Path) -> None:
    network, other = make().eval(), LorentzNet(LorentzNetConfig(), TaggerSpec(0, 0, 2)).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(logits(other, jets(SIZES)), logits(network, jets(SIZES)))


@pytest.mark.parametrize("update", ["mean_difference", "sum"])
def test_plain_operations_give_the_same(update: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values, gradients, and what batch norm remembers."""

    def everything() -> list[Tensor]:
        network = make(dropout=0.0, coordinate_update=update).double()
        out = network(network.on_host(double(jets(SIZES))))
        out.square().sum().backward()
        return [out, *(p.grad for p in network.parameters()), *(buffer.double() for buffer in network.buffers())]

    compiled = everything()
    monkeypatch.setattr(distjet.models.lorentz_net, "takes_kernels", lambda *_: False)
    for mine, plain in zip(compiled, everything(), strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-7, atol=1e-9)


def test_columns_of_constituents_are_refused() -> None:
    with pytest.raises(ValueError, match="reads four-vectors and no columns"):
        LorentzNetConfig(inputs=("log_pt",))
