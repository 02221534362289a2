"""What does a batch of jets look like to a network?

Flat (CSR) arrays with PyTorch Geometric's names: the nodes of all graphs stand one after the other, `ptr` marks where each
graph begins, and `edge_index` already points into the flat nodes. Nothing is padded and no object exists per graph. A network
that reads `data.x`, `data.edge_index`, `data.batch` takes a `GraphBatch` as it is;
`to_pyg` is for code that insists on its own type.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

JET_COLUMNS = ("jet_pt", "jet_eta", "jet_phi", "jet_energy", "jet_mass")


@dataclass(frozen=True)
class GraphBatch:
    """A batch of `B` graphs with `N` nodes and `E` directed edges in all.

    Attributes:
        x: Node features as stored (not normalised), shape (N, F).
        p4: Constituent four-momenta (px, py, pz, energy) in GeV, shape (N, 4).
        edge_index: Source and target node of each directed edge, shape (2, E); each stored edge appears in both directions.
        edge_attr: Distance Delta R of the two ends in the (eta, phi) plane in radians, shape (E, 1).
        batch: Graph of each node, shape (N,).
        ptr: First node of each graph and, last, N; shape (B + 1,).
        u: Graph features as stored, shape (B, G).
        jet: Reconstructed jet (pt GeV, eta, phi rad, energy GeV, mass GeV) at constituent scale, shape (B, 5).
        targets: Named targets, each of shape (B,).
        weight: Weight of each graph, shape (B,).
        rows: Identifiers and spectators as numpy arrays, each of shape (B,); empty unless asked for.
    """

    x: Tensor
    p4: Tensor
    edge_index: Tensor
    edge_attr: Tensor
    batch: Tensor
    ptr: Tensor
    u: Tensor
    jet: Tensor
    targets: dict[str, Tensor]
    weight: Tensor
    rows: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def num_graphs(self) -> int:
        """Number of graphs B."""
        return self.ptr.shape[0] - 1

    @property
    def num_nodes(self) -> int:
        """Number of nodes N."""
        return self.x.shape[0]

    def map(self, function: Callable[[Tensor], Tensor]) -> "GraphBatch":
        """Apply a function to every tensor."""
        changes: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                changes[item.name] = function(value)
        changes["targets"] = {name: function(value) for name, value in self.targets.items()}
        return dataclasses.replace(self, **changes)

    def to(self, device: torch.device | str) -> "GraphBatch":
        """Copy to a device; the copy of pinned memory does not block the host."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "GraphBatch":
        """Copy into page-locked memory, from which a GPU reads while the host goes on."""
        return self.map(lambda tensor: tensor.pin_memory())

    def to_pyg(self) -> Any:
        """Return a `torch_geometric.data.Batch` that shares every tensor with this batch.

        Returns:
            A batch with x, p4, edge_index, edge_attr, batch, ptr, u, jet, weight, one attribute per target, and the offsets
            with which `get_example` and `to_data_list` take it apart again.
        """
        from torch_geometric.data import Batch, Data

        tensors = {name: getattr(self, name) for name in ("x", "p4", "edge_index", "edge_attr", "u", "jet", "weight")}
        result = Batch(_base_cls=Data, batch=self.batch, ptr=self.ptr, **tensors, **self.targets)
        result._num_graphs = self.num_graphs
        result._slice_dict, result._inc_dict = self._pyg_offsets()
        return result

    def _pyg_offsets(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Where each graph's part of each tensor begins, and what was added to its node numbers."""
        graphs = torch.arange(self.num_graphs + 1, device=self.ptr.device)
        # edges are sorted by graph, so a search for the graphs' first nodes finds the graphs' first edges
        first_edges = torch.searchsorted(self.batch[self.edge_index[0]], graphs)
        slices = {"x": self.ptr, "p4": self.ptr, "edge_index": first_edges, "edge_attr": first_edges}
        slices |= dict.fromkeys(["u", "jet", "weight", *self.targets], graphs)
        zeros = torch.zeros(self.num_graphs, dtype=torch.long, device=self.ptr.device)
        increments = dict.fromkeys(slices, zeros) | {"edge_index": self.ptr[:-1]}
        return slices, increments

    def to_dense(self, max_nodes: int | None = None) -> tuple[Tensor, Tensor]:
        """Return node features padded with zeros, and the mask of real nodes.

        Args:
            max_nodes: Length of the padded axis; the largest graph where absent (which waits for the device).

        Returns:
            Features of shape (B, max_nodes, F) and a boolean mask of shape (B, max_nodes).

        Raises:
            ValueError: If a graph has more than `max_nodes` nodes.
        """
        sizes = self.ptr[1:] - self.ptr[:-1]
        largest = int(sizes.max()) if self.num_graphs else 0
        length = largest if max_nodes is None else max_nodes
        if largest > length:
            raise ValueError(f"max_nodes={length} is too small: the largest graph has {largest} nodes")
        position = torch.arange(self.num_nodes, device=self.x.device) - self.ptr[self.batch]
        dense = self.x.new_zeros(self.num_graphs, length, self.x.shape[1])
        mask = torch.zeros(self.num_graphs, length, dtype=torch.bool, device=self.x.device)
        dense[self.batch, position] = self.x
        mask[self.batch, position] = True
        return dense, mask
