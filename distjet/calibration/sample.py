"""Which jets is a chain fitted to, and tested on?

The columns of a split that the steps name, as arrays: about 25 numbers a jet, so ten million jets need 2 GB. The rows of a
dataset are mixed, so the first ones of a split are a fair sample of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distjet.calibration.binning import Rows
from distjet.calibration.jets import JET_COLUMNS, Array
from distjet.calibration.settings import ChainConfig, SelectionConfig
from distjet.config import unknown
from distjet.dataset.manifest import Manifest
from distjet.errors import DataError
from distjet.physics.kinematics import delta_r
from distjet.storage import for_arrow, reaching

TRUE_COLUMNS = ("true_pt", "true_eta", "true_phi", "true_energy")


@dataclass(frozen=True)
class Sample:
    """Jets of one split with everything that the chain and its closure need.

    Attributes:
        columns: By name, shape (J,) each.
        num_read: Jets that were read.
        num_not_isolated: Jets that were left out because they are not isolated.
        num_unmatched: Jets that were left out because they are too far from their true jet.
        num_too_soft: Jets that were left out because of their true pT.
    """

    columns: dict[str, Array]
    num_read: int
    num_not_isolated: int
    num_unmatched: int
    num_too_soft: int

    def __getitem__(self, name: str) -> Array:
        """Return a column."""
        return self.columns[name]

    @property
    def num_jets(self) -> int:
        """Jets that are left."""
        return len(self.columns["true_pt"])

    @property
    def accounting(self) -> dict[str, int]:
        """Where the jets went that were read."""
        names = ("num_read", "num_not_isolated", "num_unmatched", "num_too_soft", "num_jets")
        return {name: getattr(self, name) for name in names}


def read_sample(manifest: Manifest, split: str, config: ChainConfig) -> Sample:
    """Read and select the jets of a split.

    Raises:
        DataError: If the dataset lacks a column or a truth, or no jet is left.
    """
    names = check_columns(manifest, config)
    columns = read_columns(manifest, split, names, config.selection.max_jets)
    sample = select(columns, config.selection)
    if sample.num_jets == 0:
        raise DataError(f"{manifest.path}: no jet of the split {split} is left by the selection ({sample.accounting})")
    return sample


def check_columns(manifest: Manifest, config: ChainConfig) -> tuple[str, ...]:
    """Return the names of all columns that are needed.

    Raises:
        DataError: If the dataset has not all of them; the message names each with the step that needs it.
    """
    known = [column.name for column in manifest.columns if not column.is_list]
    needed = [("selection", name) for name in (*JET_COLUMNS, *TRUE_COLUMNS)]
    needed += [(f"chain.{step}", name) for step, name in config.chain.columns()]
    if config.selection.isolated is not None:
        needed.append(("selection.isolated", config.selection.isolated))
    missing = dict.fromkeys(f"{step}: {unknown('column', name, known)}" for step, name in needed if name not in known)
    if missing:
        raise DataError(
            f"{manifest.path} lacks columns of the chain:\n" + "\n".join(missing) + "\nAdd them to `graph` or `spectators` of "
            "the recipe, name other columns in the configuration, or leave the step out (chain.STEP=null)."
        )
    return tuple(dict.fromkeys(name for _, name in needed))


def read_columns(manifest: Manifest, split: str, names: Sequence[str], max_rows: int) -> dict[str, Array]:
    """Read columns of the first rows of a split, as float64 of shape (J,)."""
    tables: list[pa.Table] = []
    with reaching(manifest.path):
        for shard in manifest.shards(split):
            if (left := max_rows - sum(table.num_rows for table in tables)) <= 0:
                break
            files, place = for_arrow(manifest.path / shard.path)
            tables.append(pq.read_table(place, filesystem=files, columns=list(names)).slice(0, left))
    if not tables:
        raise DataError(f"{manifest.path}: the split {split} is empty; raise its fraction in `distjet prepare`")
    whole = pa.concat_tables(tables)
    return {name: whole[name].to_numpy().astype(np.float64) for name in names}


def select(columns: dict[str, Array], config: SelectionConfig) -> Sample:
    """Keep isolated jets near their true jet and above the least true pT; count what each cut removes, in this order."""
    keep: Rows = np.arange(len(columns["true_pt"]))
    lost = []
    distance = delta_r(columns["jet_eta"], columns["jet_phi"], columns["true_eta"], columns["true_phi"])
    isolated = np.ones(len(keep)) if config.isolated is None else columns[config.isolated]
    for passes in (isolated > 0.5, distance < config.max_delta_r, columns["true_pt"] >= config.pt_true_min_gev):
        before, keep = len(keep), keep[passes[keep]]
        lost.append(before - len(keep))
    return Sample({name: values[keep] for name, values in columns.items()}, len(columns["true_pt"]), *lost)
