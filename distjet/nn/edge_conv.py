"""Edge convolution: every node looks at its nearest neighbours.

For node i with neighbours j,

    h_ij = ReLU(BN(W [x_i, x_j - x_i])), and more such layers        x_i <- ReLU(S x_i + mean over j of h_ij)

where S is the identity, or linear with a batch norm if widths differ. The first layer is linear:
W [x_i, x_j - x_i] = (W_1 - W_2) x_i + W_2 x_j. So it is evaluated for nodes, and its results are gathered: what would be the
widest product over edges becomes an addition.

A neighbour that does not exist has x_j = 0, is normalised like the others and counts in the mean, as in the published network.

From the parts of the nodes to the means there are two ways with the same result: operations of torch, which a GPU, a compiler
and an exporter need, and on a CPU pieces of the edges that stay in the cache (`edge_conv_pieces`).

Reference:
    Y. Wang et al., "Dynamic graph CNN for learning on point clouds", arXiv:1801.07829; H. Qu and L. Gouskos, "ParticleNet",
    arXiv:1902.08570.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from distjet.nn.batch_norm import BatchNorm, factor_and_shift
from distjet.nn.tracing import is_traced


class EdgeConv(nn.Module):
    """One edge convolution with its shortcut."""

    def __init__(self, num_inputs: int, widths: Sequence[int]) -> None:
        """Build the layers.

        Args:
            num_inputs: Width D of a node.
            widths: Of the layers of an edge; the last one is that of a node behind.
        """
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(before, after, bias=False) for before, after in pairwise([2 * num_inputs, *widths])
        )
        self.norms = nn.ModuleList(BatchNorm(width) for width in widths)
        self.shortcut: nn.Module = nn.Identity()
        if num_inputs != widths[-1]:
            self.shortcut = nn.Sequential(nn.Linear(num_inputs, widths[-1], bias=False), BatchNorm(widths[-1]))

    def forward(self, nodes: Tensor, table: Tensor) -> Tensor:
        """Update nodes.

        Args:
            nodes: Shape (N, D).
            table: Neighbours of each node, N where there is none, int64, shape (N, k).

        Returns:
            Shape (N, widths[-1]).
        """
        of_node, of_neighbour = self._weights()[0].chunk(2, dim=1)
        own, other = nn.functional.linear(nodes, torch.cat([of_node - of_neighbour, of_neighbour])).chunk(2, dim=1)
        return torch.relu(self.shortcut(nodes) + self._messages(own, other, table))

    def _weights(self) -> list[Tensor]:
        return [layer.get_parameter("weight") for layer in self.layers]

    def _messages(self, own: Tensor, other: Tensor, table: Tensor) -> Tensor:
        if not _takes_pieces(own):
            return self.messages_by_operations(own, other, table)
        if self.training:
            return self._messages_in_training(own, other, table)
        if torch.is_grad_enabled():
            return self.messages_by_operations(own, other, table)
        return self._messages_in_evaluation(own, other, table)

    def messages_by_operations(self, own: Tensor, other: Tensor, table: Tensor) -> Tensor:
        """Mean over the neighbours of each node.

        Args:
            own: What the first layer gives for each node, shape (N, C).
            other: What it gives for each neighbour, the same.
            table: Neighbours, shape (N, k).

        Returns:
            Shape (N, widths[-1]).
        """
        num_nodes, k = table.shape
        padded = nn.functional.pad(other, (0, 0, 0, 1))
        edges = (own.unsqueeze(1) + padded.index_select(0, table.flatten()).unflatten(0, (num_nodes, k))).flatten(0, 1)
        for layer, norm in zip([nn.Identity(), *self.layers[1:]], self.norms, strict=True):
            edges = torch.relu(norm(layer(edges)))
        return edges.unflatten(0, (num_nodes, k)).mean(1)

    def _messages_in_training(self, own: Tensor, other: Tensor, table: Tensor) -> Tensor:
        from distjet.nn.edge_conv_pieces import AverageMessages

        norms = [norm.weight for norm in self.norms] + [norm.bias for norm in self.norms]
        return AverageMessages.apply(
            list(self.norms), table, own.contiguous(), other.contiguous(), *self._weights()[1:], *norms
        )

    def _messages_in_evaluation(self, own: Tensor, other: Tensor, table: Tensor) -> Tensor:
        from distjet.nn.edge_conv_pieces import Edges, average_messages

        (factor, shift), *later = (factor_and_shift(norm) for norm in self.norms if isinstance(norm, BatchNorm))
        layers = [(f.unsqueeze(1) * weight, s) for (f, s), weight in zip(later, self._weights()[1:], strict=True)]
        return average_messages(Edges(table, own * factor + shift, other * factor), layers)


def _takes_pieces(nodes: Tensor) -> bool:
    is_plain = nodes.device.type == "cpu" and nodes.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return is_plain and not is_traced()
