"""How does a network learn the class of jets?

The label of a jet is its class; the loss is that of its scores. Class 0 of a dataset is the background by convention.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from distjet.config import implementation, unknown
from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import GraphBatch
from distjet.errors import ConfigError
from distjet.models.configs import MODELS
from distjet.models.jet_columns import JetColumns
from distjet.models.stacked_tagger import StackedTagger
from distjet.models.tagger import DECORRELATED, Tagged, Tagger, TaggerNetwork, TaggerSpec, node_places
from distjet.nn.adversary import MassAdversary
from distjet.nn.losses.classification_configs import CLASSIFICATION_LOSSES, DECORRELATIONS, AdversaryConfig
from distjet.nn.normalise import Standardise
from distjet.ranks import SINGLE, RankInfo
from distjet.training.augmentation import Augmentation
from distjet.training.columns import Constants, Features, check_fourier, constants, describe_columns, standardise
from distjet.training.decorrelation import TaggedJets
from distjet.training.scores import ScoreHistogram
from distjet.training.settings import TrainConfig
from distjet.training.terms import LossSums, Term, add_up
from distjet.training.weighting import Weighting


class TaggingTask:
    """A network gives each jet a score for each class."""

    def __init__(self, config: TrainConfig, manifest: Manifest, device: torch.device, ranks: RankInfo = SINGLE) -> None:
        """Prepare loss and weights.

        Raises:
            ConfigError: If the dataset has no labels.
        """
        if len(manifest.classes) < 2:
            raise ConfigError(
                f"{manifest.path} has no labels, which a tagger learns; the recipe must name at least two classes"
            )
        node_places(manifest, config.model.inputs)  # or says which column there is not
        self.config, self.manifest, self.device = config, manifest, device
        label = config.loss.label
        classify = implementation(label.name, CLASSIFICATION_LOSSES)(label)
        self.classify = Term("label", is_ratio=False, weight=label.weight, function=classify)
        self.terms = [self.classify]
        self.decorrelate, self.variable = None, None
        if (penalty := config.loss.decorrelation) is not None:
            self.decorrelate = implementation(penalty.name, DECORRELATIONS)(penalty, _background(config, manifest), ranks)
            self.variable = JetColumns(manifest, (penalty.variable,), "loss.decorrelation.variable")
            self.terms.append(Term("decorrelation", is_ratio=False, weight=self.decorrelate.factor, function=self.decorrelate))
        self.features = self.features_of(config, manifest)
        check_fourier(config, self.features)
        self.weighting = Weighting(config.weighting, manifest, device)
        needed = [JetColumns(manifest, config.model.jet_inputs, "model.jet_inputs"), *filter(None, [self.variable])]
        self.row_columns = tuple(dict.fromkeys(name for columns in needed for name in columns.row_columns))

    @staticmethod
    def features_of(config: TrainConfig, manifest: Manifest) -> Features:
        """Describe the columns that the model reads: those that its configuration names."""
        return {
            "node": describe_columns(manifest, config.model.inputs),
            "jet": describe_columns(manifest, config.model.jet_inputs),
            "class": [{"name": name, "unit": "", "formula": ""} for name in manifest.classes],
        }

    @staticmethod
    def untrained(config: TrainConfig, manifest: Manifest, scales: Constants) -> Tagger:
        """Build an untrained tagger for inputs with these constants, and as many classes as there are under `class`."""
        node, jet = _scale(config, config.model.inputs, scales["node"]), _scale(config, config.model.jet_inputs, scales["jet"])
        spec = TaggerSpec(node.num_outputs, jet.num_outputs, len(scales["class"]))
        network = _network(config, spec)
        return Tagger(network, (node, jet), manifest, config.model, _adversary(config, scales))

    def build_model(self) -> Tagger:
        """Build the network and wrap it; the constants that scale inputs come from the manifest."""
        inputs = {role: columns for role, columns in self.features.items() if role != "class"}
        scales = constants(self.manifest, inputs) | {"class": [(0.0, 1.0)] * len(self.manifest.classes)}
        if self.variable is not None:
            scales |= constants(self.manifest, {"decorrelated": describe_columns(self.manifest, self.variable.names)})
        return self.untrained(self.config, self.manifest, scales).to(self.device)

    def on_host(self, model: Tagger, split: str) -> Callable[[GraphBatch], GraphBatch]:
        """Return what makes the inputs of the network, and adds what its scores shall not tell."""
        augment = Augmentation(self.config.augmentation, self.manifest.names("node"), self.config.seed)
        is_augmented = split == "train" and self.config.augmentation.is_on

        def finish(batch: GraphBatch) -> GraphBatch:
            if self.variable is not None:
                targets = batch.targets | {DECORRELATED: self.variable(batch)[:, 0].contiguous()}
                batch = dataclasses.replace(batch, targets=targets)
            return model.on_host(augment(batch) if is_augmented else batch)

        return finish

    def begin_epoch(self, model: Tagger, progress: float) -> None:
        """Tell the adversary which part of the training is done."""
        if model.adversary is not None:
            model.adversary.progress = progress

    def loss(self, tagged: Tagged, batch: GraphBatch, progress: float = 0.0) -> LossSums:
        """Sum the loss over a batch; progress is the part of the epochs that is done."""
        weight, labels = self.weighting(batch), labels_of(batch)
        classify = self.classify.at(progress)
        members = [tagged.logits] if tagged.members is None else tagged.members.unbind()
        graphs = [torch.stack([classify(logits, labels) for logits in members]).mean(0) * weight]
        if self.decorrelate is not None:
            variable = batch.targets[DECORRELATED]
            graphs.append(self.decorrelate(TaggedJets(tagged.logits, labels, variable, weight, tagged.log_likelihood)))
        return add_up(self.terms, graphs, weight)

    def watch(self) -> "ScoreWatch":
        """Begin to watch a validation."""
        return ScoreWatch(ScoreHistogram(len(self.manifest.classes), self.device), self.weighting)


class ScoreWatch:
    """Fills the scores of the validation split into a histogram."""

    def __init__(self, histogram: ScoreHistogram, weighting: Weighting) -> None:
        self.histogram, self.weighting = histogram, weighting

    def observe(self, tagged: Tagged, batch: GraphBatch) -> None:
        """Add a batch."""
        self.histogram.fill(tagged.logits, labels_of(batch), self.weighting(batch))

    def metrics(self, ranks: RankInfo) -> dict[str, float]:
        """Return what the histogram says of the jets of all processes."""
        return self.histogram.metrics(ranks)


def labels_of(batch: GraphBatch) -> Tensor:
    """Class of each jet, int64, shape (B,)."""
    return batch.targets["label"].long()


def _network(config: TrainConfig, spec: TaggerSpec) -> TaggerNetwork:
    """Build the network; or those of an ensemble that trains as one, each with the weights that it would have alone."""
    build = implementation(config.model.name, MODELS)
    if not config.ensemble.is_one_run:
        return build(config.model, spec)
    members = []
    for number in range(config.ensemble.num_members):
        torch.manual_seed(config.seed + number)
        members.append(build(config.model, spec))
    return StackedTagger(members)


def _background(config: TrainConfig, manifest: Manifest) -> int:
    """Return the number of the class whose scores shall not tell something.

    Raises:
        ConfigError: If the dataset has no such class.
    """
    name = config.loss.decorrelation.background
    if name is None:
        return 0
    if name not in manifest.classes:
        raise ConfigError("loss.decorrelation.background: " + unknown("class", name, manifest.classes))
    return manifest.classes.index(name)


def _adversary(config: TrainConfig, scales: Constants) -> MassAdversary | None:
    """Build the network that guesses what scores shall not tell, if the training has one; its constants come with weights."""
    if not isinstance(config.loss.decorrelation, AdversaryConfig):
        return None
    mean, deviation = scales.get("decorrelated", [(0.0, 1.0)])[0]
    return MassAdversary(len(scales["class"]) - 1, config.loss.decorrelation, mean, deviation)


def _scale(config: TrainConfig, names: tuple[str, ...], scales: list[tuple[float, float]]) -> Standardise:
    unit = [(0.0, 1.0)] * len(names)
    return standardise(config, names, unit if config.model.scaling == "none" else scales, config.model.max_scaled)
