"""Which jets does a set of four-vectors form?

FastJet clusters a whole batch of events in one call from flat arrays: building one Python PseudoJet per particle costs more
than the clustering itself. The batch interface has no areas, so `distjet.physics.areas` computes Voronoi areas from the
result, once for all radii. FastJet is an optional dependency: it is imported on first use, its banner is silenced.
"""

import functools
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from distjet.errors import MissingExtraError
from distjet.physics.kinematics import Floats, sum_groups

Algorithm = Literal["antikt", "kt", "cambridge"]
Offsets = NDArray[np.int64]


@dataclass(frozen=True)
class Jets:
    """Jets of a batch of events, by event and then by falling pT.

    Attributes:
        p4: Four-vectors (px, py, pz, E) in GeV, the exact sum of the constituents, shape (J, 4).
        event_offsets: Jets of event e are event_offsets[e]:event_offsets[e + 1], shape (number of events + 1,).
        constituents: Positions in the flat input, jet after jet, shape (C,).
        constituent_offsets: Constituents of jet j are constituent_offsets[j]:constituent_offsets[j + 1], shape (J + 1,).
    """

    p4: Floats
    event_offsets: Offsets
    constituents: NDArray[np.int64]
    constituent_offsets: Offsets

    @property
    def num_jets(self) -> int:
        """Number of jets in all events."""
        return len(self.p4)


@functools.cache
def fastjet() -> ModuleType:
    """Import FastJet without its banner.

    Raises:
        MissingExtraError: If FastJet is not installed.
    """
    try:
        import fastjet as module
    except ModuleNotFoundError as error:
        raise MissingExtraError("jet clustering needs FastJet", "simulation") from error
    module._swig.ClusterSequence.set_fastjet_banner_stream(None)
    return module


def cluster(p4: Floats, event_offsets: Offsets, radius: float, min_pt_gev: float, algorithm: Algorithm = "antikt") -> Jets:
    """Cluster every event of a batch (E-scheme).

    Args:
        p4: Four-vectors (px, py, pz, E) in GeV of all events, shape (N, 4).
        event_offsets: Event e holds rows event_offsets[e]:event_offsets[e + 1], shape (number of events + 1,).
        radius: Jet radius R.
        min_pt_gev: Jets below this transverse momentum are dropped.
        algorithm: Generalised-kT algorithm.

    Raises:
        MissingExtraError: If FastJet is not installed.

    Reference:
        Cacciari, Salam, Soyez, "The anti-kT jet clustering algorithm", arXiv:0802.1189; "FastJet user manual", arXiv:1111.6097.
    """
    sequence = fastjet().ClusterSequence(_records(p4, event_offsets), jet_definition(radius, algorithm))
    nested = sequence.constituent_index(min_pt_gev).layout
    jets_per_event = np.diff(np.asarray(nested.offsets))
    offsets = np.asarray(nested.content.offsets, np.int64)
    event_of_jet = np.repeat(np.arange(len(jets_per_event)), jets_per_event)
    in_event = np.asarray(nested.content.content.data, np.int64)[: offsets[-1]]  # the buffer also has room for dropped jets
    members = in_event + np.repeat(event_offsets[event_of_jet], np.diff(offsets))
    momenta = sum_groups(p4[members], offsets)
    order = np.lexsort((-np.hypot(momenta[:, 0], momenta[:, 1]), event_of_jet))
    members, offsets = select_groups(members, offsets, order)
    return Jets(momenta[order], np.concatenate([[0], np.cumsum(jets_per_event)]), members, offsets)


def jet_definition(radius: float, algorithm: Algorithm = "antikt") -> Any:
    """Return FastJet's JetDefinition with the E-scheme."""
    return fastjet().JetDefinition(getattr(fastjet(), f"{algorithm}_algorithm"), radius)


def select_groups(values: NDArray[Any], offsets: Offsets, chosen: NDArray[np.integer]) -> tuple[NDArray[Any], Offsets]:
    """Pick whole groups of a CSR collection, in the order of `chosen`.

    Args:
        values: Shape (N, ...).
        offsets: Shape (G + 1,).
        chosen: Numbers of the groups to keep, shape (K,).

    Returns:
        The values of the chosen groups one after the other, and their offsets, shape (K + 1,).
    """
    lengths = offsets[chosen + 1] - offsets[chosen]
    new_offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    positions = np.arange(new_offsets[-1]) + np.repeat(offsets[chosen] - new_offsets[:-1], lengths)
    return values[positions], new_offsets


def kt_median_rho(p4: Floats, max_abs_eta: float = 2.0, radius: float = 0.4) -> float:
    """Pileup density of one event: the median pT / area of its kT jets, with FastJet's active areas.

    The ghosts stand on an exact grid and are equally soft. FastJet scatters them otherwise, with random numbers that go on from
    call to call, so that the density of an event would depend on what the process did before; it is the same on average.

    Args:
        p4: Four-vectors in GeV, shape (N, 4).
        max_abs_eta: Jets beyond are not used.
        radius: Radius of the kT jets.

    Returns:
        Density in GeV per unit of rapidity and azimuth.

    Reference:
        Cacciari, Salam, "Pileup subtraction using jet areas", arXiv:0707.1378.
    """
    fj = fastjet()
    ghosts = fj.GhostedAreaSpec(max_abs_eta + 2 * radius)
    ghosts.set_grid_scatter(0.0)
    ghosts.set_pt_scatter(0.0)
    area = fj.AreaDefinition(fj.active_area_explicit_ghosts, ghosts)
    estimator = fj.JetMedianBackgroundEstimator(fj.SelectorAbsEtaMax(max_abs_eta), jet_definition(radius, "kt"), area)
    estimator.set_particles([fj.PseudoJet(*row) for row in p4.tolist()])
    return float(estimator.rho())


def _records(p4: Floats, event_offsets: Offsets) -> Any:
    """View flat four-vectors as the ragged record array that FastJet's batch interface takes, without a copy of the offsets."""
    import awkward as ak

    columns = [ak.contents.NumpyArray(np.ascontiguousarray(p4[:, i], np.float64)) for i in range(4)]
    records = ak.contents.RecordArray(columns, ["px", "py", "pz", "E"], parameters={"__record__": "Momentum4D"})
    return ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(event_offsets), records))
