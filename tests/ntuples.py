"""Toy jets whose correction is known: the response of a cluster depends on its electromagnetic fraction and nothing else."""

from typing import Any

import awkward as ak
import numpy as np

from tests.dataset.files import CLUSTER_BRANCHES, random_ntuple, summed

RESPONSE_HADRONIC, RESPONSE_EM, NOISE = 0.6, 0.9, 0.05


def toy_jets(num_events: int, seed: int) -> dict[str, Any]:
    """Make the branches of two isolated, matched jets an event; truth is the sum of the clusters before the response."""
    rng = np.random.default_rng(seed)
    num_jets = 2 * num_events
    counts = rng.integers(1, 12, num_jets)
    jet = np.repeat(np.arange(num_jets), counts)
    axis_eta, axis_phi = rng.uniform(-2.4, 2.4, num_jets), rng.uniform(-np.pi, np.pi, num_jets)
    share = rng.exponential(1, len(jet)) + 0.05
    pt = (8 * np.exp(rng.uniform(0, 4, num_jets)) / np.bincount(jet, share))[jet] * share
    clusters = {name: rng.uniform(0.1, 1, len(jet)) for name in CLUSTER_BRANCHES}
    clusters |= {
        "eta": axis_eta[jet] + 0.06 * rng.normal(size=len(jet)),
        "phi": axis_phi[jet] + 0.06 * rng.normal(size=len(jet)),
    }
    true_energy = pt * np.cosh(clusters["eta"])
    response = RESPONSE_HADRONIC + (RESPONSE_EM - RESPONSE_HADRONIC) * clusters["fEM"] + NOISE * rng.normal(size=len(jet))
    names = ("pt", "eta", "phi", "m")
    true = summed(clusters | {"E": true_energy}, counts, axis_eta, axis_phi)
    reco = summed(clusters | {"E": response * true_energy}, counts, axis_eta, axis_phi)
    branches = random_ntuple(num_events, seed)
    branches |= {f"truthjet_{name}": value for name, value in zip(names, true, strict=True)}
    branches |= {f"jet_{name}": value for name, value in zip(names, reco, strict=True)}
    branches |= dict.fromkeys(("jet_isTruthMatched", "jet_isIsolated", "truthjet_isIsolated"), np.ones(num_jets, bool))
    clusters["E"] = response * true_energy
    return branches | {"clus": ak.zip({name: ak.unflatten(v.astype("f4"), counts) for name, v in clusters.items()})}
