"""Attention among the constituents of jets of all sizes, with little padding.

Everything but the attention itself works on flat constituents. For the attention, jets of about the same size are put into one
dense block, so that little is filled up; which jets these are is decided on the host, from sizes that are known there. Where
they are not known (a compiler and an exporter see no numbers), there is one block of a fixed length.

A bias of the attention belongs to a pair of constituents in either order. Its network sees every pair once, (a, b) with b not
after a, and blocks take its results from where they are.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from distjet.nn.dropout import dropout
from distjet.nn.segments import segment_softmax, segment_sum

GRANULARITY = 16
"Jets are in one block if their sizes, in units of this, are the same when rounded up."


class Block(NamedTuple):
    """Jets of about the same size, side by side."""

    num_jets: int
    length: int
    "Slots for constituents of each jet."
    places: Tensor
    "Where the bias of each pair of slots is in what `RaggedAttention.blocks_of_bias` reads, shape (num_jets * length^2,)."


class Pairs(NamedTuple):
    """Pairs of constituents of the same jet."""

    first: Tensor
    "Constituent, or N if a pair is none, shape (P,)."
    second: Tensor
    "The other, shape (P,)."
    weights: Tensor | None
    "1.0 for a pair, 0.0 if it is none, shape (P,); None if all are pairs."


class RaggedAttention(NamedTuple):
    """How N flat constituents stand in dense blocks; made once per batch."""

    blocks: Sequence[Block]
    rows: Tensor
    "Constituent in each slot of all blocks, or N if there is none, shape (R,)."
    slots: Tensor
    "Slot of each constituent, shape (N,)."
    pairs: Pairs

    @classmethod
    def of_sizes(cls, sizes: np.ndarray, ptr: Tensor, batch: Tensor) -> "RaggedAttention":
        """Group jets by their sizes.

        Args:
            sizes: Constituents of each jet, on the host, shape (B,).
            ptr: First constituent of each jet and, last, N, shape (B + 1,).
            batch: Jet of each constituent, shape (N,).
        """
        num_nodes, num_pairs = int(sizes.sum()), int((sizes * (sizes + 1) // 2).sum())
        first_of_node, pairs = _lower_triangles(ptr, batch, num_pairs)
        steps = -(-sizes // GRANULARITY)
        jets = torch.from_numpy(np.argsort(steps, kind="stable")).to(ptr.device)
        lengths, counts = np.unique(steps, return_counts=True)
        is_filled = lengths > 0  # a jet without constituents has no slots
        jets, lengths, counts = jets[int(counts[~is_filled].sum()) :], lengths[is_filled] * GRANULARITY, counts[is_filled]
        blocks, rows = [], []
        for some, length in zip(jets.split(counts.tolist()), lengths.tolist(), strict=True):
            nodes = _slots_of(some, length, ptr)
            rows.append(nodes.flatten())
            later, earlier = _ordered(length, ptr.device)
            of_later = first_of_node.index_select(0, nodes.flatten()).reshape(nodes.shape)[:, later]
            blocks.append(Block(len(some), length, _with_mask(of_later + earlier, nodes < num_nodes, num_pairs)))
        everything = torch.cat(rows) if rows else ptr[:0]
        return cls(blocks, everything, _places_of(everything, num_nodes), pairs)

    @classmethod
    def of_length(cls, length: int, ptr: Tensor, num_nodes: int) -> "RaggedAttention":
        """Put all jets into one block.

        Args:
            length: Slots for each jet; constituents beyond are not attended to.
            ptr: First constituent of each jet and, last, N, shape (B + 1,).
            num_nodes: N.
        """
        num_jets = ptr.shape[0] - 1
        nodes = _slots_of(torch.arange(num_jets, device=ptr.device), length, ptr)
        is_real = nodes < num_nodes
        hi, lo = torch.tril_indices(length, length, device=ptr.device)
        weights = (is_real[:, hi] & is_real[:, lo]).flatten().float()
        later, earlier = _ordered(length, ptr.device)
        first = torch.arange(num_jets, device=ptr.device)[:, None, None] * hi.shape[0]
        places = _with_mask(first + later * (later + 1) // 2 + earlier, is_real, weights.shape[0])
        pairs = Pairs(nodes[:, hi].flatten(), nodes[:, lo].flatten(), weights)
        rows = nodes.flatten()
        return cls([Block(num_jets, length, places)], rows, _places_of(rows, num_nodes), pairs)

    def blocks_of_bias(self, values: Tensor) -> list[Tensor]:
        """Put the biases of pairs (P, H) into blocks of shape (num_jets, H, length, length).

        A constituent does not attend to an empty slot: the bias is -inf. What attends is never without anything to attend to,
        so that an empty slot attends to nothing that matters, evenly.
        """
        padding = values.new_tensor([-torch.inf, 0.0]).unsqueeze(1).expand(2, values.shape[1])
        known = torch.cat([values, padding])
        num_heads = values.shape[1]
        return [
            known.index_select(0, block.places)
            .reshape(block.num_jets, block.length, block.length, num_heads)
            .permute(0, 3, 1, 2)
            .contiguous()
            for block in self.blocks
        ]

    def attend(self, projected: Tensor, biases: Sequence[Tensor], share: float) -> Tensor:
        """Attend within each jet.

        Args:
            projected: Queries, keys and values side by side, shape (N, 3 D).
            biases: Of `blocks_of_bias`; they say the number of heads.
            share: Of the attention that is dropped.

        Returns:
            Shape (N, D).
        """
        width = projected.shape[1] // 3
        slots = nn.functional.pad(projected, (0, 0, 0, 1)).index_select(0, self.rows)
        sizes = [block.num_jets * block.length for block in self.blocks]
        parts = slots.split(sizes) if len(sizes) > 1 else [slots] * len(sizes)
        attended = []
        for block, bias, part in zip(self.blocks, biases, parts, strict=True):
            shape = block.num_jets, block.length, 3, bias.shape[1], width // bias.shape[1]
            heads = part.reshape(shape).permute(2, 0, 3, 1, 4)
            queries, keys, values = heads.unbind(0)
            result = _attend(queries, keys, values, bias.to(heads.dtype), share)
            attended.append(result.transpose(1, 2).flatten(2).flatten(0, 1))
        return torch.cat(attended).index_select(0, self.slots) if attended else projected[:, :width]


def _attend(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor, share: float) -> Tensor:
    """Attention with shapes (..., length, channels), in whose weights a share is dropped."""
    is_exported = torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export()
    if (share == 0 or queries.device.type != "cpu") and not is_exported:
        return nn.functional.scaled_dot_product_attention(queries, keys, values, bias, share)
    # written out: an exporter takes the layout in memory of the fused one for that of any other, and on a CPU, where the fused
    # one does without dropout, random numbers come faster
    logits = bias + (queries / math.sqrt(queries.shape[-1])) @ keys.transpose(-2, -1)
    return dropout(logits.softmax(-1), share) @ values


def _slots_of(jets: Tensor, length: int, ptr: Tensor) -> Tensor:
    """Constituent in each slot of some jets, N if there is none, shape (len(jets), length)."""
    nodes = ptr[jets].unsqueeze(1) + torch.arange(length, device=ptr.device)
    return torch.where(nodes < ptr[jets + 1].unsqueeze(1), nodes, ptr[-1])


def _places_of(rows: Tensor, num_nodes: int) -> Tensor:
    """Invert `rows`; what stands nowhere is in slot 0, which does not happen where jets fit."""
    slots = torch.zeros(num_nodes + 1, dtype=torch.long, device=rows.device)
    return slots.index_copy(0, rows, torch.arange(rows.shape[0], device=rows.device))[:num_nodes]


def _lower_triangles(ptr: Tensor, batch: Tensor, num_pairs: int) -> tuple[Tensor, Pairs]:
    """List the pairs of each jet; return the first pair of each constituent, (N + 1,), and the pairs."""
    nodes = torch.arange(batch.shape[0], device=ptr.device)
    start = ptr[batch]
    num_of_node = nodes - start + 1
    first = num_of_node.cumsum(0) - num_of_node
    later = torch.repeat_interleave(nodes, num_of_node, output_size=num_pairs)
    earlier = torch.arange(num_pairs, device=ptr.device) - first[later] + start[later]
    return nn.functional.pad(first, (0, 1)), Pairs(later, earlier, None)


def _ordered(length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The later and the earlier of each two slots, shapes (length, length)."""
    slot = torch.arange(length, device=device)
    return torch.maximum(slot[:, None], slot), torch.minimum(slot[:, None], slot)


