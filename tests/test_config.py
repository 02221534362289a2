import ast
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from distjet.config import ComponentConfig, Config, did_you_mean, import_path, load, nearest_path, validate
from distjet.errors import ConfigError
from distjet.training.settings import TrainConfig

PATHS = ["output=/tmp/o", "dataset=/tmp/d"]


class Inner(Config):
    width: int = Field(default=3, ge=1)
    rate: float = 0.1


class Outer(Config):
    inner: Inner = Inner()
    named: dict[str, Inner] = Field(default_factory=dict)
    names: tuple[str, ...] = ()
    maybe: Inner | None = None


class OwnNetwork:
    """What a user names by an import path."""

    class Config(ComponentConfig):
        depth: int = 2


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_later_files_and_overrides_win(tmp_path: Path) -> None:
    first = write(tmp_path / "a.yaml", "inner: {width: 5, rate: 0.5}\nnames: [x]\n")
    second = write(tmp_path / "b.yaml", "inner: {width: 7}\n")
    config = load(Outer, [first, second], ["inner.rate=3e-4", "names=[p,q]"])
    assert config == Outer(inner=Inner(width=7, rate=3e-4), names=("p", "q"))


def test_all_problems_are_reported_at_once_with_key_file_and_choice(tmp_path: Path) -> None:
    file = write(tmp_path / "a.yaml", "inner: {widht: 5}\nnamed: {a: {rate: fast}}\n")
    with pytest.raises(ConfigError) as error:
        load(Outer, [file], ["maybe.width=0", "unknwon=1"])
    message = str(error.value)
    assert f"{file}: inner.widht is not a field of Inner, did you mean 'width'; fields: width, rate" in message
    assert f"{file}: named.a.rate: Input should be a valid number" in message
    assert "(got 'fast')" in message
    assert "command line: maybe.width: Input should be greater than or equal to 1 (got 0)" in message
    assert "command line: unknwon is not a field of Outer" in message
    assert len(message.splitlines()) == 4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.name=constituent_gn"], "unknown model 'constituent_gn', did you mean 'constituent_gnn'; expected one of"),
        (["model.hidth=3"], "model.hidth is not a field of ConstituentGnnConfig, did you mean 'width'"),
        (["loss.mass.name=lgk", "loss.mass.leek=1"], "loss.mass.leek is not a field of LgkConfig, did you mean 'leak'"),
        (["model.width=10", "model.num_heads=3"], "num_heads must divide width; got num_heads=3, width=10"),
        (["loss={energy: null, rapidity: null}"], "needs a term"),
        (["model.name=nowhere.module:Net"], "there is no module 'nowhere'"),
        (["model.name=distjet.errors:UserErorr"], "did you mean 'UserError'"),
        (["model.name=distjet.errors:UserError"], "needs a nested class Config"),
    ],
)
def test_component_errors_name_key_and_choice(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(TrainConfig, [], [*PATHS, *overrides])
    assert message.replace("needs a term", "needs at least one term") in str(error.value)


def test_a_component_of_the_users_own_is_named_by_its_import_path() -> None:
    config = load(TrainConfig, [], [*PATHS, "model.name=tests.test_config:OwnNetwork", "model.depth=4"])
    assert config.model == OwnNetwork.Config(name="tests.test_config:OwnNetwork", depth=4)


def test_overriding_one_key_of_a_component_keeps_its_default_name() -> None:
    config = load(TrainConfig, [], [*PATHS, "loss.rapidity.weight=3", "loss.energy.bandwidth=0.2", "loss.mass.weight=0.5"])
    terms = {name: (term.name, term.weight) for name, term in config.loss.terms().items()}
    assert terms == {"energy": ("lgk", 1.0), "mass": ("lgk", 0.5), "rapidity": ("mse", 3.0)}


def test_naming_another_component_starts_from_its_defaults(tmp_path: Path) -> None:
    base = write(
        tmp_path / "base.yaml", "model: {name: constituent_gnn, width: 32}\nloss: {energy: {name: lgk, leak: 0.1, weight: 2}}\n"
    )
    other = write(tmp_path / "other.yaml", "loss: {energy: {name: mse}}\n")
    config = load(TrainConfig, [base, other], [*PATHS, "model.name=pyg", "model.network=torch_geometric.nn:GAT"])
    assert config.loss.energy.model_dump() == {"name": "mse", "weight": 1.0, "residual": None}
    assert config.model.name == "pyg"
    same = write(tmp_path / "same.yaml", "loss: {energy: {name: lgk, bandwidth: 0.3}}\n")
    assert load(TrainConfig, [base, same], PATHS).loss.energy.leak == 0.1
    with pytest.raises(ConfigError, match=r"model\.width is not a field of PygNetworkConfig"):
        load(TrainConfig, [base], [*PATHS, "model={name: pyg, network: 'a:B', width: 3}"])


def test_a_resolved_configuration_loads_to_itself() -> None:
    config = load(TrainConfig, [], [*PATHS, "model.width=32", "loss.mass.weight=0.5"])
    assert validate(TrainConfig, config.model_dump(mode="json")) == config


def test_identity_leaves_out_paths_and_resources() -> None:
    here = load(TrainConfig, [], [*PATHS, "resources.num_workers=4"])
    there = load(TrainConfig, [], ["output=/x", "dataset=/y"])
    assert here.identity("f") == there.identity("f")
    assert here.identity("f") != here.identity("g")
    assert here.identity("f") != load(TrainConfig, [], [*PATHS, "seed=2"]).identity("f")


def test_a_list_replaces_a_mapping_and_a_key_in_a_list_is_an_error(tmp_path: Path) -> None:
    class Loose(Config):
        inputs: Any = None

    file = write(tmp_path / "a.yaml", "inputs: {ttbar: a.root}\n")
    assert load(Loose, [file], ["inputs=[b.root,c.root]"]).inputs == ["b.root", "c.root"]
    file = write(tmp_path / "b.yaml", "inputs: [a.root]\n")
    with pytest.raises(ConfigError, match="inputs is a list, in which pt cannot be set; give the whole list"):
        load(Loose, [file], ["inputs.pt=x"])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path / "train.yaml", "a: 1")
    with pytest.raises(ConfigError, match=r"trian.yaml does not exist, did you mean '.*train.yaml'"):
        load(Outer, [tmp_path / "trian.yaml"])
    with pytest.raises(ConfigError, match=r"broken\.yaml is not valid YAML"):
        load(Outer, [write(tmp_path / "broken.yaml", "a: [1, ")])
    with pytest.raises(ConfigError, match="must hold a mapping"):
        load(Outer, [write(tmp_path / "list.yaml", "- 1")])


