"""Configurations of the models, and the table of their names.

They stand apart from the models so that a typo in a key is reported without importing torch.
"""

from typing import Any

from pydantic import Field, model_validator

from distjet.config import Component, ComponentConfig, Config


class ConstituentGnnConfig(ComponentConfig):
    """Attention-weighted message passing between the constituents of a jet."""

    name: str = "constituent_gnn"
    width: int = Field(default=64, ge=1)
    "Width of the node state."
    num_blocks: int = Field(default=3, ge=0)
    "Message-passing blocks; 0 corrects every constituent from itself and its jet alone."
    num_heads: int = Field(default=4, ge=1)
    "Attention heads; must divide the width."
    graph_width: int = Field(default=32, ge=1)
    "Width of the embedded graph features that every block sees."

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "ConstituentGnnConfig":
        if self.width % self.num_heads:
            raise ValueError(f"num_heads must divide width; got num_heads={self.num_heads}, width={self.width}")
        return self


class PygNetworkConfig(ComponentConfig):
    """Any PyTorch Geometric network that returns one row of outputs per node."""

    name: str = "pyg"
    network: str = Field(pattern=r"^[\w.]+:\w+$")
    "Import path `package.module:Class`, e.g. torch_geometric.nn:GAT."
    arguments: dict[str, Any] = Field(default_factory=dict)
    "Keyword arguments of its constructor; in_channels, out_channels and edge_dim are filled in where it takes them."
    inputs: tuple[str, ...] = ("x", "edge_index")
    "Batch attributes passed by name to forward, or (data,) for the whole batch as a torch_geometric Batch."


MODELS = {
    "constituent_gnn": Component(
        "distjet.models.configs:ConstituentGnnConfig", "distjet.models.constituent_gnn:ConstituentGnn"
    ),
    "pyg": Component("distjet.models.configs:PygNetworkConfig", "distjet.models.pyg_network:PygNetwork"),
}


class CorrectionConfig(Config):
    """How the outputs of a network become corrections of constituents."""

    min_factor: float = Field(default=0.5, ge=0)
    "Lower bound of the energy factor; a constituent is never removed by the calibration."
    initial_factor: float = 1.25
    "Energy factor where the network's output is zero: about one over the mean response."
    max_rapidity_shift: float = Field(default=0.1, gt=0)
    "Bound of the rapidity shift: about half of the radius of the jets."
    delta_r_scale: float = Field(default=0.1, gt=0)
    "Distances Delta R of edges are divided by this before they enter the network."

    @model_validator(mode="after")
    def _starts_above_minimum(self) -> "CorrectionConfig":
        if self.initial_factor <= self.min_factor:
            raise ValueError(f"initial_factor must exceed min_factor={self.min_factor}; got {self.initial_factor}")
        return self
