"""How does Ray Tune get its trials from a source, and tell it what becomes of them?

Tune asks a searcher for the configuration of the next trial and hands it every result. Ours has no state to save: Tune pickles
searchers as checkpoints of its own, and what a source remembers (where the storage is, with which password) stays out of them.
"""

import json
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.search import Searcher

from distjet.cluster.runs import PRUNED_FILE, Ending, Run, WatchedRuns
from distjet.run_directory import write_atomically
from distjet.training.settings import ResourcesConfig

LOW_ON_MEMORY = "running low on memory"
"What Ray says of processes that it ended for that."
FAILURE = "Failure # "
"How each entry of Tune's record of a trial's failures begins."


class Feed(Searcher):
    """Stands between Tune's trials, which have identifiers, and runs, which have numbers."""

    def __init__(self, runs: WatchedRuns, resources: ResourcesConfig) -> None:
        super().__init__()
        self.runs, self.resources = runs, resources
        self.by_trial: dict[str, Run] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """Return the next run as plain data."""
        run = self.runs.next()
        if run is None:
            return str(Searcher.FINISHED)
        self.by_trial[trial_id] = run
        (run.config.output / PRUNED_FILE).unlink(missing_ok=True)
        resources = {"resources": self.resources.model_dump(mode="json")}
        return {"train": run.config.model_dump(mode="json") | resources}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Take that a run has begun, the row of an epoch, or what became of the run."""
        if "ending" in result:
            self.runs.end(self.by_trial.pop(trial_id), Ending(**json.loads(result["ending"])))
        elif "begun" in result:
            self.runs.begin(self.by_trial[trial_id])
        elif "row" in result:
            run = self.by_trial[trial_id]
            if not self.runs.report(run, json.loads(result["row"])):
                write_atomically(run.config.output / PRUNED_FILE, b"")

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Do nothing: a run says itself what became of it, or has died."""

    def recover(self, trial_id: str) -> None:
        """Take the death of a run's process, in whose place another one is started."""
        self.runs.recover(self.by_trial[trial_id])

    def die(self, trial_id: str, trace: str) -> None:
        """Take the death of a run's process, after which nobody tried again."""
        if (run := self.by_trial.pop(trial_id, None)) is not None:
            outcome = "out_of_memory" if LOW_ON_MEMORY in trace else "lost"
            said = trace.rpartition(FAILURE)[2].splitlines()[1:2]  # of the last failure, what follows its number
            self.runs.end(run, Ending(outcome, f"its process died more than resources.max_failures times: {''.join(said)}"))

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Save nothing."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing."""

    def restore(self, checkpoint_path: str) -> None:
        """Restore nothing."""


class Deaths(Callback):
    """Hears of trials whose process died, and whether it is started again."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Pass it on."""
        self.feed.recover(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Pass it on, with Tune's record of the causes, which `trial.get_error` does not find until it is uploaded."""
        self.feed.die(trial.trial_id, Path(trial.error_file).read_text() if trial.error_file else "")
