"""How well does a method tell the signal of a discriminant from its background?

Signal jets may be weighted to the pT spectrum of the background, in bins with equally many background jets each: then the pT
itself tells nothing. The first and the last bin are open, so no signal jet is lost; background jets in bins without signal jets
stay, and are named.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from distjet.errors import DataError
from distjet.evaluation.axes import Record
from distjet.evaluation.score_tables import TaggedJets
from distjet.evaluation.tagging import (
    Roc,
    Scores,
    area_under_curve,
    background_at,
    background_rejection,
    roc,
    threshold_at_signal,
)
from distjet.evaluation.tagging_config import DiscriminantConfig, TaggingConfig
from distjet.evaluation.working_points import Passing

Array = NDArray[np.float64]

ROC_EFFICIENCIES = np.round(np.arange(0.02, 1.0, 0.01), 2)
"Where the curve is written down."
SCORE_EDGES = np.linspace(-16.0, 16.0, 65)
"Bins of the log-odds; what lies outside is counted in the outermost ones."


@dataclass(frozen=True)
class Duel:
    """Jets of the signal and of the background of a discriminant.

    Attributes:
        name: Of the discriminant.
        config: Its classes.
        jets: Those of its classes, J of them.
        is_signal: Shape (J,).
        weight: With that to the pT spectrum of the background, if asked for; shape (J,).
        pt_overlap: Share of the background in bins of pT that have signal jets.
    """

    name: str
    config: DiscriminantConfig
    jets: TaggedJets
    is_signal: NDArray[np.bool_]
    weight: Array
    pt_overlap: float

    @classmethod
    def of(cls, jets: TaggedJets, named: tuple[str, DiscriminantConfig], config: TaggingConfig) -> "Duel":
        """Choose the jets of a discriminant.

        Raises:
            DataError: If there are no jets of the signal or of the background.
        """
        name, some = named
        chosen = jets.select(jets.of_classes((*some.signal, *some.background)))
        is_signal = chosen.of_classes(some.signal)
        for side, classes, mask in (("signal", some.signal, is_signal), ("background", some.background, ~is_signal)):
            if not chosen.weight[mask].sum() > 0:
                raise DataError(f"{jets.source} has no jets of the {side} {list(classes)} of {name!r}")
        weight, overlap = chosen.weight, 1.0
        if config.reweight_pt:
            weight, overlap = weights_to_background_pt(chosen.pt, chosen.weight, is_signal, config.num_reweight_bins)
        return cls(name, some, chosen, is_signal, weight, overlap)

    def scores(self, method: str) -> Scores:
        """Return the log-odds of a method."""
        return Scores.of(self.jets.log_odds(method, self.config), self.is_signal, self.weight)

    def passing(self, passes: NDArray[np.bool_], *, signal: bool) -> Passing:
        """Return which jets of one side pass."""
        side = self.is_signal == signal
        return Passing(passes[side], self.weight[side])


def weights_to_background_pt(pt: Array, weight: Array, is_signal: NDArray[np.bool_], num_bins: int) -> tuple[Array, float]:
    """Weight the signal to the pT spectrum of the background; its sum of weights stays.

    Args:
        pt: GeV, shape (J,).
        weight: Before, shape (J,).
        is_signal: Shape (J,).
        num_bins: With equally many background jets each.

    Returns:
        Weights, shape (J,), and the share of the background in bins that have signal jets.
    """
    edges = np.quantile(pt[~is_signal], np.linspace(0, 1, num_bins + 1)[1:-1])
    bins = np.searchsorted(edges, pt, side="right")
    signal, background = (np.bincount(bins[side], weight[side], num_bins) for side in (is_signal, ~is_signal))
    factor = np.divide(background, signal, out=np.zeros(num_bins), where=signal > 0)
    covered = background[signal > 0].sum()
    found = weight.copy()
    found[is_signal] *= (factor * signal.sum() / covered)[bins[is_signal]] if covered else 1.0
    return found, float(covered / background.sum())


def percent_name(efficiency: float) -> str:
    """Write an efficiency as it stands in the name of a number: 0.5 is 50."""
    return f"{100 * efficiency:g}"


def separation(scores: Scores, config: TaggingConfig) -> Record:
    """Return the area under the curve, and 1 / eps_B at the configured efficiencies with error, threshold and entries."""
    curve = roc(scores)
    area = area_under_curve(scores)
    record: Record = {"area": area.value, "area_error": area.error}
    for efficiency in config.signal_efficiencies:
        name, found = f"rejection_{percent_name(efficiency)}", background_rejection(curve, efficiency)
        threshold = threshold_at_signal(curve, efficiency)
        record |= {
            name: found and found.value,
            f"{name}_error": found and float(found.error),
            f"{name}_passed": num_passed(scores, threshold),
            f"threshold_{percent_name(efficiency)}": threshold,
        }
    return record


def num_passed(scores: Scores, threshold: float) -> int:
    """Count the background jets that pass."""
    return int(np.sum((scores.score >= threshold) & ~scores.is_signal))


def curve_record(scores: Scores) -> Record:
    """Return the curve at fixed signal efficiencies, and the distributions of the log-odds of both sides."""
    curve = roc(scores)
    background = np.array([background_at(curve, efficiency) for efficiency in ROC_EFFICIENCIES])
    clipped = np.clip(scores.score, SCORE_EDGES[0], SCORE_EDGES[-1])
    sides = {"signal": scores.is_signal, "background": ~scores.is_signal}
    shares = {name: np.histogram(clipped[side], SCORE_EDGES, weights=scores.weight[side])[0] for name, side in sides.items()}
    return {
        "signal_efficiency": ROC_EFFICIENCIES.tolist(),
        "background_efficiency": background.tolist(),
        "num_effective": curve.num_background,
        "num_passed": _passed_along(curve, scores).tolist(),
        "log_odds_edges": SCORE_EDGES.tolist(),
        **{f"log_odds_{name}": (share / share.sum()).tolist() for name, share in shares.items()},
    }


def _passed_along(curve: Roc, scores: Scores) -> NDArray[np.intp]:
    thresholds = [threshold_at_signal(curve, efficiency) for efficiency in ROC_EFFICIENCIES]
    background = np.sort(scores.score[~scores.is_signal])
    return len(background) - np.searchsorted(background, thresholds)
