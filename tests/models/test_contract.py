"""What every network on constituents promises, whoever wrote it: one suite over the table and networks by import path."""

import dataclasses

import pytest
import torch
from torch import nn

from distjet.config import implementation, import_path
from distjet.models.calibrator import ConstituentCalibrator
from distjet.models.configs import CALIBRATORS, MODELS, ConstituentGnnConfig, CorrectionConfig, JetModelConfig, PygNetworkConfig
from distjet.models.network import InputSpec
from distjet.models.pyg_network import PygNetwork
from distjet.nn.normalise import Standardise
from tests.batches import NUM_GRAPH, NUM_NODE, empty, make_batch, permute_nodes, single

GAT = PygNetworkConfig(
    network="torch_geometric.nn:GAT",
    arguments={"hidden_channels": 16, "num_layers": 2, "heads": 2, "v2": True},
    inputs=("x", "edge_index", "edge_attr"),
)
TRANSFORMER = PygNetworkConfig(network="tests.models.pyg_networks:TransformerStack", inputs=("data",))
CASES = {
    "constituent_gnn": ConstituentGnnConfig(width=16, num_blocks=2, num_heads=2, graph_width=8),
    "constituent_gnn_without_graph": ConstituentGnnConfig(width=16, num_blocks=0, num_heads=2, graph_width=8),
    "constituent_gnn_mean": ConstituentGnnConfig(aggregation="mean", width=16, num_blocks=2, graph_width=8),
    "constituent_gnn_sum": ConstituentGnnConfig(aggregation="sum", width=16, num_blocks=2, graph_width=8),
    "constituent_gnn_none": ConstituentGnnConfig(aggregation="none", width=16, num_blocks=2, graph_width=8),
    "pyg_gatv2": GAT,
    "pyg_transformer": TRANSFORMER,
}
SPEC = InputSpec(num_node=NUM_NODE, num_edge=1, num_graph=NUM_GRAPH, num_outputs=2)


def build(case: str) -> ConstituentCalibrator:
    torch.manual_seed(3)
    config = CASES[case]
    network = implementation(config.name, MODELS)(config, SPEC)
    node, graph = Standardise([0.1] * NUM_NODE, [1.2] * NUM_NODE), Standardise([0.2] * NUM_GRAPH, [0.8] * NUM_GRAPH)
    return ConstituentCalibrator(network, node, graph, CorrectionConfig())


@pytest.fixture(params=CASES)
def model(request: pytest.FixtureRequest) -> ConstituentCalibrator:
    return build(request.param)


def test_every_model_of_the_table_is_covered() -> None:
    on_jets = {name for name, component in CALIBRATORS.items() if issubclass(import_path(component.config), JetModelConfig)}
    assert {config.name for config in CASES.values()} == set(CALIBRATORS) - on_jets


def test_shapes_and_bounds(model: ConstituentCalibrator) -> None:
    batch = make_batch([3, 1, 12])
    out = model(batch)
    assert out.factor.shape == out.rapidity_shift.shape == (16,)
    assert out.jets.energy.shape == out.jets.mass.shape == out.jets.rapidity.shape == (3,)
    assert (out.factor > model.config.min_factor).all()
    assert (out.rapidity_shift.abs() <= model.config.max_rapidity_shift).all()
    for tensor in (out.jets.energy, out.jets.mass, out.jets.rapidity):
        assert torch.isfinite(tensor).all()


def test_gradient_reaches_every_parameter(model: ConstituentCalibrator) -> None:
    batch = make_batch([6, 9, 4], seed=1)
    out = model(batch)
    loss = ((out.jets.energy / batch.targets["true_energy"] - 1) ** 2 + out.jets.mass / 10 + out.jets.rapidity**2).sum()
    loss.backward()
    silent = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not silent


