"""Sweeps of real trainings: in one process, and on a real Ray, where things are killed."""

import html
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import optuna
import psutil
import pytest
import yaml

from distjet.cluster import runs
from distjet.cluster.board import Board
from distjet.cluster.connect import Liveness
from distjet.cluster.ensemble import Members, train_ensemble
from distjet.cluster.failures import FAILURE_FILE
from distjet.cluster.runs import Ending, Keys, Run, WatchedRuns, capacity, concurrency, run_one
from distjet.cluster.train import train
from distjet.cluster.tune import LOSSES_TOLERATED, Trials, trial_directory, tune
from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.errors import ConfigError, UserError
from distjet.run_directory import locked, read_json, write_json
from distjet.training.history import read_rows
from distjet.training.settings import ResourcesConfig, TrainConfig
from distjet.tuning.settings import TuneConfig
from distjet.tuning.study import JOURNAL_FILE, Study
from tests.cluster.test_train import config as train_config
from tests.cluster.test_train import kill_session
from tests.training.test_loop import FAST, SMALL_MODEL

ROOT = Path(__file__).parents[2]
BASE = [f"base.{key}" for key in (*FAST, SMALL_MODEL)] + ["base.resources={num_workers: 0, use_gpu: false}"]
LR = "space.optimizer.lr={name: loguniform, low: 1e-4, high: 3e-2}"
WEIGHTS = "space.weights={name: simplex, paths: [loss.energy.weight, loss.rapidity.weight], total: 2, low: 0.1}"
ASHA = "scheduler={name: asha, reduction_factor: 2}"


def arguments(manifest: Manifest, output: Path, *overrides: str) -> list[str]:
    return [f"output={output}", f"base.dataset={manifest.path}", *BASE, LR, ASHA, *overrides]


def sweep(manifest: Manifest, output: Path, *overrides: str) -> TuneConfig:
    return load(TuneConfig, [], arguments(manifest, output, "max_concurrent=0", "base.num_epochs=2", *overrides))


def stored(output: Path) -> list[optuna.trial.FrozenTrial]:
    backend = optuna.storages.journal.JournalFileBackend(str(output / JOURNAL_FILE))
    name = read_json(output / "study.json")["study"]
    return optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(backend)).trials


# --- in one process ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(toy_dataset: Manifest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of five trials, two objectives."""
    output = tmp_path_factory.mktemp("sweep") / "tune"
    tune(sweep(toy_dataset, output, WEIGHTS, "num_trials=5", "objectives={val_loss: min, val_mean_resolution: min}"), {})
    return output


@pytest.mark.slow
def test_a_sweep_leaves_metrics_figures_a_report_and_its_trials(finished: Path) -> None:
    metrics = read_json(finished / "metrics.json")
    trials = stored(finished)
    assert metrics["num_trials"] == len(trials) == 5
    names = {optuna.trial.TrialState.COMPLETE: "completed", optuna.trial.TrialState.PRUNED: "pruned"}
    for trial, shown in zip(trials, metrics["trials"], strict=True):
        rows = read_rows(trial_directory(finished, trial.number) / "history.jsonl")
        assert names[trial.state] == shown["outcome"]
        assert trial.intermediate_values == {int(row["epoch"]): row["val_loss"] for row in rows}
        if shown["outcome"] == "completed":
            best = read_json(trial_directory(finished, trial.number) / "metrics.json")["best"]
            assert shown["values"] == {name: best[name] for name in ("val_loss", "val_mean_resolution")}
        weights = [shown["settings"][f"loss.{name}.weight"] for name in ("energy", "rapidity")]
        assert sum(weights) == pytest.approx(2.0)
    assert metrics["num_epochs"] == sum(len(trial.intermediate_values) for trial in trials)
    assert metrics["outcomes"].get("pruned", 0) >= 1, "five trials with halving, all as good as each other?"
    assert metrics["best"]["number"] in {trial["number"] for trial in metrics["front"]}
    for name in ("history_val_loss", "curves", "front_val_loss_val_mean_resolution", "slices_val_loss"):
        assert (finished / "plots" / f"{name}.png").stat().st_size > 5000
        assert (finished / "plots" / f"{name}.pdf").is_file()
    page = (finished / "report.html").read_text()
    assert page.count("<figure>") == len(list((finished / "plots").glob("*.png")))
    assert "Pareto front" in page


