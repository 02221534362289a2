"""What does distjet ask of a node network?

A class that is built from its configuration and an `InputSpec`, and maps a batch with standardised features to one row of
outputs per node. A user's network with this shape is named in the configuration by its import path.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class InputSpec:
    """Widths of what a network reads and returns."""

    num_node: int
    "Node features."
    num_edge: int
    "Edge features."
    num_graph: int
    "Graph features."
    num_outputs: int
    "Outputs per node."
