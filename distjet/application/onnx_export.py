"""How does a trained network leave for programs that have neither Python nor torch? As an ONNX model that was compared with it.

The model takes what the ntuple has: features as they are, with the standardisation inside, four-momenta in GeV, and edges as
pairs of nodes. Numbers of nodes, edges and jets are free. What the features are called stands in the model's metadata. Before
the file appears, it is run by ONNX Runtime on jets of a dataset, in batches of other sizes than the one that it was traced
with; a difference beyond the tolerance is an error.
"""

import importlib.util
import logging
import shutil
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import distjet
from distjet.application.onnx_operations import translations
from distjet.application.settings import ExportConfig
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import JET_COLUMNS, GraphBatch
from distjet.dataset.streaming.stream import JetStream, StreamConfig
from distjet.errors import DataError, MissingExtraError
from distjet.models.calibrator import ConstituentCalibrator
from distjet.models.jet_columns import JetColumns
from distjet.models.response_calibrator import ResponseCalibrator
from distjet.models.tagger import Tagger, TaggerEnsemble
from distjet.run_directory import appearing_whole
from distjet.training.inference import dataset_of, load_predictor
from distjet.training.predictors import ConstituentPredictor, Predictor, ResponsePredictor, TaggerPredictor

OPSET = 20
"ONNX Runtime has it since 1.17. The maximum over neighbours needs 18."

TRACED_JETS = 3
COMPARED_AT_ONCE = 256

EXAMPLE = Path(__file__).with_name("onnx_example.py")

JETS = ("energy", "mass", "rapidity", "pt", "phi")


