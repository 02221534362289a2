"""A sweep as data: both ends are tried on the driver, mistakes are named, and a password is written nowhere."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from distjet.config import load
from distjet.errors import ConfigError
from distjet.tuning.settings import TuneConfig, check_ends, redact, without_password

BASE = ["output=/tmp/o", "base={dataset: /tmp/d}"]
LR = "space={optimizer.lr: {name: loguniform, low: 1e-4, high: 1e-2}}"
URL = "postgresql://jane:p@ss%40word@db.example.org/sweeps?sslpassword=hush"


def sweep(*overrides: str) -> TuneConfig:
    return load(TuneConfig, [], [*BASE, LR, *overrides])


def test_an_end_that_is_not_valid_is_reported_before_anything_heavy_is_imported() -> None:
    code = (
        "import sys; from distjet.cli import run_verb\n"
        "try: run_verb('tune', ['output=/tmp/o', 'base.dataset=/tmp/d', 'space.optimizer.lr={low: 0, high: 1}'])\n"
        "except SystemExit as stop: print(stop.code, sorted({'torch', 'ray', 'optuna', 'matplotlib'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.strip() == "2 []"
    assert "space.optimizer.lr: Input should be greater than 0" in result.stderr


def test_both_ends_of_every_range_are_tried() -> None:
    for wrong, message in {
        "{optimizer.lr: {low: 0, high: 1}}": r"space\.optimizer\.lr: Input should be greater than 0 \(got 0",
        "{ema_decay: {low: 0.9, high: 1}}": r"space\.ema_decay: Input should be less than 1 \(got 1",
        "{model.widht: {name: choice, values: [32]}}": r"space\.model\.widht is not a field .* did you mean 'width'",
        "{model.num_heads: {name: choice, values: [4, 7]}}": r"num_heads must divide width.*\(with model\.num_heads=7\)",
        "{w: {name: simplex, paths: [loss.energy.weight, loss.nope.weight]}}": r"loss\.nope is not a field of LossConfig",
    }.items():
        with pytest.raises(ConfigError, match=message):
            check_ends(load(TuneConfig, [], [*BASE, f"space={wrong}"]))


def test_all_problems_come_at_once_and_once_each() -> None:
    space = "space={optimizer.lr: {low: 0, high: 1}, model.widht: {name: choice, values: [32, 64]}}"
    with pytest.raises(ConfigError) as found:
        check_ends(load(TuneConfig, [], [*BASE, space]))
    lines = str(found.value).splitlines()
    assert len(lines) == 2
    assert any("optimizer.lr" in line for line in lines)
    assert any("model.widht" in line for line in lines)


def test_a_key_that_changes_no_training_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"space\.resources\.max_failures does not change the training"):
        check_ends(sweep("space.resources.max_failures={name: int, low: 1, high: 3}"))
    assert check_ends(sweep()).optimizer.lr == 1e-4


def test_a_training_is_the_base_with_the_drawn_keys() -> None:
    config = sweep("base.num_epochs=7", "base.model={width: 32}")
    built = config.train_config(Path("/tmp/t"), {"optimizer.lr": 3e-05, "model": {"num_blocks": 1}})
    assert (built.optimizer.lr, built.num_epochs, built.output) == (3e-05, 7, Path("/tmp/t"))
    assert (built.model.width, built.model.num_blocks) == (32, 1)


def test_an_override_on_the_command_line_finds_its_entry() -> None:
    assert sweep("space.optimizer.lr.low=1e-6").space["optimizer.lr"].low == 1e-6


@pytest.mark.parametrize("name", ["pbt", "pb2"])
def test_population_based_training_is_answered_with_why_it_does_not_compose(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} copies the weights .* Ray Train V2.* do not compose"):
        sweep(f"scheduler={name}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("space.optimizer.lr.name=logunform", "did you mean 'loguniform'"),
        ("sampler=cmaes objectives={val_loss: min, val_mean_resolution: min}", "cmaes has one objective"),
        ("sampler=grid", r"space\.optimizer\.lr needs num_points"),
        ("objectives=[val_loss, val_loss]", "ObjectiveConfig"),
        ("objectives={val_loss: down}", "'min' or 'max'"),
        ("base.output=/tmp/x", r"base\.output is not for trials"),
        ("output=s3://bucket/sweep", "give storage=URL"),
    ],
)
def test_what_does_not_go_together_is_refused(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep(*override.split(" ", 1) if "objectives={val_loss: min" in override else [override])


def test_short_forms_mean_what_they_say() -> None:
    config = sweep("objectives={val_loss: min, val_mean_resolution: max}", "sampler=nsga2", "scheduler=none")
    assert [(o.metric, o.direction) for o in config.objectives] == [("val_loss", "min"), ("val_mean_resolution", "max")]
    assert (config.sampler.name, config.scheduler.name) == ("nsga2", "none")
    assert [o.metric for o in sweep("objectives=val_loss").objectives] == ["val_loss"]
    assert sweep("warm_start=/tmp/earlier").warm_start.sweep == Path("/tmp/earlier")


def test_identity_is_the_science_not_how_many_or_where() -> None:
    first = sweep().identity("f")
    assert sweep("num_trials=9", "max_concurrent=3", "storage=sqlite:///x.db").identity("f") == first
    assert sweep("seed=2").identity("f") != first
    assert sweep("space.optimizer.lr.low=1e-5").identity("f") != first
    assert sweep("base.num_epochs=3").identity("f") != first
    assert sweep().identity("g") != first


def test_a_password_is_in_no_form_of_the_configuration() -> None:
    config = sweep(f"storage={URL}")
    shown = [config.model_dump_json(), repr(config), str(config), config.model_dump(mode="json")["storage"]]
    for text in shown:
        for secret in ("p@ss", "ss%40word", "hush"):
            assert secret not in text
    assert shown[-1] == "postgresql://jane:***@db.example.org/sweeps?***"
    assert config.storage.get_secret_value() == URL
    assert without_password("sqlite:////tmp/x.db") == "sqlite:////tmp/x.db"
    assert redact(f"cannot connect to {URL}: no such user, password p@ss%40word", URL) == (
        "cannot connect to ***: no such user, password ***"
    )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://jane:se/cret@host/sweeps", "postgresql://jane:***@host/sweeps"),
        ("postgresql://jane:se/c:re@t@host:5432/sweeps", "postgresql://jane:***@host:5432/sweeps"),
        ("postgresql://jane:se?c#re/t@host/sweeps", "postgresql://jane:***@host/sweeps"),
        ("postgresql://jane@host/sweeps", "postgresql://jane@host/sweeps"),
        ("mysql+pymysql://:se/cret@host/sweeps?ssl=1", "mysql+pymysql://:***@host/sweeps?***"),
    ],
)
def test_a_password_may_hold_any_character(url: str, shown: str) -> None:
    config = sweep(f"storage={json.dumps(url)}")
    assert config.model_dump(mode="json")["storage"] == without_password(url) == shown
    assert redact(f"cannot connect to {url}", url) == "cannot connect to ***"


def test_a_part_of_a_password_that_a_driver_takes_for_a_server_is_masked() -> None:
    url = "postgresql://jane:p@ss%20word/hunter2@host/sweeps"
    said = 'could not translate host name "ss word" or "ss%20word/hunter2@host" to address'
    assert redact(said, url) == 'could not translate host name "***" or "***/***@host" to address'


@pytest.mark.parametrize(
    ("model", "objective", "message"),
    [
        (
            "model={name: lola}",
            "val_mean_abs_bias",
            r"'val_mean_abs_bias' is not known of a tagger; for example \{val_auc: max\}",
        ),
        ("model={name: constituent_gnn}", "val_auc", "'val_auc' is known of taggers alone"),
    ],
)
def test_an_objective_of_the_other_kind_is_refused(model: str, objective: str, message: str) -> None:
    keys = ["output=o", "base.dataset=d", f"base.{model}", "space.optimizer.lr={name: uniform, low: 1e-4, high: 1e-2}"]
    config = load(TuneConfig, [], [*keys, f"objectives={objective}"])
    with pytest.raises(ConfigError, match=message):
        check_ends(config)
