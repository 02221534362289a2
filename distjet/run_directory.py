"""What does a run leave on disk, and how does the same command find it again?

A run's identity is the hash of its configuration without resources and paths, so the same science on other hardware is the
same run. Files appear under their final name only when complete: on a file system written beside it, synced, renamed; on an
object store by one request, which has the same effect. This is the one module that knows the difference when it writes.
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from distjet.errors import ConfigError, DiskFullError
from distjet.lease import leased
from distjet.storage import is_remote, put, put_file

logger = logging.getLogger(__name__)

IDENTITY_FILE = "identity.json"
LOCK_FILE = ".lock"
NOTHING_OF_VALUE = {IDENTITY_FILE, LOCK_FILE, ".inputs", "config.yaml", "progress.json", "failure.json", "deaths.jsonl"}
NOTHING_OF_VALUE |= {"mlflow.json", "stop", "at_work", "ray"}
"What a run leaves that stopped before it made anything; another configuration may take such a directory."
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"What an operating system answers that has no room for a file."
NOT_OFFERED = {errno.EPERM, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EMLINK}
"What a file system answers that has no locks, no hard links, or no way to sync a folder."


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write `data` to `path` so that a reader sees the old file or the whole new one, never a part."""
    content = data.encode() if isinstance(data, str) else data
    if is_remote(path):
        put(path, content)
        return
    with appearing_whole(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def appearing_whole(path: Path, *, only_once: bool = False) -> Iterator[Path]:
    """Give a temporary local path to write to; it becomes `path` when the block ends, synced and in one go.

    It lies beside `path`, or for an object store among this machine's temporary files (TMPDIR). If the block raises, the
    temporary file is removed and `path` stays what it was.

    Args:
        path: Where the file is to appear.
        only_once: Whether a file that is there already stays.

    Raises:
        FileExistsError: If `only_once` and there is a file with another content.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="distjet-") as folder:
            yield (temporary := Path(folder, path.name))
            _upload(temporary, path, only_once=only_once)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with saying_which_disk_is_full(path):
            yield temporary
            _sync(temporary)
            if only_once:
                _link(temporary, path)
            else:
                temporary.replace(path)
            _sync_names(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_names(folder: Path) -> None:
    try:
        _sync(folder)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise


def _upload(temporary: Path, path: Path, *, only_once: bool) -> None:
    try:
        put_file(temporary, path, only_once=only_once)
    except FileExistsError:
        if path.read_bytes() != temporary.read_bytes():
            raise


def _link(temporary: Path, path: Path) -> None:
    """Give a file its name unless the name is taken, which a file system decides in one step, also among several machines."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        if path.read_bytes() != temporary.read_bytes():
            raise
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise
        logger.warning("%s has no hard links: keep a second process from writing there at the same time", path.parent)
        if path.exists() and path.read_bytes() != temporary.read_bytes():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        temporary.replace(path)


def is_temporary(path: Path, name: str) -> bool:
    """Tell whether a file is a temporary one that a killed process left; `name` is a pattern of what it would have become."""
    return re.fullmatch(rf"\.{name}\.[0-9a-f]{{32}}\.tmp", path.name) is not None


def write_json(path: Path, content: Any) -> None:
    """Write `content` as readable JSON; a NaN or an infinity in it is an error, not invalid JSON."""
    write_atomically(path, _as_json(content))


def write_json_once(path: Path, content: Any) -> None:
    """Write `content` as readable JSON where there is none: of several processes that try, one succeeds.

    Raises:
        FileExistsError: If there is a file with another content; with the same content, all is well.
    """
    with appearing_whole(path, only_once=True) as temporary:
        temporary.write_text(_as_json(content))


def _as_json(content: Any) -> str:
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


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
        with suppress(FileExistsError):  # another process was faster: see below whether it is the same run
            write_json_once(marker, wanted)
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
def naming_a_full_disk(output: Path, needed: Callable[[], str] = str) -> Iterator[None]:
    """Say what to do where a disk is full, a quota used up, or a file larger than allowed, here or in a task.

    Args:
        output: The run's directory.
        needed: Says how much more is needed, where that is known.

    Raises:
        DiskFullError: In place of what the operating system reports.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        named, folder = _full_folder(error, output)
        space = shutil.disk_usage(folder)
        hint = "What is finished is kept: make room, and run the same command again."
        where = f"in {folder}" if is_remote(named) else "there"
        left = f"{in_megabytes(space.free)} of {in_megabytes(space.total)} are left {where}"
        raise DiskFullError(f"{named} cannot be written to: {error}; {left}{needed()}. {hint}") from error


def _full_folder(error: OSError, output: Path) -> tuple[Path, Path]:
    """Return the folder that has no room, as the user knows it, and one on its disk that exists.

    It is that of the file which the error names, or else the run's; what goes to an object store waits in a temporary one.
    """
    own = Path(tempfile.gettempdir()) if is_remote(output) else output
    file = Path(error.filename) if isinstance(error.filename, str) else own
    existing = next(folder for folder in (own if file.is_relative_to(own) else file, *file.parents) if folder.is_dir())
    return (output if file.is_relative_to(own) else existing), existing


@contextmanager
def saying_which_disk_is_full(file: Path) -> Iterator[None]:
    """Put the name of a file into the error of an operating system that has no room for it: `write` and `fsync` do not."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL and error.filename is None:
            error.filename = str(file)
        raise


def in_megabytes(size: float) -> str:
    """Write a number of bytes for people to read."""
    return f"{size / 1e6:,.1f} MB"


@contextmanager
def locked(output: Path) -> Iterator[None]:
    """Keep other processes out of a run's directory for the time of the block; the lock goes with the process.

    Raises:
        ConfigError: If another process is writing there, or nobody can.
        DiskFullError: If the disk is full, whoever finds it so in the block.
    """
    with naming_a_full_disk(output), leased(output) if is_remote(output) else _locked(output):
        yield


@contextmanager
def _locked(output: Path) -> Iterator[None]:
    with _open_lock(output) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise ConfigError(f"{output} is being written by another process ({handle.read().strip()})") from None
        except OSError as error:
            if error.errno not in NOT_OFFERED:
                raise
            logger.warning("%s has no file locks: keep a second process from writing there at the same time", output)
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


def _open_lock(output: Path) -> TextIO:
    try:
        output.mkdir(parents=True, exist_ok=True)
        return (output / LOCK_FILE).open("a+")
    except OSError as error:
        if error.errno in DISK_FULL:
            raise
        message = f"output: {output} is no folder that can be written to: {error}; choose another output=..."
        raise ConfigError(message) from error


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
