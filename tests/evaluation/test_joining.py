"""Tables of the same jets in another order become one; jets that are missing or doubled are named."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distjet.errors import DataError
from distjet.evaluation.config import ResponseConfig
from distjet.evaluation.predictions import read_predictions

CONFIG = ResponseConfig()


@pytest.fixture
def two_tables(tmp_path, make_columns, save):
    """The toy as two files: raw and calibrated, and raw and chain in another order."""
    columns = make_columns(200)
    chain = {name: columns[f"calibrated_{name}"] * 1.1 for name in ("energy", "mass", "rapidity", "pt")}
    order = np.random.default_rng(2).permutation(200)
    kept = {name: values for name, values in columns.items() if not name.startswith("calibrated")}
    other = {
        name: np.asarray(values)[order] for name, values in {**kept, **{f"chain_{n}": v for n, v in chain.items()}}.items()
    }
    return save(tmp_path / "a.parquet", columns), save(tmp_path / "b.parquet", other)


def rewritten(path: Path, change) -> Path:
    table = pq.read_table(path)
    pq.write_table(change(table), path)
    return path


def test_jets_are_found_by_their_identity(two_tables):
    together, alone = read_predictions(two_tables, CONFIG), read_predictions(two_tables[0], CONFIG)
    assert together.methods == ("raw", "calibrated", "chain")
    assert together.num_jets_total == 200
    np.testing.assert_allclose(together.columns["chain_energy"], 1.1 * alone.columns["calibrated_energy"], rtol=1e-6)
    np.testing.assert_array_equal(together.columns["true_pt"], alone.columns["true_pt"])


def test_methods_can_be_chosen_from_either_table(two_tables):
    chosen = read_predictions(two_tables, ResponseConfig(methods=("chain", "raw")))
    assert chosen.methods == ("chain", "raw")
    assert "calibrated_energy" not in chosen.columns
    with pytest.raises(DataError, match="of the method 'gnn'; there are"):
        read_predictions(two_tables, ResponseConfig(methods=("raw", "gnn")))


def test_a_jet_that_one_table_lacks_is_named(two_tables):
    first, second = two_tables
    gone = pq.read_table(second).slice(0, 1).to_pylist()[0]
    rewritten(second, lambda table: table.slice(1))
    with pytest.raises(DataError, match=rf"b\.parquet lacks the jet \(run=2, event={gone['event']}, .* of .*a\.parquet, and 1"):
        read_predictions([first, second], CONFIG)
    with pytest.raises(DataError, match=rf"b\.parquet lacks the jet \(run=2, event={gone['event']}"):
        read_predictions([second, first], CONFIG)


def test_a_jet_that_stands_twice_is_named(two_tables):
    first, second = two_tables
    rewritten(second, lambda table: pa.concat_tables([table.slice(0, 199), table.slice(5, 1)]))
    with pytest.raises(DataError, match=r"b\.parquet holds the jet \(run=2, .*\) twice, in the rows 5 and 199"):
        read_predictions([first, second], CONFIG)


def test_the_same_event_of_another_sample_is_another_jet(two_tables):
    first, second = two_tables
    names = pa.array(["dijet_JZ2"] * 200).dictionary_encode()
    rewritten(second, lambda table: table.set_column(table.column_names.index("sample"), "sample", names))
    with pytest.raises(DataError, match=r"lacks the jet .*sample=dijet_JZ1.* and 200 in all"):
        read_predictions([first, second], CONFIG)


def test_another_truth_or_another_meaning_of_a_method_is_refused(two_tables):
    first, second = two_tables
    raw = pq.read_table(second)["raw_energy"].to_numpy() * np.where(np.arange(200) == 7, 1.01, 1.0)
    rewritten(second, lambda table: table.set_column(table.column_names.index("raw_energy"), "raw_energy", pa.array(raw)))
    with pytest.raises(DataError, match=r"raw_energy differs: .* and 1 in all\. Both tables must be of the same dataset"):
        read_predictions([first, second], CONFIG)


@pytest.mark.parametrize(("share", "is_same"), [(0.5e-6, True), (2e-6, False)])
def test_the_mass_of_a_light_jet_may_be_rounded(two_tables, share, is_same):
    """It is the root of a small difference of squares of the size of E^2."""
    first, second = two_tables
    for path, squared in ((first, 0.0), (second, share)):
        table = pq.read_table(path)
        mass = np.sqrt(1.0 + squared * table["raw_energy"].to_numpy().astype(np.float64) ** 2)
        rewritten(path, lambda t, mass=mass: t.set_column(t.column_names.index("raw_mass"), "raw_mass", pa.array(mass)))
    if is_same:
        assert read_predictions([first, second], CONFIG).num_jets == 200
    else:
        with pytest.raises(DataError, match="raw_mass differs"):
            read_predictions([first, second], CONFIG)


def test_tables_without_identity_stand_alone(two_tables):
    first, second = two_tables
    rewritten(second, lambda table: table.drop_columns(["jet_index"]))
    assert read_predictions(second, CONFIG).num_jets == 200
    with pytest.raises(DataError, match=r"b\.parquet lacks jet_index: several tables are joined by run, event"):
        read_predictions([first, second], CONFIG)


def test_probabilities_have_to_be_probabilities(tmp_path, make_columns, save):
    columns = make_columns(20)
    columns["calibrated_pit"][3] = np.nextafter(np.float32(1), np.float32(2))  # the rounding of a sum
    assert read_predictions(save(tmp_path / "p.parquet", columns), CONFIG).columns["calibrated_pit"][3] == 1.0
    columns["calibrated_pit"][4] = 1.2
    with pytest.raises(DataError, match=r"calibrated_pit must be a probability between 0 and 1; got 1\.2"):
        read_predictions(save(tmp_path / "p.parquet", columns), CONFIG)
