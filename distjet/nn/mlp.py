"""Multilayer perceptrons, and the linear layer over a concatenation that is never built.

A network on [node, graph] or [target, source, edge] features spends most of its time on the first layer, evaluated once per
edge. That layer is linear, so it is evaluated per node and per graph instead, and only its results are gathered and added.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def mlp(
    num_inputs: int, hidden: Sequence[int], num_outputs: int, activation: Callable[[], nn.Module] = nn.SiLU
) -> nn.Sequential:
    """Build linear layers with activations between them.

    Args:
        num_inputs: Width of the input.
        hidden: Widths of the hidden layers.
        num_outputs: Width of the output, which has no activation.
        activation: Makes what stands between two layers.
    """
    widths = [num_inputs, *hidden]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), activation()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], num_outputs))


def start_at(network: nn.Sequential, outputs: Sequence[float]) -> None:
    """Let a network begin at the same outputs for any input, but for small weights that leave every parameter a gradient."""
    last = network[-1]
    assert isinstance(last, nn.Linear)
    nn.init.normal_(last.weight, std=0.01)
    with torch.no_grad():
        last.bias.copy_(torch.tensor(outputs))


class NodeGraphLinear(nn.Module):
    """`Linear([node, graph of the node])`, evaluated once per graph for the graph's part."""

    def __init__(self, num_node: int, num_graph: int, num_outputs: int) -> None:
        super().__init__()
        self.node = nn.Linear(num_node, num_outputs)
        self.graph = nn.Linear(num_graph, num_outputs, bias=False)

    def forward(self, nodes: Tensor, graphs: Tensor, batch: Tensor) -> Tensor:
        """Map nodes (N, num_node) and graphs (B, num_graph) with `batch` (N,) to (N, num_outputs)."""
        return self.node(nodes) + self.graph(graphs)[batch]
