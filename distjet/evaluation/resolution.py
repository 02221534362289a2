"""Which noise, sampling and constant term describe a resolution?

    sigma(p) / p  =  N / p  (+)  S / sqrt(p)  (+)  C      with (+) the sum in squares, p the true pT in GeV

Decisions a reader would question:

* The resolution is half the central 68 % interval over the median, so the scale is corrected for before anything is fitted.
* The squares of the terms are fitted, and may come out negative: a term whose square does is left out and the others are fitted
  again, which is what a limit at zero would do, but with errors that mean something. The result names what was left out.
* A fit that has too few bins, does not converge or leaves a term undetermined says so and gives no numbers. Whether the terms
  describe the points is for chi2 / ndf to say; the statistical errors of many jets can be smaller than what three terms can
  follow.
"""

import warnings
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distjet.evaluation.response import Record, headline_bins

Array = NDArray[np.float64]

TERMS = {"noise_gev": -2.0, "sampling_sqrt_gev": -1.0, "constant": 0.0}
"Name and unit of each term, and the power of p that its square stands with."
MIN_BINS = len(TERMS) + 1
MAX_CONDITION = 1e6
"Beyond, points at (almost) the same pT are to say how a resolution depends on it."


def resolution_curve(pt_gev: Array, noise_gev: float, sampling_sqrt_gev: float, constant: float) -> Array:
    """Relative resolution at a pT (GeV), shape like `pt_gev`.

    Reference:
        CMS, arXiv:1607.03663; ATLAS, arXiv:2007.02645.
    """
    return np.sqrt((noise_gev / pt_gev) ** 2 + sampling_sqrt_gev**2 / pt_gev + constant**2)


def terms_of(fit: Record) -> dict[str, float]:
    """The terms of a fit, as `resolution_curve` takes them."""
    return {name: fit[name] for name in TERMS}


def fit_resolutions(records: list[Record]) -> list[Record]:
    """Fit the resolution in each |eta| bin.

    Args:
        records: Bins of true pT and |eta|, with `resolution` and its error.

    Returns:
        Per |eta| bin its limits and what `fit_resolution` returns.
    """
    edges = sorted({record[key] for record in records for key in ("abs_eta_low", "abs_eta_high")})
    found = []
    for low, high in pairwise(edges):
        some = [r for r in headline_bins(records) if r["abs_eta_low"] == low and r["resolution_error"] > 0]
        columns = (np.array([r[key] for r in some]) for key in ("mean_pt_gev", "resolution", "resolution_error"))
        found.append({"abs_eta_low": low, "abs_eta_high": high, **fit_resolution(*columns)})
    return found


def fit_resolution(pt_gev: Array, resolution: Array, error: Array) -> dict[str, Any]:
    """Fit noise, sampling and constant term.

    Args:
        pt_gev: Mean true pT of each bin, shape (B,).
        resolution: Shape (B,).
        error: Statistical errors, positive, shape (B,).

    Returns:
        `status` (`ok`, or why there is no result), `num_bins`, and if ok each of the `TERMS` with its error, `left_out`,
        `chi2`, `ndf`, `p_value`, and the range of the fit in pT.
    """
    if len(pt_gev) < MIN_BINS:
        return {"status": f"{len(pt_gev)} bins, {MIN_BINS} are needed", "num_bins": len(pt_gev)}
    names = list(TERMS)
    while True:
        squares, covariance, problem = _fit_squares(names, pt_gev, resolution, error)
        if problem:
            return {"status": problem, "num_bins": len(pt_gev)}
        lowest = int(np.argmin(squares))
        if squares[lowest] > 0:
            break
        if len(names) == 1:
            return {"status": "no term is positive", "num_bins": len(pt_gev)}
        names.pop(lowest)
    values = dict.fromkeys(TERMS, 0.0) | dict(zip(names, np.sqrt(squares).tolist(), strict=True))
    errors = dict(zip(names, (np.sqrt(np.diag(covariance)) / (2 * np.sqrt(squares))).tolist(), strict=True))
    return {
        "status": "ok",
        "num_bins": len(pt_gev),
        **{key: item for name in TERMS for key, item in ((name, values[name]), (f"{name}_error", errors.get(name)))},
        "left_out": [name for name in TERMS if name not in names],
        "pt_low_gev": float(pt_gev.min()),
        "pt_high_gev": float(pt_gev.max()),
        **_goodness(resolution_curve(pt_gev, **values), resolution, error, len(names)),
    }


def _fit_squares(names: list[str], pt_gev: Array, resolution: Array, error: Array) -> tuple[Array, Array, str]:
    """Fit the squares of some terms; the third item says what went wrong, if anything did."""
    from scipy.optimize import OptimizeWarning, curve_fit

    powers = np.stack([pt_gev ** TERMS[name] for name in names], axis=1)
    scale = powers.max(axis=0)
    if np.linalg.cond(powers / scale) > MAX_CONDITION:
        return np.zeros(len(names)), np.zeros((len(names), len(names))), "the fit failed: the bins do not tell the terms apart"
    start, *_ = np.linalg.lstsq(powers / scale / (2 * resolution * error)[:, None], resolution / (2 * error), rcond=None)

    def model(design: Array, *squares: float) -> Array:
        return np.sqrt(np.maximum(design @ np.asarray(squares), 1e-12))

    with warnings.catch_warnings():
        warnings.simplefilter("error", OptimizeWarning)
        try:
            fitted, covariance = curve_fit(model, powers / scale, resolution, start, error, absolute_sigma=True)
        except (RuntimeError, OptimizeWarning) as problem:
            return start, np.zeros((len(names), len(names))), f"the fit failed: {' '.join(str(problem).split())}"
    if not (np.all(np.isfinite(fitted)) and np.all(np.isfinite(covariance))):
        return start, covariance, "the fit failed: a term is not determined"
    return fitted / scale, covariance / np.outer(scale, scale), ""


def _goodness(curve: Array, resolution: Array, error: Array, num_terms: int) -> dict[str, Any]:
    from scipy.stats import chi2

    value, ndf = float(np.sum(((resolution - curve) / error) ** 2)), len(resolution) - num_terms
    return {"chi2": value, "ndf": ndf, "p_value": float(chi2.sf(value, ndf))}
