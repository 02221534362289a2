import math

import numpy as np
import pytest

from distjet.simulation.detector import MIN_CHARGED_PT_GEV, Response, expected_hadronic_signal, response
from distjet.simulation.particle_flow import (
    MIN_WIDTH,
    MOMENTS,
    PARTICLE_FIELDS,
    PION_MASS_GEV,
    SPLIT_SHOWER_CONE,
    particle_flow,
    subtract_tracks,
)
from distjet.simulation.samples import DetectorConfig
from distjet.simulation.topoclusters import CLUSTER_FIELDS
from distjet.simulation.tracks import EventTracks

DETECTOR = response(DetectorConfig())
COLUMN = {name: number for number, name in enumerate(PARTICLE_FIELDS)}


def clusters(energy_gev, eta, phi_rad, pileup_share=0.0, r2=0.005):
    """Clusters of these energies and places; all other moments are 0.5."""
    rows = np.full((len(np.atleast_1d(energy_gev)), len(CLUSTER_FIELDS)), 0.5)
    values = {"E": energy_gev, "eta": eta, "phi": phi_rad, "r2": r2, "fPU": pileup_share}
    for name, column in values.items():
        rows[:, CLUSTER_FIELDS.index(name)] = column
    return rows


def tracks(pt_gev, eta, phi_rad, *, charge=1.0, is_hadron=True, at_primary=True, from_pileup=False):
    pt_gev = np.atleast_1d(np.asarray(pt_gev, np.float64))
    columns = np.broadcast_arrays(pt_gev, eta, phi_rad, charge, is_hadron, at_primary, from_pileup)
    kinds = (np.float64, np.float64, np.float64, np.float64, np.bool_, np.bool_, np.bool_)
    return EventTracks(*(np.array(column, kind) for column, kind in zip(columns, kinds, strict=True)))


def impact(pt_gev, phi_rad=0.0, charge=1.0):
    return phi_rad - charge * math.asin(MIN_CHARGED_PT_GEV / pt_gev)


def random_event(seed, num_clusters=150, num_tracks=120):
    """Clusters and tracks, half of which point at a cluster; some across the seam in azimuth."""
    rng = np.random.default_rng(seed)
    made = clusters(
        rng.exponential(4.0, num_clusters),
        rng.uniform(-1.0, 1.0, num_clusters),
        rng.uniform(-np.pi, np.pi, num_clusters) * rng.choice([0.3, 1.0], num_clusters),
        rng.choice([0.0, 0.3, 1.0], num_clusters),
        rng.uniform(0.0, 0.02, num_clusters),
    )
    target = made[rng.integers(0, num_clusters, num_tracks)]
    pt_gev = 0.5 + rng.exponential(3.0, num_tracks)
    eta = target[:, 1] + rng.normal(0, 0.05, num_tracks)
    phi_rad = (target[:, 2] + rng.normal(0, 0.05, num_tracks) + np.pi) % (2 * np.pi) - np.pi
    from_pileup = rng.random(num_tracks) < 0.4
    return made, tracks(pt_gev, eta, phi_rad, charge=rng.choice([-1.0, 1.0], num_tracks), from_pileup=from_pileup)


