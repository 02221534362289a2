"""Configurations of the losses of taggers: of labels, and of what keeps a tagger from knowing the mass; and their tables.

They stand apart from the losses so that a typo in a key is reported without importing torch.
"""

from typing import Literal

from pydantic import Field, model_validator

from distjet.config import Component, ComponentConfig


class ClassificationLossConfig(ComponentConfig):
    """What every loss of labels has; a loss of one's own derives its Config from this."""

    weight: float = Field(default=1.0, gt=0)
    "Factor of the loss in the sum."
    class_weights: tuple[float, ...] | None = Field(default=None, min_length=2)
    "How much jets of each class count, in the order of the dataset's classes; null: all the same."


class CrossEntropyConfig(ClassificationLossConfig):
    """-log of the probability that the network gives to the true class."""

    name: str = "cross_entropy"
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    "So much of the truth is spread over all classes (arXiv:1512.00567)."


class FocalConfig(ClassificationLossConfig):
    """Cross entropy in which jets that are classified well count less (arXiv:1708.02002)."""

    name: str = "focal"
    gamma: float = Field(default=2.0, ge=0)
    "The cross entropy is multiplied with (1 - p)^gamma, where p is the probability of the true class; 0 is cross entropy."
    alpha: float | None = Field(default=None, gt=0, lt=1)
    "Signals count alpha and the first class of the dataset 1 - alpha (published: 0.25); null: all the same."


CLASSIFICATION_LOSSES = {
    name: Component(f"distjet.nn.losses.classification_configs:{config}", f"distjet.nn.losses.classification:{loss}")
    for name, config, loss in (
        ("cross_entropy", "CrossEntropyConfig", "CrossEntropy"),
        ("focal", "FocalConfig", "Focal"),
    )
}


class DecorrelationConfig(ComponentConfig):
    """What every penalty has on what the scores of background jets tell of a variable."""

    weight: float = Field(default=1.0, gt=0)
    "Factor of the penalty in the loss: more of it makes the background flatter, and the rejection lower."
    variable: str = "jet_mass"
    "Column of the jet that the scores shall not know."
    background: str | None = None
    "Class whose scores shall not know it; null: the first class of the dataset."


class DiscoConfig(DecorrelationConfig):
    """Distance correlation of score and variable over the background jets of a batch (arXiv:2001.05310); large batches."""

    name: str = "disco"
    weight: float = Field(default=10.0, gt=0)
    "Factor of the penalty in the loss: more of it makes the background flatter, and the rejection lower."
    power: Literal[1, 2] = 1
    "Of dCorr^2 in the loss."
    max_jets: int = Field(default=8192, ge=2)
    "So many background jets of a global batch are compared, the first ones; the time grows with their square."


class KlConfig(DecorrelationConfig):
    """Kullback-Leibler divergence between the spectra of jets that pass and that fail, filled with the scores."""

    name: str = "kl"
    num_bins: int = Field(default=40, ge=2)
    "Bins of equal width."
    low: float = 20.0
    "Lower edge of the first bin, in units of the variable (GeV); jets below are in the first bin."
    high: float = 300.0
    "Upper edge of the last bin; jets above are in the last bin."
    signals: bool = False
    "Whether each other class has such a term too."

    @model_validator(mode="after")
    def _has_a_range(self) -> "KlConfig":
        if not self.low < self.high:
            raise ValueError(f"high must be above low={self.low:g} (got {self.high:g})")
        return self


class AdversaryConfig(DecorrelationConfig):
    """A second network guesses the variable from the score, and the tagger learns to give it no clue (arXiv:1611.01046)."""

    name: str = "adversary"
    weight: float = Field(default=10.0, gt=0)
    "Factor lambda of the reversed gradient that the tagger gets, once the ramp is over; the adversary learns without it."
    output: Literal["mixture", "bins"] = "mixture"
    "What the adversary says of the variable: a mixture of normal densities, or a probability for each of equal bins."
    hidden: tuple[int, ...] = (64, 64, 64)
    "Widths of the hidden layers, with tanh."
    batch_norm: bool = True
    "Whether a batch norm stands before each hidden layer, so that the scale of the scores does not matter."
    num_components: int = Field(default=10, ge=1)
    "mixture: normal densities."
    num_bins: int = Field(default=20, ge=2)
    "bins: between three standard deviations below and above the mean of the variable; what is beyond is in the outer bins."
    start: float = Field(default=0.05, ge=0, lt=1)
    "Part of the training before which the tagger learns as if there were no adversary, which learns already."
    full: float = Field(default=0.3, gt=0, le=1)
    "Part of the training at which the reversed gradient has its full size; it rises linearly from start."
    lr_factor: float = Field(default=1.0, gt=0)
    "Learning rate of the adversary over that of the tagger: above 1, it keeps up with the tagger more easily."

    @model_validator(mode="after")
    def _ramp_rises(self) -> "AdversaryConfig":
        if self.full < self.start:
            raise ValueError(f"full must be at least start={self.start:g} (got {self.full:g})")
        return self

    def strength(self, progress: float) -> float:
        """Return the factor of the reversed gradient after a part of the training, from 0 to weight."""
        if progress < self.start:
            return 0.0
        return self.weight * min((progress - self.start) / max(self.full - self.start, 1e-9), 1.0)


DECORRELATIONS = {
    name: Component(f"distjet.nn.losses.classification_configs:{config}", f"distjet.training.decorrelation:{penalty}")
    for name, config, penalty in (
        ("disco", "DiscoConfig", "DistanceCorrelation"),
        ("kl", "KlConfig", "SpectrumDivergence"),
        ("adversary", "AdversaryConfig", "AdversaryLikelihood"),
    )
}
