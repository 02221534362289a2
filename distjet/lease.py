"""How do processes keep out of one another's way on an object store, which has no locks?

The store decides one thing for us: of several processes that write an object which must not be there yet, one succeeds. So
whoever writes to a folder holds an object `.lock/N` there, rewrites it now and then, and removes it at the end. One that is
not rewritten any more belongs to a process that died; who notices makes `.lock/N+1`, and again one of several succeeds. Another
process may have come when there was no lock, and have made `.lock/1`: so whoever has made one looks again, and may give way.
Ages are those of the store's clock, or waited for: the clocks of machines are not compared. A process on the same machine that
is gone is not waited for.

A process that was suspended for longer than a lease may find another one in its place, and ends. What both wrote meanwhile is
whole and the same: objects appear at once, and a run's identity and a dataset's manifest only where there is none.
"""

import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from distjet.errors import ConfigError
from distjet.storage import put, reaching

logger = logging.getLogger(__name__)

Owner = dict[str, str | int]

LOCKS = ".lock"
LEASE_S = 60.0
"A lease is over when it was not renewed for so long."
RENEWAL_S = 15.0
LOOK_S = 1.0
"Between two looks at a lease that may be over."
LARGEST_SKEW_S = 900.0
"S3 refuses requests of a machine whose clock is off by more."

CONTAINER = Path("/proc/self/ns/pid")
START = Path("/proc/sys/kernel/random/boot_id")
"Linux: the container's numbering of processes, and a random name of this start of the machine."


@contextmanager
def leased(folder: Path) -> Iterator[None]:
    """Be the only process that writes to a folder of an object store, for the time of the block.

    Raises:
        ConfigError: If another process is writing there, or the store does not let us in.
    """
    owner: Owner = {"process": os.getpid(), "machine": _machine(), "id": uuid.uuid4().hex}
    with reaching(folder):
        mine, ended = _take(folder, owner), threading.Event()
    renewal = threading.Thread(target=_renew, args=(mine, owner, ended), name="distjet-lease", daemon=True)
    renewal.start()
    try:
        yield
    finally:
        ended.set()
        renewal.join()
        mine.unlink(missing_ok=True)


def _take(folder: Path, owner: Owner) -> Path:
    while True:
        try:
            over = _wait_until_all_are_over(folder)
        except FileNotFoundError:
            continue  # one has ended by itself, and there may be another one by now
        mine = folder / LOCKS / f"{max((int(lock.name) for lock in over), default=0) + 1:08d}"
        try:
            put(mine, json.dumps(owner).encode(), only_once=True)
        except FileExistsError:
            continue  # another one was faster: see whether it lives
        _check_that_it_counts(mine, owner)
        if _has_to_give_way(mine, over):
            mine.unlink(missing_ok=True)
            continue
        for lock in over:
            lock.unlink(missing_ok=True)
        return mine


def _has_to_give_way(mine: Path, over: Sequence[Path]) -> bool:
    """Find out whether another process has taken a lock meanwhile, under another number because it saw other locks.

    Of two processes at least one sees the other here, as both have written before they look. The higher one goes, so the lower
    one looks again; where the higher one has looked before and is there to stay, the lower one goes.
    """
    others = [lock for lock in _locks(mine.parents[1]) if lock not in (mine, *over)]
    if not others or others[0].name < mine.name:
        return bool(others)
    time.sleep(LOOK_S)
    return any(lock not in (mine, *over) for lock in _locks(mine.parents[1]))


def _check_that_it_counts(mine: Path, owner: Owner) -> None:
    """Find out whether the store is one that ignores conditions: then it writes the same object a second time."""
    try:
        put(mine, json.dumps(owner).encode(), only_once=True)
    except FileExistsError:
        return
    mine.unlink()
    raise ConfigError(
        f"{mine.parents[1]}: this object store ignores conditions (If-None-Match), so it cannot keep two processes apart; "
        "choose another one, or a folder"
    )


def _locks(folder: Path) -> list[Path]:
    """Return the locks of a folder, the lowest number first."""
    return sorted((folder / LOCKS).glob("*"), key=lambda lock: lock.name)


def _wait_until_all_are_over(folder: Path) -> list[Path]:
    """Return the locks that are there, when nobody holds one.

    Raises:
        ConfigError: If one is renewed meanwhile.
        FileNotFoundError: If one is removed meanwhile.
    """
    locks = _locks(folder)
    for lock in locks:
        _wait_until_over(folder, lock)
    return locks


def _wait_until_over(folder: Path, lock: Path) -> None:
    said = lock.read_text()
    owner = json.loads(said)
    if _is_gone(owner) or time.time() - lock.stat().st_mtime > LARGEST_SKEW_S:
        return
    logger.warning("%s was being written by %s: waiting whether it still is", folder, _name(owner))
    started = time.monotonic()
    while time.monotonic() - started < LEASE_S:
        time.sleep(LOOK_S)
        if lock.read_text() != said:
            raise ConfigError(f"{folder} is being written by another process ({_name(owner)})")


def _renew(mine: Path, owner: Owner, ended: threading.Event) -> None:
    from botocore.exceptions import BotoCoreError

    folder = mine.parents[1]
    for renewal in count(1):
        if ended.wait(RENEWAL_S):
            return
        try:
            if not (overtaken := _is_overtaken(mine, ended)):
                put(mine, json.dumps(owner | {"renewal": renewal}).encode())
        except (OSError, BotoCoreError) as error:
            logger.warning("the lock of %s could not be renewed (%s); trying again", folder, error)
            continue
        if overtaken:
            logger.error("%s was taken over by another process while this one was suspended; ending", folder)
            os.kill(os.getpid(), signal.SIGTERM)
            return


def _is_overtaken(mine: Path, ended: threading.Event) -> bool:
    """Tell whether another process holds a newer lock, and not only until it gives way. That mine is gone proves nothing."""
    newer = [lock for lock in _locks(mine.parents[1]) if lock.name > mine.name]
    if not newer or ended.wait(LOOK_S):
        return False
    return any(lock in newer for lock in _locks(mine.parents[1]))


def _is_gone(owner: Owner) -> bool:
    """Tell whether the owner was a process on this machine that does not exist any more."""
    if owner["machine"] != _machine():
        return False
    try:
        os.kill(int(owner["process"]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # it exists, and is somebody else's
        return False
    return False


def _machine() -> str:
    """Name this machine and its start; containers on it have processes of their own, which have the same numbers.

    The number of the first container is the same on every machine, and the names of two can be, hence the start.
    """
    containers = os.readlink(CONTAINER) if CONTAINER.exists() else ""
    return " ".join([socket.gethostname(), containers, START.read_text().strip() if START.exists() else ""]).strip()


def _name(owner: Owner) -> str:
    return f"process {owner['process']} on {str(owner['machine']).partition(' ')[0]}"
