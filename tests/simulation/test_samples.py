import dataclasses
import itertools
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distjet.config import load, validate
from distjet.errors import ConfigError
from distjet.simulation.generator import PROCESSES, SHOWERS
from distjet.simulation.samples import (
    RADII,
    Kind,
    SampleConfig,
    SimulateConfig,
    cross_section_tasks,
    file_tasks,
    library_task,
    tree_name,
)

from .conftest import small_config

CONF = Path(__file__).parents[2] / "conf" / "simulation"


@pytest.mark.parametrize("name", ["dijet", "tiny", "vincia", "ttbar", "boosted", "boosted_tagging", "flat_mass"])
def test_slices_of_shipped_configurations_leave_no_gap(name):
    config = load(SimulateConfig, [CONF / f"{name}.yaml"])
    kinds = itertools.groupby(config.samples.values(), lambda sample: (sample.process, sample.decay))
    for _, samples in kinds:
        edges = [(sample.pthat_min_gev, sample.pthat_max_gev) for sample in samples]
        assert all(high == low for (_, high), (low, _) in itertools.pairwise(edges)), "slices leave a gap"


@pytest.mark.parametrize("name", ["hl_lhc", "events"])
def test_changes_of_a_configuration(name):
    base, changed = (load(SimulateConfig, [CONF / "dijet.yaml", *more]) for more in ([], [CONF / f"{name}.yaml"]))
    assert base.samples == changed.samples
    assert changed.pileup.mu == ((200, 200) if name == "hl_lhc" else base.pileup.mu)
    assert (changed.jets.min_pt_gev == 0) == (name == "events")


def test_trees_are_named_by_radius_and_constituents():
    names = [tree_name(radius, kind) for radius in RADII for kind in get_args(Kind)]
    kinds = ("EMTopo", "EMPFlow", "EFlow", "Truth")
    assert names == [f"AntiKt{radius}{kind}Jets" for radius in (2, 4, 8, 10) for kind in kinds]


@pytest.mark.parametrize(
    ("name", "task", "library"),
    [
        ("tiny", "5b61647af0cc4e16", "library_bbf83a6958f025c8.npz"),
        ("dijet", "528071f2b30824b3", "library_bf9a4c18c77a9e02.npz"),
        ("boosted", "dc3acd54fee5e359", "library_f7aedd0f166102da.npz"),
        ("vincia", "dd848594e4834c10", "library_051dbb1e3760d375.npz"),
    ],
)
def test_files_of_earlier_versions_are_still_those_of_their_configuration(name, task, library):
    """Keys that have been added do not make files anew that exist; a new FORMAT_VERSION does, and then these numbers change."""
    config = load(SimulateConfig, [CONF / f"{name}.yaml"], ["output=out"])
    assert file_tasks(config, dict.fromkeys(config.samples, 1.0))[0].identity() == task
    assert Path(library_task(config).path).name == library


def test_added_keys_count_where_they_are_set():
    sample = {"process": "h_jet", "pthat_min_gev": 20, "num_events": 1}
    changes = [{}, {"decay": "bb"}, {"decay": "cc"}]
    configs = [small_config(Path("a"), samples={"a": sample | change}) for change in changes]
    configs.append(small_config(Path("a"), samples={"a": sample}, jets={"label_distance_in_r": 0.75}))
    assert len({file_tasks(config, {"a": 1.0})[0].identity() for config in configs}) == 4
    for config in configs:
        assert SimulateConfig.model_validate(config.model_dump()) == config


def test_every_process_and_shower_can_be_generated():
    fields = SampleConfig.model_fields
    assert set(get_args(fields["process"].annotation)) == set(PROCESSES) - {"inelastic", "non_diffractive"}
    assert set(get_args(fields["shower"].annotation)) == set(SHOWERS)


def test_configuration_needs_no_heavy_library():
    heavy = ["numba", "awkward", "uproot", "fastjet", "pythia8mc", "torch", "ray", "dask"]
    code = f"import sys, distjet.simulation.samples; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@given(num_events=st.integers(1, 50), events_per_task=st.integers(1, 20))
