"""Every jet of the input is in the output, in its order, calibrated as the evaluation has it, or with the reason why not."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from distjet.application.jets import NO_CONSTITUENT
from distjet.application.predict import calibrate_file, predict
from distjet.application.settings import PredictConfig
from distjet.cli import run_verb
from distjet.cluster.dask import executor
from distjet.cluster.settings import TasksConfig
from distjet.dataset.manifest import Manifest
from distjet.errors import ConfigError, DataError
from distjet.execution import in_process
from distjet.physics.kinematics import mass, sum_groups
from distjet.run_directory import read_json
from distjet.training.prediction_table import write_predictions
from tests.dataset.files import TREE, random_ntuple, write_ntuple

BROKEN = 7
"A jet of which a cluster's number is no number."


@pytest.fixture(scope="module")
def ntuples(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two files of the same name; without truth, and with jets that cannot be calibrated."""
    base, paths = tmp_path_factory.mktemp("ntuples"), []
    for seed, folder in enumerate(("a/data", "b/data")):
        arrays = random_ntuple(150, seed, first_event=1000 * seed)
        arrays = {name: values for name, values in arrays.items() if not name.startswith("truth")}
        arrays["jet_TrackWidthPt1000"][BROKEN] = np.nan
        paths.append(write_ntuple(base / folder / "jets.root", arrays, parts=3))
    return paths


def configure(run: Path, inputs: list[Path], output: Path, **changes: Any) -> PredictConfig:
    values = {"run": str(run), "inputs": [str(path) for path in inputs], "output": str(output), "batch_size": 50}
    return PredictConfig.model_validate(values | {"entries_per_read": 70} | changes)


def read_input(path: Path, *names: str) -> dict[str, np.ndarray]:
    with uproot.open(path) as file:
        return file[TREE].arrays(names, library="np")


def read_outputs(summary: dict[str, Any]) -> list[pa.Table]:
    return [pq.read_table(file["output"]) for file in summary["files"]]


