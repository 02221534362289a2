"""What can be configured about a training?

This file imports neither torch nor ray, so that a wrong key is reported at once.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from distjet.config import Config, component_type, import_path
from distjet.dataset.streaming.settings import ReadConfig
from distjet.evaluation.config import BinsConfig
from distjet.models.configs import MODELS, ConstituentGnnConfig, CorrectionConfig, JetModelConfig
from distjet.nn.losses.configs import LOSSES, LgkConfig, MseConfig, TermConfig
from distjet.storage import Location, Place, check_url

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

    A network on whole jets predicts the response of the energy: it has a term in energy alone.
    """

    energy: component_type("loss", LOSSES, "lgk", optional=True) = LgkConfig()  # type: ignore[valid-type]
    "Acts on E / E_true - 1; null: no such term."
    mass: component_type("loss", LOSSES, "lgk", optional=True) = None  # type: ignore[valid-type]
    "Acts on m / m_true - 1, for jets with a true mass above min_true_mass_gev; null: no such term."
    rapidity: component_type("loss", LOSSES, "mse", optional=True) = MseConfig(weight=300.0)  # type: ignore[valid-type]
    "Acts on y - y_true, whose squares are of the order 1e-4; null: no such term."
    closure: ClosurePenaltyConfig | None = None
    "Penalty on the mean response of bins, for networks on constituents; null: none."
    min_true_mass_gev: float = Field(default=2.0, gt=0)
    "Jets below have no mass term: the ratio to a vanishing mass is noise."

    def terms(self) -> dict[str, TermConfig]:
        """Return the terms that are switched on, by observable."""
        named = {"energy": self.energy, "mass": self.mass, "rapidity": self.rapidity}
        return {name: term for name, term in named.items() if term is not None and term.weight > 0}

    @model_validator(mode="after")
    def _has_a_term(self) -> "LossConfig":
        if not self.terms():
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


class OptimizerConfig(Config):
    """AdamW, with weight decay on matrices alone (not on biases and normalisations)."""

    lr: float = Field(default=2e-3, gt=0)
    "Peak learning rate."
    weight_decay: float = Field(default=1e-4, ge=0)
    "Decoupled weight decay."
    betas: tuple[float, float] = (0.9, 0.99)
    "Decay of the running moments."
    clip_norm: float = Field(default=1.0, gt=0)
    "The gradient's norm is clipped to this."


class ScheduleConfig(Config):
    """Learning rate against time."""

    name: Literal["cosine", "flat_then_anneal", "one_cycle", "constant", "plateau"] = "cosine"
    "plateau reacts to the validation at the end of each epoch; the others depend on the step alone."
    warmup_fraction: float = Field(default=0.05, ge=0, lt=1)
    "Part of all steps over which the rate rises linearly (one_cycle: 0.3 is usual)."
    flat_fraction: float = Field(default=0.7, ge=0, le=1)
    "flat_then_anneal: part of all steps before the rate falls."
    final_fraction: float = Field(default=0.01, ge=0, le=1)
    "Last learning rate as a fraction of the peak."
    plateau_factor: float = Field(default=0.3, gt=0, lt=1)
    "plateau: what the rate is multiplied with."
    plateau_patience: int = Field(default=3, ge=0)
    "plateau: epochs without improvement before the rate falls."
    plateau_metric: Literal["selection", "loss"] = "selection"
    "plateau: what has to improve on the validation split: the metric that selects the best epoch, or the loss."


class SelectionConfig(Config):
    """Which epoch is the best: decided on the response, because equal losses can hide 2 % in it."""

    metric: Literal["mean_abs_bias", "max_abs_bias", "mean_resolution", "loss"] = "mean_abs_bias"
    "Closure in bins of true energy and |eta| of the validation split: |Gaussian core of E / E_true - 1|, mean or worst bin."
    patience: int | None = Field(default=None, ge=1)
    "Stop after so many epochs without improvement; null: train all epochs."


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
    """Several trainings that differ in their seeds alone; no part of the identity of any of them."""

    num_members: int = Field(default=1, ge=1)
    "Above 1, so many runs in members/, with the seeds seed, seed + 1, ...; it may be raised later."
    max_concurrent: int | None = Field(default=None, ge=0)
    """Members at the same time; null: as many as the cluster has room for, at resources each; 0: one after the other in this
    process."""


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
    weighting: Annotated[WeightingConfig, BeforeValidator(as_weighting)] = WeightingConfig()
    "How much each jet counts in the loss: a name, or {reference: CLASS}, or a mapping."
    optimizer: OptimizerConfig = OptimizerConfig()
    "AdamW."
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

    @model_validator(mode="after")
    def _loss_fits_the_model(self) -> "TrainConfig":
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
        return content | {"dataset_fingerprint": fingerprint, "stream": self.stream.identity()}
