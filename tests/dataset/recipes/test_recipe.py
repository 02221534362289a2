"""Spec: a recipe is short, its mistakes are found before any file is opened, and four-momenta agree in all components."""

import numpy as np
import pytest

from distjet.config import validate
from distjet.dataset.reading.ragged import Ragged
from distjet.dataset.recipes.association import open_scope
from distjet.dataset.recipes.definitions import jet_definitions, required_branches
from distjet.dataset.recipes.expressions import Level, parse
from distjet.dataset.recipes.features import FEATURES, derived_components
from distjet.dataset.recipes.recipe import COMPLETE, PrepareConfig, Recipe, Split
from distjet.dataset.recipes.scope import Scope
from distjet.dataset.schema import arrow_schema, columns_from_manifest, dataset_columns
from distjet.errors import ConfigError

MINIMAL = {"tree": "t", "constituents": {"pt": "c_pt", "eta": "c_eta", "phi": "c_phi"}}


def recipe(**changes) -> Recipe:
    return validate(Recipe, MINIMAL | changes)


@pytest.mark.parametrize(
    "given", [*COMPLETE, {"pt", "eta", "phi", "mass"}, {"pt", "eta", "phi", "energy"}, {"energy", "eta", "phi", "mass"}]
)
def test_all_ways_to_give_a_four_momentum_agree(given):
    rng = np.random.default_rng(0)
    pt, eta, phi = rng.exponential(20, 100), rng.normal(0, 2, 100), rng.uniform(-np.pi, np.pi, 100)
    mass = rng.exponential(5, 100) if given & {"mass", "px"} or {"pt", "energy"} <= given else np.zeros(100)
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
    energy = np.sqrt(px**2 + py**2 + pz**2 + mass**2)
    truth = {"pt": pt, "eta": eta, "phi": phi, "mass": mass, "px": px, "py": py, "pz": pz, "energy": energy}
    formulas = derived_components(given, "jet_")
    branches = {f"jet_{name}": Ragged(truth[name]) for name in given}
    from distjet.dataset.recipes.definitions import Definitions

    scope = Scope(branches, 100, Definitions({name: parse(text) for name, text in formulas.items()}), events=False)
    for name, expected in truth.items():
        np.testing.assert_allclose(
            scope.evaluate(f"jet_{name}", Level.JET), expected, rtol=1e-9, atol=2e-5 if name == "mass" else 1e-9
        )


def test_a_jet_without_branches_is_the_sum_of_its_constituents():
    definitions = jet_definitions(recipe())
    branches = {"c_pt": np.array([3.0, 4.0]), "c_eta": np.zeros(2), "c_phi": np.array([0.0, np.pi / 2])}
    scope = Scope({k: Ragged(v, (np.array([0, 2]),)) for k, v in branches.items()}, 1, definitions, events=False)
    for name, expected in {
        "jet_pt": 5.0,
        "jet_energy": 7.0,
        "jet_mass": np.sqrt(24),
        "jet_phi": np.arctan2(4, 3),
        "jet_eta": 0.0,
    }.items():
        assert scope.evaluate(name, Level.JET)[0] == pytest.approx(expected)


def test_energies_in_mev_become_gev_and_angles_stay():
    definitions = jet_definitions(recipe(energy_unit="MeV", jet={"pt": "j_pt", "eta": "j_eta", "phi": "j_phi", "mass": "j_m"}))
    branches = {
        "j_pt": Ragged(np.array([20e3])),
        "j_eta": Ragged(np.zeros(1)),
        "j_phi": Ragged(np.ones(1)),
        "j_m": Ragged(np.array([15e3])),
    }
    scope = Scope(branches, 1, definitions, events=False)
    assert scope.evaluate("jet_energy", Level.JET)[0] == pytest.approx(25.0)
    assert scope.evaluate("jet_phi", Level.JET)[0] == 1.0


def test_required_branches_are_found_through_names_and_features():
    names = recipe(
        jet={"pt": "jet_pt", "eta": "jet_eta", "phi": "jet_phi", "energy": "jet_e"},
        variables={"half": "c_x / 2"},
        nodes=["log_energy_fraction", {"y": "half + c_y"}],
        graph=[{"z": "Z.q[3]"}],
        weight="w",
        cuts={"hard": "jet_pt > trigger"},
    )
    expected = {"jet_pt", "jet_eta", "jet_phi", "jet_e", "c_pt", "c_eta", "c_phi", "c_x", "c_y", "Z.q", "w", "trigger"}
    assert set(required_branches(names)) == expected


