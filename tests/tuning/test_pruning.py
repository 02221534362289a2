"""Who is stopped early: against Optuna's own successive halving and median rule, on the same curves."""

import numpy as np
import optuna
import pytest

from distjet.tuning.pruning import best_up_to, is_rung, should_stop
from distjet.tuning.settings import SchedulerConfig


def curves(number: int, num_epochs: int, seed: int) -> list[dict[int, float]]:
    """Curves that fall, so that the best epoch so far is the last one, as Optuna's pruners take it."""
    random = np.random.default_rng(seed)
    steps = random.exponential(size=(number, num_epochs))
    values = random.uniform(20, 30, size=(number, 1)) - np.cumsum(steps, axis=1)
    return [dict(enumerate(row.tolist(), start=1)) for row in values]


def ours(config: SchedulerConfig, found: list[dict[int, float]], num_epochs: int) -> list[int]:
    """Run the trials one after the other; return the epoch at which each ended."""
    seen: list[dict[int, float]] = []
    for curve in found:
        so_far: dict[int, float] = {}
        for epoch in range(1, num_epochs + 1):
            so_far[epoch] = curve[epoch]
            if should_stop(config, epoch, so_far, seen):
                break
        seen.append(so_far)
    return [max(curve) for curve in seen]


def theirs(pruner: optuna.pruners.BasePruner, found: list[dict[int, float]], num_epochs: int) -> list[int]:
    study = optuna.create_study(pruner=pruner)
    ends = []
    for curve in found:
        trial = study.ask()
        for epoch in range(1, num_epochs + 1):
            trial.report(curve[epoch], epoch)
            if epoch < num_epochs and trial.should_prune():
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, curve[num_epochs])
        ends.append(epoch)
    return ends


@pytest.mark.parametrize(("min_epochs", "factor"), [(1, 2), (1, 3), (2, 3), (3, 4)])
def test_asha_stops_whom_optunas_successive_halving_stops(min_epochs: int, factor: int) -> None:
    config = SchedulerConfig(name="asha", min_epochs=min_epochs, reduction_factor=factor)
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=min_epochs, reduction_factor=factor)
    num_epochs = 30  # no rung, so that nobody is judged when it is done
    for seed in range(3):
        found = curves(40, num_epochs, seed)
        ends = ours(config, found, num_epochs)
        assert ends == theirs(pruner, found, num_epochs)
        assert len(set(ends)) > 2


def test_asha_compares_at_powers_only() -> None:
    asha = SchedulerConfig(min_epochs=2, reduction_factor=3)
    assert [epoch for epoch in range(1, 60) if is_rung(epoch, asha)] == [2, 6, 18, 54]
    assert not should_stop(asha, 5, {5: 9.0}, [{5: 1.0}] * 10)
    assert should_stop(asha, 6, {6: 9.0}, [{6: 1.0}] * 10)


def test_the_first_to_come_goes_on_and_the_best_always_does() -> None:
    asha = SchedulerConfig(min_epochs=1, reduction_factor=3)
    assert not should_stop(asha, 1, {1: 9.0}, [])
    assert not should_stop(asha, 3, {1: 0.1, 2: 5.0, 3: 5.0}, [{3: 1.0}] * 20), "judged by the best epoch so far"


def test_the_median_rule_is_that_of_the_others_at_the_same_epoch() -> None:
    median = SchedulerConfig(name="median", min_epochs=2, min_trials=3)
    others = [{1: 9.0, 2: value} for value in (1.0, 2.0, 3.0)]
    assert should_stop(median, 2, {1: 5.0, 2: 2.5}, others)
    assert not should_stop(median, 2, {1: 5.0, 2: 2.0}, others)
    assert not should_stop(median, 2, {2: 99.0}, others[:2]), "too few others"
    assert not should_stop(median, 1, {1: 99.0}, others), "before min_epochs"
    assert not should_stop(SchedulerConfig(name="none"), 2, {2: 99.0}, others)


def test_the_best_up_to_an_epoch_knows_nothing_of_later_ones() -> None:
    assert best_up_to({1: 3.0, 2: 1.0, 3: 0.5}, 2) == 1.0
