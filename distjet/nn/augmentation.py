"""Jets that are changed a little at random while a tagger learns, so that it does not rely on what a detector blurs.

Constituents are left out; the four-momenta of a jet are scaled together, and those of its constituents each on their own; and
constituents are turned in rapidity and azimuth, with their energy and transverse momentum kept. It happens on the host, to
batches as they are read: what is left out is not there any more, and inputs made of four-momenta are made again.

Reference:
    H. Qu, ParticleNeXt, talk at ML4Jets 2021 (CERN indico 980214, contribution 4413544); options of weaver-core.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from distjet.nn.pairwise import FLOOR, rapidity, relative_angle
from distjet.nn.segments import segment_sum


class Strengths(Protocol):
    """How much is changed; see `AugmentationConfig` for what each number means."""

    @property
    def input_dropout(self) -> float: ...  # noqa: D102
    @property
    def pt_dropout_gev(self) -> float: ...  # noqa: D102
    @property
    def scale(self) -> float: ...  # noqa: D102
    @property
    def smear(self) -> float: ...  # noqa: D102
    @property
    def shift(self) -> float: ...  # noqa: D102


class Augmented(NamedTuple):
    """Jets after the change."""

    places: Tensor
    "Constituents that are still there, int64, shape (M,)."
    p4: Tensor
    "Their four-momenta (px, py, pz, E) in GeV, shape (M, 4)."
    ptr: Tensor
    "First of them of each jet and, last, M, shape (B + 1,)."


def augment(p4: Tensor, ptr: Tensor, strengths: Strengths, generator: torch.Generator) -> Augmented:
    """Change the jets of a batch on the host.

    Args:
        p4: Constituents (px, py, pz, E) in GeV, shape (N, 4).
        ptr: First constituent of each jet and, last, N, int64, shape (B + 1,).
        strengths: How much.
        generator: Of random numbers; batches that start from the same state are changed alike.

    Returns:
        Every jet with at least its hardest constituent.
    """
    jets = torch.repeat_interleave(torch.arange(len(ptr) - 1), ptr.diff(), output_size=len(p4))
    places = torch.nonzero(_is_kept(p4, ptr, jets, strengths, generator)).flatten()
    jets_of_kept = jets[places]
    changed = _scaled(p4[places], jets_of_kept, len(ptr) - 1, strengths, generator)
    if strengths.shift:
        changed = _turned(changed, strengths.shift * torch.randn(len(places), 2, generator=generator, dtype=p4.dtype))
    new_ptr = torch.nn.functional.pad(torch.bincount(jets_of_kept, minlength=len(ptr) - 1).cumsum(0), (1, 0))
    return Augmented(places, changed, new_ptr)


def kinematic_inputs(p4: Tensor, ptr: Tensor) -> dict[str, Tensor]:
    """Inputs of constituents that are made of four-momenta alone, relative to the sum of the constituents of the jet.

    Args:
        p4: Constituents (px, py, pz, E) in GeV, shape (N, 4).
        ptr: First constituent of each jet and, last, N, shape (B + 1,).

    Returns:
        The seven columns of arXiv:1902.08570 by their names in a dataset, each of shape (N,); energies in GeV in logarithms.
    """
    jets = torch.repeat_interleave(torch.arange(len(ptr) - 1), ptr.diff(), output_size=len(p4))
    jet = segment_sum(p4, jets, len(ptr) - 1)[jets]
    pt, jet_pt = (torch.hypot(of[:, 0], of[:, 1]).clamp(min=FLOOR) for of in (p4, jet))
    energy, jet_energy = p4[:, 3].clamp(min=FLOOR), jet[:, 3].clamp(min=FLOOR)
    delta_eta = torch.asinh(p4[:, 2] / pt) - torch.asinh(jet[:, 2] / jet_pt)
    delta_phi = relative_angle(torch.atan2(p4[:, 1], p4[:, 0]), torch.atan2(jet[:, 1], jet[:, 0]))
    return {
        "delta_eta": delta_eta,
        "delta_phi": delta_phi,
        "log_pt": pt.log(),
        "log_energy": energy.log(),
        "log_pt_fraction": (pt / jet_pt).log(),
        "log_energy_fraction": (energy / jet_energy).log(),
        "delta_r": torch.hypot(delta_eta, delta_phi),
    }


def _is_kept(p4: Tensor, ptr: Tensor, jets: Tensor, strengths: Strengths, generator: torch.Generator) -> Tensor:
    """Which constituents stay, shape (N,)."""
    pt, num_jets = torch.hypot(p4[:, 0], p4[:, 1]), len(ptr) - 1
    kept = torch.rand(len(p4), generator=generator) >= strengths.input_dropout
    if strengths.pt_dropout_gev:
        threshold = strengths.pt_dropout_gev * torch.randn(num_jets, generator=generator, dtype=p4.dtype)
        kept &= pt > threshold[jets]
    # the order by pT, kept in the order by jet: the first of each jet is its hardest
    order = torch.argsort(pt, descending=True, stable=True)
    order = order[torch.argsort(jets[order], stable=True)]
    kept[order[ptr[:-1][ptr.diff() > 0]]] = True
    return kept


def _scaled(p4: Tensor, jets: Tensor, num_jets: int, strengths: Strengths, generator: torch.Generator) -> Tensor:
    """Multiply four-momenta with a factor of the jet and one of the constituent."""
    of_jet = 1 + strengths.scale * torch.randn(num_jets, generator=generator, dtype=p4.dtype)
    of_constituent = 1 + strengths.smear * torch.randn(len(p4), generator=generator, dtype=p4.dtype)
    # a factor far out in the tail would turn a momentum around
    return p4 * (of_jet[jets] * of_constituent).clamp(min=FLOOR).unsqueeze(1)


def _turned(p4: Tensor, shifts: Tensor) -> Tensor:
    """Shift rapidity and azimuth by (N, 2), with energy and transverse momentum kept."""
    px, py, pz, energy = p4.unbind(1)
    pt, phi = torch.hypot(px, py), torch.atan2(py, px) + shifts[:, 1]
    y = rapidity(pz, energy) + shifts[:, 0]
    return torch.stack([pt * phi.cos(), pt * phi.sin(), energy * torch.tanh(y), energy], dim=1)
