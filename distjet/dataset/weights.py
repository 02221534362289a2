"""Which weight makes the training jets flat in the logarithm of their true energy?

A steeply falling spectrum would otherwise let the lowest energies decide everything. The weight of a jet is one over the
number of training jets in its bin, normalised to a mean of one over all training jets. Sparse bins are capped: a few jets
with huge weights would make the gradient noisy without adding information.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from distjet.errors import DataError


@dataclass(frozen=True)
class FlatteningWeights:
    """A weight as a function of the true energy, constant within bins.

    Attributes:
        edges: Of the bins in ln(E/GeV), shape (B + 1,).
        values: Weight in each bin, shape (B,); zero in bins without training jets.
    """

    edges: np.ndarray
    values: np.ndarray

    def __call__(self, true_energy_gev: np.ndarray) -> np.ndarray:
        """Return the weights of jets.

        Args:
            true_energy_gev: True energy in GeV, shape (J,), positive.

        Returns:
            Weights, float32, shape (J,); energies beyond the bins get the weight of the nearest bin.
        """
        place = np.searchsorted(self.edges, np.log(np.asarray(true_energy_gev, dtype=np.float64)), side="right") - 1
        return self.values[np.clip(place, 0, len(self.values) - 1)].astype(np.float32)


def flattening_weights(
    histogram: Mapping[str, Any], *, use_event_weights: bool = False, cap: float = 20.0
) -> FlatteningWeights:
    """Make weights that flatten ln(E_true).

    Args:
        histogram: `log_true_energy` of a manifest: `edges`, `counts`, `sum_weights` of the training jets.
        use_event_weights: Whether the result multiplies the event weight; then the sum of event weights is made flat.
        cap: Largest weight, in units of the mean weight.

    Raises:
        DataError: If there are no training jets, or the sum of event weights in a bin is negative.
    """
    edges, counts = np.asarray(histogram["edges"], dtype=np.float64), np.asarray(histogram["counts"], dtype=np.float64)
    content = np.asarray(histogram["sum_weights"], dtype=np.float64) if use_event_weights else counts
    filled = counts > 0
    if not filled.any():
        raise DataError("the training split has no jets, so its energies cannot be made flat")
    if (content[filled] <= 0).any():
        raise DataError("a bin of ln(E_true) has no positive sum of event weights; use wider bins or use_event_weights=False")
    values = np.zeros_like(counts)
    values[filled] = 1.0 / content[filled]
    for _ in range(50):  # capping lowers the mean, so the cap is applied until both hold
        values *= content.sum() / (values * content).sum()
        if (values <= cap * (1 + 1e-9)).all():
            break
        values = np.minimum(values, cap)
    return FlatteningWeights(edges, values)
