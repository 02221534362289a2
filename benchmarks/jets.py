"""Which jets do the benchmarks use? 50 constituents in the mean, 16 numbers each, under the names that JetClass has.

The jets are random, but their numbers cost what real ones cost: full mantissas, exact zeros where a neutral particle has no
track, constituents in up to three prongs and in descending order of pT, as in a jet. They are made in chunks, each from its own
seed, so that a file of any length needs the memory of a chunk; file number k of a set is the same whatever else is written.

The constituents are C arrays with one counter, as in NanoAOD: uproot cannot write `std::vector`, and reads these faster.
"""

import uuid
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import awkward as ak
import numpy as np
import uproot

from distjet.dataset.recipes.recipe import PrepareConfig

TREE = "tree"
NUM_CLASSES = 10
MEAN_CONSTITUENTS = 50
MAX_CONSTITUENTS = 128
JETS_PER_CLUSTER = 1000
JETS_PER_FILE = 100_000
"As in JetClass."

PARTICLE_KINDS = {
    "isChargedHadron": 0.55, "isNeutralHadron": 0.15, "isPhoton": 0.27, "isElectron": 0.02, "isMuon": 0.01,
}  # fmt: skip
CHARGED = np.array([True, False, False, True, True])
MOMENTUM = ("px", "py", "pz", "energy")
FEATURES = ("deta", "dphi", "d0val", "d0err", "dzval", "dzerr", "charge", *PARTICLE_KINDS)
JET_SCALARS = ("jet_pt", "jet_eta", "jet_phi", "jet_energy", "jet_sdmass", "tau1", "tau2", "tau3", "tau4")
BRANCHES = (*(f"part_{name}" for name in (*MOMENTUM, *FEATURES)), *JET_SCALARS, "label")

Container = Literal["ttree", "rntuple"]
Codec = Literal["zstd", "lz4", "none"]


def config(inputs: Any, output: Path, mantissa_bits: int = 23, **changes: Any) -> PrepareConfig:
    """Return a preparation that stores all branches: four-momenta, 12 node features, graph features, labels; with edges."""
    nodes = [f"part_{name}" for name in FEATURES]
    recipe = {
        "tree": TREE,
        "constituents": {name: f"part_{name}" for name in MOMENTUM},
        "jet": {"pt": "jet_pt", "eta": "jet_eta", "phi": "jet_phi", "energy": "jet_energy"},
        "variables": {"delta_eta": "part_deta", "delta_phi": "part_dphi"},
        "edges": "delaunay",
        "nodes": nodes,
        "mantissa_bits": dict.fromkeys([*MOMENTUM, *nodes], mantissa_bits),
        "graph": list(JET_SCALARS[4:]),
        "labels": {f"class_{number}": f"label == {number}" for number in range(NUM_CLASSES)},
    }
    return PrepareConfig.model_validate({"inputs": inputs, "output": str(output), "recipe": recipe} | changes)


def write_files(
    folder: Path, num_jets: int, container: Container = "ttree", codec: Codec = "zstd", workers: int = 1
) -> list[Path]:
    """Write a set of files of up to 100 000 jets; what is there already stays.

    Returns:
        The files, which hold `num_jets` jets together.
    """
    sizes = [min(JETS_PER_FILE, num_jets - start) for start in range(0, num_jets, JETS_PER_FILE)]
    paths = [folder / f"{container}_{codec}_{size}_{number:04d}.root" for number, size in enumerate(sizes)]
    write = partial(write_file, container=container, codec=codec)
    missing = [(path, size, number) for number, (path, size) in enumerate(zip(paths, sizes, strict=True)) if not path.exists()]
    if workers > 1 and len(missing) > 1:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(write, *zip(*missing, strict=True)))
    else:
        for path, size, number in missing:
            write(path, size, number)
    return paths


def write_file(path: Path, num_jets: int, number: int, container: Container = "ttree", codec: Codec = "zstd") -> None:
    """Write one file, with a cluster (one basket of each branch) for every 1000 jets."""
    path.parent.mkdir(parents=True, exist_ok=True)
    compression = {"zstd": uproot.ZSTD(5), "lz4": uproot.LZ4(4), "none": None}[codec]
    identity = uuid.uuid5(uuid.NAMESPACE_URL, path.name)  # so that the same file has the same rows on every machine
    temporary = path.with_suffix(".part")
    with uproot.recreate(temporary, compression=compression, uuid_function=lambda: identity) as file:
        make = file.mktree if container == "ttree" else file.mkrntuple
        writer = None
        for chunk in make_chunks(num_jets, number):
            columns = _as_trees_want(chunk) if container == "ttree" else chunk
            if writer is None:
                writer = make(TREE, {name: ak.type(values).content for name, values in columns.items()})
            writer.extend(columns)
    temporary.rename(path)


