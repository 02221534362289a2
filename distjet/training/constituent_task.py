"""How are jets calibrated through their constituents, from the truth of the jet alone?

The corrected constituents add up to a jet, and every term of the loss compares one quantity of that jet with the true one:
nobody needs the truth of a constituent.
"""

import torch
from torch import Tensor, nn

from distjet.config import implementation
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import GraphBatch
from distjet.errors import ConfigError
from distjet.models.calibrator import NUM_OUTPUTS, Calibrated, ConstituentCalibrator
from distjet.models.configs import MODELS
from distjet.models.network import InputSpec
from distjet.ranks import SINGLE, RankInfo
from distjet.training.closure import ResponseHistogram, ResponseWatch
from distjet.training.closure_penalty import ClosurePenalty
from distjet.training.columns import (
    Constants,
    Features,
    check_fourier,
    check_targets,
    constants,
    describe_columns,
    energy_range,
    standardise,
    true_observable,
)
from distjet.training.settings import TrainConfig
from distjet.training.terms import LossSums, Term, add_up
from distjet.training.weighting import Weighting

FEATURE_ROLES = ("node", "graph")


class ConstituentTask:
    """A network gives each constituent an energy factor and a rapidity shift."""

    row_columns: tuple[str, ...] = ()

    def __init__(self, config: TrainConfig, manifest: Manifest, device: torch.device, ranks: RankInfo = SINGLE) -> None:
        """Prepare loss and weights.

        Raises:
            ConfigError: If the dataset lacks constituents or the true jets.
        """
        check_targets(manifest)
        if not manifest.names("p4"):
            raise ConfigError(f"{manifest.path} has no constituents, which a constituent calibrator corrects")
        self.config, self.manifest, self.device = config, manifest, device
        self.terms = [
            Term.build(observable, term, residual="difference" if observable == "rapidity" else "ratio")
            for observable, term in config.loss.terms().items()
        ]
        self.features = self.features_of(config, manifest)
        check_fourier(config, self.features)
        self.energy_range_gev = energy_range(manifest)
        self.penalty = None
        if (penalty := config.loss.closure) is not None:
            self.penalty = ClosurePenalty(penalty.half_width, config.closure, self.energy_range_gev, device, ranks)
            self.terms.append(Term("closure", True, penalty.weight, self.penalty))
        self.weighting = Weighting(config.weighting, manifest, device)

    @staticmethod
    def features_of(config: TrainConfig, manifest: Manifest) -> Features:
        """Describe the columns that the model reads: all node and graph features of a dataset."""
        return {role: describe_columns(manifest, manifest.names(role)) for role in FEATURE_ROLES}

    @staticmethod
    def untrained(config: TrainConfig, manifest: Manifest, scales: Constants) -> ConstituentCalibrator:
        """Build an untrained calibrator for features with these constants."""
        node, graph = (standardise(config, manifest.names(role), scales[role]) for role in FEATURE_ROLES)
        spec = InputSpec(node.num_outputs, num_edge=1, num_graph=graph.num_outputs, num_outputs=NUM_OUTPUTS)
        network: nn.Module = implementation(config.model.name, MODELS)(config.model, spec)
        return ConstituentCalibrator(network, node, graph, config.correction)

    def build_model(self) -> ConstituentCalibrator:
        """Build the network and wrap it; standardisation constants come from the manifest."""
        return self.untrained(self.config, self.manifest, constants(self.manifest, self.features)).to(self.device)

    def loss(self, calibrated: Calibrated, batch: GraphBatch, progress: float = 0.0) -> LossSums:
        """Sum the loss over a batch; progress is the part of the epochs that is done.

        The closure penalty is zero without gradients: processes validate different numbers of batches.
        """
        weight = self.weighting(batch)
        graphs = []
        for term in self.terms:
            if term.function is self.penalty:
                residual = calibrated.jets.energy / batch.targets["true_energy"] - 1
                is_learning = torch.is_grad_enabled()
                graphs.append(self.penalty(residual, weight, batch.targets) if is_learning else torch.zeros_like(weight))
                continue
            residual, valid = self._residual(term, calibrated, batch)
            graphs.append(term.at(progress)(residual) * weight * valid)
        return add_up(self.terms, graphs, weight)

    def on_host(self, model: ConstituentCalibrator, split: str) -> None:
        """Batches are read as they are in the dataset."""

    def begin_epoch(self, model: ConstituentCalibrator, progress: float) -> None:
        """The model is the same in all epochs."""

    def watch(self) -> "ResponseWatch":
        """Begin to watch the closure on a validation."""
        return ResponseWatch(ResponseHistogram(self.config.closure, self.energy_range_gev, self.device), self.fill)

    def fill(self, histogram: ResponseHistogram, calibrated: Calibrated, batch: GraphBatch) -> None:
        """Fill the energy response of a batch into a histogram."""
        histogram.fill(calibrated.jets.energy / batch.targets["true_energy"], batch.targets)

    def _residual(self, term: Term, calibrated: Calibrated, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        predicted = getattr(calibrated.jets, term.observable)
        true = true_observable(term.observable, batch.targets)
        valid = torch.ones_like(true)
        if term.observable == "mass":
            above = true > self.config.loss.min_true_mass_gev
            valid, true = above.to(true.dtype), torch.where(above, true, 1.0)
            predicted = torch.where(above, predicted, true)
        return (predicted / true - 1 if term.is_ratio else predicted - true), valid
