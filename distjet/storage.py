"""Where do datasets and results lie: in a folder, or behind a URL on an object store?

A `Location` is a path that knows `/`, `.name`, `.exists()`, `.read_text()`, `.glob()`: a `pathlib.Path`, or for s3:// a path of
universal_pathlib (`distjet.store_path`), so that code which reads has one form. Code which writes goes through
`distjet.run_directory`, where object stores differ. Credentials and the address of the store come from the environment, as
boto reads it (AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL, ...), and never from a configuration, which is written beside
the results.

Nothing is remembered of what a store has answered: other processes write there too.
"""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlsplit

from pydantic import PlainSerializer, PlainValidator

from distjet.errors import ConfigError, DataError, MissingExtraError

URL_MARK = "://"
PATTERN_MARKS = "*?[]#"
"Have a meaning in patterns and URLs: of a folder so named, other files would be found, or none."
PROTOCOL = "s3"
"The one that is tested; with another one, atomic and conditional writes would have to be."

NO_BUCKET = "NoSuchBucket"
CONFLICTS = ("ConditionalRequestConflict", "OperationAborted")
"Error codes of S3. A conflict says nothing about who has won."
CONFLICT_TRIES, CONFLICT_PAUSE_S = 6, 0.2

REMOTE_LOOK_S = 3.0
"Shortest time between two looks at an object store."

SECRET_NAME = re.compile(
    r"secret|passw|passphrase|pwd|token|credential|signature|authorization|cookie|bearer|(access|api|private)[_-]?key"
    r"|^(authz?|sig|key)$",
    re.IGNORECASE,
)
"Names of options and of parts of URLs whose values nobody else should see."
WITH_USERS = ("root",)
"Protocols whose URLs name a user who is no secret; elsewhere, the name can be a token."
USER_INFO = re.compile(r"(\w+)://([^\s/?#@:]*)(:\S*)?@")
"A password reaches to the last @, as it may hold any character: too much is masked rather than too little."
TOLD = "would be written beside the results: give credentials in the environment"
QUERY_ITEM = re.compile(r"([?&#])([^\s=&?]+)=([^\s&'\"]+)")


def as_location(given: str | Path) -> Path:
    """Turn a local path or a URL s3://bucket/folder into something with the interface of a path.

    Raises:
        ValueError: If it is neither, or the URL carries a secret, or is one no longer.
        MissingExtraError: If the packages for remote files are not installed.
    """
    if is_remote(given):
        return given  # type: ignore[return-value]
    if not isinstance(given, str | Path):
        raise ValueError(f"expected a path, or {PROTOCOL}://bucket/folder")
    text = str(given)
    if URL_MARK not in text:
        if text.startswith(f"{PROTOCOL}:/"):
            raise ValueError("a URL has two slashes, which pathlib.Path takes for one: give it as text")
        return Path(given)
    protocol, _, rest = text.partition(URL_MARK)
    if protocol != PROTOCOL:
        raise ValueError(f"expected a path, or {PROTOCOL}://bucket/folder")
    check_url(text)
    _check_place(rest.removesuffix("/"))
    return _on_store(text.removesuffix("/"))


def _check_place(place: str) -> None:
    """Refuse a bucket and folder that the store's library would read as something else."""
    parts = place.split("/")
    if set(parts[0]) & set(":@"):
        raise ValueError(f"a bucket has neither ':' nor '@'; a user or a password {TOLD}")
    if {"", ".", ".."} & set(parts) or set(place) & set(PATTERN_MARKS):
        raise ValueError(f"expected {PROTOCOL}://bucket/folder, without '.', '..', '//' and any of {PATTERN_MARKS}")


def _on_store(url: str) -> Path:
    try:
        import s3fs  # noqa: F401  (which is imported later, where its absence would be a riddle)

        from distjet.store_path import StorePath
    except ImportError as error:
        raise MissingExtraError(f"{url} needs a package that is not installed ({error})", "remote") from error
    return StorePath(url, use_listings_cache=False)  # type: ignore[return-value]


def is_remote(path: object) -> bool:
    """Tell whether a location is on an object store."""
    return not isinstance(path, Path) and hasattr(path, "storage_options")


Location = Annotated[Path, PlainValidator(as_location), PlainSerializer(str, return_type=str, when_used="json")]
"A configuration key that names a local path or s3://bucket/folder."

