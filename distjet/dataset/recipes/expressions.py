"""How does a line of arithmetic in YAML become arrays, without `eval`?

Python's own parser reads the text, and only the nodes listed here are accepted; a name is a variable or a branch, never a
Python object. A dotted name (`AnalysisJetsAuxDyn.pt`) is the name of a branch: nothing is ever looked up on an object.

Each value has a level: one number for the file, for an event, for a jet or for a constituent. Mixing levels broadcasts towards
the constituents; `sum` and `count` go from constituents to their jet. Truth values are the floats 1, 0 and NaN, where NaN means
"unknown, because an operand was NaN"; so a cut on a NaN is noticed instead of silently being false.
"""

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any, NamedTuple, Protocol, TypeGuard

import numpy as np

from distjet.config import unknown
from distjet.errors import ConfigError


class Level(IntEnum):
    """What a value is given for, from the widest to the narrowest."""

    CONSTANT = 0
    EVENT = 1
    JET = 2
    NODE = 3


class Value(NamedTuple):
    """An array (a scalar for constants) and its level."""

    level: Level
    array: Any


class Scope(Protocol):
    """What an expression needs to know about the data."""

    def value(self, name: str) -> Value:
        """Return a variable or a branch."""
        ...

    def branch(self, name: str, element: int | None = None) -> Value:
        """Return a branch, or one element of a branch that holds a list."""
        ...

    def broadcast(self, value: Value, level: Level) -> Any:
        """Repeat a value down to a narrower level."""
        ...

    def sum_nodes(self, array: Any) -> Any:
        """Sum over the constituents of each jet."""
        ...