@pytest.mark.slow
def test_best_yaml_trains_the_best_trial_again_to_the_last_bit(finished: Path, tmp_path: Path) -> None:
    best = read_json(finished / "metrics.json")["best"]
    again = train(load(TrainConfig, [finished / "best.yaml"], [f"output={tmp_path / 'again'}"]))
    assert {name: again["best"][name] for name in best["values"]} == best["values"]


@pytest.mark.slow
def test_a_finished_sweep_does_nothing_and_goes_on_where_there_are_to_be_more(toy_dataset: Manifest, finished: Path) -> None:
    more = [WEIGHTS, "objectives={val_loss: min, val_mean_resolution: min}"]
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*.jsonl")}
    assert tune(sweep(toy_dataset, finished, *more, "num_trials=5"), {}) == read_json(finished / "metrics.json")
    assert tune(sweep(toy_dataset, finished, *more, "num_trials=6"), {})["num_trials"] == 6
    assert {path: path.stat().st_mtime_ns for path in before} == before
    with pytest.raises(ConfigError, match="output of another"):
        tune(sweep(toy_dataset, finished, *more, "seed=2"), {})


def test_trials_that_fail_are_kept_as_what_they_are(toy_dataset: Manifest, tmp_path: Path) -> None:
    rates = "optimizer.lr: {name: choice, values: [1.0e-3, 1.0e+30]}"
    widths = "model.width: {name: choice, values: [16, 4000000]}"  # whose weights are 64 TB
    overrides = ["sampler=grid", "scheduler=none", f"space={{{rates}, {widths}}}", "base.num_epochs=1"]
    content = [f"output={tmp_path}", f"base.dataset={toy_dataset.path}", *BASE, "max_concurrent=0", *overrides]
    metrics = tune(load(TuneConfig, [], [*content, "base.optimizer.clip_norm=1e30"]), {})
    assert metrics["outcomes"] == {"completed": 1, "non_finite": 1, "out_of_memory": 2}
    page = html.unescape((tmp_path / "report.html").read_text())
    for trial in metrics["trials"]:
        if trial["settings"]["model.width"] == 4000000:
            assert trial["outcome"] == "out_of_memory"
            assert "weights of the model" in trial["message"]
        elif trial["settings"]["optimizer.lr"] == 1e30:
            assert trial["outcome"] == "non_finite"
        if trial["outcome"] != "completed":
            assert trial["message"] in page
            assert stored(tmp_path)[trial["number"]].state == optuna.trial.TrialState.FAIL


def test_a_mistake_that_all_trials_share_ends_the_sweep(toy_dataset: Manifest, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"3 trials failed and none succeeded; .*closure\.pt_true_min_gev"):
        tune(sweep(toy_dataset, tmp_path, "base.closure.pt_true_min_gev=1e6", "num_trials=20"), {})
    assert [trial.state.name for trial in stored(tmp_path)] == ["FAIL"] * 3


def next_of(trials: Trials) -> Run:
    run = trials.next()
    assert run is not None
    return run


@pytest.mark.parametrize("outcome", ["lost", "hindered"])
def test_a_trial_that_lost_its_processes_or_was_hindered_is_continued(
    toy_dataset: Manifest, tmp_path: Path, outcome: str
) -> None:
    config = sweep(toy_dataset, tmp_path, "num_trials=9")
    for _ in range(LOSSES_TOLERATED - 1):
        trials = Trials(config, Study(config, "s"))
        for number in range(LOSSES_TOLERATED):
            run = next_of(trials)
            assert run.number == number, "the same again"
            trials.end(run, Ending(outcome, "its node went away"))
        assert trials.next() is None, "the others would fare no better"
        with pytest.raises(UserError, match=r"3 trials could not go on; the same command continues .*trial 0: its node went"):
            trials.check_all_over()
    assert {trial.outcome for trial in Study(config, "s").trials()} == {"running"}


def test_a_trial_that_loses_its_processes_in_every_start_is_given_up(toy_dataset: Manifest, tmp_path: Path) -> None:
    config = sweep(toy_dataset, tmp_path, "num_trials=2")
    for _ in range(LOSSES_TOLERATED):
        trials = Trials(config, Study(config, "s"))
        trials.end(next_of(trials), Ending("lost", "killed"))
    trials.check_all_over()
    assert next_of(trials).number == 1
    (lost, _) = Study(config, "s").trials()
    assert (lost.outcome, lost.facts["message"]) == ("lost", "given up after 3 starts: killed")


