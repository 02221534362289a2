"""Events of calibrated constituents: all constituents scaled alike give the same jets with scaled energies, by FastJet."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from distjet.application.events import Events, EventTask, find_jets, join_tables, match_jets
from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.errors import DataError
from distjet.execution import in_process
from distjet.physics.clustering import Jets, cluster
from distjet.physics.kinematics import to_cartesian, to_cylindrical

SCALE = 1.25
NUM_EVENTS = 40


def make_events() -> tuple[np.ndarray, np.ndarray]:
    """Constituents around three axes in each event."""
    rng = np.random.default_rng(5)
    counts = rng.integers(20, 40, NUM_EVENTS)
    axis = (np.repeat(np.arange(NUM_EVENTS) * 3, counts) + rng.integers(0, 3, counts.sum())).astype(int)
    axes = rng.uniform(-2, 2, 3 * NUM_EVENTS), rng.uniform(-3, 3, 3 * NUM_EVENTS)
    eta, phi = (values[axis] + rng.normal(0, 0.15, counts.sum()) for values in axes)
    return to_cartesian(rng.exponential(8, counts.sum()) + 0.5, eta, phi), np.concatenate([[0], np.cumsum(counts)])


def write_predictions(path: Path, jets: Jets, p4: np.ndarray) -> None:
    """Write R = 0.2 jets as `distjet predict` does, in any order, with all constituents scaled."""
    event = np.repeat(np.arange(NUM_EVENTS), np.diff(jets.event_offsets))
    columns = {"run": np.full(jets.num_jets, 4), "event": 100 + event}
    table = pa.table(columns)
    for number, name in enumerate(("px", "py", "pz", "energy")):
        values = pa.array((SCALE * p4[jets.constituents, number]).astype(np.float32))
        lists = pa.ListArray.from_arrays(pa.array(jets.constituent_offsets, pa.int32()), values)
        table = table.append_column(f"gnn_constituent_{name}", lists)
    pq.write_table(table.take(np.random.default_rng(2).permutation(table.num_rows)), path)


def prepare_reference(folder: Path, jets: Jets) -> Manifest:
    """Make a dataset of R = 0.4 jets above 20 GeV, whose truth is what the constituents will be scaled to."""
    pt, eta, phi, mass = to_cylindrical(jets.p4)
    event = 100 + np.repeat(np.arange(NUM_EVENTS), np.diff(jets.event_offsets))
    numbers = {"pt": pt, "eta": eta, "phi": phi, "m": mass, "true_pt": SCALE * pt, "true_m": SCALE * mass}
    arrays = {"event": event, "index": np.arange(len(pt)), **{name: v.astype(np.float32) for name, v in numbers.items()}}
    (folder / "toy").mkdir(parents=True)
    with uproot.recreate(folder / "toy/jets.root") as file:
        file.mktree("jets", {name: v.dtype for name, v in arrays.items()}).extend(arrays)
    recipe = {
        "tree": "jets",
        "identity": {"run": "4", "event": "event", "jet_index": "index"},
        "jet": {"pt": "pt", "eta": "eta", "phi": "phi", "mass": "m"},
        "truth": {"pt": "true_pt", "eta": "eta", "phi": "phi", "mass": "true_m"},
        "cuts": {"hard": "jet_pt > 20"},
        "spectators": {"mu": "30"},
    }
    split = {"train": 0.4, "val": 0.1}
    config = {"inputs": str(folder / "toy"), "output": str(folder / "dataset"), "recipe": recipe, "split": split}
    prepare(PrepareConfig.model_validate(config), in_process)
    return Manifest.load(folder / "dataset")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> EventTask:
    folder = tmp_path_factory.mktemp("events")
    p4, offsets = make_events()
    write_predictions(folder / "p.parquet", cluster(p4, offsets, 0.2, 0.0), p4)
    manifest = prepare_reference(folder, cluster(p4, offsets, 0.4, 0.0))
    places = {"predictions": str(folder / "p.parquet"), "dataset": str(manifest.path), "output": str(folder / "found.parquet")}
    return EventTask(sample="toy", name="gnn", radius=0.4, min_pt_gev=1.0, splits=("test",), **places)


def test_jets_of_scaled_constituents_are_scaled_jets(task: EventTask) -> None:
    record = find_jets(task)
    table = pq.read_table(task.output)
    assert record == {"jets": table.num_rows, "far": 0, "without_jets": 0, "lost_constituents": 0}
    assert table.num_rows == Manifest.load(task.dataset).num_rows("test") > 20
    for name in ("energy", "pt", "mass"):
        raw, mine = (table[f"{method}_{name}"].to_numpy() for method in ("raw", "gnn"))
        np.testing.assert_allclose(mine, SCALE * raw, rtol=1e-3, atol=0.02 if name == "mass" else 0)  # of float32 momenta
        if name != "mass":
            np.testing.assert_allclose(table[f"true_{name}"].to_numpy(), mine, rtol=1e-4)
    np.testing.assert_allclose(table["gnn_rapidity"].to_numpy(), table["true_rapidity"].to_numpy(), atol=1e-4)
    assert {"run", "event", "jet_index", "sample", "weight", "mu"} <= set(table.column_names)


def test_several_splits_and_tables_are_put_together(task: EventTask, tmp_path: Path) -> None:
    parts = [
        dataclasses.replace(task, splits=(split,), output=str(tmp_path / f"{split}.parquet")) for split in ("train", "test")
    ]
    rows = sum(find_jets(part)["jets"] for part in parts)
    assert join_tables([Path(part.output) for part in parts], tmp_path / "all.parquet") == rows
    assert pq.read_table(tmp_path / "all.parquet").num_rows == rows


def test_a_jet_far_from_all_others_takes_the_nearest_and_an_event_without_jets_none() -> None:
    p4 = to_cartesian([50.0, 30.0], [0.0, 2.0], [0.0, 0.0])
    events = Events(np.array([1, 1]), np.array([1, 2]), p4, np.array([0, 2, 2]), 0)
    jets = pa.table({"run": [1, 1], "event": [1, 2], "true_eta": [1.5, 0.0], "true_phi": [0.0, 0.0]})
    found, is_far = match_jets(events, jets, 0.4, 1.0)
    np.testing.assert_allclose(found[0], p4[1])
    assert np.isnan(found[1]).all()
    assert is_far.tolist() == [True, True]


def test_constituents_without_a_calibration_are_counted_and_other_samples_refused(task: EventTask, tmp_path: Path) -> None:
    table = pq.read_table(task.predictions)
    lists = table["gnn_constituent_energy"].to_pylist()
    lists[0] = [float("nan")] * len(lists[0])
    place = table.column_names.index("gnn_constituent_energy")
    changed = table.set_column(place, "gnn_constituent_energy", pa.array(lists, pa.list_(pa.float32())))
    pq.write_table(changed, tmp_path / "p.parquet")
    places = {"predictions": str(tmp_path / "p.parquet"), "output": str(tmp_path / "o.parquet")}
    assert find_jets(dataclasses.replace(task, **places))["lost_constituents"] == len(lists[0])
    with pytest.raises(DataError, match="no jet of the sample 'other'"):
        find_jets(dataclasses.replace(task, sample="other", **places))
