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
from distjet.simulation.generator import cross_section_pb, generate, process_settings, start_pythia
from distjet.simulation.ntuple import concatenate
from distjet.simulation.pileup import save_library, simulate_library
from distjet.simulation.readout import Detector
from distjet.simulation.samples import GeneratorConfig, SampleConfig, SharedSettings, file_tasks, tree_name
from distjet.simulation.simulate import simulate_batches

from .conftest import small_config

QUIET = SharedSettings.model_validate({"pileup": {"mu": [0, 0]}, "jets": {"constituents": ["topo", "pflow"]}})
TOPO, PFLOW = "AntiKt4EMTopoJets", "AntiKt4EMPFlowJets"


def generated(pthat_min_gev, num_events, seed=3):
    sample = SampleConfig(pthat_min_gev=pthat_min_gev, pthat_max_gev=2.5 * pthat_min_gev, num_events=num_events)
    settings = process_settings(sample, GeneratorConfig())
    return list(generate(start_pythia(settings, 13600.0, seed), num_events))


@pytest.fixture(scope="module")
def quiet_jets():
    """Jets without pileup from two slices, by tree, and the events they come from."""
    detector = Detector(QUIET, None, np.random.default_rng(1))
    batches = [*generated(25, 200), *generated(150, 100)]
    tables = [reconstruction.reconstruct(events, detector.record(events.particles), QUIET.jets) for events in batches]
    for number, table in enumerate(tables):
        for jets in table.values():
            jets.columns["event"] += 1000 * number
    return {tree: concatenate([table[tree] for table in tables]).columns for tree in tables[0]}, batches


@pytest.mark.parametrize("radius", [0.2, 0.4])
def test_isolated_truth_jets_are_found(quiet_jets, radius):
    tables, batches = quiet_jets
    jets = tables[tree_name(radius, "topo")]
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


def responses(jets, low, high, max_abs_eta=1.2):
    """Reconstructed over true pT of isolated central jets in a range of true pT."""
    good = jets["jet_isTruthMatched"] & jets["jet_isIsolated"] & jets["truthjet_isIsolated"]
    chosen = good & (np.abs(jets["jet_eta"]) < max_abs_eta) & (jets["truthjet_pt"] > low) & (jets["truthjet_pt"] < high)
    assert chosen.sum() > 20
    return jets["jet_pt"][chosen] / jets["truthjet_pt"][chosen]


def relative_width(response):
    q16, q50, q84 = np.quantile(response, [0.16, 0.5, 0.84])
    return (q84 - q16) / (2 * q50)


def test_response_is_low_and_rises_with_pt(quiet_jets):
    medians = [np.median(responses(quiet_jets[0][TOPO], *bounds)) for bounds in ((15, 40), (40, 120), (150, 500))]
    assert 0.55 < medians[0] < medians[1] < medians[2] < 0.9
    assert medians[2] - medians[0] > 0.05


def test_particle_flow_measures_soft_jets_better(quiet_jets):
    topo, pflow = (responses(quiet_jets[0][tree], 15, 50, 2.0) for tree in (TOPO, PFLOW))
    assert relative_width(pflow) < 0.9 * relative_width(topo)
    assert np.median(topo) + 0.1 < np.median(pflow) < 1.0


def test_leading_jets_are_labelled_with_their_parton(quiet_jets):
    jets = quiet_jets[0][TOPO]
    leading = jets["jet_isTruthMatched"] & (jets["truthjet_pt"] > 100)
    assert np.mean(jets["truthjet_flavour"][leading] > 0) > 0.7
    assert {21, 1, 2} <= set(jets["truthjet_flavour"][leading].tolist())


def test_charged_fraction_is_about_two_thirds(quiet_jets):
    jets = quiet_jets[0][TOPO]
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
    pileup = {"mu": [0, 60], "library_events": 300, "process": "non_diffractive"}
    settings = SharedSettings.model_validate({"pileup": pileup, "jets": {"constituents": ["topo", "pflow"]}})
    detector = Detector(settings, simulate_library(settings), np.random.default_rng(1))
    (events,) = generated(60, 100)
    return detector.record(events.particles)


def test_pileup_density_grows_with_the_number_of_collisions(busy_readout):
    clusters = busy_readout.constituents["topo"]
    rho = grid_median_rho(pt(clusters.momenta()), clusters["eta"], clusters["phi"], clusters.offsets)
    assert np.polyfit(busy_readout.num_pileup, rho, 1)[0] > 0.05
    bins = np.digitize(busy_readout.num_pileup, [10, 20, 30, 40, 50])
    means = [rho[bins == number].mean() for number in range(6)]
    assert np.corrcoef(np.arange(6), means)[0, 1] > 0.8


def pileup_energy(constituents, low, high):
    """True pileup energy in GeV of all constituents in a range of |eta|, and its share of the whole."""
    chosen = (np.abs(constituents["eta"]) > low) & (np.abs(constituents["eta"]) < high)
    energy, from_pileup = constituents["E"][chosen], constituents["fPU"][chosen]
    return (energy * from_pileup).sum(), (energy * from_pileup).sum() / energy.sum()