def test_a_failure_of_an_earlier_start_is_not_taken_for_that_of_this_one(toy_dataset: Manifest, tmp_path: Path) -> None:
    config = train_config(toy_dataset, tmp_path / "run", f"dataset={tmp_path / 'gone'}")
    write_json(config.output / FAILURE_FILE, {"outcome": "out_of_memory", "message": "then", "world_rank": 0})
    ending = run_one(config, lambda row: True)
    assert ending.outcome == "error"
    assert "gone" in ending.message


def test_a_run_whose_directory_is_taken_is_hindered(
    toy_dataset: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "WAIT_FOR_OTHERS_S", 0)
    config = train_config(toy_dataset, tmp_path)
    with locked(tmp_path):
        ending = run_one(config, lambda row: True)
    assert ending.outcome == "hindered"
    assert "another process" in ending.message


@pytest.mark.parametrize(
    ("cause", "outcome"),
    [("The actor died.", "lost"), ("1 worker(s) were killed due to the node running low on memory.", "out_of_memory")],
)
def test_a_trial_whose_process_died_for_good_is_lost_unless_memory_ran_out(
    toy_dataset: Manifest, tmp_path: Path, cause: str, outcome: str
) -> None:
    from distjet.cluster.feed import Deaths, Feed

    config = sweep(toy_dataset, tmp_path, "num_trials=1")
    trials = Trials(config, Study(config, "s"))
    feed = Feed(WatchedRuns(trials, Board("trial", 1, "val_loss")), resources(num_workers=0))
    record = tmp_path / "error.txt"  # as Ray Tune writes it
    record.write_text(f"Failure # 1 (occurred at 9)\nanother\nFailure # 2 (occurred at 10)\n{cause}\n\tclass_name: X\n\n")
    feed.suggest("a")
    Deaths(feed).on_trial_error(0, [], SimpleNamespace(trial_id="a", error_file=str(record)))
    assert trials.not_over.get(0, cause).endswith(cause)
    assert [trial.outcome for trial in Study(config, "s").trials()] == ["running" if outcome == "lost" else outcome]


def test_an_objective_that_no_epoch_has_ends_the_sweep_at_the_first_epoch(toy_dataset: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no metric 'val_mean_absbias'; it has epoch"):
        tune(sweep(toy_dataset, tmp_path, "objectives=val_mean_absbias", "num_trials=20"), {})
    assert [trial.state.name for trial in stored(tmp_path)] == ["RUNNING"]


@pytest.mark.slow
def test_a_warm_start_counts_what_can_be_compared(toy_dataset: Manifest, finished: Path, tmp_path: Path) -> None:
    objectives = "objectives={val_loss: min, val_mean_resolution: min}"
    warm = [WEIGHTS, objectives, f"warm_start={finished}", "seed=5", "num_trials=1"]
    metrics = tune(sweep(toy_dataset, tmp_path / "seen", *warm, "space.weights.low=0.1"), {})
    assert metrics["num_trials"] == 1
    assert len(metrics["trials"]) == len(stored(tmp_path / "seen")) > 5
    with pytest.raises(ConfigError, match=r"needs the same training \(different: num_epochs\); use best"):
        tune(sweep(toy_dataset, tmp_path / "other", *warm, "base.num_epochs=1"), {})
    best = [*warm, "base.num_epochs=1", f"warm_start={{sweep: {finished}, use: best, num_best: 1}}"]
    metrics = tune(sweep(toy_dataset, tmp_path / "best", *best), {})
    fronts = [trial["settings"] for trial in read_json(finished / "metrics.json")["front"]]
    assert metrics["trials"][0]["settings"] in [pytest.approx(settings) for settings in fronts]
    with pytest.raises(ConfigError, match="other objectives"):
        tune(sweep(toy_dataset, tmp_path / "o", WEIGHTS, f"warm_start={finished}", "objectives=val_loss"), {})


def test_members_of_an_ensemble_are_ordinary_runs_with_seeds_of_their_own(toy_dataset: Manifest, tmp_path: Path) -> None:
    one = ["num_epochs=1", "resources.num_workers=0", "seed=4"]
    two = [*one, "ensemble={num_members: 2, max_concurrent: 0}"]
    found = train_ensemble(train_config(toy_dataset, tmp_path / "two", *two))
    alone = train(train_config(toy_dataset, tmp_path / "alone", *one[:2], "seed=5"))
    assert [member["seed"] for member in found["members"]] == [4, 5]
    rows = [member["best"] for member in found["members"]]
    assert rows[1]["val_loss"] == alone["best"]["val_loss"]
    assert rows[0]["val_loss"] != rows[1]["val_loss"]
    assert found["mean"]["val_loss"] == pytest.approx((rows[0]["val_loss"] + rows[1]["val_loss"]) / 2)
    history = tmp_path / "two" / "members" / "00" / "history.jsonl"
    before = history.stat().st_mtime_ns
    larger = train_config(toy_dataset, tmp_path / "two", *one, "ensemble={num_members: 3, max_concurrent: 0}")
    assert train_ensemble(larger)["num_members"] == 3
    assert history.stat().st_mtime_ns == before


def resources(**content: object) -> ResourcesConfig:
    return ResourcesConfig.model_validate(content)


def test_the_room_of_a_cluster_is_counted_by_nodes_gangs_and_parts_of_gpus() -> None:
    nodes = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 3.0, "GPU": 1.0}, {"CPU": 4.0}]
    small = resources(num_workers=0, cpus_per_worker=2)
    assert capacity(nodes, small, use_gpu=False) == 4 + 1 + 2
    assert capacity(nodes, resources(num_workers=0, cpus_per_worker=1, gpus_per_worker=0.3), use_gpu=True) == 6 + 3
    assert capacity(nodes, resources(num_workers=2), use_gpu=True) == 1
    assert capacity(nodes, resources(num_workers=2), use_gpu=False) == 15 // 2
    assert capacity(nodes, resources(num_workers=16), use_gpu=False) == 0


