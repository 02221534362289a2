"""How fast does the constituent graph network train, and is it the network that it claims? One JSON object on the last line.

    python -m benchmarks.calibrator [--jets 2048] [--batch-size 256] [--rounds 3] [--device cpu] [--bfloat16] [--compile]

The contestant is what most people would write first: the same equations as a MessagePassing layer of torch_geometric, whose
networks of values and of attention are evaluated per edge in `message`, fed by torch_geometric's DataLoader from Data objects
that are in memory already, with their edges and distances. Ours is fed by the stream from Parquet, and makes edges and
distances for each batch. Both have the same weights, the same loss and the same optimizer, and the jets are those of
`benchmarks.jets`: 50 constituents in the mean, Delaunay edges. The networks are as in conf/calibration/constituent_gnn.yaml.

A step is: next batch, forward, loss, backward, clipped gradient, AdamW. On a CPU, the process is pinned to one core and times
are CPU seconds of all its threads; contestants take turns, and a ratio is the median over the rounds.

- `jets_per_s`, `speedup_vs_pyg`: training, feeding included. `speedup_vs_pyg_without_feeding`: on one batch that is there.
- `max_abs_difference`: of the energy factors and rapidity shifts of all constituents of a batch, between the two.
  `max_gradient_difference`: of the gradients of the parameters that both have as they are, relative to the largest of each.
- `inference_jets_per_s`: of one batch, by our network; `onnx_jets_per_s`: by ONNX Runtime on one thread, edges being there.
- `profile`: share of the time of our training step by operation, by torch.profiler, the ten largest.
"""

import argparse
import copy
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import softmax

from benchmarks import jets
from distjet.application.onnx_export import ConstituentGraphs, run_session, write_model
from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.dataset.streaming.batch import GraphBatch
from distjet.dataset.streaming.stream import JetStream, StreamConfig
from distjet.execution import in_process
from distjet.models.calibrator import Calibrated, ConstituentCalibrator
from distjet.models.configs import ConstituentGnnConfig, CorrectionConfig
from distjet.models.constituent_gnn import ConstituentGnn
from distjet.models.network import InputSpec
from distjet.nn.edge_attention import EdgeAttentionBlock
from distjet.nn.four_vectors import sum_constituents
from distjet.nn.mlp import NodeGraphLinear
from distjet.nn.normalise import Standardise

CONFIGURATION = Path("conf/calibration/constituent_gnn.yaml")
TRUE_OVER_RECO = 1.25
"Of the energy that the networks are to learn: any number does."
REPEATS = 4
"Of what is measured on one batch."


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jets", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3, help="times that everything is measured")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--bfloat16", action="store_true", help="autocast both contestants")
    parser.add_argument("--compile", action="store_true", help="compile our network")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cpu":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        report(f"make {arguments.jets} jets and convert them")
        manifest = dataset(Path(folder), arguments.jets)
        ours = calibrator(manifest, device)
        result = compare(manifest, ours, arguments)
    sys.stdout.write(json.dumps(result) + "\n")


def report(message: str) -> None:
    """Tell what is being done."""
    sys.stderr.write(f"{message}\n")


def dataset(folder: Path, num_jets: int) -> Manifest:
    """Make jets and convert them."""
    inputs = [str(path) for path in jets.write_files(folder / "ntuples", num_jets)]
    prepare(jets.config(inputs, folder / "dataset", split={"train": 1.0, "val": 0.0}), in_process)
    return Manifest.load(folder / "dataset")


def calibrator(manifest: Manifest, device: torch.device) -> ConstituentCalibrator:
    """Build our model, for the features of a dataset."""
    torch.manual_seed(1)
    config = ConstituentGnnConfig(**yaml.safe_load(CONFIGURATION.read_text())["model"])
    constants = {
        role: [(found["mean"], found["std"]) for found in map(manifest.statistics, manifest.names(role))]
        for role in ("node", "graph")
    }
    spec = InputSpec(len(constants["node"]), num_edge=1, num_graph=len(constants["graph"]), num_outputs=2)
    node, graph = (Standardise(*zip(*constants[role], strict=True)) for role in ("node", "graph"))
    return ConstituentCalibrator(ConstituentGnn(config, spec), node, graph, CorrectionConfig()).to(device)


# --- the same in torch_geometric ---------------------------------------------------------------------------------------------


