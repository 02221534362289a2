"""Which damage to files is noticed? Prints one JSON object.

    python -m benchmarks.integrity [--flips 200] [--cuts 40] [--jets 1000] [--seed 1]

One random bit is flipped in each of 200 copies of an input of each kind and of a shard; other copies are cut off at a random
place, or zero from there on. A damaged input goes through `distjet prepare`, a damaged shard through `Manifest` and `JetStream`
with all columns, as they are used. There are four ends:

    refused     an error, or a file in quarantine, which fails the run at the default tolerance
    suspected   (inputs) a jet in quarantine, because of a number that cannot be; it fails the run as well
    harmless    accepted, and every number is that of the undamaged file: the bit was in bytes that nobody reads
    undetected  accepted, and some number differs

The number of the run that distjet makes up from a file's own identifier where there are no run numbers is not compared: it is
another for each of these copies.

Kinds of input: a TTree of C arrays compressed with zstd and with lz4 (which stores what it cannot compress, such as momenta, as
it is and without a checksum); a TTree of `std::vector` and an RNTuple with zstd, written by ROOT; an RNTuple with zstd written
by uproot, whose pages have no checksums (`bare`). `with_ranges` adds the recipe's ranges for what the columns can be,
`with_catalogue` the checksum (adler32) of a catalogue.
"""

import argparse
import json
import logging
import shutil
import sys
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks import jets
from distjet.dataset.manifest import Manifest
from distjet.dataset.prepare import prepare
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.dataset.schema import SPLITS
from distjet.dataset.streaming.stream import JetStream, StreamConfig
from distjet.errors import UserError
from distjet.execution import in_process

WRITTEN_BY_ROOT = Path(__file__).parents[1] / "tests/data"

RANGES = {
    **{f"part_{name}": [0, 1] for name in jets.PARTICLE_KINDS},
    **{f"part_{name}": [0, 10] for name in ("d0err", "dzerr")},
    **{f"part_{name}": [-1000, 1000] for name in ("d0val", "dzval")},
    **{f"part_{name}": [-2, 2] for name in ("deta", "dphi")},
    **{f"tau{number}": [0, 1] for number in range(1, 5)},
    "part_charge": [-1, 1],
    "energy": [0, 20_000],
    "jet_pt": [0, 20_000],
    "jet_eta": [-5, 5],
    "jet_phi": [-3.2, 3.2],
    "jet_sdmass": [0, 20_000],
}
"What the columns of the benchmark's recipe can be."

Content = bytearray
Damage = Callable[[Content, np.random.Generator], None]


def flip(content: Content, rng: np.random.Generator) -> None:
    """Flip one bit."""
    content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))


def truncate(content: Content, rng: np.random.Generator) -> None:
    """Cut off the end."""
    del content[int(rng.integers(len(content))) :]


def zero_tail(content: Content, rng: np.random.Generator) -> None:
    """Zero the end, as a file system may leave it after a crash."""
    start = int(rng.integers(len(content)))
    content[start:] = bytes(len(content) - start)


def main() -> None:
    """Damage, read and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=200)
    parser.add_argument("--cuts", type=int, default=40)
    parser.add_argument("--jets", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)  # what is wrong with which copy
    with tempfile.TemporaryDirectory() as folder:
        details = measure(Path(folder), arguments)
    cuts = [result for name, result in details.items() if name.endswith((".truncate", ".zero_tail"))]
    print(
        json.dumps(
            {
                "shard_flips_undetected": details["shard.flip"]["undetected"],
                "rntuple_flips_undetected": details["rntuple_zstd.flip"]["undetected"],
                "truncations_undetected": sum(result["undetected"] for result in cuts),
                "ttree_flips_undetected": details["ttree_zstd.flip"]["undetected"],
                "ttree_flips_undetected_with_ranges": details["ttree_zstd.flip.with_ranges"]["undetected"],
                "ttree_vector_flips_undetected": details["ttree_vector_zstd.flip"]["undetected"],
                "ttree_lz4_flips_undetected": details["ttree_lz4.flip"]["undetected"],
                "rntuple_without_checksums_flips_undetected": details["rntuple_bare_zstd.flip"]["undetected"],
                "flips_undetected_with_catalogue": sum(
                    result["undetected"] + result["harmless"] for name, result in details.items() if "catalogue" in name
                ),
                "details": details,
            }
        )
    )


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Try every kind of damage on every kind of file; returns `what.damage` -> the number of each end."""
    inputs = {
        "ttree_zstd": jets.write_files(folder / "in", arguments.jets, "ttree", "zstd")[0],
        "ttree_lz4": jets.write_files(folder / "in", arguments.jets, "ttree", "lz4")[0],
        "ttree_vector_zstd": WRITTEN_BY_ROOT / "jets_ttree_zstd.root",
        "rntuple_zstd": WRITTEN_BY_ROOT / "jets_rntuple_zstd.root",
        "rntuple_bare_zstd": jets.write_files(folder / "in", arguments.jets, "rntuple", "zstd")[0],
    }
    results: dict[str, dict[str, Any]] = {}

    def note(name: str, ends: Iterator[str], number: int) -> None:
        found = Counter(end for end, _ in zip(ends, range(number), strict=False))
        results[name] = {end: found[end] for end in ("refused", "suspected", "harmless", "undetected")}
        print(f"{name}: {results[name]}", file=sys.stderr)

    numbers = {flip: arguments.flips, truncate: arguments.cuts, zero_tail: arguments.cuts}
    for damage, number in numbers.items():
        note(f"shard.{damage.__name__}", shard_ends(folder / "shard", inputs["ttree_zstd"], damage, arguments.seed), number)
        for kind, path in inputs.items():
            note(f"{kind}.{damage.__name__}", input_ends(folder, path, damage, arguments.seed), number)
    for kind, path in inputs.items():
        ends = input_ends(folder, path, flip, arguments.seed, with_catalogue=True)
        note(f"{kind}.flip.with_catalogue", ends, arguments.flips)
    ends = input_ends(folder, inputs["ttree_zstd"], flip, arguments.seed, ranges=RANGES)
    note("ttree_zstd.flip.with_ranges", ends, arguments.flips)
    return results


