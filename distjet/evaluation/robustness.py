"""How much do the efficiencies of a tagger change at its own cuts when the jets change?

The cut is that of the nominal jets; on the varied ones (another shower, another scale, no hadronisation) it lets other shares
of signal and background pass. Resilience says how little, beside the performance eps_S / sqrt(eps_B).

References:
    F. Dreyer and H. Qu, arXiv:2012.08526.
"""

import numpy as np

from distjet.errors import DataError
from distjet.evaluation.axes import Record
from distjet.evaluation.discriminants import Duel, percent_name
from distjet.evaluation.estimators import Measurement
from distjet.evaluation.joining import IDENTIFIERS, rows_of_same_jets
from distjet.evaluation.score_tables import TaggedJets
from distjet.evaluation.tagging import roc, threshold_at_signal
from distjet.evaluation.tagging_config import TaggingConfig
from distjet.evaluation.working_points import Passing, efficiency_ratio, efficiency_record, resilience


def in_order_of(nominal: TaggedJets, varied: TaggedJets) -> tuple[TaggedJets, bool]:
    """Bring varied jets into the order of the nominal ones.

    Returns:
        The varied jets, and whether they are the same jets: whether each has its counterpart of the same class.
    """
    if varied.num_jets != nominal.num_jets:
        return varied, False
    try:
        rows = rows_of_same_jets((nominal.source, nominal.identity), (varied.source, varied.identity))
    except DataError:
        return varied, False
    aligned = varied.select(rows)
    return (aligned, True) if np.array_equal(aligned.label, nominal.label) else (varied, False)


def summarise_variation(nominal: Duel, varied: Duel, method: str, config: TaggingConfig) -> list[Record]:
    """Compare efficiencies at the cuts of the nominal jets, one record a signal efficiency.

    Args:
        nominal: Jets that the cuts are made with.
        varied: Others; the same ones, if they have the same identities in the same order.
        method: Which tagger.
        config: Signal efficiencies.

    Returns:
        Per signal efficiency the `threshold`, both efficiencies of signal and background, the relative change of eps_S
        (`signal_change`) and of 1 / eps_B (`rejection_change`), `resilience` and `performance`, each with its error; None
        where it cannot be told.
    """
    scores, others = nominal.scores(method), varied.scores(method)
    same = {name: _are_the_same(nominal, varied, signal=name == "signal") for name in ("signal", "background")}
    curve = roc(scores)
    records = []
    for efficiency in config.signal_efficiencies:
        threshold = threshold_at_signal(curve, efficiency)
        record: Record = {"signal_efficiency": efficiency, "name": percent_name(efficiency), "threshold": threshold}
        ratios: dict[str, Measurement | None] = {}
        for side in ("signal", "background"):
            both = [
                duel.passing(some.score >= threshold, signal=side == "signal")
                for duel, some in ((nominal, scores), (varied, others))
            ]
            ratios[side] = efficiency_ratio(*both, same_jets=same[side])
            record |= _efficiencies(side, *both)
        records.append(record | _changes(ratios) | _performance(record))
    return records


def _are_the_same(nominal: Duel, varied: Duel, *, signal: bool) -> bool:
    first, second = (duel.jets.identity.filter(duel.is_signal == signal) for duel in (nominal, varied))
    return first.num_rows == second.num_rows and first.select(IDENTIFIERS).equals(second.select(IDENTIFIERS))


def _efficiencies(side: str, nominal: Passing, varied: Passing) -> Record:
    found = {f"{side}_nominal": efficiency_record(nominal), f"{side}_varied": efficiency_record(varied)}
    return {
        f"{name}_{key}": some[key] for name, some in found.items() for key in ("efficiency", "efficiency_error", "num_passed")
    }


def _changes(ratios: dict[str, Measurement | None]) -> Record:
    signal, background = ratios["signal"], ratios["background"]
    zeta = resilience(signal, background) if signal and background else None
    return {
        "signal_change": signal and signal.value - 1,
        "signal_change_error": signal and signal.error,
        "rejection_change": background and 1 / background.value - 1,
        "rejection_change_error": background and background.error / background.value**2,
        "resilience": zeta and zeta.value,
        "resilience_error": zeta and zeta.error,
    }


def _performance(record: Record) -> Record:
    """Return eps_S / sqrt(eps_B) of the nominal jets; the error is that of eps_B, as eps_S is chosen."""
    signal, background, error = (
        record[key]
        for key in ("signal_nominal_efficiency", "background_nominal_efficiency", "background_nominal_efficiency_error")
    )
    if not background:
        return {"performance": None, "performance_error": None}
    performance = float(signal / np.sqrt(background))
    return {"performance": performance, "performance_error": performance * error / (2 * background)}
