"""How well does a score tell signal jets from background jets, and what does it do to the mass of the background?

Every number has a statistical error, and weights are allowed everywhere. Decisions a reader would question:

* The area under the curve is the probability that a signal jet scores above a background jet, ties counting half, which is
  exact; its error is that of DeLong, from the same ranks.
* The rejection 1 / eps_B is read off the curve at a signal efficiency, between its points by a straight line. Its error is that
  of the background jets that pass, 1 / sqrt(N_B eps_B), with effective numbers for weighted jets: where few pass, it is large.
* The mass is compared between background jets that pass and all background jets, by the Jensen-Shannon divergence in bits: 0
  where the tagger leaves the shape as it is, 1 where the two have no bin in common. A finite sample has a divergence above zero
  of its own; `mass_sculpting` gives what random jets of the same number would have. Its error is the spread of the divergence
  when the bins of the jets that pass, and of those that do not, fluctuate.

References:
    E. DeLong et al., Biometrics 44 (1988) 837.
    A. Butter et al., "The machine learning landscape of top taggers", arXiv:1902.09914.
    ATLAS Collaboration, ATL-PHYS-PUB-2018-014.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distjet.errors import DataError
from distjet.evaluation.estimators import Measurement

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Roc:
    """Efficiencies at falling thresholds, from (0, 0) to (1, 1).

    Attributes:
        signal: Efficiency of the signal, shape (T,).
        background: Efficiency of the background, shape (T,).
        threshold: Lowest score that passes, shape (T,); infinite for the first point.
        num_background: Effective number of background jets.
    """

    signal: Array
    background: Array
    threshold: Array
    num_background: float


@dataclass(frozen=True)
class MassSculpting:
    """The mass of background jets that pass against that of all.

    Attributes:
        divergence: Jensen-Shannon divergence, bits.
        of_chance: Mean divergence of as many jets that are taken at random.
        num_passed: Background jets that pass.
        passed: Share of them in each bin, shape (B,).
        everything: Share of all background jets in each bin, shape (B,).
    """

    divergence: Measurement
    of_chance: float
    num_passed: int
    passed: Array
    everything: Array


@dataclass(frozen=True)
class Scores:
    """Scores of jets of two classes.

    Attributes:
        score: Higher for the signal, shape (J,).
        is_signal: Shape (J,).
        weight: Shape (J,).
    """

    score: Array
    is_signal: NDArray[np.bool_]
    weight: Array

    @classmethod
    def of(cls, score: ArrayLike, is_signal: ArrayLike, weight: ArrayLike | None = None) -> "Scores":
        """Take arrays of one length.

        Raises:
            DataError: If a score is not finite, a weight is negative, or a class has no jets.
        """
        values, truth = np.asarray(score, np.float64), np.asarray(is_signal, bool)
        weights = np.ones(len(values)) if weight is None else np.asarray(weight, np.float64)
        if not len(values) == len(truth) == len(weights):
            raise DataError(f"{len(values)} scores, {len(truth)} labels and {len(weights)} weights are not of the same jets")
        if np.any(bad := ~np.isfinite(values)):
            raise DataError(f"scores must be finite; got {values[bad][0]} in row {np.argmax(bad)}, and {bad.sum()} such jets")
        if np.any(bad := ~(weights >= 0) | ~np.isfinite(weights)):
            raise DataError(
                f"weights must not be negative; got {weights[bad][0]} in row {np.argmax(bad)}, and {bad.sum()} such jets"
            )
        for name, chosen in (("signal", truth), ("background", ~truth)):
            if not weights[chosen].sum() > 0:
                raise DataError(f"no {name} jet has a weight: there is nothing to tell apart")
        return cls(values, truth, weights)


def roc(scores: Scores) -> Roc:
    """Return the curve of efficiencies; jets of the same score pass together."""
    order = np.argsort(-scores.score, kind="stable")
    score, truth, weight = scores.score[order], scores.is_signal[order], scores.weight[order]
    last_of_score = np.append(score[1:] != score[:-1], True)
    passed = [np.append(0.0, np.cumsum(weight * chosen)[last_of_score]) for chosen in (truth, ~truth)]
    threshold = np.append(np.inf, score[last_of_score])
    background = scores.weight[~scores.is_signal]
    num_background = background.sum() ** 2 / (background**2).sum()
    return Roc(passed[0] / passed[0][-1], passed[1] / passed[1][-1], threshold, float(num_background))


def area_under_curve(scores: Scores) -> Measurement:
    """Return the area under the curve of signal against background efficiency."""
    signal, background = scores.is_signal, ~scores.is_signal
    above = _share_below(scores.score[signal], scores.score[background], scores.weight[background])
    below = 1 - _share_below(scores.score[background], scores.score[signal], scores.weight[signal])
    (area, variance), (_, variance_of_other) = (
        _mean_and_variance(share, scores.weight[chosen]) for share, chosen in ((above, signal), (below, background))
    )
    return Measurement(area, float(np.sqrt(variance + variance_of_other)))


def _share_below(score: Array, others: Array, weight: Array) -> Array:
    """Return the share of the others' weight that is below each score; a tie counts half."""
    order = np.argsort(others, kind="stable")
    summed = np.append(0.0, np.cumsum(weight[order]))
    low, high = (np.searchsorted(others[order], score, side) for side in ("left", "right"))
    return (summed[low] + summed[high]) / (2 * summed[-1])


def _mean_and_variance(values: Array, weight: Array) -> tuple[float, float]:
    """Return the weighted mean and the variance of the mean."""
    mean = np.average(values, weights=weight)
    return float(mean), float((weight**2 * (values - mean) ** 2).sum() / weight.sum() ** 2)


