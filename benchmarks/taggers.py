"""How fast are the taggers, next to the code of their authors? One JSON object on the last line.

    python -m benchmarks.taggers [--batch-size 128] [--rounds 5] [--only NAME ...] [--device cpu] [--bfloat16] [--compile]

ParticleNet, ParticleNeXt and Particle Transformer stand against those of weaver-core with the same weights, LundNet-5 against
our ParticleNet. Jets have 40 constituents in the mean (a gamma mixture of Poisson numbers, at most 128), as those of top quarks
and QCD have. weaver-core gets them as its configurations make them, padded to 128; `..._trimmed` is the same with its option to
cut the padding of a batch to its longest jet, which in training also drops the softest constituents of the longest jets.

A training step is: what the network needs made of a batch on the host, forward, cross entropy, backward, AdamW. On a CPU, the
process is pinned to one core and times are CPU seconds of all its threads; contestants take turns, and a ratio is the median
over the rounds. The first round, which compiles, does not count.

- `NAME.jets_per_s_train`, `NAME.jets_per_s_infer`; `speedup_vs_weaver_train`, `speedup_vs_weaver_infer`, also `..._trimmed`.
- `NAME.max_abs_difference`: of the logits of all jets in evaluation, between the two.
- `NAME.peak_memory_ratio`: memory that a training step takes in a process of its own, ours over weaver-core's.
- `lundnet5.time_ratio_to_particlenet_train`, `_infer`, and `time_ratio_to_particlenet`, the larger of the two.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.lund_net import LundNet
from distjet.models.particle_net import ParticleNet
from distjet.models.particle_next import ParticleNext
from distjet.models.particle_transformer import ParticleTransformer
from distjet.models.tagger import TaggerNetwork, TaggerSpec
from distjet.models.tagger_configs import (
    KINEMATICS,
    LundNetConfig,
    ParticleNetConfig,
    ParticleNextConfig,
    ParticleTransformerConfig,
)
from distjet.models.weaver_next_weights import particle_next_weights, particle_transformer_weights
from distjet.models.weaver_weights import particle_net_weights

MEAN_SIZE, LENGTH = 40, 128
"Constituents of a jet in the mean, and at most: what weaver-core's tensors are padded to."
NUM_BATCHES = 3
SPEC = TaggerSpec(num_node=len(KINEMATICS), num_jet=0, num_classes=2)


class Jets(NamedTuple):
    """The same jets in both forms."""

    flat: GraphBatch
    points: Tensor
    features: Tensor
    momenta: Tensor
    mask: Tensor
    labels: Tensor

    def to(self, device: torch.device) -> "Jets":
        """Copy to a device."""
        return Jets(*(part.to(device) for part in self))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5, help="times that everything is measured")
    parser.add_argument("--only", nargs="*", choices=[*NETWORKS, "lundnet5"], default=[*NETWORKS, "lundnet5"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bfloat16", action="store_true", help="autocast all contestants")
    parser.add_argument("--compile", action="store_true", help="compile all contestants")
    parser.add_argument("--memory", metavar="CONTESTANT", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device == "cpu":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        torch.set_num_threads(1)
    if arguments.memory:
        result: dict[str, Any] = {"bytes": memory_of_a_step(arguments.memory, arguments)}
    else:
        found = {name: compare(name, arguments) for name in arguments.only if name in NETWORKS}
        result = found | ({"lundnet5": lund_net(arguments)} if "lundnet5" in arguments.only else {})
    sys.stdout.write(json.dumps(result) + "\n")


# --- jets --------------------------------------------------------------------------------------------------------------------


def make_jets(num_jets: int, seed: int) -> Jets:
    """Draw jets whose inputs are those of KINEMATICS, roughly scaled."""
    rng = np.random.default_rng(seed)
    sizes = np.clip(rng.poisson(rng.gamma(9, MEAN_SIZE / 9, num_jets)), 3, LENGTH)
    ptr = np.concatenate([[0], np.cumsum(sizes)])
    jet, place = np.repeat(np.arange(num_jets), sizes), np.arange(ptr[-1]) - np.repeat(ptr[:-1], sizes)
    eta, phi, pt = 0.3 * rng.normal(size=ptr[-1]), 0.3 * rng.normal(size=ptr[-1]), rng.exponential(10, ptr[-1]) + 0.5
    p4 = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)], 1).astype(np.float32)
    share = pt / np.bincount(jet, pt)[jet]
    columns = [eta, phi, np.log(pt) - 1.7, np.log(p4[:, 3]) - 2, np.log(share) + 4.7, np.log(share) + 4.7, np.hypot(eta, phi)]
    x = np.stack(columns, 1).astype(np.float32)
    axes = np.zeros((num_jets, 5), np.float32)  # so that angles relative to the axis are eta and phi
    flat = GraphBatch(
        x=torch.from_numpy(x),
        p4=torch.from_numpy(p4),
        ptr=torch.from_numpy(ptr),
        u=torch.zeros(num_jets, 0),
        jet=torch.from_numpy(axes),
        targets={},
        weight=torch.ones(num_jets),
    )

    def padded(values: np.ndarray) -> Tensor:
        result = np.zeros((num_jets, LENGTH, values.shape[1]), np.float32)
        result[jet, place] = values
        return torch.from_numpy(result).transpose(1, 2).contiguous()

    labels = torch.from_numpy(rng.integers(0, 2, num_jets))
    angles = np.stack([eta, phi], 1)
    return Jets(flat, padded(angles), padded(x), padded(p4), padded(np.ones((len(x), 1))), labels)


# --- contestants -------------------------------------------------------------------------------------------------------------


def weaver_particle_net(*, trim: bool) -> nn.Module:
    """Build weaver-core's ParticleNet of the published size."""
    from weaver.nn.model.ParticleNet import ParticleNet as Theirs

    blocks = [(16, (width,) * 3) for width in (64, 128, 256)]
    return Theirs(len(KINEMATICS), 2, blocks, [(256, 0.1)], use_fusion=False, trim=trim)


