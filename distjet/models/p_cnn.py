"""P-CNN: a residual network in one dimension, along the constituents in order of pT.

Three stages of two units; a unit is two convolutions of three neighbours with a shortcut around them, and every stage but the
first halves the length. 354,540 parameters for 17 inputs and ten classes, as published on JetClass; 349,456 for the seven
kinematic inputs and two classes. Jets are filled up with zeros to a fixed length, which the normalisations see as well: that is
the published network, and since the length is fixed, a score does not depend on other jets of a batch.

Reference:
    CMS, "Identification of heavy, energetic, hadronically decaying particles using machine-learning techniques",
    arXiv:2004.08262 (DeepAK8); as P-CNN in H. Qu, L. Gouskos, "ParticleNet", arXiv:1902.08570.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.tagger import TaggerNetwork, TaggerSpec
from distjet.models.tagger_configs import PCnnConfig
from distjet.nn.batch_norm import BatchNorm
from distjet.nn.dense import to_dense


class PCnn(TaggerNetwork):
    """Convolutions along the constituents, their mean, dense layers."""

    Config = PCnnConfig

    def __init__(self, config: PCnnConfig, spec: TaggerSpec) -> None:
        super().__init__()
        self.length = config.max_constituents
        self.embed = nn.Sequential(
            BatchNorm(spec.num_node),
            nn.Conv1d(spec.num_node, config.width, 3, padding=1),
            BatchNorm(config.width),
            nn.ReLU(),
        )
        self.stages = nn.Sequential(*_stages(config.width, config.stages))
        self.hidden = nn.Linear(config.stages[-1][-1] + spec.num_jet, config.hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.classify = nn.Linear(config.hidden, spec.num_classes)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Map a batch, constituents sorted by falling pT, to logits of shape (B, num_classes)."""
        dense = to_dense(batch.x, batch.ptr, batch.batch, self.length)
        channels = self.stages(self.embed(dense.transpose(1, 2)))
        hidden = self.hidden(torch.cat([channels.mean(2), batch.u], dim=1)).relu()
        return self.classify(self.dropout(hidden))


def _stages(width: int, stages: tuple[tuple[int, ...], ...]) -> list[nn.Module]:
    units: list[nn.Module] = []
    for number, widths in enumerate(stages):
        for place, (before, after) in enumerate(pairwise([width, *widths])):
            units.append(ResidualUnit(before, after, stride=2 if number and not place else 1))
        width = widths[-1]
    return units


class ResidualUnit(nn.Module):
    """Two convolutions of three neighbours, and a shortcut."""

    def __init__(self, num_inputs: int, num_outputs: int, stride: int) -> None:
        super().__init__()
        self.convolve = nn.Sequential(
            nn.Conv1d(num_inputs, num_outputs, 3, stride, padding=1),
            BatchNorm(num_outputs),
            nn.ReLU(),
            nn.Conv1d(num_outputs, num_outputs, 3, padding=1),
            BatchNorm(num_outputs),
            nn.ReLU(),
        )
        fits = num_inputs == num_outputs and stride == 1
        self.shortcut = nn.Identity() if fits else nn.Conv1d(num_inputs, num_outputs, 1, stride, bias=False)

    def forward(self, channels: Tensor) -> Tensor:
        """Map (B, num_inputs, L) to (B, num_outputs, L / stride)."""
        return self.shortcut(channels) + self.convolve(channels)
