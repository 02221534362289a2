"""How much does each jet count in the loss?

The weights are tables made from the histograms of the manifest, and stand on the device: a step looks them up without waiting.
"""

import torch
from torch import Tensor

from distjet.dataset.manifest import Manifest
from distjet.dataset.streaming.batch import JET_COLUMNS, GraphBatch
from distjet.dataset.weights import BinnedWeights, flattening_weights, pt_mass_weights
from distjet.training.settings import WeightingConfig

SPECTRA = {"flat_log_energy": "log_true_energy", "flat_log_energy_eta": "log_true_energy_abs_eta"}
"Which histogram of the manifest each weighting in true energy makes flat."


class Weighting:
    """Weights of jets, as the configuration states them."""

    def __init__(self, config: WeightingConfig, manifest: Manifest, device: torch.device) -> None:
        """Make the table.

        Raises:
            ConfigError: If the classes in the configuration are not those of the dataset.
            DataError: If the training jets have no such spectrum.
        """
        self.config, self.num_classes = config, len(manifest.classes)
        binned = binned_weights(config, manifest)
        self.table = None if binned is None else torch.as_tensor(binned.values, dtype=torch.float32, device=device)
        axes = () if binned is None else binned.edges
        self.inner_edges = [torch.as_tensor(axis[1:-1], dtype=torch.float32, device=device) for axis in axes]

    def __call__(self, batch: GraphBatch) -> Tensor:
        """Return the weight of each jet, shape (B,)."""
        uses_event_weight = self.config.name == "event" or self.config.times_event_weight
        weight = batch.weight if uses_event_weight else torch.ones_like(batch.weight)
        if self.table is None:
            return weight
        variables = zip(self._variables(batch), self.inner_edges, strict=True)
        return weight * self.table[tuple(torch.bucketize(values, edges, right=True) for values, edges in variables)]

    def _variables(self, batch: GraphBatch) -> list[Tensor]:
        if self.config.name in SPECTRA:
            return [torch.log(batch.targets["true_energy"]), batch.targets["true_eta"].abs()][: len(self.inner_edges)]
        pt_mass = [batch.jet[:, JET_COLUMNS.index(name)].contiguous() for name in ("jet_pt", "jet_mass")]
        return [batch.targets["label"], *pt_mass] if self.num_classes else pt_mass


def binned_weights(config: WeightingConfig, manifest: Manifest) -> BinnedWeights | None:
    """Make the weights of the training jets, as a function of ln(E_true) and |eta_true|, or of label, pT and mass.

    Returns:
        None where every jet, or every event, counts once.
    """
    if config.name in SPECTRA:
        return flattening_weights(manifest.histogram(SPECTRA[config.name]), use_event_weights=config.times_event_weight)
    if config.name in ("flat_pt_mass", "reference_pt_mass"):
        return pt_mass_weights(
            manifest.histogram("pt_mass"),
            manifest.classes,
            reference=config.reference,
            totals=config.totals,
            use_event_weights=config.times_event_weight,
        )
    return None
