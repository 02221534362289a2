"""Are the bytes of an input file those that its catalogue knows?

Every file is hashed with xxh3-128 when it is first read; that is its identity (the same content twice is a duplicate). Where
the user gives the checksum of a catalogue, it is computed in the same pass: adler32 is what grid storage keeps, md5 and sha256
are what web archives publish. xxh3 costs less than reading the bytes from memory, adler32 about as much again, sha256 more.
"""

import hashlib
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import xxhash

from distjet.config import unknown
from distjet.errors import ConfigError

URL_MARK = "://"
XXH3_128 = "xxh3_128"
BLOCK_BYTES = 1 << 22


class Digest(Protocol):
    """What `hashlib` calls a hash object."""

    def update(self, data: Any, /) -> None:
        """Add bytes."""
        ...

    def hexdigest(self) -> str:
        """Return the checksum of all bytes so far."""
        ...


class Adler32:
    """The checksum of zlib (RFC 1950) in the form of a hash object."""

    def __init__(self) -> None:
        self.value = zlib.adler32(b"")

    def update(self, data: Any, /) -> None:
        """Add bytes."""
        self.value = zlib.adler32(data, self.value)

    def hexdigest(self) -> str:
        """Return 8 hexadecimal characters."""
        return f"{self.value:08x}"


ALGORITHMS: Mapping[str, Any] = {
    "adler32": Adler32,
    "md5": hashlib.md5,
    "sha256": hashlib.sha256,
    XXH3_128: xxhash.xxh3_128,
}


@dataclass(frozen=True)
class Checksum:
    """A checksum as a catalogue gives it."""

    algorithm: str
    value: str

    @classmethod
    def parse(cls, algorithm: str, value: str, where: str) -> "Checksum":
        """Check the parts of a checksum; leading zeros may be missing, as in some catalogues of adler32.

        Raises:
            ConfigError: If the algorithm is unknown, or the value is not a number of its length in hexadecimal digits.
        """
        if algorithm not in ALGORITHMS:
            raise ConfigError(f"{where}: " + unknown("checksum algorithm", algorithm, ALGORITHMS))
        length = len(ALGORITHMS[algorithm]().hexdigest())
        digits = value.lower()
        if not digits or len(digits) > length or not set(digits) <= set("0123456789abcdef"):
            raise ConfigError(f"{where}: expected {algorithm} as {length} hexadecimal digits (got {value!r})")
        return cls(algorithm, digits.zfill(length))


class Hasher:
    """Hashes bytes that come in pieces, with xxh3-128 and up to one algorithm more."""

    def __init__(self, algorithm: str | None = None) -> None:
        self.digests: dict[str, Digest] = {name: ALGORITHMS[name]() for name in {XXH3_128, algorithm or XXH3_128}}

    def update(self, data: Any) -> None:
        """Add bytes."""
        for digest in self.digests.values():
            digest.update(data)

    def update_from(self, handle: Any) -> None:
        """Add what is left of an open file."""
        buffer = bytearray(BLOCK_BYTES)
        view = memoryview(buffer)
        while size := handle.readinto(buffer):
            self.update(view[:size])

    def result(self) -> dict[str, str]:
        """Return the value for each algorithm."""
        return {name: digest.hexdigest() for name, digest in self.digests.items()}


def read_catalogue(given: Path | Mapping[str, str] | None) -> dict[str, Checksum]:
    """Read the checksums that the user has: path or URL of the file -> checksum.

    Raises:
        ConfigError: If there is no such file, a line is not `algorithm value path`, an algorithm is unknown, or a path has two.
    """
    found: dict[str, Checksum] = {}
    for path, checksum in _lines(given) if isinstance(given, Path) else _entries(given or {}):
        if found.setdefault(path, checksum) != checksum:
            raise ConfigError(f"checksums: {path} has two, {found[path].value} and {checksum.value}")
    return found


def _lines(file: Path) -> Iterator[tuple[str, Checksum]]:
    if not file.is_file():
        raise ConfigError(f"checksums: there is no file {file}")
    for number, line in enumerate(file.read_text().splitlines(), start=1):
        parts = [] if line.lstrip().startswith("#") else line.split(maxsplit=2)
        if not parts:
            continue
        if len(parts) != 3:
            raise ConfigError(f"{file} line {number}: expected `algorithm value path` (got {line!r})")
        yield absolute(parts[2].strip(), file.parent), Checksum.parse(parts[0], parts[1], f"{file} line {number}")


def _entries(given: Mapping[str, str]) -> Iterator[tuple[str, Checksum]]:
    for path, text in given.items():
        algorithm, _, value = text.partition(":")
        yield absolute(path, Path()), Checksum.parse(algorithm, value, f"checksums: {path}")


def absolute(path: str, folder: Path) -> str:
    """Return a URL as it is, and a path as an absolute one; a relative path counts from `folder`."""
    return path if URL_MARK in path else str((folder / Path(path).expanduser()).resolve())
