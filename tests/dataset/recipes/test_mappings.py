"""Spec: the shipped mappings read real ATLAS and CMS files and JetClass branches; numbers agree with uproot alone."""

from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa
import pytest
import uproot

from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.execution import in_process
from tests.dataset.files import PROJECT, identities, pairs_of, read_all

CLASSES = ("QCD", "Hbb", "Hcc", "Hgg", "H4q", "Hqql", "Zqq", "Wqq", "Tbqq", "Tbl")


def convert(mapping: str, file: Path, output: Path, *overrides: str) -> Manifest:
    arguments = [f"inputs={{real: {file}}}", f"output={output}", *overrides]
    prepare(load(PrepareConfig, [PROJECT / f"conf/dataset/{mapping}.yaml"], arguments), in_process)
    return Manifest.load(output)


def lists(table: pa.Table, name: str) -> list[list[float]]:
    return table[name].to_pylist()


def by_identity(table: pa.Table) -> dict[tuple[int, int], dict]:
    return {(row["event"], row["jet_index"]): row for row in table.to_pylist()}


@pytest.fixture(scope="module")
def nano(real_files: Path) -> ak.Array:
    """Events of the NanoAOD file with the branches that the tests compare."""
    jets = ["Jet_pt", "Jet_eta", "Jet_rawFactor", "Jet_genJetIdx", "GenJet_pt", "FatJet_pt", "FatJet_eta", "FatJet_rawFactor"]
    candidates = ["FatJetPFCand_jetIdx", "FatJetPFCand_pfCandIdx", "PFCand_pt", "PFCand_phi", "PFCand_pdgId"]
    with uproot.open(real_files / "cms_nanoaod_ttbar.root") as file:
        return file["Events"].arrays(["event", *jets, *candidates])


class TestCms:
    @pytest.fixture(scope="class")
    @classmethod
    def ak4(cls, real_files, tmp_path_factory) -> Manifest:
        return convert("cms_nanoaod", real_files / "cms_nanoaod_ttbar.root", tmp_path_factory.mktemp("ak4") / "out")

    @pytest.fixture(scope="class")
    @classmethod
    def ak8(cls, real_files, tmp_path_factory) -> Manifest:
        return convert("cms_nanoaod_ak8", real_files / "cms_nanoaod_ttbar.root", tmp_path_factory.mktemp("ak8") / "out")

    def test_ak4_jets_have_their_raw_scale_and_generator_jets(self, nano, ak4):
        rows = by_identity(read_all(ak4))
        raw = nano.Jet_pt * (1 - nano.Jet_rawFactor)
        gen = ak.mask(nano.Jet_genJetIdx, nano.Jet_genJetIdx >= 0)
        true = nano.GenJet_pt[gen]
        keep = ak.fill_none((true > 15) & (abs(nano.Jet_eta) < 2.5), False)
        columns = [ak.broadcast_arrays(nano.event, raw)[0], ak.local_index(nano.Jet_pt), raw, true]
        event, index, raw_pt, true_pt = (ak.flatten(column[keep]).to_list() for column in columns)
        expected = dict(zip(zip(event, index, strict=True), zip(raw_pt, true_pt, strict=True), strict=True))
        assert rows.keys() == expected.keys()
        assert ak4.content["accounting"]["cuts"]["truth_matched"] == int(ak.sum(nano.Jet_genJetIdx < 0))
        for identity, pts in expected.items():
            assert (rows[identity]["jet_pt"], rows[identity]["true_pt"]) == pytest.approx(pts, rel=1e-6)

    def test_the_response_is_that_of_the_experiment(self, ak4):
        """Raw 0.90 / 0.91 / 0.91 / 0.92 and calibrated 1.01 / 1.03 / 1.03 / 1.01 in four bins of true pT, as known."""
        table = read_all(ak4)
        true = table["true_pt"].to_numpy()
        for column, expected in (("jet_pt", (0.90, 0.91, 0.91, 0.92)), ("standard_pt", (1.01, 1.03, 1.03, 1.01))):
            response = table[column].to_numpy() / true
            for low, high, median in zip((20, 40, 80, 150), (40, 80, 150, 400), expected, strict=True):
                assert np.median(response[(true > low) & (true < high)]) == pytest.approx(median, abs=0.015)

    def test_ak8_jets_are_graphs_of_their_linked_candidates(self, nano, ak8):
        rows = by_identity(read_all(ak8))
        assert len(rows) == int(ak.sum(abs(nano.FatJet_eta) < 2.5))
        for event in range(len(nano)):
            for jet in range(len(nano.FatJet_pt[event])):
                row = rows.get((int(nano.event[event]), jet))
                if row is None:
                    assert abs(nano.FatJet_eta[event][jet]) >= 2.5
                    continue
                mine = nano.FatJetPFCand_pfCandIdx[event][nano.FatJetPFCand_jetIdx[event] == jet]
                pt, phi = nano.PFCand_pt[event][mine], nano.PFCand_phi[event][mine]
                np.testing.assert_allclose(row["px"], pt * np.cos(phi), rtol=1e-5, atol=1e-5)
                assert row["is_photon"] == (nano.PFCand_pdgId[event][mine] == 22).to_list()
                assert row["num_constituents"] == len(mine)
                assert row["jet_pt"] == pytest.approx(
                    nano.FatJet_pt[event][jet] * (1 - nano.FatJet_rawFactor[event][jet]), rel=1e-6
                )
                assert row["num_nodes"] == len(mine)
                assert all(a < b < len(mine) for a, b in pairs_of(row))

    def test_the_sum_of_the_candidates_is_the_raw_jet(self, ak8):
        table = read_all(ak8)
        summed = np.array([np.hypot(np.sum(row["px"]), np.sum(row["py"])) for row in table.select(["px", "py"]).to_pylist()])
        assert np.median(summed / table["jet_pt"].to_numpy()) == pytest.approx(1, abs=0.02)