def test_no_more_gangs_are_let_in_than_there_is_room_for() -> None:
    assert concurrency(3, None, Trials.keys, is_own_cluster=True) == 3
    assert concurrency(3, 5, Trials.keys, is_own_cluster=True) == 3
    assert concurrency(3, 2, Trials.keys, is_own_cluster=True) == 2
    assert concurrency(0, 4, Trials.keys, is_own_cluster=False) == 4, "a cluster that grows"


@pytest.mark.parametrize(
    ("keys", "named", "where_it_grows"),
    [
        (Trials.keys, "; lower base.resources", "set max_concurrent"),
        (Members.keys, "; lower resources", "set ensemble.max_concurrent"),
    ],
)
def test_a_cluster_without_room_is_told_of_with_the_keys_of_who_asks(keys: Keys, named: str, where_it_grows: str) -> None:
    with pytest.raises(ConfigError, match=f"no room for a single run{named}$"):
        concurrency(0, 4, keys, is_own_cluster=True)
    with pytest.raises(ConfigError, match=f"{where_it_grows}{named}$"):
        concurrency(0, None, keys, is_own_cluster=False)


def test_a_request_to_stop_that_no_run_can_hear_is_not_waited_for(
    toy_dataset: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "NOBODY_FOR_S", 0.5)
    config = sweep(toy_dataset, tmp_path, "num_trials=2")
    watched = WatchedRuns(Trials(config, Study(config, "s")), Board("trial", 2, "val_loss"))
    run, forever = watched.next(), threading.Event()
    assert run is not None
    watched.begin(run)
    threading.Timer(1.5, watched.recover, [run]).start()  # until then it may be writing a checkpoint
    started = time.monotonic()
    assert runs._wait(forever.wait, watched, [signal.SIGTERM], Liveness(is_own=False)) is None
    assert time.monotonic() - started > 1.9
    assert watched.next() is None
    forever.set()


# --- on Ray -----------------------------------------------------------------------------------------------------------


