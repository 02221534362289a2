"""The response on the validation split, at any number of processes and of jets.

Responses are counted in bins of true energy, |eta| and response; counts of all processes are added, so the closure is the same
for any number of them, and no jet is kept. The estimators are those of the evaluation.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distjet.dataset.streaming.batch import GraphBatch
from distjet.errors import NonFiniteError, UserError
from distjet.evaluation.config import BinsConfig
from distjet.evaluation.response import MIN_ENTRIES, closure_from_histograms
from distjet.ranks import RankInfo
from distjet.training.parallel import all_reduce_sum

NUM_RESPONSE_BINS = 400
MAX_RESPONSE = 4.0


class ResponseBins:
    """Bins of true energy and |eta|; jets below the pT threshold are in none."""

    def __init__(self, config: BinsConfig, energy_range_gev: tuple[float, float], device: torch.device) -> None:
        """Lay out the bins.

        Args:
            config: Edges in true energy and |eta|.
            energy_range_gev: Lowest and highest true energy, used where the configuration asks for bins by number.
            device: Where the edges live.
        """
        self.config = config
        energy_edges = config.energy_edges_gev or np.geomspace(*energy_range_gev, config.num_log_energy_bins + 1)
        self.energy_edges = torch.tensor(list(energy_edges), device=device, dtype=torch.float32)
        self.eta_edges = torch.tensor(config.abs_eta_edges, device=device, dtype=torch.float32)
        self.num_bins = (len(self.energy_edges) - 1) * (len(self.eta_edges) - 1)

    def __call__(self, targets: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the bin of each jet, some bin for one outside, and whether it is inside; shapes (B,)."""
        energy = torch.bucketize(targets["true_energy"], self.energy_edges, right=True) - 1
        eta = torch.bucketize(targets["true_eta"].abs(), self.eta_edges, right=True) - 1
        num_energy, num_eta = len(self.energy_edges) - 1, len(self.eta_edges) - 1
        inside = (energy >= 0) & (energy < num_energy) & (eta >= 0) & (eta < num_eta)
        inside &= targets["true_pt"] > self.config.pt_true_min_gev
        return (energy * num_eta + eta).clamp(0, self.num_bins - 1), inside


class ResponseHistogram:
    """Counts of jets in (true energy, |eta|, response)."""

    def __init__(self, config: BinsConfig, energy_range_gev: tuple[float, float], device: torch.device) -> None:
        """Lay out the bins; arguments are those of `ResponseBins`."""
        self.config, self.bins = config, ResponseBins(config, energy_range_gev, device)
        self.num_bins = self.bins.num_bins
        self.counts = torch.zeros(self.num_bins * NUM_RESPONSE_BINS, dtype=torch.float64, device=device)
        self.num_not_finite = torch.zeros(1, dtype=torch.float64, device=device)
        self.num_bounded = torch.zeros(2, dtype=torch.float64, device=device)
        "Jets at the bound of a network's response, and jets that could have been."

    def fill(self, response: Tensor, targets: dict[str, Tensor]) -> None:
        """Add jets with the given response (1), shape (B,)."""
        row, inside = self.bins(targets)
        finite = torch.isfinite(response)
        self.num_not_finite += (~finite).sum()
        place = torch.where(finite, response, 0.0).float() * (NUM_RESPONSE_BINS / MAX_RESPONSE)
        column = place.long().clamp(0, NUM_RESPONSE_BINS - 1)
        self.counts.index_add_(0, row * NUM_RESPONSE_BINS + column, inside.double())

    def count_bounded(self, is_bounded: Tensor) -> None:
        """Count jets whose energy would be divided by nearly nothing, were there no bound; shape (B,)."""
        self.num_bounded += torch.stack([is_bounded.sum(), torch.ones_like(is_bounded).sum()])

    def closure(self, ranks: RankInfo) -> dict[str, float]:
        """Add the counts of all processes and estimate scale and resolution in every bin.

        Returns:
            What `closure_from_histograms` says and, for networks that predict a response, `bounded_fraction`.

        Raises:
            NonFiniteError: If a response was not finite, on any process, or the output of the network is dead.
            UserError: If there are too few jets.
        """
        bounded = self._bounded_fraction(ranks)
        if num_bad := int(all_reduce_sum(self.num_not_finite.clone(), ranks).item()):
            raise NonFiniteError(f"the calibrated energy of {num_bad} validation jets is not finite; lower optimizer.lr")
        num_jets = int(all_reduce_sum(self.counts.sum(), ranks).item())
        if num_jets < MIN_ENTRIES:
            raise UserError(
                f"the validation split has {num_jets} jets with true pT > closure.pt_true_min_gev = "
                f"{self.config.pt_true_min_gev:g} GeV inside the bins, {MIN_ENTRIES} are needed; raise split.val in "
                "`distjet prepare`, use more events, or lower closure.pt_true_min_gev"
            )
        counts = all_reduce_sum(self.counts.clone(), ranks).cpu().numpy().reshape(self.num_bins, NUM_RESPONSE_BINS)
        centres = (np.arange(NUM_RESPONSE_BINS) + 0.5) * (MAX_RESPONSE / NUM_RESPONSE_BINS)
        return closure_from_histograms(counts, centres, self.config.min_entries) | bounded

    def _bounded_fraction(self, ranks: RankInfo) -> dict[str, float]:
        """Share of jets at the bound of the response.

        Raises:
            NonFiniteError: If all are there.
        """
        num_bounded, num_jets = all_reduce_sum(self.num_bounded.clone(), ranks).tolist()
        if num_jets == 0:
            return {}
        if num_bounded == num_jets:
            raise NonFiniteError(
                f"the output of the network is dead: the response of each of {num_jets:.0f} validation jets is below "
                "model.min_response. A ReLU that gives zero for every jet has no gradient and never learns again: try another "
                "seed, a lower optimizer.lr, or model.output=softplus"
            )
        return {"bounded_fraction": num_bounded / num_jets}


class ResponseWatch:
    """Fills the response of the validation split into a histogram."""

    def __init__(self, histogram: ResponseHistogram, fill: Callable[[ResponseHistogram, Any, GraphBatch], None]) -> None:
        """Begin; `fill` takes a histogram, the outputs of a model, and their batch."""
        self.histogram, self.fill = histogram, fill

    def observe(self, outputs: Any, batch: GraphBatch) -> None:
        """Add a batch."""
        self.fill(self.histogram, outputs, batch)

    def metrics(self, ranks: RankInfo) -> dict[str, float]:
        """Return the closure of the jets of all processes."""
        return self.histogram.closure(ranks)
