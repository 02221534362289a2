"""Are jets named after what they hold?"""

from itertools import pairwise

import numpy as np
import pytest

from distjet.physics.kinematics import delta_r, mass, to_cartesian, to_cylindrical
from distjet.simulation.generator import Events, Origins, Particles, generate, process_settings, start_pythia
from distjet.simulation.labels import LABELS, decay_labels, jet_labels
from distjet.simulation.matching import Axes
from distjet.simulation.samples import GeneratorConfig, SampleConfig

# (heavy particle, flavours of its quarks in the jet) -> name
CASES = [
    (6, (5, 2, 1), "top_bqq"),
    (6, (5, 4, 3), "top_bcq"),
    (6, (5, 2), "top_bq"),
    (6, (5, 4), "top_bc"),
    (6, (3, 4), "W_cq"),
    (6, (1, 2), "W_qq"),
    (6, (5,), "partial"),
    (6, (2,), "partial"),
    (24, (1, 2), "W_qq"),
    (24, (4, 3), "W_cq"),
    (24, (3,), "partial"),
    (23, (1, 1), "Z_qq"),
    (23, (4, 4), "Z_cc"),
    (23, (5, 5), "Z_bb"),
    (23, (5,), "partial"),
    (25, (3, 3), "H_qq"),
    (25, (4, 4), "H_cc"),
    (25, (5, 5), "H_bb"),
]


def test_numbers_are_those_of_the_contract():
    """Datasets hold them: a number must not change its meaning."""
    assert list(LABELS.values()) == [0, 1, 2, 3, 4, 9, 10, 11, 20, 21, 22, 30, 31, 32, 40, 41, 42, 43]
    assert len(set(LABELS)) == len(LABELS)


def test_decays_are_named_by_the_quarks_in_the_jet():
    heavy = np.array([case[0] for case in CASES])
    counts = [np.array([count(flavours) for _, flavours, _ in CASES]) for count in COUNTS]
    found = decay_labels(heavy, *counts)
    assert found.tolist() == [LABELS[name] for *_, name in CASES]


COUNTS = (len, lambda flavours: flavours.count(5), lambda flavours: flavours.count(4))


def batch(*events):
    """Events of partons (eta, pT in GeV, pdg, heavy particle, decay), at an azimuth of 0."""
    rows = np.array([row for event in events for row in event]).reshape(-1, 5)
    offsets = np.cumsum([0, *map(len, events)])
    p4 = to_cartesian(rows[:, 1], rows[:, 0], np.zeros(len(rows)))
    partons = Particles(p4, rows[:, 2].astype(int), np.zeros(len(rows)), offsets)
    origins = Origins(rows[:, 3].astype(int), rows[:, 4].astype(int))
    return Events(partons, partons, origins, np.zeros(len(events)), np.ones(len(events)))


def axes(*etas):
    offsets = np.cumsum([0, *map(len, etas)])
    flat = np.concatenate([np.array(event, float) for event in etas])
    return Axes(flat, np.zeros(len(flat)), offsets)


def test_the_decay_with_most_quarks_names_the_jet_and_recoils_are_negative():
    top = [(0.0, 100, 5, 6, 7), (0.2, 100, 2, 6, 7), (0.4, 100, -1, 6, 7)]
    other = [(0.6, 500, -5, 6, 9), (2.0, 300, 21, 0, -1)]
    events = batch([*top, *other], [(0.0, 50, 1, 0, -1), (0.1, 80, 21, 0, -1)], [])
    labels = jet_labels(axes([0.1, 2.1, -2.0], [0.0, 3.0], [1.0]), events, 0.6, 0.8)
    names = [["top_bqq", "QCD_g", "none"], ["QCD_g", "none"], ["none"]]
    expected = [LABELS[name] for event in names for name in event]
    expected[1] *= -1
    assert labels.tolist() == expected


