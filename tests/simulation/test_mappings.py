"""Do the shipped mappings turn the simulation's trees into datasets?"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distjet.config import load
from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.execution import in_process
from distjet.simulation.simulate import simulate

from .conftest import small_config

CONF = Path(__file__).parents[2] / "conf/dataset"
OF_THE_CHAIN = {
    "detector_eta", "num_vertices", "num_interactions", "rho", "area", "charged_fraction", "had1_fraction_jet",
    "em_fraction_jet", "num_tracks", "track_width", "num_segments",
}  # fmt: skip
"What the calibrations of jets read; written out a second time on purpose."


@pytest.fixture(scope="module")
def ntuples(tmp_path_factory):
    samples = {"boosted": {"process": "w_jet", "pthat_min_gev": 300, "num_events": 25}}
    jets = {"radii": [0.2, 0.4, 1.0], "constituents": ["topo", "pflow"], "min_pt_gev": 0}
    config = small_config(tmp_path_factory.mktemp("ntuples"), samples=samples, events_per_task=25, jets=jets)
    simulate(config, in_process)
    return config.output


def table_of(ntuples, folder, changes):
    files = [CONF / "distjet.yaml", *(CONF / f"{name}.yaml" for name in changes)]
    prepare(load(PrepareConfig, files, [f"inputs={ntuples}", f"output={folder}"]), in_process)
    manifest = Manifest.load(folder)
    assert manifest.content["accounting"]["quarantined"] == 0
    shards = [shard.path for split in ("train", "val", "test") for shard in manifest.shards(split)]
    return pa.concat_tables([pq.read_table(folder / path) for path in shards])


@pytest.mark.parametrize("changes", [(), ("distjet_r04",), ("distjet_r10",), ("distjet_pflow",)], ids=str)
def test_a_mapping_makes_a_dataset(ntuples, tmp_path, changes):
    table = table_of(ntuples, tmp_path / "dataset", changes)
    assert len(table) > 10
    assert set(table.column_names) >= OF_THE_CHAIN
    jet = {name: table[name].to_numpy() for name in OF_THE_CHAIN | {"jet_eta"}}
    np.testing.assert_array_equal(jet["detector_eta"], jet["jet_eta"])
    shares = jet["em_fraction_jet"] + jet["had1_fraction_jet"]
    assert np.all((shares > 0) & (shares < 1 + 1e-6))


def test_particle_flow_jets_have_tracks_and_large_jets_more_nodes(ntuples, tmp_path):
    small, large = (table_of(ntuples, tmp_path / name, (name,)) for name in ("distjet_pflow", "distjet_r10"))
    charge = np.concatenate(small["charge"].to_pylist())
    assert set(charge) == {-1.0, 0.0, 1.0}
    assert 0.3 < np.mean(charge != 0) < 0.9
    assert np.median(small["num_nodes"].to_numpy()) > 10
    assert np.median(large["num_nodes"].to_numpy()) > 15
    assert np.all(large["true_pt"].to_numpy() > 150)