def weaver_particle_next(*, trim: bool) -> nn.Module:
    """Build weaver-core's ParticleNeXt."""
    from weaver.nn.model.ParticleNeXt import ParticleNeXt as Theirs

    return Theirs(feature_input_dim=len(KINEMATICS), num_classes=2, trim=trim)


def weaver_particle_transformer(*, trim: bool) -> nn.Module:
    """Build weaver-core's Particle Transformer."""
    from weaver.nn.model.ParticleTransformer import ParticleTransformer as Theirs

    return Theirs(input_dim=len(KINEMATICS), num_classes=2, trim=trim)


class Network(NamedTuple):
    """Ours and theirs."""

    ours: Callable[[], TaggerNetwork]
    theirs: Callable[..., nn.Module]
    translate: Callable[[Any], dict[str, Tensor]]
    inputs: tuple[str, ...]


NETWORKS = {
    "particlenet": Network(
        lambda: ParticleNet(ParticleNetConfig(), SPEC),
        weaver_particle_net,
        particle_net_weights,
        ("points", "features", "mask"),
    ),
    "particlenext": Network(
        lambda: ParticleNext(ParticleNextConfig(), SPEC),
        weaver_particle_next,
        particle_next_weights,
        ("points", "features", "momenta", "mask"),
    ),
    "part": Network(
        lambda: ParticleTransformer(ParticleTransformerConfig(), SPEC),
        weaver_particle_transformer,
        particle_transformer_weights,
        ("features", "momenta", "mask"),
    ),
}


class Contestant:
    """A network with what it reads of jets."""

    def __init__(self, network: nn.Module, call: Callable[[nn.Module, Jets], Tensor], arguments: argparse.Namespace) -> None:
        self.device = torch.device(arguments.device)
        self.network, self.call, self.is_bfloat16 = network.to(self.device), call, arguments.bfloat16
        if arguments.compile:
            self.network.compile(dynamic=True)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-4)

    def logits(self, jets: Jets) -> Tensor:
        """Tag jets."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16) if self.is_bfloat16 else nullcontext():
            return self.call(self.network, jets).float()

    def step(self, jets: Jets) -> None:
        """Make a training step."""
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(self.logits(jets), jets.labels).backward()
        self.optimizer.step()

    def infer(self, jets: Jets) -> Tensor:
        """Tag jets in evaluation."""
        self.network.eval()
        with torch.inference_mode():
            return self.logits(jets)


def call_ours(network: Any, jets: Jets) -> Tensor:
    """Feed our network from the host, as a stream does: a batch has nothing left of the step before."""
    return network(network.on_host(dataclasses.replace(jets.flat)))


def contestant(name: str, arguments: argparse.Namespace, *, trim: bool = False) -> Contestant:
    """Build one by its name: that of the network, alone or with `weaver-` before it."""
    torch.manual_seed(1)
    if name == "lundnet5":
        return Contestant(LundNet(LundNetConfig(), TaggerSpec(0, 0, 2)), call_ours, arguments)
    network = NETWORKS[name.removeprefix("weaver-")]
    if not name.startswith("weaver-"):
        return Contestant(network.ours(), call_ours, arguments)

    def call(theirs: nn.Module, jets: Jets) -> Tensor:
        parts = {item: getattr(jets, item).clone() for item in network.inputs}  # weaver writes into its arguments
        if isinstance(parts.get("features"), Tensor) and theirs.training:
            parts["features"].requires_grad_()  # its ParticleNet has no gradients otherwise
        return theirs(*parts.values())

    return Contestant(network.theirs(trim=trim), call, arguments)


def compare(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Let ours and theirs take turns."""
    ours, theirs, trimmed = (
        contestant(kind, arguments, trim=trim)
        for kind, trim in ((name, False), (f"weaver-{name}", False), (f"weaver-{name}", True))
    )
    let_norms_have_seen_something(theirs.network)
    ours.network.load_state_dict(NETWORKS[name].translate(theirs.network.state_dict()))
    batches = [make_jets(arguments.batch_size, seed).to(ours.device) for seed in range(NUM_BATCHES)]
    largest = max(float((ours.infer(jets) - theirs.infer(jets)).abs().max()) for jets in batches)
    warm_up_trimmer(trimmed, batches[0])
    rates = measure({"ours": ours, "weaver": theirs, "trimmed": trimmed}, batches, arguments)
    memory = {kind: memory_in_a_process(kind, arguments) for kind in (name, f"weaver-{name}")}
    return {
        **{f"jets_per_s_{mode}": round(statistics.median(rates["ours", mode]), 1) for mode in MODES},
        **{f"weaver_jets_per_s_{mode}": round(statistics.median(rates["weaver", mode]), 1) for mode in MODES},
        **{f"speedup_vs_weaver_{mode}": ratio(rates["ours", mode], rates["weaver", mode]) for mode in MODES},
        **{f"speedup_vs_weaver_{mode}_trimmed": ratio(rates["ours", mode], rates["trimmed", mode]) for mode in MODES},
        "max_abs_difference": largest,
        "peak_memory_ratio": round(memory[name] / memory[f"weaver-{name}"], 3),
    }