def test_quarks_beyond_the_distance_are_not_in_the_jet():
    events = batch([(0.0, 100, 5, 25, 1), (0.9, 100, -5, 25, 1)])
    found = [jet_labels(axes([0.45]), events, distance, 1.0).item() for distance in (0.44, 0.46)]
    assert found == [LABELS["none"], LABELS["H_bb"]]
    assert jet_labels(axes([0.0]), events, 0.6, 1.0).item() == LABELS["partial"]


# process, heavy particle, number of quarks, mass in GeV, decays in an event, flavours of all quarks
PROCESSES = [
    ({"process": "ttbar", "pthat_min_gev": 400}, 6, 3, 172.5, 2, {1, 2, 3, 4, 5}),
    ({"process": "w_jet", "pthat_min_gev": 300}, 24, 2, 80.4, 1, {1, 2, 3, 4}),
    ({"process": "z_jet", "pthat_min_gev": 300, "decay": "bb"}, 23, 2, 91.2, 1, {5}),
    ({"process": "h_jet", "pthat_min_gev": 300, "decay": "cc"}, 25, 2, 125.0, 1, {4}),
]


@pytest.mark.parametrize("case", PROCESSES, ids=lambda case: case[0]["process"])
@pytest.mark.parametrize("shower", ["simple", "vincia"])
def test_quarks_are_assigned_to_the_decay_whose_mass_they_have(case, shower):
    """Not exactly: a W boson recoils from what the b quark beside it radiates, and bosons are wide."""
    process, heavy, num_quarks, mass_gev, num_decays, flavours = case
    config = SampleConfig.model_validate({**process, "shower": shower, "num_events": 1})
    settings = process_settings(config, GeneratorConfig(extra_settings=("PartonLevel:MPI = off",)))
    events = next(generate(start_pythia(settings, 13600.0, 5), 30))
    origins, partons = events.origins, events.partons
    decays = [np.flatnonzero(origins.decay == number) for number in np.unique(origins.decay[origins.decay >= 0])]
    assert len(decays) == 30 * num_decays
    assert {len(rows) for rows in decays} == {num_quarks}
    masses = np.array([mass(partons.p4[rows].sum(axis=0)) for rows in decays])
    assert np.median(masses) == pytest.approx(mass_gev, abs=2)
    assert np.mean(np.abs(masses - mass_gev) < 10) > 0.8
    of_decay = origins.decay >= 0
    assert set(origins.pdg[of_decay].tolist()) == {heavy}
    assert set(np.abs(partons.pdg[of_decay]).tolist()) <= flavours
    assert set(origins.pdg[~of_decay].tolist()) <= {0}


def test_partons_of_qcd_come_from_no_decay():
    sample = SampleConfig(pthat_min_gev=300, num_events=1)
    events = next(generate(start_pythia(process_settings(sample, GeneratorConfig()), 13600.0, 5), 5))
    np.testing.assert_array_equal(events.origins.pdg, np.zeros(10))
    np.testing.assert_array_equal(events.origins.decay, np.full(10, -1))


def test_labels_agree_with_a_search_by_hand():
    config = SampleConfig(process="ttbar", pthat_min_gev=400, num_events=1)
    settings = process_settings(config, GeneratorConfig(extra_settings=("PartonLevel:MPI = off",)))
    events = next(generate(start_pythia(settings, 13600.0, 6), 30))
    partons = events.partons
    rng = np.random.default_rng(1)
    jets = Axes(rng.uniform(-2, 2, 600), rng.uniform(-np.pi, np.pi, 600), np.arange(0, 601, 20))
    labels = jet_labels(jets, events, 0.8, 0.8)
    _, eta, phi, _ = to_cylindrical(partons.p4)
    whole = []
    for event, (first, last) in enumerate(pairwise(partons.offsets.tolist())):
        for jet in range(20 * event, 20 * event + 20):
            inside = delta_r(jets.eta[jet], jets.phi_rad[jet], eta[first:last], phi[first:last]) < 0.8
            decays = events.origins.decay[first:last][inside]
            whole.append(any(np.sum(decays == number) == 3 for number in set(decays.tolist()) - {-1}))
    assert np.isin(labels, [40, 41]).tolist() == whole
    assert 5 < sum(whole) < 300