@pytest.fixture(scope="module")
def predicted(graph_run: Path, ntuples: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return predict(configure(graph_run, ntuples, tmp_path_factory.mktemp("predicted") / "out"), in_process)


def test_every_jet_is_there_in_order_or_says_why_not(predicted: dict[str, Any], ntuples: list[Path]) -> None:
    assert predicted["jets"] == predicted["entries"] == 600
    assert predicted["calibrated"] + sum(predicted["not_calibrated"].values()) == 600
    for path, table in zip(ntuples, read_outputs(predicted), strict=True):
        jets = read_input(path, "eventNumber", "jet_index", "jet_pt", "clus_E")
        np.testing.assert_array_equal(table["event"].to_numpy(), jets["eventNumber"])
        np.testing.assert_array_equal(table["jet_index"].to_numpy(), jets["jet_index"])
        reason = np.array(table["calibrated_reason"].to_pylist())
        empty = np.array([len(clusters) == 0 for clusters in jets["clus_E"]])
        np.testing.assert_array_equal(reason == NO_CONSTITUENT, empty)
        assert "'track_width' is not finite" in reason[BROKEN]
        good = reason == ""
        assert good.sum() == 300 - empty.sum() - 1
        for name in ("energy", "mass", "rapidity", "pt", "phi"):
            np.testing.assert_array_equal(np.isfinite(table[f"calibrated_{name}"].to_numpy()), good)
        np.testing.assert_array_equal(table["jet_pt"].to_numpy()[good], jets["jet_pt"][good])


def test_constituents_are_those_of_the_input_and_add_up_to_the_jets(predicted: dict[str, Any], ntuples: list[Path]) -> None:
    table = read_outputs(predicted)[0]
    lists = [table[f"calibrated_constituent_{name}"].combine_chunks() for name in ("px", "py", "pz", "energy", "factor")]
    clusters = read_input(ntuples[0], "clus_E")["clus_E"]
    assert [len(item) for item in lists[0].to_pylist()] == [len(item) for item in clusters]
    *p4, factor = (item.flatten().to_numpy().astype(np.float64) for item in lists)
    good = np.isfinite(factor)
    np.testing.assert_allclose((p4[3] / factor)[good], np.concatenate(clusters)[good], rtol=1e-5)
    total = sum_groups(np.stack(p4, axis=1), lists[0].offsets.to_numpy())
    calibrated = np.array(table["calibrated_reason"].to_pylist()) == ""
    np.testing.assert_allclose(total[calibrated, 3], table["calibrated_energy"].to_numpy()[calibrated], rtol=1e-5)
    expected = table["calibrated_mass"].to_numpy()[calibrated]
    np.testing.assert_allclose(mass(total[calibrated]), expected, atol=2e-3 * total[calibrated, 3].max(), rtol=1e-2)


def test_numbers_are_those_of_the_evaluation(graph_run: Path, toy_dataset: Manifest, tmp_path: Path) -> None:
    """The same jets through the dataset: graphs are built and features computed in another place, but alike."""
    ntuple = toy_dataset.path.parent / "ntuples/toy_A/jets.root"
    summary = predict(configure(graph_run, [ntuple], tmp_path / "out"), in_process)
    (mine,) = read_outputs(summary)
    found = {
        (e, j): x for e, j, x in zip(*(mine[n].to_pylist() for n in ("event", "jet_index", "calibrated_mass")), strict=True)
    }
    table = pq.read_table(write_predictions(graph_run, toy_dataset.path, "test", tmp_path / "p.parquet"))
    rows = [row for row in table.to_pylist() if row["sample"] == "toy_A"]
    assert len(rows) > 100
    for row in rows:
        assert found[row["event"], row["jet_index"]] == pytest.approx(row["calibrated_mass"], rel=1e-3, abs=1e-3)


def test_a_friend_tree_has_the_entries_of_the_input(graph_run: Path, ntuples: list[Path], predicted, tmp_path: Path) -> None:
    summary = predict(configure(graph_run, ntuples, tmp_path / "out", format="root", name="gnn"), in_process)
    for path, table, record in zip(ntuples, read_outputs(predicted), summary["files"], strict=True):
        with uproot.open(path) as file, uproot.open(record["output"]) as friend:
            assert friend["gnn"].num_entries == file[TREE].num_entries
            arrays = friend["gnn"].arrays()
            np.testing.assert_array_equal(arrays["event"], file[TREE]["eventNumber"].array())
            np.testing.assert_array_equal(arrays["nconstituent"], file[TREE]["nclus"].array())
            np.testing.assert_array_equal(arrays["energy"], table["calibrated_energy"].to_numpy())
            flat = table["calibrated_constituent_energy"].combine_chunks().flatten().to_numpy()
            np.testing.assert_array_equal(np.concatenate([*arrays["constituent_energy"]]), flat)
            codes = [zlib.crc32(text.encode()) if text else 0 for text in table["calibrated_reason"].to_pylist()]
            assert arrays["reason"].tolist() == codes
            assert str(zlib.crc32(NO_CONSTITUENT.encode())) in str(friend["reasons"])


def test_a_calibration_of_whole_jets_writes_what_it_knows(jet_run: Path, ntuples: list[Path], tmp_path: Path) -> None:
    (table,) = read_outputs(predict(configure(jet_run, ntuples[:1], tmp_path / "out"), in_process))
    good = np.array(table["calibrated_reason"].to_pylist()) == ""
    assert np.isfinite(table["calibrated_sigma"].to_numpy()[good]).all()
    assert not any("constituent" in name for name in table.column_names)


def test_what_is_finished_is_kept_and_not_made_again(graph_run: Path, ntuples: list[Path], tmp_path: Path) -> None:
    config = configure(graph_run, ntuples, tmp_path / "out")
    made: list[str] = []

    def stopping(function, tasks, *, description: str, **kwargs: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, task in enumerate(tasks):
            if function is calibrate_file:
                if len(made) == 1:
                    raise KeyboardInterrupt
                made.append(task.output)
            yield number, function(task)

    with pytest.raises(KeyboardInterrupt):
        predict(config, stopping)
    before = Path(made[0]).stat().st_mtime_ns
    summary = predict(config, in_process)
    assert Path(made[0]).stat().st_mtime_ns == before
    assert summary == predict(config, in_process) == read_json(tmp_path / "out/predictions.json")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"data", "identity.json", "predictions.json"}
    with pytest.raises(ConfigError, match="different: name"):
        predict(configure(graph_run, ntuples, tmp_path / "out", name="other"), in_process)


def test_a_file_that_cannot_be_read_is_named_and_the_others_are_done(graph_run, ntuples: list[Path], tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.root"
    damaged.write_bytes(ntuples[0].read_bytes()[:5000])
    with pytest.raises(DataError, match=r"1 files could not be calibrated; the others are done.*\n.*damaged\.root"):
        predict(configure(graph_run, [damaged, ntuples[1]], tmp_path / "out"), in_process)
    assert (tmp_path / "out/data/jets.parquet").exists()
    assert not (tmp_path / "out/predictions.json").exists()


def test_an_ntuple_without_what_the_calibration_reads_is_refused(graph_run: Path, tmp_path: Path) -> None:
    arrays = random_ntuple(20, 1)
    del arrays["rho"]
    path = write_ntuple(tmp_path / "x/jets.root", arrays)
    with pytest.raises(ConfigError, match="no branch 'rho'"):
        predict(configure(graph_run, [path], tmp_path / "out"), in_process)


@pytest.mark.integration
def test_workers_give_what_one_process_gives(graph_run: Path, ntuples: list[Path], predicted, tmp_path: Path) -> None:
    with executor(TasksConfig(num_workers=2, progress="off")) as execute:
        summary = predict(configure(graph_run, ntuples, tmp_path / "out"), execute)
    assert summary["not_calibrated"] == predicted["not_calibrated"]
    for here, there in zip(read_outputs(predicted), read_outputs(summary), strict=True):
        np.testing.assert_allclose(there["calibrated_energy"].to_numpy(), here["calibrated_energy"].to_numpy(), rtol=1e-6)


def test_jets_found_in_calibrated_events_are_the_calibrated_jets(graph_run: Path, toy_dataset, tmp_path: Path) -> None:
    """The toy's jets are narrow: R = 0.4 finds them again in events made of their constituents, unless two are close."""
    folder = toy_dataset.path.parent / "ntuples"
    events = {"antikt4": {"radius": 0.4, "dataset": str(toy_dataset.path), "splits": ["val", "test"]}}
    summary = predict(configure(graph_run, [folder], tmp_path / "out", name="gnn", events=events), in_process)
    small = {
        (row["sample"], row["event"], row["jet_index"]): row["gnn_energy"]
        for table in read_outputs(summary)
        for row in table.select(["sample", "event", "jet_index", "gnn_energy"]).to_pylist()
    }
    found = pq.read_table(tmp_path / "out/antikt4.parquet").to_pylist()
    assert summary["events"]["antikt4"]["jets"] == len(found)
    assert len(found) == toy_dataset.num_rows("val") + toy_dataset.num_rows("test") > 500
    ratio = np.array([row["gnn_energy"] / small[row["sample"], row["event"], row["jet_index"]] for row in found])
    assert (np.abs(ratio - 1) < 1e-4).mean() > 0.85
    assert {row["mu"] > 0 for row in found} == {True}


def test_the_verb_says_how_many_jets_are_not_calibrated_and_why(graph_run, ntuples: list[Path], tmp_path: Path, caplog) -> None:
    places = [f"run={graph_run}", f"inputs={ntuples[0]}", f"output={tmp_path / 'out'}", "tasks.scheduler=in_process"]
    with caplog.at_level("INFO", logger="distjet"):
        summary = run_verb("predict", [*places, "tasks.progress=off"])
    assert f"{summary['calibrated']} of 300 jets predicted; predictions in {tmp_path / 'out'}" in caplog.text
    assert f"{summary['not_calibrated'][NO_CONSTITUENT]} jets without a prediction: {NO_CONSTITUENT}" in caplog.text
    assert (tmp_path / "out/config.yaml").exists()
