"""Particle Transformer: attention among all constituents of a jet, which knows what pairs of them have to do with each other.

Constituents are embedded, and updated by blocks of attention whose logits get a bias from a network of four pairwise features,
which is evaluated once for all blocks. Then a token, the same for every jet, attends to the constituents of its jet in two
further blocks, and what it has become is read out.

Reference:
    H. Qu, C. Li, S. Qian, "Particle Transformer for Jet Tagging", arXiv:2202.03772; normalisations and scales within a block
    follow arXiv:2110.09456, the token arXiv:2103.17239.
"""

import dataclasses
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.tagger import TaggerNetwork, TaggerSpec
from distjet.models.tagger_configs import ParticleTransformerConfig
from distjet.nn.batch_norm import BatchNorm
from distjet.nn.dropout import Dropout
from distjet.nn.pairwise import NUM_PAIRWISE, edge_features
from distjet.nn.ragged_attention import Pairs, RaggedAttention, attend_with_tokens
from distjet.nn.tracing import is_traced
from distjet.nn.weighted_batch_norm import WeightedBatchNorm


class ParticleTransformer(TaggerNetwork):
    """Attention with a bias of pairs, read out by a token."""

    Config = ParticleTransformerConfig

    def __init__(self, config: ParticleTransformerConfig, spec: TaggerSpec) -> None:
        super().__init__()
        self.max_constituents = config.max_constituents
        self.norm_in = BatchNorm(spec.num_node)
        self.embed = _embedding([spec.num_node, *config.embed_hidden, config.width])
        self.pair_bias = PairBias(config.pair_hidden, config.num_heads)
        self.blocks = nn.ModuleList(AttentionBlock(config, config.dropout) for _ in range(config.num_blocks))
        self.class_blocks = nn.ModuleList(ClassAttentionBlock(config, dropout=0.0) for _ in range(config.num_class_blocks))
        self.token = nn.Parameter(torch.zeros(config.width))
        self.norm = nn.LayerNorm(config.width)
        self.read_out = nn.Linear(config.width + spec.num_jet, spec.num_classes)
        self._start()

    def on_host(self, batch: GraphBatch) -> GraphBatch:
        """Leave the sizes of the jets on the host, where they decide how constituents are laid out."""
        return dataclasses.replace(batch, sizes=batch.ptr.diff().numpy())

    def forward(self, batch: GraphBatch) -> Tensor:
        """Map a batch to logits (B, num_classes)."""
        layout = self._layout(batch)
        biases = layout.blocks_of_bias(self.pair_bias(batch.p4, layout.pairs))
        nodes = self.embed(self.norm_in(batch.x))
        for block in self.blocks:
            nodes = block(nodes, layout, biases)
        tokens = self.token.expand(batch.num_graphs, -1)
        for block in self.class_blocks:
            tokens = block(tokens, nodes, batch.batch)
        jets = self.norm(tokens)
        return self.read_out(torch.cat([jets, batch.u.to(jets.dtype)], dim=1))

    def _layout(self, batch: GraphBatch) -> RaggedAttention:
        sizes = batch.sizes
        if sizes is None and batch.ptr.device.type == "cpu" and not is_traced():
            sizes = batch.ptr.diff().numpy()
        if sizes is None or is_traced():
            return RaggedAttention.of_length(self.max_constituents, batch.ptr, batch.num_nodes)
        return RaggedAttention.of_sizes(sizes, batch.ptr, batch.batch)

    @torch.no_grad()
    def _start(self) -> None:
        """Begin with weights of Glorot and Bengio, those of queries, keys and values each on its own, without biases.

        What a block adds is smaller the later it comes: what all of them add is then of the size of one.
        """
        outside_pairs = (module for name, module in self.named_modules() if not name.startswith("pair_bias"))
        for linear in (module for module in outside_pairs if isinstance(module, nn.Linear)):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)
        for attention in (module for module in self.modules() if isinstance(module, Attention)):
            for part in attention.project_in.weight.chunk(3):
                nn.init.xavier_uniform_(part)
        for number, block in enumerate(cast("list[AttentionBlock]", list(self.blocks)), start=1):
            block.attention.project_out.weight /= math.sqrt(2 * number)
            block.feed_forward.linear_out.weight /= math.sqrt(2 * number)
        nn.init.trunc_normal_(self.token, std=0.02)


