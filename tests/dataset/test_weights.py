"""Spec: weights from the manifest's histograms make spectra flat, or those of all classes alike, and classes equally heavy."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distjet.dataset.statistics import bin_place
from distjet.dataset.weights import flattening_weights, pt_mass_weights
from distjet.errors import ConfigError, DataError

PT_EDGES, MASS_EDGES = [100.0, 150, 200, 300, 500], [0.0, 20, 40, 80, 160]
CLASSES = ("QCD", "top")


def falling_spectrum(size: int = 200_000) -> tuple[np.ndarray, dict[str, Any]]:
    log_energy = np.random.default_rng(3).exponential(0.8, size) + 2.05
    log_energy = np.minimum(log_energy, 9.99)
    edges = np.round(np.arange(0, 10.05, 0.1), 1)
    counts, _ = np.histogram(log_energy, edges)
    return log_energy, {"edges": edges.tolist(), "counts": counts.tolist(), "sum_weights": (counts * 0.5).tolist()}


def test_weights_make_the_spectrum_flat():
    log_energy, histogram = falling_spectrum()
    weights = flattening_weights(histogram, cap=1e9)([log_energy]).astype(np.float64)
    assert weights.mean() == pytest.approx(1, rel=1e-5)
    sums, _ = np.histogram(log_energy, histogram["edges"], weights=weights)
    filled = sums[np.array(histogram["counts"]) > 0]
    np.testing.assert_allclose(filled, filled.mean(), rtol=1e-4)


def test_capped_weights_have_mean_one_and_stay_below_the_cap():
    log_energy, histogram = falling_spectrum()
    weights = flattening_weights(histogram, cap=5.0)([log_energy])
    assert weights.mean() == pytest.approx(1, rel=1e-3)
    assert weights.max() <= 5.0 * (1 + 1e-3)
    sums, _ = np.histogram(log_energy, histogram["edges"], weights=weights)
    low = slice(21, 30)
    np.testing.assert_allclose(sums[low], sums[low].mean(), rtol=1e-3)


def test_event_weights_can_be_made_flat_instead():
    _, histogram = falling_spectrum()
    assert flattening_weights(histogram, use_event_weights=True).values.max() > 0
    with pytest.raises(DataError, match="no positive sum of event weights"):
        flattening_weights(histogram | {"sum_weights": [0.0] * 100}, use_event_weights=True)
    with pytest.raises(DataError, match="no jets"):
        flattening_weights(histogram | {"counts": [0] * 100})


class Sample:
    """Jets of two classes with different spectra, some beyond the bins, and their histogram as in a manifest."""

    def __init__(self, num_qcd: int = 30_000, num_top: int = 5_000, seed: int = 1) -> None:
        rng = np.random.default_rng(seed)
        self.label = np.repeat([0, 1], [num_qcd, num_top])
        size = len(self.label)
        self.pt = 90 + np.where(self.label == 0, rng.exponential(60, size), rng.exponential(150, size))
        self.mass = np.abs(np.where(self.label == 0, rng.exponential(25, size), rng.normal(85, 40, size)))
        self.event_weight = rng.uniform(0.2, 3, size)
        self.variables = [self.label, self.pt, self.mass]
        self.histogram = {
            "edges": [PT_EDGES, MASS_EDGES],
            "counts": self.sums(np.ones(size)).astype(int).tolist(),
            "sum_weights": self.sums(self.event_weight).tolist(),
        }

    def sums(self, weights: np.ndarray) -> np.ndarray:
        """Add up weights in bins of class, pT and mass."""
        sums = np.zeros((2, len(PT_EDGES) - 1, len(MASS_EDGES) - 1))
        np.add.at(sums, bin_place(self.variables, [[0, 1, 2], PT_EDGES, MASS_EDGES]), weights)
        return sums


SAMPLE = Sample()


@pytest.mark.parametrize("use_event_weights", [False, True])
def test_every_class_is_flat_in_pt_and_mass_and_as_heavy_as_the_other(use_event_weights: bool):
    function = pt_mass_weights(SAMPLE.histogram, CLASSES, use_event_weights=use_event_weights, cap=1e9)
    weights = function(SAMPLE.variables).astype(np.float64)
    if use_event_weights:
        assert (weights * SAMPLE.event_weight).sum() == pytest.approx(SAMPLE.event_weight.sum(), rel=1e-6)
        weights *= SAMPLE.event_weight
    else:
        assert weights.mean() == pytest.approx(1, rel=1e-6)
    sums = SAMPLE.sums(weights)
    np.testing.assert_allclose(sums[0].sum(), sums[1].sum(), rtol=1e-6)
    filled = np.array(SAMPLE.histogram["counts"]) > 0
    for part, has_jets in zip(sums, filled, strict=True):
        np.testing.assert_allclose(part[has_jets], part[has_jets].mean(), rtol=1e-6)
        assert (part[~has_jets] == 0).all()


def test_every_class_gets_the_spectrum_of_the_reference():
    weights = pt_mass_weights(SAMPLE.histogram, CLASSES, reference="QCD", cap=1e9)(SAMPLE.variables).astype(np.float64)
    qcd, top = SAMPLE.sums(weights)
    assert weights.mean() == pytest.approx(1, rel=1e-6)
    np.testing.assert_allclose(qcd.sum(), top.sum(), rtol=1e-6)
    assert len(np.unique(weights[SAMPLE.label == 0])) == 1
    both = np.array(SAMPLE.histogram["counts"]).min(axis=0) > 0
    ratio = top[both] / qcd[both]
    np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-5)


def test_other_jets_of_the_same_kind_are_flat_within_their_statistical_error():
    """Weights of one sample on another: what a training sees from the histogram, up to the errors of both."""
    other = Sample(seed=2)
    weights = pt_mass_weights(SAMPLE.histogram, CLASSES, cap=1e9)(other.variables).astype(np.float64)
    sums, counts = other.sums(weights), np.array(SAMPLE.histogram["counts"], dtype=float)
    pulls = []
    for number in range(2):
        used = counts[number] >= 20
        expected = sums[number][used].sum() / used.sum()
        variance = expected**2 * (1 / counts[number][used] + 1 / other.sums(np.ones_like(weights))[number][used])
        pulls += list((sums[number][used] - expected) / np.sqrt(variance))
    assert len(pulls) > 15
    assert 0.5 < np.mean(np.square(pulls)) < 2.0


def test_classes_can_have_given_totals():
    weights = pt_mass_weights(SAMPLE.histogram, CLASSES, totals={"QCD": 3, "top": 1})(SAMPLE.variables)
    sums = SAMPLE.sums(weights).sum(axis=(1, 2))
    assert sums[0] / sums[1] == pytest.approx(3, rel=1e-5)
    assert weights.mean() == pytest.approx(1, rel=1e-5)


@given(cap=st.floats(1.0, 30.0), scale=st.integers(1, 50))
@settings(max_examples=30, deadline=None)
def test_the_cap_holds_within_each_class_whose_total_stays(cap: float, scale: int):
    sample = Sample(num_qcd=3000, num_top=60 * scale)
    weights = pt_mass_weights(sample.histogram, CLASSES, cap=cap)(sample.variables).astype(np.float64)
    per_class = [weights[sample.label == number] for number in range(2)]
    for part in per_class:
        assert part.max() <= cap * part.mean() * (1 + 1e-3)
    assert per_class[0].sum() == pytest.approx(per_class[1].sum(), rel=1e-4)
    assert weights.mean() == pytest.approx(1, rel=1e-4)


def test_a_jet_beyond_the_bins_has_the_weight_of_the_nearest_bin():
    function = pt_mass_weights(SAMPLE.histogram, CLASSES)
    inside, outside = ([0, 0, 1], [101.0, 499, 250], [10.0, 10, 159]), ([0, 0, 1], [3.0, 9e3, 250], [10.0, 10, 4e3])
    np.testing.assert_array_equal(function([np.array(v) for v in inside]), function([np.array(v) for v in outside]))


def test_without_labels_all_jets_are_flat_together():
    histogram = {"edges": [PT_EDGES, MASS_EDGES], "counts": np.array(SAMPLE.histogram["counts"]).sum(axis=0).tolist()}
    weights = pt_mass_weights(histogram | {"sum_weights": histogram["counts"]}, cap=1e9)(SAMPLE.variables[1:])
    sums = SAMPLE.sums(weights.astype(np.float64)).sum(axis=0)
    np.testing.assert_allclose(sums[sums > 0], sums[sums > 0].mean(), rtol=1e-5)


def test_what_cannot_be_done_is_named():
    with pytest.raises(ConfigError, match="unknown class 'topp', did you mean 'top'"):
        pt_mass_weights(SAMPLE.histogram, CLASSES, reference="topp")
    with pytest.raises(ConfigError, match=r"expected \['QCD', 'top'\] \(got \['QCD'\]\)"):
        pt_mass_weights(SAMPLE.histogram, CLASSES, totals={"QCD": 1})
    with pytest.raises(ConfigError, match="the dataset has no labels"):
        pt_mass_weights(SAMPLE.histogram, reference="QCD")
    empty = np.array(SAMPLE.histogram["counts"])
    empty[1] = 0
    with pytest.raises(DataError, match="no jets of class top"):
        pt_mass_weights(SAMPLE.histogram | {"counts": empty.tolist()}, CLASSES)
    apart = np.zeros((2, 4, 4), int)
    apart[0, 0, 0] = apart[1, 3, 3] = 5
    with pytest.raises(DataError, match="no training jets of class top are in the bins"):
        pt_mass_weights(SAMPLE.histogram | {"counts": apart.tolist()}, CLASSES, reference="QCD")
