"""Which weight makes the training jets flat in the logarithm of their true energy, or gives all classes one spectrum?

A steeply falling spectrum would otherwise let the lowest energies decide everything, and a tagger would learn which pT and mass
its classes were generated with. The weight of a jet is the wanted content of its bin over the content of the histogram that the
manifest keeps of the training jets, normalised to a mean of one over all training jets: no pass over the data is needed.

Sparse bins are capped: a few jets with huge weights would make the gradient noisy without adding information. In (pT, mass) the
cap holds within a class, and the classes are balanced after it, so their sums of weights are exactly those that were asked for.
A jet beyond the bins has the weight of the nearest bin, where the histogram counts it; one in a bin without training jets
weighs nothing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distjet.config import unknown
from distjet.dataset.statistics import bin_place
from distjet.errors import ConfigError, DataError


@dataclass(frozen=True)
class BinnedWeights:
    """A weight as a function of one or more variables, constant within bins.

    Attributes:
        edges: Of the bins along each axis.
        values: Weight in each bin; zero in bins without training jets.
    """

    edges: tuple[np.ndarray, ...]
    values: np.ndarray

    def __call__(self, variables: Sequence[np.ndarray]) -> np.ndarray:
        """Return the weights of jets.

        Args:
            variables: Where the jets are along each axis, each of shape (J,).

        Returns:
            Weights, float32, shape (J,); what lies beyond the bins gets the weight of the nearest bin.
        """
        return self.values[bin_place(variables, [axis.tolist() for axis in self.edges])].astype(np.float32)


def flattening_weights(histogram: Mapping[str, Any], *, use_event_weights: bool = False, cap: float = 20.0) -> BinnedWeights:
    """Make weights that flatten the spectrum of the training jets in true energy.

    Args:
        histogram: `log_true_energy` or `log_true_energy_abs_eta` of a manifest: `edges`, `counts`, `sum_weights`.
        use_event_weights: Whether the result multiplies the event weight; then the sum of event weights is made flat.
        cap: Largest weight, in units of the mean weight; at least 1.

    Returns:
        A function of ln(E_true / GeV) and, with the second histogram, of |eta_true|.

    Raises:
        DataError: If there are no training jets, or the sum of event weights in a bin is not positive.
    """
    content = _content(histogram, use_event_weights=use_event_weights)
    axes = [histogram["edges"]] if content.ndim == 1 else histogram["edges"]
    return BinnedWeights(_as_arrays(axes), _shaped(content, np.ones_like(content), cap))


def pt_mass_weights(
    histogram: Mapping[str, Any],
    classes: Sequence[str] = (),
    *,
    reference: str | None = None,
    totals: Mapping[str, float] | None = None,
    use_event_weights: bool = False,
    cap: float = 20.0,
) -> BinnedWeights:
    """Make weights that give every class the same spectrum in (pT, mass).

    Args:
        histogram: `pt_mass` of a manifest: `edges`, `counts`, `sum_weights`, divided by class if there are classes.
        classes: Names of the classes, in the order of their labels.
        reference: The class whose spectrum all classes get; a jet weighs nothing where the reference has none. None: every bin
            in which a class has jets gets the same sum of weights, which with bins in ln(pT) and m is flat in ln(pT) and m.
        totals: What the weights of each class add up to, up to a common factor; None: the same for all.
        use_event_weights: Whether the result multiplies the event weight; then sums of event weights are shaped and balanced.
        cap: Largest weight, in units of the mean weight of the class's jets that have one; at least 1.

    Returns:
        A function of the label (if there are classes), jet pT in GeV and jet mass in GeV; the mean over the training jets is 1.

    Raises:
        ConfigError: If there is no such class, or `totals` does not name all classes.
        DataError: If a class has no training jets, none where the reference has some, or the sum of event weights in a bin is
            not positive.
    """
    content = _content(histogram, use_event_weights=use_event_weights)
    if not classes:
        if reference is not None or totals is not None:
            raise ConfigError("reference and totals are of classes, and the dataset has no labels")
        return BinnedWeights(_as_arrays(histogram["edges"]), _shaped(content, np.ones_like(content), cap))
    wanted = np.ones_like(content[0]) if reference is None else content[_number(reference, classes)]
    values = np.stack([_shaped(part, wanted, cap, of=f" of class {name}") for name, part in zip(classes, content, strict=True)])
    sums = (values * content).sum(axis=(1, 2))
    values *= (_shares(totals, classes) * content.sum() / sums)[:, None, None]
    return BinnedWeights(_as_arrays([np.arange(len(classes) + 1), *histogram["edges"]]), values)


def _as_arrays(axes: Sequence[Any]) -> tuple[np.ndarray, ...]:
    return tuple(np.asarray(axis, dtype=np.float64) for axis in axes)


def _content(histogram: Mapping[str, Any], *, use_event_weights: bool) -> np.ndarray:
    """Return the sum of weights in each bin."""
    counts = np.asarray(histogram["counts"], dtype=np.float64)
    content = np.asarray(histogram["sum_weights"], dtype=np.float64) if use_event_weights else counts
    if (content[counts > 0] <= 0).any():
        raise DataError("a bin has no positive sum of event weights; use wider bins, or do not use event weights")
    return np.where(counts > 0, content, 0.0)


def _shaped(content: np.ndarray, wanted: np.ndarray, cap: float, of: str = "") -> np.ndarray:
    """Return the weights that turn one spectrum into another, none above the cap, with a mean of one where there are any."""
    if not (content > 0).any():
        raise DataError(f"the training split has no jets{of}, so they have no spectrum")
    used = (content > 0) & (wanted > 0)
    if not used.any():
        raise DataError(f"no training jets{of} are in the bins of (pT, mass) where the reference has some")
    values = np.zeros_like(content)
    values[used] = wanted[used] / content[used]
    for _ in range(50):  # capping lowers the mean, so the cap is applied until both hold
        values *= content[used].sum() / (values * content).sum()
        if (values <= cap * (1 + 1e-9)).all():
            break
        values = np.minimum(values, cap)
    return values


def _number(name: str, classes: Sequence[str]) -> int:
    if name not in classes:
        raise ConfigError(unknown("class", name, classes))
    return classes.index(name)


def _shares(totals: Mapping[str, float] | None, classes: Sequence[str]) -> np.ndarray:
    """Return which part of all weights each class has, shape (C,)."""
    if totals is not None and set(totals) != set(classes):
        raise ConfigError(f"totals must name each class once: expected {sorted(classes)} (got {sorted(totals)})")
    sums = np.array([1.0 if totals is None else totals[name] for name in classes])
    return sums / sums.sum()
