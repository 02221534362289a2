"""Which jets, which bins and which estimator define the response that distjet quotes?

Bins are bins of the TRUE energy and |eta|: bins of a reconstructed quantity would show the migration of the falling spectrum
instead of the calibration. The same jets in the same bins are used for all methods, so that their numbers can be compared.
"""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from distjet.config import Config


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

    num_replicas: Annotated[int, Field(ge=20, le=2000)] = 100
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
            _check_edges(name, getattr(self, name))
        return self


class ResponseConfig(BinsConfig):
    """What `distjet evaluate` measures."""

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


def _check_edges(name: str, edges: tuple[float, ...] | None) -> None:
    if edges is None:
        return
    if len(edges) < 2 or edges[0] < 0 or any(high <= low for low, high in pairwise(edges)):
        raise ValueError(f"{name} must be at least two increasing, non-negative edges (got {list(edges)})")
