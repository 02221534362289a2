"""Small ntuples of random numbers, with empty jets and several clusters per file, and short ways to prepare and read them."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import uproot

from distjet.config import load
from distjet.dataset.manifest import FILE_NAME, Manifest, seal
from distjet.dataset.prepare import prepare
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.execution import in_process
from distjet.run_directory import write_json

PROJECT = Path(__file__).parents[2]
TREE = "AntiKt2EMTopoJets"
CLUSTER_BRANCHES = ("fEM", "fHAD1", "fHAD2", "lambda", "r2", "density", "significance", "ncell", "emaxfrac", "fPU")


def random_ntuple(num_events: int, seed: int, first_event: int = 0) -> dict[str, Any]:
    """Make two jets per event with 0 to 12 clusters; jets are the sums of their clusters."""
    rng = np.random.default_rng(seed)
    num_jets = 2 * num_events
    counts = rng.integers(1, 13, num_jets)
    counts[5::97] = 0
    axis_eta, axis_phi = rng.uniform(-2.4, 2.4, num_jets), rng.uniform(-np.pi, np.pi, num_jets)
    total = counts.sum()
    clusters = {
        "E": rng.exponential(8.0, total) + 0.3,
        "eta": np.repeat(axis_eta, counts) + rng.normal(0, 0.08, total),
        "phi": (np.repeat(axis_phi, counts) + rng.normal(0, 0.08, total) + np.pi) % (2 * np.pi) - np.pi,
        **{name: rng.uniform(0.01, 1, total) for name in CLUSTER_BRANCHES},
    }
    clusters = {name: values.astype(np.float32) for name, values in clusters.items()}
    pt, eta, phi, mass = summed(clusters, counts, axis_eta, axis_phi)
    event = first_event + np.repeat(np.arange(num_events), 2)
    jets = {
        "runNumber": np.full(num_jets, 3, np.int32),
        "eventNumber": event.astype(np.int64),
        "jet_index": np.tile([0, 1], num_events).astype(np.int32),
        "mcEventWeight": rng.uniform(0.5, 2.0, num_jets),
        "averageInteractionsPerCrossing": np.repeat(rng.uniform(10, 70, num_events), 2).astype(np.float32),
        "NPV": np.repeat(rng.integers(1, 40, num_events), 2).astype(np.int32),
        "jet_pt": pt, "jet_eta": eta, "jet_phi": phi, "jet_m": mass,
        "jet_NumTrkPt1000": rng.integers(0, 20, num_jets).astype(np.int32),
        "jet_isTruthMatched": rng.random(num_jets) < 0.9,
        "jet_isIsolated": rng.random(num_jets) < 0.9,
        "truthjet_isIsolated": rng.random(num_jets) < 0.9,
        "truthjet_pt": (pt * rng.normal(1.3, 0.1, num_jets)).astype(np.float32) + 8,
        "truthjet_eta": eta, "truthjet_phi": phi, "truthjet_m": mass,
        "truthjet_flavour": rng.choice([21, 1, 2, 5, 0], num_jets).astype(np.int32),
    }  # fmt: skip
    for name in ("rho", "pthat", "jet_area", "jet_TrackWidthPt1000", "jet_fCharged"):
        jets[name] = rng.uniform(0, 1, num_jets).astype(np.float32)
    jets["jet_DetectorEta"] = eta
    jets["jet_GhostMuonSegmentCount"] = rng.poisson(0.2, num_jets).astype(np.int32)
    for sampling, highest in enumerate((0.6, 0.3)):
        share = rng.uniform(0, highest, num_jets)
        jets[f"jet_EnergyPerSampling{sampling}"] = (share * np.hypot(pt * np.cosh(eta), mass)).astype(np.float32)
    return jets | {"clus": ak.zip({name: ak.unflatten(values, counts) for name, values in clusters.items()})}


def summed(
    clusters: Mapping[str, np.ndarray], counts: np.ndarray, axis_eta: np.ndarray, axis_phi: np.ndarray
) -> list[np.ndarray]:
    """Add four-momenta per jet; an empty jet keeps its axis."""
    owner = np.repeat(np.arange(len(counts)), counts)
    energy, eta, phi = (clusters[name].astype(np.float64) for name in ("E", "eta", "phi"))
    pt = energy / np.cosh(eta)
    parts = (pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), energy)
    px, py, pz, e = (np.bincount(owner, weights=part, minlength=len(counts)) for part in parts)
    jet_pt = np.hypot(px, py)
    jet_eta = np.where(counts > 0, np.arcsinh(pz / np.where(jet_pt > 0, jet_pt, 1)), axis_eta)
    jet_phi = np.where(counts > 0, np.arctan2(py, px), axis_phi)
    mass = np.sqrt(np.maximum(e**2 - px**2 - py**2 - pz**2, 0))
    return [array.astype(np.float32) for array in (jet_pt, jet_eta, jet_phi, mass)]


def write_ntuple(path: Path, arrays: Mapping[str, Any], *, tree: str = TREE, parts: int = 1, compression: Any = None) -> Path:
    """Write arrays as a TTree, in several clusters."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = len(arrays["jet_pt"])
    edges = np.linspace(0, size, parts + 1).astype(int)
    with uproot.recreate(path, compression=compression or uproot.ZSTD(1)) as file:
        types = {name: ak.type(ak.Array(values)).content for name, values in arrays.items()}
        writer = file.mktree(tree, types)
        for start, stop in itertools.pairwise(edges):
            writer.extend({name: values[start:stop] for name, values in arrays.items()})
    return path


