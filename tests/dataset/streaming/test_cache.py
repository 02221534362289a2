"""The cache on disk: the same batches as without it, whatever happens to its files, and never more than its bound."""

import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.cache import CacheKey, RowGroupCache
from distjet.dataset.streaming.layout import Layout, row_groups
from distjet.dataset.streaming.settings import CacheConfig, StreamConfig
from distjet.dataset.streaming.stream import JetStream
from distjet.errors import ConfigError
from tests.dataset.handmade import Graph, make, path_graph

GRAPHS = [path_graph(1 + n % 7) for n in range(200)]
NUM_GROUPS = 20


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """200 graphs in 20 row groups."""
    return make(tmp_path / "dataset", GRAPHS)


def stream(manifest: Manifest, directory: Path | None, **options) -> JetStream:
    """Open a stream that cannot hold the split in memory."""
    cache = None if directory is None else CacheConfig(directory=directory, **options)
    return JetStream(manifest, "train", StreamConfig(batch_size=16, lanes=2, cache=cache), seed=2)


def tensors(source: JetStream) -> list[torch.Tensor]:
    """Everything in the batches of an epoch."""
    result = []
    for batch in source:
        batch.map(lambda tensor: result.append(tensor.clone()) or tensor)
        result.append(batch.edge_index)
    return result


def equal(first: list[torch.Tensor], second: list[torch.Tensor]) -> bool:
    return len(first) == len(second) and all(map(torch.equal, first, second))


def files(directory: Path) -> list[Path]:
    return sorted(directory.glob("*.rows"))


def test_batches_are_the_same_with_and_without_the_cache(manifest: Manifest, tmp_path: Path) -> None:
    plain, cached = stream(manifest, None), stream(manifest, tmp_path / "cache")
    for _ in range(3):
        assert equal(tensors(plain), tensors(cached))
    assert cached.counters.row_groups_decoded == NUM_GROUPS
    assert cached.counters.row_groups_from_cache > NUM_GROUPS
    assert plain.counters.row_groups_decoded > NUM_GROUPS


def test_a_second_process_decodes_nothing(manifest: Manifest, tmp_path: Path) -> None:
    expected = tensors(stream(manifest, tmp_path / "cache"))
    again = stream(manifest, tmp_path / "cache")  # knows nothing of the first but the file
    assert equal(tensors(again), expected)
    assert again.counters.row_groups_decoded == 0


def test_float16_rounds_features_alone_and_always(manifest: Manifest, tmp_path: Path) -> None:
    plain = list(stream(manifest, None))
    nothing_fits = stream(manifest, tmp_path / "small", dtype="float16", max_bytes=5000)
    filling = stream(manifest, tmp_path / "cache", dtype="float16")
    for source in (nothing_fits, filling, stream(manifest, tmp_path / "cache", dtype="float16")):
        for a, b in zip(plain, source, strict=True):
            assert torch.equal(b.x, a.x.half().float())
            assert torch.equal(b.p4, a.p4)
            assert torch.equal(b.edge_index, a.edge_index)
    assert source.counters.row_groups_decoded == 0
    (half,) = files(tmp_path / "cache")
    num_bytes = half.stat().st_size
    list(stream(manifest, tmp_path / "cache"))
    assert max(file.stat().st_size for file in files(tmp_path / "cache")) > num_bytes


def test_every_finite_float16_is_widened_exactly(tmp_path: Path) -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    values = every[np.isfinite(every)].astype(np.float32)
    manifest = make(tmp_path / "dataset", [Graph(len(values))], edges="none", values={"f0": values})
    (batch,) = stream(manifest, tmp_path / "cache", dtype="float16")
    np.testing.assert_array_equal(batch.x[:, 0].numpy(), values)


