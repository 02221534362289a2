"""How do several networks of one architecture train in one process, on one reading of the data?

Their parameters stand in one tensor each, with the member as the first dimension. An optimiser that treats every number on its
own (all of Adam's kind) then makes the steps of separate trainings, in a few large operations instead of many small ones; only
the norm of the gradient has to be clipped member by member. `vmap` turns the layers into batched products, one kernel for all
members, which a GPU needs for networks that are too small to fill it. A core of a CPU is busy with one member already: there, a
batched product of five networks takes as long as five products, or longer where its results no longer fit into the cache, so
the members are evaluated one after the other. What is saved on a CPU is all that is not the network: reading and preparing
batches. Functions with a backward of their own, such as compiled kernels for the CPU, need `loop`.

A batch norm keeps the moments of each member in either way.
"""

import copy
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap


class StackedEnsemble(nn.Module):
    """Networks of one architecture, which see the same batch.

    Attributes:
        num_members: Number of networks M.
        stacked_dims: Leading dimensions of each parameter that count members (for the optimiser, which decays matrices alone).
        skeleton: One of the networks, with the parameters of all; it has no meaning on its own.
    """

    stacked_dims = 1

    def __init__(self, members: Sequence[nn.Module], how: Literal["auto", "vmap", "loop"] = "auto") -> None:
        """Copy the members' parameters and buffers.

        Args:
            members: Networks that differ in the values of parameters and buffers alone.
            how: `vmap` evaluates all members at once, `loop` one after the other; `auto` takes `vmap` on a GPU.

        Raises:
            ValueError: If the networks are not of one architecture.
        """
        super().__init__()
        if how not in ("auto", "vmap", "loop"):
            raise ValueError(f"how must be one of auto, vmap, loop (got {how!r})")
        _check_likeness(members)
        self.num_members, self.how = len(members), how
        self.skeleton = copy.deepcopy(members[0])
        stacked: dict[int, Tensor] = {}  # a tensor that two layers share stays one
        for name, part in self.skeleton.named_modules():
            peers = [member.get_submodule(name) for member in members]
            for kind in ("_parameters", "_buffers"):
                tensors = getattr(part, kind)
                for key, value in tensors.items():
                    if value is not None:
                        if id(value) not in stacked:
                            stacked[id(value)] = _stack([getattr(peer, kind)[key] for peer in peers])
                        tensors[key] = stacked[id(value)]

    def forward(self, *inputs: Any) -> Tensor:
        """Evaluate all members.

        Args:
            inputs: Of each of them; one must return one tensor.

        Returns:
            What they return, with the member as the first dimension: (M, B, C) for logits of shape (B, C).
        """
        stacked: dict[str, Tensor] = {**dict(self.skeleton.named_parameters()), **dict(self.skeleton.named_buffers())}
        if self.how == "vmap" or (self.how == "auto" and next(iter(stacked.values())).is_cuda):

            def member(state: dict[str, Tensor]) -> Tensor:
                return functional_call(self.skeleton, state, inputs)

            return vmap(member, randomness="different")(stacked)
        # unbind, not an index: its gradients are stacked once instead of added up in a tensor of zeros for each member
        unbound = {name: value.unbind() for name, value in stacked.items()}
        states = ({name: values[m] for name, values in unbound.items()} for m in range(self.num_members))
        return torch.stack([functional_call(self.skeleton, state, inputs) for state in states])

    def unstack(self) -> list[dict[str, Tensor]]:
        """Return the state dict of each member, as the member alone would have it."""
        state = {name: value.unbind() for name, value in self.skeleton.state_dict().items()}
        return [{name: values[m].clone() for name, values in state.items()} for m in range(self.num_members)]

    def clip_gradients(self, max_norm: float) -> Tensor:
        """Clip the norm of each member's gradient, as `torch.nn.utils.clip_grad_norm_` does for a member alone.

        Returns:
            The norms before, shape (M,); nothing is copied to the host.
        """
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norms = torch.stack([gradient.reshape(self.num_members, -1).norm(dim=1) for gradient in gradients]).norm(dim=0)
        factor = (max_norm / (norms + 1e-6)).clamp(max=1.0)
        for gradient in gradients:
            gradient.mul_(factor.view(-1, *[1] * (gradient.ndim - 1)))
        return norms


def _stack(values: Sequence[Tensor]) -> Tensor:
    stacked = torch.stack([value.detach() for value in values])
    return nn.Parameter(stacked, values[0].requires_grad) if isinstance(values[0], nn.Parameter) else stacked


def _check_likeness(members: Sequence[nn.Module]) -> None:
    if not members:
        raise ValueError("an ensemble needs at least one network")
    architectures = [{name: value.shape for name, value in member.state_dict().items()} for member in members]
    for number, (member, shapes) in enumerate(zip(members, architectures, strict=True)):
        if type(member) is not type(members[0]) or shapes != architectures[0]:
            raise ValueError(f"members of a stacked ensemble have one architecture; member {number} differs from member 0")
        if member.training != members[0].training:
            raise ValueError(
                f"members of a stacked ensemble are all in training or none is; member {number} differs from member 0"
            )
