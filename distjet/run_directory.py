"""What does a run leave on disk, and how does the same command find it again?

A run's identity is the hash of its configuration without resources and paths, so the same science on other hardware is the
same run. Files appear under their final name only when complete: written beside it, synced, renamed.
"""

import fcntl
import hashlib
import json
import os
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distjet.errors import ConfigError

IDENTITY_FILE = "identity.json"
LOCK_FILE = ".lock"
NOTHING_OF_VALUE = {IDENTITY_FILE, LOCK_FILE, "config.yaml", "progress.json", "failure.json", "ray"}
"What a run leaves that stopped before it made anything; another configuration may take such a directory."


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write `data` to `path` so that a reader sees the old file or the whole new one, never a part."""
    with appearing_whole(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def appearing_whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; it becomes `path` when the block ends, synced and in one go.

    If the block raises, the temporary file is removed and `path` stays what it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write `content` as readable JSON; a NaN or an infinity in it is an error, not invalid JSON."""
    write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file."""
    return json.loads(path.read_text())


def identity_hash(content: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal characters that depend on the content alone, not on the order of its keys."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()


def claim(output: Path, verb: str, identity: Mapping[str, Any]) -> None:
    """Take `output` for a run of `verb` with this identity, or find that it is taken by the same run already.

    Args:
        output: The run's directory; created if absent.
        verb: The verb that writes there.
        identity: The part of the configuration that defines the result.

    Raises:
        ConfigError: If the directory holds the output of another verb or another configuration.
    """
    marker = output / IDENTITY_FILE
    found_files = [] if marker.exists() or not output.is_dir() else sorted(p.name for p in output.iterdir())
    if strangers := [name for name in found_files if not name.startswith(".")]:
        raise ConfigError(
            f"{output} holds files that no run of distjet wrote ({strangers[0]}, ...); choose an empty output=..."
        )
    wanted: dict[str, Any] = {"verb": verb, "identity": identity_hash(identity), "config": dict(identity)}
    if not marker.exists():
        write_json(marker, wanted)
        return
    found = read_json(marker)
    if found["identity"] == wanted["identity"] and found["verb"] == verb:
        return
    if {path.name for path in output.iterdir()} <= NOTHING_OF_VALUE:
        write_json(marker, wanted)
        return
    if found["verb"] != verb:
        raise ConfigError(f"{output} holds the output of `distjet {found['verb']}`; choose another output=...")
    changed = ", ".join(differing_keys(found["config"], wanted["config"]))
    raise ConfigError(
        f"{output} holds the output of another `distjet {found['verb']}` (different: {changed}). "
        "Choose another output=..., or remove that directory."
    )


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other processes out of a run's directory for the time of the block; the lock goes with the process.

    Raises:
        ConfigError: If another process is writing there.
    """
    output.mkdir(parents=True, exist_ok=True)
    with (output / LOCK_FILE).open("a+") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise ConfigError(f"{output} is being written by another process ({handle.read().strip()})") from None
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()}")
        handle.flush()
        try:
            yield
        finally:
            if not (output / IDENTITY_FILE).exists():  # it was refused: leave no trace
                (output / LOCK_FILE).unlink()
                if not any(output.iterdir()):
                    output.rmdir()


def differing_keys(left: Mapping[str, Any], right: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the dotted keys whose values differ between two nested mappings."""
    keys: list[str] = []
    for key in sorted({*left, *right}):
        a, b = left.get(key), right.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            keys += differing_keys(a, b, f"{prefix}{key}.")
        elif a != b:
            keys.append(f"{prefix}{key}")
    return keys
