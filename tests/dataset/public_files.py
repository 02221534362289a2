"""Small files in the formats of the public sets, written by the libraries that wrote those: pandas, h5py, numpy."""

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd

HIGH_LEVEL = (
    "C2", "D2", "ECF1", "ECF2", "ECF3", "L2", "L3", "Qw", "Split12", "Split23", "Tau1_wta", "Tau2_wta", "Tau3_wta",
    "Tau4_wta", "ThrustMaj",
)  # fmt: skip
PDG_IDS = (22, 211, -211, 321, -321, 130, 2112, -2112, 2212, -2212, 11, -11, 13, -13)


class Jets(NamedTuple):
    """Jets of massless constituents in order of falling pT, filled up with zeros; arrays (J, M), counts and label (J,)."""

    pt: np.ndarray
    eta: np.ndarray
    phi: np.ndarray
    counts: np.ndarray
    label: np.ndarray

    @property
    def p4(self) -> np.ndarray:
        """px, py, pz, energy, shape (J, M, 4)."""
        parts = (np.cos(self.phi), np.sin(self.phi), np.sinh(self.eta), np.cosh(self.eta))
        return np.stack([self.pt * part for part in parts], axis=2)


def random_jets(num_jets: int, seed: int, length: int = 20) -> Jets:
    """Make jets of 1 to `length` constituents around an axis; every 37th has none."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, length + 1, num_jets)
    counts[5::37] = 0
    is_real = np.arange(length) < counts[:, None]
    pt = -np.sort(-(rng.exponential(20.0, (num_jets, length)) + 0.5), axis=1)
    axis_eta, axis_phi = rng.uniform(-2, 2, num_jets), rng.uniform(-np.pi, np.pi, num_jets)
    eta = axis_eta[:, None] + rng.normal(0, 0.2, pt.shape)
    phi = (axis_phi[:, None] + rng.normal(0, 0.2, pt.shape) + np.pi) % (2 * np.pi) - np.pi
    return Jets(*(np.where(is_real, values, 0.0) for values in (pt, eta, phi)), counts, rng.integers(0, 2, num_jets))


def top_landscape_frame(jets: Jets, ttv: int | np.ndarray) -> pd.DataFrame:
    """Return the frame of the top landscape: E_0, PX_0, ..., the momentum of the top quark, ttv, is_signal_new."""
    p4 = jets.p4.astype(np.float32)
    columns = {
        f"{name}_{number}": p4[:, number, place]
        for number in range(p4.shape[1])
        for name, place in (("E", 3), ("PX", 0), ("PY", 1), ("PZ", 2))
    }
    top = (jets.p4.sum(axis=1) * jets.label[:, None]).astype(np.float32)
    columns |= {f"truth{name}": top[:, place] for name, place in (("E", 3), ("PX", 0), ("PY", 1), ("PZ", 2))}
    return pd.DataFrame(columns).assign(ttv=ttv, is_signal_new=jets.label)


def write_top_landscape(path: Path, jets: Jets, ttv: int | np.ndarray, kind: str = "table") -> pd.DataFrame:
    """Write a frame as the published files are, and return it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frame = top_landscape_frame(jets, ttv)
    frame.to_hdf(path, key="table", format=kind, complib="blosc", complevel=9)
    return frame


def quark_gluon_arrays(jets: Jets, seed: int) -> dict[str, np.ndarray]:
    """Return X (pT, rapidity, phi, pdg id) and y of EnergyFlow."""
    pid = np.random.default_rng(seed).choice(PDG_IDS, jets.pt.shape) * (jets.pt > 0)
    return {"X": np.stack([jets.pt, jets.eta, jets.phi, pid], axis=2), "y": jets.label.astype(np.float64)}


def atlas_arrays(jets: Jets, seed: int, *, is_training: bool) -> dict[str, np.ndarray]:
    """Return the arrays of the ATLAS top tagging data, in MeV."""
    rng = np.random.default_rng(seed)
    total = jets.p4.sum(axis=1)
    pt = np.hypot(total[:, 0], total[:, 1])
    mass = np.sqrt(np.maximum(total[:, 3] ** 2 - (total[:, :3] ** 2).sum(axis=1), 0))
    eta = np.arcsinh(total[:, 2] / np.where(pt > 0, pt, 1))
    arrays = {
        "fjet_clus_pt": 1000 * jets.pt,
        "fjet_clus_eta": jets.eta,
        "fjet_clus_phi": jets.phi,
        "fjet_clus_E": 1000 * jets.p4[:, :, 3],
        "fjet_pt": 1000 * pt,
        "fjet_eta": eta,
        "fjet_phi": np.arctan2(total[:, 1], total[:, 0]),
        "fjet_m": 1000 * mass,
        **{f"fjet_{name}": rng.uniform(0.1, 1, len(pt)) for name in HIGH_LEVEL},
    }
    arrays = {name: values.astype(np.float32) for name, values in arrays.items()}
    arrays |= {"fjet_clus_taste": rng.integers(0, 3, jets.pt.shape) * (jets.pt > 0), "labels": jets.label}
    return arrays | ({"training_weights": rng.uniform(0.5, 2, len(pt))} if is_training else {})


def write_atlas(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    """Write arrays side by side into an HDF5 file, compressed as those of ATLAS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.attrs["num_jets"] = len(arrays["labels"])
        for name, values in arrays.items():
            file.create_dataset(name, data=values, compression="gzip", chunks=(50, *values.shape[1:]))
    return path
