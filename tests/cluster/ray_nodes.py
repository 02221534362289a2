"""A real Ray cluster of two nodes on this machine: `ray start` twice, with a token, on ports of its own.

The nodes have one core each and addresses of their own: 127.0.0.2, and the machine's own for the head. All processes of a node
are in the session of its `ray start --block`, by which they are ended: never with `ray stop`, which would end every Ray of this
user.
"""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent
"Where `ray`, `distjet` and `python` of these tests are."


@dataclass(frozen=True)
class RayNodes:
    """A running cluster, as its user knows it."""

    address: str
    "Of the job server."
    environment: Mapping[str, str]
    "For commands that may talk to it."


@contextmanager
def ray_nodes(folder: Path) -> Iterator[RayNodes]:
    """Start a head and a second node, wait for both, and end them afterwards."""
    token = folder / "token"
    token.write_text(secrets.token_hex(32))
    environment = user_environment() | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    gcs, dashboard, *others = free_ports(5)
    head = [
        *("--head", f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"),
        *(f"--temp-dir={folder / '1'}", f"--ray-client-server-port={others[0]}"),
    ]
    # in a folder that both nodes use, each would delete the working directory of the other one's job
    second = [f"--address=127.0.0.1:{gcs}", "--node-ip-address=127.0.0.2", f"--temp-dir={folder / '2'}"]
    with (
        node([*head, f"--dashboard-agent-listen-port={others[1]}"], environment, folder / "head.log"),
        node([*second, f"--dashboard-agent-listen-port={others[2]}"], environment, folder / "second.log"),
    ):
        yield RayNodes(f"http://127.0.0.1:{dashboard}", environment)


@contextmanager
def node(options: list[str], environment: Mapping[str, str], log: Path) -> Iterator[None]:
    """Start one node of one core and wait until it says that it runs."""
    size = ["--num-cpus=1", "--num-gpus=0", f"--object-store-memory={100 * 2**20}"]
    free = ["--min-worker-port=0", "--max-worker-port=0"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [str(BIN / "ray"), "start", "--block", "--disable-usage-stats", *options, *size, *free],
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 60
        while "Ray runtime started" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield
    finally:
        end_session(process)


def end_session(leader: subprocess.Popen[bytes]) -> None:
    """End a process that leads a session, and all that it has started."""
    members = [process for process in psutil.process_iter() if session_of(process.pid) == leader.pid]
    for process in members:
        process.kill()
    leader.wait(timeout=30)
    psutil.wait_procs(members, timeout=30)


def session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def free_ports(number: int) -> list[int]:
    """Find ports that nobody listens on; held together, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


def user_environment() -> dict[str, str]:
    """Return this process's environment without what would lead to another Ray, and with our commands first on the PATH."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    quick = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2", "RAY_USAGE_STATS_ENABLED": "0"}
    return kept | quick | {"PATH": f"{BIN}:{kept['PATH']}"}
