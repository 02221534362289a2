"""What is at a URL of an object store? A path that does not take a failure for an absence.

The methods of universal_pathlib answer that there is no file when the store did not answer, or refused: a training would then
believe that it has no history, and begin a new one. Those of fsspec take a listing that failed for an empty folder: locks would
be overlooked, and inputs. Here both are errors.
"""

import re
from collections.abc import Iterator
from io import BytesIO, TextIOWrapper
from typing import Any, Self

from fsspec.utils import glob_translate
from upath.extensions import ProxyUPath


class StorePath(ProxyUPath):
    """A path on s3:// whose questions are answered by the store, or raise."""

    def exists(self, *, follow_symlinks: bool = True) -> bool:
        """Tell whether there is an object, or one below; there are no links."""
        return self._kind() is not None

    def is_file(self, *, follow_symlinks: bool = True) -> bool:
        """Tell whether there is an object."""
        return self._kind() == "file"

    def is_dir(self, *, follow_symlinks: bool = True) -> bool:
        """Tell whether there are objects below."""
        return self._kind() == "directory"

    def read_bytes(self) -> bytes:
        """Read an object in one request: s3fs would ask for it twice, and fail if another process replaces it in between."""
        return self.fs.cat_file(self.path, max_concurrency=1)

    def read_text(self, encoding: str | None = None, errors: str | None = None, newline: str | None = None) -> str:
        """Read an object as text; see `read_bytes`."""
        return TextIOWrapper(BytesIO(self.read_bytes()), encoding or "utf-8", errors, newline).read()

    def glob(self, pattern: str, *, case_sensitive: bool | None = None, recurse_symlinks: bool = False) -> Iterator[Self]:
        """Find what is below and matches a pattern of names with * ? [ ]; none where there is no folder. Case counts.

        Raises:
            OSError: If the folder cannot be listed.
        """
        wanted = re.compile(glob_translate(pattern))
        names = (name.rstrip("/").removeprefix(f"{self.path}/") for name in self._below(deep="/" in pattern))
        yield from (self / name for name in sorted(names) if name != self.path and wanted.match(name))

    def rglob(self, pattern: str, *, case_sensitive: bool | None = None, recurse_symlinks: bool = False) -> Iterator[Self]:
        """Find what matches a pattern here or in a folder below; see `glob`."""
        return self.glob(f"**/{pattern}")

    def _below(self, *, deep: bool) -> list[str]:
        try:
            return self.fs.find(self.path, withdirs=True) if deep else self.fs.ls(self.path, detail=False)
        except FileNotFoundError:
            return []

    def _kind(self) -> Any:
        try:
            return self.fs.info(self.path)["type"]
        except FileNotFoundError:
            return None
