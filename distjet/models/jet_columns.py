"""Where in a batch are columns of whole jets, whichever role they have in the dataset?"""

from collections.abc import Sequence

import torch
from torch import Tensor

from distjet.config import unknown
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import JET_COLUMNS, GraphBatch
from distjet.errors import ConfigError


class JetColumns:
    """Finds columns of whole jets in a batch, whichever role they have in the dataset."""

    def __init__(self, manifest: Manifest, names: Sequence[str], owner: str) -> None:
        """Look the columns up.

        Args:
            manifest: The dataset.
            names: Of the columns.
            owner: Who needs them, for messages.

        Raises:
            ConfigError: If the dataset has no such column.
        """
        self.names, self.graph = tuple(names), manifest.names("graph")
        spectators = manifest.names("spectator")
        known = (*JET_COLUMNS, *self.graph, *spectators)
        if missing := [name for name in names if name not in known]:
            raise ConfigError(f"{manifest.path}, {owner}: {unknown('column', missing[0], known)}")
        self.row_columns = tuple(name for name in names if name not in (*JET_COLUMNS, *self.graph))

    def __call__(self, batch: GraphBatch) -> Tensor:
        """Return the columns of a batch, shape (B, C)."""
        if not self.names:
            return batch.u.new_zeros(batch.num_graphs, 0)
        return torch.stack([self._column(batch, name) for name in self.names], dim=1)

    def _column(self, batch: GraphBatch, name: str) -> Tensor:
        if name in JET_COLUMNS:
            return batch.jet[:, JET_COLUMNS.index(name)]
        if name in self.graph:
            return batch.u[:, self.graph.index(name)]
        return torch.as_tensor(batch.rows[name], dtype=batch.u.dtype, device=batch.u.device)
