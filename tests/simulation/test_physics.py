"""Do the simulated jets behave as a calibration expects of a calorimeter?"""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distjet.physics.areas import grid_median_rho
from distjet.physics.clustering import kt_median_rho
from distjet.physics.kinematics import delta_r, pt, to_cylindrical
from distjet.simulation import reconstruction
from distjet.simulation.generator import generate, process_settings, start_pythia
from distjet.simulation.ntuple import concatenate
from distjet.simulation.pileup import save_library, simulate_library
from distjet.simulation.readout import Detector
from distjet.simulation.samples import GeneratorConfig, SampleConfig, SharedSettings, file_tasks
from distjet.simulation.simulate import simulate_batches

from .conftest import small_config

QUIET = SharedSettings.model_validate({"pileup": {"mu": [0, 0]}})


def generated(pthat_min_gev, num_events, seed=3):
    sample = SampleConfig(pthat_min_gev=pthat_min_gev, pthat_max_gev=2.5 * pthat_min_gev, num_events=num_events)
    settings = process_settings(sample, GeneratorConfig())
    return list(generate(start_pythia(settings, 13600.0, seed), num_events))


@pytest.fixture(scope="module")
def quiet_jets():
    """Jets without pileup from two slices, by radius, and the events they come from."""
    detector = Detector(QUIET, None, np.random.default_rng(1))
    batches = [*generated(25, 100), *generated(150, 100)]
    tables = [reconstruction.reconstruct(events, detector.record(events.particles), QUIET.jets) for events in batches]
    for number, table in enumerate(tables):
        for jets in table.values():
            jets.columns["event"] += 1000 * number
    return {radius: concatenate([table[radius] for table in tables]).columns for radius in QUIET.jets.radii}, batches


@pytest.mark.parametrize("radius", [0.2, 0.4])
def test_isolated_truth_jets_are_found(quiet_jets, radius):
    tables, batches = quiet_jets
    jets = tables[radius]
    matched = set(zip(jets["event"].tolist(), np.round(jets["truthjet_pt"], 6).tolist(), strict=True))
    found = []
    for number, events in enumerate(batches):
        truth_p4, offsets = reconstruction._truth_particles(events.particles)
        truth = reconstruction.clustering.cluster(truth_p4, offsets, radius, 5.0)
        kinematics = to_cylindrical(truth.p4)
        for event in range(events.particles.num_events):
            own = range(truth.event_offsets[event], truth.event_offsets[event + 1])
            for jet in own:
                near = [o for o in own if o != jet and kinematics.pt_gev[o] > 7]
                distance = delta_r(kinematics.eta[jet], kinematics.phi_rad[jet], kinematics.eta[near], kinematics.phi_rad[near])
                if kinematics.pt_gev[jet] > 20 and abs(kinematics.eta[jet]) < 2.5 and np.all(distance > 2.5 * radius):
                    found.append((1000 * number + event, round(float(kinematics.pt_gev[jet]), 6)) in matched)
    assert len(found) > 150
    assert np.mean(found) > 0.95


def test_response_is_low_and_rises_with_pt(quiet_jets):
    jets = quiet_jets[0][0.4]
    good = jets["jet_isTruthMatched"] & jets["jet_isIsolated"] & jets["truthjet_isIsolated"] & (np.abs(jets["jet_eta"]) < 1.2)
    response = jets["jet_pt"] / jets["truthjet_pt"]
    medians = []
    for low, high in ((15, 40), (40, 120), (150, 500)):
        chosen = good & (jets["truthjet_pt"] > low) & (jets["truthjet_pt"] < high)
        assert chosen.sum() > 20
        medians.append(np.median(response[chosen]))
    assert 0.55 < medians[0] < medians[1] < medians[2] < 0.9
    assert medians[2] - medians[0] > 0.05


def test_leading_jets_are_labelled_with_their_parton(quiet_jets):
    jets = quiet_jets[0][0.4]
    leading = jets["jet_isTruthMatched"] & (jets["truthjet_pt"] > 100)
    assert np.mean(jets["truthjet_flavour"][leading] > 0) > 0.7
    assert {21, 1, 2} <= set(jets["truthjet_flavour"][leading].tolist())


def test_charged_fraction_is_about_two_thirds(quiet_jets):
    jets = quiet_jets[0][0.4]
    central = jets["jet_isTruthMatched"] & (np.abs(jets["jet_eta"]) < 2.0) & (jets["truthjet_pt"] > 100)
    charged_to_truth = jets["jet_fCharged"][central] * jets["jet_pt"][central] / jets["truthjet_pt"][central]
    assert np.median(charged_to_truth) == pytest.approx(0.57, abs=0.1)
    assert np.median(jets["jet_NumTrkPt1000"][central]) > 5
    assert np.all(jets["jet_fCharged"][np.abs(jets["jet_eta"]) > 3.0] == 0)


