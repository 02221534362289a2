"""What does a name mean, and how many values has it, for one range of entries?

A `Scope` holds the branches of a range of entries and the definitions of a recipe, and evaluates names on demand, each
once. Where an entry is an event, branches that are lists belong to jets; the first of them that is read fixes how many jets
each event has, and all others must agree. In the same way the first list of lists fixes the constituents.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from distjet.config import did_you_mean
from distjet.dataset.reading.ragged import Ragged
from distjet.dataset.recipes.definitions import Definitions
from distjet.dataset.recipes.expressions import Expression, Level, Value, parse
from distjet.errors import ConfigError, DataError


class Scope:
    """Names of a collection of jets (or of anything that comes in lists per event) and their values.

    Args:
        branches: Branches of a range of entries, by name.
        num_entries: Number of entries in the range.
        definitions: Names beyond the branches.
        events: Whether an entry is an event; else an entry is a jet.
        sample: Name of the sample, which expressions may compare with.
    """

    def __init__(
        self, branches: Mapping[str, Ragged], num_entries: int, definitions: Definitions, *, events: bool, sample: str = ""
    ) -> None:
        self.branches = branches
        self.num_entries = num_entries
        self.definitions = definitions
        self.sample = sample
        self.first_level = Level.EVENT if events else Level.JET
        self.jet_offsets: np.ndarray | None = None if events else np.arange(num_entries + 1)
        self.node_offsets: np.ndarray | None = None
        self._list_offsets: np.ndarray | None = None  # of the lists as they are read, with their padding
        self.jet_source = self.node_source = ""
        self._given: dict[str, Value] = {}
        self._cache: dict[str, Value] = {}
        self._expressions = list(definitions.formulas.values())
        self._visible = len(self._expressions)
        self._kept: np.ndarray | None = None
        self._jets: np.ndarray | None = None
        self._nodes: np.ndarray | None = None

    def give(self, name: str, level: Level, array: np.ndarray) -> None:
        """Provide a value that comes ready from another collection."""
        self._given[name] = Value(level, array)

    @property
    def num_jets(self) -> int:
        """Number of selected jets."""
        if self._jets is not None:
            return len(self._jets)
        return int(self._all_jets()[-1])

    @property
    def entry(self) -> np.ndarray:
        """Entry of each selected jet, counted from the start of the range."""
        entry = np.repeat(np.arange(self.num_entries), np.diff(self._all_jets()))
        return entry if self._jets is None else entry[self._jets]

    @property
    def position(self) -> np.ndarray:
        """Position of each selected jet within its entry."""
        offsets = self._all_jets()
        position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], np.diff(offsets))
        return position if self._jets is None else position[self._jets]

    @property
    def counts(self) -> np.ndarray:
        """Number of constituents of each selected jet."""
        if self.node_offsets is None:
            raise ConfigError("expected a value per jet, but this recipe has no constituents to sum or count")
        counts = np.diff(self.node_offsets)
        return counts if self._jets is None else counts[self._jets]

    def select(self, keep: np.ndarray) -> None:
        """Keep some of the selected jets; values are evaluated again for them when they are asked for.

        Args:
            keep: Which of the currently selected jets stay, boolean, shape (J,).
        """
        self._jets = np.flatnonzero(keep) if self._jets is None else self._jets[keep]
        self._nodes = None
        self._cache.clear()

    def drop_nodes(self, is_padding: np.ndarray) -> None:
        """Leave out what is no constituent, before any jet is selected.

        Args:
            is_padding: Which elements of the lists are none, boolean, shape (P,).
        """
        assert self._jets is None
        assert self.node_offsets is not None
        self._kept = np.flatnonzero(~is_padding)
        self.node_offsets = np.searchsorted(self._kept, self.node_offsets)
        self._nodes = self._kept
        self._cache.clear()

    def evaluate(self, formula: str, level: Level) -> np.ndarray:
        """Evaluate a formula and bring it to a level.

        Raises:
            ConfigError: If it has more values than that level (a number per constituent where one per jet is needed).
        """
        return self.evaluate_expression(parse(formula), level)

    def evaluate_expression(self, expression: Expression, level: Level) -> np.ndarray:
        """Do the same with a parsed formula."""
        value = expression.evaluate(self)
        if isinstance(value.array, str):
            raise ConfigError(f"expected a number (got the text {value.array!r} from {expression.text!r})")
        if value.level > level:
            raise ConfigError(
                f"{expression.text!r} has one value per {value.level.name.lower()}, expected one per {level.name.lower()}; "
                "use sum(...) or count(...) for constituents, name[i] for one element of a list"
            )
        return self.broadcast(value, level)

    def value(self, name: str) -> Value:
        """Return a name's value: the definition that stands above the current one, else a branch."""
        if name == "sample":
            return Value(Level.CONSTANT, self.sample)
        if name in self._given:
            return self._sliced(self._given[name])
        place = self.definitions.order.get(name)
        if place is None or place >= self._visible:
            return self.branch(name)
        if name not in self._cache:
            before, self._visible = self._visible, place
            try:
                self._cache[name] = self._expressions[place].evaluate(self)
            finally:
                self._visible = before
        return self._cache[name]

    def branch(self, name: str, element: int | None = None) -> Value:
        """Return a branch, or one element of a branch that holds a list."""
        if name not in self.branches:
            raise ConfigError(f"no branch or name {name!r}{did_you_mean(name, [*self.branches, *self.definitions.order])}")
        ragged = self.branches[name]
        if element is not None:
            if ragged.depth == 0:
                raise ConfigError(f"{name}[{element}]: branch {name!r} is a single number, not a list")
            ragged = ragged.element(element)
        if self.first_level + ragged.depth > Level.NODE:
            raise ConfigError(
                f"branch {name!r} has {ragged.depth} levels of lists, one too many for {self._layout()}; "
                f"pick an element: {name}[0]"
            )
        level = Level(self.first_level + ragged.depth)
        self._check_lengths(name, level, ragged)
        return self._sliced(Value(level, ragged.content))

    def broadcast(self, value: Value, level: Level) -> Any:
        """Repeat a value down to a narrower level."""
        if value.level == level or isinstance(value.array, str):
            return value.array
        array = np.asarray(value.array)
        if value.level == Level.CONSTANT:
            size = {Level.EVENT: self.num_entries, Level.JET: self.num_jets}.get(level)
            return np.broadcast_to(array, int(self.counts.sum()) if size is None else size)
        if value.level == Level.EVENT:
            array = array[self.entry]
        return array if level == Level.JET else np.repeat(array, self.counts)

    def sum_nodes(self, array: np.ndarray) -> np.ndarray:
        """Sum over the constituents of each jet, in their order (so that the result does not depend on the range read)."""
        owner = np.repeat(np.arange(self.num_jets), self.counts)
        return np.bincount(owner, weights=array, minlength=self.num_jets)

    def _all_jets(self) -> np.ndarray:
        if self.jet_offsets is None:
            raise ConfigError("expected a branch that is a list, one element per jet, before a number per event is used")
        return self.jet_offsets

    def _layout(self) -> str:
        return "layout: event" if self.first_level == Level.EVENT else "layout: jet"

    def _sliced(self, value: Value) -> Value:
        if value.level == Level.NODE and (nodes := self._selected_nodes()) is not None:
            return Value(value.level, value.array[nodes])
        if value.level == Level.JET and self._jets is not None:
            return Value(value.level, value.array[self._jets])
        return value

    def _selected_nodes(self) -> np.ndarray | None:
        """Return the places of the constituents of the selected jets in the lists; None for all."""
        if self._nodes is None and self._jets is not None:
            assert self.node_offsets is not None
            nodes = ranges(self.node_offsets[self._jets], self.node_offsets[self._jets + 1])
            self._nodes = nodes if self._kept is None else self._kept[nodes]
        return self._nodes

    def _check_lengths(self, name: str, level: Level, ragged: Ragged) -> None:
        """Take the lists of the first branch as the lists of all."""
        if self.first_level == Level.EVENT and level >= Level.JET:
            if self.jet_offsets is None:
                self.jet_offsets, self.jet_source = ragged.offsets[0], name
            elif ragged.offsets[0] is not self.jet_offsets and not np.array_equal(ragged.offsets[0], self.jet_offsets):
                raise DataError(f"branches {name!r} and {self.jet_source!r} disagree on the number of jets in an event")
        if level == Level.NODE:
            if self.node_offsets is None:
                self.node_offsets, self.node_source = ragged.offsets[-1], name
            if self._list_offsets is None:
                self._list_offsets = self.node_offsets
            if ragged.offsets[-1] is not self._list_offsets and not np.array_equal(ragged.offsets[-1], self._list_offsets):
                raise DataError(f"branches {name!r} and {self.node_source!r} disagree on the number of constituents of a jet")


def ranges(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Concatenate the integer ranges [start, stop)."""
    lengths = stops - starts
    if not lengths.sum():
        return np.zeros(0, dtype=np.int64)
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    return np.repeat(starts - first, lengths) + np.arange(lengths.sum())
