"""What can be configured about the classical chain?

The defaults are those of the published chain (arXiv:2007.02645) where a number is published, with the |eta| ranges of its
sequential corrections. All bins are bins of the truth: bins of a reconstructed quantity would put the spectrum of the sample
into the calibration. This file imports neither torch nor ray, so that a wrong key is reported at once.
"""

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any

from pydantic import AfterValidator, Field, model_validator

from distjet.config import Config
from distjet.evaluation.config import EstimatorConfig
from distjet.storage import Location

ABS_ETA_EDGES = (0.0, 0.4, 0.8, 1.2, 1.4, 1.6, 1.8, 2.1, 2.5, 2.8, 3.2, 3.6, 4.5)
"Narrow where the calorimeter changes."


def _increasing(edges: tuple[float, ...]) -> tuple[float, ...]:
    if len(edges) < 2 or any(high <= low for low, high in pairwise(edges)):
        raise ValueError("expected at least two increasing edges")
    return edges


def _not_negative(edges: tuple[float, ...]) -> tuple[float, ...]:
    if edges[0] < 0:
        raise ValueError("expected edges that are not negative")
    return edges


def _positive(edges: tuple[float, ...]) -> tuple[float, ...]:
    if edges[0] <= 0:
        raise ValueError("expected positive edges")
    return edges


AbsEtaEdges = Annotated[tuple[float, ...], AfterValidator(_increasing), AfterValidator(_not_negative)]
PtEdges = Annotated[tuple[float, ...], AfterValidator(_increasing), AfterValidator(_positive)]


class AreaConfig(Config):
    """Area subtraction: pT - rho A."""

    rho: str = "rho"
    "Column with the pT density of the event, GeV per unit of area."
    area: str = "area"
    "Column with the jet's area."


class ResidualConfig(Config):
    """Residual pileup: pT - alpha (N_PV - 1) - beta mu, with alpha and beta in bins of |eta_det|."""

    num_vertices: str = "num_vertices"
    "Column with the number of reconstructed vertices N_PV."
    num_interactions: str = "num_interactions"
    "Column with the mean number of interactions per crossing mu."
    abs_eta_edges: AbsEtaEdges = (0.0, 0.8, 1.3, 1.8, 2.1, 2.5, 2.8, 3.2, 3.6, 4.5)
    "Edges of the bins in |eta_det|; a jet beyond them is treated as one in the bin next to it."
    pt_true_edges_gev: PtEdges = (20, 25, 30, 40, 55, 75, 100, 150, 250)
    "Edges of the bins in true pT (GeV) in which alpha and beta are fitted."
    max_degree: Annotated[int, Field(ge=0, le=2)] = 1
    "alpha and beta are polynomials of this degree in ln pT; 0: the same at every pT (with bins near 25 GeV: as published)."
    window_sigmas: Annotated[float, Field(ge=1, le=5)] = 2.0
    "Jets farther from the fit than this, in units of the 68 % half width, do not take part: tails are not pileup."
    min_entries: Annotated[int, Field(ge=50)] = 500
    "A bin in true pT with fewer jets is joined with its neighbour."


class EnergyConfig(Config):
    """Energy scale by numerical inversion."""

    abs_eta_edges: AbsEtaEdges = ABS_ETA_EDGES
    "Edges of the bins in |eta_det|; a jet beyond them is treated as one in the bin next to it."
    pt_true_edges_gev: PtEdges = (15, 20, 25, 30, 40, 50, 65, 85, 110, 150, 200, 300, 450, 700, 1000, 1500, 2200, 3500)
    "Edges of the bins in true energy, divided by cosh of the |eta_det| bin's centre (GeV): the same jets at every |eta|."
    max_degree: Annotated[int, Field(ge=0, le=8)] = 4
    "Degree of the polynomial in ln E_true; lower where bins are few, or where R(E) E would not increase."
    min_entries: Annotated[int, Field(ge=30)] = 150
    "A bin in true pT with fewer jets is joined with its neighbour."
    min_error: Annotated[float, Field(ge=0)] = 0.002
    "Added in quadrature to the statistical error of a bin's response (1): a polynomial is no better than this."


class EtaConfig(Config):
    """Direction: eta - Delta eta(E, |eta_det|), which changes pT and eta and keeps the energy."""

    abs_eta_edges: AbsEtaEdges = ABS_ETA_EDGES
    "As for the energy."
    pt_true_edges_gev: PtEdges = (15, 20, 30, 50, 85, 150, 300, 700, 1500, 3500)
    "As for the energy."
    max_degree: Annotated[int, Field(ge=0, le=8)] = 2
    "Degree of the polynomial in ln E_true."
    min_entries: Annotated[int, Field(ge=30)] = 150
    "A bin in true pT with fewer jets is joined with its neighbour."
    min_error: Annotated[float, Field(ge=0)] = 2e-4
    "Added in quadrature to the statistical error of a bin's Delta eta (1)."


class VariableConfig(Config):
    """One sequential correction."""

    column: str
    "Column of the dataset."
    max_abs_eta: Annotated[float, Field(gt=0)]
    "Jets beyond this |eta_det| are left as they are."
    is_share_of_pt: bool = False
    """Whether the column is a share of the uncalibrated pT, of which is made a share of the pT after the steps before: pileup
    under the jet lowers the former, and correcting it would bring back a slope in pileup."""
    num_bins: Annotated[int, Field(ge=2, le=50)] = 10
    "Bins of the variable, with about equal numbers of jets, in each bin of |eta_det| and true pT."


