"""What does each verb do with its configuration?

A verb is a configuration class and a function of it; `cli.py` and `jobs/` only parse arguments and call these. Heavy imports
stand inside the functions, so that help and configuration errors come at once.
"""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

import distjet
from distjet.application.settings import ExportConfig, PredictConfig
from distjet.calibration.settings import ChainConfig
from distjet.cluster.settings import TasksConfig
from distjet.config import Config, load, top_level_keys
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.errors import ConfigError
from distjet.evaluation.config import EvaluateConfig
from distjet.provenance import git_commit
from distjet.run_directory import claim, locked, read_json, write_atomically
from distjet.simulation.samples import SimulateConfig
from distjet.storage import Location
from distjet.training.settings import ImportConfig, TrainConfig
from distjet.tuning.settings import TuneConfig, check_ends

logger = logging.getLogger(__name__)

Narrow = TypeVar("Narrow", bound=Config)


class SimulateVerb(SimulateConfig):
    """`distjet simulate`."""

    tasks: TasksConfig = TasksConfig()
    "Where it runs."


class PrepareVerb(PrepareConfig):
    """`distjet prepare`."""

    tasks: TasksConfig = TasksConfig()
    "Where it runs."


class InspectVerb(Config):
    """`distjet inspect`."""

    dataset: Location
    "Folder of the dataset, or s3://bucket/folder."
    format: Literal["page", "json"] = "page"
    "page: tables for a terminal; json: the same facts, for programs."


class VerifyVerb(Config):
    """`distjet verify`."""

    dataset: Location
    "Folder of the dataset, or s3://bucket/folder."
    inputs: bool = False
    "Whether to read and compare the input files as well, where they still are."
    tasks: TasksConfig = TasksConfig()
    "Where it runs."


class EvaluateVerb(EvaluateConfig):
    """`distjet evaluate`."""


class PredictVerb(PredictConfig):
    """`distjet predict`."""

    tasks: TasksConfig = TasksConfig()
    "Where it runs."


class QuickstartVerb(Config):
    """`distjet quickstart`: the four verbs in a row.

    Each section is a verb's configuration without its paths; `files` in it are the files that the verb would be given.
    """

    output: Location = Path("outputs/quickstart")
    "Everything is written below; on s3://, with prepare.remote=direct or prepare.work=FOLDER."
    tasks: TasksConfig = TasksConfig()
    "Workers of simulate and prepare."
    simulate: dict[str, Any]
    "See `distjet simulate`."
    prepare: dict[str, Any]
    "See `distjet prepare`."
    train: dict[str, Any]
    "See `distjet train`."
    evaluate: dict[str, Any]
    "See `distjet evaluate`."

    def sections(self) -> "tuple[SimulateVerb, PrepareVerb, TrainConfig, EvaluateVerb]":
        """Validate the sections, with their places on disk filled in."""
        root, tasks = self.output, self.tasks.model_dump()
        simulate = self._section(SimulateVerb, "simulate", output=str(root / "simulate"), tasks=tasks)
        inputs = [{"sample": name, "files": f"{root}/simulate/{name}/*.root"} for name in simulate.samples]
        prepare = self._section(PrepareVerb, "prepare", inputs=inputs, output=str(root / "dataset"), tasks=tasks)
        train = self._section(TrainConfig, "train", dataset=str(root / "dataset"), output=str(root / "train"))
        evaluate = self._section(EvaluateVerb, "evaluate", run=str(root / "train"), output=str(root / "evaluate"))
        return simulate, prepare, train, evaluate

    def parts(self) -> Mapping[str, Config]:
        """Build the sections."""
        return dict(zip(("simulate", "prepare", "train", "evaluate"), self.sections(), strict=True))

    def _section(self, model: type[Narrow], name: str, **places: Any) -> Narrow:
        section = {**getattr(self, name), **places}
        return load(model, section.pop("files", []), section=section, prefix=f"{name}.")


CONFIGS: dict[str, type[Config]] = {
    "simulate": SimulateVerb,
    "prepare": PrepareVerb,
    "inspect": InspectVerb,
    "verify": VerifyVerb,
    "train": TrainConfig,
    "tune": TuneConfig,
    "import-weights": ImportConfig,
    "evaluate": EvaluateVerb,
    "predict": PredictVerb,
    "export": ExportConfig,
    "quickstart": QuickstartVerb,
}
"What each verb is configured with."

