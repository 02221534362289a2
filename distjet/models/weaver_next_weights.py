"""Weights of ParticleNeXt and Particle Transformer that weaver-core has trained, under the names that they have here.

Both networks are the same functions of the same parameters; only names and shapes differ, for weaver-core writes linear layers
as convolutions of length one. A name that is not in a table is an error, so that nothing is left out in silence.

Reference:
    weaver-core 0.5.3, `weaver/nn/model/ParticleNeXt.py` and `weaver/nn/model/ParticleTransformer.py`.
"""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from distjet.errors import ConfigError

Names = Sequence[tuple[str, str]]

PARTICLE_NEXT: Names = (
    (r"node_encode\.([01])", r"encode_node.\1"),
    (r"edge_encode\.0", "norm_edge"),
    (r"edge_encode\.1", "encode_edge"),
    (r"layers\.(\d+)\.node_encode\.(\d)", r"layers.\1.encode.\2"),
    (r"layers\.(\d+)\.edge_mlp\.0", r"layers.\1.message.norm_in"),
    (r"layers\.(\d+)\.edge_mlp\.2", r"layers.\1.message.linear_in"),
    (r"layers\.(\d+)\.edge_mlp\.3", r"layers.\1.message.norm_out"),
    (r"layers\.(\d+)\.edge_mlp\.5", r"layers.\1.message.linear_out"),
    (r"layers\.(\d+)\.edge_se\.fc\.0", r"layers.\1.gate.squeeze"),
    (r"layers\.(\d+)\.edge_se\.fc\.2", r"layers.\1.gate.excite"),
    (r"layers\.(\d+)\.sa\.(\d+)\.0", r"layers.\1.attention.\2.norm"),
    (r"layers\.(\d+)\.sa\.(\d+)\.2", r"layers.\1.attention.\2.score"),
    (r"layers\.(\d+)\.node_mlp\.(\d)", r"layers.\1.node_mlp.\2"),
    (r"layers\.(\d+)\.node_se\.fc\.0", r"layers.\1.node_gate.squeeze"),
    (r"layers\.(\d+)\.node_se\.fc\.2", r"layers.\1.node_gate.excite"),
    (r"layers\.(\d+)\.shortcut\.0", r"layers.\1.shortcut"),
    (r"layers\.(\d+)\.gamma", r"layers.\1.layer_scale"),
    (r"post\.0", "norm"),
    (r"sa", "pool.score"),
    (r"fc\.0\.0", "read_out.0"),
    (r"fc\.1", "read_out.3"),
)
"What a name of weaver-core begins with, as a regular expression, and what stands for it here."

PARTICLE_TRANSFORMER: Names = (
    (r"cls_token", "token"),
    (r"embed\.input_bn", "norm_in"),
    (r"embed\.embed\.(\d+)", r"embed.\1"),
    (r"pair_embed\.embed\.(\d+)", r"pair_bias.layers.\1"),
    *(
        (rf"{theirs}\.(\d+)\.{before}", rf"{ours}.\1.{after}")
        for theirs, ours in (("blocks", "blocks"), ("cls_blocks", "class_blocks"))
        for before, after in (
            (r"pre_attn_norm", "norm_attention"),
            (r"attn\.in_proj[._]", "attention.project_in."),
            (r"attn\.out_proj", "attention.project_out"),
            (r"post_attn_norm", "norm_attended"),
            (r"pre_fc_norm", "feed_forward.norm"),
            (r"fc1", "feed_forward.linear_in"),
            (r"post_fc_norm", "feed_forward.norm_hidden"),
            (r"fc2", "feed_forward.linear_out"),
            (r"c_attn", "head_scale"),
            (r"w_resid", "feed_forward.residual_scale"),
        )
    ),
    (r"norm", "norm"),
    (r"fc\.0", "read_out"),
)
"The same; of the network with one linear layer behind its last normalisation, which is the published one."


def particle_next_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the state of weaver-core's `ParticleNeXt`.

    Args:
        state: Its `state_dict`; a prefix that all names share, as `mod.`, is left out.

    Returns:
        A `state_dict` of `ParticleNext` of the same widths.

    Raises:
        ConfigError: If there is a name that the network does not have.
    """
    return _rename(state, PARTICLE_NEXT, "ParticleNeXt")


def particle_transformer_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the state of weaver-core's `ParticleTransformer`; as `particle_next_weights`."""
    return _rename(state, PARTICLE_TRANSFORMER, "ParticleTransformer")


def _rename(state: Mapping[str, Tensor], names: Names, network: str) -> dict[str, Tensor]:
    prefix = "mod." if all(name.startswith("mod.") for name in state) else ""
    result = {}
    for name, value in state.items():
        ours = _our_name(name.removeprefix(prefix), names, network)
        result[ours] = _without_length_one(value, ours)
    return result


def _our_name(name: str, names: Names, network: str) -> str:
    for theirs, ours in names:
        if found := re.match(theirs + r"(?=\.|$)" if not theirs.endswith("[._]") else theirs, name):
            return found.expand(ours) + name[found.end() :]
    raise ConfigError(f"{name!r} is no parameter of weaver-core's {network} with its published layers")


def _without_length_one(value: Tensor, name: str) -> Tensor:
    """Drop the trailing axes of a convolution of length one; the token of the jet is a row."""
    if name == "token":
        return value.reshape(-1)
    while value.dim() > 1 and value.shape[-1] == 1 and (value.dim() > 2 or name.endswith("layer_scale")):
        value = value.squeeze(-1)
    return torch.clone(value)
