"""Spec: arrays, records and frames of pandas are read from HDF5 as they were written; what is damaged or foreign is refused."""

import errno
import io
import os
import pickle
import sys
import tracemalloc
from pathlib import Path

import h5py
import hdf5plugin
import numpy as np
import pandas as pd
import pytest
import uproot

from distjet.dataset.reading import byte_file
from distjet.dataset.reading.byte_source import LocalFile
from distjet.dataset.reading.entries import describe_file, read_branches
from distjet.dataset.reading.hdf5 import plain_list
from distjet.dataset.reading.ragged import Ragged
from distjet.dataset.reading.sources import Opened
from distjet.errors import DataError, MissingExtraError
from tests.dataset.public_files import random_jets, top_landscape_frame, write_top_landscape

RANGES = [(0, 300), (0, 1), (17, 203), (299, 300), (120, 120)]


def dense(ragged: Ragged, num_entries: int) -> np.ndarray:
    """Put lists of equal length back into an array."""
    shape = [num_entries]
    for level in ragged.offsets:
        (length,) = set(np.diff(level)) or {0}
        shape.append(int(length))
    return ragged.content.reshape(shape)


def write(path: Path, **arrays: np.ndarray) -> str:
    with h5py.File(path, "w") as file:
        for name, values in arrays.items():
            file[name.replace("__", "/")] = values
    return str(path)


class TestFrames:
    """What pandas writes."""

    @pytest.fixture(scope="class", params=["table", "fixed"])
    @classmethod
    def frame(cls, request, tmp_path_factory) -> tuple[str, pd.DataFrame]:
        path = tmp_path_factory.mktemp("frame") / "top.h5"
        return str(path), write_top_landscape(path, random_jets(300, seed=1), np.arange(300) % 3, request.param)

    def test_the_columns_are_found_by_their_names(self, frame):
        path, expected = frame
        found = describe_file(path, "table", [*expected.columns, "E_*", "PX_", "nothing_*"])
        assert found["entries"] == 300
        assert found["branches"] == {
            **{name: (expected[name].dtype.name, 0) for name in expected.columns},
            "E_*": ("float32", 1),
        }
        assert found["missing"].keys() == {"PX_", "nothing_*"}
        assert found["missing"]["PX_"].startswith(", did you mean 'PX_")
        assert found["page_checksums"] is None

    @pytest.mark.parametrize(("start", "stop"), RANGES)
    def test_values_are_those_of_the_frame(self, frame, start, stop):
        path, expected = frame
        names = ["PZ_3", "is_signal_new", "ttv", "truthE", "E_*"]
        found = read_branches(path, "table", names, start, stop)
        for name in names[:-1]:
            np.testing.assert_array_equal(found[name].content, expected[name].to_numpy()[start:stop])
            assert found[name].content.dtype == expected[name].dtype
        lists = expected[[f"E_{number}" for number in range(20)]].to_numpy()[start:stop]
        np.testing.assert_array_equal(dense(found["E_*"], stop - start), lists if stop > start else np.zeros((0, 0)))

    def test_data_columns_and_the_index_are_branches(self, tmp_path):
        frame = pd.DataFrame({"a": np.arange(5.0), "b": np.arange(5), "c": list("vwxyz")}, index=np.arange(10, 15))
        frame.to_hdf(tmp_path / "a.h5", key="some/frame", format="table", data_columns=["b"])
        path = str(tmp_path / "a.h5")
        found = read_branches(path, "some/frame", ["a", "b", "index"], 1, 4)
        assert [found[name].content.tolist() for name in ("a", "b", "index")] == [[1, 2, 3], [1, 2, 3], [11, 12, 13]]
        with pytest.raises(DataError, match=r"branch 'c' holds .*expected numbers"):
            describe_file(path, "some/frame", ["c"])

    def test_names_of_columns_cannot_run_a_program(self, tmp_path):
        """A file from elsewhere may hold any pickle."""
        path, victim = tmp_path / "top.h5", tmp_path / "executed"

        class Attack:
            def __reduce__(self):
                return os.mkdir, (str(victim),)

        write_top_landscape(path, random_jets(20, seed=1, length=3), 0)
        with h5py.File(path, "a") as file:
            table = file["table/table"]
            table.attrs["values_block_0_kind"] = np.bytes_(pickle.dumps([Attack()], protocol=0))
        with pytest.raises(DataError, match=r"top.h5: the names of the columns are no list of texts: .*mkdir"):
            describe_file(str(path), "table", ["E_*"])
        assert not victim.exists()
        with h5py.File(path) as file:
            pickle.loads(bytes(file["table/table"].attrs["values_block_0_kind"]))  # the attack would have worked
        assert victim.exists()

    @pytest.mark.parametrize("protocol", range(6))
    def test_names_are_read_from_any_pickle(self, protocol):
        assert plain_list(pickle.dumps(["E_0", "énergie"], protocol)) == ["E_0", "énergie"]

    def test_names_that_python_2_wrote(self):
        assert plain_list(b"(lp0\nS'E_0'\np1\naS'PX_0'\np2\na.") == ["E_0", "PX_0"]

    @pytest.mark.parametrize("data", [pickle.dumps({"a": 1}), pickle.dumps(np.zeros(2)), b"", b"(lp0\nS'E_0"])
    def test_anything_else_is_no_list_of_names(self, data):
        with pytest.raises(DataError, match="no list of texts"):
            plain_list(data)

    def test_too_few_names(self, tmp_path):
        write_top_landscape(tmp_path / "top.h5", random_jets(20, seed=1, length=3), 0)
        with h5py.File(tmp_path / "top.h5", "a") as file:
            file["table/table"].attrs["values_block_0_kind"] = np.bytes_(pickle.dumps(["E_0"], protocol=0))
        with pytest.raises(DataError, match=r"values_block_0 has \(16,\) columns, and the names of 1"):
            describe_file(str(tmp_path / "top.h5"), "table", ["E_*"])