def test_files_partition_the_events(num_events, events_per_task):
    samples = {"a": {"pthat_min_gev": 20, "num_events": num_events}}
    config = small_config(Path("out"), samples=samples, events_per_task=events_per_task)
    tasks = file_tasks(config, {"a": 7.0})
    numbers = [task.first_event + n for task in tasks for n in range(task.num_events)]
    assert numbers == list(range(num_events))
    assert sum(task.weight_pb * task.num_events for task in tasks) == pytest.approx(7.0)
    assert len({task.path for task in tasks}) == len({task.identity() for task in tasks}) == len(tasks)


def test_identity_depends_on_the_physics_and_not_on_the_place():
    here, there = small_config(Path("here")), small_config(Path("there"))
    assert here.identity() == there.identity()
    sections = {"dijet_JZ1": 1.0, "dijet_JZ2": 1.0}
    assert [t.identity() for t in file_tasks(here, sections)] == [t.identity() for t in file_tasks(there, sections)]
    other = small_config(Path("here"), detector={"e_over_h": 1.0})
    assert file_tasks(other, sections)[0].identity() != file_tasks(here, sections)[0].identity()
    assert library_task(other).path != library_task(here).path


def test_jet_settings_do_not_touch_the_pileup_library():
    assert library_task(small_config(Path("a"), jets={"radii": [1.0]})) is not None
    changed, default = (library_task(small_config(Path("a"), **extra)).path for extra in ({"jets": {"radii": [1.0]}}, {}))
    assert changed == default


def test_no_library_without_pileup():
    config = small_config(Path("a"), pileup={"mu": [0, 0]})
    assert library_task(config) is None
    assert file_tasks(config, {"dijet_JZ1": 1.0, "dijet_JZ2": 1.0})[0].library == ""


def test_tasks_are_plain_values():
    config = small_config(Path("a"))
    tasks = [library_task(config), *cross_section_tasks(config), *file_tasks(config, {"dijet_JZ1": 1.0, "dijet_JZ2": 1.0})]
    for task in tasks:
        assert pickle.loads(pickle.dumps(task)) == task
        assert json.loads(json.dumps(dataclasses.asdict(task))) == dataclasses.asdict(task)


def changed_sample(**changes):
    return {"samples": {"a": {"pthat_min_gev": 20, "num_events": 1} | changes}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": {}}, "samples"),
        ({"samples": {"a/b": {"pthat_min_gev": 20, "num_events": 1}}}, "a/b"),
        ({"samples": {"a": {"pthat_min_gev": 20, "pthat_max_gev": 10, "num_events": 1}}}, "must exceed pthat_min_gev=20"),
        ({"pileup": {"mu": [20, 10]}}, "low <= high"),
        ({"jets": {"radii": [0.7]}}, "one or more of"),
        ({"jets": {"radii": [0.4, 0.4]}}, "each once"),
        ({"jets": {"constituents": ["topo", "topo"]}}, "each once"),
        ({"jets": {"constituents": []}}, "of topo, pflow, eflow and truth, each once"),
        ({"jets": {"constituents": ["topo", "eflow"]}}, "eflow is a detector of its own"),
        ({"jets": {"constituents": ["eflow"]}}, r"eflow are made without pileup: set pileup\.mu: \[0, 0\]"),
        (changed_sample(hadronisation=False), r"samples\.a without hadronisation needs jets\.constituents: \[truth\]"),
        (changed_sample(decay="bb"), "decay is for z_jet, h_jet, resonance_gun"),
        (changed_sample(mass_gev=[15, 250]), "resonance_gun, and nothing else"),
        (changed_sample(process="resonance_gun", decay="bb", mass_gev=[15, 250]), "needs a decay and a pthat_max_gev"),
        (changed_sample(process="resonance_gun", mass_gev=[15, 250], pthat_max_gev=90), "needs a decay and a pthat_max_gev"),
        (
            changed_sample(process="resonance_gun", decay="bb", mass_gev=[15, 10], pthat_max_gev=90),
            r"mass_gev must be \[low, high\]",
        ),
        ({"jets": {"min_pt": 3}}, "did you mean 'min_pt_gev'"),
    ],
)
def test_mistakes_are_explained(changes, message):
    good = {"output": "a", "samples": {"a": {"pthat_min_gev": 20, "num_events": 1}}}
    with pytest.raises(ConfigError, match=message):
        validate(SimulateConfig, good | changes)
