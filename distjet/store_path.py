"""What is at a URL of an object store? A path that does not take a failure for an absence.

The methods of universal_pathlib answer that there is no file when the store did not answer, or refused: a training would then
believe that it has no history, and begin a new one. Here that is an error.
"""

from typing import Any

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

    def _kind(self) -> Any:
        try:
            return self.fs.info(self.path)["type"]
        except FileNotFoundError:
            return None
