"""How do weights that weaver-core has trained get into a network of distjet?

Every tensor of the checkpoint is used and every parameter is filled, or an error names the one that is not. What a checkpoint
does not tell is the number of neighbours, and what the inputs are: their names, their order and how they were scaled.

Reference:
    H. Qu and L. Gouskos, "ParticleNet", arXiv:1902.08570; H. Qu, C. Li and S. Qian, "Particle Transformer for jet tagging",
    arXiv:2202.03772 (weights trained on JetClass).
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from distjet.errors import DataError
from distjet.models.particle_net import ParticleNet
from distjet.models.tagger import TaggerSpec
from distjet.models.tagger_configs import ParticleNetConfig

PREFIX = "mod."
"Before every name, where the network was saved with what scales its inputs."

JETCLASS_SCALES = {
    "log_pt": (1.7, 0.7),
    "log_energy": (2.0, 0.7),
    "log_pt_fraction": (-4.7, 0.7),
    "log_energy_fraction": (-4.7, 0.7),
    "delta_r": (0.2, 4.0),
    "delta_eta": (0.0, 1.0),
    "delta_phi": (0.0, 1.0),
}
"""Inputs of the weights that were published with JetClass, in their order: each is (value - first) * second, clipped to
[-5, 5]. There, delta_eta has the sign of the pseudorapidity of the jet: it is positive away from the centre of the detector."""


def particle_net_from_weaver(
    state: Mapping[str, Tensor], num_neighbours: int = 16, inputs: Sequence[str] = tuple(JETCLASS_SCALES)
) -> tuple[ParticleNetConfig, dict[str, Tensor]]:
    """Translate a checkpoint of weaver-core's ParticleNet.

    Args:
        state: Tensors by their names there.
        num_neighbours: Of its edge convolutions, which the checkpoint does not tell; 16 as published, 7 for ParticleNet-Lite.
        inputs: Names of its inputs, in its order.

    Returns:
        The configuration of the network, and the state for its `load_state_dict`.

    Raises:
        DataError: If a tensor is missing, has another shape than the rest of the network asks for, or has no place.
    """
    given = {name.removeprefix(PREFIX): tensor.detach().cpu() for name, tensor in state.items()}
    config, num_classes = _configuration(given, num_neighbours, inputs)
    network = ParticleNet(config, TaggerSpec(len(inputs), 0, num_classes))
    result = {}
    for name, parameter in network.state_dict().items():
        theirs = _their_name(name, len(config.hidden))
        if theirs not in given:
            raise DataError(f"the checkpoint has no tensor {theirs!r}; is it one of weaver-core's ParticleNet?")
        result[name] = _in_our_shape(given.pop(theirs), parameter.shape, theirs)
    if given:
        raise DataError(
            f"the checkpoint has a tensor {next(iter(given))!r}, which has no place in a ParticleNet of {config.blocks}"
        )
    return config, result


def particle_net_weights(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Translate a checkpoint for a network whose configuration is known; see `particle_net_from_weaver`."""
    num_inputs = len(_find({name.removeprefix(PREFIX): tensor for name, tensor in state.items()}, "bn_fts.weight"))
    return particle_net_from_weaver(state, inputs=[f"input_{number}" for number in range(num_inputs)])[1]


def _configuration(given: Mapping[str, Tensor], num_neighbours: int, inputs: Sequence[str]) -> tuple[ParticleNetConfig, int]:
    """Read sizes off the shapes of the weights, also the number of classes."""
    num_inputs = len(_find(given, "bn_fts.weight"))
    if num_inputs != len(inputs):
        raise DataError(
            f"the checkpoint reads {num_inputs} inputs; name them, in its order (got {len(inputs)}: {list(inputs)})"
        )
    blocks: list[tuple[int, ...]] = []
    while any(name.startswith(f"edge_convs.{len(blocks)}.") for name in given):
        blocks.append(_widths(given, f"edge_convs.{len(blocks)}.convs.{{}}.weight"))
    hidden = _widths(given, "fc.{}.0.weight")
    num_classes = len(_find(given, f"fc.{len(hidden)}.weight"))
    sizes = {"blocks": tuple(blocks), "hidden": hidden, "use_fusion": "fusion_block.0.weight" in given}
    if not all(blocks) or not blocks:
        raise DataError(f"the checkpoint has no tensor 'edge_convs.{len(blocks) - 1 if blocks else 0}.convs.0.weight'")
    return ParticleNetConfig(inputs=tuple(inputs), num_neighbours=num_neighbours, max_scaled=5.0, **sizes), num_classes


def _widths(given: Mapping[str, Tensor], pattern: str) -> tuple[int, ...]:
    """Outputs of consecutive layers."""
    widths: list[int] = []
    while (name := pattern.format(len(widths))) in given:
        widths.append(len(given[name]))
    return tuple(widths)


def _find(given: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in given:
        raise DataError(f"the checkpoint has no tensor {name!r}; is it one of weaver-core's ParticleNet?")
    return given[name]


def _their_name(name: str, num_hidden: int) -> str:
    """Name of one of our tensors in weaver-core."""
    room, *path = name.split(".")
    if room == "normalise":
        return ".".join(["bn_fts", *path])
    if room == "fusion":
        return ".".join(["fusion_block", *path])
    if room == "read_out":
        layer = int(path[0]) // 3  # linear, ReLU, dropout
        return ".".join(["fc", str(layer), *(["0"] if layer < num_hidden else []), *path[1:]])
    block, part, number, *rest = path
    if part == "shortcut":
        return ".".join(["edge_convs", block, ("sc", "sc_bn")[int(number)], *rest])
    return ".".join(["edge_convs", block, {"layers": "convs", "norms": "bns"}[part], number, *rest])


def _in_our_shape(tensor: Tensor, shape: torch.Size, name: str) -> Tensor:
    """Drop the axes of size 1 of a convolution over edges."""
    if tensor.shape[: len(shape)] != shape or tensor.numel() != shape.numel():
        raise DataError(f"the checkpoint's tensor {name!r} has shape {tuple(tensor.shape)}; expected {tuple(shape)}")
    return tensor.reshape(shape).clone()
