"""Spec: a recipe names what connects constituents, by a name or with parameters, and the dataset says so and holds it."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from distjet.config import ComponentConfig, load, validate
from distjet.dataset.graphs.build import build_edges
from distjet.dataset.graphs.configs import GRAPHS, NOT_STORED
from distjet.dataset.graphs.delaunay import delaunay_edges
from distjet.dataset.graphs.edges import Edges, decode_edges, encode_edges
from distjet.dataset.graphs.neighbours import knn_edges, radius_edges
from distjet.dataset.manifest import Manifest
from distjet.dataset.recipes.recipe import PrepareConfig, Recipe
from distjet.errors import ConfigError, DataError
from tests.dataset.files import configure, pairs_of, read_all, run

MINIMAL = {"tree": "t", "constituents": {"pt": "c_pt", "eta": "c_eta", "phi": "c_phi"}}
DISTJET = Path(__file__).parents[3] / "conf/dataset/distjet.yaml"


def recipe(**changes) -> Recipe:
    return validate(Recipe, MINIMAL | changes)


def prepared(folder: Path, ntuples: Path, edges: object) -> Manifest:
    with_edges = configure(folder, "unused").recipe.model_dump(mode="json") | {"edges": edges}
    return run(folder, str(ntuples / "slice_1"), recipe=with_edges)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("delaunay", {"name": "delaunay"}),
        ({"name": "delaunay"}, {"name": "delaunay"}),
        ("none", {"name": "none"}),
        ("fully_connected", {"name": "fully_connected"}),
        ("knn", {"name": "knn", "k": 16}),
        ({"name": "knn", "k": 8}, {"name": "knn", "k": 8}),
        ("radius", {"name": "radius", "radius": 0.2}),
        ({"name": "radius", "radius": 0.4}, {"name": "radius", "radius": 0.4}),
    ],
)
def test_a_graph_is_a_name_or_a_mapping(given, expected):
    chosen = recipe(edges=given)
    assert chosen.model_dump(mode="json")["edges"] == expected
    assert chosen.has_edges == (expected["name"] not in ("none", "fully_connected"))
    assert Recipe.model_validate(chosen.model_dump(mode="json")) == chosen


def test_by_default_constituents_are_triangulated_and_jets_alone_have_no_edges():
    assert recipe().edges.name == "delaunay"
    jets = validate(Recipe, {"tree": "t", "jet": {"pt": "a", "eta": "b", "phi": "c", "mass": "d"}})
    assert not jets.has_edges
    assert jets.connection.name == "none"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("kmn", "edges: unknown graph 'kmn', did you mean 'knn'; expected one of .'delaunay', 'fully_connected', 'knn'"),
        ({"name": "delauney"}, "did you mean 'delaunay'"),
        ({"name": "knn", "radius": 0.2}, "edges.radius is not a field of KnnConfig; fields: name, k"),
        ({"name": "radius", "raduis": 0.2}, "edges.raduis is not a field of RadiusConfig, did you mean 'radius'"),
        ({"name": "knn", "k": 0}, "edges.k: .* greater than or equal to 1 .got 0"),
        ({"name": "radius", "radius": 0}, "edges.radius: .* greater than 0 .got 0"),
        (None, "edges: expected the name of a graph, .* constituents without edges are `none`"),
        (3, "edges: expected a mapping with a name .got 3"),
    ],
)
def test_mistakes_are_named(given, message):
    with pytest.raises(ConfigError, match=message):
        recipe(edges=given)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["recipe.edges=none"], {"name": "none"}),
        (["recipe.edges={name: radius, radius: 0.3}"], {"name": "radius", "radius": 0.3}),
        (["recipe.edges.name=knn", "recipe.edges.k=4"], {"name": "knn", "k": 4}),
        (["recipe.edges={name: knn, k: 4}", "recipe.edges=none"], {"name": "none"}),
    ],
)
def test_the_command_line_names_a_graph_like_a_file(overrides, expected):
    config = load(PrepareConfig, [DISTJET], ["inputs=a", "output=b", *overrides])
    assert config.recipe.model_dump(mode="json")["edges"] == expected


def test_each_name_builds_its_graph():
    rng = np.random.default_rng(0)
    eta, phi, offsets = *rng.normal(0, 0.2, (2, 100)), np.array([0, 40, 40, 100])
    expected = {
        "delaunay": delaunay_edges(eta, phi, offsets),
        "knn": knn_edges(eta, phi, offsets, 16),
        "radius": radius_edges(eta, phi, offsets, 0.2),
    }
    assert set(expected) == set(GRAPHS) - set(NOT_STORED)
    for name, edges in expected.items():
        for found, wanted in zip(build_edges(recipe(edges=name).edges, eta, phi, offsets), edges, strict=True):
            np.testing.assert_array_equal(found, wanted)
    for name in NOT_STORED:
        with pytest.raises(ValueError, match=f"the edges of the graph '{name}' are not stored"):
            build_edges(recipe(edges=name).edges, eta, phi, offsets)


@pytest.mark.parametrize("name", sorted(set(GRAPHS) - set(NOT_STORED)))
def test_each_graph_can_be_stored_whatever_its_size(name):
    offsets = np.cumsum([0, 0, 1, 2, 3, 255, 256, 300])
    eta, phi = np.random.default_rng(0).normal(0, 0.2, (2, offsets[-1]))
    edges = build_edges(recipe(edges=name).edges, eta, phi, offsets)
    for found, wanted in zip(decode_edges(*encode_edges(edges, offsets), offsets), edges, strict=True):
        np.testing.assert_array_equal(found, wanted)


class Star:
    """A graph of a user's own: each constituent with the first."""

    class Config(ComponentConfig):
        """What can go wrong on purpose."""

        fault: str = ""

    def __init__(self, config: Config) -> None:
        self.fault = config.fault

    def __call__(self, delta_eta: np.ndarray, delta_phi: np.ndarray, offsets: np.ndarray) -> Edges:
        sizes = np.diff(offsets)
        counts = np.maximum(sizes - 1, 0)
        target = np.concatenate([np.arange(1, size) for size in sizes]).astype(np.uint16)
        edges = Edges(np.zeros(len(target), np.uint16), target, np.concatenate([[0], np.cumsum(counts)]))
        faults = {
            "loop": edges._replace(source=target),
            "beyond": edges._replace(target=target + 1),
            "order": edges._replace(target=np.where(target < 3, 3 - target, target)),
            "twice": edges._replace(target=np.maximum(target, 2)),
            "graphs": edges._replace(offsets=edges.offsets[:-1]),
            "length": edges._replace(source=edges.source[:-1]),
            "backwards": edges._replace(offsets=edges.offsets[::-1] - edges.offsets[-1]),
        }
        return faults.get(self.fault, edges)


