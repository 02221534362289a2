"""The command line: `distjet VERB FILE.yaml [FILE.yaml ...] [dotted.key=value ...]`.

Files merge left to right, then the overrides. A problem that the user can fix is one message and exit code 2; an interrupted
verb exits with 128 plus the signal's number, as batch systems expect.
"""

import importlib
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from distjet.errors import ConfigError, UserError
from distjet.storage import without_secrets

app = typer.Typer(
    name="distjet",
    help="From ROOT ntuples to calibrated jets: simulate, prepare, train, tune, evaluate; inspect and verify datasets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

EXAMPLES = {
    "simulate": "conf/simulation/dijet.yaml",
    "prepare": "conf/dataset/distjet.yaml inputs=FOLDER output=FOLDER",
    "inspect": "outputs/dataset",
    "verify": "outputs/dataset",
    "train": "conf/calibration/constituent_gnn.yaml dataset=FOLDER output=FOLDER",
    "tune": "conf/sweep/quickstart.yaml base.dataset=FOLDER output=FOLDER",
    "import-weights": "conf/tagging/particle_net_jetclass.yaml weights=FILE.pt dataset=FOLDER output=FOLDER",
    "evaluate": "conf/evaluation/response.yaml run=FOLDER output=FOLDER",
    "predict": "run=FOLDER inputs=FOLDER output=FOLDER",
    "export": "run=FOLDER output=model.onnx",
    "quickstart": "conf/quickstart/quickstart.yaml",
}

VERBOSE = ("-v", "--verbose")

FLAGS = {"inspect": {"--json": "format=json"}, "verify": {"--inputs": "inputs=true"}}
"Flags of single verbs, and the keys that they stand for."

ABOUT_DATASETS = ("inspect", "verify")
"Verbs that take the folder of a dataset as it stands, without `dataset=`."

Arguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FILE.yaml ...] [dotted.key=value ...]", help="Configuration files, then overrides."),
]
DatasetArguments = Annotated[
    list[str] | None,
    typer.Argument(metavar="DATASET [FILE.yaml ...] [dotted.key=value ...]", help="Folder, configuration files, overrides."),
]
Keys = Annotated[bool, typer.Option("--keys", help="List all keys with their defaults.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")]


def run_verb(verb: str, arguments: list[str] | None = None, *, verbose: bool = False) -> Any:
    """Load a verb's configuration and run it (what the command line and `jobs/` share).

    Args:
        verb: Name of the verb.
        arguments: Files and overrides; those of the process where absent.
        verbose: Log more.

    Returns:
        The verb's result.
    """
    if arguments == ["--keys"]:
        return show_keys(verb)
    _set_up_logging(verbose)
    with _problems_as_messages(verb, "" if verb in ABOUT_DATASETS else "; the same command continues"):
        files, overrides = split_arguments(verb, sys.argv[1:] if arguments is None else arguments)
        return _call(verb, load_verb(verb, files, overrides))


@contextmanager
def _problems_as_messages(verb: str, after_interrupt: str = "") -> Iterator[None]:
    """Turn a problem of the user, and Ctrl-C, into one message and an exit code."""
    try:
        yield
    except UserError as error:
        sys.stderr.write(without_secrets(f"distjet {verb}: error: {error}\n"))
        raise SystemExit(2) from None
    except BaseException as error:
        if not _is_interrupt(error):
            raise
        sys.stderr.write(f"distjet {verb}: interrupted{after_interrupt}\n")
        raise SystemExit(128 + signal.SIGINT) from None


def split_arguments(verb: str, arguments: list[str]) -> tuple[list[Path], list[str]]:
    """Tell files from overrides; a verb with a shipped configuration needs no file, one about a dataset takes its folder.

    Raises:
        ConfigError: If an argument is none of these.
    """
    files = [Path(item) for item in arguments if item.endswith((".yaml", ".yml")) and "=" not in item]
    overrides = [item for item in arguments if "=" in item]
    strange = [item for item in arguments if item not in overrides and Path(item) not in files]
    if verb in ABOUT_DATASETS and len(strange) == 1 and not any(item.startswith("dataset=") for item in overrides):
        overrides = [f"dataset={json.dumps(strange.pop())}", *overrides]
    if strange:
        expected = "one DATASET, FILE.yaml" if verb in ABOUT_DATASETS else "FILE.yaml"
        raise ConfigError(f"expected {expected} or dotted.key=value (got {strange[-1]!r})")
    if verb == "quickstart" and not files:
        files = [Path("conf/quickstart/quickstart.yaml")]
    return files, overrides


