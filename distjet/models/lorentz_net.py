"""LorentzNet: every particle of a jet, and both beams, exchange messages that no boost and no rotation of all of them changes.

Two things differ between the paper and the authors' code, whose choice is the default here: a four-vector moves by the mean of
phi_x (x_i - x_j), where the paper has the sum of phi_x x_j; and a jet is read as the mean over its particles and beams, where
the authors' code divides by the length to which the batch was padded, so that the score of a jet depends on its neighbours in
the batch. `padded_length` gives their score where that length is known.

The clamp of what moves a four-vector is theirs, too, and has a frame: scores are invariant as long as nothing comes near it.

Reference:
    S. Gong et al., "An efficient Lorentz equivariant graph neural network for jet tagging", arXiv:2201.08187.
"""

import dataclasses
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.tagger import TaggerNetwork, TaggerSpec
from distjet.models.tagger_configs import LorentzNetConfig
from distjet.nn.batch_norm import BatchNorm
from distjet.nn.edge_sums import mean_at_targets, mean_over_nodes, takes_kernels
from distjet.nn.lorentz_message_kernels import MAX_MOVE
from distjet.nn.lorentz_messages import How, Messages
from distjet.nn.minkowski import block_invariants, block_places, inner, pair_invariants, psi
from distjet.nn.pair_moments import Moments
from distjet.nn.segments import segment_sum

BEAMS = ((0.0, 0.0, 1.0, 2.0**0.5), (0.0, 0.0, -1.0, 2.0**0.5))
"Four-vectors (px, py, pz, E) in GeV of the beams, of mass 1: they break the symmetry that collisions do not have."
NUM_SCALARS = 2
"Of a particle: psi of its mass, in the first place for a constituent and in the second for a beam."


