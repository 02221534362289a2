"""Entries of a space: what is drawn lies in the range, has the right density, and is turned into keys of a training."""

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distjet.config import ComponentConfig
from distjet.tuning.space import (
    DISTRIBUTIONS,
    ChoiceConfig,
    IntConfig,
    LogUniformConfig,
    SimplexConfig,
    UniformConfig,
    grouped,
    parameters_of,
    settings_of,
)

SPACE = {
    "optimizer.lr": LogUniformConfig(low=1e-4, high=1e-1),
    "model.num_blocks": IntConfig(low=1, high=9, step=2),
    "model": ChoiceConfig(values=[{"name": "pyg"}, None, 3]),
    "weights": SimplexConfig(paths=["loss.energy.weight", "loss.mass.weight", "loss.rapidity.weight"], total=2.0, low=0.1),
}


def draws(number: int) -> list[dict]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    return [settings_of(SPACE, study.ask(parameters_of(SPACE)).params) for _ in range(number)]


def test_every_draw_lies_in_the_space_and_reaches_all_of_it() -> None:
    found = draws(300)
    lr = np.array([point["optimizer.lr"] for point in found])
    assert lr.min() >= 1e-4
    assert lr.max() <= 1e-1
    assert np.mean(lr < 10**-2.5) == pytest.approx(0.5, abs=0.1), "half of a loguniform lies below the geometric mean"
    assert {point["model.num_blocks"] for point in found} == {1, 3, 5, 7, 9}
    assert {str(point["model"]) for point in found} == {"{'name': 'pyg'}", "None", "3"}


def test_weights_on_a_simplex_add_up_and_are_evenly_spread() -> None:
    found = np.array([[point[path] for path in SPACE["weights"].paths] for point in draws(2000)])
    np.testing.assert_allclose(found.sum(axis=1), 2.0, rtol=1e-12)
    assert found.min() >= 0.1
    free = (found - 0.1) / 1.7
    # the flat density on a simplex of three has mean 1/3, variance 1/18 and covariance -1/36 (Dirichlet)
    np.testing.assert_allclose(free.mean(axis=0), 1 / 3, atol=0.02)
    expected = np.full((3, 3), -1 / 36) + np.eye(3) * (1 / 18 + 1 / 36)
    np.testing.assert_allclose(np.cov(free.T), expected, atol=0.005)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_any_draw_is_on_the_simplex(drawn: list[float]) -> None:
    entry = SimplexConfig(paths=["a", "b", "c", "d"], total=1.0, low=0.05)
    weights = entry.settings("w", {f"w[{index}]": value for index, value in enumerate(drawn)})
    assert sum(weights.values()) == pytest.approx(1.0)
    assert min(weights.values()) >= 0.05 - 1e-12


def test_the_ends_of_a_simplex_are_its_corners() -> None:
    ends = SimplexConfig(paths=["a", "b", "c"], total=1.0, low=0.1).ends("w")
    assert ends == [{"a": 0.8, "b": 0.1, "c": 0.1}, {"a": 0.1, "b": 0.8, "c": 0.1}, {"a": 0.1, "b": 0.1, "c": 0.8}]


def test_grids_hold_both_ends() -> None:
    assert list(UniformConfig(low=0, high=1, num_points=3).grid()) == [0, 0.5, 1]
    assert list(LogUniformConfig(low=1e-4, high=1e-2, num_points=3).grid()) == pytest.approx([1e-4, 1e-3, 1e-2])
    assert list(IntConfig(low=1, high=7, step=3).grid()) == [1, 4, 7]
    assert list(IntConfig(low=1, high=100, log=True, num_points=3).grid()) == [1, 10, 100]
    with pytest.raises(ValueError, match="needs num_points"):
        UniformConfig(low=0, high=1).grid()
    with pytest.raises(ValueError, match="simplex, which has no grid"):
        SPACE["weights"].grid()


@pytest.mark.parametrize(
    ("config", "content", "message"),
    [
        (UniformConfig, {"low": 2, "high": 1}, "low must be below high"),
        (LogUniformConfig, {"low": 0, "high": 1}, "greater than 0"),
        (IntConfig, {"low": 0, "high": 8, "log": True}, "log needs low >= 1"),
        (IntConfig, {"low": 0, "high": 8, "step": 3}, "low plus a multiple of step"),
        (ChoiceConfig, {"values": [1, 1]}, "must differ"),
        (SimplexConfig, {"paths": ["a", "b"], "low": 0.5}, "leave nothing of a total"),
        (SimplexConfig, {"paths": ["a", "a"]}, "must differ"),
    ],
)
def test_what_is_no_range_is_refused(config: type[ComponentConfig], content: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config.model_validate(content)


def test_dotted_and_nested_keys_mean_the_same_and_the_later_one_wins() -> None:
    given = {"a.b": {"name": "uniform", "low": 0, "high": 1}, "a": {"b": {"low": 0.5}}, "c": {"low": 1}}
    assert grouped(given) == {"a.b": {"name": "uniform", "low": 0.5, "high": 1}, "c": {"low": 1}}


def test_names_of_distributions_are_those_of_the_table() -> None:
    for name, component in DISTRIBUTIONS.items():
        module, _, attribute = component.config.partition(":")
        assert getattr(__import__(module, fromlist=[attribute]), attribute).model_fields["name"].default == name
