"""Spec: Particle Transformer is weaver-core's given the same weights, for jets of all sizes."""

import dataclasses

import pydantic
import pytest
import torch

from distjet.errors import ConfigError
from distjet.models.particle_transformer import ParticleTransformer
from distjet.models.tagger import TaggerSpec
from distjet.models.tagger_configs import ParticleTransformerConfig
from distjet.models.weaver_next_weights import particle_transformer_weights
from distjet.nn.ragged_attention import RaggedAttention
from tests.batches import NUM_GRAPH, NUM_NODE, make_batch
from tests.models.logits import gradients_of, logits
from tests.models.weaver_inputs import mask, padded, randomise, to_double

SIZES = [1, 2, 3, 7, 40, 16, 17, 150]
SMALL = ParticleTransformerConfig(
    embed_hidden=(16,),
    width=16,
    pair_hidden=(8,),
    num_heads=4,
    num_blocks=2,
    num_class_blocks=1,
    dropout=0.0,
    max_constituents=150,
)
NEEDS_WEAVER = "weaver-core comes with the extra 'bench'"


def make(num_classes: int = 2, config: ParticleTransformerConfig = SMALL) -> ParticleTransformer:
    torch.manual_seed(0)
    network = ParticleTransformer(config, TaggerSpec(NUM_NODE, NUM_GRAPH, num_classes))
    randomise(network)
    return network


def twins() -> tuple[torch.nn.Module, ParticleTransformer]:
    theirs = pytest.importorskip("weaver.nn.model.ParticleTransformer", reason=NEEDS_WEAVER)
    torch.manual_seed(0)
    reference = theirs.ParticleTransformer(input_dim=NUM_NODE, num_classes=3).eval()
    randomise(reference)
    network = ParticleTransformer(ParticleTransformerConfig(), TaggerSpec(NUM_NODE, 0, 3)).eval()
    network.load_state_dict(particle_transformer_weights(reference.state_dict()))
    return reference, network


def inputs(batch):
    return padded(batch.x, batch), padded(batch.p4, batch), mask(batch)


@pytest.mark.parametrize(("num_inputs", "num_classes", "expected"), [(7, 2, 2_141_134), (17, 10, 2_143_486)])
def test_published_size(num_inputs: int, num_classes: int, expected: int) -> None:
    """The second is the network on JetClass, of which arXiv:2202.03772 says 2.14 M parameters."""
    network = ParticleTransformer(ParticleTransformerConfig(), TaggerSpec(num_inputs, 0, num_classes))
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


def test_outputs_and_gradients_are_those_of_weaver_in_float64() -> None:
    reference, network = (module.double() for module in twins())
    batch = dataclasses.replace(to_double(make_batch([1, 2, 5, 31, 33, 45])), u=torch.zeros(6, 0))
    expected, found = reference(*inputs(batch)), network(batch)
    assert expected.std(0).min() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-10, rtol=1e-10)
    direction = torch.randn(expected.shape, dtype=torch.float64)
    for output in (expected, found):
        (output * direction).sum().backward()
    gradients = particle_transformer_weights({name: parameter.grad for name, parameter in reference.named_parameters()})
    torch.testing.assert_close(gradients_of(network), gradients, atol=1e-9, rtol=1e-6)


def test_outputs_are_those_of_weaver_in_float32() -> None:
    reference, network = twins()
    batch = make_batch([1, 2, 3, 5, 31, 32, 33, 60, 128], seed=3)
    batch = dataclasses.replace(batch, u=torch.zeros(9, 0))
    with torch.no_grad():
        torch.testing.assert_close(network(batch), reference(*inputs(batch)), atol=1e-5, rtol=1e-5)


def test_one_block_for_all_jets_gives_the_same_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """That is the layout where sizes are not known: outputs, running moments and gradients."""
    batch = make_batch(SIZES)
    grouped, together = make().train(), make().train()
    found = grouped(grouped.on_host(batch))
    monkeypatch.setattr(together, "_layout", lambda b: RaggedAttention.of_length(150, b.ptr, b.num_nodes))
    expected = together(batch)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    for output in (found, expected):
        output.square().sum().backward()
    torch.testing.assert_close(gradients_of(grouped), gradients_of(together), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(dict(grouped.named_buffers()), dict(together.named_buffers()), atol=1e-4, rtol=1e-4)


def test_dropout_changes_training_and_nothing_else() -> None:
    network, batch = make(config=SMALL.model_copy(update={"dropout": 0.5})), make_batch([5, 9])
    assert torch.equal(logits(network, batch), logits(network, batch))
    network.train()
    assert (network(batch) - network(batch)).abs().max() > 1e-3


def test_an_unknown_name_is_an_error() -> None:
    with pytest.raises(ConfigError, match="no parameter of weaver-core's ParticleTransformer"):
        particle_transformer_weights({"blocks.0.ls1.gamma": torch.zeros(1)})


def test_heads_must_share_the_width() -> None:
    with pytest.raises(pydantic.ValidationError, match="multiple of num_heads"):
        ParticleTransformerConfig(num_heads=7)
