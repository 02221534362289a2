"""The memory of a sweep: what a killed driver left is found again, whatever was half written."""

import json
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState

from distjet.config import load
from distjet.errors import ConfigError, UserError
from distjet.tuning.settings import TuneConfig
from distjet.tuning.study import JOURNAL_FILE, Study, dominates
from distjet.tuning.warm_start import best_trials

SPACE = "space={optimizer.lr: {name: loguniform, low: 1e-4, high: 1e-2}, model.width: {name: choice, values: [32, 64]}}"


def sweep(output: Path, *overrides: str) -> TuneConfig:
    return load(TuneConfig, [], [f"output={output}", "base={dataset: /tmp/d}", SPACE, "num_trials=6", *overrides])


def row(epoch: int, bias: float, resolution: float = 0.1) -> dict[str, float]:
    return {"epoch": epoch, "val_mean_abs_bias": bias, "val_mean_resolution": resolution}


def finish(study: Study, number: int, bias: float, resolution: float = 0.1) -> None:
    study.report(number, row(1, bias, resolution))
    study.finish(number, "completed", {"epochs": 1}, row(1, bias, resolution))


def test_a_study_that_is_opened_again_draws_as_one_that_was_not_closed(tmp_path: Path) -> None:
    def draw(output: Path, *, reopen: bool) -> list[dict[str, Any]]:
        config = sweep(output, "sampler.num_startup_trials=2")
        study, found = Study(config, "s"), []
        while (trial := study.ask()) is not None:
            finish(study, trial.number, trial.settings["optimizer.lr"])
            found.append(trial.settings)
            study = Study(config, "s") if reopen else study
        return found

    whole, parts = draw(tmp_path / "a", reopen=False), draw(tmp_path / "b", reopen=True)
    assert len(whole) == 6
    assert whole == parts
    assert len({str(settings) for settings in whole}) == 6


def test_half_done_trials_are_found_and_finished_ones_are_not_repeated(tmp_path: Path) -> None:
    study = Study(sweep(tmp_path), "s")
    first, second, third = study.ask(), study.ask(), study.ask()
    assert first is not None
    assert second is not None
    assert third is not None
    finish(study, first.number, 0.5)
    assert study.report(second.number, row(1, 0.3))
    study.finish(third.number, "out_of_memory", {"message": "too wide"})
    again = Study(sweep(tmp_path), "s")
    assert [(trial.number, trial.settings) for trial in again.unfinished()] == [(second.number, second.settings)]
    assert again.trials()[1].curve == {1: 0.3}
    outcomes = {trial.number: (trial.outcome, trial.facts.get("message")) for trial in again.trials()}
    assert outcomes == {0: ("completed", None), 1: ("running", None), 2: ("out_of_memory", "too wide")}
    assert [trial.state for trial in again.study.trials] == [TrialState.COMPLETE, TrialState.RUNNING, TrialState.FAIL]


def test_an_epoch_that_is_reported_again_decides_nothing_and_changes_nothing(tmp_path: Path) -> None:
    study = Study(sweep(tmp_path, "scheduler={name: asha, reduction_factor: 2}"), "s")
    slow = study.ask()
    assert slow is not None
    assert study.report(slow.number, row(1, 0.9)), "the first to come goes on"
    for _ in range(3):
        other = study.ask()
        assert other is not None
        study.report(other.number, row(1, 0.1))
        study.report(other.number, row(2, 0.1))
    assert study.report(slow.number, row(1, 0.9)), "a continued trial reports all its epochs"
    assert not study.report(slow.number, row(2, 0.9))
    assert study.trials()[0].curve == {1: 0.9, 2: 0.9}


def test_a_verdict_outlives_the_driver_that_gave_it(tmp_path: Path) -> None:
    config = sweep(tmp_path, "scheduler={name: asha, reduction_factor: 2}")
    study = Study(config, "s")
    good, bad = study.ask(), study.ask()
    assert good is not None
    assert bad is not None
    assert study.report(good.number, row(1, 0.1))
    assert not study.report(bad.number, row(1, 0.9))
    again = Study(config, "s")  # the first driver was killed before the trial heard of it
    assert [trial.number for trial in again.unfinished()] == [good.number, bad.number]
    assert not again.report(bad.number, row(1, 0.9))
    assert again.report(good.number, row(1, 0.1))


