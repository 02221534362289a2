"""Losses of the logits that a tagger gives, given the class that is true.

All are numbers of single jets in float32, whatever the type of the logits: sums of jets in half precision lose jets.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from distjet.nn.losses.classification_configs import ClassificationLossConfig, CrossEntropyConfig, FocalConfig

ClassificationLoss = Callable[[Tensor, Tensor], Tensor]


class ClassWeights:
    """How much jets of each class count; they stay on the device where they were last asked for."""

    def __init__(self, config: ClassificationLossConfig) -> None:
        self.values = None if config.class_weights is None else torch.tensor(config.class_weights, dtype=torch.float32)

    def on(self, logits: Tensor) -> Tensor | None:
        """Return the weights beside the logits, shape (C,), or None where all classes count the same.

        Raises:
            ValueError: If there are not as many weights as classes.
        """
        if self.values is None:
            return None
        if len(self.values) != logits.shape[1]:
            raise ValueError(f"loss.label.class_weights needs one weight for each of {logits.shape[1]} classes")
        self.values = self.values.to(logits.device)
        return self.values


class CrossEntropy:
    """-log p of the true class, or the mean over smoothed labels.

    Reference:
        Label smoothing: C. Szegedy et al., arXiv:1512.00567.
    """

    Config = CrossEntropyConfig

    def __init__(self, config: CrossEntropyConfig) -> None:
        self.config, self.class_weights = config, ClassWeights(config)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of each jet.

        Args:
            logits: Shape (B, C).
            labels: True class, int64, shape (B,).

        Returns:
            Shape (B,), float32.
        """
        weights, smoothing = self.class_weights.on(logits), self.config.label_smoothing
        with torch.autocast(logits.device.type, enabled=False):
            return cross_entropy(logits.float(), labels, weights, reduction="none", label_smoothing=smoothing)


class Focal:
    """-alpha (1 - p)^gamma log p of the true class.

    Reference:
        T.-Y. Lin et al., arXiv:1708.02002.
    """

    Config = FocalConfig

    def __init__(self, config: FocalConfig) -> None:
        self.config, self.class_weights = config, ClassWeights(config)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of each jet.

        Args:
            logits: Shape (B, C).
            labels: True class, int64, shape (B,).

        Returns:
            Shape (B,), float32.
        """
        weights, alpha = self.class_weights.on(logits), self.config.alpha
        with torch.autocast(logits.device.type, enabled=False):
            log_p = torch.log_softmax(logits.float(), dim=1)
            is_true = torch.arange(logits.shape[1], device=logits.device) == labels.unsqueeze(1)
            # log(1 - p) from the other classes: the power has a finite gradient where p rounds to 1
            log_rest = torch.logsumexp(log_p.masked_fill(is_true, -torch.inf), dim=1)
            loss = -torch.exp(self.config.gamma * log_rest) * log_p.gather(1, labels.unsqueeze(1)).squeeze(1)
            if alpha is not None:
                loss = loss * torch.where(labels == 0, 1 - alpha, alpha)
            return loss if weights is None else loss * weights[labels]