class TestAtlas:
    PREFIX = "AnalysisJetsAuxDyn."

    @pytest.fixture(scope="class")
    @classmethod
    def manifest(cls, real_files, tmp_path_factory) -> Manifest:
        return convert("atlas_physlite", real_files / "atlas_physlite.root", tmp_path_factory.mktemp("atlas") / "out")

    def test_columns_equal_a_direct_reading(self, manifest, real_files):
        with uproot.open(real_files / "atlas_physlite.root") as file:
            tree = file["CollectionTree"]
            read = {
                name: tree[self.PREFIX + name].array()
                for name in ("JetConstitScaleMomentum_pt", "EnergyPerSampling", "NumTrkPt1000", "pt")
            }
            events = tree["EventInfoAuxDyn.eventNumber"].array().to_list()
            weights = tree["EventInfoAuxDyn.mcEventWeights"].array()[:, 0]
        entry = {event: number for number, event in enumerate(events)}
        for (event, jet), row in by_identity(read_all(manifest)).items():
            here = entry[event]
            assert row["jet_pt"] == pytest.approx(read["JetConstitScaleMomentum_pt"][here][jet] / 1000, rel=1e-6)
            assert row["standard_pt"] == pytest.approx(read["pt"][here][jet] / 1000, rel=1e-6)
            assert row["num_tracks"] == read["NumTrkPt1000"][here][jet][0]
            sampling = read["EnergyPerSampling"][here][jet]
            assert row["tile0_fraction"] == pytest.approx(
                (sampling[12] + sampling[18]) / 1000 / row["jet_energy"], rel=1e-4, abs=1e-6
            )
            assert row["weight"] == pytest.approx(weights[here])

    def test_truth_jets_are_the_nearest_and_taken_once(self, manifest, real_files):
        with uproot.open(real_files / "atlas_physlite.root") as file:
            truth = {
                name: file["CollectionTree"][f"AntiKt4TruthDressedWZJetsAux.{name}"].array() for name in ("pt", "eta", "phi")
            }
            events = file["CollectionTree"]["EventInfoAuxDyn.eventNumber"].array().to_list()
        entry = {event: number for number, event in enumerate(events)}
        taken = set()
        for (event, _), row in by_identity(read_all(manifest)).items():
            here = entry[event]
            number = int(np.argmin(abs(truth["pt"][here] / 1000 - row["true_pt"])))
            assert truth["pt"][here][number] / 1000 == pytest.approx(row["true_pt"], rel=1e-6)
            turn = np.angle(np.exp(1j * (truth["phi"][here][number] - row["jet_phi"])))
            assert np.hypot(truth["eta"][here][number] - row["jet_eta"], turn) < 0.3
            assert (event, number) not in taken
            taken.add((event, number))
        assert len(taken) > 200

    def test_the_response_is_that_of_the_experiment(self, manifest):
        """Calibrated 1.03 / 0.99 / 1.05 / 0.97 and constituent scale 1.00 / 0.93 / 1.00 / 0.91, as known; 222 jets."""
        table = read_all(manifest)
        true = table["true_pt"].to_numpy()
        for column, expected in (("standard_pt", (1.03, 0.99, 1.05, 0.97)), ("jet_pt", (1.00, 0.93, 1.00, 0.91))):
            response = table[column].to_numpy() / true
            for low, high, median in zip((20, 40, 80, 150), (40, 80, 150, 400), expected, strict=True):
                assert np.median(response[(true > low) & (true < high)]) == pytest.approx(median, abs=0.03)

    def test_jets_without_constituents_have_no_graph_columns(self, manifest):
        assert manifest.names("p4") == manifest.names("node") == manifest.names("edge") == ()
        assert manifest.shards("train")[0].nodes == 0


