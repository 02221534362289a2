"""How does a network become a tagger of jets?

What a network needs beside the columns of the dataset (the hardest constituents alone, sorted; the tree of declusterings) is
made on the host, in the thread that reads ahead. On the device, inputs are scaled with the constants of the training split, so
that the network sees numbers of order one, and what comes out are logits in float32.
"""

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from distjet.config import unknown
from distjet.dataset.graphs.hardest import hardest
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import GraphBatch
from distjet.errors import ConfigError
from distjet.models.jet_columns import JetColumns
from distjet.models.tagger_configs import TaggerConfig
from distjet.nn.adversary import MassAdversary
from distjet.nn.normalise import Standardise

DECORRELATED = "decorrelated"
"Among the targets of a batch: what the scores shall not tell."


@dataclass(frozen=True)
class TaggerSpec:
    """Widths of what a tagging network reads and returns."""

    num_node: int
    "Inputs of a constituent."
    num_jet: int
    "Inputs of a jet."
    num_classes: int
    "Classes, of which each jet has one."


class TaggerNetwork(nn.Module, ABC):
    """A network that gives a jet a score for each class; built from its Config and a `TaggerSpec`."""

    makes_nodes: ClassVar[bool] = False
    "Whether the nodes that it reads are made by `on_host`, with values of their own in x."
    reads_edges: ClassVar[bool] = False
    "Whether it reads `edge_index` of a batch."

    def on_host(self, batch: GraphBatch) -> GraphBatch:
        """Make what the network needs of a batch on the host; by default nothing.

        Constituents have been sorted and cut off before, if the configuration says so.
        """
        return batch

    @abstractmethod
    def forward(self, batch: GraphBatch) -> Tensor:
        """Map a batch to logits.

        Args:
            batch: Scaled inputs of constituents in x (N, num_node) and of jets in u (B, num_jet); p4 and jet as they are.

        Returns:
            Shape (B, num_classes); of an ensemble that trains as one network, (M, B, num_classes).
        """


@dataclass(frozen=True)
class Tagged:
    """What a tagger says of the jets of a batch."""

    logits: Tensor
    "One for each class, float32, shape (B, C); their softmax are the scores."
    members: Tensor | None = None
    "Logits of each member of an ensemble, float32, shape (M, B, C); None without."
    log_likelihood: Tensor | None = None
    "Of what an adversary guesses from the scores, shape (B,); None without one, and without what it guesses."

    @property
    def scores(self) -> Tensor:
        """Probability of each class, of an ensemble the mean of its members, shape (B, C)."""
        return self.logits.softmax(1)

    @property
    def spread(self) -> Tensor | None:
        """Standard deviation of the scores over the members of an ensemble, shape (B, C); None without."""
        return None if self.members is None else self.members.softmax(2).std(0)

    @classmethod
    def of_members(cls, members: Tensor) -> "Tagged":
        """Average the scores of members with logits (M, B, C)."""
        log_scores = members.log_softmax(2)
        return cls(log_scores.logsumexp(0) - math.log(members.shape[0]), members)


class Tagger(nn.Module):
    """Gives each jet a score for each class."""

    def __init__(
        self,
        network: TaggerNetwork,
        scales: tuple[Standardise, Standardise],
        manifest: Manifest,
        config: TaggerConfig,
        adversary: MassAdversary | None = None,
    ) -> None:
        """Wrap a network.

        Args:
            network: Maps a batch with scaled inputs to logits.
            scales: What scales the inputs of constituents, and those of jets.
            manifest: The dataset, which says where the columns are.
            config: Names of the inputs, and which constituents are read.
            adversary: Guesses, while the network learns, what its scores shall not tell: `decorrelated` among the targets.

        Raises:
            ConfigError: If the dataset lacks a column.
        """
        super().__init__()
        self.network, self.config, self.adversary = network, config, adversary
        self.node, self.jet = scales
        self.is_compiled = False
        self.jet_columns = JetColumns(manifest, config.jet_inputs, "model.jet_inputs")
        self.row_columns = self.jet_columns.row_columns
        self.node_places = node_places(manifest, config.inputs)

    def compile_network(self) -> None:
        """Compile the network when it is first called. A compiler does not see through what a batch makes on demand."""
        self.network.compile(dynamic=True)
        self.is_compiled = True

    def clip_gradients(self, max_norm: float) -> Tensor:
        """Clip the norm of the gradient, and return it as it was before, shape ()."""
        clip = getattr(self.network, "clip_gradients", None)
        return nn.utils.clip_grad_norm_(self.parameters(), max_norm) if clip is None else clip(max_norm)

    def on_host(self, batch: GraphBatch) -> GraphBatch:
        """Make what the network reads of a batch of the dataset: its inputs, not scaled yet, and what it needs beside them."""
        x = batch.x if self.node_places is None else batch.x[:, self.node_places]
        batch = dataclasses.replace(batch, x=x, u=self.jet_columns(batch))
        if self.config.is_ordered or self.config.max_constituents is not None:
            batch = _cut(batch, self.config.max_constituents)
        return self.network.on_host(batch)

    def forward(self, batch: GraphBatch) -> Tagged:
        """Tag a batch that `on_host` has made."""
        x = self.node(batch.x) if self.config.inputs else batch.x
        scaled = batch.with_inputs(x, self.jet(batch.u), edge_unit=1.0)
        if self.is_compiled:
            _make_structure(scaled, with_edges=self.network.reads_edges)
        logits = self.network(scaled).float()
        if logits.ndim == 3:
            return Tagged.of_members(logits)
        if self.adversary is None or DECORRELATED not in batch.targets:
            return Tagged(logits)
        with torch.autocast(logits.device.type, enabled=False):
            against_first = logits[:, 1:] - logits[:, :1]
            return Tagged(logits, log_likelihood=self.adversary(against_first, batch.targets[DECORRELATED]))


class TaggerEnsemble(nn.Module):
    """Averages the scores of taggers that differ in their weights alone, and is used like one of them."""

    def __init__(self, members: Sequence[Tagger]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        first = members[0]
        self.config, self.network, self.row_columns, self.on_host = (
            first.config,
            first.network,
            first.row_columns,
            first.on_host,
        )

    def forward(self, batch: GraphBatch) -> Tagged:
        """Tag a batch that `on_host` has made."""
        return Tagged.of_members(torch.stack([member(batch).logits for member in self.members]))


def _make_structure(batch: GraphBatch, *, with_edges: bool) -> None:
    """Make now what a batch would make when it is asked for."""
    vars(batch)["batch"] = batch.batch
    if with_edges:
        vars(batch)["edge_index"] = batch.edge_index


def _cut(batch: GraphBatch, max_constituents: int | None) -> GraphBatch:
    """Sort constituents by falling pT, and leave out the soft ones."""
    px, py = batch.p4[:, 0].numpy(), batch.p4[:, 1].numpy()
    places, ptr = hardest(np.hypot(px, py), batch.ptr.numpy(), max_constituents)
    return batch.take_nodes(torch.from_numpy(places), torch.from_numpy(ptr))


def node_places(manifest: Manifest, names: Sequence[str]) -> list[int] | None:
    """Find columns of constituents; None where they are all there are, in their order.

    Raises:
        ConfigError: If the dataset has no such column.
    """
    known = manifest.names("node")
    if missing := [name for name in names if name not in known]:
        raise ConfigError(f"{manifest.path}, model.inputs: {unknown('column', missing[0], known)}")
    places = [known.index(name) for name in names]
    return None if places == list(range(len(known))) else places