class PygBlock(MessagePassing):
    """The equations of `EdgeAttentionBlock`, written down as they stand."""

    def __init__(self, block: EdgeAttentionBlock) -> None:
        super().__init__(aggr="add", node_dim=0)
        self.num_heads = block.num_heads
        self.normalise = copy.deepcopy(block.normalise)
        self.value = nn.Sequential(joined(block.value_in), nn.SiLU(), copy.deepcopy(block.value_out))
        self.attention = nn.Sequential(joined_attention(block), nn.SiLU(), copy.deepcopy(block.attention_out))
        self.update_network = nn.Sequential(joined(block.update_in), nn.SiLU(), copy.deepcopy(block.update_out))

    def forward(self, nodes: Tensor, graphs: Tensor, edge_index: Tensor, edges: Tensor) -> Tensor:
        """Update nodes (N, D) with graph features of each node (N, G) and edges (E, K)."""
        state = self.normalise(nodes)
        message = self.propagate(edge_index, h=state, g=graphs, e=edges)
        return nodes + self.update_network(torch.cat([state, message, graphs], dim=1))

    def message(self, h_i: Tensor, h_j: Tensor, g_j: Tensor, e: Tensor, index: Tensor, size_i: int) -> Tensor:
        """Weighted value of each edge; torch_geometric fills the arguments in by their names."""
        weights = softmax(self.attention(torch.cat([h_i, h_j, e], dim=1)), index, num_nodes=size_i)
        value = self.value(torch.cat([h_j, g_j], dim=1))
        return (value.unflatten(1, (self.num_heads, -1)) * weights.unsqueeze(-1)).flatten(1)


def joined(layer: NodeGraphLinear) -> nn.Linear:
    """Return the layer over the concatenation of node and graph features."""
    return linear(torch.cat([layer.node.weight, layer.graph.weight], dim=1), layer.node.bias)


def joined_attention(block: EdgeAttentionBlock) -> nn.Linear:
    """Return the attention's layer over the concatenation of target, source and edge."""
    as_target, as_source = block.attention_ends.weight.chunk(2)
    bias = sum(block.attention_ends.bias.chunk(2))
    return linear(torch.cat([as_target, as_source, block.attention_edge.weight], dim=1), bias)


def linear(weight: Tensor, bias: Any) -> nn.Linear:
    """Return a layer with these weights."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return layer


class PygCalibrator(nn.Module):
    """Our model in torch_geometric, with a copy of its weights."""

    def __init__(self, ours: ConstituentCalibrator) -> None:
        super().__init__()
        network = ours.network
        self.config, self.offset = ours.config, ours.offset
        self.node, self.graph = copy.deepcopy(ours.node), copy.deepcopy(ours.graph)
        self.embed_node, self.embed_graph = copy.deepcopy(network.embed_node), copy.deepcopy(network.embed_graph)
        self.blocks = nn.ModuleList(PygBlock(block) for block in network.blocks)
        self.normalise, self.read_out = copy.deepcopy(network.normalise), copy.deepcopy(network.read_out)

    def forward(self, data: Data) -> Calibrated:
        """Calibrate a batch of jets."""
        graphs = self.embed_graph(self.graph(data.u))[data.batch]
        nodes = self.embed_node(self.node(data.x))
        edges = data.edge_attr / self.config.delta_r_scale
        for block in self.blocks:
            nodes = block(nodes, graphs, data.edge_index, edges)
        outputs = self.read_out(torch.cat([self.normalise(nodes), graphs], dim=1)).float()
        factor = self.config.min_factor + nn.functional.softplus(outputs[:, 0] + self.offset)
        shift = self.config.max_rapidity_shift * torch.tanh(outputs[:, 1])
        with torch.autocast(data.x.device.type, enabled=False):
            summed = sum_constituents(data.p4, data.batch, data.num_graphs, factor, shift)
        return Calibrated(summed, factor, shift)


# --- contestants -------------------------------------------------------------------------------------------------------------


@dataclass
class Contestant:
    """A model with what feeds it."""

    model: nn.Module
    feed: Iterable[Any]
    is_bfloat16: bool = False

    def __post_init__(self) -> None:
        self.device = next(self.model.parameters()).device
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)

    def step(self, batch: Any) -> None:
        """Train with one batch, in either type: both have the same names."""
        self.optimizer.zero_grad(set_to_none=True)
        self.loss(batch).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    def loss(self, batch: Any) -> Tensor:
        """Compare the jet's energy, mass and rapidity with what they shall be."""
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.is_bfloat16):
            found = self.model(batch).jets
        energy = found.energy / batch.jet[:, 3] - TRUE_OVER_RECO
        return (energy**2 + 1e-2 * found.mass / found.energy + (found.rapidity - batch.jet[:, 1]) ** 2).mean()

    def train(self) -> int:
        """Train an epoch, and return the number of jets."""
        num_jets = 0
        for batch in self.feed:
            self.step(batch.to(self.device))
            num_jets += batch.num_graphs
        return num_jets

    def first(self) -> Any:
        """Return a batch on the device."""
        return next(iter(self.feed)).to(self.device)


def in_memory(stream: JetStream, batch_size: int) -> DataLoader:
    """Return torch_geometric's loader over the jets of a stream, each a Data object."""
    names = ("x", "p4", "u", "jet", "edge_index", "edge_attr")
    jets_of = (data for batch in stream for data in batch.to_pyg().to_data_list())
    examples = [Data(**{name: getattr(data, name).clone() for name in names}) for data in jets_of]
    return DataLoader(examples, batch_size=batch_size, shuffle=True)