def _with_mask(places: Tensor, is_real: Tensor, num_pairs: int) -> Tensor:
    """Let pairs with an empty slot point behind the pairs: one that attends to it, and one that it attends to."""
    places = torch.where(is_real.unsqueeze(1), places, num_pairs)
    return torch.where(is_real.unsqueeze(2), places, num_pairs + 1).flatten()


def attend_with_tokens(tokens: Tensor, keys_values: tuple[Tensor, Tensor], batch: Tensor, num_heads: int) -> Tensor:
    """Let one token per jet attend to itself and to the constituents of its jet.

    Args:
        tokens: Queries of the tokens, shape (B, D).
        keys_values: Keys and values side by side, of constituents (N, 2 D) and of tokens (B, 2 D).
        batch: Jet of each constituent, shape (N,).
        num_heads: Heads.

    Returns:
        Shape (B, D).
    """
    num_jets = tokens.shape[0]
    jets = torch.cat([batch, torch.arange(num_jets, device=batch.device)])
    keys, values = torch.cat(keys_values).unflatten(1, (2, num_heads, -1)).unbind(1)
    queries = tokens.unflatten(1, (num_heads, -1)).index_select(0, jets)
    logits = (queries * keys).sum(2) / math.sqrt(keys.shape[2])
    weights = segment_softmax(logits, jets, num_jets).to(values.dtype)
    return segment_sum((values * weights.unsqueeze(2)).flatten(1), jets, num_jets)
