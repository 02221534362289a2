"""How do processes keep out of one another's way on an object store, which has no locks?

The store decides one thing for us: of several processes that write an object which must not be there yet, one succeeds. So
whoever writes to a folder holds an object `.lock/N` there, rewrites it now and then, and removes it at the end. One that is
not rewritten any more belongs to a process that died; who notices makes `.lock/N+1`, and again one of several succeeds. Ages
are those of the store's clock, or waited for: the clocks of machines are not compared. A process on the same machine that is
gone is not waited for.

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
from collections.abc import Iterator
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
        newest = _newest(folder)
        if newest is not None:
            _wait_until_over(folder, newest)
        mine = folder / LOCKS / f"{int(newest.name) + 1 if newest else 1:08d}"
        try:
            put(mine, json.dumps(owner).encode(), only_once=True)
        except FileExistsError:
            continue  # another one was faster: see whether it lives
        _check_that_it_counts(mine, owner)
        if newest is not None:
            newest.unlink(missing_ok=True)
        return mine


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


def _newest(folder: Path) -> Path | None:
    return max((folder / LOCKS).glob("*"), key=lambda lock: lock.name, default=None)


def _wait_until_over(folder: Path, lock: Path) -> None:
    """Return when a lease is over; an error if it is renewed meanwhile."""
    try:
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
    except FileNotFoundError:  # it has ended by itself
        return


def _renew(mine: Path, owner: Owner, ended: threading.Event) -> None:
    from botocore.exceptions import BotoCoreError

    folder = mine.parents[1]
    for renewal in count(1):
        if ended.wait(RENEWAL_S):
            return
        try:
            newest = _newest(folder)
            put(mine, json.dumps(owner | {"renewal": renewal}).encode())
        except (OSError, BotoCoreError) as error:
            logger.warning("the lock of %s could not be renewed (%s); trying again", folder, error)
            continue
        if newest != mine:
            logger.error("%s was taken over by another process while this one was suspended; ending", folder)
            os.kill(os.getpid(), signal.SIGTERM)
            return


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
    """Name this machine; containers on it have processes of their own, which have the same numbers."""
    processes = Path("/proc/self/ns/pid")
    return f"{socket.gethostname()} {os.readlink(processes) if processes.exists() else ''}".strip()


def _name(owner: Owner) -> str:
    return f"process {owner['process']} on {str(owner['machine']).partition(' ')[0]}"
