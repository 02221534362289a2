"""Every YAML that is shipped is valid for the verb that it is for."""

from pathlib import Path

import pytest
import yaml

from distjet.config import Config, load
from distjet.verbs import EvaluateVerb, PrepareVerb, QuickstartVerb, SimulateVerb, TrainConfig

CONF = Path(__file__).parents[1] / "conf"
FILES = sorted(CONF.rglob("*.yaml"))
VERBS: dict[str, tuple[type[Config], list[str]]] = {
    "simulation": (SimulateVerb, ["output=/tmp/o"]),
    "dataset": (PrepareVerb, ["output=/tmp/o", "inputs=/tmp/i"]),
    "calibration": (TrainConfig, ["output=/tmp/o", "dataset=/tmp/d"]),
    "evaluation": (EvaluateVerb, ["output=/tmp/o", "run=/tmp/r"]),
    "quickstart": (QuickstartVerb, []),
}


def test_there_are_configurations_for_every_folder() -> None:
    assert {file.parent.name for file in FILES} <= set(VERBS)
    assert len(FILES) >= 8


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_it_loads_and_uses_every_key(file: Path) -> None:
    model, paths = VERBS[file.parent.name]
    config = load(model, [file], paths)
    if isinstance(config, QuickstartVerb):
        simulate, prepare, train, evaluate = config.sections()
        assert train.dataset == prepare.output
        assert evaluate.run == train.output
        assert {item.sample for item in prepare.inputs} == set(simulate.samples)
    content = yaml.safe_load(file.read_text())
    shown = config.model_dump(mode="json")
    for key, value in content.items():
        if not isinstance(value, dict) and key != "output":
            assert shown[key] == value, key