def _as_trees_want(chunk: dict[str, ak.Array]) -> dict[str, ak.Array]:
    """Zip the constituents, so that their branches share a counter."""
    names = [name for name in chunk if name.startswith("part_")]
    particles = ak.zip({name.removeprefix("part_"): chunk[name] for name in names})
    return {"part": particles, **{name: values for name, values in chunk.items() if name not in names}}


def make_chunks(num_jets: int, number: int) -> Iterator[dict[str, ak.Array]]:
    """Make the jets of file `number`, a thousand at a time."""
    for index, start in enumerate(range(0, num_jets, JETS_PER_CLUSTER)):
        rng = np.random.default_rng([number, index])
        yield make_jets(min(JETS_PER_CLUSTER, num_jets - start), rng)


def make_jets(num_jets: int, rng: np.random.Generator) -> dict[str, ak.Array]:
    """Make jets: branch name -> one number or one list per jet."""
    shape = 6.0
    counts = rng.negative_binomial(shape, shape / (shape + MEAN_CONSTITUENTS), num_jets).clip(1, MAX_CONSTITUENTS)
    jets = _jet_scalars(num_jets, rng)
    owner = np.repeat(np.arange(num_jets), counts)
    particles = _directions_and_momenta(jets, owner, rng) | _identities(len(owner), rng)
    order = np.lexsort((-particles.pop("pt"), owner))
    lists = {f"part_{name}": ak.unflatten(particles[name][order], counts) for name in (*MOMENTUM, *FEATURES)}
    return lists | {name: ak.Array(values) for name, values in jets.items()}


def _jet_scalars(num_jets: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    pt = 500 + 250 * rng.exponential(1, num_jets)
    eta = rng.uniform(-2, 2, num_jets)
    jets = {
        "jet_pt": pt,
        "jet_eta": eta,
        "jet_phi": rng.uniform(-np.pi, np.pi, num_jets),
        "jet_energy": pt * np.cosh(eta),
        "jet_sdmass": rng.gamma(3, 30, num_jets),
        **{f"tau{i}": rng.random(num_jets) / i for i in range(1, 5)},
    }
    labels = rng.integers(0, NUM_CLASSES, num_jets, dtype=np.int32)
    return {name: values.astype(np.float32) for name, values in jets.items()} | {"label": labels}


def _directions_and_momenta(jets: dict[str, np.ndarray], owner: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Place constituents around one to three prongs (by class) and share the jet's pT among them."""
    size, num_jets = len(owner), len(jets["label"])
    prong = 3 * owner + (rng.random(size) * (1 + jets["label"][owner] % 3)).astype(int)
    width = 0.03 + 0.12 * rng.random(size)
    deta, dphi = (
        (rng.normal(0, 0.25, 3 * num_jets)[prong] + rng.normal(0, 1, size) * width).clip(-0.8, 0.8).astype(np.float32)
        for _ in range(2)
    )
    share = rng.exponential(1, size) ** 2 + 1e-3
    pt = share / np.bincount(owner, share, num_jets)[owner] * jets["jet_pt"][owner]
    eta, phi = jets["jet_eta"][owner] + deta, jets["jet_phi"][owner] + dphi
    momentum = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)]).astype(np.float32)
    energy = np.sqrt(np.square(momentum, dtype=np.float64).sum(axis=0)).astype(np.float32)
    return {"pt": pt, "deta": deta, "dphi": dphi, "energy": energy, **dict(zip(MOMENTUM[:3], momentum, strict=True))}


def _identities(size: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw the kind of each constituent, and the track parameters of the charged ones."""
    kind = rng.choice(len(PARTICLE_KINDS), size, p=list(PARTICLE_KINDS.values()))
    charged = CHARGED[kind]
    tracks = {
        "d0val": rng.standard_t(3, size) * 0.05,
        "d0err": 0.01 + 0.02 * rng.random(size),
        "dzval": rng.standard_t(3, size) * 0.08,
        "dzerr": 0.01 + 0.03 * rng.random(size),
        "charge": rng.choice([-1.0, 1.0], size),
    }
    found = {name: np.where(charged, values, 0).astype(np.float32) for name, values in tracks.items()}
    return found | {name: (kind == number).astype(np.float32) for number, name in enumerate(PARTICLE_KINDS)}
