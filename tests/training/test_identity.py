"""Which settings of the stream make another run, and which only make it faster."""

from distjet.config import load
from distjet.training.settings import TrainConfig


def identity(*overrides: str) -> dict:
    return load(TrainConfig, [], ["dataset=d", "output=o", *overrides]).identity("fingerprint")


def test_what_defines_the_order_or_the_numbers_is_part_of_the_identity() -> None:
    changes = ["stream.lanes=120", "stream.max_bytes=1000000000", "max_nodes=20000", "batch_size=100"]
    changes.append("stream.cache={directory: /scratch, dtype: float16}")
    found = [identity(), *(identity(change) for change in changes)]
    assert all(a != b for i, a in enumerate(found) for b in found[:i])


def test_resources_and_places_are_not() -> None:
    changes = ["stream.num_threads=7", "stream.prefetch_bytes=1000", "stream.cache={directory: /scratch, max_bytes: 1000}"]
    for change in changes:
        assert identity(change) == identity()
