"""What does each kind of run say of a batch of jets?

One class per kind, all with the same two members, so that who evaluates or applies a run never asks what was trained. What
comes back are numpy arrays on the host.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from distjet.calibration.chain import Chain
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.calibrator import ConstituentCalibrator
from distjet.models.jet_columns import JetColumns
from distjet.models.response_calibrator import CalibratedResponse, ResponseCalibrator
from distjet.models.tagger import Tagger, TaggerEnsemble
from distjet.nn.four_vectors import JetKinematics
from distjet.training.weighting import Weighting

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictedJets:
    """Calibrated jets of a batch; energies in GeV, each array of shape (B,) unless stated otherwise."""

    energy: np.ndarray
    mass: np.ndarray
    rapidity: np.ndarray
    pt: np.ndarray
    phi: np.ndarray
    "Azimuth in radians."
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    "What else the method says of each jet, (B,) or (B, K): densities give pit, mode, sigma, quantiles."
    factor: np.ndarray | None = None
    "Energy factor of each constituent, shape (N,); None where a method corrects whole jets."
    rapidity_shift: np.ndarray | None = None
    "Rapidity shift of each constituent, shape (N,); None where a method corrects whole jets."


class Predictor(Protocol):
    """A trained calibration, ready for jets."""

    row_columns: tuple[str, ...]
    "Columns that it reads from `batch.rows`: a stream must be asked for them."

    def predict(self, batch: GraphBatch) -> PredictedJets:
        """Calibrate a batch of jets that is on the host."""
        ...


@dataclass(frozen=True)
class PredictedScores:
    """Tagged jets of a batch."""

    scores: np.ndarray
    "Probability of each class, float32, shape (B, C)."
    spread: np.ndarray | None
    "Standard deviation over the members of an ensemble, float32, shape (B, C); None without."


class TaggerPredictor:
    """A trained tagger, or an ensemble of them, ready for jets."""

    def __init__(self, model: Tagger | TaggerEnsemble, classes: Sequence[str]) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.classes = model.to(self.device), tuple(classes)
        self.row_columns = model.row_columns

    def tag(self, batch: GraphBatch) -> PredictedScores:
        """Tag the jets of a batch of a dataset that is on the host."""
        with torch.inference_mode():
            tagged = self.model(self.model.on_host(batch).to(self.device))
            spread = tagged.spread
            return PredictedScores(as_array(tagged.scores), None if spread is None else as_array(spread))


class ConstituentPredictor:
    """A network that corrects constituents."""

    row_columns: tuple[str, ...] = ()

    def __init__(self, model: ConstituentCalibrator) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device)

    def predict(self, batch: GraphBatch) -> PredictedJets:
        """Calibrate a batch of jets that is on the host."""
        with torch.inference_mode():
            calibrated = self.model(batch.to(self.device))
        factor, rapidity_shift = as_array(calibrated.factor), as_array(calibrated.rapidity_shift)
        return replace(predicted_jets(calibrated.jets), factor=factor, rapidity_shift=rapidity_shift)


class ResponsePredictor:
    """A network that predicts the response of whole jets.

    A density that was learned with weights is true under these weights: where jets have a PIT, it comes with the weight that
    the jet would have in a training on its dataset.
    """

    def __init__(self, model: ResponseCalibrator, run: Path, weighting: Weighting | None) -> None:
        """Prepare a model.

        Args:
            model: With its weights.
            run: Where it is from, for messages.
            weighting: Of the training, made flat for the dataset at hand; None if that has no training jets.
        """
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.run, self.weighting = model.to(self.device), run, weighting
        self.row_columns = tuple(dict.fromkeys((*model.inputs.row_columns, *model.pileup.row_columns)))

    def predict(self, batch: GraphBatch) -> PredictedJets:
        """Calibrate a batch of jets that is on the host; jets whose response is unusably small are warned of."""
        with torch.inference_mode():
            calibrated = self.model(batch.to(self.device))
            told = {name: as_array(values) for name, values in self._describe(calibrated, batch).items()}
            if num_bounded := int(calibrated.is_bounded.sum()):
                bound = self.model.config.min_response
                logger.warning(
                    "%s gives %d of %d jets a response below model.min_response = %g, by which they are divided instead",
                    *(self.run, num_bounded, batch.num_graphs, bound),
                )
        return replace(predicted_jets(calibrated.jets()), extra=told)

    def _describe(self, calibrated: CalibratedResponse, batch: GraphBatch) -> dict[str, Tensor]:
        if "true_energy" not in batch.targets:
            return calibrated.estimate.describe(None)
        told = calibrated.estimate.describe(calibrated.raw_energy / batch.targets["true_energy"].to(self.device))
        return told | {"pit_weight": self.weighting(batch)} if "pit" in told and self.weighting is not None else told


class ChainPredictor:
    """A classical chain, or its steps up to one."""

    def __init__(self, chain: Chain, manifest: Manifest, upto: str | None) -> None:
        """Look up the columns that the chain reads.

        Raises:
            ConfigError: If the dataset lacks one.
        """
        self.chain, self.upto = chain, upto
        self.columns = JetColumns(manifest, chain.needed_columns, "the chain")
        self.row_columns = self.columns.row_columns

    def predict(self, batch: GraphBatch) -> PredictedJets:
        """Calibrate a batch of jets that is on the host."""
        columns = zip(self.columns.names, self.columns(batch).numpy().T, strict=True)
        jets = self.chain.apply(dict(columns), self.upto)
        values = {name: getattr(jets, name).astype(np.float32) for name in ("energy", "mass", "rapidity", "pt", "phi")}
        return PredictedJets(**values)


def as_array(values: Tensor) -> np.ndarray:
    """Copy to the host, in float32."""
    return values.float().cpu().numpy()


def predicted_jets(jets: JetKinematics) -> PredictedJets:
    """Copy jets to the host."""
    return PredictedJets(
        energy=as_array(jets.energy),
        mass=as_array(jets.mass),
        rapidity=as_array(jets.rapidity),
        pt=as_array(jets.pt),
        phi=as_array(jets.phi),
    )
