"""Which files do the inputs name?

Patterns and folders are looked up here, on the driver; whether a file can be read is found out later, by whoever looks at it.
What a pattern finds is sorted, and everything else stays in the order in which it was given, so the list is always the same.
Links are followed, but the folder that names a sample is the one that the user sees: a store may keep files under other names.
"""

import os
import re
from collections.abc import Iterable, Iterator
from glob import glob
from itertools import takewhile
from pathlib import Path
from urllib.parse import urlsplit

from distjet.config import nearest_path
from distjet.dataset.reading.checksums import URL_MARK, absolute
from distjet.dataset.reading.remote import list_files
from distjet.dataset.recipes.recipe import PrepareConfig
from distjet.errors import ConfigError
from distjet.storage import check_url, without_secrets

LIST_SUFFIX = ".txt"
"No file of jets ends so."

SUFFIXES = (".h5", ".hdf5", ".npz")
"Of files in a folder without ROOT files."

WILDCARD = re.compile(r"[*?\[]")

COMMENT = re.compile(r"(^|\s)#.*")
"In a list; a # within a URL or a name is no comment."


def find_files(config: PrepareConfig, *, must_match: bool = True) -> list[tuple[str, str]]:
    """Resolve what the inputs name to (sample, absolute path or URL).

    Args:
        config: Whose `inputs` are meant; `remote.options` serve to list files on servers.
        must_match: Whether it is an error if files are not there (any more).

    Raises:
        ConfigError: If a pattern matches nothing or a file is found twice.
    """
    found: dict[str, str] = {}
    patterns: dict[str, str] = {}
    for item in config.inputs:
        for pattern in item.files:
            for path, name in _resolve(pattern, config, must_match, f"sample {item.sample or 'by folder'}"):
                if path in found:
                    raise ConfigError(f"inputs: {path} is listed twice, through {patterns[path]!r} and {pattern!r}")
                found[path], patterns[path] = item.sample or folder_name(name), pattern
    return [(sample, path) for path, sample in found.items()]


def folder_name(path: str) -> str:
    """Return the name of the folder of a file; of a file at the top of a server, the server's."""
    if URL_MARK not in path:
        return Path(path).parent.name
    parts = urlsplit(path)
    return Path(parts.path).parent.name or parts.netloc


def _resolve(pattern: str, config: PrepareConfig, must_match: bool, where: str) -> Iterator[tuple[str, str]]:
    """Find the files of a pattern, or of each line of a list: where they are, and by which name they were found."""
    if not _is_list(pattern):
        yield from _match(pattern, config, must_match, where)
        return
    file = Path(pattern).expanduser()
    if not file.is_file() and must_match:
        raise ConfigError(f"inputs: there is no list {pattern!r} ({where})")
    for number, line in enumerate(file.read_text().splitlines() if file.is_file() else [], start=1):
        text = COMMENT.sub("", line).strip()
        if _is_list(text):
            raise ConfigError(f"{pattern} line {number}: a list cannot name another list ({text!r})")
        if text:
            path = text if URL_MARK in text else str(file.parent / Path(text).expanduser())
            yield from _match(path, config, must_match, f"{pattern} line {number}")


def _is_list(pattern: str) -> bool:
    return pattern.endswith(LIST_SUFFIX) and URL_MARK not in pattern


def _match(pattern: str, config: PrepareConfig, must_match: bool, where: str) -> list[tuple[str, str]]:
    if URL_MARK in pattern:
        _check_secrets(pattern, where)
        found = [(url, url) for url in list_files(pattern, config.remote.options_for(pattern), config.remote.retries)]
    else:
        files = [file for file in _local(Path(pattern).expanduser()) if not Path(file).is_dir()]
        found = sorted((absolute(str(file), Path()), os.path.abspath(file)) for file in files)
    if must_match and not found:
        near = "" if URL_MARK in pattern else nearest_path(_before_wildcards(Path(pattern).expanduser()))
        raise ConfigError(f"inputs: no file matches {pattern!r} ({where}){near}")
    return found


def _check_secrets(url: str, where: str) -> None:
    """Refuse a URL from a list that carries a secret; those of a configuration are refused when it is read."""
    try:
        check_url(url)
    except ValueError as error:
        raise ConfigError(f"inputs: {without_secrets(url)} ({where}): {error}") from error


def _before_wildcards(pattern: Path) -> Path:
    """Return the folders of a pattern up to the first part with a wildcard."""
    return Path(*takewhile(lambda part: not WILDCARD.search(part), pattern.parts))


def _local(pattern: Path) -> Iterable[str | Path]:
    """Find what is in a folder or matches a pattern; a link that leads nowhere is among it, to be quarantined."""
    if pattern.is_dir():
        found = list(pattern.rglob("*.root"))
        return found or [file for file in pattern.rglob("*") if file.suffix in SUFFIXES]
    return [pattern] if pattern.is_file() else glob(str(pattern), recursive=True)  # a name may hold [ or ?
