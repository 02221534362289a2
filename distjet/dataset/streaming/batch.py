"""What does a batch of jets look like to a network?

Flat (CSR) arrays with PyTorch Geometric's names: the nodes of all graphs stand one after the other, `ptr` marks where each
graph begins, and `edge_index` already points into the flat nodes. Nothing is padded and no object exists per graph. A network
that reads `data.x`, `data.edge_index`, `data.batch` takes a `GraphBatch` as it is; `to_pyg` is for code that insists on its own
type.

What travels to a device is small: an undirected edge is one byte (the local number of its larger end), and so is the number
of edges that begin at a node. `batch`, `edge_index` and `edge_attr` are made where the batch is, when they are first asked for;
their lengths are known on the host, so nobody waits for the device. Edges of complete graphs are made from `ptr` alone.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distjet.errors import MissingExtraError

JET_COLUMNS = ("jet_pt", "jet_eta", "jet_phi", "jet_energy", "jet_mass")


@dataclass(frozen=True)
class GraphBatch:
    """A batch of `B` graphs with `N` nodes and `E` directed edges in all.

    Attributes:
        x: Node features as stored (not normalised, unless the stream was asked to), shape (N, F).
        p4: Constituent four-momenta (px, py, pz, energy) in GeV, shape (N, 4).
        ptr: First node of each graph and, last, N; int64, shape (B + 1,).
        u: Graph features as stored, shape (B, G).
        jet: Reconstructed jet (pt GeV, eta, phi rad, energy GeV, mass GeV) at constituent scale, shape (B, 5).
        targets: Named targets, each of shape (B,).
        weight: Weight of each graph, shape (B,).
        edge_degrees: Stored edges that begin at each node, an edge beginning at its smaller end, uint8 or int32, shape (N,);
            None where no edges are stored.
        edge_ends: Larger end of each stored edge, counted within its graph, sorted by (graph, smaller end, larger end), same
            type, shape (E / 2,); None where no edges are stored.
        num_edges: E. Without stored edges: of complete graphs, or 0 for graphs without edges.
        edge_unit: Of `edge_attr`, in radians.
        rows: Identifiers and spectators as numpy arrays, each of shape (B,); empty unless asked for.
        sizes: Number of nodes of each graph where the host needs it while the batch is on a device, int64, shape (B,); None
            unless a network has asked for it.
    """

    x: Tensor
    p4: Tensor
    ptr: Tensor
    u: Tensor
    jet: Tensor
    targets: dict[str, Tensor]
    weight: Tensor
    edge_degrees: Tensor | None = None
    edge_ends: Tensor | None = None
    num_edges: int = 0
    edge_unit: float = 1.0
    rows: dict[str, np.ndarray] = field(default_factory=dict)
    sizes: np.ndarray | None = None

    @property
    def num_graphs(self) -> int:
        """Number of graphs B."""
        return self.ptr.shape[0] - 1

    @property
    def num_nodes(self) -> int:
        """Number of nodes N."""
        return self.x.shape[0]

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors, without what is made from them."""
        return sum(tensor.nbytes for tensor in self._tensors())

    @cached_property
    def batch(self) -> Tensor:
        """Graph of each node, int64, shape (N,)."""
        graphs = torch.arange(self.num_graphs, device=self.ptr.device)
        return torch.repeat_interleave(graphs, self.ptr.diff(), output_size=self.num_nodes)

    @cached_property
    def edge_index(self) -> Tensor:
        """Source and target node of each directed edge, int64, shape (2, E), sorted by graph; each edge in both directions."""
        if self.edge_degrees is not None and self.edge_ends is not None:
            pairs = self._stored_pairs(self.edge_degrees, self.edge_ends)
            return torch.stack([pairs, pairs.flip(0)], dim=2).reshape(2, self.num_edges)
        return self._complete_pairs()

    @cached_property
    def edge_attr(self) -> Tensor:
        """Distance Delta R of the two ends in the (eta, phi) plane in units of `edge_unit`, shape (E, 1)."""
        if not self.num_edges:
            return self.p4.new_zeros(0, 1)
        px, py, pz = self.p4[:, :3].double().unbind(1)
        eta, phi = torch.asinh(pz / torch.hypot(px, py).clamp(min=1e-12)), torch.atan2(py, px)
        num_repeats = 1 if self.edge_ends is None else 2  # stored edges stand beside their reverse
        source, target = self.edge_index[:, ::num_repeats]
        delta_phi = torch.remainder(phi[source] - phi[target] + torch.pi, 2 * torch.pi) - torch.pi
        distance = torch.hypot(eta[source] - eta[target], delta_phi).float() / self.edge_unit
        return distance.repeat_interleave(num_repeats).unsqueeze(1)

    def _stored_pairs(self, degrees: Tensor, ends: Tensor) -> Tensor:
        """Both ends of each stored edge, as flat nodes, shape (2, E / 2)."""
        nodes = torch.arange(self.num_nodes, device=ends.device)
        smaller = torch.repeat_interleave(nodes, degrees.long(), output_size=ends.shape[0])
        return torch.stack([smaller, self.ptr[self.batch[smaller]] + ends])

    def _complete_pairs(self) -> Tensor:
        """Both ends of all edges between different nodes of a graph, or none, shape (2, E)."""
        if not self.num_edges:
            return torch.zeros(2, 0, dtype=torch.long, device=self.ptr.device)
        first = self.ptr[self.batch]
        others = self.ptr.diff()[self.batch] - 1
        nodes = torch.arange(self.num_nodes, device=self.ptr.device)
        source = torch.repeat_interleave(nodes, others, output_size=self.num_edges)
        number = torch.arange(self.num_edges, device=self.ptr.device) - (others.cumsum(0) - others)[source]
        target = first[source] + number
        return torch.stack([source, target + (target >= source)])

    def with_inputs(self, x: Tensor, u: Tensor, edge_unit: float) -> "GraphBatch":
        """Return the same graphs with other features; what has been made of their structure is shared, not made again."""
        changed = dataclasses.replace(self, x=x, u=u, edge_unit=edge_unit)
        vars(changed).update({name: vars(self)[name] for name in ("batch", "edge_index") if name in vars(self)})
        return changed

    def take_nodes(self, places: Tensor, ptr: Tensor) -> "GraphBatch":
        """Return the same graphs with some of their nodes, in another order, and without edges.

        Args:
            places: The nodes, graph by graph, int64, shape (M,).
            ptr: First of them of each graph and, last, M, shape (B + 1,).
        """
        x, p4 = self.x[places], self.p4[places]
        return dataclasses.replace(self, x=x, p4=p4, ptr=ptr, edge_degrees=None, edge_ends=None, num_edges=0)

    def expand(self) -> "GraphBatch":
        """Make `batch`, `edge_index` and `edge_attr` now, and return this batch."""
        vars(self).update(batch=self.batch, edge_index=self.edge_index, edge_attr=self.edge_attr)
        return self

    def map(self, function: Callable[[Tensor], Tensor]) -> "GraphBatch":
        """Apply a function to every tensor that travels."""
        changes: dict[str, Any] = {}
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Tensor):
                changes[item.name] = function(value)
        changes["targets"] = {name: function(value) for name, value in self.targets.items()}
        return dataclasses.replace(self, **changes)

    def _tensors(self) -> Iterator[Tensor]:
        for item in dataclasses.fields(self):
            if isinstance(value := getattr(self, item.name), Tensor):
                yield value
        yield from self.targets.values()

    def to(self, device: torch.device | str) -> "GraphBatch":
        """Copy to a device; the copy of pinned memory does not block the host, one to the host is complete."""
        is_host = torch.device(device).type == "cpu"  # torch does not wait for a copy there either, if it need not block
        return self.map(lambda tensor: tensor.to(device, non_blocking=not is_host))

    def pin_memory(self) -> "GraphBatch":
        """Copy into page-locked memory, from which a GPU reads while the host goes on."""
        return self.map(lambda tensor: tensor.pin_memory())

    def to_pyg(self) -> Any:
        """Return a `torch_geometric.data.Batch` that shares every tensor with this batch.

        Returns:
            A batch with x, p4, edge_index, edge_attr, batch, ptr, u, jet, weight, one attribute per target, and the offsets
            with which `get_example` and `to_data_list` take it apart again.

        Raises:
            MissingExtraError: If PyTorch Geometric is not installed.
        """
        try:
            from torch_geometric.data import Batch, Data
        except ModuleNotFoundError as error:
            raise MissingExtraError("to_pyg needs PyTorch Geometric", "pyg") from error

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

    def to_padded(self, max_nodes: int | None = None) -> tuple[Tensor, Tensor]:
        """Return node features padded with zeros, and the mask of real nodes.

        Args:
            max_nodes: Length of the padded axis; the largest graph where absent. To compare the two, the host waits for the
                device.

        Returns:
            Features of shape (B, max_nodes, F) and a boolean mask of shape (B, max_nodes).

        Raises:
            ValueError: If a graph has more than `max_nodes` nodes.
        """
        sizes = self.ptr.diff()
        largest = int(sizes.max()) if self.num_graphs else 0
        length = largest if max_nodes is None else max_nodes
        if largest > length:
            raise ValueError(f"max_nodes={length} is too small: the largest graph has {largest} nodes")
        position = torch.arange(self.num_nodes, device=self.x.device) - self.ptr[self.batch]
        padded = self.x.new_zeros(self.num_graphs, length, self.x.shape[1])
        mask = torch.zeros(self.num_graphs, length, dtype=torch.bool, device=self.x.device)
        padded[self.batch, position] = self.x
        mask[self.batch, position] = True
        return padded, mask
