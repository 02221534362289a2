"""How does a network with one row of outputs per jet become a calibrator of jets?

It predicts the response r = E / E_true, and the jet's four-momentum is divided by it: energy, mass and pT change by one factor,
direction and rapidity stay. E is the reconstructed energy, without the pileup under the jet if the configuration says so. The
columns that the network reads are named in its configuration and standardised with the constants of the training split.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import JET_COLUMNS, GraphBatch
from distjet.models.configs import JetModelConfig
from distjet.models.jet_columns import JetColumns
from distjet.models.network import JetNetwork
from distjet.nn.four_vectors import JetKinematics, rapidity_of
from distjet.nn.normalise import Standardise
from distjet.nn.response_estimates import ResponseEstimate

MIN_HARD_SHARE = 0.01
"Of a jet's pT that the subtraction of pileup leaves: a jet that lies below the pileup level stays a jet of positive energy."


def pileup_columns(config: JetModelConfig) -> tuple[str, ...]:
    """Return the columns that the subtraction of pileup reads."""
    return () if config.pileup_subtraction == "none" else ("rho", "area")


@dataclass(frozen=True)
class CalibratedResponse:
    """Jets of which the response is known.

    What costs time is computed when it is asked for: a training step needs none of it.
    """

    estimate: ResponseEstimate
    jet: Tensor
    "Reconstructed jets as in `GraphBatch.jet`, shape (B, 5)."
    hard_share: Tensor
    "What the subtraction of pileup leaves of them, shape (B,)."
    min_response: float

    @property
    def raw_energy(self) -> Tensor:
        """Energy that is divided by the response, GeV, shape (B,)."""
        return self.jet[:, JET_COLUMNS.index("jet_energy")] * self.hard_share

    @cached_property
    def _predicted(self) -> Tensor:
        return self.estimate.response()

    @property
    def is_bounded(self) -> Tensor:
        """Whether the network gives a response below the bound, shape (B,)."""
        return self._predicted < self.min_response

    @property
    def response(self) -> Tensor:
        """Response by which energies are divided, shape (B,)."""
        return self._predicted.clamp(min=self.min_response)

    def jets(self) -> JetKinematics:
        """Return the calibrated jets."""
        pt, eta, phi, energy, mass = self.jet.unbind(1)
        factor = self.hard_share / self.response
        return JetKinematics(energy * factor, mass * factor, rapidity_of(pt, eta, mass), pt * factor, phi)


class ResponseCalibrator(nn.Module):
    """Calibrates whole jets."""

    def __init__(self, network: JetNetwork, standardise: Standardise, manifest: Manifest, config: JetModelConfig) -> None:
        """Wrap a network.

        Args:
            network: Says what is known of the response.
            standardise: Standardises the inputs.
            manifest: The dataset, which says where the columns are.
            config: Inputs, subtraction and bound of the response.

        Raises:
            ConfigError: If the dataset lacks a column.
        """
        super().__init__()
        self.network, self.standardise, self.config = network, standardise, config
        self.inputs = JetColumns(manifest, config.inputs, "model.inputs")
        self.pileup = JetColumns(manifest, pileup_columns(config), "model.pileup_subtraction")

    def compile_network(self) -> None:
        """Compile the network when it is first called."""
        self.network.compile(dynamic=True)

    def clip_gradients(self, max_norm: float) -> Tensor:
        """Clip the norm of the gradient, and return it as it was before, shape ()."""
        return nn.utils.clip_grad_norm_(self.parameters(), max_norm)

    def estimate(self, inputs: Tensor) -> ResponseEstimate:
        """Say what is known of the response, from the columns `inputs.names` as they are in the dataset, shape (B, F)."""
        outputs = self.network(self.standardise(inputs))
        with torch.autocast(inputs.device.type, enabled=False):
            return self.network.estimate(outputs.float())

    def forward(self, batch: GraphBatch) -> CalibratedResponse:
        """Calibrate a batch of jets."""
        estimate = self.estimate(self.inputs(batch))
        return CalibratedResponse(estimate, batch.jet, self._hard_share(batch), self.config.min_response)

    def _hard_share(self, batch: GraphBatch) -> Tensor:
        """What the pileup rho A leaves of each jet, shape (B,)."""
        if self.config.pileup_subtraction == "none":
            return torch.ones_like(batch.jet[:, 0])
        of = "jet_energy" if self.config.pileup_subtraction == "energy" else "jet_pt"
        pileup = self.pileup(batch).prod(1)
        return (1 - pileup / batch.jet[:, JET_COLUMNS.index(of)]).clamp(min=MIN_HARD_SHARE)
