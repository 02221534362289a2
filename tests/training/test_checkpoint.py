from pathlib import Path

import pytest
import torch

from distjet.errors import DataError
from distjet.training.checkpoint import CheckpointStore, decode, read_verified


def state(value: float) -> dict:
    return {"model": {"w": torch.tensor([value])}, "epoch": int(value)}


def test_the_newest_comes_back_and_old_ones_go(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, num_kept=2)
    assert store.newest() is None
    for epoch, step in ((0, 5), (1, 0), (1, 20), (2, 0)):
        store.save(state(epoch * 100 + step), epoch, step)
    assert decode(store.newest())["model"]["w"].item() == 200
    assert len(list(tmp_path.glob("*.pt"))) == len(list(tmp_path.glob("*.json"))) == 2


def test_a_damaged_checkpoint_is_never_used(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(state(1), 1, 0)
    newest = store.save(state(2), 2, 0)
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        read_verified(newest)
    assert decode(store.newest())["epoch"] == 1


def test_without_a_whole_checkpoint_nothing_is_begun_anew_silently(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save(state(1), 1, 0).write_bytes(b"torn")
    with pytest.raises(DataError, match="no checkpoint is usable"):
        store.newest()


def test_a_file_without_its_json_does_not_count(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    path = store.save(state(1), 1, 0)
    path.with_suffix(".json").unlink()
    assert store.newest() is None
    with pytest.raises(DataError, match="there is no checkpoint"):
        read_verified(path)


def test_the_best_is_replaced_whole(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    with pytest.raises(DataError, match="there is no checkpoint"):
        store.best(3)
    store.save_best(state(3), 3)
    store.save_best(state(7), 7)
    assert store.best(3)["epoch"] == 3
    for step in (0, 1):
        store.save(state(8), 8, step, best_epoch=7)
    assert store.best(7)["epoch"] == 7
    assert len(list(tmp_path.glob("best-*.pt"))) == 1


def test_a_checkpoint_before_a_damaged_one_still_has_its_best(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save_best(state(3), 3)
    store.save(state(4), 4, 0, best_epoch=3)
    store.save_best(state(4), 4)
    store.save(state(5), 5, 0, best_epoch=4).write_bytes(b"torn")
    assert decode(store.newest())["epoch"] == 4
    assert store.best(3)["epoch"] == 3


def test_what_a_killed_process_had_begun_to_write_goes_with_the_next_checkpoint(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for name in (f".epoch-0003-step-0000007.pt.{'0a' * 16}.tmp", f".best-0002.json.{'1b' * 16}.tmp"):
        (tmp_path / name).write_bytes(b"a part")
    (tmp_path / "epoch-0003-step-0000007.pt").write_bytes(b"without its JSON")
    (tmp_path / "best-0002.pt").write_bytes(b"without its JSON")
    (tmp_path / "notes.txt").write_text("not ours")
    path = store.save(state(4), 4, 0)
    assert {file.name for file in tmp_path.iterdir()} == {path.name, path.with_suffix(".json").name, "notes.txt"}


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> tuple:
            return Path.touch, (tmp_path / "ran",)

    store = CheckpointStore(tmp_path)
    store.save({"model": Attack()}, 0, 1)
    with pytest.raises(Exception, match=r"weights_only|Unsupported"):
        decode(store.newest())
    assert not (tmp_path / "ran").exists()
