"""The small-R response network: a deep dense network that replaces pileup correction and numerical inversion in one step.

Widths, activations and initial weights (Glorot uniform, the default of Keras) are as published: 97,409 parameters for seven
inputs. One thing differs: the output starts at `initial_response` instead of zero. A ReLU at the output that is negative for
all jets has no gradient and never learns again; behind eleven layers the output at the start is almost the same for all jets,
so with a bias of zero it would be dead for about half of all seeds. It can still die under a learning rate of 0.01, which the
validation notices and names.

Reference:
    S. Lunday, Jet calibration in ATLAS using machine learning (2024).
"""

import math

from torch import Tensor, nn

from distjet.models.configs import ResponseDnnConfig
from distjet.models.network import JetNetwork
from distjet.nn.mlp import mlp
from distjet.nn.response_estimates import Point


class ResponseDnn(JetNetwork):
    """Dense layers with ReLU."""

    Config = ResponseDnnConfig

    def __init__(self, config: ResponseDnnConfig, num_inputs: int) -> None:
        super().__init__()
        self.layers = mlp(num_inputs, config.hidden, 1, activation=nn.ReLU)
        self.activation = nn.ReLU() if config.output == "relu" else nn.Softplus()
        dense = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        for layer in dense:
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
        start = config.initial_response
        nn.init.constant_(dense[-1].bias, start if config.output == "relu" else math.log(math.expm1(start)))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map standardised inputs (B, F) to outputs (B, 1)."""
        return self.activation(self.layers(inputs))

    def estimate(self, outputs: Tensor) -> Point:
        """Read outputs as responses."""
        return Point(outputs.squeeze(1))