class LorentzNet(TaggerNetwork):
    """Blocks of messages between all particles of a jet, and the mean over them."""

    Config = LorentzNetConfig
    makes_nodes = True
    reads_edges = True

    def __init__(self, config: LorentzNetConfig, spec: TaggerSpec) -> None:
        super().__init__()
        width = config.width
        self.padded_length = config.padded_length
        self.embed = nn.Linear(NUM_SCALARS, width)
        moves = [True] * (config.num_blocks - 1) + [False]  # what moves last would not be read
        self.blocks = nn.ModuleList(LorentzBlock(config, moves_p4) for moves_p4 in moves)
        hidden = [nn.Linear(width + spec.num_jet, width), nn.ReLU(), nn.Dropout(config.dropout)]
        self.classify = nn.Sequential(*hidden, nn.Linear(width, spec.num_classes))

    def on_host(self, batch: GraphBatch) -> GraphBatch:
        """Put the beams before the constituents of each jet: x (N + 2 B, 2), p4 (N + 2 B, 4), with all pairs as edges."""
        ptr = batch.ptr + 2 * torch.arange(batch.num_graphs + 1)
        is_beam = torch.zeros(batch.num_nodes + 2 * batch.num_graphs, dtype=torch.bool)
        is_beam[ptr[:-1]] = is_beam[ptr[:-1] + 1] = True
        p4 = batch.p4.new_empty(len(is_beam), 4)
        p4[is_beam] = p4.new_tensor(BEAMS).repeat(batch.num_graphs, 1)
        p4[~is_beam] = batch.p4
        mass = inner(p4.double(), p4.double()).abs().sqrt()
        x = psi(torch.stack([mass * ~is_beam, mass * is_beam], dim=1)).to(p4.dtype)
        sizes = ptr.diff()
        num_edges = int((sizes * (sizes - 1)).sum())
        return dataclasses.replace(batch, x=x, p4=p4, ptr=ptr, edge_degrees=None, edge_ends=None, num_edges=num_edges)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Map particles and beams to logits of shape (B, num_classes)."""
        scalars, p4 = self.embed(batch.x), batch.p4
        for block in self.blocks:
            scalars, p4 = block(scalars, p4, batch)
        return self.classify(torch.cat([self._mean(scalars, batch), batch.u], dim=1))

    def _mean(self, scalars: Tensor, batch: GraphBatch) -> Tensor:
        if self.padded_length is None:
            return mean_over_nodes(scalars, batch.batch, batch.num_graphs)
        return segment_sum(scalars, batch.batch, batch.num_graphs) / self.padded_length


class LorentzBlock(nn.Module):
    """Messages between all pairs of particles, which change their scalars and move their four-vectors."""

    def __init__(self, config: LorentzNetConfig, moves_p4: bool) -> None:
        super().__init__()
        width = config.width
        self.width, self.step, self.by_difference = width, config.coordinate_step, config.coordinate_update == "mean_difference"
        self.first = nn.Linear(2 * width + 2, width, bias=False)
        self.normalise = BatchNorm(width)
        self.second = nn.Linear(width, width)
        self.gate = nn.Linear(width, 1)
        self.move = _factor_of_move(width) if moves_p4 else None
        inputs = nn.Linear(2 * width + NUM_SCALARS, width)
        self.update = nn.Sequential(inputs, BatchNorm(width), nn.ReLU(), nn.Linear(width, width))

    def forward(self, scalars: Tensor, p4: Tensor, batch: GraphBatch) -> tuple[Tensor, Tensor]:
        """Map scalars (N, width) and four-vectors (N, 4) to the next ones."""
        as_target, as_source, of_pair = self._once_per_node(scalars)
        send = self._send_compiled if takes_kernels(as_target, p4) else self._send
        message, move = send(as_target, as_source, of_pair, p4, batch)
        scalars = scalars + self.update(torch.cat([scalars, message, batch.x], dim=1))
        return scalars, p4 if move is None else p4 + self.step * move

    def _once_per_node(self, scalars: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Parts of the first layer: of a node as target and as source of a pair, and the weights (2, width) of invariants."""
        target, source, of_pair = self.first.weight.split([self.width, self.width, 2], dim=1)
        as_target, as_source = linear(scalars, torch.cat([target, source])).split(self.width, dim=1)
        return as_target, as_source, of_pair.T

    def _send(
        self, as_target: Tensor, as_source: Tensor, of_pair: Tensor, p4: Tensor, batch: GraphBatch
    ) -> tuple[Tensor, Tensor | None]:
        """Return sums of messages (N, width), and what moves four-vectors (N, 4), with operations of torch."""
        source, target = batch.edge_index
        invariants = pair_invariants(p4, batch.edge_index.flip(0))
        edges = as_target.index_select(0, target) + as_source.index_select(0, source) + invariants.to(of_pair.dtype) @ of_pair
        message = self.second(self.normalise(edges).relu()).relu()
        message = message * self.gate(message).sigmoid()
        total = segment_sum(message, target, as_target.shape[0])
        if self.move is None:
            return total, None
        factor, of_source = self.move(message).to(p4.dtype), p4.index_select(0, source)
        if not self.by_difference:
            return total, segment_sum(factor * of_source, target, p4.shape[0])
        steps = (factor * (p4.index_select(0, target) - of_source)).clamp(-MAX_MOVE, MAX_MOVE)
        return total, mean_at_targets(steps, batch.edge_index, p4.shape[0])

    def _send_compiled(
        self, as_target: Tensor, as_source: Tensor, of_pair: Tensor, p4: Tensor, batch: GraphBatch
    ) -> tuple[Tensor, Tensor | None]:
        """Return the same, with compiled loops over the pairs of each jet."""
        places, invariants = block_places(batch.ptr), block_invariants(p4, batch.ptr)
        scale, shift = self._fold(as_target, as_source, of_pair, invariants, batch.ptr, places)
        as_target, as_source, of_pair = as_target * scale + shift, as_source * scale, of_pair * scale
        gate = (self.gate.weight[0], self.gate.bias)
        second = (self.second.weight, self.second.bias)
        without = (*second, self.gate.weight)  # any of the same shapes
        weight, bias, factor = without if self.move is None else self.move.parameters()
        how = How(self.move is not None, self.by_difference, torch.is_grad_enabled())
        parts = (as_target, as_source, of_pair, *second, *gate, weight, bias, factor[0], p4, invariants, batch.ptr)
        message, moved = Messages.apply(how, *parts)
        return message, None if self.move is None else moved

    def _fold(self, *parts: Tensor) -> tuple[Tensor, Tensor]:
        """Factor and shift of each column that normalise the first layer over all pairs."""
        normalise, dtype = self.normalise, parts[0].dtype
        assert normalise.running_mean is not None
        assert normalise.running_var is not None
        mean, variance = normalise.running_mean, normalise.running_var
        if normalise.training:
            sizes = parts[4].diff()
            number = (sizes * (sizes - 1)).sum().double()
            mean, squares = Moments.apply(*parts) / number.clamp(min=1)
            number, mean, variance = normalise.over_processes(number, mean, squares - mean.square())
            normalise.remember(number, mean, variance)
        scale = normalise.weight / torch.sqrt(variance + normalise.eps)
        return scale.to(dtype), (normalise.bias - mean * scale).to(dtype)


def _factor_of_move(width: int) -> nn.Sequential:
    """What a message multiplies the difference of two four-vectors with; small at first."""
    last = nn.Linear(width, 1, bias=False)
    nn.init.xavier_uniform_(last.weight, gain=0.001)
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), last)


RELEASED_NAMES = (
    (r"^module\.", ""),
    (r"^embedding\.", "embed."),
    (r"^LGEBs\.", "blocks."),
    (r"\.phi_e\.0\.", ".first."),
    (r"\.phi_e\.1\.", ".normalise."),
    (r"\.phi_e\.3\.", ".second."),
    (r"\.phi_m\.0\.", ".gate."),
    (r"\.phi_x\.", ".move."),
    (r"\.phi_h\.", ".update."),
    (r"^graph_dec\.", "classify."),
)
"Parts of the names of the authors' implementation, and of ours."


def from_released(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of the authors' implementation under our names; `load_state_dict` takes them strictly.

    Their scores come with `padded_length` = the largest number of constituents in their batch + 2.

    Args:
        weights: What github.com/sdogsq/LorentzNet-release has saved.
    """
    return {_our_name(name): value for name, value in weights.items()}


def _our_name(name: str) -> str:
    for theirs, ours in RELEASED_NAMES:
        name = re.sub(theirs, ours, name)
    return name
