"""LundNet: a jet is the tree of its declusterings, and neighbours are those that follow each other.

The tree is made on the host, in the thread that reads ahead (`distjet.physics.lund`). The message of an edge is
theta (x_target - x_source) + phi x_source = theta x_target + (phi - theta) x_source, so that all matrices of a first layer, and
that of the shortcut, are applied once per node, in one product.

Reference:
    F. Dreyer, H. Qu, "Jet tagging in the Lund plane with graph networks", arXiv:2012.08526.
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.tagger import TaggerNetwork, TaggerSpec
from distjet.models.tagger_configs import LundNetConfig
from distjet.nn.batch_norm import BatchNorm, factor_and_shift
from distjet.nn.edge_sums import add_ends, mean_at_targets, mean_over_nodes
from distjet.nn.products import multiply
from distjet.nn.quick_linear import linear, takes_folded_norms
from distjet.physics.lund import LUND_COORDINATES, lund_trees

COLUMNS = {5: LUND_COORDINATES, 3: ("ln_z", "ln_delta", "ln_kt")}


class LundNet(TaggerNetwork):
    """Edge convolutions on the trees of declusterings, all of whose outputs are read for the mean over the tree."""

    Config = LundNetConfig
    makes_nodes = True
    reads_edges = True

    def __init__(self, config: LundNetConfig, spec: TaggerSpec) -> None:
        super().__init__()
        self.min_ln_kt = config.min_ln_kt
        self.columns = [LUND_COORDINATES.index(name) for name in COLUMNS[config.coordinates]]
        widths = [len(self.columns), *(widths[-1] for widths in config.convolutions)]
        self.normalise = BatchNorm(widths[0])
        self.convolutions = nn.ModuleList(map(EdgeConvolution, widths, config.convolutions))
        fused = sum(widths[1:])
        fused_width = min(max(fused // 128 * 128, 128), 1024)
        self.fuse = nn.Sequential(nn.Linear(fused, fused_width), nn.ReLU(), BatchNorm(fused_width))
        hidden = [nn.Linear(fused_width + spec.num_jet, config.hidden), nn.ReLU(), nn.Dropout(config.dropout)]
        self.classify = nn.Sequential(*hidden, nn.Linear(config.hidden, spec.num_classes))

    def on_host(self, batch: GraphBatch) -> GraphBatch:
        """Replace constituents by declusterings: x (M, coordinates), with the edges of the trees; p4 is zero."""
        trees = lund_trees(batch.p4.numpy(), batch.ptr.numpy(), self.min_ln_kt)
        coordinates, ptr = torch.from_numpy(trees.coordinates), torch.from_numpy(trees.ptr)
        local = torch.arange(len(coordinates)) - ptr[:-1].repeat_interleave(ptr.diff())
        # breadth first, children stand in the order of their parents: the ends of edges are all nodes but the first
        ends = local[local > 0]
        dtype = torch.int32 if (local > 255).any() else torch.uint8
        return dataclasses.replace(
            batch,
            x=coordinates if len(self.columns) == len(LUND_COORDINATES) else coordinates[:, self.columns],
            p4=batch.p4.new_zeros(len(coordinates), 4),
            ptr=ptr,
            edge_degrees=torch.from_numpy(trees.num_children).to(dtype),
            edge_ends=ends.to(dtype),
            num_edges=2 * len(ends),
        )

    def forward(self, batch: GraphBatch) -> Tensor:
        """Map declusterings to logits of shape (B, num_classes)."""
        nodes, found = self.normalise(batch.x), []
        for convolution in self.convolutions:
            nodes = convolution(nodes, batch.edge_index)
            found.append(nodes)
        jets = self._read(torch.cat(found, dim=1), batch)
        return self.classify(torch.cat([jets, batch.u], dim=1))

    def _read(self, nodes: Tensor, batch: GraphBatch) -> Tensor:
        """Mean over the tree of the fused layer; in evaluation its norm is linear and may follow the mean, in fewer rows."""
        layer, normalise = self.fuse.get_submodule("0"), self.fuse.get_submodule("2")
        assert isinstance(layer, nn.Linear)
        assert isinstance(normalise, BatchNorm)
        if takes_folded_norms(normalise, nodes):
            values = multiply(nodes, layer.weight, layer.bias, relu=True)
            return normalise(mean_over_nodes(values, batch.batch, batch.num_graphs))
        values = normalise(linear(nodes, layer.weight, layer.bias).relu())
        return mean_over_nodes(values, batch.batch, batch.num_graphs)


class EdgeConvolution(nn.Module):
    """The mean over the neighbours of a node of a function of both, beside what the node is."""

    def __init__(self, num_inputs: int, widths: Sequence[int]) -> None:
        super().__init__()
        first, last = widths[0], widths[-1]
        self.theta, self.phi = nn.Linear(num_inputs, first, bias=False), nn.Linear(num_inputs, first, bias=False)
        self.layers = nn.ModuleList(nn.Linear(a, b, bias=False) for a, b in pairwise(widths))
        self.normalise = nn.ModuleList(map(BatchNorm, widths))
        self.shortcut = nn.Linear(num_inputs, last, bias=False) if num_inputs != last else None
        self.normalise_shortcut = BatchNorm(last) if self.shortcut is not None else None

    def forward(self, nodes: Tensor, edge_index: Tensor) -> Tensor:
        """Map nodes (N, num_inputs) with edges (2, E) to (N, widths[-1])."""
        if takes_folded_norms(self._norms()[0], nodes):
            return self._in_evaluation(nodes, edge_index)
        as_target, as_source, shortcut = self._once_per_node(nodes)
        edges = self.normalise[0](add_ends(as_target, as_source, edge_index)).relu()
        for layer, normalise in zip(self.layers, self.normalise[1:], strict=True):
            edges = normalise(linear(edges, layer.get_parameter("weight"))).relu()
        return (mean_at_targets(edges, edge_index, nodes.shape[0]) + shortcut).relu()

    def _norms(self) -> list[BatchNorm]:
        return [norm for norm in self.normalise if isinstance(norm, BatchNorm)]

    def _in_evaluation(self, nodes: Tensor, edge_index: Tensor) -> Tensor:
        """The same without gradients: every norm is a part of the layer before it."""
        (factor, shift), *later = map(factor_and_shift, self._norms())
        theta, phi = self.theta.weight * factor[:, None], self.phi.weight * factor[:, None]
        edges = add_ends(multiply(nodes, theta, shift), multiply(nodes, phi - theta), edge_index).relu_()
        for layer, (factor, shift) in zip(self.layers, later, strict=True):
            edges = multiply(edges, layer.get_parameter("weight") * factor[:, None], shift, relu=True)
        means = mean_at_targets(edges, edge_index, nodes.shape[0])
        if self.shortcut is None or self.normalise_shortcut is None:
            return means.add_(nodes).relu_()
        factor, shift = factor_and_shift(self.normalise_shortcut)
        return means.add_(multiply(nodes, self.shortcut.weight * factor[:, None], shift)).relu_()

    def _once_per_node(self, nodes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What a node gives to messages as their target and as their source, and what stays of it."""
        theta, phi = self.theta.weight, self.phi.weight
        if self.shortcut is None or self.normalise_shortcut is None:
            as_target, as_source = linear(nodes, torch.cat([theta, phi - theta])).split(theta.shape[0], 1)
            return as_target, as_source, nodes
        weights = torch.cat([theta, phi - theta, self.shortcut.weight])
        as_target, as_source, shortcut = linear(nodes, weights).split([len(theta), len(phi), len(self.shortcut.weight)], 1)
        return as_target, as_source, self.normalise_shortcut(shortcut)


RELEASED_NAMES = (
    (r"^bn_fts\.", "normalise."),
    (r"^edge_convs\.", "convolutions."),
    (r"\.fcs\.", ".layers."),
    (r"\.bns\.", ".normalise."),
    (r"\.sc_bn\.", ".normalise_shortcut."),
    (r"\.sc\.", ".shortcut."),
    (r"^fusion_block\.", "fuse."),
    (r"^fc\.0\.0\.", "classify.0."),
    (r"^fc\.1\.", "classify.3."),
)
"Parts of the names of the authors' implementation, and ours."


def from_released(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of the authors' implementation under our names; `load_state_dict` takes them strictly.

    Args:
        weights: What github.com/fdreyer/LundNet has saved.
    """
    return {_our_name(name): value for name, value in weights.items()}


def _our_name(name: str) -> str:
    for theirs, ours in RELEASED_NAMES:
        name = re.sub(theirs, ours, name)
    return name
