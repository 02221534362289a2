"""How fast is the simulation, and where does its time go?

Simulates dijets of pT-hat 60 to 160 GeV with the production code, in one process, and prints one JSON object: matched jets and
events per second of CPU time, and the CPU milliseconds per event of each stage. The stages are timed in the same run by
wrapping the functions that the production code calls, so their sum and the total belong together. Compiling and the pileup
library are not in the rates; the library's time is given apart.

    python -m benchmarks.simulate --mu 40 --events 500
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from distjet.simulation import detector, generator, pileup, readout, reconstruction, simulate, topoclusters
from distjet.simulation.samples import FileTask, SimulateConfig, file_tasks, library_task

STAGES: dict[str, tuple[tuple[Any, str], ...]] = {
    "start_pythia": ((simulate, "start_pythia"),),
    "generate": ((generator, "collisions"),),
    "deposit": ((detector, "deposit"),),
    "pileup_overlay": ((pileup, "draw_overlay"), (pileup, "add_deposits")),
    "noise": ((detector, "noise_terms"), (detector, "add_noise")),
    "topoclusters": ((topoclusters, "find_clusters"),),
    "tracks": ((readout, "reconstruct_tracks"), (readout.Detector, "_tracks")),
    "particle_flow": ((readout, "particle_flow"),),
    "jet_clustering": ((reconstruction.clustering, "cluster"),),
    "areas": ((reconstruction, "voronoi_areas"),),
    "jet_columns": ((reconstruction, "_jet_columns"), (reconstruction, "_truth_columns")),
    "write": ((simulate, "write_ntuple"),),
}
"What is timed: functions, by the module through which they are called."


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mu", type=float, default=40.0, help="collisions per crossing")
    parser.add_argument("--events", type=int, default=300)
    parser.add_argument("--radii", type=float, nargs="+", default=[0.4])
    parser.add_argument("--constituents", choices=["topo", "pflow"], nargs="+", default=["topo"])
    arguments = parser.parse_args()
    jets = {"radii": arguments.radii, "constituents": arguments.constituents}
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), arguments.mu, arguments.events, jets), indent=1))


def measure(folder: Path, mu: float, num_events: int, jets: dict[str, Any]) -> dict[str, Any]:
    """Simulate one file and return rates and stage times."""
    config = SimulateConfig(
        output=folder,
        events_per_task=num_events,
        samples={"dijet": {"pthat_min_gev": 60, "pthat_max_gev": 160, "num_events": num_events}},
        pileup={"mu": (mu, mu), "library_events": 1000},
        jets=jets,
    )
    start = time.process_time()
    if (library := library_task(config)) is not None:
        pileup.make_library(library)
    library_s = time.process_time() - start
    (task,) = file_tasks(config, {"dijet": 1.0})
    warm_up(task)
    spent = watch_stages()
    start = time.process_time()
    record = simulate.simulate_file(task)
    total_s = time.process_time() - start
    return {**rates(task, record, total_s), **stage_times(spent, total_s, num_events), "library_cpu_s": round(library_s, 2)}


def warm_up(task: FileTask) -> None:
    """Simulate a few events, so that compiling is not measured."""
    simulate.simulate_file(FileTask(**{**vars(task), "path": task.path + ".warm", "num_events": 3}))


def watch_stages() -> dict[str, float]:
    """Wrap the functions of all stages; return the dictionary in which their CPU seconds add up."""
    spent = dict.fromkeys(STAGES, 0.0)
    for stage, places in STAGES.items():
        for owner, name in places:
            setattr(owner, name, _timed(getattr(owner, name), stage, spent))
    return spent


def _timed(function: Callable[..., Any], stage: str, spent: dict[str, float]) -> Callable[..., Any]:
    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            spent[stage] += time.process_time() - start

    return timed


def rates(task: FileTask, record: dict[str, Any], total_s: float) -> dict[str, float]:
    """Count matched jets in the written file."""
    import uproot

    result = {"events_per_s": round(task.num_events / total_s, 1)}
    with uproot.open(task.path) as file:
        for tree in record["num_jets"]:
            matched = int(file[tree]["jet_isTruthMatched"].array(library="np").sum())
            radius, kind = tree.removeprefix("AntiKt").removesuffix("Jets").split("EM")
            name = f"matched_r{radius.zfill(2)}" + ("" if kind == "Topo" else "_pflow")
            result[f"{name}_jets_per_s"] = round(matched / total_s, 1)
    return result


def stage_times(spent: dict[str, float], total_s: float, num_events: int) -> dict[str, Any]:
    """Convert to milliseconds per event."""
    milliseconds = {stage: round(1000 * seconds / num_events, 3) for stage, seconds in spent.items()}
    milliseconds["rest"] = round(1000 * (total_s - sum(spent.values())) / num_events, 3)
    return {"cpu_ms_per_event": {**milliseconds, "total": round(1000 * total_s / num_events, 3)}}


if __name__ == "__main__":
    main()
