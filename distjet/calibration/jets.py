"""What does a step of the chain take and return?

Jets as arrays of (pt, eta, phi, energy, mass). A step multiplies the four-momentum by a factor, or turns it; a jet is never
built from parts, so that energy, mass and momentum stay those of one four-momentum.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from distjet.config import did_you_mean
from distjet.errors import DataError

Array = NDArray[np.float64]
Columns = Mapping[str, Array]
"Columns of a dataset by name, each of shape (J,)."

JET_COLUMNS = ("jet_pt", "jet_eta", "jet_phi", "jet_energy", "jet_mass")
"Columns of the jet at constituent scale, which every dataset has."


@dataclass(frozen=True)
class CalibratedJets:
    """Jets after a step of the chain; float64, shape (J,) each; GeV and radians."""

    energy: Array
    mass: Array
    pt: Array
    eta: Array
    phi: Array

    @property
    def rapidity(self) -> Array:
        """Rapidity of each jet, shape (J,)."""
        return np.arcsinh(self.pt * np.sinh(self.eta) / np.hypot(self.pt, self.mass))

    def scaled(self, factor: Array) -> "CalibratedJets":
        """Multiply each four-momentum by a positive factor, shape (J,)."""
        return replace(self, energy=self.energy * factor, mass=self.mass * factor, pt=self.pt * factor)

    def pointing_to(self, eta: Array) -> "CalibratedJets":
        """Turn each jet to another pseudorapidity; energy, mass and the size of the momentum stay."""
        return replace(self, eta=eta, pt=self.pt * np.cosh(self.eta) / np.cosh(eta))


def constituent_scale(columns: Mapping[str, NDArray[np.generic]]) -> CalibratedJets:
    """Take the jets as they were reconstructed.

    Raises:
        DataError: If a column is absent, or a jet has no positive energy and pT.
    """
    pt, eta, phi, energy, mass = (column(columns, name, "the jet itself") for name in JET_COLUMNS)
    if np.any(bad := ~((pt > 0) & (energy > 0))):
        row = int(np.argmax(bad))
        raise DataError(
            f"jet_pt and jet_energy must be positive; got {pt[row]} and {energy[row]} GeV in row {row}, and {int(bad.sum())} "
            "such jets in all. Leave them out with a cut of the recipe."
        )
    return CalibratedJets(energy, mass, pt, eta, phi)


def column(columns: Mapping[str, NDArray[np.generic]], name: str, owner: str) -> Array:
    """Return a column as float64, shape (J,).

    Raises:
        DataError: If it is absent, or holds a number that is not finite.
    """
    if name not in columns:
        raise DataError(f"no column {name!r}, which {owner} needs{did_you_mean(name, columns)}")
    values = np.asarray(columns[name], np.float64)
    if not np.all(finite := np.isfinite(values)):
        row = int(np.argmin(finite))
        raise DataError(f"column {name!r} must be finite; got {values[row]} in row {row}, and {int((~finite).sum())} such jets")
    return values


def all_of(columns: Mapping[str, NDArray[np.generic]], names: Iterable[str], owner: str) -> list[Array]:
    """Return several columns as float64."""
    return [column(columns, name, owner) for name in names]
