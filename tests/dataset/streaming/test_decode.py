"""Columns become records: weaving against numpy, slices of Arrow arrays, and files that are opened and closed."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from distjet.dataset.streaming import decode
from distjet.dataset.streaming.decode import Decoder, _ragged, weave
from distjet.dataset.streaming.layout import Bank, Layout, row_groups
from distjet.dataset.streaming.stream import JetStream, StreamConfig
from distjet.errors import DataError
from tests.dataset.handmade import make, path_graph

GRAPHS = [path_graph(n % 6) for n in range(40)]


@pytest.mark.parametrize("width", range(10))
@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_weaving_is_stacking_graph_by_graph(width: int, dtype: type) -> None:
    sizes = np.array([3, 0, 1, 7])
    offsets, gap = np.cumsum([0, *sizes]), 2
    columns = [(100 * number + np.arange(offsets[-1])).astype(dtype) for number in range(width)]
    places = gap + offsets[:-1] * width + gap * np.arange(len(sizes))
    out = np.full(len(sizes) * gap + offsets[-1] * width, 9, dtype)
    weave(columns, offsets, places, out)
    expected = [np.stack(columns, axis=1)[a:b].ravel() if width else [] for a, b in pairwise(offsets)]
    np.testing.assert_array_equal(out, np.concatenate([part for graph in expected for part in ([9, 9], graph)]))


@pytest.mark.parametrize("kind", [pa.list_(pa.float32()), pa.binary()])
def test_a_slice_of_an_arrow_array_is_read_from_its_offset(kind: pa.DataType) -> None:
    rows = [b"a", b"bcd", b"", b"ef"] if kind == pa.binary() else [[1.0], [2.0, 3.0, 4.0], [], [5.0, 6.0]]
    column = pa.chunked_array([pa.array(rows, kind).slice(1, 3)])
    values, offsets = _ragged(column)
    assert offsets.tolist() == [0, 3, 3, 5]
    assert values.tolist() == (list(b"bcdef") if kind == pa.binary() else [2.0, 3.0, 4.0, 5.0, 6.0])
    values, offsets = _ragged(column.slice(0, 0))
    assert offsets.tolist() == [0]
    assert len(values) == 0


def test_open_files_are_few_and_closed_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_OPEN_FILES", 2)
    manifests = [make(tmp_path / str(number), GRAPHS) for number in range(4)]
    layout = Layout.of(manifests[0])
    decoder = Decoder(layout)
    for _ in range(2):
        for manifest in manifests:
            group = row_groups(manifest, "train")[0]
            words = np.zeros(layout.num_words(group), np.float32)
            decoder.decode(group, Bank.over(np.zeros((group.rows, 3), np.int32), words))
            assert len(decoder.files) <= 2
            assert next(reversed(decoder.files)) == group.path
    decoder.close()
    assert not decoder.files


def test_a_shard_that_is_gone_is_named(tmp_path: Path) -> None:
    manifest = make(tmp_path, GRAPHS)
    stream = JetStream(manifest, "train", StreamConfig(batch_size=8))
    (tmp_path / "train/part.parquet").unlink()
    with pytest.raises(DataError, match=r"train/part\.parquet: row group \d cannot be read: .*No such file"):
        list(stream)


def test_an_unexpected_error_in_a_thread_says_where_it_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments):
        raise MemoryError("enough")

    monkeypatch.setattr(decode, "weave", fail)
    with pytest.raises(MemoryError, match="enough") as caught:
        list(JetStream(make(tmp_path, GRAPHS), "train", StreamConfig(batch_size=8)))
    assert any("part.parquet: row group" in note for note in caught.value.__notes__)


def test_edges_of_another_graph_are_refused(tmp_path: Path) -> None:
    manifest = make(tmp_path, GRAPHS)
    for triple in manifest.content["shards"]["train"][0]["row_groups"]:
        triple[2] -= 1
    with pytest.raises(DataError, match=r"its edges have \d+ bytes, at most \d+ were expected"):
        list(JetStream(manifest, "train", StreamConfig(batch_size=8)))
