"""Ntuples in distjet's own format with toy jets, whose correction is known: a cluster's response depends on its EM fraction."""

from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import uproot

RESPONSE_HADRONIC, RESPONSE_EM = 0.6, 0.9


def toy_jets(num_jets: int, seed: int) -> dict[str, Any]:
    """Make the branches of `num_jets` jets, two an event."""
    rng = np.random.default_rng(seed)
    size = rng.integers(1, 12, num_jets)
    jet = np.repeat(np.arange(num_jets), size)
    pt_true, eta, phi = (
        8 * np.exp(rng.uniform(0, 4, num_jets)),
        rng.uniform(-2.4, 2.4, num_jets),
        rng.uniform(-3.1, 3.1, num_jets),
    )
    share = rng.exponential(1, len(jet)) + 0.05
    pt = pt_true[jet] * share / np.bincount(jet, share)[jet]
    em = rng.uniform(0, 1, len(jet))
    response = RESPONSE_HADRONIC + (RESPONSE_EM - RESPONSE_HADRONIC) * em + 0.05 * rng.normal(size=len(jet))
    clus_eta = eta[jet] + 0.06 * rng.normal(size=len(jet))
    clus_phi = phi[jet] + 0.06 * rng.normal(size=len(jet))
    true, reco = (_sum(scale * pt, clus_eta, clus_phi, jet) for scale in (1.0, response))
    moments = {name: rng.uniform(0.1, 1, len(jet)) for name in ("fHAD1", "fHAD2", "lambda", "r2", "density", "emaxfrac", "fPU")}
    moments |= {"fEM": em, "significance": rng.uniform(4, 50, len(jet)), "ncell": rng.integers(1, 80, len(jet)).astype(float)}
    clusters = {"E": response * pt * np.cosh(clus_eta), "eta": clus_eta, "phi": clus_phi, **moments}
    scalars = _scalars(rng, num_jets) | {f"jet_{k}": v for k, v in reco.items()} | {f"truthjet_{k}": v for k, v in true.items()}
    floats = {k: v.astype("f4") if v.dtype == np.float64 and k != "mcEventWeight" else v for k, v in scalars.items()}
    return floats | {"clus": ak.zip({k: ak.unflatten(v.astype("f4"), size) for k, v in clusters.items()})}


def write_ntuple(path: Path, num_jets: int = 400, seed: int = 1, tree: str = "AntiKt2EMTopoJets", **replaced: Any) -> Path:
    """Write toy jets; keyword arguments replace or add branches."""
    path.parent.mkdir(parents=True, exist_ok=True)
    branches = toy_jets(num_jets, seed) | replaced
    with uproot.recreate(path) as file:
        file.mktree(tree, {name: ak.type(ak.Array(value)).content for name, value in branches.items()})
        file[tree].extend(branches)
    return path


def _scalars(rng: np.random.Generator, num: int) -> dict[str, np.ndarray]:
    index = np.arange(num)
    return {
        "runNumber": np.ones(num, "i4"),
        "eventNumber": (index // 2).astype("i8"),
        "jet_index": (index % 2).astype("i4"),
        "mcChannelNumber": np.full(num, 800001, "i4"),
        "mcEventWeight": rng.uniform(0.5, 1.5, num),
        "averageInteractionsPerCrossing": rng.uniform(0, 20, num),
        "nPUtrue": rng.integers(0, 20, num).astype("i4"),
        "NPV": rng.integers(1, 20, num).astype("i4"),
        "rho": rng.uniform(0, 10, num),
        "pthat": rng.uniform(20, 60, num),
        "leading_truth_pt": rng.uniform(20, 60, num),
        "jet_area": rng.normal(0.126, 0.01, num),
        "jet_DetectorEta": rng.uniform(-2.4, 2.4, num),
        "jet_NumTrkPt1000": rng.integers(0, 9, num).astype("i4"),
        "jet_TrackWidthPt1000": rng.uniform(0, 0.2, num),
        "jet_fCharged": rng.uniform(0, 1, num),
        "jet_EnergyPerSampling0": rng.uniform(0, 9, num),
        "jet_EnergyPerSampling1": rng.uniform(0, 9, num),
        "jet_EnergyPerSampling2": rng.uniform(0, 9, num),
        "jet_GhostMuonSegmentCount": np.zeros(num, "i4"),
        "jet_isTruthMatched": np.ones(num, bool),
        "jet_isIsolated": np.ones(num, bool),
        "truthjet_dR": rng.uniform(0, 0.1, num),
        "truthjet_isIsolated": np.ones(num, bool),
        "truthjet_flavour": np.full(num, 21, "i4"),
    }


def _sum(pt: np.ndarray, eta: np.ndarray, phi: np.ndarray, jet: np.ndarray) -> dict[str, np.ndarray]:
    """Add massless clusters to jets."""
    px, py, pz, e = (np.bincount(jet, w) for w in (pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)))
    jet_pt = np.hypot(px, py)
    mass = np.sqrt(np.maximum(e**2 - jet_pt**2 - pz**2, 0))
    return {"pt": jet_pt, "eta": np.arcsinh(pz / jet_pt), "phi": np.arctan2(py, px), "m": mass, "E": e}