def compare(manifest: Manifest, model: ConstituentCalibrator, arguments: argparse.Namespace) -> dict[str, Any]:
    """Let all take turns."""
    stream = JetStream(manifest, "train", StreamConfig(batch_size=arguments.batch_size))
    ours = Contestant(model, stream, arguments.bfloat16)
    pyg = Contestant(PygCalibrator(model), in_memory(stream, arguments.batch_size), arguments.bfloat16)
    same = difference(ours, pyg, next(iter(stream)))
    if arguments.compile:
        model.compile_network()
    return speeds(ours, pyg, arguments.rounds) | same | {"profile": shares(ours)}


def difference(ours: Contestant, pyg: Contestant, batch: GraphBatch) -> dict[str, float]:
    """Compare outputs and gradients of both, with the weights that they have now, on one batch."""
    here = batch.to(ours.device)
    there = here.to_pyg()
    with torch.no_grad():
        mine, other = ours.model(here), pyg.model(there)
    pairs = ((mine.factor, other.factor), (mine.rapidity_shift, other.rapidity_shift))
    ours.loss(here).backward()
    pyg.loss(there).backward()
    theirs = {f"network.{name}": parameter.grad for name, parameter in pyg.model.named_parameters()}
    both = [(p.grad, theirs[name]) for name, p in ours.model.named_parameters() if name in theirs]
    gradients = [float((a - b).abs().max() / b.abs().max()) for a, b in both]
    return {"max_abs_difference": max(float((a - b).abs().max()) for a, b in pairs), "max_gradient_difference": max(gradients)}


def speeds(ours: Contestant, pyg: Contestant, num_rounds: int) -> dict[str, Any]:
    """Measure jets per second of everything."""
    one, other = ours.first(), pyg.first()
    runs: dict[str, Callable[[], int]] = {
        "ours": ours.train,
        "pyg": pyg.train,
        "ours_without_feeding": lambda: repeat(lambda: ours.step(one), one),
        "pyg_without_feeding": lambda: repeat(lambda: pyg.step(other), other),
        "inference": lambda: repeat(lambda: infer(ours.model, one), one),
        "onnx": onnx_runtime(ours.model, one.to("cpu")),
    }
    rates: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(num_rounds + 1):
        report(f"round {number} of {num_rounds}")
        for name, run in runs.items():
            rate = jets_per_s(run, ours.device)
            rates[name] += [rate] if number else []  # the first round compiles
    rate_of = {name: round(statistics.median(values)) for name, values in rates.items()}
    return {
        "jets_per_s": rate_of["ours"],
        "speedup_vs_pyg": ratio(rates["ours"], rates["pyg"]),
        "speedup_vs_pyg_without_feeding": ratio(rates["ours_without_feeding"], rates["pyg_without_feeding"]),
        "pyg_jets_per_s": rate_of["pyg"],
        "inference_jets_per_s": rate_of["inference"],
        "onnx_jets_per_s": rate_of["onnx"],
    }


def ratio(ours: list[float], others: list[float]) -> float:
    """Return the median ratio of rates that were measured in turns."""
    return round(statistics.median(a / b for a, b in zip(ours, others, strict=True)), 2)


def repeat(run: Callable[[], Any], batch: Any) -> int:
    """Do something with a batch a few times, and return the number of jets."""
    for _ in range(REPEATS):
        run()
    return REPEATS * batch.num_graphs


def infer(model: nn.Module, batch: GraphBatch) -> None:
    """Calibrate a batch."""
    with torch.inference_mode():
        model(batch)


def onnx_runtime(model: nn.Module, batch: GraphBatch) -> Callable[[], int]:
    """Export a model, and return what runs it on a batch."""
    import onnxruntime

    function = ConstituentGraphs(copy.deepcopy(model).cpu()).eval()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        write_model(function, batch, {}, path := Path(folder, "model.onnx"))
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    given = function.arguments(batch)
    return lambda: repeat(lambda: run_session(session, given), batch)


def jets_per_s(run: Callable[[], int], device: torch.device) -> float:
    """Run, and return the rate: by CPU time on a CPU, else by the clock."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    start = clock()
    num_jets = run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return num_jets / (clock() - start)


def shares(contestant: Contestant) -> dict[str, float]:
    """Profile training steps."""
    batch = contestant.first()
    is_cpu = contestant.device.type == "cpu"
    with profile(activities=[ProfilerActivity.CPU if is_cpu else ProfilerActivity.CUDA]) as profiler:
        repeat(lambda: contestant.step(batch), batch)
    attribute = f"self_{'cpu' if is_cpu else 'device'}_time_total"
    times = {event.key: getattr(event, attribute) for event in profiler.key_averages()}
    largest = sorted(times, key=times.__getitem__, reverse=True)[:10]
    return {key: round(times[key] / sum(times.values()), 3) for key in largest}


if __name__ == "__main__":
    main()
