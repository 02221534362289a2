"""Do the shipped samples for taggers look as they should, and do their mappings make datasets of them?"""

from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot
from scipy import stats

from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.execution import in_process
from distjet.physics.kinematics import to_cartesian
from distjet.simulation.labels import LABELS
from distjet.simulation.samples import SimulateConfig
from distjet.simulation.simulate import simulate

CONF = Path(__file__).parents[2] / "conf"
KINEMATICS = ["delta_eta", "delta_phi", "log_pt", "log_energy", "log_pt_fraction", "log_energy_fraction", "delta_r"]


def simulated(name, output, num_events, overrides=()):
    """Run the named samples of a shipped configuration, with fewer events; return its configuration."""
    config = load(SimulateConfig, [CONF / f"simulation/{name}.yaml"], [f"output={output}", *overrides])
    samples = {sample: config.samples[sample].model_copy(update={"num_events": num}) for sample, num in num_events.items()}
    generator = config.generator.model_copy(update={"cross_section_trials": 500})
    config = config.model_copy(update={"samples": samples, "generator": generator})
    simulate(config, in_process)
    return config


def jets_of(config, tree):
    """Read the jets of each sample, with awkward arrays for the constituents."""
    return {name: uproot.concatenate(f"{config.output / name}/*.root:{tree}") for name in config.samples}


def dataset_of(config, recipe, folder, overrides=()):
    """Prepare a run with a shipped mapping: the manifest and all rows."""
    paths = [f"inputs={config.output}", f"output={folder}", *overrides]
    prepare(load(PrepareConfig, [CONF / f"dataset/{recipe}.yaml"], paths), in_process)
    manifest = Manifest.load(folder)
    assert manifest.content["accounting"]["quarantined"] == 0
    shards = [shard.path for split in ("train", "val", "test") for shard in manifest.shards(split)]
    return manifest, pa.concat_tables([pq.read_table(folder / path) for path in shards])


def labelled(jets, *names):
    return np.isin(jets.truthjet_label.to_numpy(), [LABELS[name] for name in names])


@pytest.fixture(scope="module")
def top_landscape(tmp_path_factory):
    return simulated("top_landscape", tmp_path_factory.mktemp("top"), {"top": 350, "qcd": 180})


def test_top_jets_have_the_mass_of_the_top_quark_and_qcd_jets_have_not(top_landscape):
    jets = jets_of(top_landscape, "AntiKt8EFlowJets")
    for sample in jets.values():
        assert np.all((sample.jet_pt > 550) & (abs(sample.jet_eta) < 2.0) & sample.jet_isTruthMatched)
        assert np.median(sample.jet_pt / sample.truthjet_pt) == pytest.approx(1.0, abs=0.02)
        assert np.all(sample.averageInteractionsPerCrossing == 0)
    whole = jets["top"][labelled(jets["top"], "top_bqq", "top_bcq")]
    others = jets["top"][~labelled(jets["top"], "top_bqq", "top_bcq")]
    assert len(whole) > 80
    assert np.median(whole.jet_m) == pytest.approx(173, abs=4)
    assert np.mean(abs(whole.jet_m - 173) < 25) > 0.75
    assert np.mean(abs(others.jet_m - 173) < 25) < 0.5
    assert np.all(labelled(jets["qcd"], "QCD_light", "QCD_c", "QCD_b", "QCD_g", "none"))
    assert 40 < np.median(jets["qcd"].jet_m) < 110
    assert 45 < np.mean(whole.npart) < 56
    assert 34 < np.mean(jets["qcd"].npart) < 45
    assert max(np.max(sample.npart) for sample in jets.values()) <= 200


def test_jets_are_the_sum_of_their_objects(top_landscape):
    jets = jets_of(top_landscape, "AntiKt8EFlowJets")["top"]
    pt, eta, phi = (np.asarray(ak.flatten(jets[f"part_{name}"]), np.float64) for name in ("pt", "eta", "phi"))
    total = np.add.reduceat(to_cartesian(pt, eta, phi), np.cumsum([0, *jets.npart.tolist()[:-1]]))
    np.testing.assert_allclose(jets.jet_E.to_numpy(), total[:, 3], rtol=1e-5)
    np.testing.assert_allclose(jets.jet_pt.to_numpy(), np.hypot(total[:, 0], total[:, 1]), rtol=1e-5)
    charged = ak.sum(jets.part_pt[jets.part_charge != 0], axis=1) / jets.jet_pt
    assert 0.5 < np.median(charged) < 0.7
    charge, species = (np.asarray(ak.flatten(jets[f"part_{name}"])) for name in ("charge", "pdg"))
    np.testing.assert_array_equal(charge == 0, np.isin(species, [22, 130]))


def test_top_landscape_becomes_a_dataset(top_landscape, tmp_path):
    manifest, table = dataset_of(top_landscape, "distjet_top_landscape", tmp_path / "dataset")
    assert manifest.content["classes"] == ["QCD", "top"]
    is_top = table["label"].to_numpy() == 1
    assert min(is_top.sum(), (~is_top).sum()) > 50
    assert np.all((table["jet_pt"].to_numpy() > 550) & (table["jet_pt"].to_numpy() < 650))
    assert set(table.column_names) >= {*KINEMATICS, "truth_label", "true_pt"}
    assert "edges" not in table.column_names
    assert np.isin(table["truth_label"].to_numpy()[is_top], [40, 41]).all()
    delta_r, eta, phi = (np.concatenate(table[name].to_pylist()) for name in ("delta_r", "delta_eta", "delta_phi"))
    np.testing.assert_allclose(delta_r, np.hypot(eta, phi), rtol=1e-5, atol=1e-6)
    assert np.percentile(delta_r, 99) < 0.85


