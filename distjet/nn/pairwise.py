"""What do two constituents of a jet have to do with each other? Four logarithms, the axes of the Lund plane among them.

For constituents a and b with transverse momenta pT, rapidities y and azimuths phi:

    Delta^2 = (y_a - y_b)^2 + (phi_a - phi_b)^2            kT = min(pT_a, pT_b) Delta
    z = min(pT_a, pT_b) / (pT_a + pT_b)                    m^2 = (E_a + E_b)^2 - |p_a + p_b|^2

The features are (ln kT, ln z, ln Delta, ln m^2) with momenta in GeV; kT, z, Delta and m^2 (GeV^2) are at least 1e-8, which is
what a constituent paired with itself has. What needs a logarithm or an arctangent of one constituent is computed once per
constituent, and only its results are gathered.

References:
    H. Qu, C. Li, S. Qian, "Particle Transformer for Jet Tagging", arXiv:2202.03772;
    F. Dreyer, H. Qu, "Jet tagging in the Lund plane with graph networks", arXiv:2012.08526.
"""

from typing import NamedTuple

import torch
from torch import Tensor

NUM_PAIRWISE = 4
FLOOR = 1e-8
"Least value of which a logarithm is taken."
LEAST_DIFFERENCE = 1e-20
"Of E - |pz| in GeV, so that a constituent along the beam has a large but finite rapidity."


class Ends(NamedTuple):
    """Constituents, one tensor per quantity, all of one shape."""

    px: Tensor
    py: Tensor
    pz: Tensor
    energy: Tensor
    pt: Tensor
    rapidity: Tensor
    phi: Tensor

    @classmethod
    def of(cls, p4: Tensor) -> "Ends":
        """Take four-momenta (px, py, pz, E) in GeV of shape (..., 4) apart."""
        px, py, pz, energy = p4.unbind(-1)
        pt = (px.square() + py.square()).sqrt()
        return cls(px, py, pz, energy, pt, rapidity(pz, energy), torch.atan2(py, px))

    def take(self, index: Tensor) -> "Ends":
        """Gather constituents from shape (N,) to the shape of the index; one beyond the last stands for none, and is zero."""
        flat = index.reshape(-1)
        return Ends(*(torch.nn.functional.pad(part, (0, 1)).index_select(0, flat).reshape(index.shape) for part in self))

    def insert(self, dim: int) -> "Ends":
        """Insert a dimension of length 1."""
        return Ends(*(part.unsqueeze(dim) for part in self))


def rapidity(pz: Tensor, energy: Tensor) -> Tensor:
    """Rapidity from momentum along the beam and energy in GeV; the same for both directions up to the sign."""
    size = pz.abs()
    return torch.sign(pz) * 0.5 * torch.log(1 + 2 * size / (energy - size).clamp(min=LEAST_DIFFERENCE))


def relative_angle(phi: Tensor, reference: Tensor) -> Tensor:
    """Difference of two azimuths, in [-pi, pi)."""
    return torch.remainder(phi - reference + torch.pi, 2 * torch.pi) - torch.pi


def pairwise_features(first: Ends, second: Ends) -> Tensor:
    """Features of pairs of constituents; exchanging the two changes nothing.

    Args:
        first: One constituent of each pair.
        second: The other; shapes are broadcast.

    Returns:
        (ln kT, ln z, ln Delta, ln m^2), shape (..., 4).
    """
    least = torch.minimum(first.pt, second.pt)
    turn = relative_angle(first.phi, second.phi)
    delta = ((first.rapidity - second.rapidity).square() + turn.square()).sqrt()
    share = least / (first.pt + second.pt).clamp(min=FLOOR)
    momentum = (first.px + second.px).square() + (first.py + second.py).square() + (first.pz + second.pz).square()
    mass_squared = (first.energy + second.energy).square() - momentum
    return torch.stack([least * delta, share, delta, mass_squared], dim=-1).clamp(min=FLOOR).log()


def edge_features(p4: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Features of the edges of ragged graphs.

    Args:
        p4: Constituents (px, py, pz, E) in GeV, shape (N, 4).
        source: One end of each edge, int64, shape (E,).
        target: The other end, shape (E,).

    Returns:
        Shape (E, 4).
    """
    ends = Ends.of(p4)
    return pairwise_features(ends.take(target), ends.take(source))


def neighbour_features(p4: Tensor, table: Tensor) -> Tensor:
    """Features of each constituent with each of its neighbours.

    Args:
        p4: Constituents (px, py, pz, E) in GeV, shape (N, 4).
        table: Neighbours of each constituent, N where there is none, int64, shape (N, k).

    Returns:
        Shape (N, k, 4); finite but meaningless where there is no neighbour.
    """
    ends = Ends.of(p4)
    return pairwise_features(ends.insert(1), ends.take(table))


def all_pairs_features(p4: Tensor) -> Tensor:
    """Features of all pairs of the constituents of each jet: (B, P, 4) in GeV to (B, P, P, 4)."""
    ends = Ends.of(p4)
    return pairwise_features(ends.insert(-1), ends.insert(-2))
