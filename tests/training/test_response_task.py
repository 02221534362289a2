"""The task on whole jets: target, loss and response computed by hand, and what does not fit is refused."""

import dataclasses

import numpy as np
import pytest
import torch

from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import JET_COLUMNS, GraphBatch
from distjet.dataset.streaming.stream import JetStream, StreamConfig
from distjet.errors import ConfigError, NonFiniteError
from distjet.evaluation.config import BinsConfig
from distjet.models.configs import JetModelConfig
from distjet.models.network import JetNetwork
from distjet.nn.response_estimates import Point
from distjet.ranks import SINGLE
from distjet.training.closure import ResponseHistogram
from distjet.training.response_task import ResponseTask
from distjet.training.settings import TrainConfig
from tests.batches import empty
from tests.dataset.files import PROJECT

CPU = torch.device("cpu")
DNN = "model={name: response_dnn, hidden: [8, 8]}"
MAE = "loss={energy: {name: mae}, rapidity: null}"


def config(manifest: Manifest, *overrides: str) -> TrainConfig:
    return load(TrainConfig, [], [f"dataset={manifest.path}", "output=/tmp/unused", "weighting=event", *overrides])


def task(manifest: Manifest, *overrides: str) -> ResponseTask:
    torch.manual_seed(1)
    return ResponseTask(config(manifest, *overrides), manifest, CPU)


def first_batch(manifest: Manifest, row_columns: tuple[str, ...] = ()):
    return next(iter(JetStream(manifest, "train", StreamConfig(batch_size=300, row_columns=row_columns))))


def column(manifest: Manifest, batch: GraphBatch, name: str) -> np.ndarray:
    """A column of the jet or of the graph in float64."""
    found = batch.jet[:, JET_COLUMNS.index(name)] if name in JET_COLUMNS else batch.u[:, manifest.names("graph").index(name)]
    return found.double().numpy()


