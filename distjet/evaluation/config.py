"""Which jets, which bins and which estimators define what distjet says about a calibration?

Bins of the headline numbers are bins of TRUE quantities: bins of a reconstructed one show the migration of the falling spectrum
as well, and are drawn beside them. The same jets in the same bins are used for all methods, so that their numbers can be
compared.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_serializer, model_validator

from distjet.config import Config
from distjet.evaluation.bin_edges import check_edges
from distjet.evaluation.tagging_config import TaggingConfig
from distjet.storage import Location

FEWEST_REPLICAS = 20
"Fewer bootstrap replicas do not tell an error."


class EstimatorConfig(Config):
    """How a scale, a resolution and their statistical errors are taken from the jets of one bin."""

    core_window_sigmas: Annotated[float, Field(ge=0.8, le=3.0)] = 1.5
    "Half width of the core's window in units of its own sigma (1): wide enough for 200 jets, narrow enough to leave tails out."

    max_iterations: Annotated[int, Field(ge=10, le=1000)] = 100
    "Steps that the window gets to settle; a core that has not settled by then is replaced by the median and flagged."

    tolerance: Annotated[float, Field(gt=0, le=1e-2)] = 1e-4
    "The window has settled when it moves by less than this part of the 68 % half width (1); the statistical error is larger."

    min_window_entries: Annotated[int, Field(ge=5)] = 15
    "Jets that the core's window must hold; below, the median is used and flagged."

    num_replicas: Annotated[int, Field(ge=FEWEST_REPLICAS, le=2000)] = 100
    "Bootstrap replicas for the statistical errors; n replicas know the error to 1/sqrt(2n), here 7 %."

    seed: Annotated[int, Field(ge=0)] = 1
    "Seed of the bootstrap; the same table gives the same errors in any order of its rows."


class BinsConfig(Config):
    """Which jets in which bins; shared by the evaluation and by the validation of a training."""

    energy_edges_gev: tuple[float, ...] | None = (20, 30, 45, 70, 100, 150, 220, 330, 500, 800, 1300, 2500)
    "Edges of the bins in true jet energy (GeV); null: use num_log_energy_bins."

    num_log_energy_bins: Annotated[int, Field(ge=1, le=200)] = 10
    "Number of log-spaced bins between the lowest and the highest true energy; used if energy_edges_gev is null."

    abs_eta_edges: tuple[float, ...] = (0.0, 0.8, 1.3, 2.1, 2.8, 3.6, 4.5)
    "Edges of the bins in |true eta| (1), at the places where a calorimeter changes."

    pt_true_min_gev: Annotated[float, Field(ge=0)] = 20.0
    "Jets below this true pT (GeV) do not enter: there, noise and pileup dominate and jets are lost by the reconstruction."

    min_entries: Annotated[int, Field(ge=10)] = 200
    "A bin enters the headline numbers if it holds more jets than this."

    @model_validator(mode="after")
    def _check_edges(self) -> "BinsConfig":
        for name in ("energy_edges_gev", "abs_eta_edges"):
            check_edges(name, getattr(self, name))
        return self


class PileupConfig(Config):
    """How the dependence on pileup is measured."""

    pt_edges_gev: tuple[float, ...] = (20, 30, 40, 60, 80, 120)
    "Edges of the bins in true pT (GeV), within which the true pT counts as fixed. Pileup matters at low pT alone."

    num_points: Annotated[int, Field(ge=2, le=50)] = 8
    "Points of a profile against the number of vertices and the mean number of interactions, with equally many jets each."


class DependenceConfig(Config):
    """How the dependence on what a jet is made of is measured."""

    pt_edges_gev: tuple[float, ...] = (30, 45, 60, 100, 160, 300, 600)
    "Edges of the bins in true pT (GeV): within one, the spread of a property is not that of the pT."

    properties: tuple[str, ...] = ("charged_fraction", "num_tracks", "track_width")
    "Spectators of which the response should not depend."

    num_points: Annotated[int, Field(ge=2, le=50)] = 8
    "Points of a profile against a property, with equally many jets each."

    quarks: tuple[int, ...] = (1, 2, 3)
    "Absolute pdg codes (spectator `flavour`) that count as quark jets: light ones, as heavy ones lose neutrinos."

    gluons: tuple[int, ...] = (21,)
    "Pdg codes that count as gluon jets."


class DensityConfig(Config):
    """How predicted distributions are judged."""

    num_bins: Annotated[int, Field(ge=5, le=200)] = 20
    "Bins of the histogram of the probability integral transform."

    num_test_jets: Annotated[int, Field(ge=100)] = 10_000
    "Jets of the Kolmogorov-Smirnov test, chosen at random: with a million, it finds what nobody needs to know."

    levels: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = tuple(round(0.05 * step, 2) for step in range(2, 20))
    "Probabilities of the central intervals whose coverage is counted."


class ResponseConfig(BinsConfig):
    """What `distjet evaluate` measures."""

    pt_edges_gev: tuple[float, ...] = (20, 30, 45, 60, 90, 130, 200, 300, 450, 700, 1100, 2000)
    "Edges of the bins in true and in reconstructed pT (GeV). A bin belongs to a range of the headline if it lies inside."

    eta_bin_width: Annotated[float, Field(gt=0, le=2)] = 0.5
    "Width of the bins in eta (1) of the scale against eta, both sides apart: a detector is not the same on both."

    eta_energy_edges_gev: tuple[float, ...] = (30, 60, 120, 250, 500, 1000)
    "Edges of the bins in true energy (GeV) of the scale against eta."

    mass_over_pt_edges: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.4, 1.0)
    "Edges of the bins in true mass over true pT (1), in which the mass response is shown against the true pT."

    mass_true_min_gev: Annotated[float, Field(ge=0)] = 1.0
    "Jets below this true mass (GeV) do not enter the mass response, whose denominator would vanish."

    min_entries_drawn: Annotated[int, Field(ge=10)] = 50
    "A bin with fewer jets than this is listed, not drawn."

    observables: tuple[Literal["energy", "mass", "rapidity"], ...] = ("energy", "mass", "rapidity")
    "What to compare with the truth."

    methods: tuple[str, ...] | None = None
    "Names M of the columns M_energy, M_mass, M_rapidity; the first is the reference; null: all that the table has, raw first."

    use_weights: bool = False
    "Weight each jet by its event weight: the physical spectrum, at the price of fewer effective jets."

    estimator: EstimatorConfig = EstimatorConfig()
    "How scale, resolution and errors are estimated."

    pileup: PileupConfig = PileupConfig()
    "Slopes of the pT in the number of vertices and the mean number of interactions."

    dependence: DependenceConfig = DependenceConfig()
    "Differences between quark and gluon jets, and slopes of the response in properties of the jet."

    density: DensityConfig = DensityConfig()
    "Probability integral transform and coverage of methods that predict distributions."

    @model_validator(mode="after")
    def _check_more_edges(self) -> "ResponseConfig":
        named = {
            "pt_edges_gev": self.pt_edges_gev,
            "eta_energy_edges_gev": self.eta_energy_edges_gev,
            "mass_over_pt_edges": self.mass_over_pt_edges,
            "pileup.pt_edges_gev": self.pileup.pt_edges_gev,
            "dependence.pt_edges_gev": self.dependence.pt_edges_gev,
        }
        for name, edges in named.items():
            check_edges(name, edges)
        return self

    @model_validator(mode="after")
    def _check(self) -> "ResponseConfig":
        if not self.observables:
            raise ValueError("observables must name at least one of energy, mass, rapidity (got none)")
        if self.methods is not None and (not self.methods or len(set(self.methods)) < len(self.methods)):
            raise ValueError(f"methods must be null or distinct names (got {list(self.methods)})")
        if self.min_entries < self.min_entries_drawn:
            raise ValueError(
                f"min_entries must not be below min_entries_drawn: {self.min_entries} < {self.min_entries_drawn}; "
                "headline numbers would come from bins that nobody sees"
            )
        return self


class MethodRun(Config):
    """A training that is evaluated; a path alone means all of it."""

    run: Location
    "Output of `distjet train`."
    upto: str | None = None
    "Of a classical chain, the last step that is applied; null: all."

    @model_validator(mode="before")
    @classmethod
    def _of_path(cls, data: Any) -> Any:
        return data if isinstance(data, Mapping | Config) else {"run": data}


def _several(data: Any) -> Any:
    """Take one path for a list of one."""
    return data if isinstance(data, list | tuple) else (data,)


def _texts(value: Any) -> Any:
    """Write locations, however they are given, as texts."""
    if isinstance(value, Mapping):
        return {name: _texts(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_texts(item) for item in value]
    return None if value is None else str(value)


Locations = Annotated[tuple[Location, ...], BeforeValidator(_several), Field(min_length=1)]
MethodName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
ProcessName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$")]
RESERVED = ("raw", "true")
"What begins the columns of jets before any calibration, and of the truth."


class EvaluateConfig(Config):
    """What `distjet evaluate` compares: trainings on datasets, or finished tables of predictions."""

    output: Location
    "Directory of metrics, plots and report, or s3://bucket/folder."
    run: Location | None = None
    "Output of `distjet train`: its best model is evaluated, under the name `calibrated`, or `tagged` for a tagger."
    runs: dict[MethodName, MethodRun] = Field(default_factory=dict)
    "Several outputs of `distjet train` by the names of the report; {run: FOLDER, upto: STEP} is a part of a classical chain."
    seeds: dict[MethodName, Locations] = Field(default_factory=dict)
    "Per method, for the spread, the outputs of trainings that differ in their seeds alone, or the output of an ensemble."
    dataset: Location | None = None
    "Dataset to evaluate on; null: the one that the first run was trained on."
    datasets: dict[ProcessName, Location] = Field(default_factory=dict)
    "Several datasets by the name of their process, e.g. {QCD: FOLDER, ttbar: FOLDER}; most of the report is about the first."
    split: str = "test"
    "Split to evaluate on."
    predictions: Location | Locations | dict[ProcessName, Locations] | None = None
    "Finished tables instead of runs: one; several with other methods for the same jets; or those of each process."
    variations: dict[ProcessName, Locations] = Field(default_factory=dict)
    """Of taggers, by name: a dataset of the first process with something changed (its shower, its scale); with `predictions`,
    the tables of its jets with the same methods."""
    response: ResponseConfig = ResponseConfig()
    "Bins and estimators of a calibration."
    tagging: TaggingConfig = TaggingConfig()
    "Classes, working points and bins of taggers: tables with scores are evaluated with these."
    batch_size: int = Field(default=2048, ge=1)
    "Jets at a time."

    @field_serializer("predictions", when_used="json")
    def _as_text(self, value: Any) -> Any:
        return _texts(value)

    @model_validator(mode="after")
    def _one_source(self) -> "EvaluateConfig":
        trained = [name for name in ("run", "runs", "seeds") if getattr(self, name)]
        if bool(trained) == (self.predictions is not None):
            raise ValueError("give either run=DIRECTORY (of `distjet train`), or runs and seeds, or predictions=FILE.parquet")
        if trained and trained[0] == "run" and len(trained) > 1:
            raise ValueError(
                "run names one training; with several, give each a name: runs={first: DIRECTORY, second: DIRECTORY}"
            )
        if self.dataset and self.datasets:
            raise ValueError("give dataset=FOLDER or datasets={process: FOLDER, ...}, not both")
        if taken := [name for name in (*self.runs, *self.seeds) if name in RESERVED]:
            raise ValueError(f"a method cannot be called {taken[0]!r}: the columns of the jets before, and of the truth, are")
        return self
