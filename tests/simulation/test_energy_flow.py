"""Does the fast detector measure as its card says?"""

import numpy as np
import pytest

from distjet.physics.kinematics import delta_phi, to_cartesian
from distjet.simulation.energy_flow import ENERGY_FLOW_FIELDS, energy_flow

COLUMN = {name: number for number, name in enumerate(ENERGY_FLOW_FIELDS)}
PHOTON, PION, NEUTRON, ELECTRON, MUON, NEUTRINO = 22, 211, 2112, 11, 13, 12
CHARGE = {PION: 1.0, ELECTRON: -1.0, MUON: -1.0}


def measured(species, pt_gev, eta, num=2000, seed=1):
    """Rows of every event with one particle, at a random azimuth; the azimuths."""
    rng = np.random.default_rng(seed)
    phi = rng.uniform(-np.pi, np.pi, num)
    p4 = to_cartesian(np.full(num, pt_gev), np.full(num, eta), phi)
    charge = np.array([CHARGE.get(species, 0.0)])
    return [energy_flow(p4[n : n + 1], np.array([species]), charge, rng) for n in range(num)], phi


def energies(rows):
    return np.array([event[:, COLUMN["E"]].sum() for event in rows])


# Formulas of the card at |eta| = 0.3, written out a second time on purpose.
@pytest.mark.parametrize(
    ("species", "relative", "identity"),
    [
        (PHOTON, lambda energy: np.hypot(0.0017, 0.101 / np.sqrt(energy)), 22),
        (NEUTRON, lambda energy: np.sqrt(0.0302**2 + 0.5205**2 / energy + (1.59 / energy) ** 2), 130),
    ],
)
def test_neutral_particles_are_measured_with_the_resolution_of_their_calorimeter(species, relative, identity):
    rows, _ = measured(species, 40.0, 0.3)
    true = 40.0 * np.cosh(0.3)
    found = energies(rows)
    sigma = relative(true)
    assert found.mean() / true == pytest.approx(1.0, abs=5 * sigma / np.sqrt(len(rows)))
    assert found.std() / true == pytest.approx(sigma, rel=0.08)
    assert {int(pdg) for event in rows for pdg in event[:, COLUMN["pdg"]]} == {identity}


@pytest.mark.parametrize(
    ("species", "pt_gev", "eta", "efficiency", "resolution", "identity"),
    [
        (PION, 5.0, 0.3, 0.95, np.hypot(0.06, 1.3e-3 * 5), 211),
        (PION, 5.0, 2.0, 0.85, np.hypot(0.25, 3.1e-3 * 5), 211),
        (PION, 0.6, 1.0, 0.70, np.hypot(0.10, 1.7e-3 * 0.6), 211),
        (MUON, 50.0, 1.0, 0.99, np.hypot(0.015, 1.5e-4 * 50), 13),
        (ELECTRON, 20.0, 0.3, 0.95, np.hypot(0.03, 1.3e-3 * 20), 11),
        (PION, 5.0, 2.6, 0.0, None, None),
        (PION, 0.09, 1.0, 0.0, None, None),
    ],
)
def test_tracks_have_the_efficiency_and_resolution_of_the_card(species, pt_gev, eta, efficiency, resolution, identity):
    rows, phi = measured(species, pt_gev, eta)
    tracks = [
        (event[0], angle) for event, angle in zip(rows, phi, strict=True) if len(event) and event[0, COLUMN["charge"]] != 0
    ]
    assert len(tracks) / len(rows) == pytest.approx(efficiency, abs=4 * np.sqrt(0.25 / len(rows)))
    for track, angle in tracks[:50]:
        assert track[COLUMN["pdg"]] == identity
        assert track[COLUMN["charge"]] == CHARGE[species]
        assert track[COLUMN["eta"]] == pytest.approx(eta)
        assert abs(delta_phi(track[COLUMN["phi"]], angle)) < 1e-9
    if resolution is not None:
        ratio = np.array([track[COLUMN["pt"]] for track, _ in tracks]) / pt_gev
        assert ratio.mean() == pytest.approx(1.0, abs=5 * resolution / np.sqrt(len(tracks)))
        assert ratio.std() == pytest.approx(resolution, rel=0.1)


def test_energy_of_tracks_is_not_counted_twice():
    rows, _ = measured(PION, 20.0, 0.3)
    true = 20.0 * np.cosh(0.3)
    assert np.mean(energies(rows)) / true == pytest.approx(1.0, abs=0.05)
    with_track = [event for event in rows if event[0, COLUMN["charge"]] != 0]
    assert np.mean([len(event) == 1 for event in with_track]) > 0.9  # what is left of the tower is rarely significant


def test_without_a_track_a_charged_particle_is_a_neutral_one():
    rows, _ = measured(PION, 20.0, 3.0)
    assert {int(pdg) for event in rows for pdg in event[:, COLUMN["pdg"]]} == {130}


def test_neutrinos_and_slow_loopers_leave_nothing_and_muons_a_track_only():
    assert np.all(energies(measured(NEUTRINO, 40.0, 0.3)[0]) == 0)
    assert {len(event) for event in measured(MUON, 40.0, 0.3)[0]} == {0, 1}
    assert all(np.all(event[:, COLUMN["charge"]] != 0) for event in measured(PION, 0.3, 0.3)[0])


def test_towers_are_found_where_particles_hit_them():
    rows, phi = measured(PHOTON, 40.0, 0.33)
    for event, angle in zip(rows, phi, strict=True):
        for row in event:
            assert 0.3 <= row[COLUMN["eta"]] <= 0.4
            assert abs(delta_phi(row[COLUMN["phi"]], angle)) < 2 * np.pi / 72
    pions, phi = measured(PION, 2.0, 2.55)  # beyond the tracker, turned by the field
    turns = [delta_phi(event[0, COLUMN["phi"]], angle) for event, angle in zip(pions, phi, strict=True) if len(event)]
    assert np.mean(turns) == pytest.approx(-np.arcsin(0.345 / 2.0), abs=0.01)


def test_objects_are_massless():
    rng = np.random.default_rng(2)
    p4 = to_cartesian(rng.exponential(10, 300), rng.uniform(-3, 3, 300), rng.uniform(-np.pi, np.pi, 300))
    pdg = rng.choice([PHOTON, PION, -PION, NEUTRON, ELECTRON, 310], 300)
    charge = np.array([np.sign(number) * CHARGE.get(abs(number), 0.0) for number in pdg.tolist()])
    flow = energy_flow(p4, pdg, charge, rng)
    np.testing.assert_allclose(flow[:, COLUMN["E"]], flow[:, COLUMN["pt"]] * np.cosh(flow[:, COLUMN["eta"]]), rtol=1e-12)
    assert flow[:, COLUMN["E"]].sum() == pytest.approx(p4[:, 3].sum(), rel=0.15)
    assert np.all(np.abs(flow[:, COLUMN["phi"]]) <= np.pi)
