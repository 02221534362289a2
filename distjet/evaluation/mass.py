"""Has a method learnt something about the mass, or only the energy?

The mass of the reference multiplied by the method's energy correction costs nothing. The method's own mass is compared with
that, in the same bins of true pT and |eta|: a ratio of resolutions below 1 is what it knows beyond the energy.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from distjet.evaluation.axes import Record
from distjet.evaluation.response import SCALED_SUFFIX, headline_bins, mean_of

RATIO = "resolution_ratio"


def summarise_beyond_energy(mass_response: Mapping[str, Any]) -> dict[str, Any]:
    """Resolution of each method's mass over that of the scaled reference mass.

    Args:
        mass_response: Summaries with `bins`, by method; `M_mass_scaled` is the scaled reference for M.

    Returns:
        Per method its bins with `resolution_ratio`, the error as if both were independent (it is smaller), and the mean.
    """
    scaled = [name for name in mass_response if name.endswith(SCALED_SUFFIX)]
    found = {}
    for name in scaled:
        method = name.removesuffix(SCALED_SUFFIX)
        records = [_ratio(*both) for both in zip(mass_response[method]["bins"], mass_response[name]["bins"], strict=True)]
        found[method] = {**mean_of(headline_bins(records), RATIO, f"mean_{RATIO}"), "bins": records}
    return found


def _ratio(own: Record, scaled: Record) -> Record:
    estimated = ("scale_", "resolution", "core_")
    record = {key: value for key, value in own.items() if not key.startswith(estimated)}
    if own["resolution"] is None or scaled["resolution"] is None:
        return record | {RATIO: None, f"{RATIO}_error": None}
    ratio = own["resolution"] / scaled["resolution"]
    relative = np.hypot(*(some["resolution_error"] / some["resolution"] for some in (own, scaled)))
    return record | {RATIO: ratio, f"{RATIO}_error": float(ratio * relative)}
