"""What does a tagger do to the mass of the background, and what does it cost to prevent that?

The mass of background jets that pass is compared with that of all background jets, at a fixed efficiency of the signal and at a
fixed efficiency of the background. A map (DDT) that makes the cut independent of mass and pT is made of one half of the
background; flatness, rejection and mass are then measured with the other half.
"""

import logging

import numpy as np
from numpy.typing import NDArray

from distjet.evaluation.axes import Record
from distjet.evaluation.ddt import DdtMap, fit_map, flatness, halves, smallest_efficiency
from distjet.evaluation.discriminants import Duel, separation
from distjet.evaluation.tagging import (
    Scores,
    background_at,
    mass_sculpting,
    roc,
    threshold_at_background,
    threshold_at_signal,
)
from distjet.evaluation.tagging_config import TaggingConfig

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

AT_SIGNAL, AT_BACKGROUND = "at_signal_efficiency", "at_background_efficiency"
ROUNDS = 2
"How often the map of a working point is made, each time for the background efficiency that the last one left."
END_OF_SPECTRUM = 0.995
"The mass histogram ends where this share of the background lies below."


def mass_edges(duel: Duel, config: TaggingConfig) -> Array:
    """Return the edges of the histogram of the mass, GeV."""
    if config.mass_range_gev is not None:
        return np.linspace(*config.mass_range_gev, config.num_mass_bins + 1)
    end = float(np.quantile(duel.jets.mass[~duel.is_signal], END_OF_SPECTRUM))
    step = 10.0 ** np.floor(np.log10(max(end, 1.0))) / 2
    return np.linspace(0, step * np.ceil(max(end, 1.0) / step), config.num_mass_bins + 1)


def sculpting(scores: Scores, mass: Array, edges: Array, config: TaggingConfig) -> Record:
    """Compare the mass of the background that passes with all of it.

    Returns:
        Per cut (`at_signal_efficiency`, `at_background_efficiency`): `divergence` in bits with its error, `of_chance`, the
        number of jets that pass, and both histograms; None where fewer than `min_entries` jets pass.
    """
    curve = roc(scores)
    thresholds = {
        AT_SIGNAL: threshold_at_signal(curve, config.working_points[0]),
        AT_BACKGROUND: threshold_at_background(curve, config.background_efficiency),
    }
    return {name: _sculpting_at(scores, mass, threshold, edges, config) for name, threshold in thresholds.items()}


def _sculpting_at(scores: Scores, mass: Array, threshold: float, edges: Array, config: TaggingConfig) -> Record | None:
    inside = (mass >= edges[0]) & (mass < edges[-1])
    if np.sum((scores.score >= threshold) & ~scores.is_signal & inside) < config.min_entries:
        return None
    found = mass_sculpting(scores, mass, threshold, edges, config.num_replicas, config.seed)
    return {
        "divergence": found.divergence.value,
        "divergence_error": found.divergence.error,
        "of_chance": found.of_chance,
        "num_passed": found.num_passed,
        "passed": found.passed.tolist(),
        "everything": found.everything.tolist(),
    }


def summarise_ddt(duel: Duel, method: str, edges: Array, config: TaggingConfig) -> Record:
    """Make a tagger independent of the mass, and judge it.

    Args:
        duel: Signal and background.
        method: Which tagger.
        edges: Of the histogram of the mass, GeV.
        config: Of DDT.

    Returns:
        `flatness` and `flatness_before` of the half that did not make the map, at the configured background efficiency; the
        `map`; numbers of jets; and `decorrelated`: rejections, thresholds and `sculpting` of T_DDT, with a map of the
        background efficiency at the working point, or of the least that the jets allow.

    Raises:
        DataError: If there are too few background jets for a map.
    """
    wanted = config.ddt.background_efficiency
    scores = duel.scores(method)
    heavy = duel.jets.mass >= config.ddt.min_mass_gev
    first = halves(*(duel.jets.identity[name].to_numpy() for name in ("event", "run")))
    making, judging = (heavy & ~duel.is_signal & half for half in (first, ~first))
    found = _map(duel, scores.score, making, config, wanted)
    mass, pt, score = (values[judging] for values in (duel.jets.mass, duel.jets.pt, scores.score))
    before = score >= np.quantile(score, 1 - wanted)
    record: Record = {
        "num_made_of": int(making.sum()),
        "num_judged": int(judging.sum()),
        "num_light": int((~heavy & ~duel.is_signal).sum()),
        "wanted": wanted,
        "flatness": flatness(found.transformed(score, mass, pt) >= 0, mass, pt, config.ddt, wanted),
        "flatness_before": flatness(before, mass, pt, config.ddt, wanted),
        "map": {"rho": found.rho.tolist(), "log_pt": found.log_pt.tolist(), "threshold": found.threshold.tolist()},
        "num_neighbours": found.num_neighbours,
    }
    return record | {"decorrelated": _decorrelated(duel, scores, (making, judging), edges, config)}


def _map(duel: Duel, score: Array, making: Mask, config: TaggingConfig, background_efficiency: float) -> DdtMap:
    return fit_map(score[making], duel.jets.mass[making], duel.jets.pt[making], config.ddt, background_efficiency)


def _decorrelated(duel: Duel, scores: Scores, halves_of: tuple[Mask, Mask], edges: Array, config: TaggingConfig) -> Record:
    """Numbers of T_DDT whose map is that of about the background efficiency at the working point, or of the least possible."""
    making, judging = halves_of
    used = judging | (duel.is_signal & (duel.jets.mass >= config.ddt.min_mass_gev))
    least = smallest_efficiency(int(making.sum()))
    efficiency = max(background_at(roc(scores), config.working_points[0]), least)
    for _ in range(ROUNDS):
        found = _map(duel, scores.score, making, config, efficiency)
        transformed = found.transformed(scores.score[used], duel.jets.mass[used], duel.jets.pt[used])
        after = Scores.of(transformed, scores.is_signal[used], scores.weight[used])
        used_for_map, efficiency = efficiency, max(background_at(roc(after), config.working_points[0]), least)
    return {
        "background_efficiency_of_map": used_for_map,
        **separation(after, config),
        "sculpting": sculpting(after, duel.jets.mass[used], edges, config),
    }
