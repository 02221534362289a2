"""How much of a jet's pT comes from pileup, and how is it removed?

Area subtraction takes rho A from each jet. What remains depends on the number of vertices (collisions of the same crossing, of
which rho sees the calm regions) and on mu (neighbouring crossings, through the pulse shape); it is taken as linear in both.
Decisions a reader would question:

* alpha and beta are fitted together, so that each is the dependence at a fixed value of the other: N_PV and mu go together, and
  two separate fits would count the common part twice.
* The fit is one of the core: least squares over the jets near the line, repeated until the line stays. A tail (a lost or a
  foreign jet) is no pileup, and the mean of all jets would follow it.
* Within a bin of true pT, pT_reco - pT_true is also linear in ln pT_true: the response is not 1 yet.
* Harder jets collect more of the pileup's energy (their cells are above threshold already), so alpha and beta are linear in
  ln pT. They are fitted in bins of the true pT and looked up at the pT that jets of such a bin have in the mean: a numerical
  inversion. Jets below and above the bins have the values at their ends.
* What is removed in the mean may exceed what one jet has. A jet keeps at least a part `min_factor` of its pT; how many jets
  that concerns is in the metrics.

Reference:
    M. Cacciari and G. P. Salam, "Pileup subtraction using jet areas", arXiv:0707.1378; ATLAS Collaboration, "Jet energy scale
    and resolution", arXiv:2007.02645, Sec. 5.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from distjet.calibration.binning import Rows, merged, nearest_filled, rows_by_bin
from distjet.calibration.curves import Curve, Points, fit_curve
from distjet.calibration.jets import Array, CalibratedJets, Columns, all_of
from distjet.calibration.settings import ResidualConfig
from distjet.calibration.steps import BinnedStep
from distjet.config import Config
from distjet.evaluation.estimators import truncated_variance

MAX_ITERATIONS = 200
TOLERANCE = 1e-4
"The fit stays where a prediction moves by less than this part of the window."


class AreaSubtraction(Config):
    """The step pT - rho A."""

    kind: Literal["area"] = "area"
    rho: str
    "Column of rho, GeV per unit of area."
    area: str
    "Column of the area."
    min_factor: float
    "Least part of the pT that is left."

    @property
    def name(self) -> str:
        """Name of the step."""
        return "area"

    @property
    def needed_columns(self) -> tuple[str, ...]:
        """Columns that the step reads."""
        return self.rho, self.area

    def apply(self, jets: CalibratedJets, columns: Columns) -> CalibratedJets:
        """Subtract rho A from the pT of each jet, and scale the jet as a whole."""
        rho, area = all_of(columns, self.needed_columns, "the step area")
        return subtract(jets, rho * area, self.min_factor)


class ResidualCorrection(BinnedStep):
    """The step pT - alpha (N_PV - 1) - beta mu, in bins of |eta_det|."""

    PER_BIN = ("alpha_gev", "beta_gev")

    kind: Literal["residual"] = "residual"
    num_vertices: str
    "Column of N_PV."
    num_interactions: str
    "Column of mu."
    alpha_gev: tuple[Curve, ...]
    "GeV per vertex as a function of ln(pT / GeV) before the step, for each bin."
    beta_gev: tuple[Curve, ...]
    "GeV per interaction, likewise."
    min_factor: float
    "Least part of the pT that is left."

    @property
    def name(self) -> str:
        """Name of the step."""
        return "residual"

    @property
    def needed_columns(self) -> tuple[str, ...]:
        """Columns that the step reads."""
        return self.num_vertices, self.num_interactions, self.detector_eta

    def apply(self, jets: CalibratedJets, columns: Columns) -> CalibratedJets:
        """Subtract the offset of each jet's bin of |eta_det|, and scale the jet as a whole."""
        num_vertices, num_interactions = all_of(columns, self.needed_columns[:2], "the step residual")
        number, log_pt = self.nearest_bin_of(columns), np.log(jets.pt)
        offset_gev = np.empty_like(jets.pt)
        for index, (alpha, beta) in enumerate(zip(self.alpha_gev, self.beta_gev, strict=True)):
            rows = np.flatnonzero(number == index)
            slopes = alpha(log_pt[rows]), beta(log_pt[rows])
            offset_gev[rows] = slopes[0] * (num_vertices[rows] - 1) + slopes[1] * num_interactions[rows]
        return subtract(jets, offset_gev, self.min_factor)


def subtract(jets: CalibratedJets, offset_gev: Array, min_factor: float) -> CalibratedJets:
    """Take an offset from each jet's pT, but leave a part `min_factor` of it.

    Args:
        jets: The jets.
        offset_gev: Shape (J,); may be negative.
        min_factor: Least part of the pT that is left.
    """
    return jets.scaled(np.maximum(1 - offset_gev / jets.pt, min_factor))


@dataclass(frozen=True)
class Slopes:
    """Dependence of a pT on pileup: GeV per vertex (alpha) and per interaction (beta), with statistical errors."""

    alpha: float
    beta: float
    alpha_error: float
    beta_error: float
    num_jets: int


