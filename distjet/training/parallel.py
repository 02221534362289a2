"""How do the processes of a run agree?

`torch.distributed` is set up by whoever started the processes; with one process every function here is the identity. Gradients
are averaged by DDP, so a loss is divided by GLOBAL sums and multiplied with the number of processes: W processes then make the
same step as one.
"""

import logging
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distjet.nn.batch_norm import BatchNorm
from distjet.ranks import RankInfo

logger = logging.getLogger(__name__)

T = TypeVar("T")


def wrap(model: nn.Module, ranks: RankInfo) -> nn.Module:
    """Wrap a model for data-parallel training; a bare model for one process.

    `distjet.nn.batch_norm.BatchNorm` takes its moments from the shares of all processes. Another batch norm would normalise
    with the share of one: W processes are not one then, which a warning says. Its running moments are those of the main
    process, sent to all before each step and before each validation.
    """
    if ranks.world_size == 1:
        return model
    norms = [part for part in model.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        if isinstance(norm, BatchNorm):
            norm.num_processes = ranks.world_size
    if ranks.is_main and not all(isinstance(norm, BatchNorm) for norm in norms):
        logger.warning(
            "the model has a batch norm, which sees the share of one worker: %d workers do not train as one does. "
            "distjet.nn.batch_norm.BatchNorm, LayerNorm or GraphNorm do not depend on their number.",
            ranks.world_size,
        )
    return nn.parallel.DistributedDataParallel(model)


def share_buffers(model: nn.Module, ranks: RankInfo) -> None:
    """Give all processes what the main process keeps beside the parameters, e.g. the running moments of a batch norm."""
    if ranks.world_size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def all_reduce_sum(value: Tensor, ranks: RankInfo) -> Tensor:
    """Sum a tensor over all processes, in place; nothing is copied to the host."""
    if ranks.world_size > 1:
        dist.all_reduce(value)
    return value


def largest(values: Sequence[float], device: torch.device, ranks: RankInfo) -> list[float]:
    """Return the maximum of each value over all processes, with one message; all processes get the same answer."""
    if ranks.world_size == 1:
        return list(values)
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor.tolist()


def gather(value: T, ranks: RankInfo) -> list[T]:
    """Return the plain values of all processes, in their order, on each of them."""
    everyone = [value] * ranks.world_size
    if ranks.world_size > 1:
        dist.all_gather_object(everyone, value)
    return everyone


def broadcast_main(value: float, device: torch.device, ranks: RankInfo) -> float:
    """Return the main process's value on all processes."""
    if ranks.world_size == 1:
        return value
    tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.broadcast(tensor, src=0)
    return float(tensor.item())


def broadcast_bytes(data: bytes | None, device: torch.device, ranks: RankInfo) -> bytes | None:
    """Return the main process's bytes (or its None) on all processes."""
    if ranks.world_size == 1:
        return data
    length = torch.tensor(-1 if data is None else len(data), dtype=torch.int64, device=device)
    dist.broadcast(length, src=0)
    if (size := int(length.item())) < 0:
        return None
    buffer = torch.empty(size, dtype=torch.uint8, device=device)
    if ranks.is_main and data is not None:
        buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
    dist.broadcast(buffer, src=0)
    return buffer.cpu().numpy().tobytes()


def barrier(ranks: RankInfo) -> None:
    """Wait for all processes."""
    if ranks.world_size > 1:
        dist.barrier()
