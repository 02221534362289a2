"""What is learned? The loop knows a task by `build_model`, `loss` and `watch`.

Which task it is follows from the model: networks on constituents correct constituents, networks on whole jets predict
responses, taggers predict classes.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch

from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.configs import JetModelConfig
from distjet.models.tagger_configs import TaggerConfig
from distjet.ranks import SINGLE, RankInfo
from distjet.training.columns import Features
from distjet.training.constituent_task import ConstituentTask
from distjet.training.response_task import ResponseTask
from distjet.training.settings import TrainConfig
from distjet.training.tagging_task import TaggingTask
from distjet.training.terms import LossSums, Term


class Watch(Protocol):
    """Watches a validation."""

    def observe(self, outputs: Any, batch: GraphBatch) -> None:
        """Take a batch into account, without a look at the host."""
        ...

    def metrics(self, ranks: RankInfo) -> dict[str, float]:
        """Return numbers of the jets of all processes, the same on each."""
        ...


class Task(Protocol):
    """Model, loss and what is watched.

    Attributes:
        manifest: The dataset.
        terms: Of the loss.
        features: The columns that the model reads.
        row_columns: What the batches must hold in `rows`.
    """

    manifest: Manifest
    terms: list[Term]
    features: Features
    row_columns: tuple[str, ...]

    def build_model(self) -> Any:
        """Build an untrained model; standardisation constants come from the manifest."""
        ...

    def on_host(self, model: Any, split: str) -> Callable[[GraphBatch], GraphBatch] | None:
        """Return what is done with each batch of a split on the host, before the device sees it; None: nothing."""
        ...

    def begin_epoch(self, model: Any, progress: float) -> None:
        """Tell the model which part of the epochs is done, from 0 to 1, if it wants to know."""
        ...

    def loss(self, outputs: Any, batch: GraphBatch, progress: float = 0.0) -> LossSums:
        """Sum the loss over a batch; progress is the part of the epochs that is done, from 0 to 1."""
        ...

    def watch(self) -> Watch:
        """Begin to watch a validation."""
        ...


def task_class(config: TrainConfig) -> type[ConstituentTask] | type[ResponseTask] | type[TaggingTask]:
    """Return the task that the configured model is for."""
    if isinstance(config.model, TaggerConfig):
        return TaggingTask
    return ResponseTask if isinstance(config.model, JetModelConfig) else ConstituentTask


def build_task(config: TrainConfig, manifest: Manifest, device: torch.device, ranks: RankInfo = SINGLE) -> Task:
    """Build the task that the configured model is for.

    Raises:
        ConfigError: If the dataset lacks what it needs.
    """
    return task_class(config)(config, manifest, device, ranks)
