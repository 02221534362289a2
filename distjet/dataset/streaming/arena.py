"""Which decoded row groups are in memory, and which may be replaced?

A slot has room for the largest row group of the split. It is held while steps need its row group, and keeps the content until a
new one takes its place, the one that became free first: so a split with no more row groups than slots is decoded once, and
what was decoded ahead for the next epoch is found by it. Nothing here is locked; the pipeline does that.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from distjet.dataset.streaming.layout import Bank, Layout, RowGroup, Store

ABSENT = -1


class Arena:
    """Slots for decoded row groups.

    Attributes:
        store: The slots' memory, whose pages are taken when they are first written.
        slot_of: Slot of each row group, `ABSENT` for those that are not in memory, int64, shape (R,).
    """

    def __init__(self, layout: Layout, groups: Sequence[RowGroup], num_slots: int) -> None:
        self.groups, self.num_slots = groups, num_slots
        rows, words = max(group.rows for group in groups), max(layout.num_words(group) for group in groups)
        bank = Bank.over(np.empty((num_slots * rows, 3), np.int32), np.empty(num_slots * words, np.float32))
        self.store = Store(bank, np.arange(num_slots + 1) * rows, np.arange(num_slots + 1) * words)
        self.columns: dict[str, np.ndarray] = {
            name: np.empty(num_slots * rows, object if dtype == "string" else dtype) for name, dtype in layout.rows
        }
        self.slot_of = np.full(len(groups), ABSENT)
        self.content = [ABSENT] * num_slots
        self.idle = dict.fromkeys(range(num_slots))
        "Slots that may be replaced, the first ones first."

    def hold(self, group: int) -> bool:
        """Keep a row group from being replaced; return whether it is in memory."""
        if (slot := int(self.slot_of[group])) == ABSENT:
            return False
        self.idle.pop(slot, None)
        return True

    def claim(self) -> int | None:
        """Return a slot for new content, or None if all are held."""
        if not self.idle:
            return None
        slot = next(iter(self.idle))
        del self.idle[slot]
        if (old := self.content[slot]) != ABSENT:
            self.slot_of[old] = self.content[slot] = ABSENT
        return slot

    def part(self, slot: int, group: int) -> Bank:
        """Return the memory in which a slot holds a row group."""
        return self.store.part(slot, self.groups[group].rows)

    def settle(self, slot: int, group: int, columns: dict[str, np.ndarray]) -> None:
        """Say that a slot now holds a row group, and take the columns that are passed along."""
        first = int(self.store.first_row[slot])
        for name, values in columns.items():
            self.columns[name][first : first + len(values)] = values
        self.slot_of[group], self.content[slot] = slot, group

    def release(self, group: int) -> None:
        """Let a row group be replaced."""
        if (slot := int(self.slot_of[group])) != ABSENT:
            self.idle[slot] = None

    def give_back(self, slot: int) -> None:
        """Let a claimed slot be replaced next, as it holds nothing."""
        self.idle = {slot: None, **self.idle}

    def release_all(self) -> None:
        """Let everything be replaced, what was held until now last."""
        self.idle |= dict.fromkeys(range(self.num_slots))

    def rows_of(self, slot: np.ndarray, number: np.ndarray) -> dict[str, Any]:
        """Return the columns that are passed along for some rows, each of shape (K,)."""
        at = self.store.first_row[slot] + number
        return {name: values[at] for name, values in self.columns.items()}
