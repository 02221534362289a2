"""What taggers of sets and vectors promise, and what is particular to each of them."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from distjet.config import implementation
from distjet.dataset.graphs.hardest import hardest
from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.constituent_dnn import preprocess
from distjet.models.lola import CombinationLayer, LorentzLayer
from distjet.models.tagger import TaggerNetwork, TaggerSpec
from distjet.models.tagger_configs import (
    TAGGERS,
    ConstituentDnnConfig,
    EnergyFlowNetworkConfig,
    HighLevelDnnConfig,
    JetImageResnetConfig,
    LolaConfig,
    ParticleFlowNetworkConfig,
    PCnnConfig,
    TaggerConfig,
)
from distjet.physics.kinematics import to_cartesian
from tests.batches import NUM_GRAPH, NUM_NODE, join, make_batch, permute_nodes, single

COLUMNS = tuple(f"column_{number}" for number in range(NUM_NODE))
JET_COLUMNS = tuple(f"jet_{number}" for number in range(NUM_GRAPH))
CASES: dict[str, TaggerConfig] = {
    "particle_flow_network": ParticleFlowNetworkConfig(),
    "particle_flow_network_columns": ParticleFlowNetworkConfig(inputs=COLUMNS, jet_inputs=JET_COLUMNS),
    "energy_flow_network": EnergyFlowNetworkConfig(),
    "energy_flow_network_jet": EnergyFlowNetworkConfig(jet_inputs=JET_COLUMNS),
    "lola": LolaConfig(jet_inputs=JET_COLUMNS),
    "p_cnn": PCnnConfig(inputs=COLUMNS, jet_inputs=JET_COLUMNS),
    "jet_image_resnet": JetImageResnetConfig(depths=(1, 2), jet_inputs=JET_COLUMNS),
    "jet_image_resnext": JetImageResnetConfig(depths=(1, 1), bottleneck=32, groups=32),
    "constituent_dnn": ConstituentDnnConfig(hidden=(32, 16)),
    "constituent_dnn_columns": ConstituentDnnConfig(hidden=(32,), inputs=COLUMNS, jet_inputs=JET_COLUMNS, dropout=0.1),
    "high_level_dnn": HighLevelDnnConfig(jet_inputs=JET_COLUMNS),
}


def build(config: TaggerConfig, num_classes: int = 2) -> TaggerNetwork:
    torch.manual_seed(3)
    spec = TaggerSpec(num_node=len(config.inputs), num_jet=len(config.jet_inputs), num_classes=num_classes)
    return implementation(config.name, TAGGERS)(config, spec)


def hand(batch: GraphBatch, config: TaggerConfig) -> GraphBatch:
    """Do what the wrapper does on the host: choose columns, sort and cut constituents."""
    batch = dataclasses.replace(batch, x=batch.x[:, : len(config.inputs)], u=batch.u[:, : len(config.jet_inputs)])
    if not (config.is_ordered or config.max_constituents):
        return batch
    pt = batch.p4[:, 0].hypot(batch.p4[:, 1]).numpy()
    places, ptr = hardest(pt, batch.ptr.numpy(), config.max_constituents)
    return dataclasses.replace(batch, x=batch.x[places], p4=batch.p4[places], ptr=torch.from_numpy(ptr))


def in_double(batch: GraphBatch) -> GraphBatch:
    """The same batch in float64."""
    return batch.map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)


@pytest.fixture(params=CASES)
def config(request: pytest.FixtureRequest) -> TaggerConfig:
    return CASES[request.param]


@pytest.mark.parametrize("num_classes", [2, 5])
def test_shapes(config: TaggerConfig, num_classes: int) -> None:
    logits = build(config, num_classes).eval()(hand(make_batch([1, 2, 3, 150, 20]), config))
    assert logits.shape == (5, num_classes)
    assert torch.isfinite(logits).all()


def test_gradient_reaches_every_parameter(config: TaggerConfig) -> None:
    network = build(config)
    logits = network(hand(make_batch([150, 9, 30, 1], seed=1), config))
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 1, 0])).backward()
    assert all(torch.isfinite(p.grad).all() for p in network.parameters())
    silent = [name for name, p in network.named_parameters() if not p.grad.abs().sum() > 0]
    assert not silent


def test_order_of_constituents_does_not_matter(config: TaggerConfig) -> None:
    batch, network = make_batch([5, 2, 31], seed=2), build(config).eval()
    shuffled, _ = permute_nodes(batch, seed=5)
    with torch.no_grad():
        torch.testing.assert_close(network(hand(shuffled, config)), network(hand(batch, config)), atol=1e-5, rtol=1e-5)


def test_a_batch_equals_its_single_graphs(config: TaggerConfig) -> None:
    batch, network = make_batch([4, 1, 120, 2], seed=3), build(config).eval().double()
    with torch.no_grad():
        together = network(in_double(hand(batch, config)))
        alone = [network(in_double(hand(single(batch, graph), config))) for graph in range(batch.num_graphs)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-9, rtol=1e-9)


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("config", "num_classes", "expected"),
    [
        (ParticleFlowNetworkConfig(), 2, 82_458),  # arXiv:1810.05165
        (EnergyFlowNetworkConfig(), 2, 82_358),
        (PCnnConfig(), 2, 349_456),  # 348k in arXiv:1902.09914
        (PCnnConfig(inputs=tuple(f"column_{n}" for n in range(17))), 10, 354_540),  # 354k in arXiv:2202.03772
        (JetImageResnetConfig(), 2, 1_482_498),  # 1.49M in ATL-PHYS-PUB-2022-039, with biases before normalisations
        (JetImageResnetConfig(bottleneck=32, groups=32), 2, 1_453_090),  # 1.46M in arXiv:1902.09914
        (HighLevelDnnConfig(), 1, 133_381),  # what Keras counts for the example of the open data
        (LolaConfig(), 2, 127_592),  # 127k in arXiv:1902.09914
    ],
)
def test_parameters_are_the_published_ones(config: TaggerConfig, num_classes: int, expected: int) -> None:
    assert count(build(config, num_classes)) == expected


def test_constituent_dnn_has_the_numbers_that_keras_counts() -> None:
    network = build(ConstituentDnnConfig(), num_classes=1)
    moments = sum(b.numel() for name, b in network.named_buffers() if name.endswith(("running_mean", "running_var")))
    assert count(network) + moments == 876_641  # 877k in ATL-PHYS-PUB-2022-039


def test_image_network_is_resnet_50_where_nothing_is_made_narrower() -> None:
    network = build(JetImageResnetConfig(width=256, bottleneck=64), num_classes=1000)
    assert count(network) == 25_557_032 - 2 * 64 * 7 * 7  # the count of ImageNet's has three colours in the first layer


def test_biases_that_keras_has_make_up_the_number_of_atlas() -> None:
    network = build(JetImageResnetConfig())
    biases = sum(layer.out_channels for layer in network.modules() if isinstance(layer, nn.Conv2d))
    assert count(network) + biases == 1_489_122  # "1.49M"


def with_soft_particles(batch: GraphBatch) -> GraphBatch:
    """Every jet of a batch with five more particles of a millionth of its pT."""
    return join([_append(single(batch, graph), graph) for graph in range(batch.num_graphs)])


def _append(jet: GraphBatch, seed: int) -> GraphBatch:
    rng = np.random.default_rng(seed)
    total = jet.p4.sum(0).double().numpy()
    eta = np.arcsinh(total[2] / np.hypot(total[0], total[1])) + rng.uniform(-0.5, 0.5, 5)
    phi = np.arctan2(total[1], total[0]) + rng.uniform(-0.5, 0.5, 5)
    soft = to_cartesian(1e-6 * np.hypot(total[0], total[1]), eta, phi)
    return _with_p4(jet, torch.cat([jet.p4, torch.from_numpy(soft).float()]))


def with_collinear_splittings(batch: GraphBatch) -> GraphBatch:
    """Every particle of a batch as two in the same direction, with 30 and 70 % of its momentum."""
    jets = [single(batch, graph) for graph in range(batch.num_graphs)]
    return join([_with_p4(jet, torch.cat([0.3 * jet.p4, 0.7 * jet.p4])) for jet in jets])


def _with_p4(jet: GraphBatch, p4: torch.Tensor) -> GraphBatch:
    return dataclasses.replace(make_batch([len(p4)]), p4=p4)


@pytest.mark.parametrize("emit", [with_soft_particles, with_collinear_splittings])
def test_energy_flow_is_infrared_and_collinear_safe_and_particle_flow_is_not(emit) -> None:
    batch = make_batch([30, 3, 60, 12], seed=9)
    moved = {}
    for config in (EnergyFlowNetworkConfig(), ParticleFlowNetworkConfig()):
        network = build(config).eval()
        with torch.no_grad():
            before, after = network(hand(batch, config)), network(hand(emit(batch), config))
        moved[config.name] = (after - before).abs().max()
    assert moved["energy_flow_network"] < 1e-4
    assert moved["particle_flow_network"] > 0.1


def test_energy_flow_takes_no_columns_of_constituents() -> None:
    with pytest.raises(ValueError, match=r"expected \[\], because this tagger reads four-momenta alone"):
        EnergyFlowNetworkConfig(inputs=("charge",))


@pytest.mark.parametrize("case", ["lola", "p_cnn", "constituent_dnn"])
def test_order_is_part_of_ordered_networks(case: str) -> None:
    config = CASES[case]
    assert config.is_ordered
    batch, network = make_batch([12, 40], seed=4), build(config).eval()
    as_it_is = dataclasses.replace(batch, x=batch.x[:, : len(config.inputs)], u=batch.u[:, : len(config.jet_inputs)])
    with torch.no_grad():
        assert ((network(as_it_is) - network(hand(batch, config))).abs() > 1e-4).any(1).all()


def test_lola_follows_its_formulas() -> None:
    torch.manual_seed(0)
    p4 = make_batch([4], seed=1).p4.double() / 10
    cola, lola = CombinationLayer(4, 2).double(), LorentzLayer(7, num_sums=2, num_minima=1).double()
    with torch.no_grad():
        vectors, features = cola(p4[None])[0], lola(cola(p4[None]))[0]
    expected = torch.cat([p4.sum(0, keepdim=True), p4, cola.weight.detach() @ p4])
    torch.testing.assert_close(vectors, expected)
    metric = torch.diag(torch.tensor([-1.0, -1, -1, 1], dtype=torch.float64))
    for j in range(7):
        squares = torch.stack([(vectors[j] - other) @ metric @ (vectors[j] - other) for other in vectors])
        torch.testing.assert_close(features[0, j], vectors[j] @ metric @ vectors[j], atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(features[1, j], vectors[j, :2].norm(), atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(features[2, j], lola.energy.detach()[j] @ vectors[:, 3])
        for copy in range(2):
            torch.testing.assert_close(features[3 + copy, j], lola.summed.detach()[copy, j] @ squares, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(features[5, j], (lola.smallest.detach()[0, j] * squares).min(), atol=1e-9, rtol=1e-9)


def test_p_cnn_is_a_chain_of_convolutions() -> None:
    """Rebuilt layer by layer from the functions of torch, on jets filled up with zeros."""
    config = PCnnConfig(inputs=COLUMNS, width=4, stages=((6, 6), (8,)), hidden=10, max_constituents=12)
    network, batch = build(config).eval(), hand(make_batch([7, 15, 1], seed=8), config)
    weights = list(network.state_dict().values())

    def norm(x):
        weight, bias, mean, variance, _ = (weights.pop(0) for _ in range(5))
        return nn.functional.batch_norm(x, mean, variance, weight, bias)

    def unit(x, stride, fits):
        y = nn.functional.conv1d(x, weights.pop(0), weights.pop(0), stride, padding=1)
        y = norm(y).relu()
        y = norm(nn.functional.conv1d(y, weights.pop(0), weights.pop(0), padding=1)).relu()
        return y + (x if fits else nn.functional.conv1d(x, weights.pop(0), None, stride))

    x = batch.to_padded(12)[0].transpose(1, 2)
    x = norm(nn.functional.conv1d(norm(x), weights.pop(0), weights.pop(0), padding=1)).relu()
    x = unit(unit(unit(x, 1, False), 1, True), 2, False)
    assert x.shape == (3, 8, 6)
    x = nn.functional.linear(x.mean(2), weights.pop(0), weights.pop(0)).relu()
    expected = nn.functional.linear(x, weights.pop(0), weights.pop(0))
    assert not weights
    torch.testing.assert_close(network(batch), expected)


def test_constituent_dnn_sees_the_published_preprocessing() -> None:
    pt = np.array([50.0, 30, 20, 5])
    p4 = to_cartesian(pt, np.array([1.0, 1.3, 0.8, 1.0]), np.array([3.1, -3.1, 3.0, 2.9]))
    inputs = preprocess(torch.from_numpy(np.concatenate([p4, np.zeros((2, 4))]))[None], torch.arange(6)[None] < 4)[0]
    eta, phi, log_pt, log_energy, log_pt_share, log_energy_share, distance = inputs.T
    assert inputs.shape == (6, 7)
    assert inputs[4:].abs().max() == 0
    distances = np.hypot([0, 0.3, -0.2, 0], [0, 2 * np.pi - 6.2, -0.1, -0.2])
    np.testing.assert_allclose(distance[:4], distances, atol=1e-12)
    np.testing.assert_allclose([eta[1], phi[1]], [0, -distances[1]], atol=1e-12)
    assert eta[2] > 0
    np.testing.assert_allclose(log_pt[:4], np.log(pt))
    np.testing.assert_allclose(log_energy[:4], np.log(p4[:, 3]))
    np.testing.assert_allclose(log_pt_share[:4], np.log(pt / pt.sum()))
    np.testing.assert_allclose(log_energy_share[:4], np.log(p4[:, 3] / p4[:, 3].sum()))


def test_groups_must_divide_the_bottleneck() -> None:
    with pytest.raises(ValueError, match=r"groups must divide bottleneck \(got groups=32, bottleneck=16\)"):
        JetImageResnetConfig(groups=32)


def test_a_stage_without_units_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one unit in each stage"):
        PCnnConfig(stages=((8,), ()))
