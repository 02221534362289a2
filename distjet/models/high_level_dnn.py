"""The high-level DNN: substructure of the jet alone, no constituents.

Fifteen variables (`distjet.physics.substructure`) and five layers of 180 are those of ATLAS' open data on top tagging: 133,381
parameters with one output. It reads any columns of jets.

Reference:
    ATLAS, "Constituent-based top-quark tagging with the ATLAS detector", ATL-PHYS-PUB-2022-039; arXiv:2407.20127; and the
    example that comes with its open data, opendata.cern.ch/record/80030.
"""

from torch import Tensor, nn

from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.tagger import TaggerNetwork, TaggerSpec
from distjet.models.tagger_configs import HighLevelDnnConfig
from distjet.nn.mlp import mlp


class HighLevelDnn(TaggerNetwork):
    """Dense layers with ReLU on columns of jets."""

    Config = HighLevelDnnConfig

    def __init__(self, config: HighLevelDnnConfig, spec: TaggerSpec) -> None:
        super().__init__()
        self.layers = mlp(spec.num_jet, config.hidden, spec.num_classes, nn.ReLU)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Map a batch to logits of shape (B, num_classes)."""
        return self.layers(batch.u)