DATABASE_FILE = re.compile(r"(sqlite(?:\+\w+)?:///)(?!:memory:)([^?]+)")


@dataclass(frozen=True)
class Place:
    """Marks a configuration field whose text may name a local file, so that all places of a configuration can be found."""

    words: tuple[str, ...] = ()
    "Texts that name no place."

    def local(self, text: str) -> tuple[str, Path] | None:
        """Split a text into what stands before a local path (`sqlite:///`, or nothing) and the path; None if it names none."""
        if found := DATABASE_FILE.match(text):
            return found[1], Path(found[2])
        return None if URL_MARK in text or text in self.words else ("", Path(text).expanduser())


# --- secrets -------------------------------------------------------------------------------------------------------


def check_url(url: str) -> None:
    """Refuse a URL with a password or a signature in it: a configuration and a manifest repeat it.

    Raises:
        ValueError: If there is one; the message does not repeat it.
    """
    if URL_MARK not in url:
        return
    parts = urlsplit(url)
    if parts.password is not None or _may_hold_a_password(parts.scheme, url.partition(URL_MARK)[2]):
        raise ValueError(f"a URL with a user or a password {TOLD} (an @ that belongs to the path is written %40)")
    for name, _ in [item for part in (parts.query, parts.fragment) for item in parse_qsl(part, keep_blank_values=True)]:
        if SECRET_NAME.search(name):
            raise ValueError(f"a URL with {name!r} {TOLD}")


def _may_hold_a_password(protocol: str, rest: str) -> bool:
    """Tell whether there is an @ that can end a user and a password, which may hold a slash, a question mark or a hash."""
    server = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if protocol in WITH_USERS:  # where paths with an @ are, and cannot be written otherwise
        return ":" in server and "@" in rest and not server.rpartition(":")[2].isdigit()
    return "@" in server or (":" in server and "@" in rest)


def check_options(options: Mapping[str, Any], place: str = "") -> None:
    """Refuse options of a file system that hold a secret, at any depth.

    Raises:
        ValueError: If there is one; the message names the key, not the value.
    """
    for name, value in options.items():
        if SECRET_NAME.search(str(name)):
            raise ValueError(f"{place}{name} {TOLD}")
        _check_option(value, f"{place}{name}")


def _check_option(value: Any, place: str) -> None:
    if isinstance(value, Mapping):
        check_options(value, f"{place}.")
    elif isinstance(value, str):
        check_url(value)
    elif isinstance(value, Sequence | Set):
        items = list(value)
        if len(items) == 2 and isinstance(items[0], str):  # a pair of a name and a value, as headers can be given
            check_options({items[0]: items[1]}, f"{place}.")
        for item in items:
            _check_option(item, place)


def without_secrets(text: str) -> str:
    """Mask the passwords and signatures of the URLs in a text."""

    def mask_user(found: re.Match[str]) -> str:
        protocol, user, password = found.groups()
        return f"{protocol}://{user if password or protocol in WITH_USERS else '***'}{':***' if password else ''}@"

    def mask_item(found: re.Match[str]) -> str:
        start, name, value = found.groups()
        return f"{start}{name}={'***' if SECRET_NAME.search(name) else value}"

    return QUERY_ITEM.sub(mask_item, USER_INFO.sub(mask_user, text))


def poll_interval_s(location: Path, local_s: float) -> float:
    """Say how often to look for a file that another process writes: a look at an object store is a request that costs."""
    return max(local_s, REMOTE_LOOK_S) if is_remote(location) else local_s


# --- paths ---------------------------------------------------------------------------------------------------------


def within(folder: Path, name: str) -> Path:
    """Return a file of a folder by the name that a file of ours gives, if it is a name in that folder.

    Raises:
        DataError: If the name is absolute, has `..` in it, or is none.
    """
    parts = name.split("/") if isinstance(name, str) else [""]
    if parts[0] in ("", ".", "..") or ".." in parts or URL_MARK in name or "\\" in name or "\0" in name:
        raise DataError(f"{folder}: {name!r} is not the name of a file in this folder; it was changed by hand")
    return folder / name


