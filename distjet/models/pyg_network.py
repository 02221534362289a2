"""How is any PyTorch Geometric network trained without a line of glue?

The network is named by its import path; its constructor gets the widths it asks for, its forward the batch attributes that the
configuration lists. torch_geometric is imported only when such a network is used.
"""

import inspect
from typing import Any

from torch import Tensor, nn

from distjet.config import import_path
from distjet.dataset.streaming.batch import GraphBatch
from distjet.errors import ConfigError
from distjet.models.configs import PygNetworkConfig
from distjet.models.network import InputSpec


class PygNetwork(nn.Module):
    """A network of torch_geometric, or of the user's own in its style."""

    Config = PygNetworkConfig

    def __init__(self, config: PygNetworkConfig, spec: InputSpec) -> None:
        super().__init__()
        network_class = import_path(config.network)
        widths = {"in_channels": spec.num_node, "out_channels": spec.num_outputs, "edge_dim": spec.num_edge}
        self.inputs = config.inputs
        self.network = network_class(**_accepted(network_class, widths, config) | config.arguments)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Map a batch to outputs of shape (N, num_outputs)."""
        if self.inputs == ("data",):
            return self.network(batch.to_pyg())
        return self.network(**{name: getattr(batch, name) for name in self.inputs})


def _accepted(network_class: Any, widths: dict[str, int], config: PygNetworkConfig) -> dict[str, int]:
    """Select the widths that the constructor takes by name; edge_dim only where edges are passed on.

    Raises:
        ConfigError: If the class is no module.
    """
    if not (isinstance(network_class, type) and issubclass(network_class, nn.Module)):
        raise ConfigError(f"model.network {config.network!r} is not a torch.nn.Module")
    parameters = inspect.signature(network_class.__init__).parameters
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    wanted = dict(widths)
    if not {"edge_attr", "data"} & set(config.inputs):
        del wanted["edge_dim"]
    names = {name for name in wanted if name in parameters}
    if open_ended and "edge_attr" in config.inputs:
        names |= {"edge_dim"}
    return {name: wanted[name] for name in names if name in wanted}
