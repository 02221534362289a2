"""How does a jet ntuple look on disk?

One TTree per jet radius and kind of constituents, one entry per reconstructed jet, GeV and radians; the constituents of a jet
are vectors that share a counter: `clus_*` and `nclus` of topological clusters, `part_*` and `npart` of all other kinds.
A file's bytes depend on its content alone: uproot would write a random UUID and the time of day, so the UUID is derived from
the task's hash and the dates are fixed while a file is written.
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
from distjet.simulation import constituents
from distjet.simulation.constituents import INDEX, Constituents
from distjet.simulation.reconstruction import Columns, JetTable

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

OPTIONAL_BRANCHES = {"truthjet_label": "i4"}
"Branches with one number per jet that not every tree has."

WHOLE_NUMBERS = (INDEX, "charge", "pdg")
"Fields of constituents that are stored as int32."

COMPRESSION_LEVEL = 5
ROOT_DATE_CODE = (2024 - 1995) << 26 | 1 << 22 | 1 << 17
"1 January 2024, 00:00, as ROOT packs dates."

_writing = threading.Lock()


def concatenate(tables: Sequence[JetTable]) -> JetTable:
    """Put the jets of several batches after one another."""
    columns = {name: np.concatenate([table.columns[name] for table in tables]) for name in tables[0].columns}
    return JetTable(columns, constituents.join([table.constituents for table in tables]))


def write_ntuple(path: Path, tables: dict[str, JetTable], identity: str) -> None:
    """Write jets as ROOT trees; the file appears under its name when it is complete.

    Args:
        path: The file.
        tables: Jets by the name of the tree, with all SCALAR_BRANCHES, and some of the OPTIONAL_BRANCHES.
        identity: What the content is derived from; it becomes the file's UUID.
    """
    import uproot

    file_uuid = uuid.uuid5(uuid.NAMESPACE_URL, f"distjet:{identity}")
    buffer = io.BytesIO()
    options = {"compression": uproot.ZSTD(COMPRESSION_LEVEL), "uuid_function": lambda: file_uuid}
    with fixed_dates(), uproot.recreate(buffer, **options) as file:
        for name, table in tables.items():
            _write_tree(file, name, table)
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
    records = _ragged(table.constituents)
    types: dict[str, Any] = {key: values.dtype for key, values in branches.items()}
    prefix = table.constituents.prefix
    file.mktree(name, {**types, prefix: records.type.content})
    file[name].extend({**branches, prefix: records})


def _typed(columns: Columns) -> dict[str, NDArray[np.generic]]:
    optional = {name: kind for name, kind in OPTIONAL_BRANCHES.items() if name in columns}
    return {name: columns[name].astype(kind) for name, kind in (SCALAR_BRANCHES | optional).items()}


def _ragged(jets: Constituents) -> Any:
    """View the constituents of jets as a ragged record array."""
    import awkward as ak

    columns = zip(jets.fields, jets.values.T, strict=True)
    typed = [column.astype(np.int32 if field in WHOLE_NUMBERS else np.float32) for field, column in columns]
    contents = [ak.contents.NumpyArray(np.ascontiguousarray(column)) for column in typed]
    records = ak.contents.RecordArray(contents, list(jets.fields))
    return ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(jets.offsets), records))
