"""Which true energy made the energy that was measured?

The response R(E_true) is the Gaussian core of E_reco / E_true in bins of E_true, so it does not depend on the spectrum of the
sample. It is a function of what is to be found; numerical inversion moves it to E_reco = R(E_true) E_true, and a jet of energy
E_reco is divided by the response that its most probable true energy has. Decisions a reader would question:

* R(E) E must increase, or two true energies would explain one measured one. A fit that violates this is made again with a lower
  degree; a constant always increases.
* Below and above the bins, R keeps its value at the end of its range, where R(E) E increases as well: every jet has an answer.
* A bin of |eta_det| without enough jets takes the curve of the nearest one that has them; the metrics and the log say so.

Reference:
    A. Cukierman and B. Nachman, "Mathematical properties of numerical inversion for jet calibrations", arXiv:1609.05195;
    ATLAS Collaboration, "Jet energy scale and resolution", arXiv:2007.02645, Sec. 5.2.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from distjet.calibration.binning import centres, nearest_filled, rows_by_bin
from distjet.calibration.curves import Curve, Fit, fit_curve, measure_points
from distjet.calibration.jets import Array, CalibratedJets, Columns, column
from distjet.calibration.settings import EnergyConfig, EtaConfig
from distjet.calibration.steps import BinnedStep
from distjet.evaluation.config import EstimatorConfig

NUM_POINTS = 400
"Points of the table in which R(E) E is inverted, evenly in ln E; between them it is linear."


class EnergyInversion(BinnedStep):
    """The step E / R(E), in bins of |eta_det|."""

    PER_BIN = ("curves",)

    kind: Literal["energy"] = "energy"
    curves: tuple[Curve, ...]
    "R as a function of ln E_true, for each bin."

    @property
    def name(self) -> str:
        """Name of the step."""
        return "energy"

    @property
    def needed_columns(self) -> tuple[str, ...]:
        """Columns that the step reads."""
        return (self.detector_eta,)

    def apply(self, jets: CalibratedJets, columns: Columns) -> CalibratedJets:
        """Divide each four-momentum by the response at its energy."""
        number = self.nearest_bin_of(columns)
        factor = np.empty_like(jets.energy)
        for index, curve in enumerate(self.curves):
            rows = np.flatnonzero(number == index)
            factor[rows] = 1 / response_at_reco(curve, jets.energy[rows])
        return jets.scaled(factor)


class EtaCorrection(BinnedStep):
    """The step eta - sign(eta_det) Delta(E), in bins of |eta_det|.

    Delta is a function of the true energy. Jets come here with a response of 1, for which the numerical inversion is the
    identity: the calibrated energy stands in for the true one.
    """

    PER_BIN = ("curves",)

    kind: Literal["eta"] = "eta"
    curves: tuple[Curve, ...]
    "Delta eta, positive where jets are reconstructed too far forward, as a function of ln E_true, for each bin."

    @property
    def name(self) -> str:
        """Name of the step."""
        return "eta"

    @property
    def needed_columns(self) -> tuple[str, ...]:
        """Columns that the step reads."""
        return (self.detector_eta,)

    def apply(self, jets: CalibratedJets, columns: Columns) -> CalibratedJets:
        """Turn each jet; its energy stays."""
        eta = column(columns, self.detector_eta, "the step eta")
        number = self.nearest_bin_of(columns)
        shift = np.empty_like(jets.eta)
        for index, curve in enumerate(self.curves):
            rows = np.flatnonzero(number == index)
            shift[rows] = curve(np.log(jets.energy[rows]))
        return jets.pointing_to(jets.eta - np.sign(eta) * shift)


def response_at_reco(curve: Curve, energy_reco: Array) -> Array:
    """Find the response as a function of the measured energy.

    Args:
        curve: R(ln E_true), acceptable to `is_invertible`.
        energy_reco: GeV, positive, shape (J,).

    Returns:
        R at the E_true for which R(E_true) E_true = energy_reco, shape (J,).
    """
    log_true = _grid(curve)
    log_response = np.log(curve(log_true))
    return np.exp(np.interp(np.log(energy_reco), log_true + log_response, log_response))


def is_invertible(curve: Curve) -> bool:
    """Whether R is positive and R(E) E increases over the whole range."""
    grid = _grid(curve)
    response = curve(grid)
    return bool(np.all(response > 0)) and bool(np.all(np.diff(np.log(response) + grid) > 0))


def _grid(curve: Curve) -> Array:
    width = max(curve.log_high - curve.log_low, 1e-9)  # one bin has one energy
    return curve.log_low + np.linspace(0, width, NUM_POINTS)


@dataclass(frozen=True)
class CurveFits:
    """Curves of all bins of |eta_det|."""

    fits: tuple[Fit | None, ...]
    "None where there are not enough jets."
    taken_from: tuple[int, ...]
    "The bin whose curve stands in each bin: itself, or the nearest that has one."

    @property
    def curves(self) -> tuple[Curve, ...]:
        """The curve of each bin."""
        found = [fit.curve if fit is not None else None for fit in self.fits]
        return tuple(curve for source in self.taken_from if (curve := found[source]) is not None)


def fit_energy(
    jets: CalibratedJets, energy_true: Array, eta: Array, config: EnergyConfig, settings: EstimatorConfig
) -> CurveFits:
    """Fit the response E / E_true in bins of |eta_det|.

    Args:
        jets: Jets after the pileup subtraction.
        energy_true: GeV, shape (J,).
        eta: eta_det, shape (J,).
        config: Bins and polynomials.
        settings: Estimator.

    Raises:
        DataError: If no bin has enough jets.
    """
    fits = _fit_bins(jets.energy / energy_true, energy_true, np.abs(eta), config, settings)
    return CurveFits(fits, tuple(nearest_filled([fit is not None for fit in fits], "energy scale in bins of |eta_det|")))


def fit_eta(
    jets: CalibratedJets, truth: tuple[Array, Array], eta: Array, config: EtaConfig, settings: EstimatorConfig
) -> CurveFits:
    """Fit sign(eta_det) (eta - eta_true) in bins of |eta_det|.

    Args:
        jets: Jets with the right energy.
        truth: E_true (GeV) and eta_true, shape (J,) each.
        eta: eta_det, shape (J,).
        config: Bins and polynomials.
        settings: Estimator.

    Raises:
        DataError: If no bin has enough jets.
    """
    energy_true, eta_true = truth
    fits = _fit_bins(np.sign(eta) * (jets.eta - eta_true), energy_true, np.abs(eta), config, settings)
    return CurveFits(fits, tuple(nearest_filled([fit is not None for fit in fits], "eta correction in bins of |eta_det|")))


def _fit_bins(
    values: Array, energy_true: Array, abs_eta: Array, config: EnergyConfig | EtaConfig, settings: EstimatorConfig
) -> tuple[Fit | None, ...]:
    accept = is_invertible if isinstance(config, EnergyConfig) else (lambda _: True)
    log_energy = np.log(energy_true)
    fits: list[Fit | None] = []
    scales = np.cosh(centres(config.abs_eta_edges))
    for scale, rows in zip(scales, rows_by_bin(abs_eta, config.abs_eta_edges), strict=True):
        edges = np.log(scale * np.asarray(config.pt_true_edges_gev))
        points = measure_points(values[rows], log_energy[rows], edges, config.min_entries, settings)
        fits.append(fit_curve(points, config.max_degree, config.min_error, accept) if len(points.value) else None)
    return tuple(fits)
