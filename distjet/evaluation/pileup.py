"""Does the pT of a calibrated jet still depend on how many collisions came with it?

At fixed true pT, pT_reco - pT_true is fitted with a plane in the number of reconstructed vertices N_PV (collisions of the same
crossing) and the mean number of interactions mu (those of the crossings before and after). Both slopes come from one fit: the
two numbers rise together, and a slope in one alone would be that of the other as well. The quantities are those of the residual
pileup correction in arXiv:2007.02645.

The number per |eta| bin is the mean over bins of true pT with the weights 1 / error^2; the headline is that of the |eta| bin
which is worst.
"""

from typing import Any

import numpy as np

from distjet.evaluation.axes import Array, Bins, Record, Rows, pt_bins
from distjet.evaluation.config import ResponseConfig
from distjet.evaluation.predictions import Predictions
from distjet.evaluation.response import entries, mean_abs_of
from distjet.evaluation.slopes import eta_limits, fit_slopes, largest, profile, rows_behind, slopes_by_eta

PREDICTORS = ("npv", "mu")


def summarise_pileup(jets: Predictions, config: ResponseConfig) -> dict[str, Any]:
    """Slopes in N_PV and mu (GeV) of each method, and the profiles behind them, each at a fixed value of the other.

    Args:
        jets: Selected jets with `npv`, `mu` and the pT of each method.
        config: Bins and thresholds.
    """
    bins = pt_bins(config, edges_gev=config.pileup.pt_edges_gev)
    rows = bins.rows(jets, jets.reference)
    return {method: _of_method(jets, method, bins, rows, config) for method in jets.methods}


def _of_method(jets: Predictions, method: str, bins: Bins, rows: list[Rows], config: ResponseConfig) -> Record:
    shift = jets.columns[f"{method}_pt"] - jets.columns["true_pt"]
    records = [limits | _slopes(jets, shift, found, config) for limits, found in zip(bins.limits(), rows, strict=True)]
    summary: Record = {"bins": records}
    for name in PREDICTORS:
        by_eta = slopes_by_eta(records, f"slope_{name}_gev")
        summary |= largest(by_eta, f"slope_{name}_gev") | {f"by_eta_{name}": by_eta}
        summary |= mean_abs_of(by_eta, f"slope_{name}_gev", f"mean_abs_slope_{name}_gev", expected=0.0)
    for name, other in (PREDICTORS, PREDICTORS[::-1]):
        profiles = summary[f"profile_{name}"] = []
        for found in summary[f"by_eta_{other}"]:
            at_fixed_other = shift - found[f"slope_{other}_gev"] * jets.columns[other]
            points = _profile(jets, at_fixed_other, name, rows_behind(found, records, rows), config)
            profiles.append(eta_limits(found) | {"points": points})
    return summary


def _slopes(jets: Predictions, shift: Array, rows: Rows, config: ResponseConfig) -> Record:
    """Fit the jets of one bin; the true pT is a third variable, as its spread inside the bin adds to that of the residual."""
    weights = jets.columns["weight"][rows] if config.use_weights else None
    columns = np.stack([jets.columns[name][rows] for name in (*PREDICTORS, "true_pt")], axis=1)
    record = entries(shift[rows], weights, config)
    fitted = fit_slopes(shift[rows], columns, weights) if record["drawn"] else None
    for index, name in enumerate(PREDICTORS):
        record[f"slope_{name}_gev"] = None if fitted is None else float(fitted.values[index])
        record[f"slope_{name}_gev_error"] = None if fitted is None else float(fitted.errors[index])
    return record


def _profile(jets: Predictions, shift: Array, name: str, rows: list[Rows], config: ResponseConfig) -> list[Record]:
    """Mean shift (GeV) against a quantity, less its mean in each bin of true pT, whose jets stand in `rows`."""
    weights = jets.columns["weight"] if config.use_weights else np.ones(jets.num_jets)
    centred = np.concatenate([shift[r] - np.average(shift[r], weights=weights[r]) for r in rows])
    every = np.concatenate(rows)
    return profile(jets.columns[name][every], centred, config.pileup.num_points, weights[every])