def reference_subtraction(made, event_tracks):
    """The same in plain Python, on all pairs: energy per cluster and what each track took."""
    names = ("E", "eta", "phi", "r2", "fPU")
    energy, eta, phi, r2, share = (made[:, CLUSTER_FIELDS.index(name)].copy() for name in names)
    parts = np.stack([energy * (1 - share), energy * share], axis=1)
    for pt, track_eta, track_phi, charge, *_, from_pileup in zip(*event_tracks, strict=True):
        mean, spread = expected_hadronic_signal(track_eta, pt * math.cosh(track_eta), DETECTOR)
        d_phi = np.angle(np.exp(1j * (phi - impact(pt, track_phi, charge))))
        delta_r = np.hypot(eta - track_eta, d_phi)
        widths = delta_r / np.sqrt(np.maximum(r2 / 2, MIN_WIDTH**2))
        total = parts.sum(axis=1)
        near = (delta_r < SPLIT_SHOWER_CONE) & (total > 0)
        matched = near & (widths < 1.64) & (total > 0.1 * pt * math.cosh(track_eta))
        if not matched.any():
            continue
        (best,) = np.flatnonzero(matched)[np.argsort(widths[matched])][:1]
        queue = [best] if total[best] >= mean - spread else np.flatnonzero(near)[np.argsort(widths[near])].tolist()
        searched, missing = [], mean
        for cluster in queue:
            taken = min(missing, parts[cluster].sum())
            own, other = (1, 0) if from_pileup else (0, 1)
            from_own = min(taken, parts[cluster, own])
            parts[cluster, own] -= from_own
            parts[cluster, other] -= taken - from_own
            missing -= taken
            searched.append(cluster)
            if missing <= 1e-12:
                break
        if parts[searched].sum() < 1.5 * spread:
            parts[searched] = 0.0
    return parts


def split(objects):
    """Tracks and neutral objects."""
    charged = objects[:, COLUMN["charge"]] != 0
    return objects[charged], objects[~charged]


@pytest.mark.parametrize("seed", range(5))
def test_subtraction_agrees_with_plain_python(seed):
    made, event_tracks = random_event(seed)
    by_falling_pt = event_tracks.select(np.argsort(-event_tracks.pt_gev))
    left = subtract_tracks(made, by_falling_pt, DETECTOR)
    expected = reference_subtraction(made, by_falling_pt)
    np.testing.assert_allclose(left, expected, atol=1e-9)
    before = made[:, 0]
    assert 0.2 * before.sum() < left.sum() < 0.9 * before.sum()
    assert np.any((left.sum(axis=1) > 0.01) & (left.sum(axis=1) < before - 0.01))  # some clusters are taken in part


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_created(seed):
    made, event_tracks = random_event(seed)
    left = subtract_tracks(made, event_tracks.select(np.argsort(-event_tracks.pt_gev)), DETECTOR)
    charged, neutral = split(particle_flow(made, event_tracks, DETECTOR))
    energy, share = (made[:, CLUSTER_FIELDS.index(name)] for name in ("E", "fPU"))
    assert np.all(left >= 0)
    assert np.all(left <= np.stack([energy * (1 - share), energy * share], axis=1) + 1e-12)
    stays = left.sum(axis=1) > 0
    np.testing.assert_allclose(neutral[:, COLUMN["E"]], left[stays].sum(axis=1), rtol=1e-12)
    np.testing.assert_allclose(neutral[:, COLUMN["fPU"]], left[stays, 1] / left[stays].sum(axis=1), rtol=1e-12)
    for name in MOMENTS:
        np.testing.assert_array_equal(neutral[:, COLUMN[name]], made[stays, CLUSTER_FIELDS.index(name)])
        assert np.all(charged[:, COLUMN[name]] == 0)
    assert len(charged) == len(event_tracks.pt_gev)


def test_an_isolated_hadron_is_its_track():
    pt_gev, eta = 10.0, 0.4
    mean, spread = expected_hadronic_signal(eta, pt_gev * math.cosh(eta), DETECTOR)
    for energy_gev in (mean - 0.9 * spread, mean, mean + 1.4 * spread):
        made = clusters(energy_gev, eta, impact(pt_gev))
        (particle,) = particle_flow(made, tracks(pt_gev, eta, 0.0), DETECTOR)
        assert particle[COLUMN["pt"]] == pt_gev
        assert particle[COLUMN["phi"]] == 0.0  # as at the vertex
        assert particle[COLUMN["E"]] == pytest.approx(math.hypot(pt_gev * math.cosh(eta), PION_MASS_GEV))
        assert particle[COLUMN["charge"]] == 1.0
        assert particle[COLUMN["fPU"]] == 0.0


