"""Rectified Adam with lookahead: the optimiser of ParticleNet's authors, and of taggers since.

Fast weights are those of rectified Adam. After every few steps of theirs, slow weights go a part of the way towards them, and
the fast ones begin anew from there. Slow weights and the number of steps are part of the state, so that a training that goes on
from a checkpoint makes the steps of one that was never interrupted.

Reference:
    L. Liu et al., arXiv:1908.03265; M. Zhang, J. Lucas, G. Hinton, J. Ba, arXiv:1907.08610.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from distjet.training.optim_configs import RangerConfig


class Ranger(torch.optim.RAdam):
    """Lookahead around rectified Adam with decoupled weight decay."""

    Config = RangerConfig

    def __init__(self, groups: list[dict[str, Any]], config: RangerConfig) -> None:
        self.slow_rate, self.slow_every = config.slow_rate, config.slow_every
        super().__init__(groups, lr=config.lr, betas=config.betas, eps=config.eps, decoupled_weight_decay=True)
        for group in self.param_groups:
            group["num_steps"] = 0  # in a group, because what is there becomes part of the state

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Make a step of the fast weights, and now and then one of the slow ones."""
        parameters = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        first_seen = {p: p.detach().clone() for p in parameters if "slow" not in self.state[p]}
        loss = super().step(closure)
        for parameter, value in first_seen.items():
            self.state[parameter]["slow"] = value
        for group in self.param_groups:
            group["num_steps"] += 1
            if group["num_steps"] % self.slow_every == 0:
                self._step_of_slow_weights([p for p in group["params"] if "slow" in self.state[p]])
        return loss

    def _step_of_slow_weights(self, fast: list[Tensor]) -> None:
        if fast:
            slow = [self.state[p]["slow"] for p in fast]
            torch._foreach_lerp_(slow, fast, self.slow_rate)
            torch._foreach_copy_(fast, slow)
