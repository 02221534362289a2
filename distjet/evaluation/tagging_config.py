"""Which classes, which working points and which bins define what distjet says about a tagger?

All taggers are compared on the same jets. A discriminant is a score that tells some classes from others; the first one is that
of the headline numbers, of the efficiencies in bins and of the mass.
"""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field, model_validator

from distjet.config import Config
from distjet.evaluation.bin_edges import check_edges

Fraction = Annotated[float, Field(gt=0, lt=1)]


class DiscriminantConfig(Config):
    """Classes that are told from others: sum of the scores of the former, over the sum of both."""

    signal: Annotated[tuple[str, ...], Field(min_length=1)]
    "Classes that count as signal."
    background: Annotated[tuple[str, ...], Field(min_length=1)]
    "Classes that count as background; jets of other classes do not take part."

    @model_validator(mode="after")
    def _are_apart(self) -> "DiscriminantConfig":
        if both := set(self.signal) & set(self.background):
            raise ValueError(f"{sorted(both)[0]} cannot be signal and background")
        return self


class DdtConfig(Config):
    """A tagger made independent of the mass after its training: T - T^(x%)(rho, pT), arXiv:1603.00027."""

    background_efficiency: Fraction = 0.05
    "x: the share of background jets that passes everywhere (1)."

    neighbour_shares: Annotated[tuple[Annotated[float, Field(gt=0, le=0.5)], ...], Field(min_length=1)] = (0.01, 0.03, 0.1)
    "Nearest background jets in (rho, pT), as shares of all (1), whose scores tell T^(x%) at a point; the best is chosen."

    num_passes: Annotated[int, Field(ge=1, le=10)] = 2
    "The map is made anew from what it leaves: neighbours that are not all of the same rho would tilt it at its borders."

    num_rho_points: Annotated[int, Field(ge=4, le=200)] = 40
    "Points of the map in rho."

    num_pt_points: Annotated[int, Field(ge=2, le=100)] = 12
    "Points of the map in pT."

    smoothing_points: Annotated[float, Field(ge=0, le=5)] = 1.0
    "Width of the Gaussian by which the map is smoothed, in its points; 0: not."

    num_rho_cells: Annotated[int, Field(ge=2, le=30)] = 10
    "Cells in rho in which the other half of the background is counted; each holds equally many jets."

    num_pt_cells: Annotated[int, Field(ge=1, le=15)] = 4
    "Cells in pT."

    min_passed_flat: Annotated[int, Field(ge=10)] = 200
    "The largest deviation is that of the cells in which at least so many jets pass; below, it is that of chance."

    min_mass_gev: Annotated[float, Field(gt=0)] = 1.0
    "Jets below this mass (GeV) do not take part: rho = ln(m^2 / pT^2) has no end there."

    methods: tuple[str, ...] | None = None
    "Methods that get a map; null: all; []: none."


class TaggingConfig(Config):
    """What `distjet evaluate` measures of taggers."""

    signal_classes: tuple[str, ...] | None = None
    "Each is told from each background class; null: all that are no background. Of two classes, that with label 1."

    background_classes: tuple[str, ...] | None = None
    "Null: the class with label 0."

    discriminants: Mapping[str, DiscriminantConfig] = Field(default_factory=dict)
    "More discriminants by name, of sums of classes, e.g. {top: {signal: [tbqq, tbq], background: [QCD]}}; they come first."

    signal_efficiencies: Annotated[tuple[Fraction, ...], Field(min_length=1)] = (0.3, 0.5, 0.7, 0.8)
    "Where 1 / eps_B is given (1)."

    working_points: tuple[Fraction, ...] = (0.5, 0.8)
    "Of these, those whose efficiencies are given against pT and mass; the first is that of the mass, of DDT and of variations."

    background_efficiency: Fraction = 0.05
    "The mass of the background is also compared at this efficiency (1), which is the same number of jets for all methods."

    pt_range_gev: tuple[float, float] | None = None
    "Only jets with a pT in this range (GeV) are evaluated; null: all."

    pt_edges_gev: tuple[float, ...] | None = None
    "Edges of the bins in pT (GeV); null: round numbers that suit the jets."

    mass_edges_gev: tuple[float, ...] | None = None
    "Edges of the bins in mass (GeV) of the efficiencies; null: round numbers that suit the jets."

    num_bins: Annotated[int, Field(ge=2, le=50)] = 8
    "About so many bins in pT and mass, where edges are null."

    mass_column: str = "jet_mass"
    "The mass (GeV) that should not be sculpted."

    mass_range_gev: tuple[float, float] | None = None
    "Range of the histogram of the mass (GeV); null: from 0 to where 0.5 % of the background are left."

    num_mass_bins: Annotated[int, Field(ge=4, le=200)] = 40
    "Its bins. Divergences depend on them, so that they are compared for equal bins only."

    reweight_pt: bool = True
    "Weight signal jets to the pT spectrum of the background; else a tagger that knows the pT looks better than it is."

    num_reweight_bins: Annotated[int, Field(ge=2, le=500)] = 40
    "Bins of pT for that, with equally many background jets each."

    methods: tuple[str, ...] | None = None
    "Names M of the columns M_score_CLASS, in the order of the tables; null: all that are there. Ratios are to the first."

    use_weights: bool = False
    "Weight each jet by its event weight."

    min_entries: Annotated[int, Field(ge=10)] = 100
    "A bin with fewer jets than this is listed, not drawn; a mass with fewer is not compared."

    min_passed: Annotated[int, Field(ge=1)] = 10
    "A rejection for which fewer background jets pass is marked, and not drawn: its error is not Gaussian."

    num_replicas: Annotated[int, Field(ge=20, le=2000)] = 50
    "Bootstrap replicas for the errors of divergences."

    seed: Annotated[int, Field(ge=0)] = 1
    "Seed of these."

    ddt: DdtConfig = DdtConfig()
    "Taggers made independent of the mass after the training."

    @model_validator(mode="after")
    def _check(self) -> "TaggingConfig":
        for name in ("pt_edges_gev", "mass_edges_gev", "pt_range_gev", "mass_range_gev"):
            check_edges(name, getattr(self, name))
        for name in ("signal_efficiencies", "working_points"):
            if list(values := getattr(self, name)) != sorted(set(values)) or not values:
                raise ValueError(f"{name} must be distinct, increasing and at least one (got {list(values)})")
        if other := [value for value in self.working_points if value not in self.signal_efficiencies]:
            raise ValueError(
                f"working_points must be among signal_efficiencies {list(self.signal_efficiencies)} (got {other[0]:g})"
            )
        for name in ("methods", "signal_classes", "background_classes"):
            values = getattr(self, name)
            if values is not None and (not values or len(set(values)) < len(values)):
                raise ValueError(f"{name} must be null or distinct names (got {list(values)})")
        return self
