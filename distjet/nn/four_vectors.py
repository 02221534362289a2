"""How do corrections of constituents change the jet?

Sums are taken in the frame boosted along the beam to the jet's axis and rotated to its azimuth. The mass is the same there, but
it is no longer the small difference of large squares that float32 cannot resolve for a forward jet.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from distjet.nn.segments import segment_sum

TINY = 1e-6


@dataclass(frozen=True)
class JetKinematics:
    """Jets as sums of constituents; energies in GeV, each tensor of shape (B,)."""

    energy: Tensor
    mass: Tensor
    rapidity: Tensor
    pt: Tensor
    phi: Tensor


def sum_constituents(p4: Tensor, batch: Tensor, num_jets: int, factor: Tensor, shift: Tensor) -> JetKinematics:
    """Scale the energy and shift the rapidity of each constituent, and add them up per jet.

    A corrected constituent has energy `factor * E` exactly, rapidity `y + shift`, the same azimuth, and the same
    ratio of mass to transverse mass.

    Args:
        p4: Constituents (px, py, pz, energy) in GeV, shape (N, 4).
        batch: Jet of each constituent, shape (N,).
        num_jets: Number of jets B; each needs at least one constituent.
        factor: Energy factor of each constituent, shape (N,).
        shift: Rapidity shift of each constituent, shape (N,).

    Returns:
        The corrected jets.
    """
    px, py, pz, energy = p4.float().unbind(1)
    pt = torch.hypot(px, py).clamp(min=TINY)
    transverse_mass = _transverse_mass(pt, pz, energy)
    rapidity = torch.asinh(pz / transverse_mass)
    axis = _axes(px, py, rapidity * energy, energy, batch, num_jets)
    new_rapidity = rapidity + shift.float()
    new_energy = factor.float() * energy
    new_transverse_mass = new_energy / torch.cosh(new_rapidity)
    new_pt = new_transverse_mass * (pt / transverse_mass)
    relative_y = new_rapidity - axis.rapidity[batch]
    relative_phi = torch.atan2(py, px) - axis.phi[batch]
    parts = [
        new_transverse_mass * torch.cosh(relative_y),
        new_transverse_mass * torch.sinh(relative_y),
        new_pt * torch.cos(relative_phi),
        new_pt * torch.sin(relative_phi),
        new_energy,
    ]
    e, p_long, p_out, p_side, lab_energy = segment_sum(torch.stack(parts, dim=1), batch, num_jets).unbind(1)
    mass = torch.sqrt((e**2 - p_long**2 - p_out**2 - p_side**2).clamp(min=TINY**2))
    return JetKinematics(
        energy=lab_energy,
        mass=mass,
        rapidity=axis.rapidity + torch.atanh((p_long / e).clamp(-1 + TINY, 1 - TINY)),
        pt=torch.hypot(p_out, p_side),
        phi=torch.remainder(axis.phi + torch.atan2(p_side, p_out) + torch.pi, 2 * torch.pi) - torch.pi,
    )


def _transverse_mass(pt: Tensor, pz: Tensor, energy: Tensor) -> Tensor:
    """Transverse mass; a mass below what float32 resolves from E and p is zero, not rounding noise."""
    mass_squared = energy**2 - pz**2 - pt**2
    return torch.sqrt(pt**2 + torch.where(mass_squared > 1e-6 * energy**2, mass_squared, 0.0))


@dataclass(frozen=True)
class _Axes:
    rapidity: Tensor
    phi: Tensor


def _axes(px: Tensor, py: Tensor, rapidity_energy: Tensor, energy: Tensor, batch: Tensor, num_jets: int) -> _Axes:
    """Rough jet axes: any frame near the jet serves, so energy-weighted means do."""
    sums = segment_sum(torch.stack([px, py, rapidity_energy, energy], dim=1), batch, num_jets)
    return _Axes(sums[:, 2] / sums[:, 3].clamp(min=TINY), torch.atan2(sums[:, 1], sums[:, 0]))


def rapidity_of(pt: Tensor, eta: Tensor, mass: Tensor) -> Tensor:
    """Rapidity from transverse momentum, pseudorapidity and mass, without cancellation; shapes (B,)."""
    return torch.asinh(pt * torch.sinh(eta) / torch.sqrt(pt**2 + mass**2).clamp(min=TINY))