def test_particle_flow_removes_charged_pileup_where_there_are_tracks(busy_readout):
    topo, pflow = (busy_readout.constituents[kind] for kind in ("topo", "pflow"))
    (topo_gev, topo_share), (pflow_gev, pflow_share) = (pileup_energy(kind, 0.0, 2.4) for kind in (topo, pflow))
    assert pflow_gev < 0.8 * topo_gev
    assert pflow_share < 0.8 * topo_share
    assert pileup_energy(pflow, 3.0, 5.0) == pytest.approx(pileup_energy(topo, 3.0, 5.0), rel=1e-5)
    tracks = pflow["charge"] != 0
    assert set(pflow["fPU"][tracks]) == {0.0, 1.0}
    assert 0 < np.average(pflow["fPU"][tracks], weights=pflow["pt"][tracks]) < 0.5 * topo_share  # vertices within 2 mm


def test_events_without_pileup_have_no_pileup_energy(quiet_jets):
    for events in quiet_jets[1][:1]:
        constituents = Detector(QUIET, None, np.random.default_rng(2)).record(events.particles).constituents
        assert all(np.all(kind["fPU"] == 0) for kind in constituents.values())


def test_vertices_grow_with_pileup_but_slower(busy_readout):
    busy = busy_readout.num_pileup > 10
    assert np.corrcoef(busy_readout.num_pileup, busy_readout.num_vertices)[0, 1] > 0.9
    assert np.all(busy_readout.num_vertices[busy] <= busy_readout.num_pileup[busy] + 1)


def test_both_density_estimators_rise_together(busy_readout):
    clusters = busy_readout.constituents["topo"]
    p4, offsets = clusters.momenta(), clusters.offsets
    grid = grid_median_rho(pt(p4), clusters["eta"], clusters["phi"], offsets)[:30]
    from_jets = [kt_median_rho(p4[first:last]) for first, last in itertools.pairwise(offsets[:31])]
    assert np.corrcoef(grid, from_jets)[0, 1] > 0.9


def assert_smooth(value, weight, bins):
    """Assert that a weighted spectrum follows a parabola in logarithms; no bin and no step between two is off by 3 sigma."""
    spectrum, _ = np.histogram(value, bins, weights=weight)
    relative = np.sqrt(np.histogram(value, bins, weights=weight**2)[0]) / spectrum
    centres = np.log(np.sqrt(bins[1:] * bins[:-1]))
    fit = np.polyfit(centres, np.log(spectrum), 2, w=1 / relative)
    residuals = np.log(spectrum) - np.polyval(fit, centres)
    assert np.all(np.abs(residuals / relative) < 3)
    assert np.all(np.abs(np.diff(residuals) / np.hypot(relative[1:], relative[:-1])) < 3), "neighbouring bins jump"
    assert -6.5 < np.polyfit(centres, np.log(spectrum), 1)[0] < -3


def test_slices_of_the_hard_process_stitch():
    """Slices weighted with their cross-sections make one spectrum of pT-hat, here without showers; bins lie over the edges."""
    config = GeneratorConfig(extra_settings=("PartonLevel:all = off",))
    edges, num_events = [20, 40, 80, 160], 4000
    values, weights = [], []
    for low, high in itertools.pairwise(edges):
        sample = SampleConfig(pthat_min_gev=low, pthat_max_gev=high, num_events=num_events)
        pythia = start_pythia(process_settings(sample, config), 13600.0, 5)
        values += [events.pthat_gev for events in generate(pythia, num_events)]
        weights.append(np.full(num_events, cross_section_pb(sample, config, 7) / num_events))
    assert_smooth(np.concatenate(values), np.concatenate(weights), np.geomspace(24, 140, 11))


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
        table[TOPO].columns
        for task in tasks
        for table, _ in simulate_batches(replace(task, path=""), SharedSettings.model_validate(task.settings))
    ]
    leading = np.concatenate([c["leading_truth_pt"][c["jet_index"] == 0] for c in columns])
    weight = np.concatenate([c["mcEventWeight"][c["jet_index"] == 0] for c in columns])
    assert_smooth(leading, weight, np.geomspace(50, 250, 9))


def _cross_section(config, name):
    return cross_section_pb(config.samples[name], config.generator, 5)


def test_library_file_serves_the_tasks(tmp_path, library):
    """A task reads the library from the disk; mu of the library's own collisions appears in the jets."""
    config = small_config(tmp_path, pileup={"mu": [30, 30], "library_events": 100}, jets={"radii": [0.4]})
    task = file_tasks(config, dict.fromkeys(config.samples, 1.0))[-1]
    save_library(library, Path(task.library))
    ((tables, weight),) = simulate_batches(task, SharedSettings.model_validate(task.settings))
    assert weight == pytest.approx(1.0)
    assert np.all(tables[TOPO].columns["averageInteractionsPerCrossing"] == 30)
    assert 10 < tables[TOPO].columns["nPUtrue"].mean() < 50
    assert tables[TOPO].constituents["fPU"].mean() > 0.5
