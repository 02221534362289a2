"""Which few numbers stand for a method?

They are taken over bins of true pT and |eta| with more than `min_entries` jets, the same bins for all methods. Energies are
split at 60 GeV, since noise and pileup make low energies a task of their own; the other numbers are those above 30 GeV. Nothing
is measured here: numbers are picked from the metrics, with their errors.
"""

from collections.abc import Mapping
from typing import Any

from distjet.evaluation.response import Record, headline_bins, mean_abs_of, mean_of, worst_of

RANGES_GEV = {"pt_30_60": (30.0, 60.0), "pt_above_60": (60.0, float("inf"))}
"Ranges in true pT; a bin belongs to one if it lies inside."
EVERYTHING_GEV = (30.0, float("inf"))

NUMBERS = (
    *(f"{kind}_abs_bias_{name}" for name in RANGES_GEV for kind in ("max", "mean")),
    *(f"{kind}_abs_bias_median_{name}" for name in RANGES_GEV for kind in ("max", "mean")),
    "mean_resolution",
    "mean_abs_mass_bias",
    "max_abs_mass_bias",
    "mean_mass_resolution",
    "slope_npv_gev",
    "slope_mu_gev",
)
"What a headline holds, each with `_error`; None where it could not be measured."


def headline(metrics: Mapping[str, Any], method: str) -> Record:
    """Pick the headline numbers of a method.

    Args:
        metrics: What `summarise` returns, or a part of it.
        method: One of its methods.

    Returns:
        The `NUMBERS`, their errors, and the number of bins behind each range.
    """
    energy, mass, pileup = (
        metrics.get(group, {}).get(method) for group in ("energy_response_pt", "mass_response_pt", "pileup")
    )
    found: Record = {key: None for name in NUMBERS for key in (name, f"{name}_error")}
    if energy:
        for name, limits in RANGES_GEV.items():
            found |= _closure(_inside(energy["bins"], limits), name)
        found |= mean_of(_inside(energy["bins"], EVERYTHING_GEV), "resolution", "mean_resolution")
    if mass:
        used = _inside(mass["bins"], EVERYTHING_GEV)
        found |= mean_abs_of(used, "scale_core", "mean_abs_mass_bias") | worst_of(used, "scale_core", "max_abs_mass_bias")
        found |= mean_of(used, "resolution", "mean_mass_resolution")
    if pileup:
        found |= {key: pileup[key] for name in ("slope_npv_gev", "slope_mu_gev") for key in (name, f"{name}_error")}
    return found


def _inside(records: list[Record], limits: tuple[float, float]) -> list[Record]:
    return [r for r in headline_bins(records) if r["pt_low_gev"] >= limits[0] and r["pt_high_gev"] <= limits[1]]


def _closure(used: list[Record], name: str) -> Record:
    return {
        **worst_of(used, "scale_core", f"max_abs_bias_{name}"),
        **mean_abs_of(used, "scale_core", f"mean_abs_bias_{name}"),
        **worst_of(used, "scale_median", f"max_abs_bias_median_{name}"),
        **mean_abs_of(used, "scale_median", f"mean_abs_bias_median_{name}"),
        f"num_bins_{name}": len(used),
    }
