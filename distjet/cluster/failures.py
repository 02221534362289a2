"""What does a training leave behind that failed for good, and who finds it?

A file in the run's directory. Workers that are started again find it and leave at once, because trying again would not help;
the driver raises what it says; a sweep records its trial as such.
"""

from pathlib import Path

from distjet.cluster.deaths import read_deaths
from distjet.errors import HinderedError, LostError, NonFiniteError, OutOfMemoryError, UserError
from distjet.run_directory import read_json, write_json
from distjet.training.memory import ON_DEVICE, ON_HOST
from distjet.training.settings import TrainConfig

FAILURE_FILE = "failure.json"
OUTCOMES: dict[str, type[UserError]] = {
    "non_finite": NonFiniteError,
    "out_of_memory": OutOfMemoryError,
    "hindered": HinderedError,
    "lost": LostError,
    "error": UserError,
}
"How each outcome is named in the file, and what it is in Python; the first that fits."


def record(run: Path, error: UserError, world_rank: int | None = None) -> None:
    """Write a failure down, unless another worker has: the first one is the cause.

    Args:
        run: The run's directory.
        error: What happened.
        world_rank: Which worker it happened to; None where a worker died without a word.
    """
    if not (run / FAILURE_FILE).is_file():
        write_json(run / FAILURE_FILE, {"outcome": outcome_of(error), "message": str(error), "world_rank": world_rank})


def outcome_of(error: UserError) -> str:
    """Name a failure as the file does."""
    return next(name for name, kind in OUTCOMES.items() if isinstance(error, kind))


def recorded(run: Path) -> UserError | None:
    """Read the failure of a run, if it failed."""
    if not (run / FAILURE_FILE).is_file():
        return None
    found = read_json(run / FAILURE_FILE)
    return OUTCOMES[found["outcome"]](found["message"])


def oom_kills() -> int:
    """Count the processes that the kernel of this machine has ended for lack of memory; 0 where it does not tell."""
    counts = Path("/proc/vmstat")
    lines = counts.read_text().splitlines() if counts.is_file() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def lost_workers(error: Exception, config: TrainConfig, num_oom_kills: int) -> UserError | None:
    """Say that Ray has given a training up because workers were lost, and write it down.

    Args:
        error: What Ray has raised.
        config: The training.
        num_oom_kills: Processes that this machine's kernel has ended for lack of memory meanwhile.

    Returns:
        What happened to the workers, or the problem of the user that one of them could not write down, because the disk was
        full; None where they were not lost, but one raised another exception.
    """
    from ray.exceptions import OutOfMemoryError as EndedToSaveMemory
    from ray.exceptions import RayActorError
    from ray.train import WorkerGroupError

    if not isinstance(error, WorkerGroupError):
        return None
    causes = [getattr(failure, "health_check_failure", failure) for failure in error.worker_failures.values()]
    if problem := next((cause for cause in causes if isinstance(cause, UserError)), None):
        return problem
    if not any(isinstance(cause, RayActorError | EndedToSaveMemory) for cause in causes):
        return None
    said = "\n".join(line for death in read_deaths(config.output)[-1:] for line in death.lines())
    tried = f"a worker was lost {config.resources.max_failures + 1} times (resources.max_failures)"
    lost: UserError = LostError(f"{tried}; the state is in a checkpoint, and the same command continues\n{said}")
    if num_oom_kills > 0 or any(isinstance(cause, EndedToSaveMemory) for cause in causes):
        lost = OutOfMemoryError(f"{tried}, because its machine ran out of memory; {ON_DEVICE}; {ON_HOST}\n{said}")
    record(config.output, lost)
    return lost