STAR = f"{__name__}:Star"


def test_a_graph_of_a_users_own_is_named_by_its_import_path():
    config = recipe(edges={"name": STAR}).edges
    edges = build_edges(config, np.zeros(7), np.zeros(7), np.array([0, 4, 4, 7]))
    assert list(zip(edges.source.tolist(), edges.target.tolist(), strict=True)) == [(0, 1), (0, 2), (0, 3), (0, 1), (0, 2)]


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("loop", "expected pairs source < target < number of constituents, .* .got 1, 1 in graph 0"),
        ("beyond", ".got 0, 4 in graph 0"),
        ("order", "sorted and without repetition .got 0, 1 in graph 0"),
        ("twice", "sorted and without repetition .got 0, 2 in graph 0"),
        ("graphs", "expected 4 increasing offsets of edges"),
        ("length", "expected 5 edges .got 4 sources, 5 targets"),
        ("backwards", "expected 4 increasing offsets of edges"),
    ],
)
def test_what_a_graph_of_a_users_own_returns_is_checked(fault, message):
    config = recipe(edges={"name": STAR, "fault": fault}).edges
    with pytest.raises(DataError, match=message):
        build_edges(config, np.zeros(7), np.zeros(7), np.array([0, 4, 4, 7]))


def neighbours_within(row: dict, radius: float) -> list[tuple[int, int]]:
    places = np.stack([row["delta_eta"], row["delta_phi"]], axis=1)  # narrow jets, far from delta_phi = +-pi
    return [(i, j) for i, j in itertools.combinations(range(len(places)), 2) if np.hypot(*(places[i] - places[j])) < radius]


def nearest_neighbours(row: dict, k: int) -> list[tuple[int, int]]:
    places = np.stack([row["delta_eta"], row["delta_phi"]], axis=1)
    distances = np.hypot(*(places[:, None] - places[None]).transpose(2, 0, 1))
    order = distances.argsort(axis=1)[:, 1 : k + 1]
    return sorted({(min(i, j), max(i, j)) for i, row in enumerate(order.tolist()) for j in row})


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ({"name": "radius", "radius": 0.1}, lambda row: neighbours_within(row, 0.1)),
        ({"name": "knn", "k": 3}, lambda row: nearest_neighbours(row, 3)),
    ],
    ids=["radius", "knn"],
)
def test_a_dataset_holds_the_edges_of_its_graph(ntuples, tmp_path, edges, expected):
    manifest = prepared(tmp_path / "out", ntuples, edges)
    assert manifest.content["graph"] == edges
    rows = read_all(manifest).to_pylist()
    assert max(row["num_nodes"] for row in rows) > 4
    assert [pairs_of(row) for row in rows] == [expected(row) for row in rows]
    assert sum(shard.edges for split in ("train", "val", "test") for shard in manifest.shards(split)) == sum(
        len(expected(row)) for row in rows
    )


def test_a_dataset_says_that_it_is_triangulated(dataset):
    assert dataset.content["graph"] == {"name": "delaunay"}


@pytest.mark.parametrize("name", ["fully_connected", "none"])
def test_edges_that_follow_from_the_number_of_constituents_are_not_stored(ntuples, tmp_path, name):
    manifest = prepared(tmp_path / "out", ntuples, name)
    assert manifest.content["graph"] == {"name": name}
    assert manifest.names("edge") == ()
    assert "edges" not in read_all(manifest).column_names
    assert all(shard.edges == 0 and shard.nodes > 0 for shard in manifest.shards("train"))