class TensorFunction(nn.Module, ABC):
    """A calibrator or a tagger as a function of tensors."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @abstractmethod
    def arguments(self, batch: GraphBatch) -> dict[str, Tensor]:
        """Return the inputs for a batch."""

    @abstractmethod
    def free_sizes(self) -> dict[str, dict[int, Any]]:
        """Name the dimensions of the inputs whose sizes are free."""

    @abstractmethod
    def features(self, manifest: Manifest) -> dict[str, Sequence[str]]:
        """Name the columns of inputs that have the columns of a dataset."""

    def description(self) -> dict[str, str]:
        """Say what else must be known of inputs and outputs."""
        return {}


class ConstituentGraphs(TensorFunction):
    """A calibrator of constituents as a function of tensors."""

    inputs = ("x", "p4", "u", "edge_index", "batch")
    outputs = (*JETS, "factor", "rapidity_shift")

    def __init__(self, model: ConstituentCalibrator) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, p4: Tensor, u: Tensor, edge_index: Tensor, batch: Tensor) -> tuple[Tensor, ...]:
        """Calibrate jets.

        Args:
            x: Node features as in the dataset, shape (N, F).
            p4: Constituents (px, py, pz, energy) in GeV, shape (N, 4).
            u: Graph features as in the dataset, shape (B, G).
            edge_index: Source and target of each directed edge, int64, shape (2, E).
            batch: Graph of each node, int64, ascending, shape (N,).

        Returns:
            Energy, mass (GeV), rapidity, pT (GeV), phi (rad) of each jet, shape (B,); energy factor and rapidity shift of each
            constituent, shape (N,).
        """
        ptr = batch.new_zeros(u.shape[0] + 1)  # only its length is read
        jet, weight = u.new_zeros(u.shape[0], len(JET_COLUMNS)), u.new_zeros(u.shape[0])
        graphs = GraphBatch(x=x, p4=p4, ptr=ptr, u=u, jet=jet, targets={}, weight=weight, num_edges=edge_index.shape[1])
        vars(graphs).update(batch=batch, edge_index=edge_index)
        found = self.model(graphs)
        return *(getattr(found.jets, name) for name in JETS), found.factor, found.rapidity_shift

    def arguments(self, batch: GraphBatch) -> dict[str, Tensor]:
        """Return the inputs for a batch."""
        return {name: getattr(batch, name) for name in self.inputs}

    def free_sizes(self) -> dict[str, dict[int, Any]]:
        """Name the dimensions of the inputs whose sizes are free."""
        nodes, edges, jets = (torch.export.Dim(name) for name in ("nodes", "edges", "jets"))
        return {"x": {0: nodes}, "p4": {0: nodes}, "u": {0: jets}, "edge_index": {1: edges}, "batch": {0: nodes}}

    def features(self, manifest: Manifest) -> dict[str, Sequence[str]]:
        """Name the columns of the node and of the graph features."""
        return {"x": manifest.names("node"), "u": manifest.names("graph")}


class WholeJets(TensorFunction):
    """A calibrator of whole jets as a function of tensors."""

    def __init__(self, model: ResponseCalibrator, manifest: Manifest) -> None:
        super().__init__()
        self.model = model
        names = dict.fromkeys((*model.inputs.names, *model.pileup.names))
        self.columns = JetColumns(manifest, [name for name in names if name not in JET_COLUMNS], "the export")
        self.inputs = ("jet", "columns") if self.columns.names else ("jet",)
        with torch.no_grad():
            told = model.estimate(torch.zeros(1, len(model.inputs.names))).describe(None)
        self.told = tuple(told)
        self.outputs = (*JETS, "response", *self.told)

    def forward(self, jet: Tensor, columns: Tensor | None = None) -> tuple[Tensor, ...]:
        """Calibrate jets.

        Args:
            jet: pT (GeV), eta, phi (rad), energy (GeV), mass (GeV) at the scale of the constituents, shape (B, 5).
            columns: The other columns that the model reads, as in the dataset, shape (B, C).

        Returns:
            Energy, mass (GeV), rapidity, pT (GeV), phi (rad) and response of each jet, shape (B,), and what else is known of
            the response.
        """
        given = {} if columns is None else dict(zip(self.columns.names, columns.unbind(1), strict=True))
        nothing = jet.new_zeros(jet.shape[0])
        graph = self.columns.graph
        u = torch.stack([given.get(name, nothing) for name in graph], dim=1) if graph else jet[:, :0]
        ptr = jet.new_zeros(jet.shape[0] + 1, dtype=torch.long)
        rows: dict[str, Any] = given
        found = self.model(GraphBatch(x=jet[:0], p4=jet[:0, :4], ptr=ptr, u=u, jet=jet, targets={}, weight=nothing, rows=rows))
        jets, told = found.jets(), found.estimate.describe(None)
        return *(getattr(jets, name) for name in JETS), found.response, *(told[name] for name in self.told)

    def arguments(self, batch: GraphBatch) -> dict[str, Tensor]:
        """Return the inputs for a batch."""
        return {"jet": batch.jet, "columns": self.columns(batch)} if self.columns.names else {"jet": batch.jet}

    def free_sizes(self) -> dict[str, dict[int, Any]]:
        """Name the dimensions of the inputs whose sizes are free."""
        jets = torch.export.Dim("jets")
        return {name: {0: jets} for name in self.inputs}

    def features(self, manifest: Manifest) -> dict[str, Sequence[str]]:
        """Name the columns of the jet and the others."""
        del manifest
        return {"jet": JET_COLUMNS, **({"columns": self.columns.names} if self.columns.names else {})}


class TaggedGraphs(TensorFunction):
    """A tagger as a function of tensors.

    Its constituents are those that the network reads: sorted by falling pT or cut to the hardest ones where the configuration
    says so, or the declusterings of a jet for a network on these. The metadata tell.
    """

    outputs = ("scores",)

    def __init__(self, model: Tagger | TaggerEnsemble, classes: Sequence[str]) -> None:
        super().__init__()
        self.model, self.classes = model, classes
        names = ["x"] if model.config.inputs or model.network.makes_nodes else []
        names += ["u"] if model.config.jet_inputs else []
        names += ["edge_index"] if model.network.reads_edges else []
        self.inputs = (*names, "p4", "jet", "ptr", "batch")

    def forward(
        self,
        p4: Tensor,
        jet: Tensor,
        ptr: Tensor,
        batch: Tensor,
        x: Tensor | None = None,
        u: Tensor | None = None,
        edge_index: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """Tag jets.

        Args:
            p4: Constituents (px, py, pz, energy) in GeV, shape (N, 4).
            jet: pT (GeV), eta, phi (rad), energy (GeV), mass (GeV), shape (B, 5).
            ptr: First constituent of each jet and, last, N, int64, shape (B + 1,).
            batch: Jet of each constituent, int64, ascending, shape (N,).
            x: Columns of constituents as in the dataset, shape (N, F).
            u: Columns of jets as in the dataset, shape (B, G).
            edge_index: Source and target of each directed edge, int64, shape (2, E).

        Returns:
            Probability of each class, shape (B, C).
        """
        x, u = p4[:, :0] if x is None else x, jet[:, :0] if u is None else u
        num_edges = 0 if edge_index is None else edge_index.shape[1]
        graphs = GraphBatch(x=x, p4=p4, ptr=ptr, u=u, jet=jet, targets={}, weight=jet[:, 0], num_edges=num_edges)
        vars(graphs).update({"batch": batch} | ({} if edge_index is None else {"edge_index": edge_index}))
        return (self.model(graphs).scores,)

    def arguments(self, batch: GraphBatch) -> dict[str, Tensor]:
        """Return the inputs for a batch."""
        made = self.model.on_host(batch)
        return {name: getattr(made, name) for name in self.inputs}

    def free_sizes(self) -> dict[str, dict[int, Any]]:
        """Name the dimensions of the inputs whose sizes are free."""
        nodes, edges, jets = (torch.export.Dim(name) for name in ("nodes", "edges", "jets"))
        free = {"x": {0: nodes}, "p4": {0: nodes}, "batch": {0: nodes}, "u": {0: jets}, "jet": {0: jets}}
        free |= {"ptr": {0: jets + 1}, "edge_index": {1: edges}}
        return {name: free[name] for name in self.inputs}

    def features(self, manifest: Manifest) -> dict[str, Sequence[str]]:
        """Name the columns of constituents and of jets."""
        del manifest
        named = {"x": self.model.config.inputs, "u": self.model.config.jet_inputs, "jet": JET_COLUMNS}
        return {name: columns for name, columns in named.items() if columns}

    def description(self) -> dict[str, str]:
        """Say which constituents are read, and what the scores are."""
        config = self.model.config
        order = "sorted by falling pT" if config.is_ordered or config.max_constituents else "in any order"
        kept = "all" if config.max_constituents is None else f"the {config.max_constituents} with the highest pT"
        return {"constituents": f"{kept}, {order}", "classes of scores": ", ".join(self.classes), "model": config.name}


def export(config: ExportConfig) -> dict[str, Any]:
    """Write a trained network as an ONNX model, with an example of its use.

    Returns:
        `output`, `example` (command line), `opset`, `inputs`, `outputs`, `jets_compared`, `max_difference`.

    Raises:
        MissingExtraError: If ONNX or ONNX Runtime is not installed.
        DataError: If the run is no network, or the exported model gives other numbers.
    """
    _check_installed()
    manifest = Manifest.load(config.dataset or dataset_of(config.run))
    predictor = load_predictor(config.run, manifest)
    function = as_function(predictor, config.run, manifest)
    few = islice(_batches(manifest, config.split, predictor, TRACED_JETS), 5)
    first = max(few, key=lambda batch: (batch.num_graphs > 1, batch.num_edges))  # a size of 0 or 1 would be taken as fixed
    output = config.output.absolute()
    with appearing_whole(output) as temporary:
        write_model(function, first, _metadata(function, manifest, config.run), temporary)
        compared, difference = compare(function, _batches(manifest, config.split, predictor), config.num_jets, temporary)
        if not difference <= config.tolerance:
            raise DataError(
                f"the exported model differs from {config.run} by {difference:.1e} on {compared} jets, allowed is "
                f"tolerance={config.tolerance:g}; nothing was written"
            )
    example = output.with_name(f"{output.stem}_example.py")
    shutil.copyfile(EXAMPLE, example)
    jets: dict[str, Any] = {name: value.numpy() for name, value in function.arguments(first).items()}
    np.savez(example.with_suffix(".npz"), **jets)
    return {
        "output": str(output),
        "example": f"python {example} {output} {example.with_suffix('.npz')}",
        "opset": OPSET,
        "inputs": list(function.inputs),
        "outputs": list(function.outputs),
        "jets_compared": compared,
        "max_difference": difference,
    }


def _check_installed() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"distjet export needs {', '.join(missing)}", "onnx")


def as_function(predictor: Predictor | TaggerPredictor, run: Path, manifest: Manifest) -> TensorFunction:
    """Return the network of a run as a function of tensors, on the host.

    Raises:
        DataError: If the run is no network.
    """
    if isinstance(predictor, ConstituentPredictor):
        return ConstituentGraphs(predictor.model.cpu()).eval()
    if isinstance(predictor, ResponsePredictor):
        return WholeJets(predictor.model.cpu(), manifest).eval()
    if isinstance(predictor, TaggerPredictor):
        return TaggedGraphs(predictor.model.cpu(), predictor.classes).eval()
    raise DataError(f"{run} is no network; a chain is plain numbers, which any program can read")


def _batches(manifest: Manifest, split: str, predictor: Predictor | TaggerPredictor, batch_size: int = COMPARED_AT_ONCE) -> Any:
    config = StreamConfig(batch_size=batch_size, shuffle=False, row_columns=predictor.row_columns)
    return iter(JetStream(manifest, split, config))


def write_model(function: TensorFunction, batch: GraphBatch, metadata: dict[str, str], path: Path) -> None:
    """Trace a network and write it as ONNX.

    Args:
        function: The network.
        batch: A few jets to trace it with: no size may be 0 or 1.
        metadata: What the file says about itself.
        path: File to write.
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells that torchvision is absent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own deprecated parts
        program = torch.onnx.export(
            function,
            kwargs=function.arguments(batch),
            input_names=list(function.inputs),
            output_names=list(function.outputs),
            dynamic_shapes=function.free_sizes(),
            opset_version=OPSET,
            custom_translation_table=translations(),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(metadata)
    program.save(path, external_data=False)


def _metadata(function: TensorFunction, manifest: Manifest, run: Path) -> dict[str, str]:
    """Say what the columns of the inputs are, in which units, and where the model comes from."""
    units = {column.name: column.unit or "1" for column in manifest.columns}
    found = {f"columns of {key}": names for key, names in function.features(manifest).items()}
    described = {key: ", ".join(f"{name} [{units[name]}]" for name in names) for key, names in found.items()}
    return (
        described
        | function.description()
        | {"distjet version": distjet.__version__, "run": str(run), "dataset": manifest.fingerprint}
    )


def compare(function: TensorFunction, batches: Any, num_jets: int, path: Path) -> tuple[int, float]:
    """Compare the outputs of ONNX Runtime with those of torch, also for a single jet.

    Args:
        function: The network.
        batches: Jets of a dataset.
        num_jets: Number of jets after which to stop.
        path: The ONNX model.

    Returns:
        The number of jets, and the largest difference: of energy and pT in units of the jet's energy, of the squared mass in
        units of its square (a mass is a root, and that of a light jet not known to better), of all else as it is.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    compared, largest = 0, 0.0
    for batch in batches:
        given = function.arguments(batch)
        with torch.no_grad():
            expected = dict(zip(function.outputs, function(**given), strict=True))
        found = run_session(session, given)
        compared += batch.num_graphs
        largest = max([largest, *_differences(found, {name: value.numpy() for name, value in expected.items()})])
        if compared >= num_jets or not np.isfinite(largest):
            break
    return compared, largest


def run_session(session: Any, given: dict[str, Tensor]) -> dict[str, np.ndarray]:
    """Run a model on tensors; inputs that it does not need are left out."""
    needed = {item.name for item in session.get_inputs()}
    outputs = [item.name for item in session.get_outputs()]
    return dict(zip(outputs, session.run(outputs, {k: v.numpy() for k, v in given.items() if k in needed}), strict=True))


POWER_OF_ENERGY = {"energy": 1, "pt": 1, "mass": 2}


def _differences(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> list[float]:
    """Return the largest difference of each output; infinite where it is not a number."""
    result = []
    for name, values in expected.items():
        difference = np.abs(found[name] - values)
        if power := POWER_OF_ENERGY.get(name, 0):
            difference = np.abs(found[name] ** power - values**power) / np.maximum(expected["energy"], 1.0) ** power
        result.append(float(np.nan_to_num(difference, nan=np.inf).max(initial=0.0)))
    return result