class PairBias(nn.Module):
    """A network from the pairwise features of two constituents to a bias for each head."""

    def __init__(self, hidden: Sequence[int], num_heads: int) -> None:
        super().__init__()
        widths = [NUM_PAIRWISE, *hidden, num_heads]
        layers: list[nn.Module] = [WeightedBatchNorm(NUM_PAIRWISE)]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), WeightedBatchNorm(after), nn.GELU()]
        self.layers = nn.ModuleList(layers[:-1])

    def forward(self, p4: Tensor, pairs: Pairs) -> Tensor:
        """Map constituents (N, 4) in GeV and their pairs to biases (P, num_heads)."""
        values = edge_features(p4, pairs.first, pairs.second)
        for layer in self.layers:
            values = layer(values, pairs.weights) if isinstance(layer, WeightedBatchNorm) else layer(values)
        return values


class Attention(nn.Module):
    """The linear maps around attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)


class FeedForward(nn.Module):
    """A hidden layer, normalised, beside a shortcut with a scale for each channel."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear_in = nn.Linear(width, hidden)
        self.norm_hidden = nn.LayerNorm(hidden)
        self.linear_out = nn.Linear(hidden, width)
        self.residual_scale = nn.Parameter(torch.ones(width))
        self.dropout = Dropout(dropout)

    def forward(self, values: Tensor) -> Tensor:
        """Map rows (R, width) to the same shape."""
        hidden = self.dropout(nn.functional.gelu(self.linear_in(self.norm(values))))
        return self.dropout(self.linear_out(self.norm_hidden(hidden))) + self.residual_scale * values


class _Block(nn.Module):
    """What the two kinds of blocks have in common."""

    def __init__(self, config: ParticleTransformerConfig, dropout: float) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.norm_attention = nn.LayerNorm(config.width)
        self.attention = Attention(config.width)
        self.head_scale = nn.Parameter(torch.ones(config.num_heads))
        self.norm_attended = nn.LayerNorm(config.width)
        self.dropout = Dropout(dropout)
        self.feed_forward = FeedForward(config.width, config.expansion * config.width, dropout)

    def _finish(self, attended: Tensor, residual: Tensor) -> Tensor:
        """Project, scale heads, normalise, add the shortcut, and go through the hidden layer."""
        heads = self.attention.project_out(attended).unflatten(1, (self.num_heads, -1))
        scaled = (heads * self.head_scale.unsqueeze(1)).flatten(1)
        return self.feed_forward(self.dropout(self.norm_attended(scaled)) + residual)


class AttentionBlock(_Block):
    """Constituents attend to the constituents of their jet."""

    def forward(self, nodes: Tensor, layout: RaggedAttention, biases: Sequence[Tensor]) -> Tensor:
        """Map constituents (N, width) to the same shape."""
        projected = self.attention.project_in(self.norm_attention(nodes))
        share = self.dropout.p if self.training else 0.0
        return self._finish(layout.attend(projected, biases, share), nodes)


class ClassAttentionBlock(_Block):
    """A token attends to the constituents of its jet, and to itself."""

    def forward(self, tokens: Tensor, nodes: Tensor, batch: Tensor) -> Tensor:
        """Map tokens (B, width) to the same shape; constituents (N, width) stay as they are."""
        width = tokens.shape[1]
        weight, bias = self.attention.project_in.weight, self.attention.project_in.bias
        queries = nn.functional.linear(tokens, weight[:width], bias[:width])
        of_nodes, of_tokens = (
            nn.functional.linear(self.norm_attention(values), weight[width:], bias[width:]) for values in (nodes, tokens)
        )
        return self._finish(attend_with_tokens(queries, (of_nodes, of_tokens), batch, self.num_heads), tokens)


def _embedding(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.LayerNorm(before), nn.Linear(before, after), nn.GELU()]
    return nn.Sequential(*layers)
