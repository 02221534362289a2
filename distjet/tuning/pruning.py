"""Is a trial worth its next epoch?

Pure functions of the curves so far: epoch and value of every trial, less being better. All trials leave their curves in the
storage of the sweep, so a sweep that is continued decides as one that never stopped, which a scheduler with a memory of its own
does not. A trial is judged by its best epoch so far, because that is the one whose weights a training keeps.
"""

import statistics
from collections.abc import Mapping, Sequence

from distjet.tuning.settings import SchedulerConfig

Curve = Mapping[int, float]
"Value at the end of each finished epoch, counted from 1; less is better."


def should_stop(config: SchedulerConfig, epoch: int, curve: Curve, others: Sequence[Curve]) -> bool:
    """Decide at the end of an epoch.

    Args:
        config: Which rule.
        epoch: The epoch, counted from 1.
        curve: The trial's values up to there.
        others: Those of all other trials, whatever became of them.
    """
    if config.name == "none" or epoch < config.min_epochs:
        return False
    mine = best_up_to(curve, epoch)
    theirs = [best_up_to(other, epoch) for other in others if epoch in other]
    if config.name == "asha":
        return is_rung(epoch, config) and not _among_the_best(mine, theirs, config.reduction_factor)
    return len(theirs) >= config.min_trials and mine > statistics.median(theirs)


def best_up_to(curve: Curve, epoch: int) -> float:
    """Return the least value of the epochs up to this one."""
    return min(value for at, value in curve.items() if at <= epoch)


def is_rung(epoch: int, config: SchedulerConfig) -> bool:
    """Whether trials are compared at this epoch: min_epochs times a power of reduction_factor.

    Reference:
        L. Li et al., "A System for Massively Parallel Hyperparameter Tuning", arXiv:1810.05934, algorithm 2.
    """
    power, rest = divmod(epoch, config.min_epochs)
    while rest == 0 and power > 1:
        power, rest = divmod(power, config.reduction_factor)
    return rest == 0 and power == 1


def _among_the_best(mine: float, theirs: Sequence[float], reduction_factor: int) -> bool:
    """Whether a value is within the best 1/reduction_factor of all; the first to come always is."""
    num_kept = max(1, (len(theirs) + 1) // reduction_factor)
    return sum(other < mine for other in theirs) < num_kept
