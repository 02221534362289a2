"""Which weight makes the training jets flat in the logarithm of their true energy, or in it and |eta|?

A steeply falling spectrum would otherwise let the lowest energies decide everything. The weight of a jet is one over the number
of training jets in its bin, normalised to a mean of one over all training jets. Sparse bins are capped: a few jets with huge
weights would make the gradient noisy without adding information.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from distjet.dataset.statistics import bin_place
from distjet.errors import DataError


@dataclass(frozen=True)
class FlatteningWeights:
    """A weight as a function of one or more variables, constant within bins.

    Attributes:
        edges: Bins in ln(E/GeV) and, where flattened in it too, in |eta|; one array per axis.
        values: Weight in each bin; zero in bins without training jets.
    """

    edges: tuple[np.ndarray, ...]
    values: np.ndarray

    def __call__(self, true_energy_gev: np.ndarray, true_eta: np.ndarray | None = None) -> np.ndarray:
        """Return the weights of jets.

        Args:
            true_energy_gev: True energy in GeV, shape (J,), positive.
            true_eta: True pseudorapidity, shape (J,), where the weights depend on it.

        Returns:
            Weights, float32, shape (J,); what lies beyond the bins gets the weight of the nearest bin.
        """
        variables = [np.log(np.asarray(true_energy_gev, dtype=np.float64))]
        if true_eta is not None:
            variables.append(np.abs(true_eta))
        return self.values[bin_place(variables, [axis.tolist() for axis in self.edges])].astype(np.float32)


def flattening_weights(
    histogram: Mapping[str, Any], *, use_event_weights: bool = False, cap: float = 20.0
) -> FlatteningWeights:
    """Make weights that flatten the spectrum of the training jets.

    Args:
        histogram: `log_true_energy` or `log_true_energy_abs_eta` of a manifest: `edges`, `counts`, `sum_weights`.
        use_event_weights: Whether the result multiplies the event weight; then the sum of event weights is made flat.
        cap: Largest weight, in units of the mean weight.

    Raises:
        DataError: If there are no training jets, or the sum of event weights in a bin is negative.
    """
    counts = np.asarray(histogram["counts"], dtype=np.float64)
    axes = [histogram["edges"]] if counts.ndim == 1 else histogram["edges"]
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
    return FlatteningWeights(tuple(np.asarray(axis, dtype=np.float64) for axis in axes), values)