@contextmanager
def reaching(location: Path) -> Iterator[None]:
    """Say what to do where an object store does not let us in, or does not answer.

    Raises:
        ConfigError: In place of what the store's library raises. On local paths, nothing is changed.
    """
    if not is_remote(location):
        yield
        return
    from botocore.exceptions import BotoCoreError

    try:
        yield
    except (BotoCoreError, PermissionError, ConnectionError, FileNotFoundError) as error:
        said = without_secrets(f"{type(error).__name__}: {error}")
        if isinstance(error, FileNotFoundError) and _code(error) != NO_BUCKET:
            raise
        hint = "credentials and address come from the environment, as boto reads it (AWS_PROFILE, AWS_ENDPOINT_URL, ...)"
        raise ConfigError(f"{location} cannot be reached ({said}); {hint}") from error


def _code(error: BaseException | None) -> str | None:
    """Return S3's name for what went wrong; None if the store has given none."""
    while error is not None and not hasattr(error, "response"):
        error = error.__cause__ or error.__context__
    return None if error is None else error.response.get("Error", {}).get("Code")


# --- reading and writing on an object store --------------------------------------------------------------------------


def put(location: Path, data: bytes, *, only_once: bool = False) -> None:
    """Write an object in one request (large ones in parts), which others see whole or not at all.

    Raises:
        FileExistsError: If `only_once` and there is one already; of several processes that try, the store lets one succeed.
    """
    place: Any = location
    _write(lambda: place.fs.pipe_file(place.path, data, **_mode(only_once)))


def put_file(source: Path, location: Path, *, only_once: bool = False) -> None:
    """Write a local file as an object; see `put`."""
    place: Any = location
    _write(lambda: place.fs.put_file(str(source), place.path, **_mode(only_once)))


def _write(request: Callable[[], object]) -> None:
    """Write, and again where the store asks for it because two processes have written the same object at the same time."""
    for attempt in count(1):
        try:
            request()
            return
        except OSError as error:
            if _code(error) not in CONFLICTS or attempt == CONFLICT_TRIES:
                raise
        time.sleep(CONFLICT_PAUSE_S * attempt)


def _mode(only_once: bool) -> dict[str, str]:
    return {"mode": "create"} if only_once else {}


def read_ranges(wanted: list[tuple[Path, int, int]]) -> list[bytes]:
    """Fetch ranges of bytes (location, first, one past the last) of objects, many at a time.

    Raises:
        OSError: If one cannot be read.
    """
    if not wanted:
        return []
    files = wanted[0][0].fs  # type: ignore[attr-defined]
    paths, starts, stops = ([item[0].path for item in wanted], [item[1] for item in wanted], [item[2] for item in wanted])  # type: ignore[attr-defined]
    return files.cat_ranges(paths, starts, stops, max_gap=None, on_error="raise")


def sizes_of_files(folder: Path) -> dict[str, int]:
    """Return the sizes of the files in a folder by their names, without those in folders below; none where there is no folder.

    On an object store this is one request for a thousand files, where asking for each one would be a thousand.
    """
    if not folder.is_dir():
        return {}
    if not is_remote(folder):
        return {entry.name: entry.stat().st_size for entry in os.scandir(folder) if entry.is_file()}
    found = folder.fs.ls(folder.path, detail=True)  # type: ignore[attr-defined]
    return {item["name"].rpartition("/")[2]: item["size"] for item in found if item["type"] == "file"}


def remove_tree(folder: Path) -> None:
    """Remove a folder with all that is in it, if it is there; a link is not followed."""
    if not is_remote(folder):
        shutil.rmtree(folder, ignore_errors=True)
    elif folder.exists():
        folder.fs.rm(folder.path, recursive=True)  # type: ignore[attr-defined]


@contextmanager
def local_copy(file: Path) -> Iterator[Path]:
    """Give a local path to read a file from: itself, or a copy for the time of the block."""
    if not is_remote(file):
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="distjet-") as folder:
        copy = Path(folder, file.name)
        file.fs.get_file(file.path, str(copy))  # type: ignore[attr-defined]
        yield copy


def for_arrow(location: Path) -> tuple[Any, str]:
    """Return pyarrow's file system (None: local files) and the path there."""
    if not is_remote(location):
        return None, str(location)
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    return PyFileSystem(FSSpecHandler(location.fs)), location.path  # type: ignore[attr-defined]
