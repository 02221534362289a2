"""Spec: ranges of rows of npz archives are those that numpy reads, whatever the order; damage is found, objects are refused."""

import io
import os
import pickle
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from distjet.dataset.reading.entries import describe_file, read_branches
from distjet.errors import DataError

ARRAYS = {
    "X": np.random.default_rng(1).normal(size=(500, 7, 4)),
    "y": np.arange(500, dtype=">i4") % 2,
    "flat": np.arange(1500, dtype=np.float32).reshape(500, 3),
    "column": np.asfortranarray(np.arange(500.0)),
    "scalar": np.float64(2),
}
WRITERS = {"compressed": np.savez_compressed, "stored": np.savez}


@pytest.fixture(params=WRITERS)
def path(request, tmp_path) -> str:
    WRITERS[request.param](tmp_path / "a.npz", **ARRAYS)
    return str(tmp_path / "a.npz")


def test_dimensions_are_levels_of_lists(path):
    found = describe_file(path, "/", ["X", "y", "flat", "column", "Y", "scalar"])
    assert found["branches"] == {"X": ("float64", 2), "y": ("int32", 0), "flat": ("float32", 1), "column": ("float64", 0)}
    assert found["missing"].keys() == {"Y", "scalar"}
    assert (found["entries"], found["clusters"], found["page_checksums"]) == (500, [0, 500], True)


def test_ranges_in_any_order(path):
    for start, stop in [(0, 100), (100, 350), (40, 60), (499, 500), (0, 500), (3, 3)]:
        values = read_branches(path, "/", ["X", "y", "flat", "column"], start, stop)
        for name, ragged in values.items():
            np.testing.assert_array_equal(ragged.content.reshape(ARRAYS[name][start:stop].shape), ARRAYS[name][start:stop])
            assert ragged.content.dtype.isnative
    element = read_branches(path, "/", ["X"], 20, 30)["X"].element(2)
    np.testing.assert_array_equal(element.content.reshape(10, 7), ARRAYS["X"][20:30, :, 2])


def test_a_range_takes_the_memory_of_a_range(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", X=np.zeros((20_000, 50, 4)))
    path = str(tmp_path / "a.npz")
    describe_file(path, "/", ["X"])
    tracemalloc.start()
    read_branches(path, "/", ["X"], 10_000, 11_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 1000 * 50 * 4 * 8  # of 32 MB


@pytest.mark.parametrize("where", [0.2, 0.5, 0.9])
def test_a_flipped_bit_is_found_before_the_last_row_is_used(path, where):
    content = bytearray(Path(path).read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("X.npy")
    content[int(info.header_offset + 300 + where * (info.compress_size - 300))] ^= 16
    Path(path).write_bytes(content)
    with pytest.raises(DataError, match=r"a.npz cannot be read"):
        _ = [read_branches(path, "/", ["X"], start, start + 100) for start in range(0, 500, 100)]
    with pytest.raises(DataError, match=r"a.npz cannot be read"):
        read_branches(path, "/", ["X"], 400, 500)  # also alone
    np.testing.assert_array_equal(read_branches(path, "/", ["y"], 0, 500)["y"].content, ARRAYS["y"])


@pytest.mark.parametrize("size", [10, 2000])
def test_truncated_files(path, size):
    os.truncate(path, size)
    with pytest.raises(DataError, match=r"a.npz cannot be read: BadZipFile"):
        describe_file(path, "/", ["X"])


def test_an_array_that_ends_too_early(tmp_path):
    """Its header promises more rows than there are."""
    content = io.BytesIO()
    np.save(content, np.zeros((10, 3)))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", content.getvalue()[:-24])
    with pytest.raises(DataError, match=r"a.npz: array 'x' ends too early: 216 of 240 bytes of the rows 0 to 10"):
        read_branches(str(tmp_path / "a.npz"), "/", ["x"], 0, 10)


def test_objects_are_never_unpickled(tmp_path):
    victim = tmp_path / "executed"

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(victim),)

    np.savez(tmp_path / "a.npz", x=np.array([Attack()], dtype=object))
    path = str(tmp_path / "a.npz")
    with pytest.raises(DataError, match="branch 'x' holds object; expected numbers"):
        describe_file(path, "/", ["x"])
    assert not victim.exists()
    assert b"mkdir" in pickle.dumps(Attack())


def test_other_arrays_that_cannot_be_read_by_rows(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros(3), short=np.zeros(2), columns=np.asfortranarray(np.zeros((3, 2))), text=["a"] * 3)
    path = str(tmp_path / "a.npz")
    for name, reason in [
        ("short", "has 2 rows, others have 3"),
        ("columns", "is stored by columns"),
        ("text", "expected numbers"),
    ]:
        with pytest.raises(DataError, match=f"'{name}' .*{reason}"):
            describe_file(path, "/", ["x", name])


def test_an_archive_has_one_table(path):
    with pytest.raises(DataError, match=r"a.npz: has no tree 'jets': an npz archive is one table, whose name is '/'"):
        describe_file(path, "jets", ["X"])