@pytest.mark.parametrize("override", ["noequals", "=3", "a=[1,"])
def test_bad_overrides(override: str) -> None:
    with pytest.raises(ConfigError, match=r"override|dotted\.key=value"):
        load(Outer, [], [override])


def test_an_error_inside_an_imported_module_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "broken_module.py", "import a_dependency_that_is_absent")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_dependency_that_is_absent"):
        import_path("broken_module:Anything")


@given(st.text(max_size=8), st.lists(st.text(max_size=8)))
def test_did_you_mean_only_suggests_choices(name: str, choices: list[str]) -> None:
    suggestion = did_you_mean(name, choices)
    assert suggestion == "" or any(repr(choice) in suggestion for choice in choices)


def test_the_nearest_path_mends_the_first_part_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "outputs").mkdir()
    for path in ("outputz", "outputz/dataset/x"):
        assert nearest_path(tmp_path / path) == f", did you mean {str(tmp_path / 'outputs')!r}"
    assert nearest_path(tmp_path / "else" / "x") == ""
    assert nearest_path(tmp_path / "outputs") == ""


def test_infinities_are_refused() -> None:
    data: dict[str, Any] = {"inner": {"rate": float("inf")}}
    with pytest.raises(ConfigError, match=r"inner\.rate"):
        validate(Outer, data)


def test_no_description_of_a_field_is_cut_off() -> None:
    """A second string below a field would be a statement of its own, which nobody reads."""
    for path in sorted((Path(__file__).parents[1] / "distjet").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            body = getattr(node, "body", [])
            texts = [is_text(item) for item in body] if isinstance(body, list) else []
            assert not any(map(all, pairwise(texts))), f"{path}:{node}"


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
