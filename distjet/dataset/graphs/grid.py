"""Where do constituents lie for the algorithms that build graphs? On a grid, so that geometry is arithmetic on whole numbers.

The step is 2^-20 (1e-6 rad, far below any detector's resolution). Differences then have 24 bits, squared distances and areas
49, which 64-bit integers and floats both hold exactly: a graph is the same on every machine, and does not change when all
constituents are moved by a step.
"""

from typing import NamedTuple

import numpy as np

from distjet.dataset.graphs.edges import MAX_NODES
from distjet.errors import DataError

GRID = float(1 << 20)
"Steps per unit of eta or phi."
FULL_TURN = round(2 * np.pi * GRID)
"Steps of a full turn in phi; the grid closes to 3e-7 rad."
MAX_COORDINATE = 8.0 - 0.5 / GRID
"Coordinates must be smaller, so that they are whole numbers of 24 bits with the sign."


class GridPoints(NamedTuple):
    """Constituents of many jets on the grid.

    Attributes:
        x: Pseudorapidity in steps, int32, shape (P,).
        y: Azimuth in steps, int32, shape (P,).
        offsets: Where each jet's constituents start, int64, shape (J + 1,).
    """

    x: np.ndarray
    y: np.ndarray
    offsets: np.ndarray


def in_range(coordinate: np.ndarray) -> np.ndarray:
    """Tell which coordinates fit the grid; false for NaN and infinity."""
    return np.abs(coordinate) < MAX_COORDINATE


def snap(delta_eta: np.ndarray, delta_phi: np.ndarray, offsets: np.ndarray) -> GridPoints:
    """Round coordinates to the grid.

    Args:
        delta_eta: Pseudorapidity relative to the jet axis, shape (P,).
        delta_phi: Azimuth relative to the jet axis in rad, wrapped to [-pi, pi), shape (P,).
        offsets: Where each jet's constituents start, shape (J + 1,).

    Raises:
        DataError: If a coordinate is not finite or not below 8, or a jet has more than 65535 constituents.
    """
    starts = np.ascontiguousarray(offsets, dtype=np.int64)
    sizes = np.diff(starts)
    if (most := int(sizes.max(initial=0))) > MAX_NODES:
        raise DataError(f"a graph can have {MAX_NODES} constituents (got {most} in graph {sizes.argmax()})")
    return GridPoints(_rounded("delta_eta", delta_eta, starts), _rounded("delta_phi", delta_phi, starts), starts)


def _rounded(name: str, coordinate: np.ndarray, starts: np.ndarray) -> np.ndarray:
    values = np.asarray(coordinate, dtype=np.float64)
    good = in_range(values)
    if not good.all():
        place = int(good.argmin())
        graph = int(np.searchsorted(starts, place, side="right")) - 1
        raise DataError(
            f"{name} of a constituent must be finite and below {MAX_COORDINATE:g}"
            f" (got {values[place]:g} at constituent {place - starts[graph]} of graph {graph})"
        )
    return np.rint(values * GRID).astype(np.int32)
