"""What does a sweep leave to read: figures, and one page that explains itself.

The page is complete without this program, without a network and without instructions. It shows no password of a storage.
"""

from collections.abc import Mapping
from typing import Any

from distjet.evaluation import html
from distjet.evaluation.panels import Plot
from distjet.run_directory import write_atomically
from distjet.tuning.plots import make_plots
from distjet.tuning.settings import TuneConfig
from distjet.tuning.study import Study
from distjet.tuning.summary import BEST_FILE, ranked, shown

TITLE = "distjet: sweep report"

DEFINITIONS = (
    ("Value of a trial", "The objectives at the best epoch of its training, by selection.metric: what the run keeps."),
    ("Completed", "Trained to its end, or until selection.patience ended it."),
    ("Pruned", "Stopped early, because others were better at the same epoch; it has no value."),
    ("Failed", "non_finite: the loss or the energies were; out_of_memory; lost: its processes died; error. It has no value."),
    ("Pareto front", "Trials that no other trial beats in one objective without being worse in another."),
    ("best.yaml", "The best trial; with several objectives, that of the front nearest to the best value of each."),
)


def write_report(config: TuneConfig, study: Study, metrics: Mapping[str, Any]) -> None:
    """Write plots/ and report.html.

    Args:
        config: The sweep.
        study: Its memory.
        metrics: What `summarise` made of it.
    """
    plots = make_plots(config, metrics, study.trials())
    for plot in plots:
        write_atomically(config.output / "plots" / f"{plot.name}.png", plot.png)
        write_atomically(config.output / "plots" / f"{plot.name}.pdf", plot.pdf)
    write_atomically(config.output / "report.html", html.page(TITLE, _parts(config, study, metrics, plots)))


def _parts(config: TuneConfig, study: Study, metrics: Mapping[str, Any], plots: list[Plot]) -> list[str]:
    parts = [f"<h1>{html.escape(TITLE)}</h1>", html.paragraph(verdict(metrics), "lead")]
    parts += [html.heading("Best trials"), _table(metrics)]
    if failed := [trial for trial in metrics["trials"] if trial.get("message")]:
        parts += [
            html.heading("Failures"),
            html.facts([(f"trial {t['number']}: {t['outcome']}", t["message"]) for t in failed]),
        ]
    for plot in plots:
        parts += [html.heading(plot.title), html.image(plot.png, plot.caption, plot.title)]
    space = [(path, entry.model_dump(mode="json", exclude_none=True)) for path, entry in config.space.items()]
    parts += [
        html.heading("What varied"),
        html.facts(space),
        html.heading("What the words mean"),
        html.definitions(DEFINITIONS),
    ]
    facts = {"sampler": config.sampler, "scheduler": config.scheduler, "seed": config.seed, "storage": study.address}
    return [*parts, html.heading("Where it comes from"), html.facts([*facts.items(), *metrics["provenance"].items()])]


def verdict(metrics: Mapping[str, Any]) -> str:
    """Say in a sentence what was found."""
    values = ", ".join(f"{name} {value:.4g}" for name, value in metrics["best"]["values"].items())
    front = f" The Pareto front has {len(metrics['front'])} trials." if len(metrics["objectives"]) > 1 else ""
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(metrics["outcomes"].items()))
    return (
        f"Best of {metrics['num_trials']} trials ({outcomes}; {metrics['num_epochs']} epochs in all): trial "
        f"{metrics['best']['number']} with {values}; its configuration is {BEST_FILE}.{front}"
    )


def _table(metrics: Mapping[str, Any]) -> str:
    names = [objective["metric"] for objective in metrics["objectives"]]
    paths = list(metrics["best"]["settings"])
    front = {trial["number"] for trial in metrics["front"]}
    rows = [
        [trial["number"], *(shown(trial["values"][name]) for name in names), trial.get("best_epoch", "")]
        + [shown(trial["settings"][path]) for path in paths]
        for trial in ranked(metrics)
    ]
    weak = [len(names) > 1 and trial["number"] not in front for trial in ranked(metrics)]
    return html.table(("trial", *names, "best epoch", *paths), rows, weak)