@dataclass(frozen=True)
class Expression:
    """A parsed line of arithmetic."""

    text: str
    tree: ast.expr

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the text alone."""
        return parse, (self.text,)

    @cached_property
    def names(self) -> frozenset[str]:
        """Variables and branches that appear in the expression."""
        found: set[str] = set()
        _collect_names(self.tree, found)
        return frozenset(found)

    @cached_property
    def branch_names(self) -> frozenset[str]:
        """Names that stand in `branch('...')` or before `[i]`, and so can only be branches."""
        return frozenset(_branch_of(node) for node in ast.walk(self.tree) if _is_branch_reference(node))

    def evaluate(self, scope: Scope) -> Value:
        """Evaluate in a scope; floating-point warnings are off, because NaN and infinity are counted row by row later."""
        with np.errstate(all="ignore"):
            return _evaluate(self.tree, scope)


FAMILY = re.compile(r"[A-Za-z_][\w.]*\*")
"A family of numbered columns, `E_*`, which means `branch('E_*')`; arithmetic never ends so."


def parse(text: str | float) -> Expression:
    """Parse one line of arithmetic.

    Args:
        text: For example `log(energy / jet_energy)`; a bare number is a constant, and `E_*` alone the columns E_0, E_1, ... as
            one list.

    Raises:
        ConfigError: If the text is not an expression, or uses something beyond arithmetic.

    Example:
        >>> sorted(parse("Jet_pt * (1 - Jet_rawFactor)").names)
        ['Jet_pt', 'Jet_rawFactor']
    """
    text = str(text).strip()
    if FAMILY.fullmatch(text):
        text = f"branch({text!r})"
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"expected an arithmetic expression (got {text!r}: {error})") from error
    _check(tree, text)
    return Expression(text, tree)


def _where(condition: Any, yes: Any, no: Any) -> Any:
    return np.where(np.isnan(condition), np.nan, np.where(condition != 0, yes, no))


def _wrap(angle_rad: Any) -> Any:
    """Bring an angle into [-pi, pi)."""
    return angle_rad - 2 * np.pi * np.floor((angle_rad + np.pi) / (2 * np.pi))


FUNCTIONS: Mapping[str, tuple[Callable[..., Any], int]] = {
    "abs": (np.abs, 1),
    "sqrt": (np.sqrt, 1),
    "exp": (np.exp, 1),
    "log": (np.log, 1),
    "log10": (np.log10, 1),
    "log1p": (np.log1p, 1),
    "sin": (np.sin, 1),
    "cos": (np.cos, 1),
    "tan": (np.tan, 1),
    "sinh": (np.sinh, 1),
    "cosh": (np.cosh, 1),
    "tanh": (np.tanh, 1),
    "arcsinh": (np.arcsinh, 1),
    "arctan2": (np.arctan2, 2),
    "sign": (np.sign, 1),
    "floor": (np.floor, 1),
    "min": (np.minimum, 2),
    "max": (np.maximum, 2),
    "clip": (np.clip, 3),
    "where": (_where, 3),
    "wrap": (_wrap, 1),
}
"Element by element: name -> (function, number of arguments). `wrap` brings an angle into [-pi, pi)."

REDUCTIONS = ("sum", "count")
"From constituents to their jet."

_BINARY: Mapping[type, Callable[..., Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.FloorDiv: np.floor_divide,
    ast.Mod: np.mod,
    ast.Pow: np.power,
}
_COMPARE: Mapping[type, Callable[..., Any]] = {
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
}
_UNARY: Mapping[type, Callable[..., Any]] = {
    ast.USub: np.negative,
    ast.UAdd: np.positive,
    ast.Not: lambda truth: 1.0 - _truth(truth),
}


def _check(node: ast.AST, text: str) -> None:
    """Refuse everything that is not arithmetic on names, with the part that is refused."""
    if isinstance(node, ast.Name | ast.Attribute):
        _name_of(node, text)
        return
    if isinstance(node, ast.Call):
        _check_call(node, text)
        children: list[ast.AST] = [] if _is_branch_reference(node) else list(node.args)
    elif isinstance(node, ast.Subscript):
        if not _is_branch_reference(node):
            raise ConfigError(f"expected branch[number] (got {ast.unparse(node)!r} in {text!r})")
        children = []
    elif isinstance(node, ast.Constant):
        if not isinstance(node.value, bool | int | float):
            raise ConfigError(f"expected a number (got {ast.unparse(node)!r} in {text!r})")
        children = []
    else:
        children = _operands(node, text)
    for child in children:
        _check(child, text)


def _operands(node: ast.AST, text: str) -> list[ast.AST]:
    """Return the operands of an operator that the grammar has."""
    if isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        return [node.left, node.right]
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return [node.operand]
    if isinstance(node, ast.BoolOp):
        return list(node.values)
    if isinstance(node, ast.Compare) and all(type(op) in _COMPARE for op in node.ops):
        return [term for term in (node.left, *node.comparators) if not _is_text(term)]
    raise ConfigError(
        f"{ast.unparse(node)!r} is not allowed in {text!r}; an expression has + - * / // % **, comparisons, and, or, not, "
        f"branch[number], branch('name') and the functions {sorted([*FUNCTIONS, *REDUCTIONS])}"
    )


def _check_call(node: ast.Call, text: str) -> None:
    if not isinstance(node.func, ast.Name) or node.keywords:
        raise ConfigError(f"{ast.unparse(node)!r} is not allowed in {text!r}; call functions by name, without keywords")
    name = node.func.id
    if name == "branch":
        if not _is_branch_reference(node):
            raise ConfigError(f"expected branch('name') (got {ast.unparse(node)!r} in {text!r})")
        return
    if name not in FUNCTIONS and name not in REDUCTIONS:
        raise ConfigError(unknown("function", name, [*FUNCTIONS, *REDUCTIONS, "branch"]) + f" (in {text!r})")
    wanted = FUNCTIONS[name][1] if name in FUNCTIONS else 1
    if len(node.args) != wanted or any(isinstance(arg, ast.Starred) for arg in node.args):
        raise ConfigError(f"{name} takes {wanted} argument{'s' * (wanted > 1)} (got {len(node.args)} in {text!r})")


def _name_of(node: ast.AST, text: str = "") -> str:
    """Return a name or a dotted name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_name_of(node.value, text)}.{node.attr}"
    raise ConfigError(f"expected a branch name before the dot (got {ast.unparse(node)!r} in {text!r})")


def _is_branch_reference(node: ast.AST) -> bool:
    """Recognise `name[3]` and `branch('name')`."""
    if isinstance(node, ast.Subscript):
        index = node.slice.operand if _is_minus(node.slice) else node.slice
        named = isinstance(node.value, ast.Name | ast.Attribute)
        return named and isinstance(index, ast.Constant) and type(index.value) is int
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "branch":
        return len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str)
    return False


def _is_minus(node: ast.AST) -> TypeGuard[ast.UnaryOp]:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _branch_of(node: Any) -> str:
    return _name_of(node.value) if isinstance(node, ast.Subscript) else node.args[0].value


