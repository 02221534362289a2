"""Does an ensemble know where it errs?

The spread of the members' probability of the true class is compared with the error of the mean, 1 - p_true, by the correlation
of their ranks. Beside it stands what a user has: the spread for the most probable class, and how often that class is wrong.
"""

import numpy as np
from numpy.typing import NDArray

from distjet.evaluation.axes import Record
from distjet.evaluation.score_tables import TaggedJets
from distjet.evaluation.working_points import Passing, efficiency_record

NUM_POINTS = 10


def summarise_spread(jets: TaggedJets, method: str) -> Record:
    """Return the rank correlation of spread and error, and the share of wrong jets against the spread.

    The error of the correlation is (1 - r^2) sqrt(1.06 / (J - 3)), that of Fieller et al., Biometrika 44 (1957) 470.
    """
    from scipy.stats import spearmanr

    scores, spread = jets.scores[method], jets.spreads[method]
    of_truth = np.take_along_axis(spread, jets.label[:, None], 1)[:, 0]
    error = 1 - np.take_along_axis(scores, jets.label[:, None], 1)[:, 0]
    is_known = jets.num_jets > 3 and np.ptp(of_truth) > 0 and np.ptp(error) > 0
    correlation = float(spearmanr(of_truth, error).statistic) if is_known else None
    choice = scores.argmax(axis=1)
    seen = np.take_along_axis(spread, choice[:, None], 1)[:, 0]
    return {
        "rank_correlation": correlation,
        "rank_correlation_error": None
        if correlation is None
        else float((1 - correlation**2) * np.sqrt(1.06 / (jets.num_jets - 3))),
        "num_jets": jets.num_jets,
        "mean_spread": float(np.average(seen, weights=jets.weight)),
        "points": _wrong_against_spread(seen, choice != jets.label, jets.weight),
    }


def _wrong_against_spread(
    spread: NDArray[np.float32], is_wrong: NDArray[np.bool_], weight: NDArray[np.float64]
) -> list[Record]:
    """Share of wrong jets in bins of the spread with equally many jets each."""
    parts = np.array_split(np.argsort(spread, kind="stable"), NUM_POINTS)
    return [
        {"mean_spread": float(spread[rows].mean()), **efficiency_record(Passing(is_wrong[rows], weight[rows]))}
        for rows in parts
        if len(rows)
    ]