def test_a_photon_in_the_same_cluster_survives():
    pt_gev, eta = 10.0, 0.4
    mean, spread = expected_hadronic_signal(eta, pt_gev * math.cosh(eta), DETECTOR)
    photon_gev = 4 * spread
    _, (neutral,) = split(particle_flow(clusters(mean + photon_gev, eta, impact(pt_gev)), tracks(pt_gev, eta, 0.0), DETECTOR))
    assert neutral[COLUMN["E"]] == pytest.approx(photon_gev)
    assert neutral[COLUMN["pt"]] == pytest.approx(photon_gev / math.cosh(eta))


def test_a_split_shower_is_put_together():
    pt_gev = 20.0
    mean, _ = expected_hadronic_signal(0.0, pt_gev, DETECTOR)
    made = clusters([0.3 * mean, 0.5 * mean, 5.0, 5.0], [0.02, 0.15, 0.0, 0.6], impact(pt_gev) + np.array([0, 0, 0.25, 0]))
    _, neutral = split(particle_flow(made, tracks(pt_gev, 0.0, 0.0), DETECTOR))
    np.testing.assert_allclose(neutral[:, COLUMN["E"]], [5.0, 5.0])


def test_tracks_of_pileup_are_subtracted_and_dropped():
    pt_gev = 5.0
    mean, spread = expected_hadronic_signal(0.0, pt_gev, DETECTOR)
    made = clusters(mean + 4 * spread, 0.0, impact(pt_gev), pileup_share=mean / (mean + 4 * spread))
    (neutral,) = particle_flow(made, tracks(pt_gev, 0.0, 0.0, at_primary=False, from_pileup=True), DETECTOR)
    assert neutral[COLUMN["E"]] == pytest.approx(4 * spread)
    assert neutral[COLUMN["fPU"]] == pytest.approx(0.0, abs=1e-12)
    charged, _ = split(particle_flow(made, tracks(pt_gev, 0.0, 0.0, at_primary=True, from_pileup=True), DETECTOR))
    assert charged[0, COLUMN["fPU"]] == 1.0


@pytest.mark.parametrize("changes", [{"is_hadron": False}, {"pt_gev": 41.0}])
def test_leptons_and_hard_tracks_leave_the_clusters_alone(changes):
    arguments = {"pt_gev": 10.0, "eta": 0.0, "phi_rad": 0.0} | changes
    made = clusters(20.0, 0.0, impact(arguments["pt_gev"]))
    (neutral,) = particle_flow(made, tracks(**arguments), DETECTOR)
    assert neutral[COLUMN["E"]] == 20.0
    assert neutral[COLUMN["charge"]] == 0.0


def test_a_track_without_a_cluster_is_an_object_all_the_same():
    charged, neutral = split(particle_flow(clusters(5.0, 1.0, 1.0), tracks(3.0, 0.0, 0.0), DETECTOR))
    assert (len(charged), len(neutral)) == (1, 1)
    assert neutral[0, COLUMN["E"]] == 5.0


@pytest.mark.parametrize(("num_clusters", "num_tracks"), [(0, 0), (0, 3), (3, 0)])
def test_empty_events(num_clusters, num_tracks):
    made = clusters(np.ones(num_clusters), np.zeros(num_clusters), np.zeros(num_clusters))
    objects = particle_flow(made, tracks(np.ones(num_tracks), np.ones(num_tracks), 0.0), DETECTOR)
    assert objects.shape == (num_clusters + num_tracks, len(PARTICLE_FIELDS))


def test_subtraction_is_the_whole_momentum_in_an_ideal_calorimeter():
    mean, _ = expected_hadronic_signal(0.7, 30.0, Response(e_over_h=1.0, material_scale=0.0))
    assert mean == pytest.approx(30.0)