def test_a_driver_that_is_killed_between_verdict_and_value_loses_neither(tmp_path: Path) -> None:
    """Whatever record of the journal is the last one, the driver that continues stops the trial."""
    config = sweep(tmp_path, "scheduler={name: asha, reduction_factor: 2}")
    study, journal = Study(config, "s"), tmp_path / JOURNAL_FILE
    good, bad = study.ask(), study.ask()
    assert good is not None
    assert bad is not None
    study.report(good.number, row(1, 0.1))
    num_before = len(journal.read_bytes().splitlines())
    study.report(bad.number, row(1, 0.9))
    records = journal.read_bytes().splitlines(keepends=True)
    assert len(records) > num_before + 1, "a verdict and a value"
    for num_left in range(num_before, len(records) + 1):
        journal.write_bytes(b"".join(records[:num_left]))
        again = Study(config, "s")
        assert not again.report(bad.number, row(1, 0.9))
        assert again.trials()[bad.number].curve == {1: 0.9}


def test_a_stopped_trial_is_pruned_in_the_storage_with_its_curve(tmp_path: Path) -> None:
    study = Study(sweep(tmp_path), "s")
    trial = study.ask()
    assert trial is not None
    study.report(trial.number, row(1, 0.9))
    study.finish(trial.number, "pruned", {"epochs": 1})
    stored = study.study.trials[0]
    assert stored.state == TrialState.PRUNED
    assert stored.intermediate_values == {1: 0.9}
    assert stored.user_attrs["outcome"] == "pruned"
    assert study.trials()[0].values == {}, "it has no value: figures and tables would take its last epoch for one"


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_journal_that_was_cut_while_it_was_written_is_mended(tmp_path: Path, cut: int) -> None:
    study = Study(sweep(tmp_path), "s")
    finish(study, study.ask().number, 0.5)
    journal = tmp_path / JOURNAL_FILE
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines(keepends=True)[-1][:-cut])
    (tmp_path / f"{JOURNAL_FILE}.lock").symlink_to(journal)
    again = Study(sweep(tmp_path), "s")
    finish(again, again.ask().number, 0.4)
    assert [trial.values["val_mean_abs_bias"] for trial in Study(sweep(tmp_path), "s").trials()] == [0.5, 0.4]
    for line in journal.read_text().splitlines():
        json.loads(line)


def test_a_trial_that_was_never_fully_drawn_is_abandoned_and_replaced(tmp_path: Path) -> None:
    study = Study(sweep(tmp_path), "s")
    study.study.ask()  # without its parameters, as a driver leaves it that is killed there
    again = Study(sweep(tmp_path), "s")
    assert again.unfinished() == []
    drawn = []
    while (trial := again.ask()) is not None:
        drawn.append(trial.number)
        finish(again, trial.number, 0.1)
    assert drawn == [1, 2, 3, 4, 5, 6]


def test_a_grid_is_tried_once_each_whatever_num_trials_says(tmp_path: Path) -> None:
    grid = ["sampler=grid", "space.optimizer.lr.num_points=3", "num_trials=1"]
    seen = []
    for _ in range(2):
        study = Study(sweep(tmp_path, *grid), "s")
        for _ in range(3):
            trial = study.ask()
            assert trial is not None
            seen.append((trial.settings["optimizer.lr"], trial.settings["model.width"]))
            finish(study, trial.number, 0.1)
    assert study.ask() is None
    assert sorted(seen) == [(pytest.approx(lr), width) for lr in (1e-4, 1e-3, 1e-2) for width in (32, 64)]


def asked_for_and_killed(study: Study) -> None:
    """Take a trial as a driver leaves it that is killed before it has the parameters."""
    study.study.ask()


def settings_drawn_by(study: Study) -> list[dict[str, Any]]:
    drawn = []
    while (trial := study.ask()) is not None:
        drawn.append(trial.settings)
        finish(study, trial.number, 0.1)
    return drawn