@pytest.fixture(scope="module")
def quark_gluon(tmp_path_factory):
    return simulated(
        "quark_gluon",
        tmp_path_factory.mktemp("qg"),
        {"quark": 300, "gluon": 300},
        ["jets.constituents=[eflow,truth]", 'generator.extra_settings=["PartonLevel:MPI = off"]'],
    )


@pytest.mark.parametrize("tree", ["AntiKt4EFlowJets", "AntiKt4TruthJets"])
def test_gluon_jets_have_more_constituents_than_quark_jets(quark_gluon, tmp_path, tree):
    manifest, table = dataset_of(quark_gluon, "distjet_quark_gluon", tmp_path / "dataset", [f"recipe.tree={tree}"])
    assert manifest.content["classes"] == ["gluon", "quark"]
    label, num_nodes = table["label"].to_numpy(), table["num_nodes"].to_numpy()
    gluon, quark = (num_nodes[label == number] for number in (0, 1))
    assert min(len(gluon), len(quark)) > 30
    assert np.mean(gluon) > 1.2 * np.mean(quark)
    assert set(table["flavour"].to_numpy()[label == 1].tolist()) <= {1, 2, 3}
    for name, samples in jets_of(quark_gluon, tree).items():
        known = samples.truthjet_flavour[samples.truthjet_flavour > 0]
        assert np.mean((known == 21) == (name == "gluon")) > 0.95
        assert "truthjet_label" not in samples.fields


def test_jets_of_stable_particles_are_the_truth_jets(quark_gluon):
    for jets in jets_of(quark_gluon, "AntiKt4TruthJets").values():
        for name in ("pt", "eta", "phi", "m"):
            np.testing.assert_allclose(jets[f"jet_{name}"], jets[f"truthjet_{name}"], rtol=2e-3, atol=1e-4)
        assert np.isin(211, abs(ak.flatten(jets.part_pdg)))


@pytest.fixture(scope="module")
def flat_mass(tmp_path_factory):
    events = {"xbb": 250, "xcc": 250, "xqq": 250, "qcd_1": 60, "qcd_4": 60}
    return simulated("flat_mass", tmp_path_factory.mktemp("flat"), events)


def test_masses_of_the_gun_are_flat_and_their_jets_have_them(flat_mass):
    jets = jets_of(flat_mass, "AntiKt8EFlowJets")
    for name, label in (("xbb", "H_bb"), ("xcc", "H_cc"), ("xqq", "H_qq")):
        own = jets[name][labelled(jets[name], label)]
        assert len(own) > 0.6 * len(jets[name]) > 100
        assert stats.kstest(own.jet_m[own.jet_m < 150], stats.uniform(15, 135).cdf).statistic < 0.2
        assert np.percentile(own.jet_m, 95) > 170
        assert stats.kstest(own.pthat, stats.uniform(450, 550).cdf).statistic < 0.2
        assert np.median(own.jet_pt / own.pthat) == pytest.approx(1.0, abs=0.1)


def test_the_flat_sample_becomes_a_dataset(flat_mass, tmp_path):
    manifest, table = dataset_of(flat_mass, "distjet_flat_mass", tmp_path / "dataset")
    assert manifest.content["classes"] == ["QCD", "Xbb", "Xcc", "Xqq"]
    assert np.bincount(table["label"].to_numpy()).min() > 50
    one = "recipe.labels={X: is_x, Xbb: null, Xcc: null, Xqq: null}"
    assert dataset_of(flat_mass, "distjet_flat_mass", tmp_path / "one", [one])[0].content["classes"] == ["QCD", "X"]


def test_without_hadrons_there_are_partons(tmp_path):
    overrides = ["jets.constituents=[truth]", "samples.top.hadronisation=false", "samples.qcd.hadronisation=false"]
    config = simulated("top_landscape", tmp_path, {"top": 100, "qcd": 60}, overrides)
    jets = jets_of(config, "AntiKt8TruthJets")
    whole = jets["top"][labelled(jets["top"], "top_bqq", "top_bcq")]
    assert np.median(whole.jet_m) == pytest.approx(172, abs=5)
    for sample in jets.values():
        species = abs(ak.flatten(sample.part_pdg)).to_numpy()
        assert set(species.tolist()) <= {1, 2, 3, 4, 5, 21, 22}
        assert np.mean(sample.npart) < 40


@pytest.mark.slow
def test_boosted_particles_with_pileup_become_a_dataset(tmp_path):
    events = dict.fromkeys(("qcd_2", "wjet_2", "zjet_2", "hbb_2", "hcc_2", "top_2"), 50)
    overrides = ["pileup.library_events=50", "pileup.process=non_diffractive", "pileup.mu=[0,20]"]
    config = simulated("boosted_tagging", tmp_path / "ntuples", events, overrides)
    _, table = dataset_of(config, "distjet_boosted", tmp_path / "dataset")
    label, true_mass = table["label"].to_numpy(), table["true_mass"].to_numpy()
    assert np.bincount(label, minlength=5).min() > 10
    for number, mass_gev in ((1, 80.4), (2, 91.2), (3, 125.0), (4, 172.5)):  # and more of the rest of the event
        assert 0.95 * mass_gev < np.median(true_mass[label == number]) < 1.5 * mass_gev
    assert table["mu"].to_numpy().max() > 5