ARRAYS = {
    "weight": np.arange(300, dtype=">f8"),
    "flag": np.arange(300) % 2 == 0,
    "small": np.arange(300, dtype=np.int8) - 100,
    "half": np.linspace(0, 1, 300).astype(np.float16),
    "pt": np.arange(1200, dtype=np.float32).reshape(300, 4),
    "cube": np.arange(300 * 4 * 3).reshape(300, 4, 3),
}


class TestArrays:
    """Groups of arrays, and records."""

    @pytest.fixture(scope="class")
    @classmethod
    def path(cls, tmp_path_factory) -> str:
        records = np.zeros(300, [("a", "<i4"), ("b", "<f4", (3,)), ("c", ">f8"), ("text", "S5")])
        records["a"], records["b"], records["c"] = np.arange(300), np.arange(900).reshape(300, 3), np.arange(300) / 7
        arrays = {f"jets__{name}": values for name, values in ARRAYS.items()}
        return write(tmp_path_factory.mktemp("arrays") / "a.h5", **arrays, number=np.float64(3), records=records)

    @pytest.mark.parametrize(("start", "stop"), RANGES[:-1])
    def test_dimensions_are_levels_of_lists(self, path, start, stop):
        found = read_branches(path, "jets", list(ARRAYS), start, stop)
        types = describe_file(path, "jets", list(ARRAYS))["branches"]
        for name, values in ARRAYS.items():
            assert types[name] == (values.dtype.name, values.ndim - 1)
            np.testing.assert_array_equal(dense(found[name], stop - start), values[start:stop])
            assert found[name].content.dtype.isnative

    def test_fields_of_records_are_branches(self, path):
        assert describe_file(path, "records", ["a", "b", "c"])["branches"] == {
            "a": ("int32", 0),
            "b": ("float32", 1),
            "c": ("float64", 0),
        }
        found = read_branches(path, "records", ["a", "b", "c"], 10, 13)
        assert found["a"].content.tolist() == [10, 11, 12]
        assert dense(found["b"], 3).tolist() == [[30, 31, 32], [33, 34, 35], [36, 37, 38]]
        np.testing.assert_array_equal(found["c"].content, np.arange(10, 13) / 7)
        assert read_branches(path, "records", ["a"], 10, 13)["a"].content.tolist() == [10, 11, 12]  # a field alone

    def test_the_top_of_the_file_is_a_group(self, tmp_path):
        path = write(tmp_path / "a.h5", x=np.arange(3), inner__y=np.arange(7))
        assert read_branches(path, "/", ["x"], 1, 3)["x"].content.tolist() == [1, 2]

    @pytest.mark.parametrize(
        "options",
        [{"compression": "gzip"}, {"compression": "lzf", "shuffle": True}, hdf5plugin.Blosc("blosclz"), hdf5plugin.Zstd()],
        ids=["gzip", "lzf", "blosc", "zstd"],
    )
    def test_filters(self, tmp_path, options):
        values = np.arange(3000).reshape(1000, 3)
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("x", data=values, chunks=(64, 3), **options)
        found = read_branches(str(tmp_path / "a.h5"), "/", ["x"], 100, 900)
        np.testing.assert_array_equal(dense(found["x"], 800), values[100:900])

    def test_files_are_divided_where_chunks_end(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            for name, length in (("x", 300), ("y", 200), ("z", 7)):
                file.create_dataset(name, data=np.zeros(5000), chunks=(length,))
        path = str(tmp_path / "a.h5")
        assert describe_file(path, "/", ["x"])["clusters"] == [0, 1200, 2400, 3600, 4800, 5000]
        assert describe_file(path, "/", ["x", "y"])["clusters"] == [0, 1200, 2400, 3600, 4800, 5000]
        assert describe_file(path, "/", ["y", "z"])["clusters"] == [0, 1400, 2800, 4200, 5000]
        assert describe_file(write(tmp_path / "b.h5", x=np.zeros(5)), "/", ["x"])["clusters"] == [0, 5]
        assert describe_file(write(tmp_path / "c.h5", x=np.zeros(0)), "/", ["x"])["clusters"] == [0]

    def test_a_range_takes_the_memory_of_a_range(self, tmp_path):
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("x", shape=(20_000, 200), dtype="f4", chunks=(100, 200), compression="gzip")
        path = str(tmp_path / "a.h5")
        read_branches(path, "/", ["x"], 0, 1)
        tracemalloc.start()
        read_branches(path, "/", ["x"], 10_000, 11_000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 * 1000 * 200 * 4  # of 16 MB


class TestFamilies:
    """Numbered columns."""

    def test_they_are_put_in_the_order_of_their_numbers(self, tmp_path):
        path = write(tmp_path / "a.h5", **{f"E_{number}": np.full(2, number) for number in range(11, -1, -1)}, E_x=np.zeros(2))
        assert dense(read_branches(path, "/", ["E_*"], 0, 2)["E_*"], 2).tolist() == [list(range(12))] * 2

    def test_branches_of_a_tree_are_columns_too(self, tmp_path):
        with uproot.recreate(tmp_path / "a.root") as file:
            file["tree"] = {f"x_{number}": np.full(4, number, np.float32) for number in (2, 10, 1, 9, 3, 4, 5, 6, 7, 8)}
        path = str(tmp_path / "a.root")
        assert describe_file(path, "tree", ["x_*"])["branches"] == {"x_*": ("float32", 1)}
        assert dense(read_branches(path, "tree", ["x_*"], 1, 3)["x_*"], 2).tolist() == [list(range(1, 11))] * 2

    def test_types_are_made_equal(self, tmp_path):
        path = write(tmp_path / "a.h5", x1=np.array([1], np.int32), x2=np.array([0.5]))
        assert describe_file(path, "/", ["x*"])["branches"] == {"x*": ("float64", 1)}
        assert read_branches(path, "/", ["x*"], 0, 1)["x*"].content.tolist() == [1, 0.5]

    @pytest.mark.parametrize(("numbers", "place"), [(("0", "1", "3"), "2"), (("1", "01", "2"), "2")])
    def test_a_gap_is_an_error(self, tmp_path, numbers, place):
        path = write(tmp_path / "a.h5", **{f"E_{number}": np.zeros(2) for number in numbers})
        with pytest.raises(DataError, match=rf"a.h5: the columns 'E_\*' must be numbered without gaps: .* where {place} is"):
            describe_file(path, "/", ["E_*"])

    def test_lists_do_not_become_lists_of_lists(self, tmp_path):
        path = write(tmp_path / "a.h5", x0=np.zeros((2, 2)), x1=np.zeros((2, 2)))
        with pytest.raises(DataError, match=r"the columns 'x\*' hold lists"):
            describe_file(path, "/", ["x*"])


class TestRefused:
    """Files that cannot be used, named with their reason."""

    def test_no_such_group(self, tmp_path):
        path = write(tmp_path / "a.h5", table__x=np.zeros(2), y=np.zeros(2))
        with pytest.raises(DataError, match=r"a.h5 has no tree 'tables', did you mean 'table'; it has \['/', 'table'\]"):
            describe_file(path, "tables", ["x"])

    def test_arrays_of_different_lengths(self, tmp_path):
        path = write(tmp_path / "a.h5", x=np.zeros(3), y=np.zeros(2))
        assert describe_file(path, "/", ["x"])["entries"] == 3
        with pytest.raises(DataError, match=r"/y has 2 rows, others have 3"):
            describe_file(path, "/", ["x", "y"])

    def test_numbers_in_other_files(self, tmp_path):
        write(tmp_path / "b.h5", x=np.ones(3))
        layout = h5py.VirtualLayout(shape=(3,), dtype="f8")
        layout[:] = h5py.VirtualSource(tmp_path / "b.h5", "x", shape=(3,))
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_virtual_dataset("virtual", layout)
            file.create_dataset("external", (3,), "f8", external=[(str(tmp_path / "raw"), 0, 24)])
        for name in ("virtual", "external"):
            with pytest.raises(DataError, match=f"the numbers of /{name} lie in other files"):
                describe_file(str(tmp_path / "a.h5"), "/", [name])

    @pytest.mark.parametrize("size", [0, 5, 100, 5000])
    def test_truncated_files(self, tmp_path, size):
        write_top_landscape(tmp_path / "a.h5", random_jets(50, seed=1), 0)
        os.truncate(tmp_path / "a.h5", size)
        with pytest.raises(DataError, match=r"a\.h5 (is empty|is no file of ROOT, HDF5 or numpy|cannot be read)"):
            describe_file(str(tmp_path / "a.h5"), "table", ["E_*"])

    def test_other_files(self, tmp_path):
        (tmp_path / "a.h5").write_bytes(bytes(4096))
        with pytest.raises(DataError, match=r"a.h5 is no file of ROOT, HDF5 or numpy \(npz\): it begins with b'\\x00"):
            describe_file(str(tmp_path / "a.h5"), "table", ["E_*"])

    def test_a_flipped_bit_in_checked_chunks(self, tmp_path):
        values = np.random.default_rng(1).normal(size=1000)
        with h5py.File(tmp_path / "a.h5", "w") as file:
            file.create_dataset("x", data=values, chunks=(100,), fletcher32=True)
            offset = file["x"].id.get_chunk_info(3).byte_offset
        path = str(tmp_path / "a.h5")
        assert describe_file(path, "/", ["x"])["page_checksums"] is True
        content = bytearray(Path(path).read_bytes())
        content[offset + 10] ^= 1
        Path(path).write_bytes(content)
        np.testing.assert_array_equal(read_branches(path, "/", ["x"], 0, 300)["x"].content, values[:300])
        with pytest.raises(DataError, match=r"a.h5 cannot be read"):
            read_branches(path, "/", ["x"], 300, 400)

    @pytest.mark.parametrize("package", ["h5py", "hdf5plugin"])
    def test_the_extra_is_named(self, tmp_path, monkeypatch, package):
        path = write(tmp_path / "a.h5", x=np.zeros(2))
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(MissingExtraError, match=rf"a.h5 is an HDF5 file, which needs {package}.*distjet\[hdf5\]") as caught:
            describe_file(path, "/", ["x"])
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # as it comes from a worker


class Failing(LocalFile):
    """A disk that fails from some time on."""

    is_failing = False

    def read(self, ranges):
        if Failing.is_failing:
            raise OSError(errno.EIO, "input/output error")
        return super().read(ranges)


def test_what_the_machine_reports_is_not_the_fault_of_the_file(tmp_path, monkeypatch):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.random.default_rng(1).normal(size=100_000), chunks=(1000,))
    path = str(tmp_path / "a.h5")
    monkeypatch.setattr("distjet.dataset.reading.sources.LocalFile", Failing)
    read_branches(path, "/", ["x"], 0, 10)
    monkeypatch.setattr(Failing, "is_failing", True)
    with pytest.raises(OSError, match="input/output error") as caught:
        read_branches(path, "/", ["x"], 50_000, 60_000)
    assert caught.value.errno == errno.EIO
    assert caught.value.__notes__ == [f"while reading {path}"]


def test_a_file_object_reads_what_the_file_holds(tmp_path):
    content = np.random.default_rng(1).bytes(300_000)
    (tmp_path / "a").write_bytes(content)
    file = byte_file.as_file(Opened("a", LocalFile(str(tmp_path / "a")), len(content), ""))
    twin = io.BytesIO(content)
    for whence, offset, size in [(0, 0, 10), (1, 70_000, 100_000), (2, -5, 100), (0, 299_999, 1), (2, 10, 5), (0, 5, 300_000)]:
        assert file.seek(offset, whence) == twin.seek(offset, whence)
        assert file.read(size) == twin.read(size)
        assert file.tell() == twin.tell()


def test_the_frame_of_the_top_landscape_has_its_columns():
    """https://zenodo.org/records/2603256: 200 constituents, truthE and so on, ttv and is_signal_new at the end."""
    columns = list(top_landscape_frame(random_jets(2, seed=1, length=200), 0).columns)
    assert len(columns) == 806
    assert columns[:4] == ["E_0", "PX_0", "PY_0", "PZ_0"]
    assert columns[-7:] == ["PZ_199", "truthE", "truthPX", "truthPY", "truthPZ", "ttv", "is_signal_new"]
