"""How do libraries that want a file object read a file that is read in ranges of bytes?

h5py and zipfile seek and read. Behind what they hold is the same reader as behind uproot, so a file on a server and one on disk
are read alike, no file stays open between reads, and an error of the machine comes out of the library as the error that it was.
"""

import io
from typing import TYPE_CHECKING

from distjet.dataset.reading.remote import RemoteFile

if TYPE_CHECKING:
    from distjet.dataset.reading.sources import Opened

LOCAL_BUFFER_BYTES, REMOTE_BUFFER_BYTES = 2**16, 2**20
"Are read at least; a request to a server costs as much time as a megabyte."


class ByteFile(io.RawIOBase):
    """A file object without a buffer.

    Args:
        opened: What reads the file.
    """

    def __init__(self, opened: "Opened") -> None:
        super().__init__()
        self.opened, self.position = opened, 0

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def seekable(self) -> bool:
        """Return that any place in it can be read."""
        return True

    def tell(self) -> int:
        """Return where the next read begins."""
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, counted from the start, from here or from the end."""
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.opened.size}[whence]
        self.position = max(origin + offset, 0)
        return self.position

    def readinto(self, target: "memoryview") -> int:  # type: ignore[override]
        """Fill some memory, as far as the file goes."""
        start = min(self.position, self.opened.size)
        stop = min(start + len(target), self.opened.size)
        data = self.opened.reader.read([(start, stop)])[0] if stop > start else b""
        target[: len(data)] = data
        self.position += len(data)
        return len(data)


def as_file(opened: "Opened") -> io.BufferedReader:
    """Return a file object with a buffer."""
    is_remote = isinstance(opened.reader, RemoteFile)
    return io.BufferedReader(ByteFile(opened), REMOTE_BUFFER_BYTES if is_remote else LOCAL_BUFFER_BYTES)
