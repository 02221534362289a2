"""What can be configured about a training?

This file imports neither torch nor ray, so that a wrong key is reported at once.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from distjet.config import ComponentField, Config, component_type, import_path
from distjet.dataset.streaming.settings import ReadConfig
from distjet.evaluation.config import BinsConfig
from distjet.models.configs import MODELS, ConstituentGnnConfig, CorrectionConfig, JetModelConfig
from distjet.models.tagger_configs import AugmentationConfig, TaggerConfig
from distjet.nn.losses.classification_configs import CLASSIFICATION_LOSSES, DECORRELATIONS
from distjet.nn.losses.configs import LOSSES, LgkConfig, MseConfig, TermConfig
from distjet.storage import Location, Place, check_url
from distjet.training.optim_configs import OPTIMIZERS, AdamWConfig, ScheduleConfig

METRICS_FILE = "metrics.json"
"Written last, by a training that has finished."


class ClosurePenaltyConfig(Config):
    """A penalty on the mean response of bins, so that closure is learned and not only selected.

    The bins are those of `closure`; it acts while a model trains, validation reports the closure itself.
    """

    weight: float = Field(default=300.0, gt=0)
    "Of the squared mean residual."
    half_width: float = Field(default=0.15, gt=0)
    "Residuals of the energy beyond it count as much as those at it, so that tails do not decide the mean."


class LossConfig(Config):
    """The loss is the sum of its terms; each acts on the jet that the corrected constituents add up to.

    A network on whole jets predicts the response of the energy: it has a term in energy alone. A tagger has one in the class of
    the jet, and maybe one that keeps its scores from following the mass.
    """

    energy: component_type("loss", LOSSES, "lgk", optional=True) = LgkConfig()  # type: ignore[valid-type]
    "Acts on E / E_true - 1; null: no such term."
    mass: component_type("loss", LOSSES, "lgk", optional=True) = None  # type: ignore[valid-type]
    "Acts on m / m_true - 1, for jets with a true mass above min_true_mass_gev; null: no such term."
    rapidity: component_type("loss", LOSSES, "mse", optional=True) = MseConfig(weight=300.0)  # type: ignore[valid-type]
    "Acts on y - y_true, whose squares are of the order 1e-4; null: no such term."
    closure: ClosurePenaltyConfig | None = None
    "Penalty on the mean response of bins, for networks on constituents; null: none."
    label: component_type("loss", CLASSIFICATION_LOSSES, "cross_entropy", optional=True) = None  # type: ignore[valid-type]
    "Acts on the scores of the classes, for taggers, where it is the default; null: no such term."
    decorrelation: component_type("decorrelation", DECORRELATIONS, "disco", optional=True) = None  # type: ignore[valid-type]
    "What keeps the scores of background jets from following their mass, for taggers; null: nothing."
    min_true_mass_gev: float = Field(default=2.0, gt=0)
    "Jets below have no mass term: the ratio to a vanishing mass is noise."

    def terms(self) -> dict[str, TermConfig]:
        """Return the terms that are switched on, by observable."""
        named = {"energy": self.energy, "mass": self.mass, "rapidity": self.rapidity}
        return {name: term for name, term in named.items() if term is not None and term.weight > 0}

    @model_validator(mode="after")
    def _has_a_term(self) -> "LossConfig":
        if not self.terms() and self.label is None:
            raise ValueError("the loss needs at least one term with a positive weight")
        return self


class FourierConfig(Config):
    """Sines and cosines of a feature, which the network reads beside it (arXiv:2006.10739).

    The response of a calorimeter has dips in |eta| that are narrower than what a network learns of a smooth feature.
    """

    longest_period: float = Field(default=8.0, gt=0)
    "Of the slowest wave, in units of the feature."
    num_octaves: int = Field(default=5, ge=1, le=16)
    "Number of periods, each half of the one before; 8 in five octaves ends at 0.5."


class WeightingConfig(Config):
    """How much each jet counts in the loss; weights are made from the histograms in the manifest."""

    name: Literal["flat_log_energy", "flat_log_energy_eta", "flat_pt_mass", "reference_pt_mass", "event", "none"] = (
        "flat_log_energy"
    )
    """flat_log_energy: the training spectrum is flat in ln E_true, so that the calibration depends little on the spectrum;
    flat_log_energy_eta: at every |eta_true|; flat_pt_mass: every class is flat in the bins of (pT, mass) of the jet;
    reference_pt_mass: every class has the spectrum of one; event: the event weight; none: every jet counts once."""
    reference: str | None = None
    "The class whose spectrum in (pT, mass) all classes get; a jet where it has none does not count."
    totals: dict[str, float] | None = None
    "With (pT, mass): what the weights of each class add up to, up to a common factor; null: all the same."
    times_event_weight: bool = False
    "Whether the weight multiplies the event weight; sums of event weights are then made flat."

    @model_validator(mode="after")
    def _fits_the_name(self) -> "WeightingConfig":
        if (self.reference is not None) != (self.name == "reference_pt_mass"):
            raise ValueError("reference_pt_mass needs a reference, which nothing else has")
        if self.totals is not None and not self.name.endswith("pt_mass"):
            raise ValueError("totals are for flat_pt_mass and reference_pt_mass")
        if self.totals is not None and not (min(self.totals.values(), default=0) > 0):
            raise ValueError("totals must be positive, one for each class")
        return self


def as_weighting(given: Any) -> Any:
    """Accept a name, and `{reference: CLASS}` without one."""
    if isinstance(given, str):
        return {"name": given}
    if isinstance(given, Mapping) and given.get("reference") is not None:
        return {"name": "reference_pt_mass", **given}
    return given


TAGGING_METRICS = ("auc", "accuracy", "rejection_30", "rejection_50")
"What can select the best epoch of a tagger; more is better."


class SelectionConfig(Config):
    """Which epoch is the best: decided on physics, because equal losses can hide 2 % in the response."""

    metric: Literal[
        "mean_abs_bias", "max_abs_bias", "mean_resolution", "loss", "auc", "accuracy", "rejection_30", "rejection_50", "last"
    ] = "mean_abs_bias"
    """Calibrators: closure in bins of true energy and |eta| of the validation split, |Gaussian core of E / E_true - 1|, mean or
    worst bin. Taggers, where auc is the default: area under the curve, accuracy, or 1 / eps_B at a signal efficiency of 30 or
    50 %; over all pairs of classes where there are more than two. last: the last epoch, the default with loss.decorrelation,
    where no single number says what is best."""
    patience: int | None = Field(default=None, ge=1)
    "Stop after so many epochs without improvement; null: train all epochs."

    @property
    def watched(self) -> str:
        """Name of the metric among those of an epoch; where the last one is kept, the loss tells how it goes."""
        return "val_loss" if self.metric == "last" else f"val_{self.metric}"

    def cost(self, value: float) -> float:
        """Turn a value of the metric into a positive number of which less is better, and back: it is its own inverse."""
        if self.metric in ("auc", "accuracy"):
            return 1 - value
        return 1 / value if self.metric in TAGGING_METRICS else value


class ResourcesConfig(Config):
    """Where the training runs; no part of its identity."""

    num_workers: int = Field(default=2, ge=0)
    "Processes of the run, one GPU each where GPUs are; 0 trains in the calling process without Ray."
    min_workers: int | None = Field(default=None, ge=1)
    """With fewer processes than num_workers, but so many, the run starts or goes on when there is no room for more, and takes
    more when there is, each time from the newest checkpoint; null: it waits. A step takes the same jets with any number."""
    cpus_per_worker: int = Field(default=1, ge=1)
    "Cores of each process: threads of torch."
    use_gpu: bool | None = None
    "null: use GPUs if there are any."
    gpus_per_worker: float = Field(default=1.0, gt=0, le=1)
    "Below 1, runs of one process share a GPU: the trials of a sweep, the members of an ensemble."
    address: str | None = None
    "Ray cluster to join, e.g. auto; null: the one in RAY_ADDRESS, else one started for this run."
    max_failures: int = Field(default=3, ge=0)
    "How often a run survives the loss of a worker."
    timeout_s: int = Field(default=300, ge=1)
    "After so many seconds without a step, the worker that hangs is named, and all are started again."

    @model_validator(mode="after")
    def _is_possible(self) -> "ResourcesConfig":
        if self.num_workers > 1 and self.gpus_per_worker < 1:
            raise ValueError("gpus_per_worker below 1 needs num_workers 0 or 1: NCCL does not let workers of a run share a GPU")
        if self.min_workers is not None and self.min_workers > self.num_workers:
            raise ValueError(f"min_workers must be at most num_workers={self.num_workers} (got {self.min_workers})")
        return self


def as_tracking_address(given: str) -> str:
    """Accept a folder, `environment`, or a URI without a secret."""
    check_url(given)
    return given


class TrackingConfig(Config):
    """Who is told of the training beside its own directory; no part of its identity."""

    mlflow: Annotated[Annotated[str, AfterValidator(as_tracking_address)] | None, Place(words=("environment",))] = None
    """MLflow: a folder (a SQLite file in it), the URI of a server or a database, or `environment` for what MLFLOW_TRACKING_URI
    says; credentials in the environment alone (MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD). null: nobody."""
    experiment: str = "distjet"
    "Under which name MLflow groups runs."


class EnsembleConfig(Config):
    """Several trainings that differ in their seeds alone; no part of the identity of any of them, unless they are one run."""

    num_members: int = Field(default=1, ge=1)
    "Above 1, so many runs in members/, with the seeds seed, seed + 1, ...; it may be raised later."
    together: bool = False
    """Taggers: all members are one run, in the same processes and on the same batches; a member costs no reading of its own,
    and on a GPU little else if it is small. The epoch that is kept is the best one of their mean."""
    max_concurrent: int | None = Field(default=None, ge=0)
    """Members at the same time; null: as many as the cluster has room for, at resources each; 0: one after the other in this
    process."""

    @property
    def is_one_run(self) -> bool:
        """Whether several members are one run."""
        return self.together and self.num_members > 1

    @property
    def is_many_runs(self) -> bool:
        """Whether each of several members is a run of its own."""
        return self.num_members > 1 and not self.together


TAGGER_DEFAULTS: dict[str, dict[str, Any]] = {
    "loss": {"energy": None, "rapidity": None, "label": {"name": "cross_entropy"}},
    "weighting": {"name": "none"},
    "selection": {"metric": "auc"},
}
"What a training of a tagger starts from, where that of a calibrator has other defaults."


class TrainConfig(Config):
    """One training."""

    output: Location
    "The run's directory, or s3://bucket/folder."
    dataset: Location
    "A dataset made by `distjet prepare`: a folder, or s3://bucket/folder."
    seed: int = Field(default=1, ge=0)
    "Determines initial weights and the order of the data."
    num_epochs: int = Field(default=20, ge=1)
    "Passes over the training split."
    batch_size: int = Field(default=512, ge=1)
    "Graphs in a global batch, over all workers."
    max_nodes: int | None = Field(default=None, ge=1)
    "Nodes in a global batch instead of a number of graphs; null: batch_size counts."
    stream: ReadConfig = ReadConfig()
    "How the dataset is read; see there for what defines the order of the rows."
    model: component_type("model", MODELS, "constituent_gnn") = ConstituentGnnConfig()  # type: ignore[valid-type]
    "The network: a name from the table, or an import path `package.module:Class`."
    correction: CorrectionConfig = CorrectionConfig()
    "From the network's outputs to corrections of constituents."
    fourier: dict[str, FourierConfig] = Field(default_factory=dict)
    "Features that the network also reads as sines and cosines, by the name of the column: {eta: {}, axis_eta: {}}."
    loss: LossConfig = LossConfig()
    "What is minimised."
    augmentation: AugmentationConfig = AugmentationConfig()
    "How jets are changed at random while a tagger learns; by default not at all."
    weighting: Annotated[WeightingConfig, BeforeValidator(as_weighting)] = WeightingConfig()
    "How much each jet counts in the loss: a name, or {reference: CLASS}, or a mapping."
    optimizer: component_type("optimizer", OPTIMIZERS, "adamw") = AdamWConfig()  # type: ignore[valid-type]
    "What makes a step of a gradient."
    schedule: ScheduleConfig = ScheduleConfig()
    "Learning rate against time."
    ema_decay: float = Field(default=0.0, ge=0, lt=1)
    "Decay of the moving average of the weights that is validated and kept; 0: none."
    precision: Literal["float32", "bfloat16"] = "float32"
    "bfloat16: the network runs under autocast; sums of four-momenta stay in float32."
    compile: bool = False
    "torch.compile the network."
    selection: SelectionConfig = SelectionConfig()
    "Which epoch is kept as the best."
    closure: BinsConfig = BinsConfig()
    "Jets and bins of the closure on the validation split, by which the best epoch is selected."
    checkpoint_minutes: float = Field(default=10.0, gt=0)
    "A checkpoint is written after every epoch, and within an epoch at this interval."
    ensemble: EnsembleConfig = EnsembleConfig()
    "Several trainings side by side instead of one."
    resources: ResourcesConfig = ResourcesConfig()
    "Where it runs."
    tracking: TrackingConfig = TrackingConfig()
    "Who else is told of it."

    @model_validator(mode="before")
    @classmethod
    def _with_defaults_of_taggers(cls, data: Any) -> Any:
        return _with_tagger_defaults(data) if isinstance(data, Mapping) and _names_a_tagger(data.get("model")) else data

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> "TrainConfig":
        is_tagger = isinstance(self.model, TaggerConfig)
        if is_tagger != (self.loss.label is not None):
            raise ValueError("a tagger needs loss.label, and nothing else has a use for it")
        if is_tagger and (self.loss.terms() or self.loss.closure is not None):
            raise ValueError("a tagger has no use for loss.energy, loss.mass, loss.rapidity and loss.closure: set them to null")
        if self.selection.metric == "last" and self.schedule.name == "plateau" and self.schedule.plateau_metric == "selection":
            raise ValueError("selection.metric=last tells no plateau: set schedule.plateau_metric=loss")
        if self.augmentation.is_on and not is_tagger:
            raise ValueError("augmentation is for taggers: leave it out")
        if self.ensemble.is_one_run and (not is_tagger or self.loss.decorrelation is not None):
            raise ValueError("ensemble.together is for taggers without loss.decorrelation: set it to false")
        if self.loss.decorrelation is not None and not is_tagger:
            raise ValueError("loss.decorrelation is for taggers: set it to null")
        if self.selection.metric not in ("loss", "last") and is_tagger != (self.selection.metric in TAGGING_METRICS):
            what = "a tagger" if is_tagger else "a calibrator"
            raise ValueError(f"selection.metric={self.selection.metric!r} is not known of {what}")
        return self

    @model_validator(mode="after")
    def _loss_fits_the_model(self) -> "TrainConfig":
        if isinstance(self.model, TaggerConfig):
            return self
        is_on_jets = isinstance(self.model, JetModelConfig)
        terms = self.loss.terms()
        if is_on_jets and list(terms) != ["energy"]:
            raise ValueError(
                f"model {self.model.name!r} predicts the response of the energy: it needs loss.energy, and has no use for "
                f"{[f'loss.{name}' for name in terms if name != 'energy']}; set those to null"
            )
        if is_on_jets and self.loss.closure is not None:
            raise ValueError(
                f"loss.closure is for networks on constituents; model {self.model.name!r} is on jets: set it to null"
            )
        given = self.model.estimate if isinstance(self.model, JetModelConfig) else "point"
        for name, term in terms.items():
            if term.estimate != given:
                fitting = [loss for loss, component in LOSSES.items() if import_path(component.config).estimate == given]
                raise ValueError(
                    f"loss.{name}.name={term.name!r} needs a network that gives {term.estimate}; model {self.model.name!r} "
                    f"gives {given}, for which the losses are {fitting}"
                )
            if term.residual is not None and given != "point":
                raise ValueError(f"loss.{name}.residual is for losses of residuals; {term.name!r} has none")
        return self

    def identity(self, fingerprint: str) -> dict[str, Any]:
        """Return what defines the result: everything but resources and paths, and the data by their fingerprint."""
        elsewhere = {"output", "dataset", "resources", "tracking", "checkpoint_minutes", "stream", "ensemble"}
        content = self.model_dump(mode="json", exclude=elsewhere)
        if self.ensemble.is_one_run:
            content["ensemble"] = {"num_members": self.ensemble.num_members}
        return content | {"dataset_fingerprint": fingerprint, "stream": self.stream.identity()}


class ImportConfig(TrainConfig):
    """Weights that were trained elsewhere, as a run."""

    weights: Annotated[Path, Place()]
    "A checkpoint of the authors' implementation: a file with tensors by name."


def _names_a_tagger(model: Any) -> bool:
    """Whether a configuration of a model, as it was given, is that of a tagger; what is not valid is found later."""
    if isinstance(model, Config):
        return isinstance(model, TaggerConfig)
    try:
        found = ComponentField("model", MODELS, "constituent_gnn").config_class(model or {})
    except ValueError:
        return False
    return issubclass(found, TaggerConfig)


def _with_tagger_defaults(data: Mapping[str, Any]) -> dict[str, Any]:
    """Put the defaults of taggers under what was given."""
    filled = dict(data)
    for key, defaults in TAGGER_DEFAULTS.items():
        given = as_weighting(data.get(key, {})) if key == "weighting" else data.get(key, {})
        filled[key] = {**defaults, **given} if isinstance(given, Mapping) else given
    loss, selection = filled["loss"], data.get("selection", {})
    if isinstance(loss, Mapping) and loss.get("decorrelation") is not None and isinstance(selection, Mapping):
        filled["selection"] = {"metric": "last", **selection}
    return filled
