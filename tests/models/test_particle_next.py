"""Spec: ParticleNeXt is weaver-core's given the same weights, for jets of all sizes."""

import dataclasses

import pydantic
import pytest
import torch

from distjet.errors import ConfigError
from distjet.models.particle_next import ParticleNext
from distjet.models.tagger import TaggerSpec
from distjet.models.tagger_configs import ParticleNextConfig
from distjet.models.weaver_next_weights import particle_next_weights
from distjet.nn import multi_scale_edge_conv
from tests.batches import NUM_GRAPH, NUM_NODE, make_batch
from tests.models.logits import gradients_of, logits
from tests.models.weaver_inputs import mask, padded, points, randomise, to_double

SIZES = [1, 2, 3, 7, 40, 31, 32, 33, 150]
SMALL = ParticleNextConfig(num_layers=2, width=32, message_width=32, scales=(2, 4, 8), hidden=16, dropout=0.0)
NEEDS_WEAVER = "weaver-core comes with the extra 'bench'"


def make(num_classes: int = 2, config: ParticleNextConfig = SMALL) -> ParticleNext:
    torch.manual_seed(0)
    network = ParticleNext(config, TaggerSpec(NUM_NODE, NUM_GRAPH, num_classes))
    randomise(network)
    return network


def twins() -> tuple[torch.nn.Module, ParticleNext]:
    theirs = pytest.importorskip("weaver.nn.model.ParticleNeXt", reason=NEEDS_WEAVER)
    torch.manual_seed(0)
    reference = theirs.ParticleNeXt(feature_input_dim=NUM_NODE, num_classes=3).eval()
    randomise(reference)
    network = ParticleNext(ParticleNextConfig(), TaggerSpec(NUM_NODE, 0, 3)).eval()
    network.load_state_dict(particle_next_weights(reference.state_dict()))
    return reference, network


def inputs(batch):
    return points(batch), padded(batch.x, batch), padded(batch.p4, batch), mask(batch)


def test_published_size() -> None:
    network = ParticleNext(ParticleNextConfig(), TaggerSpec(7, 0, 2))
    assert sum(parameter.numel() for parameter in network.parameters()) == 551_496


def test_outputs_and_gradients_are_those_of_weaver_in_float64() -> None:
    reference, network = (module.double() for module in twins())
    batch = dataclasses.replace(to_double(make_batch([1, 2, 5, 31, 33, 45])), u=torch.zeros(6, 0))
    expected, found = reference(*inputs(batch)), network(batch)
    assert expected.std(0).min() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    direction = torch.randn(expected.shape, dtype=torch.float64)
    for output in (expected, found):
        (output * direction).sum().backward()
    gradients = particle_next_weights({name: parameter.grad for name, parameter in reference.named_parameters()})
    torch.testing.assert_close(gradients_of(network), gradients, atol=1e-9, rtol=1e-6)


def test_outputs_are_those_of_weaver_in_float32() -> None:
    reference, network = twins()
    batch = make_batch([1, 2, 3, 5, 31, 32, 33, 60, 128], seed=3)
    batch = dataclasses.replace(batch, u=torch.zeros(9, 0))
    with torch.no_grad():
        torch.testing.assert_close(network(batch), reference(*inputs(batch)), atol=1e-5, rtol=1e-5)


def test_operations_and_loops_are_the_same_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs, gradients and running moments."""
    batch = make_batch(SIZES)
    loops, operations = make().train(), make().train()
    found = loops(batch)
    monkeypatch.setattr(multi_scale_edge_conv, "_by_loops", lambda values: False)
    expected = operations(batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for output in (found, expected):
        output.square().sum().backward()
    torch.testing.assert_close(gradients_of(loops), gradients_of(operations), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(dict(loops.named_buffers()), dict(operations.named_buffers()), atol=1e-5, rtol=1e-5)


def test_a_jet_across_the_end_of_the_azimuth_is_one_jet() -> None:
    network, batch = make(), make_batch([20, 12])
    turned = batch.p4.clone()
    angle = torch.tensor(torch.pi) - torch.atan2(batch.p4[0, 1], batch.p4[0, 0])
    turned[:, 0] = batch.p4[:, 0] * angle.cos() - batch.p4[:, 1] * angle.sin()
    turned[:, 1] = batch.p4[:, 0] * angle.sin() + batch.p4[:, 1] * angle.cos()
    after = dataclasses.replace(batch, p4=turned)
    torch.testing.assert_close(logits(network, after), logits(network, batch), atol=3e-3, rtol=3e-3)


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no parameter of weaver-core's ParticleNeXt"):
        particle_next_weights({"layers.0.coords_mlp.0.weight": torch.zeros(1)})


@pytest.mark.parametrize("change", [{"scales": (8, 4)}, {"num_heads": 7}, {"num_pooling_heads": 3}])
def test_widths_that_do_not_fit_are_refused(change: dict) -> None:
    with pytest.raises(pydantic.ValidationError, match=r"must rise|multiple of"):
        ParticleNextConfig(**change)