ALTERNATIVES: dict[str, dict[str, type[Config]]] = {"train": {"chain": ChainConfig}}
"What a verb is configured with instead, where the configuration has this key at its top: a chain is run like a network."


def config_class(verb: str, files: Sequence[Path], overrides: Sequence[str]) -> type[Config]:
    """Return what a verb is configured with, given the keys of its files and overrides."""
    given = top_level_keys(files, overrides) if verb in ALTERNATIVES else set()
    return next((model for key, model in ALTERNATIVES.get(verb, {}).items() if key in given), CONFIGS[verb])


def simulate(config: SimulateVerb) -> dict[str, Any]:
    """Simulate collisions and write ROOT ntuples."""
    from distjet.cluster.dask import executor
    from distjet.simulation.simulate import simulate as run

    with locked(config.output), executor(config.tasks) as execute:
        result = run(_narrow(config, SimulateConfig), execute)
        _save_config(config)
    logger.info("ntuples in %s", config.output)
    return result


def prepare(config: PrepareVerb) -> dict[str, Any]:
    """Convert ROOT ntuples to a dataset of graphs."""
    from distjet.cluster.dask import executor
    from distjet.dataset.prepare import prepare as run

    with locked(config.output), executor(config.tasks) as execute:
        result = run(_narrow(config, PrepareConfig), execute)
    found = result["accounting"]
    cuts = ", ".join(f"{name} {jets}" for name, jets in found["cuts"].items())
    logger.info(
        "dataset in %s: %d jets read = %d rows + %d cut (%s) + %d quarantined",
        *(config.output, found["read"], found["rows"], found["cut"], cuts, found["quarantined"]),
    )
    if found["quarantined"]:
        logger.warning("what was quarantined is listed in %s", config.output / "quarantine.jsonl")
    return result


def inspect(config: InspectVerb) -> dict[str, Any]:
    """Show what is in a dataset."""
    from rich.console import Console

    from distjet.dataset.facts import facts
    from distjet.dataset.inspection import print_page
    from distjet.dataset.manifest import Manifest

    found = facts(Manifest.load(config.dataset))
    if config.format == "json":
        sys.stdout.write(json.dumps(found, indent=1, allow_nan=False) + "\n")
    else:
        print_page(found, Console())
    return found


def verify(config: VerifyVerb) -> dict[str, Any]:
    """Check every byte, row and number of a dataset."""
    from distjet.cluster.dask import executor
    from distjet.dataset.inspection import describe_verified
    from distjet.dataset.verify import verify as run

    with executor(config.tasks) as execute:
        result = run(config.dataset, execute, inputs=config.inputs)
    _show(describe_verified(config.dataset, result))
    return result


def train(config: TrainConfig | ChainConfig) -> dict[str, Any]:
    """Train a model, or an ensemble of them, or fit a classical chain."""
    if isinstance(config, ChainConfig):
        return _train_chain(config)
    if config.ensemble.is_many_runs:
        return _train_ensemble(config)
    from distjet.cluster.train import train as run

    with locked(config.output):
        result = run(config)
    best = result["best"]
    if "val_auc" in best:
        told = f"area under the curve {best['val_auc']:.4f}, 1/eps_B {best['val_rejection_50']:.3g} at eps_S 0.5"
    else:
        told = f"mean |closure| {100 * best['val_mean_abs_bias']:.2f} %, resolution {best['val_mean_resolution']:.4f}"
    logger.info("best epoch %d: %s; model in %s", result["best_epoch"], told, config.output)
    return result


def _train_chain(config: ChainConfig) -> dict[str, Any]:
    from distjet.calibration.fit import train_chain
    from distjet.evaluation.tables import percent

    with locked(config.output):
        result = train_chain(config)
    found = result["closure"]["response"][result["steps"][-1]]
    closure = (percent(found["max_abs_bias_30_60"]), percent(found["max_abs_bias_above_60"]))
    logger.info("worst |closure| %s at 30-60 GeV, %s above; chain and report in %s", *closure, config.output)
    return result


def _train_ensemble(config: TrainConfig) -> dict[str, Any]:
    from distjet.cluster.ensemble import train_ensemble

    with locked(config.output):
        result = train_ensemble(config)
    name = config.selection.watched
    values = (result["num_members"], name, result["mean"][name], result["deviation"][name], config.output / "members")
    logger.info("%d members: %s %.4g +- %.2g (mean and deviation over members); models in %s", *values)
    return result


