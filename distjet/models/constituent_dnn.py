"""The constituent DNN: the hardest constituents in one row, read by dense layers.

Seven numbers of each constituent follow from its four-momentum after the published preprocessing: the hardest constituent is
the centre, the second lies on the negative azimuth axis, the third at positive pseudorapidity. With 80 constituents, five
layers of 400 and one output these are 876,641 numbers, counted as Keras does with the running moments of the normalisations;
877k are published.

Reference:
    ATLAS, "Constituent-based top-quark tagging with the ATLAS detector", ATL-PHYS-PUB-2022-039; arXiv:2407.20127.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn

from distjet.dataset.streaming.batch import GraphBatch
from distjet.models.tagger import TaggerNetwork, TaggerSpec
from distjet.models.tagger_configs import ConstituentDnnConfig
from distjet.nn.batch_norm import BatchNorm
from distjet.nn.dense import dense_mask, to_dense

NUM_OWN = 7
"Numbers of a constituent that `preprocess` makes."


class ConstituentDnn(TaggerNetwork):
    """Preprocessing, a flat row, dense layers with batch normalisation."""

    Config = ConstituentDnnConfig

    def __init__(self, config: ConstituentDnnConfig, spec: TaggerSpec) -> None:
        super().__init__()
        self.length = config.max_constituents
        widths = [config.max_constituents * (NUM_OWN + spec.num_node) + spec.num_jet, *config.hidden]
        layers: list[nn.Module] = [BatchNorm(widths[0])]
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), BatchNorm(after), nn.ReLU(), nn.Dropout(config.dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], spec.num_classes))
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, batch: GraphBatch) -> Tensor:
        """Map a batch, constituents sorted by falling pT, to logits of shape (B, num_classes)."""
        dense = to_dense(torch.cat([batch.p4, batch.x], dim=1), batch.ptr, batch.batch, self.length)
        own = preprocess(dense[..., :4], dense_mask(batch.ptr, self.length))
        return self.layers(torch.cat([own.flatten(1), dense[..., 4:].flatten(1), batch.u], dim=1))


def preprocess(p4: Tensor, mask: Tensor) -> Tensor:
    """Make the published inputs from four-momenta.

    Args:
        p4: Constituents (px, py, pz, energy) in GeV by falling pT, shape (B, L, 4), L > 2.
        mask: Which of them exist, shape (B, L).

    Returns:
        Eta, phi, ln pT, ln E, ln of the shares of pT and energy, and the distance to the hardest constituent, shape (B, L, 7);
        zero where there is no constituent.
    """
    px, py, pz, energy = p4.unbind(2)
    pt = torch.hypot(px, py)
    eta = torch.asinh(pz / pt.clamp(min=1e-12))
    eta = eta - eta[:, :1]
    phi = torch.atan2(py * px[:, :1] - px * py[:, :1], px * px[:, :1] + py * py[:, :1])
    eta, phi = _orient(torch.where(mask, eta, 0.0), torch.where(mask, phi, 0.0))
    logarithms = []
    for value in (pt, energy):
        share = value / value.sum(1, keepdim=True).clamp(min=1e-12)
        logarithms.append(torch.stack([value.clamp(min=1e-12).log(), share.clamp(min=1e-12).log()], dim=2))
    log_pt, log_energy = logarithms
    distance = torch.hypot(eta, phi)
    features = torch.stack([log_pt, log_energy], dim=3).flatten(2)
    own = torch.cat([eta.unsqueeze(2), phi.unsqueeze(2), features, distance.unsqueeze(2)], dim=2)
    return torch.where(mask.unsqueeze(2), own, 0.0)


def _orient(eta: Tensor, phi: Tensor) -> tuple[Tensor, Tensor]:
    """Turn the second constituent to the negative azimuth axis, and flip the third to positive pseudorapidity; (B, L) each."""
    angle = torch.atan2(phi[:, 1:2], eta[:, 1:2]) + torch.pi / 2
    cosine, sine = angle.cos(), angle.sin()
    eta, phi = eta * cosine + phi * sine, phi * cosine - eta * sine
    return eta * torch.where(eta[:, 2:3] < 0, -1.0, 1.0), phi