GSC_VARIABLES = (
    VariableConfig(column="charged_fraction", max_abs_eta=2.5, is_share_of_pt=True),
    VariableConfig(column="had1_fraction_jet", max_abs_eta=1.7),
    VariableConfig(column="em_fraction_jet", max_abs_eta=3.5),
    VariableConfig(column="num_tracks", max_abs_eta=2.5),
    VariableConfig(column="track_width", max_abs_eta=2.5),
    VariableConfig(column="num_segments", max_abs_eta=2.7),
)


class SequentialConfig(Config):
    """Global sequential calibration: the response must not depend on how a jet looks like."""

    variables: Annotated[tuple[VariableConfig, ...], Field(min_length=1)] = GSC_VARIABLES
    "In this order; each is fitted to jets that the ones before have corrected."
    abs_eta_edges: AbsEtaEdges = (0.0, 0.8, 1.3, 1.7, 2.1, 2.5, 2.7, 3.2, 3.5)
    "Edges of the bins in |eta_det|; bins of which a variable covers a part only are cut there."
    pt_true_edges_gev: PtEdges = (15, 20, 30, 40, 60, 90, 140, 220, 350, 600, 1000, 1600, 2500)
    "Edges of the bins in true pT (GeV)."
    min_entries: Annotated[int, Field(ge=30)] = 150
    "Jets of a bin of the variable; fewer bins where there are not enough."

    @model_validator(mode="after")
    def _each_once(self) -> "SequentialConfig":
        names = [variable.column for variable in self.variables]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"variables: each column once (got {repeated[0]!r} more than once)")
        return self

    def edges_for(self, variable: VariableConfig) -> tuple[float, ...]:
        """Return the |eta| edges of a variable: the common ones, up to its own limit."""
        return (*(edge for edge in self.abs_eta_edges if edge < variable.max_abs_eta), variable.max_abs_eta)


class SelectionConfig(Config):
    """Which jets the chain is fitted to, and tested on."""

    max_delta_r: Annotated[float, Field(gt=0)] = 0.3
    "Largest distance in (eta, phi) to the true jet."
    isolated: str | None = None
    "Column that is 1 for isolated jets; null: the dataset holds isolated jets only (a cut of its recipe)."
    pt_true_min_gev: Annotated[float, Field(ge=0)] = 15.0
    "Least true pT (GeV): below, the threshold of the reconstruction leaves those jets alone that were measured too high."
    max_jets: Annotated[int, Field(ge=1)] = 10_000_000
    "At most so many jets of a split are read (about 200 bytes each in memory): its first ones, which are a fair sample."


class ClosureConfig(Config):
    """Bins of the closure on the validation split."""

    abs_eta_edges: AbsEtaEdges = (0.0, 0.8, 1.3, 2.1, 2.8, 3.6, 4.5)
    "Edges of the bins in |eta_true|."
    pt_true_edges_gev: PtEdges = (20, 30, 45, 60, 80, 110, 150, 220, 330, 500, 800, 1300, 2000, 3500)
    "Edges of the bins in true pT (GeV)."
    pileup_pt_true_edges_gev: PtEdges = (20, 30, 60, 100)
    "Edges of the bins in true pT (GeV) in which the residual dependence on pileup is measured."
    min_entries: Annotated[int, Field(ge=30)] = 300
    "A bin with fewer jets is not drawn, and in no headline number."


class StepsConfig(Config):
    """The steps of the chain in their order; null leaves one out."""

    detector_eta: str = "detector_eta"
    "Column with the jet's pseudorapidity seen from the centre of the detector."
    min_factor: Annotated[float, Field(gt=0, lt=1)] = 0.1
    "A jet keeps at least this part of its pT (1) when pileup is subtracted: a mean may exceed what one jet has."
    area: AreaConfig | None = AreaConfig()
    "Area subtraction."
    residual: ResidualConfig | None = ResidualConfig()
    "Residual pileup."
    energy: EnergyConfig | None = EnergyConfig()
    "Energy scale."
    eta: EtaConfig | None = EtaConfig()
    "Direction."
    sequential: SequentialConfig | None = SequentialConfig()
    "Global sequential calibration."

    @model_validator(mode="after")
    def _has_a_step(self) -> "StepsConfig":
        if not any(True for _ in self.columns()):
            raise ValueError("the chain needs at least one of area, residual, energy, eta, sequential")
        return self

    def columns(self) -> Iterator[tuple[str, str]]:
        """List the columns that are needed beside those of the jet, each with the step that needs it."""
        if self.area is not None:
            yield from (("area", self.area.rho), ("area", self.area.area))
        if self.residual is not None:
            yield from (("residual", self.residual.num_vertices), ("residual", self.residual.num_interactions))
        for name in ("residual", "energy", "eta", "sequential"):
            if getattr(self, name) is not None:
                yield name, self.detector_eta
        if self.sequential is not None:
            yield from (("sequential", variable.column) for variable in self.sequential.variables)


class ChainConfig(Config):
    """One classical chain."""

    output: Location
    "The run's directory, or s3://bucket/folder."
    dataset: Location
    "A dataset made by `distjet prepare`: a folder, or s3://bucket/folder."
    chain: StepsConfig
    "The steps; `chain: {}` is the published chain."
    selection: SelectionConfig = SelectionConfig()
    "Which jets it is fitted to."
    closure: ClosureConfig = ClosureConfig()
    "Bins of the closure."
    estimator: EstimatorConfig = EstimatorConfig()
    "How a response and its error are estimated: the Gaussian core."

    def identity(self, fingerprint: str) -> dict[str, Any]:
        """Return what defines the result: everything but the places, and the data by their fingerprint."""
        return self.model_dump(mode="json", exclude={"output", "dataset"}) | {"dataset_fingerprint": fingerprint}