def input_ends(
    folder: Path, path: Path, damage: Damage, seed: int, *, ranges: dict[str, Any] | None = None, with_catalogue: bool = False
) -> Iterator[str]:
    """Damage one copy of an input after another and prepare it; yields how each ends."""
    whole = path.read_bytes()
    clean = prepared_rows(path, folder / "clean", ranges, {})
    rng = np.random.default_rng(seed)
    for number in range(sys.maxsize):
        content = bytearray(whole)
        damage(content, rng)
        copy = folder / f"damaged/{number}.root"  # another name each time, as for another file
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(content)
        checksums = {str(copy): f"adler32:{zlib.adler32(whole):08x}"} if with_catalogue else {}
        try:
            yield "harmless" if prepared_rows(copy, folder / "out", ranges, checksums).equals(clean) else "undetected"
        except UserError as error:
            yield "suspected" if "jets were quarantined" in str(error) else "refused"
        finally:
            copy.unlink()


def prepared_rows(path: Path, output: Path, ranges: dict[str, Any] | None, checksums: dict[str, str]) -> pa.Table:
    """Prepare a file and read all rows back, in the order of the file and without the made-up number of the run."""
    shutil.rmtree(output, ignore_errors=True)
    config = jets.config({"jets": str(path)}, output, checksums=checksums)
    if ranges:
        recipe = config.recipe.model_dump(mode="json") | {"ranges": ranges}
        config = PrepareConfig.model_validate(config.model_dump() | {"recipe": recipe})
    prepare(config, in_process)
    manifest = Manifest.load(output)
    shards = [shard for split in SPLITS for shard in manifest.shards(split)]
    table = pa.concat_tables([pq.read_table(output / shard.path) for shard in shards])
    return table.drop_columns("run").sort_by("event").combine_chunks()


def shard_ends(folder: Path, path: Path, damage: Damage, seed: int) -> Iterator[str]:
    """Damage one copy of a shard after another and stream it; yields how each ends."""
    shutil.rmtree(folder, ignore_errors=True)
    prepare(jets.config({"jets": str(path)}, folder, split={"train": 1.0, "val": 0.0}), in_process)
    shard = folder / Manifest.load(folder).shards("train")[0].path
    whole, clean = shard.read_bytes(), streamed(folder)
    rng = np.random.default_rng(seed)
    while True:
        content = bytearray(whole)
        damage(content, rng)
        shard.write_bytes(content)
        try:
            found = streamed(folder)
            same = all(torch.equal(mine, expected) for mine, expected in zip(found, clean, strict=True))
            yield "harmless" if same else "undetected"
        except UserError:
            yield "refused"


def streamed(folder: Path) -> list[torch.Tensor]:
    """Return all tensors of an epoch, with every column of the dataset."""
    manifest = Manifest.load(folder)
    roles = ("identifier", "spectator")
    columns = tuple(name for role in roles for name in manifest.names(role) if manifest.column(name).dtype != "string")
    tensors: list[torch.Tensor] = []
    for batch in JetStream(manifest, "train", StreamConfig(batch_size=256, row_columns=columns)):
        batch.map(lambda tensor: tensors.append(tensor) or tensor)
    return tensors


if __name__ == "__main__":
    main()
