import pytest

from distjet.execution import in_process
from distjet.simulation.pileup import simulate_library
from distjet.simulation.samples import PileupConfig, SharedSettings, SimulateConfig
from distjet.simulation.simulate import simulate


def small_config(output, **changes):
    """Two slices of two files and one file, in seconds."""
    settings = {
        "output": output,
        "events_per_task": 4,
        "samples": {
            "dijet_JZ1": {"pthat_min_gev": 20, "pthat_max_gev": 60, "num_events": 7},
            "dijet_JZ2": {"pthat_min_gev": 60, "num_events": 4},
        },
        "generator": {"cross_section_trials": 500, "extra_settings": ["PartonLevel:MPI = off"]},  # starts faster
        "pileup": {"mu": (5, 20), "library_events": 20, "process": "non_diffractive"},
    }
    return SimulateConfig.model_validate(settings | changes)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """Configuration and summary of a finished run."""
    config = small_config(tmp_path_factory.mktemp("ntuples"))
    return config, simulate(config, in_process)


@pytest.fixture(scope="session")
def library():
    return simulate_library(SharedSettings(pileup=PileupConfig(library_events=100, process="non_diffractive")))
