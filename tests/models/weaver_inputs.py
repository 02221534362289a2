"""What weaver-core's networks read, made of a batch of jets, and weights with which nothing they do is too small to see."""

import dataclasses

import torch
from torch import Tensor, nn

from distjet.dataset.streaming.batch import GraphBatch


def padded(values: Tensor, batch: GraphBatch) -> Tensor:
    """Fill nodes (N, C) up with zeros to (B, C, length), where length is that of the longest jet, but at least 32."""
    length = max(32, int(batch.ptr.diff().max()))
    result = values.new_zeros(batch.num_graphs, values.shape[1], length)
    for graph, (lo, hi) in enumerate(zip(batch.ptr[:-1].tolist(), batch.ptr[1:].tolist(), strict=True)):
        result[graph, :, : hi - lo] = values[lo:hi].T
    return result


def mask(batch: GraphBatch) -> Tensor:
    """1 where there is a constituent, shape (B, 1, length)."""
    return padded(torch.ones_like(batch.p4[:, :1]), batch)


def points(batch: GraphBatch) -> Tensor:
    """Rapidity and azimuth of the constituents, shape (B, 2, length)."""
    px, py, pz, energy = batch.p4.unbind(1)
    rapidity = 0.5 * torch.log((energy + pz) / (energy - pz))
    return padded(torch.stack([rapidity, torch.atan2(py, px)], dim=1), batch)


def to_double(batch: GraphBatch) -> GraphBatch:
    """Take a batch in float64, with massive constituents, as real ones are: a mass of 0 is not more than rounding."""
    p4 = batch.p4.double()
    p4[:, 3] = (p4[:, :3].square().sum(1) + 0.14**2).sqrt()
    return dataclasses.replace(batch, x=batch.x.double(), u=batch.u.double(), p4=p4)


@torch.no_grad()
def randomise(network: nn.Module) -> None:
    """Give vectors (biases, scales, running moments) numbers that differ from where they start."""
    torch.manual_seed(1)
    for name, parameter in network.named_parameters():
        if parameter.dim() == 1 or name.endswith("gamma"):
            parameter.add_(0.5 * torch.rand(parameter.shape) + 0.2)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.copy_(torch.rand(buffer.shape) - 0.5)
        if name.endswith("running_var"):
            buffer.copy_(torch.rand(buffer.shape) + 0.5)