def show_keys(verb: str) -> None:
    """Print the keys of a verb, one a line: dotted key, default, what it means."""
    from distjet.config import describe_keys
    from distjet.verbs import ALTERNATIVES, CONFIGS

    for top, model in {"": CONFIGS[verb], **ALTERNATIVES.get(verb, {})}.items():
        if top:
            typer.echo(f"\n# With the key {top}, in place of the keys above:")
        for key, default, description in describe_keys(model):
            value = f"={default}" if default else ":"
            typer.echo(f"{key}{value}{f'  # {description}' if description else ''}")


def load_verb(verb: str, files: list[Path], overrides: list[str]) -> Any:
    """Load and validate the configuration of a verb.

    Raises:
        ConfigError: With every problem found, and an example if no file was given.
    """
    from distjet import verbs
    from distjet.cluster.upload import check_paths_in_job
    from distjet.config import load

    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # so that a network of one's own is found where one works
    try:
        config: Any = load(verbs.config_class(verb, files, overrides), files, overrides)
    except ConfigError as error:
        hint = "" if files else f"\nFor example `distjet {verb} {EXAMPLES[verb]}`; `distjet {verb} --keys` lists keys."
        raise ConfigError(f"{error}{hint}") from error
    check_paths_in_job(config)
    return config


def _call(verb: str, config: Any) -> Any:
    from distjet import verbs

    try:
        return getattr(verbs, verb.replace("-", "_"))(config)
    except OSError as error:
        if not (notes := getattr(error, "__notes__", [])):
            raise
        hint = "What is finished is kept: run the same command again when this is mended."  # a failing machine, no defect
        raise UserError(f"{', '.join(notes)}: {error}. {hint}") from error
    except Exception as error:
        if (code := getattr(error, "exit_code", None)) is None:
            raise
        sys.stderr.write(f"distjet {verb}: {error}\n")
        raise SystemExit(code) from None


