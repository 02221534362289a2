"""How much of a result is the luck of its seed?

Trainings that differ in their seeds alone are measured one by one, on the same jets. The spread of their headline numbers is
what a difference between two methods has to be compared with, and stands beside the loss of each: equal losses can hide
responses that differ by per cents, so a model cannot be chosen by its loss.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from distjet.evaluation.headline import NUMBERS, headline
from distjet.evaluation.response import Record, headline_bins

LOSS = "val_loss"


def summarise_seeds(members: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> Record:
    """Mean and standard deviation over seeds of every headline number.

    Args:
        members: Per seed what is known of its training (`run`, `seed`, `val_loss`, ...) and its metrics; the first method in
            these
            is the reference, the second the one that is meant.

    Returns:
        `members` (facts, headline numbers and the energy response of each), `mean` and `deviation` by name, the largest spread
        of the scale in a bin (`max_scale_difference`) and the relative spread of the loss, each over all seeds; None where
        unknown.
    """
    rows = [{**facts, **headline(metrics, metrics["methods"][1])} for facts, metrics in members]
    responses = [metrics["energy_response_pt"][metrics["methods"][1]]["bins"] for _, metrics in members]
    found: dict[str, tuple[float, float] | None] = {name: mean_and_deviation([row[name] for row in rows]) for name in NUMBERS}
    return {
        "members": [row | {"bins": bins} for row, bins in zip(rows, responses, strict=True)],
        "mean": {name: spread and spread[0] for name, spread in found.items()},
        "deviation": {name: spread and spread[1] for name, spread in found.items()},
        "max_scale_difference": _largest_difference(responses),
        "relative_loss_difference": _relative_difference([row.get(LOSS) for row in rows]),
    }


def seed_text(row: Mapping[str, Any], number: int) -> str:
    """Name a training among those of the same method."""
    return f"seed {row['seed']}" if row.get("seed") is not None else f"training {number}"


def mean_and_deviation(values: Sequence[float | None]) -> tuple[float, float] | None:
    """Return mean and standard deviation over seeds; None if one is unknown, or there is one only."""
    known = [value for value in values if value is not None]
    return (statistics.fmean(known), statistics.stdev(known)) if len(known) == len(values) > 1 else None


def _largest_difference(responses: Sequence[Sequence[Record]]) -> float | None:
    """Largest minus smallest scale of the same bin, in the bin where that is most."""
    scales = [[record["scale_core"] for record in headline_bins(list(bins))] for bins in responses]
    return max((max(some) - min(some) for some in zip(*scales, strict=True)), default=None)


def _relative_difference(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if len(known) < len(values) or statistics.fmean(known) == 0:
        return None
    return (max(known) - min(known)) / abs(statistics.fmean(known))