def test_no_point_of_a_grid_is_lost_with_the_driver_that_asked_for_it(tmp_path: Path) -> None:
    config = sweep(tmp_path, "sampler=grid", "space.optimizer.lr.num_points=3")
    study = Study(config, "s")
    asked_for_and_killed(study)
    again = Study(config, "s")
    assert again.unfinished() == []
    points = settings_drawn_by(again)
    assert sorted(point["optimizer.lr"] for point in points) == [
        pytest.approx(lr) for lr in (1e-4, 1e-4, 1e-3, 1e-3, 1e-2, 1e-2)
    ]
    assert len({str(point) for point in points}) == 6
    assert settings_drawn_by(Study(config, "s")) == []


def test_points_of_a_grid_that_are_close_are_all_tried_and_nothing_else(tmp_path: Path) -> None:
    close = "space={optimizer.lr: {low: 1.0, high: 1.000001, num_points: 2}}"
    config = load(TuneConfig, [], [f"output={tmp_path}", "base={dataset: /tmp/d}", close, "sampler=grid"])
    assert [point["optimizer.lr"] for point in settings_drawn_by(Study(config, "s"))] == [1.0, 1.000001]


def test_a_point_to_begin_with_is_not_lost_with_the_driver_that_asked_for_it(tmp_path: Path) -> None:
    study = Study(sweep(tmp_path, "num_trials=2"), "s")
    study.begin_with([{"optimizer.lr": 0.005}])
    asked_for_and_killed(study)
    for _ in range(2):  # the second driver is killed as well, before the point is asked for again
        again = Study(sweep(tmp_path, "num_trials=2"), "s")
        again.unfinished()
    points = settings_drawn_by(again)
    assert len(points) == 2
    assert [point["optimizer.lr"] for point in points].count(0.005) == 1


@pytest.mark.parametrize("name", ["tpe", "nsga2", "random"])
def test_several_objectives_have_a_front_also_with_pruned_trials(tmp_path: Path, name: str) -> None:
    objectives = "objectives={val_mean_abs_bias: min, val_mean_resolution: max}"
    study = Study(sweep(tmp_path, objectives, f"sampler={{name: {name}, num_startup_trials: 2, population_size: 2}}"), "s")
    values = [None, (0.1, 0.1), (0.2, 0.2), None, (0.05, 0.05), (0.2, 0.1)]
    for value in values:
        trial = study.ask()
        assert trial is not None
        if value is None:
            study.report(trial.number, row(1, 9.0, 9.0))
            study.finish(trial.number, "pruned", {})
        else:
            finish(study, trial.number, *value)
    assert study.ask() is None
    assert study.front() == [1, 2, 4]


def test_cmaes_goes_on_after_its_random_trials(tmp_path: Path) -> None:
    study = Study(sweep(tmp_path, "sampler={name: cmaes, num_startup_trials: 2}"), "s")
    for _ in range(6):
        trial = study.ask()
        assert trial is not None
        finish(study, trial.number, trial.settings["optimizer.lr"])
    assert any("cma:" in key for trial in study.study.trials for key in trial.system_attrs)


def test_an_objective_that_no_epoch_has_is_an_error_with_those_it_has(tmp_path: Path) -> None:
    study = Study(sweep(tmp_path, "objectives=val_mean_absbias"), "s")
    with pytest.raises(ConfigError, match="no metric 'val_mean_absbias'; it has epoch, val_mean_abs_bias, val_mean_resol"):
        study.report(study.ask().number, row(1, 0.5))


def test_a_database_keeps_the_trials_and_its_password_stays_out_of_messages(tmp_path: Path) -> None:
    url = f"storage=sqlite:///{tmp_path}/trials.db"
    study = Study(sweep(tmp_path / "a", url), "s")
    finish(study, study.ask().number, 0.5)
    assert Study(sweep(tmp_path / "a", url), "s").trials()[0].values == {"val_mean_abs_bias": 0.5}
    assert not (tmp_path / "a" / JOURNAL_FILE).exists()
    with pytest.raises(UserError) as found:
        Study(sweep(tmp_path / "b", f"storage=sqlite:///{tmp_path}/no/such/folder/x.db?password=hush"), "s")
    assert "storage: cannot use" in str(found.value)
    assert "hush" not in str(found.value)


