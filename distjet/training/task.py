"""What is learned: the calibrator, its loss, and the columns that both need.

The loop knows a task only by `build_model`, `loss` and `observe`; a tagger is another class with these three.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distjet.config import implementation
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import GraphBatch
from distjet.errors import ConfigError
from distjet.models.calibrator import NUM_OUTPUTS, Calibrated, ConstituentCalibrator
from distjet.models.configs import MODELS
from distjet.models.network import InputSpec
from distjet.nn.four_vectors import rapidity_of
from distjet.nn.losses.configs import LOSSES
from distjet.nn.losses.residual import ResidualLoss
from distjet.nn.normalise import Standardise
from distjet.training.closure import ResponseHistogram
from distjet.training.settings import TrainConfig
from distjet.training.weighting import Weighting

FEATURE_ROLES = ("node", "graph")
TARGETS = ("true_pt", "true_eta", "true_energy", "true_mass")


@dataclass(frozen=True)
class LossSums:
    """Sums over the graphs of a batch; the caller divides by the global sum of weights."""

    total: Tensor
    "Weighted sum of the loss, with gradient, shape ()."
    terms: Tensor
    "Weighted sum of each term before its factor, detached, shape (T,)."
    weight: Tensor
    "Sum of weights, shape ()."
    graphs: Tensor
    "What each graph adds to the loss, detached, shape (B,)."


@dataclass(frozen=True)
class _Term:
    observable: str
    is_ratio: bool
    weight: float
    function: ResidualLoss


class CalibrationTask:
    """Calibration of jets through their constituents, from graph-level truth."""

    def __init__(self, config: TrainConfig, manifest: Manifest, device: torch.device) -> None:
        """Prepare loss and weights.

        Raises:
            ConfigError: If the dataset lacks constituents or the true jets.
        """
        self.config, self.manifest, self.device = config, manifest, device
        missing = [name for name in TARGETS if name not in manifest.names("target")]
        if missing:
            raise ConfigError(f"{manifest.path} has no column {missing}; the recipe must name the true jet under `targets`")
        if not manifest.names("p4"):
            raise ConfigError(f"{manifest.path} has no constituents, which a constituent calibrator corrects")
        self.terms = [
            _Term(
                observable,
                (term.residual or ("difference" if observable == "rapidity" else "ratio")) == "ratio",
                term.weight,
                implementation(term.name, LOSSES)(term),
            )
            for observable, term in config.loss.terms().items()
        ]
        energies = manifest.statistics("true_energy")
        self.energy_range_gev = (float(energies["min"]), float(energies["max"]))
        self.weighting = Weighting(config.weighting, manifest, device)

    def build_model(self) -> ConstituentCalibrator:
        """Build the network and wrap it; standardisation constants come from the manifest."""
        return build_calibrator(self.config, standardisation(self.manifest)).to(self.device)

    def loss(self, calibrated: Calibrated, batch: GraphBatch) -> LossSums:
        """Sum the loss over a batch."""
        weight = self.weighting(batch)
        graphs = []
        for term in self.terms:
            residual, valid = self._residual(term, calibrated, batch)
            graphs.append(term.function(residual) * weight * valid)
        sums = [values.sum() for values in graphs]
        total = torch.stack([term.weight * value for term, value in zip(self.terms, sums, strict=True)]).sum()
        return LossSums(total, torch.stack(sums).detach(), weight.sum(), torch.stack(graphs).detach().sum(0))

    def observe(self, histogram: ResponseHistogram, calibrated: Calibrated, batch: GraphBatch) -> None:
        """Fill the energy response of a batch into a histogram."""
        histogram.fill(calibrated.jets.energy / batch.targets["true_energy"], batch.targets)

    def _residual(self, term: _Term, calibrated: Calibrated, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        predicted = getattr(calibrated.jets, term.observable)
        true = true_observable(term.observable, batch.targets)
        valid = torch.ones_like(true)
        if term.observable == "mass":
            above = true > self.config.loss.min_true_mass_gev
            valid, true = above.to(true.dtype), torch.where(above, true, 1.0)
            predicted = torch.where(above, predicted, true)
        return (predicted / true - 1 if term.is_ratio else predicted - true), valid


def true_observable(name: str, targets: dict[str, Tensor]) -> Tensor:
    """True energy (GeV), mass (GeV) or rapidity of each jet, shape (B,)."""
    if name == "rapidity":
        return rapidity_of(targets["true_pt"], targets["true_eta"], targets["true_mass"])
    return targets[f"true_{name}"]


Constants = dict[str, list[tuple[float, float]]]
"Mean and deviation of each node feature and each graph feature, by role."


def build_calibrator(config: TrainConfig, constants: Constants) -> ConstituentCalibrator:
    """Build an untrained calibrator for features with these constants."""
    node, graph = (Standardise([m for m, _ in constants[role]], [s for _, s in constants[role]]) for role in FEATURE_ROLES)
    spec = InputSpec(len(constants["node"]), num_edge=1, num_graph=len(constants["graph"]), num_outputs=NUM_OUTPUTS)
    network: nn.Module = implementation(config.model.name, MODELS)(config.model, spec)
    return ConstituentCalibrator(network, node, graph, config.correction)


def standardisation(manifest: Manifest) -> Constants:
    """Read the constants of the training split."""
    columns = {role: [manifest.statistics(name) for name in manifest.names(role)] for role in FEATURE_ROLES}
    return {role: [(found["mean"], found["std"]) for found in statistics] for role, statistics in columns.items()}


def feature_columns(manifest: Manifest) -> dict[str, list[dict[str, str]]]:
    """Describe the features of a dataset, by role: a model is good for these and no others."""
    return {
        role: [{"name": c.name, "unit": c.unit, "formula": c.formula} for c in manifest.columns if c.role == role]
        for role in FEATURE_ROLES
    }
