"""Which jets hold a number that cannot be?

A flipped bit in a TTree compressed with zstd is read back without complaint, by every reader, as other numbers. Often these are
impossible, and looking at what is about to be stored costs little: a number must be finite, fit its type and the grid of the
graph; an energy cannot be below its momentum; and the recipe may say in which range a column lies. A jet that fails is
quarantined, which counts against the tolerance. As a wrong recipe can spoil every jet, only some jets are told apart for each
reason; the others are counted.

The energy may fall short of the momentum by 0.2 %: a format that rounds mantissas to ten bits may move each by 0.05 %. Energies
below zero pass, as noise in a calorimeter has them.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numba import njit

from distjet.dataset.graphs.edges import MAX_NODES
from distjet.dataset.graphs.grid import MAX_COORDINATE, in_range
from distjet.dataset.recipes.recipe import JET_NAMES, P4_NAMES, TRUE_NAMES, Recipe
from distjet.dataset.recipes.scope import Scope
from distjet.dataset.schema import SPLITS, ColumnSpec

LISTED_JETS = 100
"Of a range of entries that are named for one reason; this bounds what a run has to remember."

NODE_ROLES = ("p4", "node")

SPLIT = "[split]"
"Key of the number of each jet's published split, which is no column."

SHORTFALL = 2.0**-9
"Of an energy against its momentum, relative."
NOTHING_GEV2 = 1e-60
"Below this, squared, float32 has too few bits left to compare (ghosts have such momenta)."


class Faults:
    """The first reason against each jet.

    Attributes:
        number: Of the reason of each jet, -1 for a good jet, int64 (J,).
        reasons: What the numbers mean.
        details: The reason with the values in question, for the first `LISTED_JETS` jets where there are any.
    """

    def __init__(self, scope: Scope, has_nodes: bool) -> None:
        self.number = np.full(scope.num_jets, -1)
        self.reasons: list[str] = []
        self.details: dict[int, str] = {}
        self._owner = np.repeat(np.arange(scope.num_jets), scope.counts) if has_nodes else None

    def add(self, bad: np.ndarray, reason: str, values: Callable[[int], str] | None = None, *, of_nodes: bool = False) -> None:
        """Note a reason.

        Args:
            bad: For each jet, or for each constituent, whether there is one, boolean, shape (J,) or (P,).
            reason: What is wrong with them.
            values: Tells the values in question of the jet or constituent of a place.
            of_nodes: Whether `bad` is about constituents; the first one speaks for its jet.
        """
        places = np.flatnonzero(bad)
        if not len(places):
            return
        jets = self._owner[places] if of_nodes and self._owner is not None else places
        jets, first = np.unique(jets, return_index=True)
        new = self.number[jets] < 0
        jets, places = jets[new], places[first[new]]
        self.number[jets] = len(self.reasons)
        self.reasons.append(reason)
        if values is not None:
            listed = zip(jets[:LISTED_JETS].tolist(), places[:LISTED_JETS].tolist(), strict=True)
            self.details |= {jet: f"{reason}: {values(place)}" for jet, place in listed}


def find_bad_jets(recipe: Recipe, scope: Scope, columns: Sequence[ColumnSpec], values: Mapping[str, np.ndarray]) -> Faults:
    """Find jets with a number that cannot be used.

    Args:
        recipe: With the ranges of columns.
        scope: Of the selected jets.
        columns: Of the dataset.
        values: What is about to be stored, and the coordinates of the graph, by name.

    Returns:
        The first reason against each jet.
    """
    nodes = {column.name for column in columns if column.role in NODE_ROLES}
    faults = Faults(scope, recipe.constituents is not None)
    _check_finite(recipe, values, nodes, faults)
    if recipe.constituents is not None:
        counts = scope.counts
        faults.add(counts > MAX_NODES, f"more than {MAX_NODES} constituents", lambda jet: str(counts[jet]))
    _check_energies(values, faults)
    for name, bounds in recipe.ranges.items():
        _check_range(name, values[name], bounds, faults, of_nodes=name in nodes)
    return faults


def _check_finite(recipe: Recipe, values: Mapping[str, np.ndarray], nodes: set[str], faults: Faults) -> None:
    for name, array in sorted(values.items(), key=lambda item: item[0] in nodes):  # a bad jet also spoils its constituents
        is_axis = name.startswith("(")
        bad = ~in_range(array) if is_axis else ~np.isfinite(array)
        faults.add(bad, _reason(recipe, name, is_axis=is_axis), of_nodes=is_axis or name in nodes)


def _reason(recipe: Recipe, name: str, *, is_axis: bool) -> str:
    if name == "label":
        return f"column 'label': not exactly one of {list(recipe.labels)} holds"
    if name == SPLIT:
        return f"split: {'not exactly' if len(recipe.split) == len(SPLITS) else 'more than'} one of {list(recipe.split)} holds"
    if is_axis:
        return f"{name.strip('()')} of a constituent is not a number below {MAX_COORDINATE:g}"
    return f"column {name!r} is not finite"


def _check_energies(values: Mapping[str, np.ndarray], faults: Faults) -> None:
    """Compare energies with momenta; where the file gave one of them, the other follows and this holds by itself."""
    if "px" in values:
        p4 = [np.ascontiguousarray(values[name], dtype=np.float32) for name in P4_NAMES]
        faults.add(
            falls_short(*p4, SHORTFALL),
            "energy of a constituent is below its momentum",
            lambda node: _in_gev(p4[3][node], np.sqrt(sum(float(p[node]) ** 2 for p in p4[:3]))),
            of_nodes=True,
        )
    for what, names in (("the jet", JET_NAMES), ("the reference jet", TRUE_NAMES)):
        if names[0] in values:
            pt, eta, _, energy, _ = (values[name].astype(np.float64) for name in names)
            with np.errstate(over="ignore", invalid="ignore"):
                momentum = pt * np.cosh(eta)
                bad = np.abs(energy) < (1 - SHORTFALL) * momentum
            reason = f"energy of {what} is below its momentum"
            faults.add(bad, reason, lambda jet, e=energy, p=momentum: _in_gev(e[jet], p[jet]))  # type: ignore[misc]


def _in_gev(energy: float, momentum: float) -> str:
    return f"{energy:g} and {momentum:g} GeV"


@njit(cache=True, nogil=True)
def falls_short(px, py, pz, energy, shortfall):  # type: ignore[no-untyped-def]
    """Tell which energies are below their momentum by more than a fraction; false where a number is NaN.

    Args:
        px: Momentum in GeV, float32, shape (P,).
        py: The same.
        pz: The same.
        energy: In GeV, float32, shape (P,).
        shortfall: Fraction of the momentum that may be missing.

    Returns:
        Boolean, shape (P,).
    """
    bad = np.zeros(len(px), np.bool_)
    allowed = (1.0 - shortfall) ** 2
    for i in range(len(px)):
        x, y, z, e = np.float64(px[i]), np.float64(py[i]), np.float64(pz[i]), np.float64(energy[i])
        bad[i] = e * e < allowed * (x * x + y * y + z * z) - NOTHING_GEV2
    return bad


def _check_range(
    name: str, array: np.ndarray, bounds: tuple[float | None, float | None], faults: Faults, *, of_nodes: bool
) -> None:
    low, high = (-np.inf if bounds[0] is None else bounds[0]), (np.inf if bounds[1] is None else bounds[1])
    faults.add(
        (array < low) | (array > high),
        f"column {name!r} is beyond its range of {low:g} to {high:g}",
        lambda place: f"{array[place]:g}",
        of_nodes=of_nodes,
    )
