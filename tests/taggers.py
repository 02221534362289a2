"""Taggers for tests: one as a user would write it, known by its import path alone, and those of the table, untrained."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from distjet.config import implementation, import_path
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.tagger import Tagger, TaggerNetwork, TaggerSpec
from distjet.models.tagger_configs import TAGGERS, TaggerConfig
from distjet.nn.normalise import Standardise
from distjet.nn.segments import segment_sum

SMALLER: dict[str, dict[str, Any]] = {
    "high_level_dnn": {"jet_inputs": ("jet_mass", "area"), "hidden": (16,)},
    "jet_image_resnet": {"depths": (1, 1)},
    "particle_transformer": {"num_blocks": 2},
}
"What is changed of the published networks: for the time that tests take, and for columns that toys have."


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


def untrained(name: str, manifest: Manifest, seed: int = 0, num_classes: int = 2) -> Tagger:
    """A tagger of the table whose batch norms have seen something, in evaluation."""
    torch.manual_seed(seed)
    config = import_path(TAGGERS[name].config)(**SMALLER.get(name, {}))
    scales = tuple(Standardise([0.1] * len(names), [1.3] * len(names)) for names in (config.inputs, config.jet_inputs))
    network = implementation(name, TAGGERS)(config, TaggerSpec(len(config.inputs), len(config.jet_inputs), num_classes))
    for key, value in network.state_dict().items():
        if key.endswith("running_mean"):
            value.normal_(std=0.1)
        elif key.endswith("running_var"):
            value.uniform_(0.8, 1.2)
    return Tagger(network, scales, manifest, config).eval()
