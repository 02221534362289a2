"""Configurations of the graphs that connect constituents, and the table of their names.

They stand apart from the algorithms so that a typo in a key is reported without importing numba.
"""

from pydantic import Field

from distjet.config import Component, ComponentConfig


class DelaunayConfig(ComponentConfig):
    """Neighbours in the Delaunay triangulation in (eta, phi)."""

    name: str = "delaunay"


class KnnConfig(ComponentConfig):
    """Nearest neighbours in (eta, phi): two constituents are connected if one is among the k nearest of the other."""

    name: str = "knn"
    k: int = Field(default=16, ge=1)
    "Number of neighbours; a jet of at most k + 1 constituents is fully connected."


class RadiusConfig(ComponentConfig):
    """Constituents that are near each other in (eta, phi)."""

    name: str = "radius"
    radius: float = Field(default=0.2, gt=0)
    "Constituents with a smaller distance Delta R are connected."


class FullyConnectedConfig(ComponentConfig):
    """Each constituent with every other one. Nothing is stored: the edges follow from the number of constituents."""

    name: str = "fully_connected"


class NoEdgesConfig(ComponentConfig):
    """Constituents without connections."""

    name: str = "none"


NOT_STORED = ("fully_connected", "none")
"Graphs whose edges are not written to the dataset."

GRAPHS = {
    "delaunay": Component("distjet.dataset.graphs.configs:DelaunayConfig", "distjet.dataset.graphs.build:Delaunay"),
    "knn": Component("distjet.dataset.graphs.configs:KnnConfig", "distjet.dataset.graphs.build:NearestNeighbours"),
    "radius": Component("distjet.dataset.graphs.configs:RadiusConfig", "distjet.dataset.graphs.build:Radius"),
    "fully_connected": Component("distjet.dataset.graphs.configs:FullyConnectedConfig", ""),
    "none": Component("distjet.dataset.graphs.configs:NoEdgesConfig", ""),
}
"Those that are not stored are not built either."
