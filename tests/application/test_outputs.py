"""Where an entry is an event, a friend tree has lists of jets, and the constituents of all of them in one list."""

from pathlib import Path

import numpy as np
import uproot

from distjet.application.outputs import CalibratedRange, open_output

SETTINGS = {"format": "root", "name": "gnn"}


def make_range(jets_per_entry: list[int], num_constituents: list[int], first: int) -> CalibratedRange:
    num_jets, num_nodes = len(num_constituents), sum(num_constituents)
    return CalibratedRange(
        identity={"run": np.ones(num_jets, int), "event": np.arange(num_jets), "jet_index": np.arange(num_jets)},
        sample="data",
        jets_per_entry=np.array(jets_per_entry, int),
        reason=np.array([""] * num_jets, dtype=object),
        columns={
            "gnn_energy": first + np.arange(num_jets, dtype=np.float32),
            "gnn_quantiles": np.arange(2 * num_jets, dtype=np.float32).reshape(-1, 2),
        },
        num_constituents=np.array(num_constituents, int),
        constituents={"factor": np.arange(num_nodes, dtype=np.float32)},
    )


def test_lists_of_jets_keep_the_entries_and_find_their_constituents(tmp_path: Path) -> None:
    with open_output(tmp_path / "f.root", SETTINGS, {"layout": "event"}) as output:
        output.write(make_range([2, 0, 1], [3, 1, 2], first=0))
        output.write(make_range([0, 1], [2], first=10))
    with uproot.open(tmp_path / "f.root") as file:
        arrays = file["gnn"].arrays()
    assert arrays["jet_energy"].tolist() == [[0, 1], [], [2], [], [10]]
    assert arrays["jet_num_constituents"].tolist() == [[3, 1], [], [2], [], [2]]
    assert arrays["constituent_factor"].tolist() == [[0, 1, 2, 3], [], [4, 5], [], [0, 1]]
    assert arrays["jet_quantiles_1"].tolist() == [[1, 3], [], [5], [], [1]]


def test_a_file_without_an_entry_is_a_file_with_all_branches(tmp_path: Path) -> None:
    for layout in ("event", "jet"):
        with open_output(tmp_path / f"{layout}.root", SETTINGS, {"layout": layout}) as output:
            output.write(make_range([], [], first=0))
        with uproot.open(tmp_path / f"{layout}.root") as file:
            assert file["gnn"].num_entries == 0
            assert "constituent_factor" in set(file["gnn"].keys())
