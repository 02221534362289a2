"""How is a tagger kept from knowing the mass of background jets while it trains?

Each penalty is a number of the jets of a global batch, P. The loop divides the sum of all losses by the sum of all weights W,
and multiplies by the number of processes, because their gradients are averaged. So a penalty hands out w_j P to every jet, and
to the scores W times the gradient of P: then W cancels, and several processes make the step of one. That gradient is written
down by hand, as each process knows the sums over all of them but only its own jets. Where there are no gradients, as in a
validation, a penalty is zero and sends nothing: processes validate different numbers of batches.

The score of a jet is the probability that it is not of the background class.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from distjet.nn.losses.classification_configs import AdversaryConfig, DecorrelationConfig, DiscoConfig, KlConfig
from distjet.nn.losses.distance_correlation import Pairs, covariance_gradients, own_covariance
from distjet.ranks import SINGLE, RankInfo
from distjet.training.parallel import all_reduce_sum


@dataclass(frozen=True)
class TaggedJets:
    """What penalties read of the jets of this process."""

    logits: Tensor
    "Shape (B, C)."
    labels: Tensor
    "True class, int64, shape (B,)."
    variable: Tensor
    "What the scores of the background shall not know, e.g. the mass in GeV, shape (B,)."
    weight: Tensor
    "Weight of each jet in the loss, shape (B,)."
    log_likelihood: Tensor | None = None
    "What an adversary gives the variable, shape (B,)."


class Decorrelation(ABC):
    """A penalty on what the scores of background jets tell of a variable.

    Attributes:
        factor: What the penalty is multiplied with in the loss.
    """

    def __init__(self, config: DecorrelationConfig, background: int = 0, ranks: RankInfo = SINGLE) -> None:
        """Keep what to do.

        Args:
            config: The penalty.
            background: Its class.
            ranks: This process; all processes must call the penalty in the same steps.
        """
        self.background, self.ranks, self.factor = background, ranks, config.weight

    def __call__(self, jets: TaggedJets) -> Tensor:
        """Return what each jet adds to the loss, times its weight, shape (B,), float32.

        Over all processes the values sum up to W P, and their gradients to W times the gradient of P.
        """
        if not torch.is_grad_enabled():
            return torch.zeros_like(jets.weight)
        with torch.autocast(jets.logits.device.type, enabled=False):
            return self.penalty(jets)

    @abstractmethod
    def penalty(self, jets: TaggedJets) -> Tensor:
        """Return what each jet adds, shape (B,)."""

    def score(self, jets: TaggedJets) -> Tensor:
        """Return the probability that each jet is not of the background class, with gradient, shape (B,), float32."""
        logits = jets.logits.float()
        is_background = torch.arange(logits.shape[1], device=logits.device) == self.background
        rest = torch.logsumexp(logits.masked_fill(is_background, -torch.inf), dim=1)
        return torch.sigmoid(rest - logits[:, self.background])

    def is_judged(self, jets: TaggedJets, score: Tensor) -> Tensor:
        """Return which jets the penalty is about, shape (B,): a jet that is not finite spoils no other."""
        return (jets.labels == self.background) & score.isfinite() & jets.variable.isfinite()

    def handed_out(self, penalty: Tensor, gradient: Tensor, score: Tensor, weight: Tensor) -> Tensor:
        """Return w_j P with W times the gradient of P for the score of each jet, shape (B,)."""
        total = all_reduce_sum(weight.detach().sum(dtype=torch.float64), self.ranks)
        slope = torch.where(gradient == 0, 0.0, total * gradient).to(score.dtype)
        return weight * penalty.to(score.dtype) + slope * torch.where(slope == 0, 0.0, score - score.detach())


class DistanceCorrelation(Decorrelation):
    """dCorr^2 of score and variable, or its square.

    Reference:
        G. Kasieczka, D. Shih, arXiv:2001.05310.
    """

    Config = DiscoConfig

    def __init__(self, config: DiscoConfig, background: int = 0, ranks: RankInfo = SINGLE) -> None:
        super().__init__(config, background, ranks)
        self.config = config

    def penalty(self, jets: TaggedJets) -> Tensor:
        """Return what each jet adds, shape (B,)."""
        score = self.score(jets)
        columns = torch.stack([score.detach(), jets.variable, jets.weight]).double()
        own, everyone = self._pairs(columns, self.is_judged(jets, score))
        of_both, of_score = covariance_gradients(own, everyone)
        covariance = all_reduce_sum((own.x * of_both).sum(), self.ranks)
        score_covariance = own_covariance(everyone.x, everyone.weight)
        scale = (score_covariance * own_covariance(everyone.y, everyone.weight)).clamp(min=0).sqrt()
        varies = scale > 0
        correlation = torch.where(varies, covariance / scale, 0.0)
        gradient = of_both / scale - correlation * of_score / (2 * score_covariance)
        gradient = torch.where(varies, gradient, 0.0)
        if self.config.power == 2:
            correlation, gradient = correlation**2, 2 * correlation * gradient
        return self.handed_out(correlation, gradient, score, jets.weight)

    def _pairs(self, columns: Tensor, kept: Tensor) -> tuple[Pairs, Pairs]:
        """Bring the jets of all processes together, without a look at how many there are.

        Args:
            columns: Score, variable and weight, shape (3, B).
            kept: Which jets are compared, shape (B,).

        Returns:
            Those of this process, and the first `max_jets` of all processes; jets that are not compared have weight 0.
        """
        ranks, size = self.ranks, self.config.max_jets
        if ranks.world_size == 1:
            size = min(size, columns.shape[1])
        counts = columns.new_zeros(ranks.world_size, dtype=torch.int64)
        counts[ranks.world_rank] = kept.sum()
        all_reduce_sum(counts, ranks)
        place = counts[: ranks.world_rank].sum() + kept.cumsum(0) - 1
        kept = kept & (place < size)
        own = torch.where(kept, columns, 0.0)
        everyone = columns.new_zeros(3, size + 1).index_add(1, torch.where(kept, place, size), own)  # others come last
        everyone = all_reduce_sum(everyone, ranks)[:, :size]
        total = everyone[2].sum()
        total = torch.where(total > 0, total, 1.0)
        return Pairs(own[0], own[1], own[2] / total), Pairs(everyone[0], everyone[1], everyone[2] / total)


class SpectrumDivergence(Decorrelation):
    """KL(spectrum of jets that pass || spectrum of jets that fail), where a jet passes as much as its score says.

    Reference:
        CMS Collaboration, CMS-DP-2018-046, and the code of the tagger DeepDoubleX.
    """

    Config = KlConfig

    def __init__(self, config: KlConfig, background: int = 0, ranks: RankInfo = SINGLE) -> None:
        super().__init__(config, background, ranks)
        self.config = config

    def penalty(self, jets: TaggedJets) -> Tensor:
        """Return what each jet adds, shape (B,)."""
        config, num_classes = self.config, jets.logits.shape[1]
        score = self.score(jets)
        judged = score.isfinite() & jets.variable.isfinite() if config.signals else self.is_judged(jets, score)
        held, weight = torch.where(judged, score.detach(), 0.0).double(), torch.where(judged, jets.weight, 0.0).double()
        scaled = (torch.where(judged, jets.variable, config.low) - config.low) / (config.high - config.low)
        place = (scaled * config.num_bins).clamp(0, config.num_bins - 1).long() + config.num_bins * jets.labels
        spectra = held.new_zeros(2, num_classes * config.num_bins)
        spectra = spectra.index_add(1, place, torch.stack([weight * held, weight * (1 - held)]))
        all_reduce_sum(spectra, self.ranks)
        divergence, of_passed, of_failed = kl_divergence(*spectra.view(2, num_classes, config.num_bins))
        gradient = weight * (of_passed - of_failed).flatten()[place]
        return self.handed_out(divergence.sum(), gradient, score, jets.weight)


def kl_divergence(passed: Tensor, failed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """KL(p || q) of spectra that are normalised here, and its gradients; bins where one of the two is empty are left out.

    Args:
        passed: Becomes p, shape (K, bins).
        failed: Becomes q, shape (K, bins).

    Returns:
        The divergence (K,), and the gradients, each of shape (K, bins).
    """
    filled = (passed > 0) & (failed > 0)
    passed, failed = torch.where(filled, passed, 0.0), torch.where(filled, failed, 0.0)
    num_passed, num_failed = (values.sum(1, keepdim=True) for values in (passed, failed))
    ratio = torch.where(filled, passed * num_failed / (failed * num_passed), 1.0)
    logarithm = torch.log(ratio)
    divergence = torch.where(filled, passed / num_passed * logarithm, 0.0).sum(1)
    of_passed = torch.where(filled, (logarithm - divergence.unsqueeze(1)) / num_passed, 0.0)
    of_failed = torch.where(filled, (1 - ratio) / num_failed, 0.0)
    return divergence, of_passed, of_failed


class AdversaryLikelihood(Decorrelation):
    """-log of the likelihood that an adversary gives the variable of background jets.

    The adversary learns from it, and the tagger from its reversed gradient (`distjet.nn.adversary`), whose size has the weight
    of the configuration.

    Reference:
        G. Louppe, M. Kagan, K. Cranmer, arXiv:1611.01046; for jets: C. Shimmin et al., arXiv:1703.03507.
    """

    Config = AdversaryConfig

    def __init__(self, config: AdversaryConfig, background: int = 0, ranks: RankInfo = SINGLE) -> None:
        super().__init__(config, background, ranks)
        self.factor = 1.0

    def penalty(self, jets: TaggedJets) -> Tensor:
        """Return what each jet adds, shape (B,)."""
        assert jets.log_likelihood is not None, "the tagger has an adversary"
        judged = (jets.labels == self.background) & jets.variable.isfinite()
        weight = torch.where(judged, jets.weight, 0.0)
        total, part = all_reduce_sum(torch.stack([jets.weight.sum(), weight.sum()]).detach(), self.ranks)
        scale = torch.where(part > 0, total / part, 0.0)
        return -scale * weight * torch.where(judged, jets.log_likelihood.float(), 0.0)
