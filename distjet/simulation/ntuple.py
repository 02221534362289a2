"""How does a jet ntuple look on disk?

One TTree per jet radius, one entry per reconstructed jet, GeV and radians; the clusters of a jet are vectors that share the
counter `nclus`. A file's bytes depend on its content alone: uproot would write a random UUID and the time of day, so the UUID
is derived from the task's hash and the dates are fixed while a file is written.
"""

import io
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distjet.run_directory import write_atomically
from distjet.simulation.reconstruction import Columns, JetTable
from distjet.simulation.samples import TREES
from distjet.simulation.topoclusters import CLUSTER_FIELDS

SCALAR_BRANCHES = {
    "runNumber": "i4",
    "eventNumber": "i8",
    "jet_index": "i4",
    "mcChannelNumber": "i4",
    "mcEventWeight": "f8",
    "averageInteractionsPerCrossing": "f4",
    "nPUtrue": "i4",
    "NPV": "i4",
    "rho": "f4",
    "pthat": "f4",
    "leading_truth_pt": "f4",
    "leading_jets_pt": "f4",
    "jet_pt": "f4",
    "jet_eta": "f4",
    "jet_phi": "f4",
    "jet_m": "f4",
    "jet_E": "f4",
    "jet_area": "f4",
    "jet_DetectorEta": "f4",
    "jet_NumTrkPt1000": "i4",
    "jet_TrackWidthPt1000": "f4",
    "jet_fCharged": "f4",
    "jet_EnergyPerSampling0": "f4",
    "jet_EnergyPerSampling1": "f4",
    "jet_EnergyPerSampling2": "f4",
    "jet_GhostMuonSegmentCount": "i4",
    "jet_isTruthMatched": "?",
    "jet_isIsolated": "?",
    "truthjet_pt": "f4",
    "truthjet_eta": "f4",
    "truthjet_phi": "f4",
    "truthjet_m": "f4",
    "truthjet_E": "f4",
    "truthjet_dR": "f4",
    "truthjet_isIsolated": "?",
    "truthjet_flavour": "i4",
}
"Branches with one number per jet, and their numpy types."

COMPRESSION_LEVEL = 5
ROOT_DATE_CODE = (2024 - 1995) << 26 | 1 << 22 | 1 << 17
"1 January 2024, 00:00, as ROOT packs dates."

_writing = threading.Lock()


def concatenate(tables: Sequence[JetTable]) -> JetTable:
    """Put the jets of several batches after one another."""
    columns = {name: np.concatenate([table.columns[name] for table in tables]) for name in tables[0].columns}
    lengths = np.concatenate([np.diff(table.cluster_offsets) for table in tables])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return JetTable(columns, np.concatenate([table.clusters for table in tables]), offsets)


def write_ntuple(path: Path, tables: dict[float, JetTable], identity: str) -> None:
    """Write jets as ROOT trees; the file appears under its name when it is complete.

    Args:
        path: The file.
        tables: Jets by radius, with all SCALAR_BRANCHES.
        identity: What the content is derived from; it becomes the file's UUID.
    """
    import uproot

    file_uuid = uuid.uuid5(uuid.NAMESPACE_URL, f"distjet:{identity}")
    buffer = io.BytesIO()
    options = {"compression": uproot.ZSTD(COMPRESSION_LEVEL), "uuid_function": lambda: file_uuid}
    with fixed_dates(), uproot.recreate(buffer, **options) as file:
        for radius, table in tables.items():
            _write_tree(file, TREES[radius], table)
        data = buffer.getvalue()
    write_atomically(path, data)


@contextmanager
def fixed_dates() -> Iterator[None]:
    """Let uproot write one constant date, in this process and for this time; files written meanwhile get it too."""
    import uproot

    with _writing:
        original = uproot._util.datetime_to_code
        uproot._util.datetime_to_code = lambda _: ROOT_DATE_CODE
        try:
            yield
        finally:
            uproot._util.datetime_to_code = original


def _write_tree(file: Any, name: str, table: JetTable) -> None:
    branches = _typed(table.columns)
    clusters = _ragged(table)
    types: dict[str, Any] = {key: values.dtype for key, values in branches.items()}
    file.mktree(name, {**types, "clus": clusters.type.content})
    file[name].extend({**branches, "clus": clusters})


def _typed(columns: Columns) -> dict[str, NDArray[np.generic]]:
    return {name: columns[name].astype(kind) for name, kind in SCALAR_BRANCHES.items()}


def _ragged(table: JetTable) -> Any:
    """View the clusters as a ragged record array, float32."""
    import awkward as ak

    contents = [ak.contents.NumpyArray(np.ascontiguousarray(column)) for column in table.clusters.T]
    records = ak.contents.RecordArray(contents, list(CLUSTER_FIELDS))
    return ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(table.cluster_offsets), records))
