"""Every YAML that is shipped is valid for the verb that it is for."""

from pathlib import Path

import pytest
import yaml

from benchmarks.page import command, read
from distjet.config import Config, load
from distjet.tuning.settings import TuneConfig, check_ends
from distjet.verbs import EvaluateVerb, PrepareVerb, QuickstartVerb, SimulateVerb, TrainConfig, VerifyVerb, config_class

CONF = Path(__file__).parents[1] / "conf"
FRAGMENTS = sorted((CONF / "cluster").glob("*.yaml"))
PAGES = sorted((CONF / "benchmark").glob("*.yaml"))
FILES = sorted({*CONF.rglob("*.yaml")} - {*(CONF / "cluster").rglob("*.yaml"), *PAGES, CONF / "runtime_env.yaml"})
VERBS: dict[str, tuple[type[Config], list[str]]] = {
    "simulation": (SimulateVerb, ["output=/tmp/o"]),
    "dataset": (PrepareVerb, ["output=/tmp/o", "inputs=/tmp/i"]),
    "calibration": (TrainConfig, ["output=/tmp/o", "dataset=/tmp/d"]),
    "tagging": (TrainConfig, ["output=/tmp/o", "dataset=/tmp/d"]),
    "sweep": (TuneConfig, ["output=/tmp/o", "base.dataset=/tmp/d"]),
    "evaluation": (EvaluateVerb, ["output=/tmp/o", "run=/tmp/r"]),
    "quickstart": (QuickstartVerb, []),
}
AFTER = {
    **dict.fromkeys(("distjet_r04", "distjet_r10", "distjet_pflow"), CONF / "dataset/distjet.yaml"),
    **dict.fromkeys(("hl_lhc", "events"), CONF / "simulation/dijet.yaml"),
    **dict.fromkeys(("disco", "kl", "adversary", "reweighted"), CONF / "tagging/particle_flow_network.yaml"),
}
"Files that change another one and are given after it."


def test_there_are_configurations_for_every_folder() -> None:
    assert {file.parent.name for file in FILES} <= set(VERBS)
    assert {file.stem for file in FRAGMENTS} == {"slurm", "htcondor"}
    assert len(FILES) >= 8


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_it_loads_and_uses_every_key(file: Path) -> None:
    model, paths = VERBS[file.parent.name]
    model = config_class("train", [file], paths) if model is TrainConfig else model
    config = load(model, [*([AFTER[file.stem]] if file.stem in AFTER else []), file], paths)
    if isinstance(config, QuickstartVerb):
        simulate, prepare, train, evaluate = config.sections()
        assert train.dataset == prepare.output
        assert evaluate.run == train.output
        assert {item.sample for item in prepare.inputs} == set(simulate.samples)
    if isinstance(config, TuneConfig):
        check_ends(config)
    content = yaml.safe_load(file.read_text())
    shown = config.model_dump(mode="json")
    for key, value in content.items():
        if not isinstance(value, dict) and key != "output":
            found = shown[key]["name"] if isinstance(shown[key], dict) else shown[key]  # a name stands for a mapping
            assert found == value, key


@pytest.mark.parametrize("file", FRAGMENTS, ids=lambda file: file.name)
def test_workers_in_a_batch_system_fit_every_verb_with_tasks(file: Path) -> None:
    commands: list[tuple[type[Config], list[Path | str], list[str]]] = [
        (SimulateVerb, [CONF / "simulation/tiny.yaml"], ["output=/tmp/o"]),
        (PrepareVerb, [CONF / "dataset/distjet.yaml"], ["output=/tmp/o", "inputs=/tmp/i"]),
        (VerifyVerb, [], ["dataset=/tmp/d"]),
        (QuickstartVerb, [CONF / "quickstart/quickstart.yaml"], []),
    ]
    content = yaml.safe_load(file.read_text())["tasks"]
    for model, files, paths in commands:
        tasks = load(model, [*files, file], paths).model_dump(mode="json")["tasks"]
        assert tasks["scheduler"] == content["scheduler"] == file.stem
        for key, value in content["jobqueue"].items():
            assert tasks["jobqueue"][key] == value, key


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_a_page_is_made_of_valid_steps_and_their_results(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(CONF.parent)
    benchmark = read(file).model_copy(update={"output": tmp_path})
    for name in benchmark.steps:
        _, verb, *files = command(name, benchmark)
        paths = [Path(path) for path in files]
        load(config_class(verb, paths, []), paths, [])
    made = [check.metrics for check in benchmark.page.checks]
    made += [*benchmark.page.tables.values(), *benchmark.page.figures.values()]
    assert {path.parts[2] for path in made} <= set(benchmark.steps)
    assert made
    assert benchmark.page.file.is_file()