def configure(output: Path, inputs: Any, **changes: Any) -> PrepareConfig:
    """Load the shipped mapping of our own ntuples, for small files."""
    base = load(PrepareConfig, [PROJECT / "conf/dataset/distjet.yaml"], ["inputs=unused", "output=unused"]).model_dump(
        mode="json"
    )
    base |= {"inputs": inputs, "output": str(output), "rows_per_shard": 150, "row_group_size": 64, "entries_per_task": 100}
    return PrepareConfig.model_validate(base | changes)


def run(output: Path, inputs: Any, execute: Callable[..., Iterator[Any]] = in_process, **changes: Any) -> Manifest:
    """Prepare a dataset and open it."""
    prepare(configure(output, inputs, **changes), execute)
    return Manifest.load(output)


def rewrite_manifest(manifest: Manifest, content: Mapping[str, Any]) -> None:
    """Write another content of the manifest, with the hash that belongs to it."""
    write_json(manifest.path / FILE_NAME, seal(content))


def read_all(manifest: Manifest, splits: Sequence[str] = ("train", "val", "test")) -> pa.Table:
    """Read all rows of some splits."""
    paths = [manifest.path / shard.path for split in splits for shard in manifest.shards(split)]
    return pa.concat_tables([pq.read_table(path, page_checksum_verification=True) for path in paths])


def identities(table: pa.Table) -> list[tuple[str, int, int, int]]:
    """Return (sample, run, event, jet_index) of each row."""
    return list(zip(*(table[name].to_pylist() for name in ("sample", "run", "event", "jet_index")), strict=True))


def pairs_of(row: Mapping[str, Any]) -> list[tuple[int, int]]:
    """Read the undirected edges of a row off its bytes, number by number."""
    width = 1 if row["num_nodes"] <= 255 else 2
    numbers = [int.from_bytes(row["edges"][i : i + width], "little") for i in range(0, len(row["edges"]), width)]
    degrees, ends = numbers[: row["num_nodes"]], numbers[row["num_nodes"] :]
    begins = [node for node, degree in enumerate(degrees) for _ in range(degree)]
    return list(zip(begins, ends, strict=True))


def shard_bytes(manifest: Manifest) -> dict[str, bytes]:
    """Return the bytes of every shard."""
    return {
        shard.path: (manifest.path / shard.path).read_bytes()
        for split in ("train", "val", "test")
        for shard in manifest.shards(split)
    }
