"""A tagger as a user would write it, known by its import path alone."""

import torch
from pydantic import Field
from torch import Tensor, nn

from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.tagger import TaggerNetwork, TaggerSpec
from distjet.models.tagger_configs import TaggerConfig
from distjet.nn.segments import segment_sum


class DeepSetsConfig(TaggerConfig):
    """A sum over constituents."""

    name: str = "tests.taggers:DeepSets"
    inputs: tuple[str, ...] = ("em_fraction", "log_energy_fraction")
    width: int = Field(default=16, ge=1)


class DeepSets(TaggerNetwork):
    """An MLP of the sum of an MLP of each constituent."""

    Config = DeepSetsConfig

    def __init__(self, config: DeepSetsConfig, spec: TaggerSpec) -> None:
        super().__init__()
        self.node = nn.Sequential(nn.Linear(spec.num_node, config.width), nn.SiLU())
        self.jet = nn.Sequential(nn.Linear(config.width + spec.num_jet, config.width), nn.SiLU())
        self.out = nn.Linear(config.width, spec.num_classes)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Map a batch to logits."""
        summed = segment_sum(self.node(batch.x), batch.batch, batch.num_graphs)
        return self.out(self.jet(torch.cat([summed, batch.u], dim=1)))