def background_rejection(curve: Roc, signal_efficiency: float) -> Measurement | None:
    """Return 1 / eps_B at a signal efficiency, None where no background jet passes.

    Args:
        curve: The efficiencies.
        signal_efficiency: In (0, 1].
    """
    efficiency = background_at(curve, signal_efficiency)
    if efficiency <= 0:
        return None
    return Measurement(1 / efficiency, 1 / efficiency / np.sqrt(curve.num_background * efficiency))


def background_at(curve: Roc, signal_efficiency: float) -> float:
    """Return the background efficiency at a signal efficiency in (0, 1], between points of the curve by a straight line."""
    if not 0 < signal_efficiency <= 1:
        raise DataError(f"a signal efficiency lies in (0, 1] (got {signal_efficiency})")
    reached = int(np.searchsorted(curve.signal, signal_efficiency))  # the first point that is not below it
    if curve.signal[reached] == signal_efficiency or reached == 0:
        return float(curve.background[reached])
    points = slice(reached - 1, reached + 1)
    return float(np.interp(signal_efficiency, curve.signal[points], curve.background[points]))


def threshold_at_signal(curve: Roc, efficiency: float) -> float:
    """Return the highest score at which at least this share of the signal passes."""
    return float(curve.threshold[np.searchsorted(curve.signal, efficiency)])


def threshold_at_background(curve: Roc, efficiency: float) -> float:
    """Return the lowest score at which at most this share of the background passes; infinite if none does."""
    return float(curve.threshold[np.searchsorted(curve.background, efficiency, side="right") - 1])


def accuracy(scores: Scores, threshold: float = 0.5) -> Measurement:
    """Return the share of jets on the right side of a threshold; a probability decides at 0.5, log-odds at 0."""
    return share_correct((scores.score >= threshold) == scores.is_signal, scores.weight)


def share_correct(is_right: NDArray[np.bool_], weight: Array) -> Measurement:
    """Return the weighted share of jets of which something is right."""
    mean, variance = _mean_and_variance(is_right.astype(np.float64), weight)
    return Measurement(mean, float(np.sqrt(variance)))


def jensen_shannon_divergence(first: ArrayLike, second: ArrayLike) -> float:
    """Return the divergence of two histograms of the same bins in bits; their sums do not matter.

    Raises:
        DataError: If one is empty or has a negative bin.
    """
    shares = []
    for content in (np.asarray(first, np.float64), np.asarray(second, np.float64)):
        if np.any(content < 0) or not content.sum() > 0:
            raise DataError("histograms that are compared need entries, and no negative bin")
        shares.append(content / content.sum())
    middle = (shares[0] + shares[1]) / 2
    logs = [
        np.where(share > 0, share * np.log2(np.where(share > 0, share, 1) / np.where(middle > 0, middle, 1)), 0)
        for share in shares
    ]
    return float(max(sum(log.sum() for log in logs) / 2, 0.0))


def mass_sculpting(
    scores: Scores, mass: ArrayLike, threshold: float, edges: ArrayLike, num_replicas: int = 50, seed: int = 1
) -> MassSculpting:
    """Compare the mass of background jets that pass a cut on the score with that of all background jets.

    Args:
        scores: The jets.
        mass: In GeV, shape (J,); jets outside the edges do not take part.
        threshold: Lowest score that passes.
        edges: Edges of the B mass bins, GeV.
        num_replicas: Random choices of as many jets, for `of_chance`, and fluctuations of the bins, for the error.
        seed: Of these.

    Raises:
        DataError: If no background jet with a mass between the edges passes.
    """
    limits = np.asarray(edges, np.float64)
    values = np.asarray(mass, np.float64)
    chosen = ~scores.is_signal & (values >= limits[0]) & (values < limits[-1])
    passes, values, weight = scores.score[chosen] >= threshold, values[chosen], scores.weight[chosen]
    if not weight[passes].sum() > 0:
        raise DataError(f"no background jet with a mass from {limits[0]:g} to {limits[-1]:g} GeV passes the cut")
    bins = np.searchsorted(limits, values, side="right") - 1
    sums, squares = (
        [_sum_in_bins(bins, w * which, len(limits) - 1) for which in (passes, ~passes)] for w in (weight, weight**2)
    )
    everything = sums[0] + sums[1]
    rng = np.random.default_rng(seed)
    random_choices = (rng.permutation(passes) for _ in range(num_replicas))
    of_chance = [
        jensen_shannon_divergence(_sum_in_bins(bins, weight * which, len(limits) - 1), everything) for which in random_choices
    ]
    fluctuating = [
        jensen_shannon_divergence(passed, passed + failed)
        for passed, failed in zip(
            *(_fluctuate(*both, num_replicas, rng) for both in zip(sums, squares, strict=True)), strict=True
        )
        if passed.sum() > 0
    ]
    divergence = Measurement(jensen_shannon_divergence(sums[0], everything), float(np.std(fluctuating)))
    shares = (some / some.sum() for some in (sums[0], everything))
    return MassSculpting(divergence, float(np.mean(of_chance)), int(passes.sum()), *shares)


def _sum_in_bins(bins: NDArray[np.intp], weight: Array, num_bins: int) -> Array:
    return np.bincount(bins, weights=weight, minlength=num_bins).astype(np.float64)


def _fluctuate(sums: Array, squares: Array, num_replicas: int, rng: np.random.Generator) -> Array:
    """Return replicas of a histogram: Poisson numbers, scaled to its sums of weights and of squared weights; shape (R, B)."""
    scale = np.divide(squares, sums, out=np.zeros_like(sums), where=sums > 0)
    mean = np.divide(sums, scale, out=np.zeros_like(sums), where=scale > 0)
    return scale * rng.poisson(mean, (num_replicas, len(sums)))
