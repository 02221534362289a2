"""Predictions with a known bias per bin: the truth that the evaluation has to find."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distjet.evaluation.config import ResponseConfig
from distjet.evaluation.report import evaluate_predictions
from distjet.evaluation.sources import Sources


def raw_scale(energy_gev, abs_eta):
    return 0.62 + 0.05 * np.log(energy_gev / 20) - 0.02 * abs_eta


def raw_resolution(energy_gev):
    return np.sqrt(0.9**2 / energy_gev + 0.04**2)


def toy_columns(num_jets=40_000, seed=3, max_abs_eta=2.1, calibrated_scale=1.0):
    """Raw: low scale with an upper tail. Calibrated: `calibrated_scale` in the core, 20 % better resolution, an upper tail."""
    rng = np.random.default_rng(seed)
    eta = rng.uniform(-max_abs_eta, max_abs_eta, num_jets)
    energy = np.exp(rng.uniform(np.log(25), np.log(1000), num_jets))
    mass = energy / np.cosh(eta) * 0.06 * rng.lognormal(0, 0.4, num_jets)
    sigma = raw_resolution(energy)
    common = rng.normal(0, 1, num_jets)
    tail = np.where(rng.random(num_jets) < 0.1, rng.exponential(1.5, num_jets), 0)
    raw = raw_scale(energy, np.abs(eta)) * (1 + sigma * (common + tail))
    calibrated = calibrated_scale * (1 + 0.8 * sigma * (common + tail))
    mass_noise = rng.normal(0, 1, num_jets)
    num_interactions = rng.uniform(10, 70, num_jets)
    return {
        "run": np.full(num_jets, 2, np.int64),
        "event": np.arange(num_jets, dtype=np.int64) // 2,
        "jet_index": (np.arange(num_jets) % 2).astype(np.int32),
        "weight": np.ones(num_jets),
        "mu": num_interactions,
        "npv": rng.poisson(0.6 * num_interactions),
        "flavour": rng.choice([1, 2, 4, 21, 21], num_jets),
        "charged_fraction": rng.uniform(0, 1, num_jets),
        "num_tracks": rng.poisson(6, num_jets),
        "calibrated_pit": rng.uniform(0, 1, num_jets),
        "true_pt": np.sqrt(energy**2 - mass**2) / np.cosh(eta),
        "true_eta": eta,
        "true_phi": rng.uniform(-np.pi, np.pi, num_jets),
        "true_energy": energy,
        "true_mass": mass,
        "true_rapidity": eta,
        "raw_energy": np.maximum(raw, 0.05) * energy,
        "raw_mass": mass * np.maximum(raw * 0.9 * (1 + 0.25 * mass_noise), 0.01),
        "raw_rapidity": eta + rng.normal(0.002, 0.02, num_jets),
        "raw_pt": np.maximum(raw, 0.05) * energy / np.cosh(eta),
        "calibrated_energy": np.maximum(calibrated, 0.05) * energy,
        "calibrated_mass": mass * np.maximum(calibrated * (1 + 0.18 * mass_noise), 0.01),
        "calibrated_rapidity": eta + rng.normal(0, 0.015, num_jets),
        "calibrated_pt": np.maximum(calibrated, 0.05) * energy / np.cosh(eta),
    }


def write_table(path: Path, columns) -> Path:
    """Write the columns as the predictions that the other rooms write."""
    num_jets = len(columns["run"])
    sample = pa.array(["dijet_JZ1"] * num_jets).dictionary_encode()
    arrays = {name: np.asarray(v, np.float32) if np.asarray(v).dtype.kind == "f" else v for name, v in columns.items()}
    pq.write_table(pa.table({**arrays, "sample": sample}), path)
    return path


@pytest.fixture(scope="session")
def make_columns():
    return toy_columns


@pytest.fixture(scope="session")
def save():
    return write_table


@pytest.fixture(scope="session")
def report_config():
    return ResponseConfig(abs_eta_edges=(0.0, 1.3, 2.1))


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory, report_config):
    """One full evaluation of the toy: the folder and the metrics."""
    folder = tmp_path_factory.mktemp("evaluated")
    table = write_table(folder / "predictions.parquet", toy_columns(12_000))
    provenance = {"dataset": {"fingerprint": "f" * 32}, "git_commit": "<script>alert(1)</script>", "seed": 7}
    return folder, evaluate_predictions(Sources.of_table(table), report_config, provenance, folder)
