"""Real processes that talk through gloo, as those of a training do, for tests that need several ranks but no cluster.

The processes stay for all tests of a module: what takes long is to import torch.
"""

import multiprocessing
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from distjet.ranks import RankInfo

Function = Callable[..., Any]


@contextmanager
def processes(num_processes: int) -> Iterator[ProcessPoolExecutor]:
    """Start processes that have imported the training already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["distjet.training.loop"])
    with ProcessPoolExecutor(num_processes, context) as pool:
        yield pool


def on_ranks(pool: ProcessPoolExecutor, world_size: int, folder: Path, function: Function, *arguments: Any) -> list[Any]:
    """Call `function(ranks, *arguments)` on connected processes; return or raise what they do, in the order of the ranks."""
    rendezvous = folder / f"rendezvous-{uuid.uuid4().hex}"
    futures = [pool.submit(_call, rank, world_size, rendezvous, function, arguments) for rank in range(world_size)]
    return [future.result(timeout=200) for future in futures]


def _call(rank: int, world_size: int, rendezvous: Path, function: Function, arguments: tuple[Any, ...]) -> Any:
    torch.set_num_threads(1)
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    timeout = timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size, timeout=timeout)
    try:
        return function(RankInfo(rank, world_size, rank), *arguments)
    finally:
        dist.destroy_process_group()