class TestJetClass:
    @pytest.fixture(scope="class")
    @classmethod
    def jets(cls, real_files) -> dict[str, np.ndarray]:
        with np.load(real_files / "jetclass_500.npz") as archive:
            return dict(archive)

    @pytest.fixture(scope="class")
    @classmethod
    def file(cls, jets, tmp_path_factory) -> Path:
        """The 500 real jets under the branch names of the JetClass files."""
        counts = jets["mask"].reshape(500, -1).sum(axis=1).astype(int)
        real = jets["mask"].reshape(500, -1).astype(bool)
        names = ("part_px", "part_py", "part_pz", "part_energy")
        flat = {name: jets["vectors"][:, i][real] for i, name in enumerate(names)}
        flat |= {name: jets["points"][:, i][real] for i, name in enumerate(("part_deta", "part_dphi"))}
        px, py, pz, energy = (np.where(real, jets["vectors"][:, i], 0).sum(axis=1, dtype=np.float64) for i in range(4))
        branches = {name: ak.unflatten(values.astype("f4"), counts) for name, values in flat.items()}
        jet = {
            "jet_pt": np.hypot(px, py),
            "jet_eta": np.arcsinh(pz / np.hypot(px, py)),
            "jet_phi": np.arctan2(py, px),
            "jet_energy": energy,
        }
        branches |= {name: values.astype("f4") for name, values in jet.items()}
        branches |= {f"label_{name}": jets["label"] == number for number, name in enumerate(CLASSES)}
        path = tmp_path_factory.mktemp("jetclass") / "jets.root"
        with uproot.recreate(path) as out:
            out.mktree("tree", {name: ak.type(ak.Array(values)).content for name, values in branches.items()})
            out["tree"].extend(branches)
        return path

    def test_features_are_those_of_the_published_network(self, jets, file, tmp_path):
        table = read_all(convert("jetclass", file, tmp_path / "out"))
        assert table.num_rows == 500
        for (_, _, entry, _), row in zip(identities(table), table.to_pylist(), strict=True):
            real = jets["mask"][entry].reshape(-1).astype(bool)
            px, py, _, energy = jets["vectors"][entry][:, real].astype(np.float64)
            deta, dphi = jets["points"][entry][:, real]
            pt, jet_pt = np.hypot(px, py), np.hypot(px.sum(), py.sum())
            expected = {
                "part_pt_log": (np.log(pt) - 1.7) * 0.7,
                "part_e_log": (np.log(energy) - 2) * 0.7,
                "part_logptrel": (np.log(pt / jet_pt) + 4.7) * 0.7,
                "part_logerel": (np.log(energy / energy.sum()) + 4.7) * 0.7,
                "part_deltaR": (np.hypot(deta, dphi) - 0.2) * 4,
                "part_deta": deta,
                "part_dphi": dphi,
            }
            for name, values in expected.items():
                np.testing.assert_allclose(row[name], np.clip(values, -5, 5), atol=1e-4)
            assert row["label"] == jets["label"][entry]

    def test_classes_are_counted(self, jets, file, tmp_path):
        manifest = convert("jetclass", file, tmp_path / "out", "split={train: 1.0, val: 0.0}")
        assert manifest.classes == CLASSES
        assert list(manifest.class_counts.values()) == np.bincount(jets["label"], minlength=10).tolist()
        assert np.array(manifest.histogram("pt_mass")["counts"]).shape[0] == 10

    @pytest.mark.parametrize("name", ["jets_ttree_zstd.root", "jets_rntuple_zstd.root"])
    def test_the_full_mapping_reads_files_written_by_root(self, tmp_path, name):
        path = PROJECT / "tests/data" / name
        manifest = convert("jetclass_full", path, tmp_path / "out", "recipe.labels=null")
        assert sum(manifest.content["rows"].values()) == 300
        assert len(manifest.names("node")) == 17
        with uproot.open(path) as file:
            d0 = file["tree"]["part_d0val"].array()
        row = read_all(manifest).to_pylist()[0]
        np.testing.assert_allclose(row["part_d0"], np.tanh(d0[row["event"]]), atol=1e-6)