def test_a_value_that_float16_does_not_hold_is_an_error_that_names_the_column(tmp_path: Path) -> None:
    values = np.zeros(sum(graph.num_nodes for graph in GRAPHS))
    values[sum(graph.num_nodes for graph in GRAPHS[:55])] = -7e4
    manifest = make(tmp_path / "dataset", GRAPHS, values={"f3": values})
    with pytest.raises(ConfigError, match=r"row group 5: f3 reaches 70000, float16 ends at 65504; set stream\.cache\.dtype"):
        list(stream(manifest, tmp_path / "cache", dtype="float16"))


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "zeros", "header"])
def test_a_damaged_file_is_made_again(manifest: Manifest, tmp_path: Path, damage: str) -> None:
    expected = tensors(stream(manifest, tmp_path / "cache"))
    (file,) = files(tmp_path / "cache")
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 0x04
    if damage == "zeros":
        data[-len(data) // 3 :] = bytes(len(data[-len(data) // 3 :]))
    if damage == "header":
        data[3] ^= 0x01
    file.write_bytes({"truncate": data[:-100], "empty": b""}.get(damage, data))
    source = stream(manifest, tmp_path / "cache")
    assert equal(tensors(source), expected)
    assert source.counters.row_groups_decoded == {"flip": 1}.get(damage, source.counters.row_groups_decoded)
    assert source.counters.row_groups_decoded > 0
    again = stream(manifest, tmp_path / "cache")
    assert equal(tensors(again), expected)
    assert again.counters.row_groups_decoded == 0


def test_a_row_group_that_was_half_copied_is_not_used(manifest: Manifest, tmp_path: Path) -> None:
    expected = tensors(stream(manifest, None))
    source = stream(manifest, tmp_path / "cache")
    cache = source._cache
    cache.store.bank.words[: len(cache.store.bank.words) // 2] = 7.0  # what a process leaves that died before the hash
    cache.marks[3] = 12345
    assert equal(tensors(source), expected)
    assert source.counters.row_groups_decoded == NUM_GROUPS


def test_the_bound_holds_and_the_first_row_groups_belong(manifest: Manifest, tmp_path: Path) -> None:
    layout, groups = Layout.of(manifest), row_groups(manifest, "train")
    bound = sum(layout.num_bytes(group) for group in groups[:7])
    source = stream(manifest, tmp_path / "cache", max_bytes=bound)
    expected = tensors(stream(manifest, None))
    assert equal(tensors(source), expected)
    assert len(source._cache.groups) == 7
    assert files(tmp_path / "cache")[0].stat().st_size <= bound + 4096 + 8 * 7
    again = stream(manifest, tmp_path / "cache", max_bytes=bound)
    assert equal(tensors(again), expected)
    assert again.counters.row_groups_decoded >= NUM_GROUPS - 7


def test_other_datasets_give_way_the_oldest_first(tmp_path: Path) -> None:
    layouts = [make(tmp_path / f"dataset{i}", GRAPHS[: 200 - i]) for i in range(4)]
    sizes = []
    for number, manifest in enumerate(layouts[:3]):
        directory = tmp_path / "cache"
        list(stream(manifest, directory, max_bytes=10**6))
        newest = max(files(directory), key=lambda file: file.stat().st_mtime)
        sizes.append(newest.stat().st_size)
        os.utime(newest, (time.time() - 1000 + number,) * 2)
    kept = files(tmp_path / "cache")
    assert len(kept) == 3
    list(stream(layouts[0], tmp_path / "cache", max_bytes=10**6))  # used again, so now the second is the oldest
    list(stream(layouts[3], tmp_path / "cache", max_bytes=10**6 + 1))
    assert len(files(tmp_path / "cache")) == 4, "a megabyte holds all of them"
    bound = sum(sizes) + 1000
    list(stream(layouts[3], tmp_path / "cache", max_bytes=bound))
    left = files(tmp_path / "cache")
    assert sum(file.stat().st_size for file in left) <= bound
    again = stream(layouts[0], tmp_path / "cache", max_bytes=10**6)
    list(again)
    assert again.counters.row_groups_decoded == 0, "it was used last"


def test_splits_of_a_dataset_share_the_bound_and_stay(toy_dataset: Manifest, tmp_path: Path) -> None:
    bound = 1_000_000
    config = StreamConfig(batch_size=100, lanes=4, cache=CacheConfig(directory=tmp_path, max_bytes=bound))
    for _ in range(2):
        for split in ("train", "val", "test"):
            list(JetStream(toy_dataset, split, config))
    assert sorted(file.stem.split("-")[1] for file in files(tmp_path)) == ["test", "train", "val"]
    assert sum(file.stat().st_size for file in files(tmp_path)) <= bound + 3 * 5000
    val = JetStream(toy_dataset, "val", config)
    list(val)
    assert val.counters.row_groups_from_cache > 0


def test_what_a_dead_process_left_is_removed(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "some.temporary").write_bytes(b"half a file")
    list(stream(manifest, tmp_path / "cache"))
    assert [file.name for file in (tmp_path / "cache").iterdir() if file.name != ".lock"] == [files(tmp_path / "cache")[0].name]


def test_a_full_disk_is_an_error_that_says_what_to_do(manifest: Manifest, tmp_path: Path) -> None:
    config = CacheConfig(directory=tmp_path / "cache", max_bytes=10**18)
    layout = Layout.of(manifest)
    huge = [group._replace(nodes=10**13) for group in row_groups(manifest, "train")]
    with pytest.raises(ConfigError, match=r"No space left|File too large.*lower stream\.cache\.max_bytes"):
        RowGroupCache(config, layout, huge, CacheKey("x", "train"))
    assert not files(tmp_path / "cache")


def test_row_columns_and_relative_paths_are_refused(manifest: Manifest, tmp_path: Path) -> None:
    config = StreamConfig(row_columns=("event",), cache=CacheConfig(directory=tmp_path))
    with pytest.raises(ConfigError, match="row_columns are not kept in a cache"):
        JetStream(manifest, "train", config)
    with pytest.raises(ValueError, match="must be an absolute path"):
        CacheConfig(directory="here")


def read_in_process(dataset: Manifest, directory: Path, start: "multiprocessing.synchronize.Barrier", results) -> None:
    start.wait(60)
    source = stream(dataset, directory)
    results.put((float(sum(batch.x.double().sum() for batch in source)), source.counters.row_groups_decoded))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_everybody_copies_the_same_bytes(manifest: Manifest, tmp_path: Path, dtype: str) -> None:
    for seed, name in ((1, "first"), (2, "second")):
        cache = CacheConfig(directory=tmp_path / name, dtype=dtype)
        list(JetStream(manifest, "train", StreamConfig(batch_size=16, lanes=seed, cache=cache), seed=seed))
    (first,), (second,) = files(tmp_path / "first"), files(tmp_path / "second")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
def test_two_processes_fill_it_at_once(manifest: Manifest, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(2), context.Queue()
    arguments = (Manifest(manifest.path, dict(manifest.content)), tmp_path / "cache", start, results)
    processes = [context.Process(target=read_in_process, args=arguments) for _ in range(2)]
    for process in processes:
        process.start()
    found = [results.get(timeout=100) for _ in processes]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    plain = stream(manifest, None)
    expected = float(sum(batch.x.double().sum() for batch in plain))
    assert [total for total, _ in found] == [expected, expected]
    assert NUM_GROUPS <= sum(decoded for _, decoded in found) <= 2 * NUM_GROUPS
    third = stream(manifest, tmp_path / "cache")
    assert float(sum(batch.x.double().sum() for batch in third)) == expected
    assert third.counters.row_groups_decoded == 0