def let_norms_have_seen_something(network: nn.Module) -> None:
    """Give running moments of batch norms other values than zero and one, so that a comparison sees them."""
    for part in network.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            nn.init.normal_(part.running_mean, std=0.1)
            nn.init.uniform_(part.running_var, 0.5, 1.5)


def warm_up_trimmer(theirs: Contestant, jets: Jets) -> None:
    """Let weaver-core's trimmer see the few batches in which it does nothing yet."""
    for _ in range(6):
        theirs.infer(jets)


def lund_net(arguments: argparse.Namespace) -> dict[str, Any]:
    """Let LundNet-5 and ParticleNet take turns."""
    both = {name: contestant(name, arguments) for name in ("lundnet5", "particlenet")}
    batches = [make_jets(arguments.batch_size, seed).to(both["lundnet5"].device) for seed in range(NUM_BATCHES)]
    rates = measure(both, batches, arguments)
    times = {mode: ratio(rates["particlenet", mode], rates["lundnet5", mode]) for mode in MODES}
    return {
        **{f"jets_per_s_{mode}": round(statistics.median(rates["lundnet5", mode]), 1) for mode in MODES},
        **{f"time_ratio_to_particlenet_{mode}": value for mode, value in times.items()},
        "time_ratio_to_particlenet": max(times.values()),
    }


# --- measurements ------------------------------------------------------------------------------------------------------------

MODES = ("train", "infer")


def measure(
    contestants: dict[str, Contestant], batches: list[Jets], arguments: argparse.Namespace
) -> dict[tuple[str, str], list[float]]:
    """Return jets per second of each round, by contestant and mode."""
    rates: dict[tuple[str, str], list[float]] = {}
    for number in range(arguments.rounds + 1):
        sys.stderr.write(f"{', '.join(contestants)}: round {number} of {arguments.rounds}\n")
        for mode in MODES:
            for name, one in contestants.items():
                rate = jets_per_s(one.step if mode == "train" else one.infer, batches, one.device)
                rates.setdefault((name, mode), []).extend([rate] if number else [])  # the first round compiles
    return rates


def jets_per_s(run: Callable[[Jets], Any], batches: list[Jets], device: torch.device) -> float:
    """Run all batches, and return the rate: by CPU time on a CPU, else by the clock."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    start = clock()
    for jets in batches:
        run(jets)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return sum(len(jets.labels) for jets in batches) / (clock() - start)


def ratio(ours: list[float], others: list[float]) -> float:
    """Return the median ratio of rates that were measured in turns."""
    return round(statistics.median(a / b for a, b in zip(ours, others, strict=True)), 2)


def memory_in_a_process(name: str, arguments: argparse.Namespace) -> int:
    """Return the bytes that a training step of a contestant takes, measured in a process of its own."""
    keys = ["--memory", name, "--batch-size", str(arguments.batch_size), "--device", arguments.device]
    told = subprocess.run([sys.executable, "-m", "benchmarks.taggers", *keys], check=True, capture_output=True, text=True)
    return json.loads(told.stdout.splitlines()[-1])["bytes"]


def memory_of_a_step(name: str, arguments: argparse.Namespace) -> int:
    """Return by how much a training step raises the peak memory of this process, after one with a few jets."""
    one = contestant(name, arguments)
    one.step(make_jets(4, 0).to(one.device))
    jets = make_jets(arguments.batch_size, 1).to(one.device)
    if one.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        one.step(jets)
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak of before is forgotten: that of a child begins with its parent's
    before = resident_bytes("VmRSS")
    one.step(jets)
    return resident_bytes("VmHWM") - before


def resident_bytes(name: str) -> int:
    """Return the memory of this process, now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    main()
