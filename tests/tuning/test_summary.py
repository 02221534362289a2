"""What is said about a sweep: which trial of a front is the best, how keys are shortened, how much each one matters."""

import math
from pathlib import Path

import pytest

from distjet.config import load
from distjet.tuning.settings import TuneConfig
from distjet.tuning.study import Study
from distjet.tuning.summary import MIN_TRIALS_FOR_IMPORTANCES, compromise, importances, short_names, summarise

SPACE = "space={optimizer.lr: {name: loguniform, low: 1e-4, high: 1e-2}, optimizer.weight_decay: {low: 0, high: 1}}"


def sweep(output: Path, *overrides: str) -> TuneConfig:
    return load(TuneConfig, [], [f"output={output}", "base={dataset: /tmp/d}", SPACE, *overrides])


def test_the_compromise_is_nearest_to_the_best_of_each_objective(tmp_path: Path) -> None:
    config = sweep(tmp_path, "objectives={a: min, b: max}")
    front = {3: {"a": 0.0, "b": 0.0}, 5: {"a": 2.0, "b": 90.0}, 8: {"a": 10.0, "b": 100.0}}
    assert compromise(config, front) == 5
    assert compromise(config, {4: {"a": 1.0, "b": 1.0}}) == 4


def test_points_that_wait_in_the_queue_are_no_trials_yet(tmp_path: Path) -> None:
    config = sweep(tmp_path, "objectives=a", "num_trials=1")
    study = Study(config, "s")
    study.begin_with([{"optimizer.lr": lr} for lr in (1e-3, 2e-3, 3e-3)])
    while (trial := study.ask()) is not None:
        study.finish(trial.number, "completed", {}, {"a": 1.0})
    found = summarise(config, study, {})
    assert (found["num_trials"], found["outcomes"], len(found["trials"])) == (1, {"completed": 1}, 1)
    assert [trial.outcome for trial in study.trials()] == ["completed", "waiting", "waiting"]


def test_names_are_cut_as_far_as_they_stay_different() -> None:
    paths = ["optimizer.lr", "loss.energy.weight", "loss.mass.weight", "model"]
    assert short_names(paths) == ["lr", "energy.weight", "mass.weight", "model"]
    assert short_names(["a.x", "x"]) == ["a.x", "x"]


@pytest.mark.parametrize("direction", ["min", "max"])
def test_the_key_that_decides_is_the_important_one(tmp_path: Path, direction: str) -> None:
    config = sweep(tmp_path, f"objectives={{a: {direction}}}", "sampler=random", "num_trials=40")
    study = Study(config, "s")
    assert importances(study, 0) == {}
    while (trial := study.ask()) is not None:
        value = math.log(trial.settings["optimizer.lr"])
        study.finish(trial.number, "completed", {}, {"a": value if direction == "min" else -value})
        if trial.number == MIN_TRIALS_FOR_IMPORTANCES - 2:
            assert importances(study, 0) == {}
    found = importances(study, 0)
    assert set(found) == {"optimizer.lr", "optimizer.weight_decay"}
    assert sum(found.values()) == pytest.approx(1)
    assert found["optimizer.lr"] > 0.8