def test_every_feature_parses_and_uses_known_names():
    known = {
        *FEATURES,
        "sample",
        *(f"{prefix}{name}" for prefix in ("", "jet_", "true_") for name in ("pt", "eta", "phi", "energy", "mass")),
    }
    for feature in FEATURES.values():
        assert parse(feature.formula).names <= known


def test_columns_can_be_written_in_short_and_in_full():
    names = recipe(nodes=["log_pt", {"a": "c_a"}, {"b": {"value": "c_b * 2", "unit": "mm"}}, {"name": "c", "value": "1"}])
    assert [(column.name, column.value, column.unit) for column in names.nodes] == [
        ("log_pt", "log_pt", ""), ("a", "c_a", ""), ("b", "c_b * 2", "mm"), ("c", "1", ""),
    ]  # fmt: skip
    assert validate(Recipe, names.model_dump(mode="json")) == names
    assert [column.unit for column in dataset_columns(names) if column.name == "log_pt"] == ["ln(GeV)"]


def test_columns_say_what_they_are_computed_from():
    """Variables are written out, and the unit of the file where a branch is read as it stands: a name alone says neither."""
    given = {
        "variables": {"raw": "1 - j_factor", "scale": "raw * 2"},
        "nodes": ["log_pt", {"d0": "tanh(c_d0)"}],
        "graph": [{"corrected": "jet_pt * scale"}, {"area": {"value": "j_area", "description": "of the jet"}}],
    }
    formulas = {column.name: column.formula for column in dataset_columns(recipe(**given))}
    assert formulas["log_pt"] == "log_pt"
    assert formulas["d0"] == "tanh(c_d0)"
    assert formulas["corrected"] == "jet_pt * scale; raw = 1 - j_factor; scale = raw * 2"
    assert formulas["area"] == "j_area"
    assert formulas["px"] == formulas["jet_pt"] == formulas["weight"] == ""
    in_mev = {column.name: column.formula for column in dataset_columns(recipe(energy_unit="MeV", **given))}
    assert in_mev["log_pt"] == "log_pt"
    assert in_mev["d0"] == "tanh(c_d0); energy_unit = MeV"
    assert in_mev["corrected"].endswith("; energy_unit = MeV")


def test_formulas_stand_in_the_manifest_and_not_in_the_shards():
    columns = dataset_columns(recipe(graph=[{"area": "j_area"}]))
    content = [column.as_dict() for column in columns]
    assert {column["name"]: column["formula"] for column in content}["area"] == "j_area"
    assert columns_from_manifest(content) == columns
    older = [{key: value for key, value in column.items() if key != "formula"} for column in content]
    assert {column.formula for column in columns_from_manifest(older)} == {""}
    assert all(set(field.metadata) == {b"role", b"unit", b"description"} for field in arrow_schema(columns))


def test_null_removes_an_entry_of_an_earlier_file():
    changed = recipe(cuts={"hard": "c_pt > 1", "soft": None}, labels={"a": None}, variables=None)
    assert [cut.name for cut in changed.cuts] == ["hard"]
    assert changed.labels == changed.variables == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"constituents": {"pt": "x", "eta": "y"}}, "expected pt, eta, phi and mass or energy"),
        ({"constituents": {"pt": "x", "eta": "y", "phi": "z", "px": "q"}}, "expected pt, eta, phi"),
        ({"jet": {"pt": "x", "eta": "y", "phi": "z"}}, "a jet needs mass or energy"),
        ({"nodes": [{"a": "log(c_pt"}]}, "expected an arithmetic expression"),
        ({"nodes": [{"a": "lg(c_pt)"}]}, "unknown function 'lg'"),
        ({"nodes": [{"my feature": "c_pt"}]}, "expected a name of letters"),
        ({"graph": [{"energy": "c_pt"}]}, "two columns are called 'energy'"),
        ({"graph": [{"event": "c_pt"}]}, "two columns are called 'event'"),
        ({"cuts": ["x > 1"]}, "expected a name of letters"),
        ({"cuts": {"empty_graph": "c_pt > 1"}}, "two cuts are called 'empty_graph'"),
        ({"variables": {"jet_pt": "x"}}, "a variable cannot be called 'jet_pt'"),
        ({"identity": {"run": "r"}}, "run and jet_index need event"),
        ({"truth": {"pt": "a", "eta": "b", "phi": "c", "mass": "d", "delta_r": 0.3}}, "truth.delta_r needs layout: event"),
        ({"constituents": None}, "needs constituents, or a jet"),
        ({"grahp": []}, "grahp is not a field of Recipe, did you mean 'graph'"),
    ],
)
def test_mistakes_are_found_without_a_file(changes, message):
    with pytest.raises(ConfigError, match=message):
        recipe(**changes)


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ("/data", [(None, ("/data",))]),
        (["/a/*.root", "/b"], [(None, ("/a/*.root",)), (None, ("/b",))]),
        ({"qcd": "/a", "top": ["/b", "/c"]}, [("qcd", ("/a",)), ("top", ("/b", "/c"))]),
        ([{"sample": "qcd", "files": "/a"}], [("qcd", ("/a",))]),
    ],
)
def test_inputs_can_be_written_in_short(inputs, expected):
    config = validate(PrepareConfig, {"inputs": inputs, "output": "o", "recipe": MINIMAL})
    assert [(item.sample, item.files) for item in config.inputs] == expected