def test_observations_and_best_points_of_an_earlier_study(tmp_path: Path) -> None:
    earlier = Study(sweep(tmp_path / "a"), "s")
    for bias in (0.5, 0.2, 0.9):
        finish(earlier, earlier.ask().number, bias)
    seeing = Study(sweep(tmp_path / "b", "seed=7", "num_trials=2"), "s")
    assert seeing.observe(earlier) == 3
    assert seeing.observe(earlier) == 0, "again changes nothing"
    assert seeing.front() == [1], "what counts as seen may also be the best"
    assert not any(trial.is_ours for trial in seeing.trials())
    assert [seeing.ask().number, seeing.ask().number, seeing.ask()] == [3, 4, None]
    study = Study(sweep(tmp_path / "c", "seed=7", "num_trials=2"), "s")
    best = best_trials(earlier, 2)
    assert [trial.value for trial in best] == [0.2, 0.5]
    assert study.begin_with([trial.params for trial in best]) == 2
    assert study.begin_with([{"elsewhere": 1.0}]) == 0
    asked = [study.ask(), study.ask()]
    assert [trial.settings["optimizer.lr"] for trial in asked] == [trial.params["optimizer.lr"] for trial in best]
    assert study.ask() is None


def sweep_with_trials(output: Path, name: str, biases: list[float], *overrides: str) -> Study:
    study = Study(sweep(output, *overrides), name)
    for bias in biases:
        finish(study, study.ask().number, bias)
    return study


def test_another_earlier_sweep_is_seen_too_though_its_trials_have_the_same_numbers(tmp_path: Path) -> None:
    first = sweep_with_trials(tmp_path / "a", "first", [0.5, 0.2])
    second = sweep_with_trials(tmp_path / "b", "second", [0.4, 0.1, 0.3], "seed=2")
    study = Study(sweep(tmp_path / "c"), "s")
    assert [study.observe(first), study.observe(second), study.observe(first)] == [2, 3, 0]
    assert [trial.facts["earlier_sweep"] for trial in study.trials()] == ["first:0", "first:1"] + [
        f"second:{number}" for number in range(3)
    ]


@pytest.mark.parametrize(
    ("deciding", "are_kept"),
    [("asha", True), ("{name: asha, metric: val_mean_resolution}", False), ("{name: median, metric: val_mean_abs_bias}", True)],
)
def test_curves_of_another_metric_are_not_compared_with(tmp_path: Path, deciding: str, are_kept: bool) -> None:
    earlier = sweep_with_trials(tmp_path / "a", "s", [0.5, 0.2])
    study = Study(sweep(tmp_path / "b", f"scheduler={deciding}"), "s")
    study.observe(earlier)
    assert [trial.curve for trial in study.trials()] == ([{1: 0.5}, {1: 0.2}] if are_kept else [{}, {}])
    assert [trial.values["val_mean_abs_bias"] for trial in study.trials()] == [0.5, 0.2]


def test_reading_an_earlier_sweep_changes_nothing_there(tmp_path: Path) -> None:
    grid = ["sampler=grid", "space.optimizer.lr.num_points=3"]
    sweep_with_trials(tmp_path, "s", [0.5, 0.2], *grid)
    journal, lock = tmp_path / JOURNAL_FILE, tmp_path / f"{JOURNAL_FILE}.lock"
    with journal.open("ab") as file:
        file.write(b'{"half": ')
    lock.symlink_to(journal)  # its driver is writing
    before = journal.read_bytes()
    larger = sweep(tmp_path, "sampler=grid", "space.optimizer.lr.num_points=4")
    assert len(Study(larger, "s", only_read=True).finished()) == 2
    assert journal.read_bytes() == before
    assert lock.is_symlink()
    with pytest.raises(UserError, match=r"study\.journal is missing"):
        Study(sweep(tmp_path / "elsewhere", *grid), "s", only_read=True)
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(UserError, match=r"study\.journal has no sweep other"):
        Study(larger, "other", only_read=True)


def test_a_point_dominates_another_if_nowhere_worse_and_somewhere_better() -> None:
    assert dominates((1, 1), (1, 2))
    assert not dominates((1, 1), (1, 1))
    assert not dominates((0, 3), (1, 2))