@pytest.mark.parametrize("subtraction", ["none", "energy", "pt"])
def test_the_loss_is_the_absolute_difference_of_the_responses(toy_dataset: Manifest, subtraction: str) -> None:
    ours = task(toy_dataset, DNN, MAE, f"model.pileup_subtraction={subtraction}")
    batch = first_batch(toy_dataset)
    out = ours.build_model()(batch)
    energy, pt, rho, area = (column(toy_dataset, batch, name) for name in ("jet_energy", "jet_pt", "rho", "area"))
    hard = {"none": energy, "energy": energy - rho * area, "pt": energy * (pt - rho * area) / pt}[subtraction]
    hard = np.maximum(hard, 0.01 * energy)
    weight, true = batch.weight.double().numpy(), batch.targets["true_energy"].double().numpy()
    expected = np.abs(out.estimate.value.detach().numpy() - hard / true) * weight
    sums = ours.loss(out, batch)
    assert sums.total.item() == sums.terms.item() == pytest.approx(expected.sum(), rel=1e-4)
    assert sums.weight.item() == pytest.approx(weight.sum(), rel=1e-6)
    np.testing.assert_allclose(sums.graphs.numpy(), expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(out.jets().energy.detach(), hard / out.response.detach().numpy(), rtol=1e-5)


def test_subtraction_changes_what_is_calibrated(toy_dataset: Manifest) -> None:
    batch = first_batch(toy_dataset)
    shares = [
        task(toy_dataset, DNN, MAE, f"model.pileup_subtraction={name}").build_model()(batch).hard_share
        for name in ("none", "pt")
    ]
    assert (shares[0] == 1).all()
    assert (shares[1] < 1).any()


def test_mass_and_momentum_are_scaled_with_the_energy_and_the_direction_stays(toy_dataset: Manifest) -> None:
    batch = first_batch(toy_dataset)
    jets = task(toy_dataset, DNN, MAE).build_model()(batch).jets()
    raw = {name: batch.jet[:, i] for i, name in enumerate(JET_COLUMNS)}
    factor = jets.energy / raw["jet_energy"]
    torch.testing.assert_close(jets.mass, raw["jet_mass"] * factor)
    torch.testing.assert_close(jets.pt, raw["jet_pt"] * factor)
    torch.testing.assert_close(jets.phi, raw["jet_phi"])
    pz, energy = raw["jet_pt"].double() * torch.sinh(raw["jet_eta"].double()), raw["jet_energy"].double()
    massless = raw["jet_mass"] > 0.05 * raw["jet_pt"]  # where the float32 energy resolves the mass
    torch.testing.assert_close(jets.rapidity[massless].double(), torch.atanh(pz / energy)[massless], atol=2e-4, rtol=1e-3)


def test_a_ratio_compares_with_the_observed_response(toy_dataset: Manifest) -> None:
    ours = task(toy_dataset, DNN, "loss={energy: {name: mse, residual: ratio}, rapidity: null}")
    batch = first_batch(toy_dataset)
    out = ours.build_model()(batch)
    observed = batch.jet[:, 3] / batch.targets["true_energy"]
    expected = ((out.estimate.value / observed - 1) ** 2 * batch.weight).sum()
    torch.testing.assert_close(ours.loss(out, batch).total, expected)


def test_inputs_come_from_jets_graphs_and_spectators(toy_dataset: Manifest) -> None:
    names = ("jet_eta", "rho", "mu", "log_jet_energy")
    ours = task(toy_dataset, DNN, MAE, f"model.inputs={list(names)}")
    assert ours.row_columns == ("mu",)
    assert [column["name"] for column in ours.features["input"]] == list(names)
    batch = first_batch(toy_dataset, ours.row_columns)
    model = ours.build_model()
    columns = model.inputs(batch).numpy()
    expected = [batch.rows["mu"] if name == "mu" else column(toy_dataset, batch, name) for name in names]
    np.testing.assert_array_equal(columns.T, expected)
    everything = [model.inputs(b) for b in JetStream(toy_dataset, "train", StreamConfig(row_columns=("mu",)))]
    standardised = model.standardise(torch.cat(everything)).double()
    np.testing.assert_allclose(standardised.mean(0), 0, atol=0.02)
    np.testing.assert_allclose(standardised.std(0), 1, atol=0.02)


@pytest.mark.parametrize("name", ["response_dnn", "mixture_density", "gaussian_response", "quantile_regression"])
def test_the_shipped_mapping_has_the_inputs_of_the_shipped_networks(toy_dataset: Manifest, name: str) -> None:
    places = [f"dataset={toy_dataset.path}", "output=/tmp/unused"]
    shipped = load(TrainConfig, [PROJECT / f"conf/calibration/{name}.yaml"], places)
    ours, batch = ResponseTask(shipped, toy_dataset, CPU), first_batch(toy_dataset)
    assert ours.loss(ours.build_model()(batch), batch).total.isfinite()


def test_no_jets_are_no_problem(toy_dataset: Manifest) -> None:
    density = "model={name: mixture_density, hidden: [8]}"
    model = task(toy_dataset, density, "loss={energy: {name: mdn}, rapidity: null}").build_model()
    out = model(empty(first_batch(toy_dataset)))
    assert out.jets().energy.shape == out.is_bounded.shape == (0,)


def histogram() -> ResponseHistogram:
    bins = BinsConfig(energy_edges_gev=(20, 60, 400), abs_eta_edges=(0, 2.5), min_entries=30)
    return ResponseHistogram(bins, (20.0, 400.0), CPU)


def test_an_output_that_is_dead_is_named(toy_dataset: Manifest) -> None:
    ours = task(toy_dataset, DNN, MAE)
    model, batch = ours.build_model(), first_batch(toy_dataset)
    torch.nn.init.constant_(model.network.layers[-1].bias, -100.0)
    out, seen = model(batch), histogram()
    ours.loss(out, batch).total.backward()
    assert not any(p.grad.any() for p in model.parameters()), "that is what dead means"
    assert torch.isfinite(out.jets().energy).all()
    ours.fill(seen, out, batch)
    with pytest.raises(
        NonFiniteError, match=r"output of the network is dead: the response of each of 299 validation jets.*softplus"
    ):
        seen.closure(SINGLE)


def test_jets_at_the_bound_of_the_response_are_counted(toy_dataset: Manifest) -> None:
    ours = task(toy_dataset, DNN, MAE)
    batch, seen = first_batch(toy_dataset), histogram()
    out = ours.build_model()(batch)
    some_dead = torch.ones(batch.num_graphs).index_fill(0, torch.arange(30), 0.0)
    ours.fill(seen, dataclasses.replace(out, estimate=Point(some_dead)), batch)
    assert seen.closure(SINGLE)["bounded_fraction"] == pytest.approx(30 / batch.num_graphs)


MDN = "model={name: mixture_density}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([DNN], r"needs loss.energy, and has no use for \['loss.rapidity'\]; set those to null"),
        ([DNN, "loss={energy: null, mass: {name: mse}, rapidity: null}"], r"no use for \['loss.mass'\]"),
        (
            [DNN, "loss={energy: {name: mdn}, rapidity: null}"],
            r"needs a network that gives mixture; .* 'response_dnn' gives point",
        ),
        ([MDN, MAE], r"loss.energy.name='mae' needs a network that gives point; .*, for which the losses are \['mdn'\]"),
        (["loss.energy.name=gnll"], r"needs a network that gives gaussian; model 'constituent_gnn' gives point"),
        ([MDN, "loss={energy: {name: mdn, residual: ratio}, rapidity: null}"], r"'mdn' has none"),
    ],
    ids=["rapidity", "mass", "mdn", "mae", "gnll", "residual"],
)
def test_a_loss_that_does_not_fit_the_model_is_refused(toy_dataset: Manifest, overrides, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(toy_dataset, *overrides)


def test_a_column_that_the_dataset_lacks_is_refused(toy_dataset: Manifest) -> None:
    with pytest.raises(ConfigError, match=r"the model: unknown column 'rhoo', did you mean 'rho'"):
        task(toy_dataset, DNN, MAE, "model.inputs=[rhoo]")


class OnesOwnConfig(JetModelConfig):
    """A network of one's own, from outside of the package."""

    name: str = "tests.training.test_response_task:OnesOwn"


class OnesOwn(JetNetwork):
    """The smallest network on whole jets."""

    Config = OnesOwnConfig

    def __init__(self, settings: OnesOwnConfig, num_inputs: int) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(num_inputs, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.layer(inputs)

    def estimate(self, outputs: torch.Tensor) -> Point:
        return Point(outputs.squeeze(1).exp())


def test_a_network_of_ones_own_is_named_by_its_import_path(toy_dataset: Manifest) -> None:
    ours = task(toy_dataset, "model.name=tests.training.test_response_task:OnesOwn", MAE)
    batch = first_batch(toy_dataset)
    assert ours.loss(ours.build_model()(batch), batch).total > 0
