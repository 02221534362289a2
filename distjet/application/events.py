"""What are jets of any radius worth that are found from calibrated constituents?

The network calibrates the constituents of small jets; if these hold every constituent of an event once, calibrated events
follow, and in these any jets can be found. Here anti-kT jets of some radius are, with FastJet, and they are compared with the
jets of a dataset of that radius, made from the same events: the truth, the weights and the identities are those of the
dataset, and so are the uncalibrated jets, which stand in the table as `raw`. So the table can be laid beside that of any other
method for the same jets.

Matching is that of the simulation: one to one, truth jets in the order of falling pT, closer than 0.75 R and than 0.3. Where no
calibrated jet is that near, the nearest of the event is taken, and counted: to leave the jet out would flatter the method.

Reference:
    P.-A. Delsart and V. Peixoto, constituent calibration with graph networks (IN2P3 indico 27507).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distjet.dataset.manifest import Manifest
from distjet.dataset.recipes.recipe import P4_NAMES, TRUE_NAMES
from distjet.errors import DataError
from distjet.physics.clustering import cluster
from distjet.physics.kinematics import Floats, mass, pt, rapidity, to_cartesian, to_cylindrical
from distjet.run_directory import appearing_whole
from distjet.simulation.matching import Axes, Pairs, match_one_to_one, pairs_within
from distjet.storage import as_location

IDENTITY = ("run", "event", "jet_index", "sample")
KINEMATICS = ("energy", "mass", "rapidity", "pt")
FARTHEST = 20.0
"More than any distance of two jets in (eta, phi)."


@dataclass(frozen=True)
class EventTask:
    """Find jets in the events of one file.

    Attributes:
        predictions: Parquet file of `distjet predict`, with constituents.
        sample: Name of the sample.
        name: Of the method.
        radius: Of the jets.
        min_pt_gev: Calibrated jets below are not considered.
        dataset: Folder of the dataset whose jets are looked for.
        splits: Splits of it.
        output: Table to write.
    """

    predictions: str
    sample: str
    name: str
    radius: float
    min_pt_gev: float
    dataset: str
    splits: tuple[str, ...]
    output: str


class Events(NamedTuple):
    """Constituents of events.

    Attributes:
        run: Of each event, ascending with `event`, shape (V,).
        event: Number of each event, shape (V,).
        p4: Calibrated constituents (px, py, pz, energy) in GeV, event after event, shape (N, 4).
        offsets: Constituents of each event, shape (V + 1,).
        num_lost: Constituents without a calibration, which are not among them.
    """

    run: NDArray[np.int64]
    event: NDArray[np.int64]
    p4: Floats
    offsets: NDArray[np.int64]
    num_lost: int


def find_jets(task: EventTask) -> dict[str, Any]:
    """Write the table of the jets of one file.

    Returns:
        The record: `jets` (rows), `far` (of which the calibrated jet is farther than a match may be), `without_jets` (jets of
        the dataset in events without a calibrated jet, which are no rows), `lost_constituents` (without a calibration).
    """
    events = read_events(as_location(task.predictions), task.name)
    manifest = Manifest.load(task.dataset, check_shards=False)
    jets = read_reference(manifest, task.splits, task.sample, events)
    found, is_far = match_jets(events, jets, task.radius, task.min_pt_gev)
    has_jet = np.isfinite(found).all(axis=1)
    jets, found = jets.filter(pa.array(has_jet)), found[has_jet]
    raw = to_cartesian(*(jets[f"jet_{item}"].to_numpy().astype(np.float64) for item in ("pt", "eta", "phi", "mass")))
    true = to_cartesian(*(jets[f"true_{item}"].to_numpy().astype(np.float64) for item in ("pt", "eta", "phi", "mass")))
    columns = {name: jets[name] for name in jets.column_names if not name.startswith("jet_") or name in IDENTITY}
    columns |= {"true_rapidity": rapidity(true)} | kinematics("raw", raw) | kinematics(task.name, found)
    with appearing_whole(as_location(task.output)) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")
    lost = {"without_jets": int((~has_jet).sum()), "lost_constituents": events.num_lost}
    return {"jets": jets.num_rows, "far": int(is_far[has_jet].sum()), **lost}


def kinematics(name: str, p4: Floats) -> dict[str, Floats]:
    """Return the columns of a method from four-momenta, shape (J, 4)."""
    values = (p4[:, 3], mass(p4), rapidity(p4), pt(p4))
    return {f"{name}_{item}": value.astype(np.float32) for item, value in zip(KINEMATICS, values, strict=True)}


def read_events(path: Path, name: str) -> Events:
    """Read the calibrated constituents of a file and gather them by event."""
    lists = [f"{name}_constituent_{item}" for item in P4_NAMES]
    table = pq.read_table(path, columns=["run", "event", *lists]).combine_chunks()
    counts = np.diff(table[lists[0]].combine_chunks().offsets.to_numpy())
    p4 = np.stack([table[column].combine_chunks().flatten().to_numpy().astype(np.float64) for column in lists], axis=1)
    usable = np.isfinite(p4).all(axis=1)
    keys = np.stack([table[column].to_numpy() for column in ("run", "event")], axis=1)
    events, number = np.unique(keys, axis=0, return_inverse=True)
    of_constituent = np.repeat(number.reshape(-1), counts)[usable]
    order = np.argsort(of_constituent, kind="stable")
    offsets = np.concatenate([[0], np.cumsum(np.bincount(of_constituent, minlength=len(events)))])
    return Events(events[:, 0], events[:, 1], p4[usable][order], offsets, int((~usable).sum()))


def read_reference(manifest: Manifest, splits: Sequence[str], sample: str, events: Events) -> pa.Table:
    """Read those jets of a dataset that are in the given events, ordered by event and by falling true pT.

    Raises:
        DataError: If the dataset has no true jets, or no jet of these events.
    """
    if missing := [name for name in TRUE_NAMES if name not in manifest.names("target")]:
        raise DataError(f"{manifest.path} has no column {missing[0]!r}: to compare jets, the recipe must name the true jet")
    roles = ("identifier", "weight", "jet", "graph", "spectator")
    columns = list(dict.fromkeys([*(name for role in roles for name in manifest.names(role)), *TRUE_NAMES]))
    paths = [manifest.path / shard.path for split in splits for shard in manifest.shards(split)]
    table = pa.concat_tables([pq.read_table(path, columns=columns, filters=[("sample", "=", sample)]) for path in paths])
    place = _place_of(events, table["run"].to_numpy(), table["event"].to_numpy())
    table, place = table.filter(pa.array(place >= 0)), place[place >= 0]
    if not table.num_rows:
        raise DataError(f"{manifest.path}: no jet of the sample {sample!r} is in the events that were calibrated")
    order = np.lexsort((-table["true_pt"].to_numpy(), place))
    return table.take(pa.array(order)).combine_chunks()


def _place_of(events: Events, run: NDArray[np.int64], event: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of each (run, event) among the events, -1 where it is not there."""
    places = {key: place for place, key in enumerate(zip(events.run.tolist(), events.event.tolist(), strict=True))}
    return np.array([places.get(key, -1) for key in zip(run.tolist(), event.tolist(), strict=True)], np.int64)