def fit_slopes(offset_gev: Array, pt_true_gev: Array, pileup: tuple[Array, Array], window_sigmas: float) -> Slopes:
    """Fit the core of pT_reco - pT_true as a linear function of N_PV, mu and ln pT_true.

    Args:
        offset_gev: pT_reco - pT_true in GeV, shape (J,).
        pt_true_gev: Shape (J,), positive.
        pileup: N_PV and mu, shape (J,) each.
        window_sigmas: Half width of the window about the line, in units of the 68 % half width of the residuals.

    Returns:
        The slopes. A sample without a spread in N_PV or mu has the slope 0 with the error 0: there is nothing to correct.
    """
    design = np.stack([np.ones_like(offset_gev), *pileup, np.log(pt_true_gev)], axis=1)
    design[:, 1:] -= design[:, 1:].mean(axis=0)
    varies = np.ptp(design, axis=0) > 0
    varies[0] = True
    design = design * varies
    solution, variance, inside = fit_core_line(design, offset_gev, window_sigmas)
    covariance = variance * np.linalg.pinv(design[inside].T @ design[inside])
    errors = np.sqrt(np.diag(covariance))
    return Slopes(float(solution[1]), float(solution[2]), float(errors[1]), float(errors[2]), len(offset_gev))


def fit_core_line(design: Array, values: Array, window_sigmas: float) -> tuple[Array, float, NDArray[np.bool_]]:
    """Least squares over the values near the line, repeated until the line stays.

    For a Gaussian about the line, the fixed point is the line, and the variance of a value that enters the errors is
    v / c^2, where v is the variance in the window and c that of a unit Gaussian truncated there (its Fisher information).

    Args:
        design: Shape (J, P).
        values: Shape (J,).
        window_sigmas: Half width of the window in units of the residuals' 68 % half width.

    Returns:
        The P coefficients, the variance, and whether each value is inside of the window.
    """
    solution = np.linalg.lstsq(design, values, rcond=None)[0].astype(np.float64)
    for _ in range(MAX_ITERATIONS):
        residuals = values - design @ solution
        low, high = np.quantile(residuals, [0.158655, 0.841345])
        window = window_sigmas * (high - low) / 2
        inside = np.abs(residuals) < window
        before, solution = solution, np.linalg.lstsq(design[inside], values[inside], rcond=None)[0]
        if np.max(np.abs(design @ (solution - before))) < TOLERANCE * window:
            break
    correction = truncated_variance(window_sigmas)
    return solution, float(np.var(values[inside] - design[inside] @ solution)) / correction**2, inside


@dataclass(frozen=True)
class SlopesAt:
    """The slopes of one bin of true pT, and where the bin lies."""

    pt_true_gev: float
    "Mean true pT."
    log_pt: float
    "Mean ln(pT / GeV) before the step."
    slopes: Slopes


@dataclass(frozen=True)
class ResidualFit:
    """What the residual correction is made from."""

    alpha_gev: tuple[Curve, ...]
    beta_gev: tuple[Curve, ...]
    taken_from: tuple[int, ...]
    "The bin of |eta_det| whose curves stand in each bin: itself, or the nearest with enough jets."
    bins: tuple[tuple[SlopesAt, ...], ...]
    "For each bin of |eta_det|, the bins of true pT that were fitted."


def fit_residual(
    jets: CalibratedJets, pt_true_gev: Array, eta: Array, pileup: tuple[Array, Array], config: ResidualConfig
) -> ResidualFit:
    """Fit alpha and beta in bins of |eta_det|.

    Args:
        jets: Jets after the area subtraction.
        pt_true_gev: Shape (J,).
        eta: eta_det, shape (J,).
        pileup: N_PV and mu, shape (J,) each.
        config: Bins and window.

    Raises:
        DataError: If no bin has enough jets.
    """
    by_bin = []
    for rows in rows_by_bin(np.abs(eta), config.abs_eta_edges):
        enough = merged(rows_by_bin(pt_true_gev, config.pt_true_edges_gev, rows), config.min_entries)
        by_bin.append(tuple(_slopes_at(jets, pt_true_gev, pileup, chosen, config.window_sigmas) for chosen in enough))
    sources = tuple(nearest_filled([bool(found) for found in by_bin], "residual pileup in bins of |eta_det| and true pT"))
    alpha = tuple(slope_curve(by_bin[source], "alpha", config.max_degree) for source in sources)
    beta = tuple(slope_curve(by_bin[source], "beta", config.max_degree) for source in sources)
    return ResidualFit(alpha, beta, sources, tuple(by_bin))


def slope_curve(found: Sequence[SlopesAt], name: str, max_degree: int) -> Curve:
    """Fit alpha or beta by a polynomial in ln pT, weighted by the errors."""
    values, errors = (np.array([getattr(item.slopes, key) for item in found]) for key in (name, f"{name}_error"))
    log_pt, counts = np.array([item.log_pt for item in found]), np.array([item.slopes.num_jets for item in found])
    return fit_curve(Points(log_pt, values, errors, counts, 0), max_degree, 0.0).curve


def _slopes_at(
    jets: CalibratedJets, pt_true_gev: Array, pileup: tuple[Array, Array], rows: Rows, window_sigmas: float
) -> SlopesAt:
    own = pileup[0][rows], pileup[1][rows]
    slopes = fit_slopes(jets.pt[rows] - pt_true_gev[rows], pt_true_gev[rows], own, window_sigmas)
    return SlopesAt(float(pt_true_gev[rows].mean()), float(np.log(jets.pt[rows]).mean()), slopes)
