"""Optimiser and learning-rate schedule."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.optim import lr_scheduler

from distjet.training.settings import OptimizerConfig, ScheduleConfig


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW (arXiv:1711.05101) with weight decay on matrices alone."""
    decayed = [p for p in model.parameters() if p.ndim > 1]
    free = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas)


def build_schedule(
    optimizer: torch.optim.Optimizer, config: ScheduleConfig, num_steps: int
) -> lr_scheduler.LRScheduler | lr_scheduler.ReduceLROnPlateau:
    """Build the schedule for a training of `num_steps` steps in all."""
    if config.name == "plateau":
        return lr_scheduler.ReduceLROnPlateau(
            optimizer, factor=config.plateau_factor, patience=config.plateau_patience, threshold=1e-3
        )
    return lr_scheduler.LambdaLR(optimizer, partial(_factor, config=config, num_steps=num_steps))


def _factor(step: int, config: ScheduleConfig, num_steps: int) -> float:
    """Learning rate at a step, as a fraction of the peak."""
    progress = min(step / max(num_steps, 1), 1.0)
    if progress < config.warmup_fraction:
        return max(progress / config.warmup_fraction, 1 / max(num_steps * config.warmup_fraction, 1))
    after = (progress - config.warmup_fraction) / (1 - config.warmup_fraction)
    return SHAPES[config.name](after, config)


def _cosine(progress: float, config: ScheduleConfig) -> float:
    return config.final_fraction + (1 - config.final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))


def _flat_then_anneal(progress: float, config: ScheduleConfig) -> float:
    if progress <= config.flat_fraction:
        return 1.0
    return _cosine((progress - config.flat_fraction) / (1 - config.flat_fraction), config)


def _one_cycle(progress: float, config: ScheduleConfig) -> float:
    return 1 - progress * (1 - config.final_fraction)


SHAPES: dict[str, Callable[[float, ScheduleConfig], float]] = {
    "cosine": _cosine,
    "flat_then_anneal": _flat_then_anneal,
    "one_cycle": _one_cycle,
    "constant": lambda progress, config: 1.0,
}
"The course after the warm-up, as a fraction of the peak, for progress from 0 to 1."
