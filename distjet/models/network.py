"""What does distjet ask of a network?

On constituents: a class that is built from its configuration and an `InputSpec`, and maps a batch with standardised features to
one row of outputs per node. On whole jets: a class that is built from its configuration, derived from `JetModelConfig`, and the
number of its inputs; it maps standardised inputs to one row of outputs per jet, and says what they mean. A user's network with
one of these shapes is named in the configuration by its import path.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from distjet.nn.response_estimates import ResponseEstimate


@dataclass(frozen=True)
class InputSpec:
    """Widths of what a network on constituents reads and returns."""

    num_node: int
    "Node features."
    num_edge: int
    "Edge features."
    num_graph: int
    "Graph features."
    num_outputs: int
    "Outputs per node."


class JetNetwork(nn.Module, ABC):
    """A network on whole jets."""

    @abstractmethod
    def forward(self, inputs: Tensor) -> Tensor:
        """Map standardised inputs (B, F) to outputs (B, O)."""

    @abstractmethod
    def estimate(self, outputs: Tensor) -> ResponseEstimate:
        """Read outputs (B, O) in float32 as what is known of the response."""
