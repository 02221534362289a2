"""Exponential moving average of the weights of a model.

Equal to `torch.optim.swa_utils.AveragedModel` with its EMA function, but the number of updates is counted on the host: there,
it is a tensor that is copied to the device, or compared on it, in every step, and both make the host wait.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """Keeps a copy of a model whose weights follow it slowly; the first update copies it."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model).requires_grad_(False)
        self.decay = decay
        self.num_updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards a model's weights: average = decay * average + (1 - decay) * weights."""
        weight = 1 - self.decay if self.num_updates else 1.0
        torch._foreach_lerp_(list(self.module.parameters()), [p.detach() for p in model.parameters()], weight)
        for ours, theirs in zip(self.module.buffers(), model.buffers(), strict=True):  # e.g. what a batch norm has seen
            ours.copy_(theirs)
        self.num_updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights and the number of updates."""
        return {"module": self.module.state_dict(), "num_updates": self.num_updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state."""
        self.module.load_state_dict(state["module"])
        self.num_updates = state["num_updates"]
