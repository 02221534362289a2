"""Processes that several files share, because what takes long is to start them."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import pytest

from tests.training.ranks import processes


@pytest.fixture(scope="session")
def pool() -> Iterator[ProcessPoolExecutor]:
    """Four processes for `on_ranks`."""
    with processes(4) as pool:
        yield pool
