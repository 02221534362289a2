"""Which constituents of a jet are connected? One function for every graph that a recipe can name.

A graph is a class that is built from its configuration and called with the coordinates of the constituents of many jets. That
is also the shape of a graph of a user's own, which the recipe names by its import path; what it returns is checked, because
edges that are written as bytes cannot be recognised as wrong later.
"""

from dataclasses import dataclass

import numpy as np

from distjet.config import ComponentConfig, implementation
from distjet.dataset.graphs.configs import GRAPHS, NOT_STORED, DelaunayConfig, KnnConfig, RadiusConfig
from distjet.dataset.graphs.delaunay import delaunay_edges
from distjet.dataset.graphs.edges import MAX_NODES, Edges
from distjet.dataset.graphs.neighbours import knn_edges, radius_edges
from distjet.errors import DataError


@dataclass(frozen=True)
class Delaunay:
    """The Delaunay triangulation; see `distjet.dataset.graphs.delaunay`."""

    config: DelaunayConfig

    def __call__(self, delta_eta: np.ndarray, delta_phi: np.ndarray, offsets: np.ndarray) -> Edges:
        """Connect the constituents of many jets."""
        return delaunay_edges(delta_eta, delta_phi, offsets)


@dataclass(frozen=True)
class NearestNeighbours:
    """The k nearest neighbours; see `distjet.dataset.graphs.neighbours`."""

    config: KnnConfig

    def __call__(self, delta_eta: np.ndarray, delta_phi: np.ndarray, offsets: np.ndarray) -> Edges:
        """Connect the constituents of many jets."""
        return knn_edges(delta_eta, delta_phi, offsets, self.config.k)


@dataclass(frozen=True)
class Radius:
    """All neighbours within a radius; see `distjet.dataset.graphs.neighbours`."""

    config: RadiusConfig

    def __call__(self, delta_eta: np.ndarray, delta_phi: np.ndarray, offsets: np.ndarray) -> Edges:
        """Connect the constituents of many jets."""
        return radius_edges(delta_eta, delta_phi, offsets, self.config.radius)


def build_edges(config: ComponentConfig, delta_eta: np.ndarray, delta_phi: np.ndarray, offsets: np.ndarray) -> Edges:
    """Connect the constituents of many jets.

    Args:
        config: Which graph.
        delta_eta: Pseudorapidity relative to the jet axis, shape (P,).
        delta_phi: Azimuth relative to the jet axis in rad, wrapped to [-pi, pi), shape (P,).
        offsets: Where each jet's constituents start, shape (J + 1,).

    Returns:
        Edges with local indices.

    Raises:
        ValueError: If the edges of this graph are not stored.
        DataError: If a coordinate is not finite or not below 8, a jet has more than 65535 constituents, or a graph of a user's
            own has edges that are none.
    """
    if config.name in NOT_STORED:
        raise ValueError(f"the edges of the graph {config.name!r} are not stored")
    edges = implementation(config.name, GRAPHS)(config)(delta_eta, delta_phi, offsets)
    if config.name not in GRAPHS:
        _check(config.name, edges, offsets)
    return edges


def _check(name: str, edges: Edges, offsets: np.ndarray) -> None:
    """Check what a graph of a user's own has returned.

    Raises:
        DataError: If it is not what `Edges` describes.
    """
    num_graphs = len(offsets) - 1
    counts = np.diff(edges.offsets)
    if len(edges.offsets) != num_graphs + 1 or edges.offsets[0] != 0 or (counts < 0).any():
        raise DataError(f"graph {name}: expected {num_graphs + 1} increasing offsets of edges, from 0 (got {edges.offsets})")
    if not len(edges.source) == len(edges.target) == edges.offsets[-1]:
        raise DataError(
            f"graph {name}: expected {edges.offsets[-1]} edges (got {len(edges.source)} sources, {len(edges.target)} targets)"
        )
    graph = np.repeat(np.arange(num_graphs), counts)
    source, target = edges.source.astype(np.int64), edges.target.astype(np.int64)
    bad = (source < 0) | (source >= target) | (target >= np.diff(offsets)[graph])
    bad[1:] |= (np.diff(graph) == 0) & (np.diff(source * (MAX_NODES + 1) + target) <= 0)
    if bad.any():
        first = int(bad.argmax())
        raise DataError(
            f"graph {name}: expected pairs source < target < number of constituents, sorted and without repetition"
            f" (got {source[first]}, {target[first]} in graph {graph[first]})"
        )
