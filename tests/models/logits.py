"""What a tagging network gives without its wrapper, and the gradients of its parameters."""

import torch
from torch import Tensor, nn

from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.tagger import TaggerNetwork


def logits(network: TaggerNetwork, batch: GraphBatch) -> Tensor:
    """Logits in evaluation, without gradients."""
    network.eval()
    with torch.no_grad():
        return network(network.on_host(batch))


def gradients_of(network: nn.Module) -> dict[str, Tensor | None]:
    """Gradients of all parameters by name."""
    return {name: parameter.grad for name, parameter in network.named_parameters()}
