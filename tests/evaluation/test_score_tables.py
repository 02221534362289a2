"""Tables of scores: what is read, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from distjet.errors import DataError
from distjet.evaluation.score_tables import classes_of, discriminants_of, holds_scores, read_scores
from distjet.evaluation.tagging_config import DiscriminantConfig, TaggingConfig
from tests.evaluation.toy_scores import BINARY, THREE, score_columns, toy_jets, write_scores

CONFIG = TaggingConfig()


@pytest.fixture
def columns() -> dict[str, np.ndarray]:
    jets = toy_jets(THREE, 500)
    return jets | score_columns(jets, THREE, "net", 2.0)


def test_classes_come_from_the_file_in_the_order_of_labels(tmp_path: Path, columns: dict[str, np.ndarray]) -> None:
    path = write_scores(tmp_path / "s.parquet", columns, THREE)
    jets = read_scores(path, CONFIG)
    assert jets.classes == classes_of(path) == THREE
    assert jets.methods == ("net",)
    np.testing.assert_array_equal(jets.scores["net"][:, 2], columns["net_score_top"].astype(np.float32))
    assert np.all(jets.weight == 1)
    assert holds_scores(path)


def test_a_table_without_classes_says_so(tmp_path: Path, columns: dict[str, np.ndarray]) -> None:
    path = write_scores(tmp_path / "s.parquet", columns, None)
    with pytest.raises(DataError, match=r"s\.parquet does not say what its classes are: expected the metadata 'classes'"):
        read_scores(path, CONFIG)
    assert holds_scores(path), "so that the message is that of a tagger"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"net_score_top": np.full(500, 0.9)}, "the sum of net_score_QCD, ..., net_score_top must be one"),
        (
            {"net_score_QCD": np.where(np.arange(500) == 7, np.nan, 0.1)},
            r"net_score_QCD must be finite; got nan in row 7 \(run=1",
        ),
        ({"net_score_Hbb": np.full(500, -0.1)}, "net_score_Hbb must be a probability between 0 and 1"),
        ({"label": np.arange(500) % 4}, "label must be a class from 0 to 2; got 3 in row 3"),
        ({"net_score_Hbb": None}, r"the method 'net' has the scores .*; missing: \['net_score_Hbb'\]"),
        ({"jet_mass": None}, r"missing: \['jet_mass'\]"),
    ],
)
def test_what_is_not_a_probability_or_lacks_is_named(
    tmp_path: Path, columns: dict[str, np.ndarray], change: dict[str, np.ndarray | None], message: str
) -> None:
    changed = {name: values for name, values in (columns | change).items() if values is not None}
    with pytest.raises(DataError, match=message):
        read_scores(write_scores(tmp_path / "s.parquet", changed, THREE), CONFIG)


def test_methods_of_several_tables_stand_side_by_side_whatever_the_order(
    tmp_path: Path, columns: dict[str, np.ndarray]
) -> None:
    jets = {name: values for name, values in columns.items() if "score" not in name}
    other = jets | score_columns(jets, THREE, "other", 1.0, seed=5)
    order = np.random.default_rng(0).permutation(500)
    paths = [
        write_scores(tmp_path / "a.parquet", columns, THREE),
        write_scores(tmp_path / "b.parquet", {name: values[order] for name, values in other.items()}, THREE),
    ]
    found = read_scores(paths, CONFIG)
    assert found.methods == ("net", "other")
    np.testing.assert_array_equal(found.scores["other"][:, 0], other["other_score_QCD"].astype(np.float32))
    with pytest.raises(DataError, match="both have the method 'net'"):
        read_scores([paths[0], paths[0]], CONFIG)
    wrong = other | {"label": (other["label"] + 1) % 3}
    with pytest.raises(DataError, match="the label differs: "):
        read_scores([paths[0], write_scores(tmp_path / "c.parquet", wrong, THREE)], CONFIG)
    swapped = write_scores(tmp_path / "d.parquet", other, ("top", "Hbb", "QCD"))
    with pytest.raises(DataError, match="has the classes"):
        read_scores([paths[0], swapped], CONFIG)


def test_methods_weights_and_a_range_of_pt_are_chosen(tmp_path: Path, columns: dict[str, np.ndarray]) -> None:
    path = write_scores(tmp_path / "s.parquet", columns, THREE)
    found = read_scores(path, TaggingConfig(pt_range_gev=(500, 600), use_weights=True))
    inside = (columns["jet_pt"] >= 500) & (columns["jet_pt"] < 600)
    assert (found.num_jets, found.num_jets_total) == (inside.sum(), 500)
    np.testing.assert_allclose(found.weight, columns["weight"][inside], rtol=1e-6)
    with pytest.raises(DataError, match="no columns absent_score_QCD"):
        read_scores(path, TaggingConfig(methods=("absent",)))
    with pytest.raises(DataError, match="no jet with a pT from 1 to 2 GeV"):
        read_scores(path, TaggingConfig(pt_range_gev=(1, 2)))


def test_discriminants_are_each_signal_against_each_background_and_what_is_named() -> None:
    assert list(discriminants_of(BINARY, CONFIG)) == ["top vs QCD"]
    assert list(discriminants_of(THREE, CONFIG)) == ["Hbb vs QCD", "top vs QCD"]
    heavy = DiscriminantConfig(signal=("Hbb", "top"), background=("QCD",))
    config = TaggingConfig(signal_classes=("top",), background_classes=("QCD", "Hbb"), discriminants={"heavy": heavy})
    assert list(discriminants_of(THREE, config)) == ["heavy", "top vs QCD", "top vs Hbb"]
    with pytest.raises(DataError, match=r"'W vs QCD' needs the class 'W'; the table has \['QCD', 'top'\]"):
        discriminants_of(BINARY, TaggingConfig(signal_classes=("W",)))
    with pytest.raises(ValueError, match="QCD cannot be signal and background"):
        DiscriminantConfig(signal=("QCD",), background=("QCD", "top"))


def test_log_odds_are_those_of_the_summed_scores_and_keep_jets_apart(tmp_path: Path, columns: dict[str, np.ndarray]) -> None:
    tiny = np.float32(1e-30)
    for row, small in ((0, tiny), (1, 10 * tiny), (2, np.float32(0))):
        for name, value in zip(THREE, (small, 0.5, 0.5), strict=True):
            columns[f"net_score_{name}"][row] = value
    jets = read_scores(write_scores(tmp_path / "s.parquet", columns, THREE), CONFIG)
    found = jets.log_odds("net", DiscriminantConfig(signal=("Hbb", "top"), background=("QCD",)))
    p = [columns[f"net_score_{name}"][3:] for name in THREE]
    np.testing.assert_allclose(found[3:], np.log((p[1] + p[2]) / p[0]), rtol=1e-4, atol=1e-5)
    assert found[2] > found[0] > found[1] > 60
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("working_points", (0.4,), "must be among signal_efficiencies"),
        ("signal_efficiencies", (0.8, 0.5), "distinct, increasing"),
        ("pt_edges_gev", (3, 2), "increasing"),
        ("methods", ("a", "a"), "distinct names"),
    ],
)
def test_settings_that_make_no_sense_are_refused(key: str, value: tuple[object, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TaggingConfig(**{key: value})
