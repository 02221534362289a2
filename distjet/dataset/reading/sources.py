"""Where are the bytes of an input file, and are they still the ones that were looked at?

A local file is read where it lies. A remote one is copied to the dataset first (`remote: stage`), which needs one good
connection once, and is then as fast as a local one; or it is read where it lies (`remote: direct`). Messages and the manifest
know a file by the name that the user gave, wherever it was read.

Looking at a file reads all of it, for its hash. Later tasks compare size and time of the last change (over the network: size
and tag) and give up the file if these differ: half a file from before a change and half from after it is no data.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from distjet.dataset.reading.byte_source import LocalFile, Reader
from distjet.dataset.reading.checksums import URL_MARK, XXH3_128, Hasher
from distjet.dataset.reading.remote import RemoteFile
from distjet.dataset.recipes.recipe import Remote
from distjet.errors import ConfigError, DataError
from distjet.run_directory import identity_hash


@dataclass(frozen=True)
class Source:
    """An input file.

    Attributes:
        path: Absolute path or URL, as in the manifest.
        copies: Folder for a copy; empty for a file that is read where it lies.
        retries: Of requests to a server.
        options: Of fsspec for the protocol, as JSON.
        stamp: Size and time of the last change, or tag, when it was looked at; empty before.
        size_bytes: When it was looked at; None before, and where the server does not say.
        xxh3_128: Of its bytes; None before, and where it was not read as a whole.
    """

    path: str
    copies: str = ""
    retries: int = 0
    options: str = "{}"
    stamp: str = ""
    size_bytes: int | None = None
    xxh3_128: str | None = None

    @classmethod
    def of(cls, path: str, remote: Remote, copies: Path) -> "Source":
        """Say how a path or URL is to be read."""
        if URL_MARK not in path:
            return cls(path)
        options = json.dumps(remote.options_for(path), sort_keys=True)
        return cls(path, str(copies) if remote.mode == "stage" else "", remote.retries, options)

    @property
    def is_remote(self) -> bool:
        """Whether it lies on a server."""
        return URL_MARK in self.path

    @property
    def is_read_whole(self) -> bool:
        """Whether all its bytes are read, so that it has a hash."""
        return bool(self.copies) or not self.is_remote

    def identity(self) -> dict[str, Any]:
        """Return what says which bytes are meant: the path and their hash, or else size and tag."""
        return {"path": self.path, "content": self.xxh3_128 or self.stamp}

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for a record."""
        return asdict(self)

    def copy_path(self) -> Path:
        """Return where the copy is; its name depends on the state of the file on the server."""
        name = self.path.partition("?")[0].rpartition("/")[2]
        return Path(self.copies) / f"{identity_hash({'path': self.path, 'stamp': self.stamp})}-{name}"

    def forget(self) -> None:
        """Remove the copy, if there is one."""
        if self.copies:
            self.copy_path().unlink(missing_ok=True)

    def on_server(self) -> RemoteFile:
        """Return the file as it lies on its server."""
        return RemoteFile(self.path, self.retries, self.options)


@dataclass(frozen=True)
class Opened:
    """What reads an input file.

    Attributes:
        name: Of the file, for messages.
        reader: Reads its bytes.
        size: In bytes.
        stamp: Changes with the file.
    """

    name: str
    reader: Reader
    size: int
    stamp: str


def stamp(source: Source) -> Source:
    """Find out size and time of the last change, or tag.

    Raises:
        DataError: If the file does not exist on its server.
        ConfigError: If its server refuses, or a package is missing.
        OSError: If the file does not exist here, or the machine or the network fails.
    """
    if source.is_remote:
        info = source.on_server().info()
        return replace(source, stamp=f"{info.size} {info.tag}", size_bytes=info.size)
    found = Path(source.path).stat()
    return replace(source, stamp=f"{found.st_size} {found.st_mtime_ns}", size_bytes=found.st_size)


def examine(source: Source, algorithm: str | None = None) -> tuple[Source, Mapping[str, str]]:
    """Read a whole file for the first time, or nothing of it where that is not wanted.

    Args:
        source: With its stamp.
        algorithm: Of a checksum that is wanted beside xxh3-128.

    Returns:
        The source with its hash; and all checksums by algorithm, none where the file is not read as a whole.

    Raises:
        DataError: If the file changes at this moment, or is not there any more.
        ConfigError: If the server does not say how large it is, and it is to be read where it lies.
        OSError: If the machine or the network fails.
    """
    if not source.is_read_whole:
        if source.size_bytes is None:
            raise ConfigError(f"{source.path}: the server does not say how large the file is; use remote=stage")
        return source, {}
    hasher = Hasher(algorithm)
    if source.copies:
        copy = source.copy_path()
        source.on_server().download(copy, source.size_bytes, hasher)
        source = replace(source, size_bytes=copy.stat().st_size)
    else:
        with Path(source.path).open("rb", buffering=0) as handle:
            hasher.update_from(handle)
        if stamp(source).stamp != source.stamp:
            raise DataError(f"{source.path} is being written to while it is read; run again when it is complete")
    checksums = hasher.result()
    return replace(source, xxh3_128=checksums[XXH3_128]), checksums


def open_source(source: Source | str) -> Opened:
    """Find what reads a file; a copy that is not there (any more) is made.

    Raises:
        DataError: If the file is not the one that was looked at.
    """
    if isinstance(source, str):
        source = stamp(Source(source))
    if not source.copies:
        now = stamp(source)
        if now.stamp != source.stamp:
            raise DataError(f"{source.path} has changed since it was looked at (from {source.stamp} to {now.stamp})")
        reader = source.on_server() if source.is_remote else LocalFile(source.path)
        return Opened(source.path, reader, now.size_bytes or 0, source.stamp)
    copy = source.copy_path()
    if not copy.exists():
        again, _ = examine(stamp(source))
        if again != source:
            again.forget()
            raise DataError(f"{source.path} has changed since it was looked at (from {source.stamp} to {again.stamp})")
    return Opened(source.path, LocalFile(str(copy)), copy.stat().st_size, source.stamp)
