"""Optimiser and learning-rate schedule."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.optim import lr_scheduler

from distjet.config import implementation
from distjet.training.optim_configs import OPTIMIZERS, AdamConfig, AdamWConfig, OptimizerConfig, ScheduleConfig

Group = dict[str, Any]


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build the optimiser, with weight decay on matrices alone.

    A part of the model may have an attribute `lr_factor`, which multiplies the learning rate of its parameters, and
    `stacked_dims`, the number of leading dimensions of its parameters that count networks, not weights.
    """
    factors = _of_parts(model, "lr_factor", 1.0)
    stacked = _of_parts(model, "stacked_dims", 0)
    groups: list[Group] = []
    for factor in dict.fromkeys([1.0, *factors.values()]):
        mine = [p for p in model.parameters() if factors.get(p, 1.0) == factor]
        decayed = [p for p in mine if p.ndim - stacked.get(p, 0) > 1]
        free = [p for p in mine if p.ndim - stacked.get(p, 0) <= 1]
        for parameters, decay in ((decayed, config.weight_decay), (free, 0.0)):
            groups.append({"params": parameters, "weight_decay": decay, "lr": config.lr * factor})
    return implementation(config.name, OPTIMIZERS)(groups, config)


def _of_parts(model: nn.Module, attribute: str, default: float) -> dict[nn.Parameter, float]:
    """Return the values of an attribute of parts of a model, for the parameters of those that have another than the default."""
    parts = [(part, getattr(part, attribute, default)) for part in model.modules()]
    return {parameter: value for part, value in parts if value != default for parameter in part.parameters()}


def adamw(groups: list[Group], config: AdamWConfig) -> torch.optim.Optimizer:
    """Build Adam with decoupled weight decay.

    Reference:
        I. Loshchilov, F. Hutter, arXiv:1711.05101.
    """
    return torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, eps=config.eps)


def adam(groups: list[Group], config: AdamConfig) -> torch.optim.Optimizer:
    """Build Adam.

    Reference:
        D. Kingma, J. Ba, arXiv:1412.6980.
    """
    return torch.optim.Adam(groups, lr=config.lr, betas=config.betas, eps=config.eps)


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
        rise = config.start_fraction + (1 - config.start_fraction) * progress / config.warmup_fraction
        return max(rise, 1 / max(num_steps * config.warmup_fraction, 1))
    return SHAPES[config.name](progress, config)


def _after_warmup(progress: float, config: ScheduleConfig) -> float:
    return (progress - config.warmup_fraction) / (1 - config.warmup_fraction)


def _half_cosine(progress: float) -> float:
    """Fall from 1 to 0 while progress goes from 0 to 1."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def _line(progress: float, before: float, after: float) -> float:
    return before + (after - before) * progress


def _cosine(progress: float, config: ScheduleConfig) -> float:
    return config.final_fraction + (1 - config.final_fraction) * _half_cosine(_after_warmup(progress, config))


def _flat_then_anneal(progress: float, config: ScheduleConfig) -> float:
    after = _after_warmup(progress, config)
    if after <= config.flat_fraction:
        return 1.0
    annealed = (after - config.flat_fraction) / (1 - config.flat_fraction)
    if config.anneal == "exponential":
        return config.final_fraction**annealed
    return config.final_fraction + (1 - config.final_fraction) * _half_cosine(annealed)


def _one_cycle(progress: float, config: ScheduleConfig) -> float:
    """Fall in one line, or back to the rate of the first step and then on."""
    if config.fall_fraction is None:
        return _line(_after_warmup(progress, config), 1.0, config.final_fraction)
    turn = config.warmup_fraction + config.fall_fraction
    if progress <= turn:
        return _line((progress - config.warmup_fraction) / config.fall_fraction, 1.0, config.start_fraction)
    return _line((progress - turn) / (1 - turn), config.start_fraction, config.final_fraction)


def _steps(progress: float, config: ScheduleConfig) -> float:
    passed = sum(progress >= milestone for milestone in config.milestones)
    return config.step_factor**passed


def _warm_restarts(progress: float, config: ScheduleConfig) -> float:
    """Fall like a cosine, again and again (arXiv:1608.03983), and then by halves."""
    if progress >= config.cycles_end:
        part = (progress - config.cycles_end) / max(1 - config.cycles_end, 1e-12)
        stair = min(int(part * config.num_halvings + 1e-9), config.num_halvings - 1)
        return config.final_fraction * 2 ** (config.num_halvings - 1 - stair)
    lengths = [config.cycle_growth**cycle for cycle in range(config.num_cycles)]
    place = (progress - config.warmup_fraction) / (config.cycles_end - config.warmup_fraction) * sum(lengths)
    for length in lengths[:-1]:
        if place < length * (1 - 1e-9):
            return _half_cosine(place / length)
        place -= length
    return _half_cosine(place / lengths[-1])


SHAPES: dict[str, Callable[[float, ScheduleConfig], float]] = {
    "cosine": _cosine,
    "flat_then_anneal": _flat_then_anneal,
    "one_cycle": _one_cycle,
    "steps": _steps,
    "warm_restarts": _warm_restarts,
    "constant": lambda progress, config: 1.0,
}
"The course after the warm-up, as a fraction of the peak, for progress (the part of all steps that is done) from 0 to 1."