def test_the_identity_leaves_out_what_does_not_change_the_rows():
    base = {"inputs": "/data", "output": "o", "recipe": MINIMAL}
    same = {"output": "elsewhere", "tolerance": {"max_files": 3}, "entries_per_task": 7}
    assert validate(PrepareConfig, base | same).identity() == validate(PrepareConfig, base).identity()
    assert validate(PrepareConfig, base | {"seed": 2}).identity() != validate(PrepareConfig, base).identity()


def scope_of(given: Recipe, lists: dict[str, list[list[float]]]) -> Scope:
    offsets = np.concatenate([[0], np.cumsum([len(item) for item in next(iter(lists.values()))])])
    branches = {name: Ragged(np.concatenate([np.array(item) for item in values]), (offsets,)) for name, values in lists.items()}
    return open_scope(given, branches, len(offsets) - 1, "sample")


def test_padding_is_a_condition_on_columns_or_branches():
    lists = {"c_pt": [[2.0, 1.0, 0.0], [0.0, 0.0, 0.0], [3.0, np.nan, 0.0]], "c_eta": [[0.0] * 3] * 3, "c_phi": [[0.0] * 3] * 3}
    for padding in ("pt == 0", "c_pt == 0", "energy < 1e-3", "not c_pt"):
        scope = scope_of(recipe(constituents=MINIMAL["constituents"] | {"padding": padding}), lists)
        assert scope.counts.tolist() == [2, 0, 2]  # what is not a number stays, to be found later
        assert scope.evaluate("jet_pt", Level.JET)[:2].tolist() == [3.0, 0.0]


def test_padding_needs_a_number_that_is_there():
    given = recipe(constituents=MINIMAL["constituents"] | {"padding": "sample"})
    with pytest.raises(ConfigError, match=r"recipe.constituents.padding: expected a number"):
        scope_of(given, {name: [[1.0]] for name in ("c_pt", "c_eta", "c_phi")})


def test_padding_and_published_splits_name_branches():
    given = recipe(
        constituents=MINIMAL["constituents"] | {"padding": "fill == 1"},
        split={"test": "ttv == 1", "val": None},
        labels={"a": "b"},
    )
    assert required_branches(given) == ["b", "c_eta", "c_phi", "c_pt", "fill", "ttv"]
    assert set(given.split) == {"test"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": {"training": "x"}}, "split.*training"),
        ({"split": {"test": "x ="}}, "expected an arithmetic expression"),
        ({"substructure": ["tau22"]}, "variable of substructure 'tau22'"),
        ({"optional": {"w": "one"}}, "optional.w"),
        (
            {
                "layout": "event",
                "jet": {"pt": "p", "eta": "e", "phi": "f", "mass": "m"},
                "constituents": MINIMAL["constituents"] | {"padding": "pt == 0", "jet_link": "j", "constituent_link": "c"},
            },
            "padding is for lists of a fixed length",
        ),
    ],
)
def test_mistakes_in_the_keys_of_public_sets(changes, message):
    with pytest.raises(ConfigError, match=message):
        recipe(**changes)


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ((), (0.6, 0.3)),
        (("test",), (2 / 3, 1 / 3)),
        (("train",), (0.0, 0.75)),
        (("train", "test"), (0.0, 1.0)),
        (("val", "test"), (1.0, 0.0)),
        (("train", "val"), (0.0, 0.0)),
    ],
)
def test_fractions_of_what_is_left_to_chance(named, expected):
    train, val = Split(train=0.6, val=0.3).without(named)
    assert (train, val) == pytest.approx(expected)
    if "test" in named and len(named) < 3:
        assert train + val == 1  # exactly, or a jet could end in a published test split
