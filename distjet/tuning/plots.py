"""Which figures show what a sweep has found?

How the best value came down with the epochs that were spent, the curves of all trials (where they were stopped, and whether
rightly), the objective against each parameter, the trade between two objectives, and the importances. Everything is drawn from
metrics.json and the curves in the sweep's storage.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from distjet.evaluation.panels import COLOURS, Plot, add_header, finish, make_grid, share_axes, style
from distjet.tuning.settings import TuneConfig
from distjet.tuning.space import ChoiceConfig, IntConfig, LogUniformConfig
from distjet.tuning.study import Trial

Record = dict[str, Any]

COMPLETED, PRUNED, BEST = COLOURS[0], "0.65", COLOURS[1]
MAX_PANELS = 12
"Keys that are drawn against the objective; there is no room for more."


def make_plots(config: TuneConfig, metrics: Mapping[str, Any], trials: Sequence[Trial]) -> list[Plot]:
    """Draw all figures.

    Args:
        config: The sweep.
        metrics: What `summarise` made of it.
        trials: Its trials, with their curves.

    Returns:
        The figures in the order of the report, without those for which there is too little.
    """
    names = [objective["metric"] for objective in metrics["objectives"]]
    with style():
        plots: list[Plot | None] = [plot_history(metrics, objective) for objective in metrics["objectives"]]
        plots.append(plot_curves(config, metrics, trials))
        plots += [plot_front(metrics, pair) for pair in combinations(names, 2)]
        plots += [plot_slices(config, metrics, name) for name in names]
        plots.append(plot_importances(metrics))
    return [plot for plot in plots if plot is not None]


def plot_history(metrics: Mapping[str, Any], objective: Mapping[str, str]) -> Plot:
    """An objective against the epochs spent so far, with the best so far."""
    name = objective["metric"]
    grid = make_grid([name])
    axis = grid.axes[0]
    spent = np.cumsum([trial["last_epoch"] for trial in metrics["trials"]])
    found = [(x, trial["values"][name]) for x, trial in zip(spent, metrics["trials"], strict=True) if trial["values"]]
    x, y = np.array(found).T
    best = np.minimum.accumulate(y) if objective["direction"] == "min" else np.maximum.accumulate(y)
    axis.plot(x, y, "o", color=COMPLETED, markerfacecolor="white", label="completed trial")
    axis.step(np.append(x, spent[-1]), np.append(best, best[-1]), where="post", color=BEST, label="best so far")
    _leave_room(axis)
    share_axes(grid, "Epochs of all trials", name)
    add_header(grid, _subtitle(metrics))
    caption = "Value of each completed trial against the epochs spent until then, in the order in which trials were drawn."
    return finish(grid, f"history_{name}", f"{name} against effort", caption)


def plot_curves(config: TuneConfig, metrics: Mapping[str, Any], trials: Sequence[Trial]) -> Plot | None:
    """The deciding metric after every epoch, for all trials."""
    if not any(trial.curve for trial in trials):
        return None
    name = config.scheduler.metric or config.objectives[0].metric
    grid = make_grid([name])
    axis = grid.axes[0]
    order = {"completed": 1, "pruned": 0}
    for trial in sorted(trials, key=lambda trial: (trial.number == metrics["best"]["number"], order.get(trial.outcome, 0))):
        epochs = sorted(trial.curve)
        is_best = trial.number == metrics["best"]["number"]
        colour = BEST if is_best else COMPLETED if trial.outcome == "completed" else PRUNED
        label = "best trial" if is_best else "completed" if trial.outcome == "completed" else "stopped early, failed"
        values = [trial.curve[epoch] for epoch in epochs]
        axis.plot(epochs, values, color=colour, label=label, linewidth=1.8 if is_best else 0.8)
        axis.plot(epochs[-1:], values[-1:], "o", color=colour, markersize=3)
    if all(value > 0 for trial in trials for value in trial.curve.values()):
        axis.set_yscale("log")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.xaxis.set_minor_locator(NullLocator())
    _leave_room(axis)
    share_axes(grid, "Epoch", name)
    add_header(grid, _subtitle(metrics))
    caption = (
        f"{name} after every epoch. A curve ends where its trial was stopped ({config.scheduler.name}), failed or was done."
    )
    return finish(grid, "curves", "All trials, epoch by epoch", caption)


def plot_front(metrics: Mapping[str, Any], names: tuple[str, str]) -> Plot:
    """One objective against another, with the Pareto front."""
    grid = make_grid([""])
    axis = grid.axes[0]
    complete = [trial for trial in metrics["trials"] if trial["outcome"] == "completed"]
    axis.plot(*_values(complete, names), "o", color=PRUNED, label="completed trial")
    front = sorted(metrics["front"], key=lambda trial: trial["values"][names[0]])
    axis.plot(*_values(front, names), "s", color=COMPLETED, label="Pareto front")
    axis.plot(*_values([metrics["best"]], names), "*", color=BEST, markersize=11, label="best.yaml")
    _leave_room(axis)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    share_axes(grid, names[0], names[1])
    add_header(grid, _subtitle(metrics))
    caption = "Trials of the Pareto front: no other is better in one objective without being worse in another."
    return finish(grid, f"front_{names[0]}_{names[1]}", f"{names[0]} against {names[1]}", caption)


def plot_slices(config: TuneConfig, metrics: Mapping[str, Any], name: str) -> Plot | None:
    """An objective against each key that varies, one panel a key."""
    complete = [trial for trial in metrics["trials"] if trial["outcome"] == "completed"]
    paths = list(metrics["best"]["settings"])[:MAX_PANELS]
    grid = make_grid(paths)
    for axis, path in zip(grid.axes, paths, strict=True):
        x, ticks = _positions(config, path, [trial["settings"][path] for trial in complete])
        y = [trial["values"][name] for trial in complete]
        axis.plot(x, y, "o", color=COMPLETED, markerfacecolor="white", label="completed trial")
        best = [i for i, trial in enumerate(complete) if trial["number"] == metrics["best"]["number"]]
        axis.plot([x[i] for i in best], [y[i] for i in best], "*", color=BEST, markersize=11, label="best.yaml")
        if ticks:
            axis.set_xticks(range(len(ticks)), ticks)
            axis.xaxis.set_minor_locator(NullLocator())
        elif _is_log(config, path):
            axis.set_xscale("log")
        _leave_room(axis)
    share_axes(grid, "", name)
    add_header(grid, _subtitle(metrics))
    caption = f"{name} of the completed trials against each key that varied; other keys vary at the same time."
    return finish(grid, f"slices_{name}", f"{name} against the keys", caption)


def plot_importances(metrics: Mapping[str, Any]) -> Plot | None:
    """The importances, one panel an objective."""
    found = {name: values for name, values in metrics["importances"].items() if values}
    if not found:
        return None
    grid = make_grid(list(found))
    for axis, values in zip(grid.axes, found.values(), strict=True):
        names = list(values)[:MAX_PANELS][::-1]
        axis.barh(range(len(names)), [values[name] for name in names], color=COMPLETED, height=0.6)
        for place, name in enumerate(names):
            axis.text(0.02, place + 0.32, name, transform=axis.get_yaxis_transform(), size=8, va="bottom")
        axis.set_yticks([])
        axis.set_ylim(-0.6, len(names))
        axis.set_xlim(0, 1)
    share_axes(grid, "Importance", "")
    add_header(grid, _subtitle(metrics))
    caption = (
        "How much each parameter decides about being among the best tenth of the completed trials (PED-ANOVA, "
        "arXiv:2304.10255); the importances of an objective add up to 1."
    )
    return finish(grid, "importances", "Importances", caption)


def _values(trials: Sequence[Record], names: tuple[str, str]) -> tuple[list[float], list[float]]:
    return [trial["values"][names[0]] for trial in trials], [trial["values"][names[1]] for trial in trials]


def _positions(config: TuneConfig, path: str, values: Sequence[Any]) -> tuple[list[float], list[str]]:
    """Return numbers from a range as they are, and of a choice the place in its list, with the names."""
    entry = config.space.get(path)
    if not isinstance(entry, ChoiceConfig):
        return list(values), []
    return [float(entry.values.index(value)) for value in values], [str(value) for value in entry.values]


def _leave_room(axis: Axes) -> None:
    """Keep points off the frame."""
    axis.margins(0.06, 0.08)


def _is_log(config: TuneConfig, path: str) -> bool:
    entry = config.space.get(path)
    return isinstance(entry, LogUniformConfig) or (isinstance(entry, IntConfig) and entry.log)


def _subtitle(metrics: Mapping[str, Any]) -> str:
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(metrics["outcomes"].items()))
    return f"{metrics['num_trials']} trials ({outcomes}), {metrics['num_epochs']} epochs"
