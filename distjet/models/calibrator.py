"""How does a network with one row of outputs per node become a calibrator of jets?

A wrapper on each side: features are standardised with the constants of the training split before the network, and its two
outputs per constituent become a bounded energy factor and a rapidity shift after it. The network sees numbers of order one, the
caller sees GeV. Sums of four-momenta stay in float32 under autocast.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.configs import CorrectionConfig
from distjet.nn.four_vectors import JetKinematics, sum_constituents
from distjet.nn.normalise import Standardise

NUM_OUTPUTS = 2


@dataclass(frozen=True)
class Calibrated:
    """Calibrated jets and the corrections that made them."""

    jets: JetKinematics
    "Sums of the corrected constituents, each tensor of shape (B,)."
    factor: Tensor
    "Energy factor of each constituent, shape (N,)."
    rapidity_shift: Tensor
    "Rapidity shift of each constituent, shape (N,)."


class ConstituentCalibrator(nn.Module):
    """Calibrates jets through their constituents."""

    def __init__(self, network: nn.Module, node: Standardise, graph: Standardise, config: CorrectionConfig) -> None:
        """Wrap a network.

        Args:
            network: Maps a standardised batch to (N, 2).
            node: Standardises node features.
            graph: Standardises graph features.
            config: Bounds of the corrections.
        """
        super().__init__()
        self.network, self.node, self.graph, self.config = network, node, graph, config
        self.offset = math.log(math.expm1(config.initial_factor - config.min_factor))
        self.is_compiled = False

    def compile_network(self) -> None:
        """Compile the network when it is first called. A compiler does not see through what a batch makes on demand."""
        self.network.compile(dynamic=True)
        self.is_compiled = True

    def clip_gradients(self, max_norm: float) -> Tensor:
        """Clip the norm of the gradient, and return it as it was before, shape ()."""
        return nn.utils.clip_grad_norm_(self.parameters(), max_norm)

    def forward(self, batch: GraphBatch) -> Calibrated:
        """Calibrate a batch of jets."""
        standardised = batch.with_inputs(self.node(batch.x), self.graph(batch.u), edge_unit=self.config.delta_r_scale)
        if self.is_compiled:
            standardised = standardised.expand()
        raw_factor, raw_shift = self.network(standardised).float().unbind(1)
        factor = self.config.min_factor + nn.functional.softplus(raw_factor + self.offset)
        shift = self.config.max_rapidity_shift * torch.tanh(raw_shift)
        with torch.autocast(batch.x.device.type, enabled=False):
            jets = sum_constituents(batch.p4, standardised.batch, batch.num_graphs, factor, shift)
        return Calibrated(jets, factor, shift)
