"""Configurations of the models, and the table of their names.

They stand apart from the models so that a typo in a key is reported without importing torch.
"""

from itertools import pairwise
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from distjet.config import Component, ComponentConfig, Config
from distjet.models.tagger_configs import TAGGERS


class ConstituentGnnConfig(ComponentConfig):
    """Message passing between the constituents of a jet."""

    name: str = "constituent_gnn"
    aggregation: Literal["attention", "mean", "sum", "none"] = "attention"
    """How a node hears its neighbours: weighted by attention; all alike (mean, sum); none: not at all, at the same depth. The
    last three measure what attention and graph add."""
    width: int = Field(default=64, ge=1)
    "Width of the node state."
    num_blocks: int = Field(default=3, ge=0)
    "Message-passing blocks; 0 corrects every constituent from itself and its jet alone."
    num_heads: int = Field(default=4, ge=1)
    "Attention heads; must divide the width. Without attention there are none."
    graph_width: int = Field(default=32, ge=1)
    "Width of the embedded graph features that every block sees."

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "ConstituentGnnConfig":
        if self.aggregation == "attention" and self.width % self.num_heads:
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


class JetModelConfig(ComponentConfig):
    """What every network on whole jets has: it predicts the response r of a jet, and the energy is divided by r.

    A network of one's own on whole jets derives its Config from this.
    """

    estimate: ClassVar[str] = "point"
    "What it gives for a jet: point, gaussian, mixture or quantiles; the loss must be one for it."
    inputs: tuple[str, ...] = ("jet_energy", "jet_eta", "jet_phi", "num_vertices", "num_interactions", "rho", "area")
    "Columns of the dataset that it reads: of the jet, of the graph, or spectators. These are the published seven."
    pileup_subtraction: Literal["none", "energy", "pt"] = "none"
    """What r = E / E_true is the response of: none: E is the energy of the jet; energy: E - rho A, as published; pt: the jet
    scaled by (pT - rho A) / pT, which differs at |eta| > 0, because rho is a density of pT. The columns are rho and area."""
    min_response: float = Field(default=0.05, gt=0)
    "Energies are never divided by less; jets at this bound are counted, and a network that gives nothing else is refused."

    @model_validator(mode="after")
    def _has_inputs(self) -> "JetModelConfig":
        if not self.inputs or len(set(self.inputs)) < len(self.inputs):
            raise ValueError(f"inputs must be some columns, each once (got {list(self.inputs)})")
        return self


class ResponseDnnConfig(JetModelConfig):
    """The small-R response network as published: twelve dense layers."""

    name: str = "response_dnn"
    hidden: tuple[int, ...] = (32, 32, 64, 64, 128, 256, 128, 64, 64, 32, 32)
    "Widths of the hidden layers; these are the published ones."
    output: Literal["relu", "softplus"] = "relu"
    "relu: as published; it can die, which is noticed. softplus: cannot."
    initial_response: float = Field(default=1.0, gt=0)
    "What the output starts from, through its bias: with zero, as in Keras, half of all seeds would start dead."


class DensityConfig(JetModelConfig):
    """What networks share that give a density or quantiles."""

    hidden: tuple[int, ...] = (64, 64, 64)
    "Widths of the hidden layers."
    initial_response: float = Field(default=0.8, gt=0)
    "Centre of what training starts from."
    initial_sigma: float = Field(default=0.2, gt=0)
    "Spread of what training starts from."


class GaussianResponseConfig(DensityConfig):
    """A Gaussian for every jet."""

    estimate: ClassVar[str] = "gaussian"
    name: str = "gaussian_response"
    min_sigma: float = Field(default=0.01, gt=0)
    "Lower bound of sigma, which keeps the likelihood bounded."


class MixtureDensityConfig(DensityConfig):
    """A mixture of Gaussians for every jet."""

    estimate: ClassVar[str] = "mixture"
    name: str = "mixture_density"
    num_components: int = Field(default=3, ge=1)
    "Gaussians K."
    min_sigma: float = Field(default=0.01, gt=0)
    "Lower bound of each sigma, which keeps the likelihood bounded."


class QuantileRegressionConfig(DensityConfig):
    """Quantiles for every jet."""

    estimate: ClassVar[str] = "quantiles"
    name: str = "quantile_regression"
    levels: tuple[float, ...] = (0.025, 0.16, 0.25, 0.5, 0.75, 0.84, 0.975)
    "Probabilities below each quantile, rising. The one in the middle is 0.5: energies are divided by the median."

    @model_validator(mode="after")
    def _median_is_in_the_middle(self) -> "QuantileRegressionConfig":
        rises = all(a < b for a, b in pairwise((0.0, *self.levels, 1.0)))
        if not rises or len(self.levels) % 2 == 0 or self.levels[len(self.levels) // 2] != 0.5:
            raise ValueError(f"levels must rise between 0 and 1, with 0.5 in the middle (got {list(self.levels)})")
        return self


CALIBRATORS = {
    name: Component(f"distjet.models.configs:{config}", f"distjet.models.{network}")
    for name, config, network in (
        ("constituent_gnn", "ConstituentGnnConfig", "constituent_gnn:ConstituentGnn"),
        ("pyg", "PygNetworkConfig", "pyg_network:PygNetwork"),
        ("response_dnn", "ResponseDnnConfig", "response_dnn:ResponseDnn"),
        ("gaussian_response", "GaussianResponseConfig", "gaussian_response:GaussianResponse"),
        ("mixture_density", "MixtureDensityConfig", "mixture_density:MixtureDensity"),
        ("quantile_regression", "QuantileRegressionConfig", "quantile_regression:QuantileRegression"),
    )
}

MODELS = CALIBRATORS | TAGGERS


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
