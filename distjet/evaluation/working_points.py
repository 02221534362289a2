"""Which share of jets passes a cut, in a bin, at another sample, and how well is that known?

The interval of an efficiency is Wilson's, at one standard deviation: it is not empty where no jet passes, or all do. Weighted
jets count with their effective number. A change between two samples is relative; where both hold the same jets (with another
scale), those that pass both cancel in its error.

References:
    E. B. Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
    F. Dreyer and H. Qu, "Jet tagging in the Lund plane with graph networks", arXiv:2012.08526 (resilience).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distjet.evaluation.estimators import Measurement

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Record = dict[str, Any]


@dataclass(frozen=True)
class Passing:
    """Jets of one kind, and which of them pass.

    Attributes:
        passes: Shape (J,).
        weight: Shape (J,).
    """

    passes: Mask
    weight: Array

    @property
    def efficiency(self) -> float:
        """Share of the weight that passes."""
        return float(self.weight[self.passes].sum() / self.weight.sum())


def efficiency_record(jets: Passing) -> Record:
    """Return the efficiency with Wilson's interval (`_low`, `_high`, half of its width: `_error`) and the numbers behind it."""
    record: Record = {"num_jets": len(jets.passes), "num_passed": int(jets.passes.sum())}
    if not jets.weight.sum() > 0:
        return record | dict.fromkeys(("efficiency", "efficiency_error", "efficiency_low", "efficiency_high"))
    share, number = jets.efficiency, float(jets.weight.sum() ** 2 / (jets.weight**2).sum())
    centre = (share + 1 / (2 * number)) / (1 + 1 / number)
    half = np.sqrt(share * (1 - share) / number + 1 / (4 * number**2)) / (1 + 1 / number)
    return record | {
        "efficiency": share,
        "efficiency_error": float(half),
        "efficiency_low": float(max(centre - half, 0.0)),
        "efficiency_high": float(min(centre + half, 1.0)),
    }


def binned_efficiency(jets: Passing, values: Array, edges: Sequence[float], min_entries: int) -> list[Record]:
    """Return the efficiency in bins of a quantity; a bin with fewer jets than `min_entries` is not `drawn`."""
    bins = np.searchsorted(np.asarray(edges), values, side="right") - 1
    records = []
    for number, (low, high) in enumerate(pairwise(edges)):
        inside = bins == number
        found = efficiency_record(Passing(jets.passes[inside], jets.weight[inside]))
        drawn = found["num_jets"] >= min_entries and found["efficiency"] is not None
        records.append({"low": float(low), "high": float(high), **found, "drawn": drawn})
    return records


def efficiency_ratio(nominal: Passing, varied: Passing, *, same_jets: bool) -> Measurement | None:
    """Return the efficiency of a varied sample over the nominal one; None where nothing passes.

    Args:
        nominal: Jets of the nominal sample.
        varied: Jets of the varied sample.
        same_jets: Whether the rows of both are the same jets, so that they are correlated.
    """
    first, second = nominal.efficiency, varied.efficiency
    if first == 0 or second == 0:
        return None
    pulls = [(some.passes / some.efficiency - 1) * some.weight / some.weight.sum() for some in (nominal, varied)]
    relative = np.sqrt(((pulls[1] - pulls[0]) ** 2).sum() if same_jets else sum((pull**2).sum() for pull in pulls))
    return Measurement(second / first, float(second / first * relative))


def resilience(signal: Measurement, background: Measurement) -> Measurement | None:
    """Return zeta = ((d eps_S / <eps_S>)^2 + (d eps_B / <eps_B>)^2)^(-1/2) between two samples; None if both have the same.

    Args:
        signal: Ratio of the signal efficiencies.
        background: Ratio of the background efficiencies.
    """
    parts = np.array([2 * (some.value - 1) / (some.value + 1) for some in (signal, background)])
    errors = np.array([4 * some.error / (some.value + 1) ** 2 for some in (signal, background)])
    if not np.any(parts):
        return None
    zeta = float(1 / np.hypot(*parts))
    return Measurement(zeta, float(zeta**3 * np.hypot(*(parts * errors))))
