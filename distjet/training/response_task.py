"""How does a network learn the response of whole jets?

The target is r = E / E_true, with E as the network divides it: with or without the pileup under the jet. A network that gives a
number is compared with r (a loss of residuals, by default of R - r), one that gives a density or quantiles is scored on r.

r is a function of what was reconstructed, so what is learned depends on the training spectrum: a spectrum that is flat in
ln(E_true) keeps that dependence small (arXiv:2205.05084 discusses it).
"""

import torch
from torch import Tensor

from distjet.config import implementation
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.configs import MODELS
from distjet.models.jet_columns import JetColumns
from distjet.models.network import JetNetwork
from distjet.models.response_calibrator import CalibratedResponse, ResponseCalibrator, pileup_columns
from distjet.nn.response_estimates import Point
from distjet.ranks import SINGLE, RankInfo
from distjet.training.closure import ResponseHistogram, ResponseWatch
from distjet.training.columns import (
    Constants,
    Features,
    check_fourier,
    check_targets,
    constants,
    describe_columns,
    energy_range,
    standardise,
)
from distjet.training.settings import TrainConfig
from distjet.training.terms import LossSums, Term, add_up
from distjet.training.weighting import Weighting


class ResponseTask:
    """A network predicts the response of each jet, or its distribution."""

    def __init__(self, config: TrainConfig, manifest: Manifest, device: torch.device, ranks: RankInfo = SINGLE) -> None:
        """Prepare loss and weights; the processes of the run need not talk.

        Raises:
            ConfigError: If the dataset lacks the true jets.
        """
        check_targets(manifest)
        self.config, self.manifest, self.device = config, manifest, device
        self.terms = [Term.build(name, term, residual="difference") for name, term in config.loss.terms().items()]
        self.row_columns = JetColumns(manifest, (*config.model.inputs, *pileup_columns(config.model)), "the model").row_columns
        self.features = self.features_of(config, manifest)
        check_fourier(config, self.features)
        self.energy_range_gev = energy_range(manifest)
        self.weighting = Weighting(config.weighting, manifest, device)

    @staticmethod
    def features_of(config: TrainConfig, manifest: Manifest) -> Features:
        """Describe the columns that the model reads: those that its configuration names."""
        return {
            "input": describe_columns(manifest, config.model.inputs),
            "pileup": describe_columns(manifest, pileup_columns(config.model)),
        }

    @staticmethod
    def untrained(config: TrainConfig, manifest: Manifest, scales: Constants) -> ResponseCalibrator:
        """Build an untrained calibrator for inputs with these constants."""
        inputs = standardise(config, config.model.inputs, scales["input"])
        network: JetNetwork = implementation(config.model.name, MODELS)(config.model, inputs.num_outputs)
        return ResponseCalibrator(network, inputs, manifest, config.model)

    def build_model(self) -> ResponseCalibrator:
        """Build the network and wrap it; standardisation constants come from the manifest."""
        return self.untrained(self.config, self.manifest, constants(self.manifest, self.features)).to(self.device)

    def loss(self, calibrated: CalibratedResponse, batch: GraphBatch, progress: float = 0.0) -> LossSums:
        """Sum the loss over a batch; progress is the part of the epochs that is done."""
        weight = self.weighting(batch)
        observed = calibrated.raw_energy / batch.targets["true_energy"]
        return add_up(self.terms, [self._compare(term, progress, calibrated, observed) * weight for term in self.terms], weight)

    def _compare(self, term: Term, progress: float, calibrated: CalibratedResponse, observed: Tensor) -> Tensor:
        loss, estimate = term.at(progress), calibrated.estimate
        if not isinstance(estimate, Point):
            return loss(estimate, observed)
        return loss(estimate.value / observed - 1 if term.is_ratio else estimate.value - observed)

    def on_host(self, model: ResponseCalibrator, split: str) -> None:
        """Batches are read as they are in the dataset."""

    def begin_epoch(self, model: ResponseCalibrator, progress: float) -> None:
        """The model is the same in all epochs."""

    def watch(self) -> "ResponseWatch":
        """Begin to watch the closure on a validation."""
        return ResponseWatch(ResponseHistogram(self.config.closure, self.energy_range_gev, self.device), self.fill)

    def fill(self, histogram: ResponseHistogram, calibrated: CalibratedResponse, batch: GraphBatch) -> None:
        """Fill the energy response of a batch into a histogram, and count jets at the bound of the network's response."""
        energy = calibrated.raw_energy / calibrated.response
        histogram.fill(energy / batch.targets["true_energy"], batch.targets)
        histogram.count_bounded(calibrated.is_bounded)