def _is_interrupt(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an exception; compiled modules turn it into an ImportError while they are imported."""
    return error is not None and (isinstance(error, KeyboardInterrupt) or _is_interrupt(error.__cause__))


class _CurrentStderr(logging.StreamHandler[Any]):
    """Writes to standard error as it is at that moment: a progress line takes its place, to stay below what is written."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        self.stream = sys.stderr
        super().emit(record)


def _set_up_logging(verbose: bool) -> None:
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", handlers=[_CurrentStderr()])
    logging.getLogger("distjet").setLevel(logging.DEBUG if verbose else logging.INFO)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"distjet {importlib.import_module('distjet').__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    del version


@app.command()
def simulate(arguments: Arguments = None, verbose: Verbose = False, keys: Keys = False) -> None:
    """Pythia 8, pileup, a parametrised detector and FastJet -> ROOT ntuples.

    Example: distjet simulate conf/simulation/dijet.yaml output=outputs/ntuples
    """
    run_verb("simulate", ["--keys"] if keys else arguments or [], verbose=verbose)


@app.command()
def prepare(arguments: Arguments = None, verbose: Verbose = False, keys: Keys = False) -> None:
    """ROOT ntuples -> a shuffled, sharded Parquet dataset of graphs, with every jet accounted for.

    Example: distjet prepare conf/dataset/distjet.yaml inputs=outputs/ntuples output=outputs/dataset
    """
    run_verb("prepare", ["--keys"] if keys else arguments or [], verbose=verbose)


@app.command()
def inspect(
    arguments: DatasetArguments = None,
    verbose: Verbose = False,
    keys: Keys = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the facts as JSON.")] = False,
) -> None:
    """A page of facts about a dataset: rows, accounting, features with units and ranges, size, fingerprints.

    Example: distjet inspect outputs/dataset
    """
    given = [*(arguments or []), *([FLAGS["inspect"]["--json"]] if as_json else [])]
    run_verb("inspect", ["--keys"] if keys else given, verbose=verbose)


@app.command()
def verify(
    arguments: DatasetArguments = None,
    verbose: Verbose = False,
    keys: Keys = False,
    inputs: Annotated[bool, typer.Option("--inputs", help="Read and compare the input files as well.")] = False,
) -> None:
    """Check every byte and row of a dataset against its manifest: hashes, places, splits, contents, statistics.

    Example: distjet verify outputs/dataset
    """
    given = [*(arguments or []), *([FLAGS["verify"]["--inputs"]] if inputs else [])]
    run_verb("verify", ["--keys"] if keys else given, verbose=verbose)


@app.command()
def train(arguments: Arguments = None, verbose: Verbose = False, keys: Keys = False) -> None:
    """Train a calibrator on a dataset, or fit the classical chain; the same command resumes.

    Example: distjet train conf/calibration/constituent_gnn.yaml dataset=outputs/dataset output=outputs/train
    """
    run_verb("train", ["--keys"] if keys else arguments or [], verbose=verbose)


@app.command()
def tune(arguments: Arguments = None, verbose: Verbose = False, keys: Keys = False) -> None:
    """A sweep over hyperparameters and loss weights; the same command resumes.

    Example: distjet tune conf/sweep/quickstart.yaml base.dataset=outputs/dataset output=outputs/tune
    """
    run_verb("tune", ["--keys"] if keys else arguments or [], verbose=verbose)


@app.command("import-weights")
def import_weights(arguments: Arguments = None, verbose: Verbose = False, keys: Keys = False) -> None:
    """Weights that a tagger's authors have published -> a run like any other.

    Example: distjet import-weights conf/tagging/particle_net_jetclass.yaml weights=FILE.pt dataset=FOLDER output=FOLDER
    """
    run_verb("import-weights", ["--keys"] if keys else arguments or [], verbose=verbose)


@app.command()
def evaluate(arguments: Arguments = None, verbose: Verbose = False, keys: Keys = False) -> None:
    """Response and resolution before and after calibration -> metrics.json, plots, report.html.

    Example: distjet evaluate run=outputs/train output=outputs/evaluate
    """
    run_verb("evaluate", ["--keys"] if keys else arguments or [], verbose=verbose)


@app.command()
def predict(arguments: Arguments = None, verbose: Verbose = False, keys: Keys = False) -> None:
    """Calibrated jets and constituents of ROOT ntuples, all in the order of the input -> Parquet, or ROOT friend trees.

    Example: distjet predict run=outputs/train inputs=outputs/ntuples output=outputs/predictions format=root
    """
    run_verb("predict", ["--keys"] if keys else arguments or [], verbose=verbose)


@app.command()
def export(arguments: Arguments = None, verbose: Verbose = False, keys: Keys = False) -> None:
    """A trained network -> ONNX, for other programs; it is compared with the network on real jets.

    Example: distjet export run=outputs/train output=outputs/calibrator.onnx
    """
    run_verb("export", ["--keys"] if keys else arguments or [], verbose=verbose)


@app.command()
def quickstart(arguments: Arguments = None, verbose: Verbose = False, keys: Keys = False) -> None:
    """Simulate, prepare, train and evaluate on this machine, in a few minutes.

    Example: distjet quickstart output=outputs/quickstart
    """
    run_verb("quickstart", ["--keys"] if keys else arguments or [], verbose=verbose)


@app.command(context_settings={"ignore_unknown_options": True})
def submit(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="VERB [FILE.yaml ...] [dotted.key=value ...]", help="A command line of distjet."),
    ] = None,
    address: Annotated[str | None, typer.Option(help="Job server; default: RAY_API_SERVER_ADDRESS.")] = None,
    submission_id: Annotated[str | None, typer.Option(help="Name of the job: followed if it exists. Needs no VERB.")] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Submit, and do not follow.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop the job of --submission-id.")] = False,
    entrypoint_num_cpus: Annotated[float | None, typer.Option(help="Cores for the verb's own process.")] = None,
    entrypoint_num_gpus: Annotated[float | None, typer.Option(help="GPUs for the verb's own process.")] = None,
) -> None:
    """Run a verb as a job on a Ray cluster, with this folder's code; Ctrl-C leaves it running.

    Example: distjet submit train dataset=/shared/dataset output=/shared/train
    """
    from distjet.cluster.submit import JobOptions

    _set_up_logging(verbose=False)
    with _problems_as_messages("submit"):
        options = JobOptions(address, submission_id, not no_wait, entrypoint_num_cpus, entrypoint_num_gpus)
    raise typer.Exit(_submit(arguments or [], options, stop=stop))


def _submit(arguments: list[str], options: Any, *, stop: bool) -> int:
    from distjet.cluster import submit as job
    from distjet.config import unknown
    from distjet.verbs import CONFIGS

    with _problems_as_messages("submit"):
        if not arguments and options.submission_id is not None:
            return job.stop(options) if stop else job.follow_existing(options)
        if stop or not arguments:
            raise ConfigError("expected VERB FILE.yaml dotted.key=value; or --submission-id ID, with --stop to stop that job")
        verb, *rest = arguments
        if verb not in CONFIGS:
            raise ConfigError(unknown("verb", verb, CONFIGS))
        rest = [FLAGS.get(verb, {}).get(item, item) for item in rest]
    with _problems_as_messages(verb):  # the same errors as from the verb itself
        files, overrides = split_arguments(verb, [item for item in rest if item not in VERBOSE])
        config = load_verb(verb, files, overrides)
        files += [Path(file) for part in config.parts() for file in getattr(config, part).get("files", [])]
    with _problems_as_messages("submit"):
        return job.submit(verb, rest, files, config, options)


def main(verb: str | None = None) -> None:
    """Entry point of the `distjet` command, and of the jobs, each with its verb."""
    app(None if verb is None else [verb, *sys.argv[1:]], prog_name="distjet")
