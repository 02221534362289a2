"""What does a user see when a worker dies?

One line with the cause, and the last lines that the worker wrote. Ray's controller learns of it, in another process than the
driver and maybe on another machine; so it writes rows into the run's directory, where the driver finds them like the epochs.
Where one worker dies, the others fail a moment later because it does not answer: only the first is shown.
"""

import json
import os
import re
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distjet.errors import UserError
from distjet.run_directory import write_atomically

if TYPE_CHECKING:
    from ray.train import UserCallback

DEATHS_FILE = "deaths.jsonl"
NUM_LINES = 10
"Last lines of a worker's log that are shown."
RAYS_OWN = (":job_id:", ":actor_name:", "Reporting training result ", "Setting up process group")
"What Ray writes into these logs when all is well."
CAUSES = {
    "low on memory": "Ray ended it, because its machine ran low on memory",
    "node has died": "its machine was lost",
    "node was terminated": "its machine was lost",
}
"What Ray's text says of a worker that is gone, and what we do; the first that fits."
UNKNOWN = "its process ended without a word, as by a kill, a crash, or for want of memory"


@dataclass(frozen=True)
class Death:
    """A worker that is no more.

    Attributes:
        world_rank: Which worker.
        what: What happened to it, in words.
        process: Its number and its machine, `123 on host`; empty if Ray does not say.
        log: The file on that machine where Ray keeps what it wrote; empty if Ray does not say.
        last_lines: The end of that, where the file is at hand.
    """

    world_rank: int
    what: str
    process: str = ""
    log: str = ""
    last_lines: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Describe it: one line, then what the worker said last."""
        process = f" (process {self.process})" if self.process else ""
        log = f"; its log: {self.log}" if self.log else ""
        return [f"worker {self.world_rank}{process} {self.what}{log}", *(f"    {line}" for line in self.last_lines)]


def read_deaths(run: Path) -> list[Death]:
    """Read what happened to the workers of a run since it was started last; nothing where all is well."""
    file = run / DEATHS_FILE
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
    return [Death(**row | {"last_lines": tuple(row["last_lines"])}) for row in rows]


def add_death(run: Path, world_rank: int, what: str) -> None:
    """Write down, in the worker itself, why it ends."""
    _append(run, Death(world_rank, what, f"{os.getpid()} on {socket.gethostname()}"))


def noting_deaths(run: Path) -> "UserCallback":
    """Return what Ray's controller calls when workers have failed."""
    from ray.train import UserCallback

    class NoteDeaths(UserCallback):
        def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
            del run_context
            note(run, worker_exceptions)

    return NoteDeaths()


def note(run: Path, worker_exceptions: Mapping[int, Exception]) -> None:
    """Write down which worker failed first, and why, unless it has said so itself; a problem of the user is reported elsewhere.

    Args:
        run: The run's directory.
        worker_exceptions: By world rank, as Ray's controller found them.
    """
    if any(isinstance(error, UserError) for error in worker_exceptions.values()):
        return
    dead = {rank: describe(rank, error) for rank, error in worker_exceptions.items() if hasattr(error, "health_check_failure")}
    failed = {rank: Death(rank, f"failed: {error!r}") for rank, error in worker_exceptions.items()}
    first = min((dead or failed).items())[1]
    if not first.process or first.process not in {death.process for death in read_deaths(run)}:
        _append(run, first)


def describe(world_rank: int, error: Exception) -> Death:
    """Say what happened to a worker's process; all that Ray tells about it is in the text of its exception."""
    text = str(error)
    pid, host, ray_log = (_found(rf"\b{name}='?([^\s',]+)", text) for name in ("pid", "hostname", "log_file_path"))
    reason = next((ours for rays, ours in CAUSES.items() if rays in text), UNKNOWN)
    if not ray_log.startswith("/"):  # Ray keeps no logs there
        return Death(world_rank, f"died: {reason}", f"{pid} on {host}")
    log = Path(ray_log).parents[1] / Path(ray_log).stem.replace("ray-train-app-worker-", "worker-")
    files = sorted(log.parent.glob(f"{log.name}-*.err")) if host == socket.gethostname() else []
    return Death(world_rank, f"died: {reason}", f"{pid} on {host}", str(files[0] if files else f"{log}-*.err"), _tail(files))


def _append(run: Path, death: Death) -> None:
    rows = [*read_deaths(run), death]
    write_atomically(run / DEATHS_FILE, "".join(json.dumps(asdict(row)) + "\n" for row in rows))


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    return found[1] if found else ""


def _tail(files: list[Path]) -> tuple[str, ...]:
    """Read the last lines, without those of Ray."""
    lines = [line for file in files for line in file.read_text(errors="replace").splitlines()]
    return tuple([line for line in lines if line and not line.startswith(RAYS_OWN)][-NUM_LINES:])
