"""Where are the constituents of a jet, as seen from its axis, and what share of the pT do they carry?

The axis is at the pT-weighted mean of the rapidities and at the azimuth of the summed momentum. Neither soft constituents nor
collinear splittings move it, and float32 has no large sums to cancel, as the rapidity of a summed four-vector would need.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from distjet.nn.segments import segment_sum

TINY = 1e-12


@dataclass(frozen=True)
class JetFrame:
    """Constituents relative to their jet; each tensor of shape (N,).

    Attributes:
        share: pT over the sum of the pT of the jet.
        delta_y: Rapidity relative to the axis.
        delta_phi: Azimuth relative to the axis, in [-pi, pi].
    """

    share: Tensor
    delta_y: Tensor
    delta_phi: Tensor


def to_jet_frame(p4: Tensor, batch: Tensor, num_jets: int) -> JetFrame:
    """Find constituents relative to the axis of their jet.

    Args:
        p4: Constituents (px, py, pz, energy) in GeV, shape (N, 4).
        batch: Jet of each constituent, shape (N,).
        num_jets: Number of jets B.
    """
    px, py, pz, energy = p4.unbind(1)
    pt = torch.hypot(px, py)
    mass_squared = energy**2 - pz**2 - pt**2
    mass_squared = torch.where(mass_squared > 1e-6 * energy**2, mass_squared, 0.0)  # below is rounding of float32
    rapidity = torch.asinh(pz / torch.sqrt(pt**2 + mass_squared).clamp(min=TINY))
    sums = segment_sum(torch.stack([px, py, pt, pt * rapidity], dim=1), batch, num_jets)
    jet_x, jet_y, total, moment = sums.index_select(0, batch).unbind(1)
    total = total.clamp(min=TINY)
    return JetFrame(
        share=pt / total,
        delta_y=rapidity - moment / total,
        delta_phi=torch.atan2(py * jet_x - px * jet_y, px * jet_x + py * jet_y),
    )
