"""Which texts and numbers does a pickled list hold?

A pickle is a program. Of its instructions, only those are followed here that put texts and numbers into lists; at any other
one, reading stops with an error, so that nothing is looked up and nothing is called.
"""

import pickletools
from collections.abc import Callable
from typing import Any

from distjet.errors import DataError

VALUES = {
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT", "BINBYTES", "SHORT_BINBYTES"),
}
"Instructions that hold a value."
IGNORED = {"PROTO", "FRAME", "STOP"}


class _Reader:
    """What the instructions work on."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.actions: dict[str, Callable[[Any], None]] = {
            **dict.fromkeys(VALUES, self.stack.append),
            **dict.fromkeys(IGNORED, lambda argument: None),
            **dict.fromkeys(("EMPTY_LIST", "EMPTY_TUPLE"), lambda argument: self.stack.append([])),
            **dict.fromkeys(("LIST", "TUPLE"), lambda argument: self.stack.append(self._since_mark())),
            **dict.fromkeys(("BINPUT", "LONG_BINPUT", "PUT"), self._remember),
            **dict.fromkeys(("BINGET", "LONG_BINGET", "GET"), lambda argument: self.stack.append(self.memo[argument])),
            "MEMOIZE": lambda argument: self._remember(len(self.memo)),
            "MARK": lambda argument: self.marks.append(len(self.stack)),
            "APPENDS": lambda argument: self._append(self._since_mark()),
            "APPEND": lambda argument: self._append([self.stack.pop()]),
        }

    def _since_mark(self) -> list[Any]:
        first = self.marks.pop()
        items = self.stack[first:]
        del self.stack[first:]
        return items

    def _append(self, items: list[Any]) -> None:
        self.stack[-1].extend(items)

    def _remember(self, number: Any) -> None:
        self.memo[int(number)] = self.stack[-1]


def plain_list(data: bytes) -> list[Any]:
    """Read a pickled list of texts and numbers.

    Raises:
        DataError: If it is anything else; nothing of it is executed.
    """
    reader = _Reader()
    try:
        for instruction, argument, _ in pickletools.genops(data):
            if instruction.name not in reader.actions:
                what = f"its pickle has the instruction {instruction.name} {argument}"
                raise DataError(f"the names of the columns are no list of texts: {what}")
            reader.actions[instruction.name](argument)
        found = reader.stack.pop()
    except (ValueError, IndexError, KeyError, AttributeError) as error:
        raise DataError(f"the names of the columns are no list of texts: {error}") from error
    if not isinstance(found, list):
        raise DataError(f"the names of the columns are no list of texts: {found!r}")
    return found
