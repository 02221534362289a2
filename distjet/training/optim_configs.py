"""Configurations of optimisers and of learning-rate schedules, and the tables of their names.

They stand apart from what they configure so that a typo in a key is reported without importing torch.
"""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from distjet.config import Component, ComponentConfig, Config


class OptimizerConfig(ComponentConfig):
    """What every optimiser has; weight decay acts on matrices alone (not on biases and normalisations)."""

    lr: float = Field(default=2e-3, gt=0)
    "Peak learning rate."
    weight_decay: float = Field(default=1e-4, ge=0)
    "Decay of the weights; decoupled from the gradient but for adam."
    betas: tuple[float, float] = (0.9, 0.99)
    "Decay of the running moments."
    eps: float = Field(default=1e-8, gt=0)
    "Added to the square root of the second moment."
    clip_norm: float = Field(default=1.0, gt=0)
    "The gradient's norm is clipped to this."


class AdamWConfig(OptimizerConfig):
    """Adam with decoupled weight decay (arXiv:1711.05101)."""

    name: str = "adamw"


class AdamConfig(OptimizerConfig):
    """Adam (arXiv:1412.6980); weight decay is added to the gradient."""

    name: str = "adam"
    weight_decay: float = Field(default=0.0, ge=0)
    "Added to the gradient, times the weights."
    betas: tuple[float, float] = (0.9, 0.999)
    "Decay of the running moments."


class RangerConfig(OptimizerConfig):
    """Rectified Adam (arXiv:1908.03265) with lookahead (arXiv:1907.08610), as used for ParticleNet and its successors."""

    name: str = "ranger"
    lr: float = Field(default=5e-3, gt=0)
    "Peak learning rate."
    weight_decay: float = Field(default=0.0, ge=0)
    "Decoupled weight decay."
    betas: tuple[float, float] = (0.95, 0.999)
    "Decay of the running moments."
    eps: float = Field(default=1e-5, gt=0)
    "Added to the square root of the second moment."
    slow_rate: float = Field(default=0.5, gt=0, le=1)
    "How far the slow weights go towards the fast ones."
    slow_every: int = Field(default=6, ge=1)
    "Steps of the fast weights between two steps of the slow ones."


OPTIMIZERS = {
    name: Component(f"distjet.training.optim_configs:{config}", f"distjet.training.{function}")
    for name, config, function in (
        ("adamw", "AdamWConfig", "optim:adamw"),
        ("adam", "AdamConfig", "optim:adam"),
        ("ranger", "RangerConfig", "ranger:Ranger"),
    )
}


def _rise(parts: tuple[float, ...]) -> tuple[float, ...]:
    if not all(0 < part < 1 for part in parts) or any(before >= after for before, after in pairwise(parts)):
        raise ValueError(f"expected rising parts of all steps between 0 and 1 (got {list(parts)})")
    return parts


class ScheduleConfig(Config):
    """Learning rate against time.

    The published ones, as fractions of the peak: ParticleNet's is one_cycle with start_fraction 0.1, warmup_fraction 0.4,
    fall_fraction 0.4 and final_fraction 1.67e-4; LundNet's is steps; LorentzNet's is warm_restarts with start_fraction 0.2,
    warmup_fraction 4/35, cycles_end 32/35, num_halvings 3 and final_fraction 0.0012; that of ParticleNeXt and Particle
    Transformer is flat_then_anneal with anneal exponential and no warm-up.
    """

    name: Literal["cosine", "flat_then_anneal", "one_cycle", "steps", "warm_restarts", "constant", "plateau"] = "cosine"
    "plateau reacts to the validation at the end of each epoch; the others depend on the step alone."
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    "Part of all steps over which the rate rises linearly (one_cycle: 0.3 is usual)."
    start_fraction: float = Field(default=0.0, ge=0, le=1)
    "Rate at the first step as a fraction of the peak."
    final_fraction: float = Field(default=0.01, ge=0, le=1)
    "Last learning rate as a fraction of the peak."
    flat_fraction: float = Field(default=0.7, ge=0, le=1)
    "flat_then_anneal: part of the steps after the warm-up before the rate falls."
    anneal: Literal["cosine", "exponential"] = "cosine"
    "flat_then_anneal: how the rate falls; exponentially needs a final_fraction above 0."
    fall_fraction: float | None = Field(default=None, gt=0, lt=1)
    """one_cycle: part of all steps over which the rate falls back to start_fraction, before the rest, over which it falls to
    final_fraction; null: it falls to final_fraction in one line."""
    milestones: Annotated[tuple[float, ...], AfterValidator(_rise)] = (1 / 3, 2 / 3)
    "steps: parts of all steps at which the rate is multiplied with step_factor."
    step_factor: float = Field(default=0.1, gt=0, lt=1)
    "steps: what the rate is multiplied with."
    num_cycles: int = Field(default=3, ge=1)
    "warm_restarts: number of times that the rate falls from the peak to zero like a cosine."
    cycle_growth: float = Field(default=2.0, gt=0)
    "warm_restarts: how much longer a cycle is than the one before."
    cycles_end: float = Field(default=1.0, gt=0, le=1)
    "warm_restarts: part of all steps at which the last cycle ends."
    num_halvings: int = Field(default=3, ge=1)
    """warm_restarts: number of equal parts of the steps after the cycles; each has half the rate of the one before, and the
    last one final_fraction."""
    plateau_factor: float = Field(default=0.3, gt=0, lt=1)
    "plateau: what the rate is multiplied with."
    plateau_patience: int = Field(default=3, ge=0)
    "plateau: epochs without improvement before the rate falls."
    plateau_metric: Literal["selection", "loss"] = "selection"
    "plateau: what has to improve on the validation split: the metric that selects the best epoch, or the loss."
