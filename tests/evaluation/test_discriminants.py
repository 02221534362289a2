"""Discriminants, many classes and ensembles, against closed forms and scikit-learn where it is installed."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import norm, rankdata

from distjet.errors import DataError
from distjet.evaluation.discriminants import Duel, curve_record, separation, weights_to_background_pt
from distjet.evaluation.ensemble_spread import summarise_spread
from distjet.evaluation.multiclass import accuracy_of, confusion_of, one_versus_one
from distjet.evaluation.score_tables import TaggedJets, discriminants_of, read_scores
from distjet.evaluation.tagging_config import TaggingConfig
from tests.evaluation.toy_scores import BINARY, THREE, score_columns, toy_jets, write_scores

DISTANCE = 2.0
PLAIN = TaggingConfig(reweight_pt=False)


def jets_of(folder: Path, classes: tuple[str, ...], num: int, config: TaggingConfig = PLAIN) -> TaggedJets:
    jets = toy_jets(classes, num)
    return read_scores(
        write_scores(folder / "s.parquet", jets | score_columns(jets, classes, "net", DISTANCE), classes), config
    )


def duel_of(jets: TaggedJets, config: TaggingConfig) -> Duel:
    return Duel.of(jets, next(iter(discriminants_of(jets.classes, config).items())), config)


def test_numbers_of_a_gaussian_tagger_are_the_closed_forms(tmp_path: Path) -> None:
    scores = duel_of(jets_of(tmp_path, BINARY, 60_000), PLAIN).scores("net")
    found = separation(scores, PLAIN)
    assert found["area"] == pytest.approx(norm.cdf(DISTANCE / np.sqrt(2)), abs=4 * found["area_error"])
    for efficiency in PLAIN.signal_efficiencies:
        name = f"rejection_{100 * efficiency:g}"
        expected = 1 / norm.sf(DISTANCE + norm.isf(efficiency))
        assert found[name] == pytest.approx(expected, abs=4 * found[f"{name}_error"])
        passed = found[f"{name}_passed"]
        assert found[f"{name}_error"] / found[name] == pytest.approx(1 / np.sqrt(passed), rel=0.05)
    curve = curve_record(scores)
    x, y = (np.array(curve[f"{side}_efficiency"]) for side in ("signal", "background"))
    np.testing.assert_allclose(norm.isf(y[20:]), DISTANCE + norm.isf(x[20:]), atol=0.08)


def test_weighted_signal_has_the_spectrum_of_the_background_in_every_bin() -> None:
    rng = np.random.default_rng(0)
    is_signal = np.arange(30_000) % 3 == 0
    pt = np.where(is_signal, rng.normal(700, 80, 30_000), 500 + rng.exponential(150, 30_000))
    weight = rng.uniform(0.5, 1.5, 30_000)
    found, overlap = weights_to_background_pt(pt, weight, is_signal, 20)
    assert overlap == pytest.approx(1, abs=0.2)
    np.testing.assert_array_equal(found[~is_signal], weight[~is_signal])
    assert found[is_signal].sum() == pytest.approx(weight[is_signal].sum())
    edges = np.quantile(pt[~is_signal], np.linspace(0, 1, 21))[1:-1]
    bins = np.digitize(pt, edges)
    shares = [np.bincount(bins[side], found[side], 20) / found[side].sum() for side in (is_signal, ~is_signal)]
    covered = shares[0] > 0
    np.testing.assert_allclose(shares[0][covered], shares[1][covered] / shares[1][covered].sum(), rtol=1e-9)


def test_a_tagger_that_knows_the_pt_alone_knows_nothing_when_reweighted(tmp_path: Path) -> None:
    jets = toy_jets(BINARY, 40_000)
    jets["jet_pt"] = 500 + np.random.default_rng(1).exponential(100 + 80 * jets["label"])
    top = 1 / (1 + np.exp(-(jets["jet_pt"] - 600) / 100))
    path = write_scores(tmp_path / "s.parquet", jets | {"net_score_QCD": 1 - top, "net_score_top": top}, BINARY)
    area = {
        flag: separation(duel_of(read_scores(path, config), config).scores("net"), config)["area"]
        for flag in (True, False)
        for config in [TaggingConfig(reweight_pt=flag, num_reweight_bins=200)]
    }
    assert area[False] > 0.6
    assert area[True] == pytest.approx(0.5, abs=0.02)


def test_a_side_without_jets_is_named(tmp_path: Path) -> None:
    jets = toy_jets(BINARY, 100)
    jets["label"] = np.zeros(100, np.int64)
    path = write_scores(tmp_path / "s.parquet", jets | score_columns(jets, BINARY, "net", 1.0), BINARY)
    with pytest.raises(DataError, match=r"has no jets of the signal \['top'\] of 'top vs QCD'"):
        duel_of(read_scores(path, PLAIN), PLAIN)


def test_confusion_counts_jets_and_accuracy_is_its_diagonal(tmp_path: Path) -> None:
    jets = jets_of(tmp_path, THREE, 3000)
    choice = np.argmax(jets.scores["net"], axis=1)
    found = confusion_of(jets, "net")
    expected = [[sum((jets.label == row) & (choice == column)) for column in range(3)] for row in range(3)]
    assert found["counts"] == expected
    np.testing.assert_allclose(np.sum(found["shares"], axis=1), 1)
    accuracy = accuracy_of(jets, "net")
    assert accuracy.value == pytest.approx(np.trace(expected) / 3000)
    assert accuracy.error == pytest.approx(np.sqrt(accuracy.value * (1 - accuracy.value) / 3000))


def test_areas_of_pairs_are_shares_of_ordered_pairs(tmp_path: Path) -> None:
    """The statistic of Mann and Whitney, from ranks, is another way to the same area."""
    jets = jets_of(tmp_path, THREE, 1500)
    found = one_versus_one(jets, "net")
    plain = []
    for i in range(3):
        assert found["areas"][i][i] is None
        for j in (other for other in range(3) if other != i):
            pair = np.isin(jets.label, (i, j))
            truth, scores = jets.label[pair] == i, jets.scores["net"][pair].astype(np.float64)
            assert found["areas"][i][j] == pytest.approx(mann_whitney(np.log(scores[:, i] / scores[:, j]), truth), rel=1e-9)
            plain.append(mann_whitney(scores[:, i], truth))
    assert found["areas"][0][1] == pytest.approx(found["areas"][1][0], rel=1e-9)
    assert found["mean_area"] == pytest.approx(np.mean(plain), rel=1e-9)


def mann_whitney(score: np.ndarray, truth: np.ndarray) -> float:
    num_signal, num_background = truth.sum(), (~truth).sum()
    return float((rankdata(score)[truth].sum() - num_signal * (num_signal + 1) / 2) / (num_signal * num_background))


def test_numbers_are_those_of_scikit_learn(tmp_path: Path) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn comes with the bench extra")
    jets = jets_of(tmp_path, THREE, 2000)
    scores = jets.scores["net"].astype(np.float64)
    scores /= scores.sum(axis=1, keepdims=True)
    expected = metrics.roc_auc_score(jets.label, scores, multi_class="ovo", average="macro")
    assert one_versus_one(jets, "net")["mean_area"] == pytest.approx(expected, abs=1e-6)
    np.testing.assert_array_equal(
        confusion_of(jets, "net")["counts"], metrics.confusion_matrix(jets.label, scores.argmax(axis=1))
    )
    config = TaggingConfig(reweight_pt=False, use_weights=True)
    weighted = jets_of(tmp_path, BINARY, 2000, config)
    found = separation(duel_of(weighted, config).scores("net"), config)["area"]
    top = weighted.log_odds("net", discriminants_of(BINARY, config)["top vs QCD"])
    assert found == pytest.approx(metrics.roc_auc_score(weighted.label, top, sample_weight=weighted.weight), rel=1e-9)


def test_a_spread_that_follows_the_error_is_found_and_noise_is_not(tmp_path: Path) -> None:
    jets = toy_jets(BINARY, 4000)
    columns = jets | score_columns(jets, BINARY, "net", 1.5)
    noise = np.random.default_rng(0).uniform(0.01, 0.02, 4000)
    wrong = {f"net_score_{name}_spread": noise for name in BINARY}
    right = {f"net_score_{n}_spread": columns["net_score_QCD"] * columns["net_score_top"] for n in BINARY}
    correlation = {}
    for label, spreads in (("noise", wrong), ("right", right)):
        found = summarise_spread(
            read_scores(write_scores(tmp_path / f"{label}.parquet", columns | spreads, BINARY), PLAIN), "net"
        )
        correlation[label] = found["rank_correlation"], found["rank_correlation_error"]
        assert sum(point["num_jets"] for point in found["points"]) == 4000
    assert abs(correlation["noise"][0]) < 4 * correlation["noise"][1]
    assert correlation["noise"][1] == pytest.approx(1 / np.sqrt(4000), rel=0.05)
    assert correlation["right"][0] > 0.6
    shares = [point["efficiency"] for point in found["points"]]
    assert shares[0] < 0.05
    assert shares[-1] > 0.3
