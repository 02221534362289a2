"""How do shards become batches for one rank, with every row seen exactly once an epoch?

The order of an epoch is a pure function of (seed, epoch), cut into lanes and steps (`lanes.py`): the global batch
of a step is the same for any number of ranks, all ranks make the same number of steps, and a resumed epoch needs no more state
than its step. Threads decode and gather ahead of the caller (`pipeline.py`); no Python object exists per graph.

A rank reads the row groups of its own lanes alone. Decoded row groups stay in memory while there is room, so a small split is
decoded once; with a cache on a local disk, a large one is, too.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.arena import Arena
from distjet.dataset.streaming.batch import GraphBatch
from distjet.dataset.streaming.cache import CacheKey, RowGroupCache
from distjet.dataset.streaming.decode import Decoder
from distjet.dataset.streaming.gather import Gatherer, scale_of
from distjet.dataset.streaming.lanes import EpochPlan, LanePlan, Lanes, check_shares, cut_equal_rows, lanes_that_fit, num_slots
from distjet.dataset.streaming.layout import Layout, row_groups
from distjet.dataset.streaming.node_budget import NodeBudget, steps_for_budget
from distjet.dataset.streaming.pipeline import Counters, Pass, Pipeline, Sources
from distjet.dataset.streaming.settings import StreamConfig
from distjet.errors import ConfigError
from distjet.ranks import SINGLE, RankInfo
from distjet.storage import for_arrow

__all__ = ["JetStream", "StreamConfig", "StreamState"]

ORDER_VERSION = 1
"Raised when the same configuration gives another order."


@dataclass(frozen=True)
class StreamState:
    """All that is needed to continue an epoch: which order of which data, which epoch and step come next."""

    plan: str
    seed: int
    epoch: int
    step: int


class JetStream:
    """Batches of one split for one rank.

    Iterating yields the rest of the current epoch, from `step` on; the next iteration yields the next epoch. Threads run while
    an iteration is under way, and end with it.

    Attributes:
        epoch: The epoch under way, or the next one.
        step: The next step.
        num_steps: Steps in an epoch, the same on every rank.
        counters: What was read and made, and how long the caller waited.

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
        finish: Callable[[GraphBatch], GraphBatch] | None = None,
    ) -> None:
        """Plan the stream; nothing is read before the first batch.

        Args:
            manifest: The dataset.
            split: train, val or test.
            config: Sizes, order and columns.
            seed: Of the order.
            ranks: Whose part of the rows is read.
            pin_memory: Whether batches are in page-locked memory.
            finish: What a network wants done with each batch on the host; called in the thread that reads ahead.

        Raises:
            ConfigError: If a rank would have nothing to do in some step, or the memory is too small.
            DataError: If the split is empty.
        """
        self.manifest, self.split, self.seed, self.ranks, self.pin_memory = manifest, split, seed, ranks, pin_memory
        self.finish = finish
        self.config = config or StreamConfig()
        self.groups = row_groups(manifest, split)
        is_half = self.config.cache is not None and self.config.cache.dtype == "float16"
        self.layout = Layout.of(manifest, self.config.row_columns, is_half=is_half)
        if self.config.cache is not None and self.config.row_columns:
            raise ConfigError("row_columns are not kept in a cache; set stream.cache=null where they are needed")
        self.sizes = np.array([group.rows for group in self.groups])
        self.lanes = self._lanes()
        self.num_steps, fewest_rows = self._steps()
        check_shares(self.lanes, ranks.world_size, fewest_rows)
        self.counters = Counters()
        self.epoch = 0
        self.step = 0
        self._plans: dict[int, EpochPlan] = {}
        self._arena: Arena | None = None

    def __len__(self) -> int:
        """Number of steps in an epoch; the same on every rank."""
        return self.num_steps

    @property
    def mean_batch_size(self) -> float:
        """Mean number of graphs in a global batch."""
        return self.lanes.num_rows / self.num_steps

    def state_dict(self) -> dict[str, Any]:
        """Return the position as plain values: the next batch is the first one not yet yielded."""
        return vars(StreamState(self.plan, self.seed, self.epoch, self.step))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken, on any number of ranks.

        Raises:
            ConfigError: If the state is none, belongs to another dataset or order, or names a step that no epoch has.
        """
        if (found := set(state)) != (fields := {field.name for field in dataclasses.fields(StreamState)}):
            raise ConfigError(f"a stream's state has {sorted(fields)}, this one has {sorted(found)}")
        wanted = StreamState(**state)
        mine = dataclasses.replace(wanted, plan=self.plan, seed=self.seed)
        if wanted != mine:
            raise ConfigError(f"the stream's state does not belong to {self.manifest.path}: expected {mine}, got {wanted}")
        if wanted.epoch < 0 or not 0 <= wanted.step <= self.num_steps:
            raise ConfigError(f"the stream's state is no position in epochs of {self.num_steps} steps: {wanted}")
        self.epoch, self.step = wanted.epoch, wanted.step

    @property
    def plan(self) -> str:
        """What defines the order of the rows, beside the seed, in words."""
        size = f"{self.config.batch_size} graphs" if self.config.max_nodes is None else f"{self.config.max_nodes} nodes"
        order = "mixed" if self.config.shuffle else "in order"
        return (
            f"{self.split} of {self.manifest.fingerprint}, {order}, {self.num_steps} steps of {size}, "
            f"{self.lanes.num_lanes} lanes, version {ORDER_VERSION}"
        )

    def __iter__(self) -> Iterator[GraphBatch]:
        """Yield the rest of the epoch.

        Raises:
            RuntimeError: If `load_state_dict` or another iteration moved the stream while this one was under way.
            DataError: If a row group cannot be read, or does not hold what the manifest says.
        """
        epoch, work = self.epoch, self._pass()
        arena, self._arena = self._arena_for(work), None  # of this iteration alone, while it lasts
        sources = Sources(arena, self._cache, self._gatherer, lambda: Decoder(self.layout), self.counters, self._finish)
        pipeline = Pipeline(sources, work, self.config.num_threads, self.config.prefetch_bytes)
        try:
            with pipeline:
                for step, batch in enumerate(pipeline, work.first_step + 1):
                    self.step = step
                    yield batch
                    self._check_unmoved(epoch, step)
        finally:
            self._arena = arena if pipeline.has_ended else None
        self.epoch, self.step = epoch + 1, 0

    def _check_unmoved(self, epoch: int, step: int) -> None:
        if (self.epoch, self.step) != (epoch, step):
            raise RuntimeError(
                f"the stream was moved to step {self.step} of epoch {self.epoch} while an iteration was at step {step} of "
                f"epoch {epoch}: its state would be wrong; end the iteration first, or make a JetStream for each of them"
            )

    # --- the order -------------------------------------------------------------------------------------------------

    def _lanes(self) -> Lanes:
        """Lanes over the split: a function of dataset and configuration; but unshuffled, one for each rank."""
        everything = Layout.of(self.manifest)  # whatever this stream leaves out: the lanes must not depend on it
        largest = max(everything.num_bytes(group) for group in self.groups)
        wanted = self.config.lanes if self.config.shuffle else 1
        fitting = lanes_that_fit(wanted, largest, self.config.max_bytes)
        num_lanes = fitting if self.config.shuffle else self.ranks.world_size
        return Lanes(int(self.sizes.sum()), num_lanes, alternate=self.config.shuffle)

    def _steps(self) -> tuple[int, int]:
        """Return the number of steps of an epoch and the fewest rows of any."""
        if self.config.max_nodes is None:
            num_steps = -(-self.lanes.num_rows // self.config.batch_size)
            return num_steps, self.lanes.num_rows // num_steps
        if not self.layout.p4:
            raise ConfigError(f"{self.manifest.path} has no constituents; set batch_size instead of max_nodes")
        shards = self.manifest.shards(self.split)
        largest = max(shard.largest_graph for shard in shards)
        return steps_for_budget(self.config.max_nodes, sum(shard.nodes for shard in shards), largest)

    @cached_property
    def _lane_plan(self) -> LanePlan:
        cut = cut_equal_rows if self.config.max_nodes is None else self._node_budget()
        return LanePlan(self.sizes, self.lanes, self.num_steps, self.seed if self.config.shuffle else None, cut)

    def _node_budget(self) -> NodeBudget:
        shards = self.manifest.shards(self.split)
        smallest = np.min_scalar_type(max(shard.largest_graph for shard in shards))
        places = [for_arrow(self.manifest.path / shard.path) for shard in shards]
        columns = [pq.read_table(path, filesystem=files, columns=["num_nodes"])["num_nodes"] for files, path in places]
        counts = np.concatenate([column.to_numpy().astype(smallest) for column in columns])
        return NodeBudget(counts, np.cumsum(self.sizes) - self.sizes)

    def _plan_of(self, epoch: int) -> EpochPlan:
        """Return the plan of an epoch; those of this one and the next are kept."""
        if epoch not in self._plans:
            before = {number: plan for number, plan in self._plans.items() if number == epoch - 1}
            self._plans = before | {epoch: self._lane_plan.epoch(epoch)}
        return self._plans[epoch]

    def _pass(self) -> Pass:
        epoch = self.epoch
        plan = self._plan_of(epoch)
        return Pass(
            plan, self.ranks, self.step, plan.needs(self.ranks, self.step), lambda: self._plan_of(epoch + 1).needs(self.ranks)
        )

    # --- the machinery ---------------------------------------------------------------------------------------------

    def _arena_for(self, work: Pass) -> Arena:
        """Return the arena of the last iteration, if it has room for this one."""
        owned = len(self.lanes.owned_by(self.ranks))
        wanted = max(min(num_slots(owned), len(self.groups)), work.needs.most_at_once())
        if self._arena is not None and self._arena.num_slots >= wanted:
            return self._arena
        return Arena(self.layout, self.groups, wanted)

    @cached_property
    def _cache(self) -> RowGroupCache | None:
        if self.config.cache is None:
            return None
        share = self.lanes.num_rows / sum(self.manifest.num_rows(split) for split in self.manifest.content["shards"])
        return RowGroupCache(
            self.config.cache, self.layout, self.groups, CacheKey(self.manifest.fingerprint, self.split, share)
        )

    def _finish(self, batch: GraphBatch) -> GraphBatch:
        if self.finish is None:
            return batch
        finished = self.finish(batch)
        return finished.pin_memory() if self.pin_memory else finished

    @cached_property
    def _gatherer(self) -> Gatherer:
        is_complete = self.manifest.content["graph"]["name"] == "fully_connected"
        plain = Gatherer(self.layout, is_complete=is_complete, pin_memory=self.pin_memory and self.finish is None)
        if not self.config.standardise:
            return plain
        largest = max(shard.largest_graph for shard in self.manifest.shards(self.split))
        node, graph = scale_of(self.manifest, self.layout.node, largest), scale_of(self.manifest, self.layout.graph)
        return dataclasses.replace(plain, node_scale=node, graph_scale=graph)
