"""Spec: arithmetic on names gives what numpy gives, NaN stays unknown, and nothing but arithmetic is accepted."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distjet.dataset.reading.ragged import Ragged
from distjet.dataset.recipes.definitions import Definitions
from distjet.dataset.recipes.expressions import Level, parse
from distjet.dataset.recipes.scope import Scope
from distjet.errors import ConfigError

COUNTS = np.array([2, 0, 3])
OFFSETS = np.concatenate([[0], np.cumsum(COUNTS)])
A, B = np.array([1.0, -2.0, 3.0]), np.array([0.5, 4.0, np.nan])
X = np.array([1.0, 2.0, 3.0, 4.0, 5.0])


def jet_scope(**definitions: str) -> Scope:
    branches = {"a": Ragged(A), "b": Ragged(B), "x": Ragged(X, (OFFSETS,)), "Some.dotted_name": Ragged(A * 10)}
    return Scope(
        branches, 3, Definitions({name: parse(text) for name, text in definitions.items()}), events=False, sample="qcd"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a + b * 2 - a / 4", A + B * 2 - A / 4),
        ("-a ** 2", -(A**2)),
        ("a // 2 + a % 2", A // 2 + A % 2),
        ("min(a, 2) + max(a, -1) + abs(a)", np.minimum(A, 2) + np.maximum(A, -1) + np.abs(A)),
        ("where(a > 0, a, 7)", np.array([1.0, 7.0, 3.0])),
        ("where(b > 1, 1, 0)", np.array([0.0, 1.0, np.nan])),
        ("0 < a <= 3", np.array([1.0, 0.0, 1.0])),
        ("b > 1", np.array([0.0, 1.0, np.nan])),
        ("not b > 1", np.array([1.0, 0.0, np.nan])),
        ("a > 0 and b > 0", np.array([1.0, 0.0, np.nan])),
        ("a < 0 or b < 1", np.array([1.0, 1.0, np.nan])),
        ("sum(x)", np.array([3.0, 0.0, 12.0])),
        ("count(x) + sum(1)", np.array([4.0, 0.0, 6.0])),
        ("sum(x * a)", np.array([3.0, 0.0, 36.0])),
        ("x[1]", np.array([2.0, np.nan, 4.0])),
        ("x[-1]", np.array([2.0, np.nan, 5.0])),
        ("Some.dotted_name / 10", A),
        ("branch('Some.dotted_name')", A * 10),
        ("wrap(a * 4)", np.angle(np.exp(4j * A))),
        ("sample == 'qcd'", np.ones(3)),
        ("sample != 'qcd'", np.zeros(3)),
        ("1e3", np.full(3, 1000.0)),
    ],
)
def test_values_equal_numpy(text, expected):
    np.testing.assert_allclose(jet_scope().evaluate(text, Level.JET), expected)


@pytest.mark.parametrize("text", ["E_*", " Jets.pt_* ", "branch('E_*')"])
def test_a_family_of_columns_is_a_branch(text):
    expression = parse(text)
    assert expression.branch_names == {text.strip() if "branch" not in text else "E_*"}
    assert parse(expression.text).branch_names == pickle.loads(pickle.dumps(expression)).branch_names == expression.branch_names


def test_a_star_between_names_multiplies():
    assert parse("a*b").names == {"a", "b"}
    for text in ("*a", "1*", "a**"):
        with pytest.raises(ConfigError, match="expected an arithmetic expression"):
            parse(text)


@pytest.mark.parametrize("first", [None, np.array([True, False, True])], ids=["all", "selected"])
def test_padding_is_left_out_of_lists(first):
    """Elements below 2 and the 4 are none; what is left is that of a scope that never had them."""
    scope = jet_scope(y="x * a", total="sum(y)")
    assert scope.evaluate("total", Level.JET).tolist() == [3.0, 0.0, 36.0]
    scope.drop_nodes(np.isin(X, (1.0, 4.0)))
    jets = np.arange(3) if first is None else np.flatnonzero(first)
    if first is not None:
        scope.select(first)
    assert scope.counts.tolist() == np.array([1, 0, 2])[jets].tolist()
    assert scope.evaluate("x", Level.NODE).tolist() == [2.0, 3.0, 5.0]
    assert scope.evaluate("y", Level.NODE).tolist() == [2.0, 9.0, 15.0]
    assert scope.evaluate("total", Level.JET).tolist() == np.array([2.0, 0.0, 24.0])[jets].tolist()
    assert scope.evaluate("x[1]", Level.JET).tolist()[-1] == 4.0  # an element of the list as it is in the file
    scope.select(scope.evaluate("a > 1", Level.JET) != 0)
    assert scope.evaluate("x", Level.NODE).tolist() == [3.0, 5.0]


def test_jets_are_repeated_for_their_constituents():
    np.testing.assert_allclose(jet_scope().evaluate("x / a", Level.NODE), X / np.repeat(A, COUNTS))


def test_events_are_repeated_for_their_jets_and_selection_follows():
    branches = {
        "mu": Ragged(np.array([10.0, 20.0])),
        "pt": Ragged(np.array([1.0, 2.0, 3.0]), (np.array([0, 1, 3]),)),
        "x": Ragged(X, (np.array([0, 1, 3]), OFFSETS)),
    }
    scope = Scope(branches, 2, Definitions({}), events=True)
    np.testing.assert_allclose(scope.evaluate("pt + mu", Level.JET), [11, 22, 23])
    scope.select(np.array([True, False, True]))
    np.testing.assert_allclose(scope.evaluate("x + mu", Level.NODE), [11, 12, 23, 24, 25])
    np.testing.assert_array_equal(scope.entry, [0, 1])
    np.testing.assert_array_equal(scope.position, [0, 1])
    scope.select(np.array([False, True]))
    np.testing.assert_allclose(scope.evaluate("sum(x)", Level.JET), [12])


def test_a_name_means_what_stands_above_it():
    scope = jet_scope(a="a * 10", c="a + 1", b="c")
    np.testing.assert_allclose(scope.evaluate("a", Level.JET), A * 10)
    np.testing.assert_allclose(scope.evaluate("b", Level.JET), A * 10 + 1)
    needed = scope.definitions.branches([parse("b")])
    assert needed == {"a"}


@pytest.mark.parametrize(
    "text",
    [
        "(a + b).T", "a @ b", "__import__('os').system('true')", "a.__class__()", "open('f')", "eval('1')",
        "[a for a in b]", "lambda: 1", "a if b else 1", "f'{a}'", "'text'", "log('text')", "{1: 2}", "a := 3", "a = 3", "a; b",
        "a & b", "~a", "a in b", "a is b", "log(a, b)", "log(x=a)", "log(*a)", "branch(a)", "x[a]", "x[0:1]", "x[True]",
        "(a + b)[0]", "None", "1j", "", "a +",
    ],
)  # fmt: skip
def test_everything_but_arithmetic_is_refused(text):
    with pytest.raises(ConfigError):
        parse(text)


def test_a_dotted_name_is_a_branch_and_never_an_attribute():
    with pytest.raises(ConfigError, match=r"no branch or name 'a.real'"):
        jet_scope().evaluate("a.real", Level.JET)


def test_an_unknown_function_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown function 'sqrtt', did you mean 'sqrt'"):
        parse("sqrtt(a)")


def test_a_text_is_not_a_number():
    with pytest.raises(ConfigError, match="expected a number"):
        jet_scope().evaluate("log(sample)", Level.JET)
    with pytest.raises(ConfigError, match="only be compared with another text"):
        jet_scope().evaluate("a == 'qcd'", Level.JET)


def test_more_values_than_the_place_allows_is_an_error():
    with pytest.raises(ConfigError, match=r"one value per node, expected one per jet; use sum"):
        jet_scope().evaluate("x * 2", Level.JET)


def test_an_expression_survives_pickling():
    text = "log(a) + x[1]"
    assert pickle.loads(pickle.dumps(parse(text))).names == parse(text).names == {"a"}


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=3), st.sampled_from(["+", "-", "*"]))
def test_operators_agree_with_python(values, operator):
    u, v, w = values
    scope = Scope({"u": Ragged(np.array([u])), "v": Ragged(np.array([v]))}, 1, Definitions({}), events=False)
    expected = {"+": u + v, "-": u - v, "*": u * v}[operator] + w
    assert scope.evaluate(f"u {operator} v + ({w!r})", Level.JET)[0] == expected
