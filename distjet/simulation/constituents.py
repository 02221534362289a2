"""What are jets made of, and how are the constituents of many events or jets kept?

One array of float32 for all constituents, as they are stored in the ntuple, and offsets that cut it into groups: the events of
a batch first, the jets later. Jets are sums of these rounded numbers, so that a reader can redo the sum. The last field,
`index`, is a constituent's place in its event: it tells which constituent of one tree is which in the tree of another radius.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distjet.physics.clustering import select_groups
from distjet.physics.kinematics import Floats, to_cartesian

INDEX = "index"


@dataclass(frozen=True)
class Constituents:
    """Constituents in groups: the events of a batch, or jets.

    Attributes:
        prefix: Of the branches, `clus` or `part`.
        fields: Names of the columns, with E (GeV), eta, phi (rad), index, and pt (GeV) where they have a mass.
        values: Shape (N, number of fields).
        offsets: Group g holds rows offsets[g]:offsets[g + 1], shape (number of groups + 1,).
    """

    prefix: str
    fields: tuple[str, ...]
    values: NDArray[np.float32]
    offsets: NDArray[np.int64]

    def __getitem__(self, field: str) -> Floats:
        """Return a column as float64, shape (N,)."""
        return self.values[:, self.fields.index(field)].astype(np.float64)

    def momenta(self) -> Floats:
        """Four-vectors in GeV as stored, shape (N, 4), float64; a constituent without pt is massless."""
        energy, eta = self["E"], self["eta"]
        pt_gev = self["pt"] if "pt" in self.fields else energy / np.cosh(eta)
        p4 = to_cartesian(pt_gev, eta, self["phi"])
        p4[:, 3] = energy
        return p4

    def regroup(self, rows: NDArray[np.int64], offsets: NDArray[np.int64]) -> "Constituents":
        """Pick rows in another order, in other groups."""
        return Constituents(self.prefix, self.fields, self.values[rows], offsets)

    def select(self, groups: NDArray[np.integer]) -> "Constituents":
        """Pick whole groups."""
        return Constituents(self.prefix, self.fields, *select_groups(self.values, self.offsets, groups))


def collect(prefix: str, fields: Sequence[str], events: Sequence[Floats]) -> Constituents:
    """Put the constituents of several events after one another, and number them within each.

    Args:
        prefix: Of the branches.
        fields: Names of the columns, without the index.
        events: Constituents of each event, shape (N_e, number of fields).
    """
    numbered = [np.column_stack([event, np.arange(len(event))]).astype(np.float32) for event in events]
    return Constituents(prefix, (*fields, INDEX), np.concatenate(numbered), group_offsets(numbered))


def join(parts: Sequence[Constituents]) -> Constituents:
    """Put the groups of several collections of the same fields after one another."""
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Constituents(parts[0].prefix, parts[0].fields, np.concatenate([part.values for part in parts]), offsets)


def group_offsets(groups: Sequence[NDArray[np.floating]]) -> NDArray[np.int64]:
    """Return the offsets of groups of rows that are put after one another, shape (number of groups + 1,)."""
    return np.concatenate([[0], np.cumsum([len(group) for group in groups])]).astype(np.int64)
