"""Why is one jet of an energy measured higher than another, and can that be taken back without moving the mean?

Jets with many charged particles, or with much energy deep in the calorimeter, are measured lower than others of the same true
energy. For one variable x after the other, the response in bins of (|eta_det|, true pT, x) is divided out. Decisions a reader
would question:

* Responses are relative to that of all jets of the bin of true pT, and after the division the core of all jets is measured
  again and put back: the step sharpens the response and leaves its scale to the energy scale.
* The response is a function of the true pT; a jet has a measured one. For its x, ln R is linear in ln pT_true between the bins,
  and so is ln pT_reco = ln R + ln pT_true; the true pT is read off that line. No iteration, no spectrum.
* x is cut into bins of equal numbers of jets in each bin of true pT, because its distribution moves with pT; ln R is linear
  between the means of these bins, and constant outside of the first and the last.

Reference:
    ATLAS Collaboration, "Jet energy scale and resolution", arXiv:2007.02645, Sec. 5.3.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np

from distjet.calibration.binning import bin_numbers, equal_shares, measure, merged, rows_by_bin
from distjet.calibration.jets import Array, CalibratedJets, Columns, all_of
from distjet.calibration.settings import SequentialConfig, VariableConfig
from distjet.calibration.steps import BinnedStep
from distjet.config import Config
from distjet.errors import DataError
from distjet.evaluation.config import EstimatorConfig

FEWEST_REPLICAS = 20
"Bootstrap replicas for errors that nobody asks for."


class ResponseRow(Config):
    """The response against x at one true pT."""

    log_pt_true: float
    "Mean ln(pT_true / GeV) of the bin."
    x: tuple[float, ...]
    "Mean of the variable in each of its bins, increasing."
    log_response: tuple[float, ...]
    "ln of the relative response in each bin."

    def at(self, x: Array) -> Array:
        """Interpolate at values of the variable, shape (J,)."""
        return np.interp(x, self.x, self.log_response)


class SequentialCorrection(BinnedStep):
    """One step pT / R(pT, x), in bins of |eta_det|; jets beyond the bins are left as they are."""

    PER_BIN = ("rows",)

    kind: Literal["sequential"] = "sequential"
    variable: str
    "Column of x."
    is_share_of_pt: bool = False
    "Whether the column is a share of the uncalibrated pT, and x the share of the pT after the steps before."
    rows: tuple[tuple[ResponseRow, ...], ...]
    "For each bin of |eta_det|, the responses at increasing true pT; none where jets are left as they are."

    @property
    def name(self) -> str:
        """Name of the step: that of its variable."""
        return self.variable

    @property
    def needed_columns(self) -> tuple[str, ...]:
        """Columns that the step reads."""
        return self.variable, self.detector_eta, *(("jet_pt",) if self.is_share_of_pt else ())

    def apply(self, jets: CalibratedJets, columns: Columns) -> CalibratedJets:
        """Divide each four-momentum by the relative response at its pT and x."""
        own = dict(zip(self.needed_columns, all_of(columns, self.needed_columns, f"the step {self.variable}"), strict=True))
        x, eta = values_of(self.variable, self.is_share_of_pt, jets, own), own[self.detector_eta]
        number = bin_numbers(np.abs(eta), self.abs_eta_edges)
        factor = np.ones_like(jets.energy)
        for index, table in enumerate(self.rows):
            chosen = np.flatnonzero(number == index)
            if table and len(chosen):
                factor[chosen] = np.exp(-log_response_at_reco(table, np.log(jets.pt[chosen]), x[chosen]))
        return jets.scaled(factor)


def values_of(variable: str, is_share_of_pt: bool, jets: CalibratedJets, columns: Columns) -> Array:
    """Return x of each jet, shape (J,): a column, or as a share of the pT of these jets the share of the uncalibrated pT."""
    if not is_share_of_pt:
        return columns[variable]
    return columns[variable] * columns["jet_pt"] / jets.pt


def log_response_at_reco(table: tuple[ResponseRow, ...], log_pt_reco: Array, x: Array) -> Array:
    """Look ln R up at the measured pT.

    Args:
        table: Responses at P increasing true pT.
        log_pt_reco: ln(pT / GeV), shape (J,).
        x: Shape (J,).

    Returns:
        ln R at the true pT for which ln R + ln pT_true = ln pT_reco, shape (J,).
    """
    log_response = np.stack([row.at(x) for row in table], axis=1)
    nodes = log_response + np.array([row.log_pt_true for row in table])
    low = np.clip((nodes <= log_pt_reco[:, np.newaxis]).sum(axis=1) - 1, 0, max(len(table) - 2, 0))
    high = np.minimum(low + 1, len(table) - 1)
    every = np.arange(len(x))
    below, above = nodes[every, low], nodes[every, high]
    part = np.clip((log_pt_reco - below) / np.where(above > below, above - below, 1.0), 0, 1)
    return (1 - part) * log_response[every, low] + part * log_response[every, high]


@dataclass(frozen=True)
class SequentialFit:
    """A step and what it was made from."""

    step: SequentialCorrection
    num_bins: int
    "Bins of (|eta_det|, true pT) with a response."
    num_cells: int
    "Bins of (|eta_det|, true pT, x)."
    num_without: int
    "Jets in bins of |eta_det| that hold too few jets, and are left as they are."


def fit_sequential(
    jets: CalibratedJets,
    truth: tuple[Array, Array],
    eta_and_x: tuple[Array, Array],
    configs: tuple[SequentialConfig, VariableConfig, str],
    settings: EstimatorConfig,
) -> SequentialFit:
    """Fit one sequential correction.

    Args:
        jets: Jets after the steps before.
        truth: E_true and pT_true in GeV, shape (J,) each.
        eta_and_x: eta_det and the variable, shape (J,) each.
        configs: Bins, the variable, and the name of the column of eta_det.
        settings: Estimator.

    Raises:
        DataError: If no bin has enough jets, or the response jumps so much that it cannot be inverted.
    """
    config, variable, detector_eta = configs
    settings = settings.model_copy(update={"num_replicas": FEWEST_REPLICAS})
    (energy_true, pt_true), (eta, x) = truth, eta_and_x
    response, edges = jets.energy / energy_true, config.edges_for(variable)
    tables, num_without = [], 0
    for index, in_eta in enumerate(rows_by_bin(np.abs(eta), edges)):
        enough = merged(rows_by_bin(pt_true, config.pt_true_edges_gev, in_eta), 2 * config.min_entries)
        num_without += len(in_eta) if not enough else 0
        num_bins = (variable.num_bins, config.min_entries)
        table = tuple(_fit_row(response[rows], np.log(pt_true[rows]), x[rows], num_bins, settings) for rows in enough)
        _check_invertible(table, f"{variable.column} at {edges[index]:g} <= |{detector_eta}| < {edges[index + 1]:g}")
        tables.append(table)
    if not any(tables):
        raise DataError(
            f"sequential calibration in {variable.column}: no bin of |{detector_eta}| and true pT holds "
            f"{2 * config.min_entries} jets; give more jets, wider bins or a smaller chain.sequential.min_entries"
        )
    step = SequentialCorrection(
        variable=variable.column,
        is_share_of_pt=variable.is_share_of_pt,
        detector_eta=detector_eta,
        abs_eta_edges=edges,
        rows=tuple(tables),
    )
    rows_of_all = [row for table in tables for row in table]
    return SequentialFit(step, len(rows_of_all), sum(len(row.x) for row in rows_of_all), num_without)


def _fit_row(
    response: Array, log_pt_true: Array, x: Array, num_bins: tuple[int, int], settings: EstimatorConfig
) -> ResponseRow:
    """Measure the response against x, relative to that of all jets, so that the core of all jets stays where it is."""
    shares = equal_shares(x, *num_bins)
    whole = _core(response, settings)
    means = [float(x[rows].mean()) for rows in shares]
    logs = [float(np.log(_core(response[rows], settings) / whole)) for rows in shares]
    corrected = response * np.exp(-np.interp(x, means, logs))
    back = float(np.log(_core(corrected, settings) / whole))
    return ResponseRow(
        log_pt_true=float(log_pt_true.mean()), x=tuple(means), log_response=tuple(value + back for value in logs)
    )


def _core(values: Array, settings: EstimatorConfig) -> float:
    found = measure(values, settings)
    assert found is not None, "a bin holds min_entries jets"
    return found.core.value


def _check_invertible(table: tuple[ResponseRow, ...], where: str) -> None:
    """Refuse a response that falls so fast with pT that two true pT would explain one measured one."""
    for low, high in pairwise(table):
        x = np.union1d(low.x, high.x)
        if np.any(high.at(x) + high.log_pt_true <= low.at(x) + low.log_pt_true):
            raise DataError(
                f"sequential calibration in {where}: between true pT of {np.exp(low.log_pt_true):.4g} and "
                f"{np.exp(high.log_pt_true):.4g} GeV the response falls faster than pT rises, so it cannot be inverted; "
                "use wider bins in true pT, or more jets"
            )