def _collect_names(node: ast.AST, found: set[str]) -> None:
    if isinstance(node, ast.Name | ast.Attribute):
        found.add(_name_of(node))
    elif isinstance(node, ast.Call):
        for argument in node.args:
            _collect_names(argument, found)
    elif not isinstance(node, ast.Subscript):
        for child in ast.iter_child_nodes(node):
            _collect_names(child, found)


def _evaluate(node: ast.expr, scope: Scope) -> Value:
    if isinstance(node, ast.Constant):
        return Value(Level.CONSTANT, node.value)
    if isinstance(node, ast.Subscript):
        return scope.branch(_branch_of(node), ast.literal_eval(node.slice))
    if isinstance(node, ast.Name | ast.Attribute):
        return scope.value(_name_of(node))
    if isinstance(node, ast.Call):
        return _evaluate_call(node, scope)
    return _evaluate_operator(node, scope)


def _evaluate_call(node: ast.Call, scope: Scope) -> Value:
    assert isinstance(node.func, ast.Name)
    name = node.func.id
    if name == "branch":
        return scope.branch(_branch_of(node))
    arguments = [_evaluate(argument, scope) for argument in node.args]
    if name in FUNCTIONS:
        return _apply(FUNCTIONS[name][0], arguments, scope)
    nodes = np.asarray(scope.broadcast(arguments[0], Level.NODE), dtype=np.float64)
    return Value(Level.JET, scope.sum_nodes(np.ones_like(nodes) if name == "count" else nodes))


def _evaluate_operator(node: ast.expr, scope: Scope) -> Value:
    if isinstance(node, ast.BinOp):
        operands = [_evaluate(node.left, scope), _evaluate(node.right, scope)]
        return _apply(_BINARY[type(node.op)], operands, scope)
    if isinstance(node, ast.UnaryOp):
        return _apply(_UNARY[type(node.op)], [_evaluate(node.operand, scope)], scope)
    if isinstance(node, ast.BoolOp):
        combine = np.minimum if isinstance(node.op, ast.And) else np.maximum
        truths = [_evaluate(value, scope) for value in node.values]
        return _apply(lambda *arrays: combine.reduce(np.broadcast_arrays(*map(_truth, arrays))), truths, scope)
    assert isinstance(node, ast.Compare)
    terms = [_evaluate(term, scope) for term in (node.left, *node.comparators)]
    operators = [_COMPARE[type(op)] for op in node.ops]
    level = max(term.level for term in terms)
    return Value(level, _compare(operators, [scope.broadcast(term, level) for term in terms]))


def _apply(function: Callable[..., Any], arguments: list[Value], scope: Scope) -> Value:
    """Bring the arguments to their narrowest level and apply a function to them as float64.

    Constants stay single numbers, which numpy spreads itself: for the exponent 2 it takes the square, which is fast, but for an
    array of exponents it calls `pow`.
    """
    level = max(argument.level for argument in arguments)
    arrays = [_as_float(value.array if value.level == Level.CONSTANT else scope.broadcast(value, level)) for value in arguments]
    return Value(level, function(*arrays))


def _as_float(array: Any) -> Any:
    if isinstance(array, str):
        raise ConfigError(f"expected a number; a text can only be compared by == or != (got {array!r})")
    return np.asarray(array, dtype=np.float64)


def _truth(array: Any) -> Any:
    """1 where the value is true, 0 where it is zero, NaN where it is unknown."""
    return np.where(np.isnan(array), np.nan, np.not_equal(array, 0).astype(np.float64))


def _compare(operators: list[Callable[..., Any]], terms: list[Any]) -> Any:
    """Chain comparisons as Python does: a < b < c."""
    results = [_compare_two(op, left, right) for op, left, right in zip(operators, terms, terms[1:], strict=False)]
    return np.minimum.reduce(np.broadcast_arrays(*results))


def _compare_two(operator: Callable[..., Any], left: Any, right: Any) -> Any:
    if isinstance(left, str) or isinstance(right, str):
        if operator not in (np.equal, np.not_equal) or not (isinstance(left, str) and isinstance(right, str)):
            raise ConfigError(f"a text can only be compared with another text by == or != (got {left!r} and {right!r})")
        return np.float64((left == right) == (operator is np.equal))
    left, right = _as_float(left), _as_float(right)
    return np.where(np.isnan(left) | np.isnan(right), np.nan, operator(left, right).astype(np.float64))