def test_order_of_constituents_does_not_matter(model: ConstituentCalibrator) -> None:
    batch = make_batch([5, 2, 11], seed=2)
    shuffled, old = permute_nodes(batch, seed=5)
    with torch.no_grad():
        before, after = model.eval()(batch), model(shuffled)
    torch.testing.assert_close(after.factor, before.factor[old], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(after.jets.energy, before.jets.energy, atol=0, rtol=1e-5)


def test_a_batch_equals_its_single_graphs(model: ConstituentCalibrator) -> None:
    batch = make_batch([4, 1, 7, 2], seed=3)
    with torch.no_grad():
        together = model.eval()(batch)
        alone = [model(single(batch, graph)) for graph in range(batch.num_graphs)]
    torch.testing.assert_close(together.factor, torch.cat([one.factor for one in alone]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together.jets.mass, torch.cat([one.jets.mass for one in alone]), atol=1e-4, rtol=1e-4)


def test_graphs_of_one_constituent_have_no_edges_and_work(model: ConstituentCalibrator) -> None:
    batch = make_batch([1, 1])
    assert batch.edge_index.shape == (2, 0)
    assert torch.isfinite(model(batch).factor).all()


def test_saved_weights_give_the_same_numbers(model: ConstituentCalibrator, tmp_path, request) -> None:
    batch = make_batch([5, 3], seed=6)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    fresh = build(request.node.callspec.params["model"])
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.normal_()
        fresh.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
        assert torch.equal(fresh.eval()(batch).factor, model.eval()(batch).factor)


def test_bfloat16_stays_close_to_float32(model: ConstituentCalibrator) -> None:
    batch = make_batch([8, 5, 12], seed=7)
    with torch.no_grad():
        exact = model.eval()(batch).jets.energy
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = model(batch).jets.energy
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.02, atol=0)


def test_input_scale_is_removed_by_the_wrapper() -> None:
    model = build("constituent_gnn").eval()
    batch = make_batch([4, 6])
    scaled = build("constituent_gnn").eval()
    scaled.node = Standardise([100 * 0.1] * NUM_NODE, [100 * 1.2] * NUM_NODE)
    with torch.no_grad():
        expected = model(batch).factor
        result = scaled(dataclasses.replace(batch, x=100 * batch.x)).factor
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def test_a_network_that_is_no_module_is_refused() -> None:
    from distjet.errors import ConfigError

    config = PygNetworkConfig(network="math:sqrt")
    with pytest.raises(ConfigError, match=r"not a torch\.nn\.Module"):
        implementation("pyg", MODELS)(config, SPEC)


def test_initial_factor_is_where_training_starts() -> None:
    class Zero(nn.Module):
        def forward(self, batch):
            return batch.x[:, :2] * 0

    unit = Standardise([0.0] * NUM_NODE, [1.0] * NUM_NODE)
    graph = Standardise([0.0] * NUM_GRAPH, [1.0] * NUM_GRAPH)
    model = ConstituentCalibrator(Zero(), unit, graph, CorrectionConfig(initial_factor=1.4))
    assert model(make_batch([3])).factor == pytest.approx([1.4] * 3)


def test_no_jets_are_calibrated_to_none(model: ConstituentCalibrator) -> None:
    if isinstance(model.network, PygNetwork):
        pytest.skip("what a network of torch_geometric does without a node is its own affair")
    out = model(empty(make_batch([3])))
    assert out.factor.shape == out.jets.energy.shape == (0,)


def test_what_the_graph_adds_is_seen_by_the_variants() -> None:
    batch = make_batch([7, 5], seed=8)
    moved = dataclasses.replace(batch, x=batch.x.clone())
    moved.x[0] += 1.0
    for case, hears_its_neighbours in [
        ("", True),
        ("_mean", True),
        ("_sum", True),
        ("_none", False),
        ("_without_graph", False),
    ]:
        model = build(f"constituent_gnn{case}").eval()
        with torch.no_grad():
            differs = model(batch).factor != model(moved).factor
        assert differs[0], case
        assert differs[1].item() == hears_its_neighbours, "the neighbour of the first"
        assert not differs[7:].any(), "the other jet"


def test_heads_must_divide_the_width_where_there_are_heads() -> None:
    with pytest.raises(ValueError, match="num_heads must divide width"):
        ConstituentGnnConfig(width=10, num_heads=4)
    assert ConstituentGnnConfig(width=10, num_heads=4, aggregation="mean").width == 10
