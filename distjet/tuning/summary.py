"""What has a sweep shown: metrics.json, best.yaml, and a table for the terminal.

The best of several objectives is the trial of the Pareto front that is nearest to the best of every objective, each measured in
the width of the front; the front itself is listed, and which of its trials one wants is a matter of taste.
"""

import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import TrialState

from distjet.errors import UserError
from distjet.run_directory import write_atomically
from distjet.tuning.settings import TuneConfig
from distjet.tuning.study import ABANDONED, EPOCHS, SECONDS, WAITING, Study, Trial

if TYPE_CHECKING:
    from rich.table import Table

BEST_FILE = "best.yaml"
MIN_TRIALS_FOR_IMPORTANCES = 8
"Completed trials; with fewer, an importance says more about chance."
MAX_ROWS = 12
"Trials in the table of the terminal."


def summarise(config: TuneConfig, study: Study, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Say what was found, and write best.yaml.

    Args:
        config: The sweep.
        study: Its memory.
        provenance: What identifies the result.

    Returns:
        The content of metrics.json.

    Raises:
        UserError: If no trial was completed.
    """
    trials = [trial for trial in study.trials() if trial.outcome not in (ABANDONED, WAITING)]
    ours = [trial for trial in trials if trial.is_ours]
    front = study.front()
    if not front:
        outcomes = ", ".join(f"{n} {outcome}" for outcome, n in Counter(t.outcome for t in ours).items())
        raise UserError(f"no trial was completed ({outcomes}); the trials in {config.output / 'trials'} say why")
    by_number = {trial.number: trial for trial in trials}
    best = by_number[compromise(config, {number: by_number[number].values for number in front})]
    write_best(config, best, config.output / BEST_FILE)
    return {
        "status": "completed",
        "num_trials": len(ours),
        "outcomes": dict(Counter(trial.outcome for trial in ours)),
        "num_epochs": sum(trial.facts.get(EPOCHS, 0) for trial in ours),
        "train_seconds": sum(trial.facts.get(SECONDS, 0.0) for trial in ours),
        "objectives": [objective.model_dump() for objective in config.objectives],
        "best": described(best),
        "front": [described(by_number[number]) for number in front],
        "importances": {objective.metric: importances(study, i) for i, objective in enumerate(config.objectives)},
        "trials": [described(trial) for trial in trials],
        "provenance": dict(provenance),
    }


def described(trial: Trial) -> dict[str, Any]:
    """Return a trial as plain data."""
    return {
        "number": trial.number,
        "outcome": trial.outcome,
        "values": trial.values,
        "settings": trial.settings,
        "last_epoch": max(trial.curve, default=0),
        **trial.facts,
    }


def compromise(config: TuneConfig, front: Mapping[int, Mapping[str, float]]) -> int:
    """Return the number of the trial that is nearest to the best value of every objective, in units of the front's width."""
    losses = {number: _relative_losses(config, front, values) for number, values in front.items()}
    return min(front, key=lambda number: (math.hypot(*losses[number]), number))


def _relative_losses(config: TuneConfig, front: Mapping[int, Mapping[str, float]], values: Mapping[str, float]) -> list[float]:
    """Return for each objective how far a value is from the best of the front (0) to the worst of it (1)."""
    losses = []
    for objective in config.objectives:
        found = [other[objective.metric] for other in front.values()]
        best, worst = (min(found), max(found)) if objective.direction == "min" else (max(found), min(found))
        losses.append((values[objective.metric] - best) / (worst - best) if worst != best else 0.0)
    return losses


def importances(study: Study, index: int) -> dict[str, float]:
    """Say how much each parameter decides about being among the best tenth, as fractions of 1; empty with few trials.

    Reference:
        S. Watanabe et al., "PED-ANOVA", arXiv:2304.10255.
    """
    complete = [trial for trial in study.finished() if trial.state == TrialState.COMPLETE]
    varied = {name for name in complete[0].params if len({str(t.params[name]) for t in complete}) > 1} if complete else set()
    if len(complete) < MIN_TRIALS_FOR_IMPORTANCES or not varied:
        return {}
    sign = 1 if study.config.objectives[index].direction == "min" else -1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it minimises, which is what the sign is for
        found = get_param_importances(
            study.study,
            evaluator=PedAnovaImportanceEvaluator(),
            target=lambda trial: sign * trial.values[index],
            params=sorted(varied),
        )
    return {name: float(value) for name, value in found.items()}


def write_best(config: TuneConfig, best: Trial, file: Path) -> None:
    """Write the configuration of a trial so that `distjet train FILE output=...` trains it again."""
    training = config.train_config(Path("best"), best.settings)
    training = training.model_copy(update={"dataset": training.dataset.resolve()})
    content = training.model_dump(mode="json", exclude={"output"})
    values = ", ".join(f"{metric} {value:.6g}" for metric, value in best.values.items())
    head = f"# Trial {best.number} of the sweep in {config.output}: {values}.\n# distjet train {file.name} output=...\n"
    write_atomically(file, head + yaml.safe_dump(content, sort_keys=False))


def text_table(metrics: Mapping[str, Any]) -> "Table":
    """The best trials as a table for the terminal: the front first, then the best others by the first objective."""
    from rich.table import Table

    names = [objective["metric"] for objective in metrics["objectives"]]
    paths = list(metrics["best"]["settings"])
    front = [trial["number"] for trial in metrics["front"]]
    table = Table(title="Pareto front and next" if len(names) > 1 else "Best trials")
    for title in ("trial", *names, "epoch", *short_names(paths)):
        table.add_column(title, justify="right", overflow="fold")
    for trial in ranked(metrics)[:MAX_ROWS]:
        cells = [shown(trial["values"][name]) for name in names]
        cells += [str(trial.get("best_epoch", "")), *(shown(trial["settings"][path]) for path in paths)]
        table.add_row(str(trial["number"]), *cells, style="bold" if trial["number"] in front else None)
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(metrics["outcomes"].items()))
    table.caption = f"{metrics['num_trials']} trials ({outcomes}), {metrics['num_epochs']} epochs"
    return table


def short_names(paths: Sequence[str]) -> list[str]:
    """Cut the front of dotted paths as far as they stay different, e.g. `lr`, `energy.weight`, `mass.weight`."""
    parts = [path.split(".") for path in paths]
    names = []
    for own in parts:
        lengths = range(1, len(own) + 1)
        unique = (n for n in lengths if sum(other[-n:] == own[-n:] for other in parts) == 1)
        names.append(".".join(own[-next(unique, len(own)) :]))
    return names


def ranked(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the completed trials, those of the front first, by the first objective."""
    first = metrics["objectives"][0]
    sign = 1 if first["direction"] == "min" else -1
    front = {trial["number"] for trial in metrics["front"]}
    complete = [trial for trial in metrics["trials"] if trial["outcome"] == "completed"]
    return sorted(complete, key=lambda trial: (trial["number"] not in front, sign * trial["values"][first["metric"]]))


def shown(value: Any) -> str:
    """Write a value of a key for people to read."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