@contextmanager
def driver_of(manifest: Manifest, output: Path, *overrides: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start `python -m jobs.tune` in a session of its own, its messages in driver.log; end all of it afterwards."""
    command = [sys.executable, "-m", "jobs.tune", *arguments(manifest, output, *overrides)]
    with output.with_name("driver.log").open("ab") as log:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        driver = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            yield driver
        finally:
            kill_session(driver)
            driver.wait(timeout=30)


def wait_until(condition, driver: subprocess.Popen[bytes], output: Path, timeout_s: float = 150) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, output.with_name("driver.log").read_text()
        assert driver.poll() is None, output.with_name("driver.log").read_text()
        time.sleep(0.1)


def epochs_of(output: Path) -> dict[int, int]:
    return {int(path.parent.name): len(read_rows(path)) for path in (output / "trials").glob("*/history.jsonl")}


def trial_processes(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    everyone = psutil.Process(driver.pid).children(recursive=True)
    return [process for process in everyone if "ImplicitFunc" in " ".join(process.cmdline())]


@pytest.mark.faults
@pytest.mark.integration
@pytest.mark.timeout(500)
def test_sigkill_of_a_trial_then_of_the_driver_repeats_no_finished_trial(toy_dataset: Manifest, tmp_path: Path) -> None:
    output = tmp_path / "tune"
    many = ["base.num_epochs=12", "num_trials=6", "max_concurrent=2"]
    with driver_of(toy_dataset, output, *many) as driver:
        wait_until(lambda: sum(epochs_of(output).values()) >= 3, driver, output)
        victims = trial_processes(driver)
        assert victims
        victims[0].send_signal(signal.SIGKILL)
        wait_until(lambda: any((output / "trials").glob("*/metrics.json")), driver, output)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait(timeout=30)
    over = {trial.number: trial for trial in stored(output) if trial.state.is_finished()}
    assert any(trial.state == optuna.trial.TrialState.RUNNING for trial in stored(output))
    before = {number: (output / "trials" / f"{number:04d}" / "history.jsonl").stat().st_mtime_ns for number in over}
    with driver_of(toy_dataset, output, *many) as driver:
        assert driver.wait(timeout=240) == 0, output.with_name("driver.log").read_text()
    drawn = [trial for trial in stored(output) if trial.user_attrs["outcome"] != "abandoned"]  # the kill may have met an ask
    after = {trial.number: trial for trial in drawn}
    assert len(after) == read_json(output / "metrics.json")["num_trials"] == 6
    for number, trial in over.items():
        assert after[number] == trial
        assert (output / "trials" / f"{number:04d}" / "history.jsonl").stat().st_mtime_ns == before[number]
    for number, trial in after.items():
        assert trial.state.name in ("COMPLETE", "PRUNED")
        rows = read_rows(output / "trials" / f"{number:04d}" / "history.jsonl")
        assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
        assert trial.intermediate_values == {int(row["epoch"]): row["val_mean_abs_bias"] for row in rows}
        assert (len(rows) == 12) == (trial.state.name == "COMPLETE")
    messages = output.with_name("driver.log").read_text()
    assert "its process died; it goes on from its newest checkpoint" in messages
    assert "Traceback" not in messages
    best = yaml.safe_load((output / "best.yaml").read_text())
    assert best["optimizer"]["lr"] == read_json(output / "metrics.json")["best"]["settings"]["optimizer.lr"]


@pytest.mark.integration
@pytest.mark.timeout(300)
def test_gangs_take_turns_and_a_signal_leaves_checkpoints(toy_dataset: Manifest, tmp_path: Path) -> None:
    """Two trials of two workers each on two cores: with both let in at once, each could wait for the other."""
    output = tmp_path / "tune"
    gangs = ["base.resources={num_workers: 2, use_gpu: false}", "base.num_epochs=3000", "scheduler=none", "num_trials=2"]
    with driver_of(toy_dataset, output, *gangs, "max_concurrent=2") as driver:
        wait_until(lambda: sum(epochs_of(output).values()) >= 2, driver, output)
        assert set(epochs_of(output)) == {0}
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(timeout=90) == 128 + signal.SIGTERM
    messages = output.with_name("driver.log").read_text()
    assert "Traceback" not in messages
    assert "the same command continues" in messages
    assert [trial.state.name for trial in stored(output)] == ["RUNNING"]
    assert list((output / "trials" / "0000" / "checkpoints").glob("*.pt"))


@pytest.mark.integration
@pytest.mark.timeout(200)
def test_a_signal_ends_a_sweep_whose_trials_wait_for_room(toy_dataset: Manifest, tmp_path: Path) -> None:
    import ray

    output = tmp_path / "tune"
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1")
    try:
        joined = f"base.resources.address={ray.get_runtime_context().gcs_address}"
        with driver_of(toy_dataset, output, joined, "base.resources.cpus_per_worker=99", "max_concurrent=2") as driver:
            wait_until(lambda: "trial 1:" in output.with_name("driver.log").read_text(), driver, output)
            driver.send_signal(signal.SIGTERM)
            assert driver.wait(timeout=60) == 128 + signal.SIGTERM, output.with_name("driver.log").read_text()
    finally:
        ray.shutdown()
    messages = output.with_name("driver.log").read_text()
    assert "the same command continues" in messages
    assert "Traceback" not in messages