def match_jets(events: Events, jets: pa.Table, radius: float, min_pt_gev: float) -> tuple[Floats, NDArray[np.bool_]]:
    """Find jets in the events, and return the one that belongs to each true jet.

    Args:
        events: Calibrated constituents.
        jets: As of `read_reference`.
        radius: Of the anti-kT jets.
        min_pt_gev: Of calibrated jets.

    Returns:
        (px, py, pz, energy) in GeV, shape (J, 4), NaN in an event without jets; and whether it is farther away than a match
        may be, shape (J,).
    """
    found = cluster(events.p4, events.offsets, radius, min_pt_gev)
    place = _place_of(events, jets["run"].to_numpy(), jets["event"].to_numpy())
    offsets = np.concatenate([[0], np.cumsum(np.bincount(place, minlength=len(events.run)))])
    _, eta, phi, _ = to_cylindrical(found.p4)
    true_eta, true_phi = (jets[name].to_numpy().astype(np.float64) for name in ("true_eta", "true_phi"))
    axes = Axes(eta, phi, found.event_offsets), Axes(true_eta, true_phi, offsets)
    near = match_one_to_one(*axes, radius)
    belongs = _nearest(pairs_within(*axes, FARTHEST), jets.num_rows)
    belongs[near.right] = near.left
    is_far = np.ones(jets.num_rows, bool)
    is_far[near.right] = False
    return np.where((belongs >= 0)[:, None], found.p4[belongs], np.nan), is_far


def _nearest(pairs: Pairs, num_right: int) -> NDArray[np.int64]:
    """Return the left partner that is nearest to each right one, -1 where there is none, shape (num_right,)."""
    result = np.full(num_right, -1)
    farthest_first = np.argsort(-pairs.distance)
    result[pairs.right[farthest_first]] = pairs.left[farthest_first]  # of several assignments, the last one holds
    return result


def join_tables(paths: Iterable[Path], output: Path) -> int:
    """Put tables of equal columns one after the other, and return the number of rows."""
    rows = 0
    with appearing_whole(output) as temporary:
        writer: pq.ParquetWriter | None = None
        for path in paths:
            table = pq.read_table(path)
            writer = writer or pq.ParquetWriter(temporary, table.schema, compression="zstd")
            writer.write_table(table)
            rows += table.num_rows
        if writer is not None:
            writer.close()
    return rows