def test_quiet_events_have_no_pileup(quiet_jets):
    for jets in quiet_jets[0].values():
        assert np.all(jets["nPUtrue"] == 0)
        assert np.all(jets["NPV"] <= 1)


@pytest.fixture(scope="module")
def busy_readout():
    """Events with pileup between 0 and 60."""
    settings = SharedSettings.model_validate({"pileup": {"mu": [0, 60], "library_events": 300, "process": "non_diffractive"}})
    detector = Detector(settings, simulate_library(settings), np.random.default_rng(1))
    (events,) = generated(60, 100)
    return detector.record(events.particles)


def test_pileup_density_grows_with_the_number_of_collisions(busy_readout):
    clusters = busy_readout.clusters.astype(np.float64)
    p4 = reconstruction.cluster_momenta(busy_readout.clusters)
    rho = grid_median_rho(pt(p4), clusters[:, 1], clusters[:, 2], busy_readout.cluster_offsets)
    assert np.polyfit(busy_readout.num_pileup, rho, 1)[0] > 0.05
    bins = np.digitize(busy_readout.num_pileup, [10, 20, 30, 40, 50])
    means = [rho[bins == number].mean() for number in range(6)]
    assert np.corrcoef(np.arange(6), means)[0, 1] > 0.8


def test_vertices_grow_with_pileup_but_slower(busy_readout):
    busy = busy_readout.num_pileup > 10
    assert np.corrcoef(busy_readout.num_pileup, busy_readout.num_vertices)[0, 1] > 0.9
    assert np.all(busy_readout.num_vertices[busy] <= busy_readout.num_pileup[busy] + 1)


def test_both_density_estimators_rise_together(busy_readout):
    p4, offsets = reconstruction.cluster_momenta(busy_readout.clusters), busy_readout.cluster_offsets
    clusters = busy_readout.clusters.astype(np.float64)
    grid = grid_median_rho(pt(p4), clusters[:, 1], clusters[:, 2], offsets)[:30]
    from_jets = [kt_median_rho(p4[first:last]) for first, last in itertools.pairwise(offsets[:31])]
    assert np.corrcoef(grid, from_jets)[0, 1] > 0.9


@pytest.mark.slow
def test_stitched_spectrum_is_smooth(tmp_path):
    """The truth spectrum across slice edges follows a power law once events are weighted."""
    edges = [20, 40, 80, 160, 320]
    samples = {
        f"s{n}": {"pthat_min_gev": low, "pthat_max_gev": high, "num_events": 600}
        for n, (low, high) in enumerate(itertools.pairwise(edges))
    }
    config = small_config(
        tmp_path, samples=samples, events_per_task=600, pileup={"mu": [0, 0]}, generator={"cross_section_trials": 20000}
    )
    sections = {name: _cross_section(config, name) for name in samples}
    tasks = file_tasks(config, sections)
    columns = [
        table[0.4].columns
        for task in tasks
        for table, _ in simulate_batches(replace(task, path=""), SharedSettings.model_validate(task.settings))
    ]
    leading = np.concatenate([c["leading_truth_pt"][c["jet_index"] == 0] for c in columns])
    weight = np.concatenate([c["mcEventWeight"][c["jet_index"] == 0] for c in columns])
    bins = np.geomspace(50, 250, 9)
    spectrum, _ = np.histogram(leading, bins, weights=weight)
    error = np.sqrt(np.histogram(leading, bins, weights=weight**2)[0])
    centres, relative = np.log(np.sqrt(bins[1:] * bins[:-1])), error / spectrum
    fit = np.polyfit(centres, np.log(spectrum), 2, w=1 / relative)
    pulls = (np.log(spectrum) - np.polyval(fit, centres)) / relative
    assert np.all(np.abs(pulls) < 3)
    assert -6.5 < np.polyfit(centres, np.log(spectrum), 1)[0] < -3


def _cross_section(config, name):
    from distjet.simulation.generator import cross_section_pb

    return cross_section_pb(config.samples[name], config.generator, 5)


def test_library_file_serves_the_tasks(tmp_path, library):
    """A task reads the library from the disk; mu of the library's own collisions appears in the jets."""
    config = small_config(tmp_path, pileup={"mu": [30, 30], "library_events": 100}, jets={"radii": [0.4]})
    task = file_tasks(config, dict.fromkeys(config.samples, 1.0))[-1]
    save_library(library, Path(task.library))
    ((tables, weight),) = simulate_batches(task, SharedSettings.model_validate(task.settings))
    assert weight == pytest.approx(1.0)
    assert np.all(tables[0.4].columns["averageInteractionsPerCrossing"] == 30)
    assert 10 < tables[0.4].columns["nPUtrue"].mean() < 50
    assert tables[0.4].clusters[:, -1].mean() > 0.5
