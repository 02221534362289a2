"""What have the steps of a chain in common?

A step is plain numbers and the names of the columns that it reads; it is validated like a configuration when it comes from a
file, and made of nothing but what the file says.
"""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from distjet.calibration.binning import nearest_bin_numbers
from distjet.calibration.jets import Columns, column
from distjet.config import Config


class BinnedStep(Config):
    """A step with numbers for each bin of |eta_det|."""

    PER_BIN: ClassVar[tuple[str, ...]] = ()
    "Fields that hold one item for each bin."

    detector_eta: str
    "Column of eta_det."
    abs_eta_edges: tuple[float, ...]
    "Edges of the bins in |eta_det|."

    @model_validator(mode="after")
    def _one_item_per_bin(self) -> "BinnedStep":
        for name in self.PER_BIN:
            if (found := len(getattr(self, name))) != (wanted := len(self.abs_eta_edges) - 1):
                raise ValueError(f"{name} must have {wanted} items, one for each bin of abs_eta_edges (got {found})")
        return self

    def nearest_bin_of(self, columns: Columns) -> NDArray[np.intp]:
        """Return the bin of each jet, shape (J,); the nearest one for jets beyond the edges."""
        return nearest_bin_numbers(np.abs(column(columns, self.detector_eta, "the chain")), self.abs_eta_edges)
