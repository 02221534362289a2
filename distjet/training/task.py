"""What is learned? The loop knows a task by `build_model`, `loss` and `observe`.

Which task it is follows from the model: networks on constituents correct constituents, networks on whole jets predict
responses. A tagger is another class with the same methods.
"""

from typing import Any, Protocol

import torch

from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.configs import JetModelConfig
from distjet.ranks import SINGLE, RankInfo
from distjet.training.closure import ResponseHistogram
from distjet.training.columns import Features
from distjet.training.constituent_task import ConstituentTask
from distjet.training.response_task import ResponseTask
from distjet.training.settings import TrainConfig
from distjet.training.terms import LossSums, Term


class Task(Protocol):
    """Model, loss and what is watched.

    Attributes:
        manifest: The dataset.
        terms: Of the loss.
        features: The columns that the model reads.
        row_columns: What the batches must hold in `rows`.
        energy_range_gev: Lowest and highest true energy of the training split.
    """

    manifest: Manifest
    terms: list[Term]
    features: Features
    row_columns: tuple[str, ...]
    energy_range_gev: tuple[float, float]

    def build_model(self) -> Any:
        """Build an untrained model; standardisation constants come from the manifest."""
        ...

    def loss(self, outputs: Any, batch: GraphBatch, progress: float = 0.0) -> LossSums:
        """Sum the loss over a batch; progress is the part of the epochs that is done, from 0 to 1."""
        ...

    def observe(self, histogram: ResponseHistogram, outputs: Any, batch: GraphBatch) -> None:
        """Fill the energy response of a batch into a histogram."""
        ...


def task_class(config: TrainConfig) -> type[ConstituentTask] | type[ResponseTask]:
    """Return the task that the configured model is for."""
    return ResponseTask if isinstance(config.model, JetModelConfig) else ConstituentTask


def build_task(config: TrainConfig, manifest: Manifest, device: torch.device, ranks: RankInfo = SINGLE) -> Task:
    """Build the task that the configured model is for.

    Raises:
        ConfigError: If the dataset lacks what it needs.
    """
    return task_class(config)(config, manifest, device, ranks)