def import_weights(config: ImportConfig) -> dict[str, Any]:
    """Make a run of weights that were trained elsewhere."""
    from distjet.training.import_weights import import_weights as run

    with locked(config.output):
        result = run(config)
    logger.info("%d parameters of %s; run in %s", result["num_parameters"], result["imported"]["name"], config.output)
    return result


def tune(config: TuneConfig) -> dict[str, Any]:
    """Run a sweep over hyperparameters."""
    check_ends(config)  # before anything heavy is imported
    from distjet.cluster.tune import tune as run
    from distjet.tuning.summary import BEST_FILE, text_table

    with locked(config.output):
        result = run(config, {"distjet_version": distjet.__version__, "git_commit": git_commit()})
    _show(text_table(result))
    logger.info("report: %s", config.output / "report.html")
    logger.info("the best trial again: distjet train %s output=...", config.output / BEST_FILE)
    return result


def evaluate(config: EvaluateVerb) -> dict[str, Any]:
    """Evaluate trainings, or tables of predictions."""
    from distjet.evaluation.report import evaluate_predictions
    from distjet.evaluation.score_tables import holds_scores
    from distjet.evaluation.tagging_report import evaluate_tagging
    from distjet.training.comparison import identity_of, make_sources, provenance_of

    provenance = {"distjet_version": distjet.__version__, "git_commit": git_commit(), **provenance_of(config)}
    with locked(config.output):
        claim(config.output, "evaluate", identity_of(config, provenance))
        if (finished := config.output / "metrics.json").is_file():
            logger.info("%s is finished; nothing to do", config.output)
            _show(_summary_of(read_json(finished)))
            return read_json(finished)
        sources = make_sources(config)
        _save_config(config)
        if holds_scores(sources.processes[0].tables[0]):
            result = evaluate_tagging(sources, config.tagging, provenance, config.output)
        elif config.variations:
            raise ConfigError("variations are for taggers; jets of other processes go under datasets={NAME: FOLDER, ...}")
        else:
            result = evaluate_predictions(sources, config.response, provenance, config.output)
    _show(_summary_of(result))
    logger.info("report: %s", config.output / "report.html")
    return result


def _summary_of(metrics: Mapping[str, Any]) -> Any:
    """Return the headline numbers of an evaluation, for a terminal."""
    from distjet.evaluation import headline_table, tagging_rows

    return (tagging_rows if metrics.get("kind") == "tagging" else headline_table).text_summary(metrics)


def predict(config: PredictVerb) -> dict[str, Any]:
    """Calibrate or tag the jets of ROOT ntuples."""
    from distjet.application.predict import predict as run
    from distjet.cluster.dask import executor

    with locked(config.output), executor(config.tasks) as execute:
        result = run(_narrow(config, PredictConfig), execute)
        _save_config(config)
    logger.info("%d of %d jets predicted; predictions in %s", result["calibrated"], result["jets"], config.output)
    for reason, jets in result["not_calibrated"].items():
        logger.warning("%d jets without a prediction: %s", jets, reason)
    return result


def export(config: ExportConfig) -> dict[str, Any]:
    """Write a trained network as an ONNX model."""
    from distjet.application.onnx_export import export as run

    result = run(config)
    logger.info(
        "%s: opset %d, inputs %s; on %d jets it differs from the network by at most %.1e (allowed %.1e)",
        *(config.output, result["opset"], ", ".join(result["inputs"]), result["jets_compared"]),
        *(result["max_difference"], config.tolerance),
    )
    logger.info("an example of its use: %s", result["example"])
    return result


def quickstart(config: QuickstartVerb) -> dict[str, Any]:
    """Simulate, prepare, train and evaluate on this machine."""
    simulate_config, prepare_config, train_config, evaluate_config = config.sections()
    logger.info("1/4 simulate: %s", simulate_config.output)
    simulate(simulate_config)
    logger.info("2/4 prepare: %s", prepare_config.output)
    prepare(prepare_config)
    logger.info("3/4 train: %s", train_config.output)
    train(train_config)
    logger.info("4/4 evaluate: %s", evaluate_config.output)
    return evaluate(evaluate_config)


def _narrow(config: Config, base: type[Narrow]) -> Narrow:
    """Reduce a verb's configuration to that of the room that does the work."""
    return base(**{name: getattr(config, name) for name in base.model_fields})


def _save_config(config: Any) -> None:
    write_atomically(config.output / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def _show(table: Any) -> None:
    from rich.console import Console

    Console().print(table)
