"""Which reference jet and which candidates belong to a jet, where they live in collections of their own?

Both are resolved once per range of entries, and what belongs to a jet is then given to the scope of the jets as if it had been
stored there. A jet without a reference jet gets NaN; the cut `truth_matched` removes it before anything looks at that.

A link to a candidate that is not there means that the file is wrong. An index of a reference jet that is not there is ordinary:
an ntuple may keep fewer reference jets (above some pT) than were matched, and leave the indices as they were.
"""

from collections.abc import Mapping

import numpy as np
from numba import njit

from distjet.dataset.reading.ragged import Ragged
from distjet.dataset.recipes.definitions import (
    Definitions,
    constituent_definitions,
    jet_definitions,
    truth_definitions,
)
from distjet.dataset.recipes.expressions import Level
from distjet.dataset.recipes.recipe import CUT_UNMATCHED, Recipe
from distjet.dataset.recipes.scope import Scope
from distjet.errors import ConfigError, DataError

NO_MATCH = -1


def open_scope(recipe: Recipe, branches: Mapping[str, Ragged], num_entries: int, sample: str) -> Scope:
    """Make the scope of the jets of a range of entries, with linked candidates and matched reference jets in place.

    Raises:
        DataError: If links point outside of their collection, or lists disagree in length.
    """
    events = recipe.layout == "event"
    scope = Scope(branches, num_entries, jet_definitions(recipe), events=events, sample=sample)
    if (candidates := constituent_definitions(recipe)) is not None:
        scope.value("jet_pt")
        _link_constituents(recipe, scope, Scope(branches, num_entries, candidates, events=True, sample=sample))
    if recipe.constituents is not None:
        scope.value("energy")
        if recipe.constituents.padding is not None:
            _drop_padding(recipe.constituents.padding, scope)
    scope.value("jet_pt")
    if (references := truth_definitions(recipe)) is not None:
        _match_truth(recipe, scope, Scope(branches, num_entries, references, events=True, sample=sample))
    return scope


def _drop_padding(padding: str, scope: Scope) -> None:
    """Leave out what fills up lists of a fixed length; what is not a number is kept, to be found later."""
    try:
        condition = np.asarray(scope.evaluate(padding, Level.NODE), dtype=np.float64)
    except ConfigError as error:
        raise ConfigError(f"recipe.constituents.padding: {error}") from error
    scope.drop_nodes((condition != 0) & ~np.isnan(condition))


def _link_constituents(recipe: Recipe, scope: Scope, candidates: Scope) -> None:
    """Give the jets their candidates, sorted by jet and otherwise in the order of the links."""
    constituents = recipe.constituents
    assert constituents is not None
    values = {name: candidates.evaluate(name, Level.JET) for name in candidates.definitions.formulas}
    links = Scope(candidates.branches, candidates.num_entries, Definitions({}), events=True)
    jet = _as_index(links.evaluate(str(constituents.jet_link), Level.JET))
    candidate = _as_index(links.evaluate(str(constituents.constituent_link), Level.JET))
    linked = (jet >= 0) & (candidate >= 0)
    _check_links(jet, links.entry, scope, "jet_link")
    _check_links(candidate, links.entry, candidates, "constituent_link")
    jet = _to_flat(jet, links.entry, scope)[linked]
    candidate = _to_flat(candidate, links.entry, candidates)[linked]
    order = np.argsort(jet, kind="stable")
    scope.node_offsets = np.concatenate([[0], np.cumsum(np.bincount(jet, minlength=scope.num_jets))])
    scope.node_source = str(constituents.jet_link)
    for name, array in values.items():
        scope.give(name, Level.NODE, array[candidate[order]])


def _match_truth(recipe: Recipe, scope: Scope, references: Scope) -> None:
    """Give the jets the values of their reference jets, NaN where there is none."""
    truth = recipe.truth
    assert truth is not None
    names = list(references.definitions.formulas)
    values = {name: np.asarray(references.evaluate(name, Level.JET), dtype=np.float64) for name in names}
    if truth.index is not None:
        index = _to_flat(_as_index(scope.evaluate(truth.index, Level.JET)), scope.entry, references)
    else:
        angles = [scope.evaluate(f"jet_{name}", Level.JET) for name in ("eta", "phi")]
        angles += [values[f"true_{name}"] for name in ("eta", "phi")]
        eta, phi, true_eta, true_phi = (np.ascontiguousarray(angle, dtype=np.float64) for angle in angles)
        assert scope.jet_offsets is not None
        assert references.jet_offsets is not None
        index = nearest_pairs(
            (eta, phi, scope.jet_offsets), (true_eta, true_phi, references.jet_offsets), float(truth.delta_r or 0.0)
        )
    found = index >= 0
    for name in scope.definitions.given & set(names):
        matched = np.full(scope.num_jets, np.nan)
        matched[found] = values[name][index[found]]
        scope.give(name, Level.JET, matched)
    scope.give(CUT_UNMATCHED, Level.JET, found.astype(np.float64))


def _as_index(array: np.ndarray) -> np.ndarray:
    """Return whole numbers; a NaN becomes NO_MATCH."""
    if np.issubdtype(array.dtype, np.floating):
        array = np.where(np.isnan(array), NO_MATCH, array)
    return np.asarray(array).astype(np.int64)


def _to_flat(index: np.ndarray, entry: np.ndarray, collection: Scope) -> np.ndarray:
    """Turn a number within an event into a place in the flat arrays of a collection, NO_MATCH if it has no such element."""
    offsets = collection.jet_offsets
    assert offsets is not None
    inside = (index >= 0) & (index < np.diff(offsets)[entry])
    return np.where(inside, offsets[:-1][entry] + index, NO_MATCH)


def _check_links(index: np.ndarray, entry: np.ndarray, collection: Scope, what: str) -> None:
    offsets = collection.jet_offsets
    assert offsets is not None
    size = np.diff(offsets)[entry]
    if (index >= size).any():
        bad = int(np.flatnonzero(index >= size)[0])
        raise DataError(
            f"{what} points to element {index[bad]} of a collection of {size[bad]}, in entry {entry[bad]} of the range"
        )


@njit(cache=True, nogil=True)
def nearest_pairs(jets, references, max_delta_r):  # type: ignore[no-untyped-def]
    """Match jets and reference jets one to one within each event, nearest pair first.

    Args:
        jets: Pseudorapidity, azimuth (J,) and offsets by event (N+1,) of the jets.
        references: The same of the reference jets, (T,) and (N+1,).
        max_delta_r: Largest distance in (eta, phi).

    Returns:
        Place of each jet's reference jet in the flat arrays, -1 where there is none, shape (J,).
    """
    eta, phi, offsets = jets
    true_eta, true_phi, true_offsets = references
    match = np.full(len(eta), -1, np.int64)
    taken = np.zeros(len(true_eta), np.bool_)
    for event in range(len(offsets) - 1):
        while True:
            best = max_delta_r
            best_jet = best_reference = -1
            for jet in range(offsets[event], offsets[event + 1]):
                if match[jet] >= 0:
                    continue
                for reference in range(true_offsets[event], true_offsets[event + 1]):
                    turn = abs(phi[jet] - true_phi[reference]) % (2 * np.pi)
                    distance = np.hypot(eta[jet] - true_eta[reference], min(turn, 2 * np.pi - turn))
                    if not taken[reference] and distance < best:
                        best, best_jet, best_reference = distance, jet, reference
            if best_jet < 0:
                break
            match[best_jet] = best_reference
            taken[best_reference] = True
    return match
