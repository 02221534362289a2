"""How many training epochs does a sweep with ASHA and TPE save over random search?

On the quickstart's calibrator and a fraction of its data: random search trains every trial to its last epoch; its final
objective is the best value of a trial. The same space with TPE and ASHA then counts the epochs of all its trials, stopped ones
among them, until one that was completed is as good. Both are the production code, a trial after the other in one process, so
the result depends on the seeds alone. Initial weights and the order of the data are the same for both, the draws are not.

The last line is one JSON object: `epochs_ratio_to_random` is the median over the seeds of the epochs needed over the epochs of
random search (a sweep that does not get there within as many counts as 1), `seeds` has the details of each.

    python -m benchmarks.tune --trials 24 --seeds 3
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from distjet.cluster.board import Board
from distjet.cluster.runs import Ending, Run, run_all
from distjet.cluster.tune import Trials
from distjet.config import load
from distjet.tuning.settings import TuneConfig, check_ends
from distjet.tuning.study import Study
from distjet.verbs import QuickstartVerb, prepare, simulate

FRACTION_OF_EVENTS = 0.5
SPLIT = {"train": 0.3, "val": 0.65}
"Many to validate with: the best of many trials is a lucky one, the more so the fewer jets tell them apart."
METRIC = "val_mean_resolution"

SPACE = {
    "optimizer.lr": {"name": "loguniform", "low": 1e-4, "high": 3e-2},
    "optimizer.weight_decay": {"name": "loguniform", "low": 1e-6, "high": 1e-1},
    "batch_size": {"name": "choice", "values": [128, 256, 512]},
    "model.width": {"name": "choice", "values": [16, 32, 64]},
    "model.num_blocks": {"name": "int", "low": 1, "high": 3},
    "loss.energy.bandwidth": {"name": "loguniform", "low": 0.03, "high": 0.5},
    "schedule.warmup_fraction": {"name": "uniform", "low": 0.0, "high": 0.3},
}
OTHER_DRAWS = 1000
"Added to the seed of the sampler, because TPE begins with random trials, which would be those of random search again."
RANDOM = {"sampler": "random", "scheduler": "none"}
ADAPTIVE = {"sampler": {"name": "tpe", "num_startup_trials": 5}, "scheduler": {"name": "asha", "reduction_factor": 4}}
"Few random trials, because those that ASHA stops after an epoch teach TPE as well; one of four goes on."


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=24, help="trials of random search")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--dataset", type=Path, help="a finished dataset instead of a new one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        dataset = arguments.dataset or make_dataset(folder)
        started = time.monotonic()
        with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
            compared = partial(compare, folder, dataset, arguments.trials)
            seeds = list(pool.map(compared, range(1, arguments.seeds + 1)))
        result = {
            "epochs_ratio_to_random": statistics.median(seed["ratio"] for seed in seeds),
            "metric": METRIC,
            "seeds": seeds,
        }
        print(json.dumps(result | {"seconds": time.monotonic() - started}))


def make_dataset(folder: Path) -> Path:
    """Simulate and prepare a fraction of the quickstart's events."""
    shipped = load(QuickstartVerb, ["conf/quickstart/quickstart.yaml"])
    fewer = [
        f"simulate.samples.{name}.num_events={round(FRACTION_OF_EVENTS * sample['num_events'])}"
        for name, sample in shipped.simulate["samples"].items()
    ]
    split = f"prepare.split={json.dumps(SPLIT)}"
    config = load(QuickstartVerb, ["conf/quickstart/quickstart.yaml"], [f"output={folder}", *fewer, split])
    simulating, preparing, _, _ = config.sections()
    simulate(simulating)
    prepare(preparing)
    return Path(preparing.output)


def compare(folder: Path, dataset: Path, num_trials: int, seed: int) -> dict[str, Any]:
    """Run both sweeps with a seed; return what each needed."""
    logging.getLogger("distjet").setLevel(logging.ERROR)
    started = time.monotonic()
    baseline = Search(sweep(folder / f"random-{seed}", dataset, seed, RANDOM | {"num_trials": num_trials}))
    baseline.run()
    other_draws = {"seed": seed + OTHER_DRAWS, "num_trials": 100 * num_trials}
    adaptive = Search(
        sweep(folder / f"adaptive-{seed}", dataset, seed, ADAPTIVE | other_draws),
        target=baseline.best,
        max_epochs=baseline.num_epochs,
    )
    adaptive.run()
    return {
        "seed": seed,
        "ratio": adaptive.num_epochs / baseline.num_epochs if adaptive.is_there else 1.0,
        "random": baseline.facts(),
        "adaptive": adaptive.facts(),
        "seconds": time.monotonic() - started,
    }


def sweep(output: Path, dataset: Path, seed: int, changes: Mapping[str, Any]) -> TuneConfig:
    """Return a sweep over the quickstart's calibrator."""
    _, prepared, quickstart, _ = load(QuickstartVerb, ["conf/quickstart/quickstart.yaml"]).sections()
    fraction_of_steps = FRACTION_OF_EVENTS * SPLIT["train"] / prepared.split.train
    base = quickstart.model_dump(mode="json", exclude={"output", "ensemble"})
    base |= {
        "dataset": str(dataset),
        "seed": seed,
        # the average of the weights reaches back over as many epochs as with all data; else it lags behind the first of them
        "ema_decay": quickstart.ema_decay ** (1 / fraction_of_steps),
        "selection": {"metric": METRIC.removeprefix("val_")},
        "resources": {"num_workers": 0, "use_gpu": False},
    }
    content = {"output": str(output), "base": base, "space": SPACE, "objectives": METRIC, "seed": seed, "max_concurrent": 0}
    return TuneConfig.model_validate(content | dict(changes))


class Search(Trials):
    """A sweep that counts its epochs, and ends where it is as good as another.

    Args:
        config: The sweep.
        target: The value to reach.
        max_epochs: Where it gives up.
    """

    def __init__(self, config: TuneConfig, target: float = float("-inf"), max_epochs: float = float("inf")) -> None:
        check_ends(config)
        super().__init__(config, Study(config, "benchmark"))
        self.target, self.max_epochs = target, max_epochs
        self.num_epochs, self.best, self.outcomes = 0, float("inf"), dict[str, int]()

    @property
    def is_there(self) -> bool:
        """Whether a completed trial is as good as the target."""
        return self.best <= self.target

    def run(self) -> None:
        """Train until it is there."""
        run_all(self, Board("trial", self.study.num_trials, METRIC), self.config.output, self._resources(), 0)

    def next(self) -> Run | None:
        """Return a trial unless it is there."""
        return None if self.is_there or self.num_epochs >= self.max_epochs else super().next()

    def report(self, run: Run, row: Mapping[str, float]) -> bool:
        """Count an epoch."""
        self.num_epochs += 1
        return super().report(run, row)

    def end(self, run: Run, ending: Ending) -> None:
        """Take the value of a trial that was completed."""
        super().end(run, ending)
        self.outcomes[ending.outcome] = self.outcomes.get(ending.outcome, 0) + 1
        if ending.metrics:
            self.best = min(self.best, ending.metrics["best"][METRIC])

    def facts(self) -> dict[str, Any]:
        """Return what there is to say."""
        return {"epochs": self.num_epochs, "best": self.best, "outcomes": self.outcomes}

    def _resources(self) -> Any:
        return check_ends(self.config).resources


if __name__ == "__main__":
    main()
