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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlsplit

from pydantic import PlainSerializer, PlainValidator

from distjet.errors import ConfigError, DataError, MissingExtraError

URL_MARK = "://"
PROTOCOL = "s3"
"The one that is tested; with another one, atomic and conditional writes would have to be."

REMOTE_LOOK_S = 3.0
"Shortest time between two looks at an object store."

SECRET_NAME = re.compile(r"secret|passw|token|credential|signature|authorization|access_?key|^(authz?|sig|key)$", re.IGNORECASE)
"Names of options and of parts of URLs whose values nobody else should see."
WITH_USERS = ("root",)
"Protocols whose URLs name a user who is no secret; elsewhere, the name can be a token."
USER_INFO = re.compile(r"(\w+)://([^\s/@:]*)(:[^\s/@]*)?@")
TOLD = "would be written beside the results: give credentials in the environment"
QUERY_ITEM = re.compile(r"([?&])([^\s=&?]+)=([^\s&'\"]+)")


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
    if ".." in rest.split("/") or not rest.strip("/"):
        raise ValueError(f"expected {PROTOCOL}://bucket/folder, without '..'")
    return _on_store(f"{PROTOCOL}{URL_MARK}{rest.strip('/')}")


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


# --- secrets -------------------------------------------------------------------------------------------------------


def check_url(url: str) -> None:
    """Refuse a URL with a password or a signature in it: a configuration and a manifest repeat it.

    Raises:
        ValueError: If there is one; the message does not repeat it.
    """
    if URL_MARK not in url:
        return
    parts = urlsplit(url)
    if parts.password is not None or (parts.username and parts.scheme not in WITH_USERS):
        raise ValueError(f"a URL with a user or a password {TOLD}")
    for name, _ in parse_qsl(parts.query, keep_blank_values=True):
        if SECRET_NAME.search(name):
            raise ValueError(f"a URL with {name!r} {TOLD}")


def check_options(options: Mapping[str, Any], place: str = "") -> None:
    """Refuse options of a file system that hold a secret, at any depth.

    Raises:
        ValueError: If there is one; the message names the key, not the value.
    """
    for name, value in options.items():
        if SECRET_NAME.search(str(name)):
            raise ValueError(f"{place}{name} {TOLD}")
        if isinstance(value, Mapping):
            check_options(value, f"{place}{name}.")
        elif isinstance(value, str):
            check_url(value)


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
        if isinstance(error, FileNotFoundError) and "bucket" not in said:
            raise
        hint = "credentials and address come from the environment, as boto reads it (AWS_PROFILE, AWS_ENDPOINT_URL, ...)"
        raise ConfigError(f"{location} cannot be reached ({said}); {hint}") from error


# --- reading and writing on an object store --------------------------------------------------------------------------


def put(location: Path, data: bytes, *, only_once: bool = False) -> None:
    """Write an object in one request (large ones in parts), which others see whole or not at all.

    Raises:
        FileExistsError: If `only_once` and there is one already; of several processes that try, the store lets one succeed.
    """
    location.fs.pipe_file(location.path, data, **_mode(only_once))  # type: ignore[attr-defined]


def put_file(source: Path, location: Path, *, only_once: bool = False) -> None:
    """Write a local file as an object; see `put`."""
    location.fs.put_file(str(source), location.path, **_mode(only_once))  # type: ignore[attr-defined]


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
