"""What are the high-level variables of jets that taggers without constituents read?

A batch of jets is taken at once, ragged; what variables have in common (a clustering history, sums over triples) is made once,
and only for variables that were asked for. Definitions are those of FastJet contrib; the code is compiled here, because FastJet
is optional and a tagger must not need it: all variables of a jet of 50 constituents take some 0.2 ms. They are taken of
the constituents given, in (rapidity, azimuth), with a radius R0 of 1, ungroomed but for the mass after soft drop. A ratio whose
denominator is zero is 0: jets of one constituent have no substructure, and that is no reason for a NaN in a dataset.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit
from numpy.typing import NDArray

from distjet.config import unknown
from distjet.errors import ConfigError
from distjet.physics import jet_shapes
from distjet.physics.energy_correlators import E2, E2_SQUARED, E3, E3_SMALLEST, E3_TWO_SMALLEST, energy_correlators
from distjet.physics.jet_shapes import ratio
from distjet.physics.kinematics import Floats, sum_groups
from distjet.physics.recombination import (
    CAMBRIDGE,
    ENERGY,
    KT,
    PHI,
    PT,
    PX,
    PY,
    PZ,
    RAPIDITY,
    exclusive,
    recombine,
    squared_distance,
)
from distjet.physics.substructure_variables import SUBSTRUCTURE

SOFT_DROP_CUT = 0.1
MAX_SUBJETS = 4


def substructure(p4: Floats, ptr: NDArray[np.integer], names: Sequence[str]) -> dict[str, Floats]:
    """Compute high-level variables of jets from their constituents.

    Args:
        p4: Constituents (px, py, pz, E) in GeV, jet after jet, shape (N, 4); energies are positive.
        ptr: First constituent of each jet and, last, N, shape (J + 1,).
        names: Of the variables, from `SUBSTRUCTURE`.

    Returns:
        Each variable, float64, shape (J,), in the order of `names`; 0 for a jet without constituents.

    Raises:
        ConfigError: If there is no variable of a name.

    Reference:
        J. Thaler, K. Van Tilburg, "Identifying boosted objects with N-subjettiness", arXiv:1011.2268, and "Maximizing boosted
        top identification by minimizing N-subjettiness", arXiv:1108.2701; A. Larkoski et al., "Soft drop", arXiv:1402.2657;
        A. Larkoski, I. Moult, D. Neill, "Power counting to better jet observables", arXiv:1409.6298; J. M. Butterworth,
        B. E. Cox, J. R. Forshaw, "WW scattering at the CERN LHC", arXiv:hep-ph/0201098; Q_W: ATLAS, arXiv:1808.07858.
    """
    for name in names:
        if name not in SUBSTRUCTURE:
            raise ConfigError(unknown("substructure variable", name, SUBSTRUCTURE))
    jets = _Jets(np.ascontiguousarray(p4, np.float64), np.ascontiguousarray(ptr, np.int64))
    values: dict[str, Floats] = {}
    for group, found in GROUPS.items():
        if not found.isdisjoint(names):
            values |= group(jets)
    return {name: values[name] for name in names}


@dataclass(frozen=True)
class _Jets:
    """Constituents of a batch of jets."""

    p4: Floats
    ptr: NDArray[np.int64]

    @cached_property
    def pt(self) -> Floats:
        return np.hypot(self.p4[:, 0], self.p4[:, 1])

    @cached_property
    def phi(self) -> Floats:
        return np.arctan2(self.p4[:, 1], self.p4[:, 0])

    @cached_property
    def rapidity(self) -> Floats:
        return _rapidities(self.p4)

    @cached_property
    def total(self) -> Floats:
        return sum_groups(self.p4, self.ptr)


def _axes_group(jets: _Jets) -> dict[str, Floats]:
    tau, axis = _subjettiness(jets.p4, jets.ptr)
    distance = jet_shapes.distance_to_axis(jets.rapidity, jets.phi, axis, jets.ptr)
    values = {f"tau{count + 1}": tau[:, count] for count in range(MAX_SUBJETS)}
    for count in range(1, MAX_SUBJETS):
        values[f"tau{count + 1}{count}"] = ratio(tau[:, count], tau[:, count - 1])
    return values | {"les_houches": jet_shapes.angularity(jets.pt, distance, jets.ptr, 0.5)}


def _kt_group(jets: _Jets) -> dict[str, Floats]:
    d12, d23, delta_r, q_w = _kt_splittings(jets.p4, jets.ptr).T
    mass_squared = np.maximum(jets.total[:, 3] ** 2 - (jets.total[:, :3] ** 2).sum(axis=1), 0.0)
    scales = {"sqrt_d12": np.sqrt(d12), "sqrt_d23": np.sqrt(d23)}
    return scales | {"kt_delta_r": delta_r, "q_w": q_w, "z_cut12": ratio(d12, d12 + mass_squared)}


def _correlator_group(jets: _Jets) -> dict[str, Floats]:
    sums = energy_correlators(jets.pt, jets.rapidity, jets.phi, jets.ptr)
    ecf1, e2, e3 = sum_groups(jets.pt, jets.ptr), sums[:, E2], sums[:, E3]
    return {
        "ecf1": ecf1,
        "ecf2": e2 * ecf1**2,
        "ecf3": e3 * ecf1**3,
        "e2": e2,
        "e3": e3,
        "c2": ratio(e3, e2**2),
        "d2": ratio(e3, e2**3),
        "m2": ratio(sums[:, E3_SMALLEST], e2),
        "n2": ratio(sums[:, E3_TWO_SMALLEST], e2**2),
        "l2": ratio(e3, sums[:, E2_SQUARED] ** 1.5),
        "l3": ratio(sums[:, E3_SMALLEST], np.cbrt(e3)),
    }


def _soft_drop_group(jets: _Jets) -> dict[str, Floats]:
    return {"soft_drop_mass": _soft_drop_mass(jets.p4, jets.ptr, SOFT_DROP_CUT)}


def _moment_group(jets: _Jets) -> dict[str, Floats]:
    axis = np.stack([_rapidities(jets.total), np.arctan2(jets.total[:, 1], jets.total[:, 0])], axis=1)
    distance = jet_shapes.distance_to_axis(jets.rapidity, jets.phi, axis, jets.ptr)
    sums = sum_groups(np.stack([jets.pt, jets.pt**2], axis=1), jets.ptr)
    return {
        "width": jet_shapes.angularity(jets.pt, distance, jets.ptr, 1.0),
        "pt_d": ratio(np.sqrt(sums[:, 1]), sums[:, 0]),
        "planar_flow": jet_shapes.planar_flow(jets.p4, jets.ptr),
        "multiplicity": np.diff(jets.ptr).astype(np.float64),
    }


def _rest_frame_group(jets: _Jets) -> dict[str, Floats]:
    momenta = jet_shapes.rest_frame_momenta(jets.p4, jets.ptr)
    thrust, major = jet_shapes.thrust(momenta, jets.ptr).T
    return {
        "thrust": thrust,
        "thrust_major": major,
        "fox_wolfram_r2": jet_shapes.fox_wolfram_ratio(momenta, jets.ptr),
        "aplanarity": jet_shapes.aplanarity(momenta, jets.ptr),
    }


GROUPS: dict[Callable[[_Jets], dict[str, Floats]], set[str]] = {
    _axes_group: {"tau1", "tau2", "tau3", "tau4", "tau21", "tau32", "tau43", "les_houches"},
    _kt_group: {"sqrt_d12", "sqrt_d23", "kt_delta_r", "z_cut12", "q_w"},
    _correlator_group: {"ecf1", "ecf2", "ecf3", "e2", "e3", "c2", "d2", "m2", "n2", "l2", "l3"},
    _soft_drop_group: {"soft_drop_mass"},
    _moment_group: {"width", "pt_d", "planar_flow", "multiplicity"},
    _rest_frame_group: {"thrust", "thrust_major", "fox_wolfram_r2", "aplanarity"},
}
"What is computed together, and which variables come of it."


def _rapidities(p4: Floats) -> Floats:
    """Rapidities of four-vectors (N, 4) without cancellation; 0 for a vector of zeros."""
    px, py, pz, energy = p4.T
    mass_squared = np.maximum((energy + pz) * (energy - pz) - px**2 - py**2, 0.0)
    transverse_mass = np.sqrt(px**2 + py**2 + mass_squared)
    return np.arcsinh(ratio(pz, transverse_mass))


@njit(cache=True, nogil=True)
def _subjettiness(p4, ptr):  # type: ignore[no-untyped-def]
    """tau_1 to tau_4, shape (J, 4), and (rapidity, azimuth) of the winner-take-all axis, shape (J, 2)."""
    tau, axis = np.zeros((len(ptr) - 1, MAX_SUBJETS)), np.zeros((len(ptr) - 1, 2))
    for jet in range(len(ptr) - 1):
        size = ptr[jet + 1] - ptr[jet]
        if size == 0:
            continue
        tree = recombine(p4[ptr[jet] : ptr[jet + 1]], KT, True)
        nodes = tree.nodes
        axis[jet, 0], axis[jet, 1] = nodes[-1, RAPIDITY], nodes[-1, PHI]
        for count in range(1, min(size - 1, MAX_SUBJETS) + 1):
            subjets = exclusive(tree, count)
            spread = 0.0
            for i in range(size):
                nearest = np.inf
                for prong in subjets:
                    gap = squared_distance(nodes[i, RAPIDITY], nodes[i, PHI], nodes[prong, RAPIDITY], nodes[prong, PHI])
                    nearest = min(nearest, gap)
                spread += nodes[i, PT] * np.sqrt(nearest)
            tau[jet, count - 1] = spread / nodes[:size, PT].sum()
    return tau, axis


@njit(cache=True, nogil=True)
def _kt_splittings(p4, ptr):  # type: ignore[no-untyped-def]
    """By column d12, d23, the distance of the last two subjets, and Q_W, shape (J, 4)."""
    found = np.zeros((len(ptr) - 1, 4))
    for jet in range(len(ptr) - 1):
        size = ptr[jet + 1] - ptr[jet]
        if size < 2:
            continue
        tree = recombine(p4[ptr[jet] : ptr[jet + 1]], KT, False)
        nodes = tree.nodes
        one, other = nodes[tree.children[-1, 0]], nodes[tree.children[-1, 1]]
        found[jet, 0] = tree.distance[-1]
        found[jet, 2] = np.sqrt(squared_distance(one[RAPIDITY], one[PHI], other[RAPIDITY], other[PHI]))
        if size > 2:
            found[jet, 1] = tree.distance[-2]
            a, b, c = exclusive(tree, 3)
            found[jet, 3] = min(_mass(nodes[a], nodes[b]), _mass(nodes[a], nodes[c]), _mass(nodes[b], nodes[c]))
    return found


@njit(cache=True, nogil=True)
def _soft_drop_mass(p4, ptr, cut):  # type: ignore[no-untyped-def]
    """Mass of what is left when soft, wide branches are dropped, shape (J,)."""
    mass = np.zeros(len(ptr) - 1)
    for jet in range(len(ptr) - 1):
        size = ptr[jet + 1] - ptr[jet]
        if size == 0:
            continue
        tree = recombine(p4[ptr[jet] : ptr[jet + 1]], CAMBRIDGE, False)
        node = len(tree.nodes) - 1
        while node >= size:
            one, other = tree.children[node - size, 0], tree.children[node - size, 1]
            softer, harder = min(tree.nodes[one, PT], tree.nodes[other, PT]), max(tree.nodes[one, PT], tree.nodes[other, PT])
            if softer > cut * (softer + harder):
                break
            node = one if tree.nodes[one, PT] > tree.nodes[other, PT] else other
        mass[jet] = 0.5 * _mass(tree.nodes[node], tree.nodes[node])
    return mass


@njit(cache=True, nogil=True)
def _mass(one, other):  # type: ignore[no-untyped-def]
    """Mass of the sum of two nodes."""
    px, py, pz = one[PX] + other[PX], one[PY] + other[PY], one[PZ] + other[PZ]
    momentum = np.sqrt(px * px + py * py + pz * pz)
    energy = one[ENERGY] + other[ENERGY]
    return np.sqrt(max((energy - momentum) * (energy + momentum), 0.0))
