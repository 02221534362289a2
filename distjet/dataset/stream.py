"""How do shards become batches for one rank, with every row seen exactly once an epoch?

The order of an epoch is a pure function of (seed, epoch): row groups of all shards are permuted, consecutive ones are pooled
into windows, rows are permuted inside a window, and the result is cut into steps of equal size (to one row). A rank takes its
contiguous part of every step. So the global batch of a step is the same for any number of ranks, all ranks make the same number
of steps, and a resumed epoch needs no more state than its step.

No Python object exists per graph: Arrow decodes columns, ragged rows are gathered by index arithmetic, edges are shifted by one
addition. A background thread reads, gathers and pins ahead of the caller. Every rank decodes every window that it draws from.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from distjet.config import Config
from distjet.dataset.batch import GraphBatch
from distjet.dataset.manifest import Manifest
from distjet.dataset.prefetch import ahead
from distjet.dataset.windows import ShardReader, Window, concatenate
from distjet.errors import ConfigError
from distjet.ranks import SINGLE, RankInfo


class StreamConfig(Config):
    """How a split is read."""

    batch_size: int = Field(default=512, ge=1)
    "Graphs in a global batch, over all ranks."
    shuffle: bool = True
    "Draw a new order every epoch; without it, rows come in the order of the shards."
    window_row_groups: int = Field(default=64, ge=1)
    "Row groups pooled and mixed at a time; bounds the memory of the stream."
    prefetch_batches: int = Field(default=4, ge=1)
    "Batches made ahead by the background thread."
    row_columns: tuple[str, ...] = ()
    "Identifiers and spectators that are passed along as numpy arrays (for predictions)."


@dataclass(frozen=True)
class StreamState:
    """All that is needed to continue an epoch: which data, which order, which step is next."""

    fingerprint: str
    seed: int
    epoch: int
    step: int
    num_steps: int


class JetStream:
    """Batches of one split for one rank.

    Iterating yields the rest of the current epoch, from `step` on; the next iteration yields the next epoch.

    Example:
        >>> stream = JetStream(Manifest.load("outputs/dataset"), "train", StreamConfig(batch_size=256), seed=1)
        >>> for batch in stream:
        ...     loss = model(batch)
    """

    def __init__(
        self,
        manifest: Manifest,
        split: str,
        config: StreamConfig | None = None,
        *,
        seed: int = 0,
        ranks: RankInfo = SINGLE,
        pin_memory: bool = False,
    ) -> None:
        """Plan the stream; nothing is read before the first batch.

        Raises:
            ConfigError: If the split has fewer rows than there are ranks.
        """
        self.manifest, self.split, self.seed, self.ranks = manifest, split, seed, ranks
        self.config = config or StreamConfig()
        self.pin_memory = pin_memory
        self.reader = ShardReader(manifest, split, self.config.row_columns)
        if self.reader.num_rows < ranks.world_size:
            raise ConfigError(
                f"{manifest.path}: split {split!r} has {self.reader.num_rows} rows for {ranks.world_size} workers; "
                "every worker needs at least one"
            )
        # as many steps as keep a batch within its size, but no step that leaves a rank without a row
        self.num_steps = min(-(-self.reader.num_rows // self.config.batch_size), self.reader.num_rows // ranks.world_size)
        self.epoch = 0
        self.step = 0

    def __len__(self) -> int:
        """Number of steps in an epoch; the same on every rank."""
        return self.num_steps

    def state_dict(self) -> dict[str, Any]:
        """Return the position as plain values: the next batch is the first one not yet yielded."""
        return vars(StreamState(self.manifest.fingerprint, self.seed, self.epoch, self.step, self.num_steps))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken, on any number of ranks.

        Raises:
            ConfigError: If the state belongs to another dataset, order or batch size.
        """
        wanted = StreamState(**state)
        mine = StreamState(self.manifest.fingerprint, self.seed, wanted.epoch, wanted.step, self.num_steps)
        if wanted != mine:
            raise ConfigError(f"the stream's state does not belong to {self.manifest.path}: expected {mine}, got {wanted}")
        self.epoch, self.step = wanted.epoch, wanted.step

    def __iter__(self) -> Iterator[GraphBatch]:
        """Yield the rest of the epoch, prepared ahead by a background thread."""
        for batch in ahead(self._batches(self.epoch, self.step), self.config.prefetch_batches):
            self.step += 1
            yield batch
        self.epoch, self.step = self.epoch + 1, 0

    def _batches(self, epoch: int, first_step: int) -> Iterator[GraphBatch]:
        order = self._row_groups(epoch)
        size = self.config.window_row_groups
        starts = np.cumsum([0, *(self.reader.rows_in(order[i : i + size]) for i in range(0, len(order), size))])
        bounds = np.linspace(0, self.reader.num_rows, self.num_steps + 1).astype(np.int64)
        held: dict[int, tuple[Window, np.ndarray]] = {}
        for step in range(first_step, self.num_steps):
            lo, hi = self._my_rows(int(bounds[step]), int(bounds[step + 1]))
            first, last = (int(i) for i in np.searchsorted(starts, [lo, hi - 1], side="right") - 1)
            held = {i: held[i] if i in held else self._window(order, i, epoch) for i in range(first, last + 1)}
            parts = [window.take(rows[max(lo - starts[i], 0) : hi - starts[i]]) for i, (window, rows) in held.items()]
            batch = self.reader.to_batch(concatenate(parts))
            yield batch.pin_memory() if self.pin_memory else batch

    def _my_rows(self, lo: int, hi: int) -> tuple[int, int]:
        """This rank's part of a step's rows."""
        rank, size = self.ranks.world_rank, self.ranks.world_size
        return lo + (hi - lo) * rank // size, lo + (hi - lo) * (rank + 1) // size

    def _row_groups(self, epoch: int) -> list[int]:
        groups = np.arange(len(self.reader.row_groups))
        return (self._rng(epoch).permutation(groups) if self.config.shuffle else groups).tolist()

    def _window(self, order: Sequence[int], index: int, epoch: int) -> "tuple[Window, np.ndarray]":
        size = self.config.window_row_groups
        window = self.reader.read(order[index * size : (index + 1) * size])
        rows = np.arange(window.num_rows)
        return window, self._rng(epoch, index).permutation(rows) if self.config.shuffle else rows

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, *key])))
