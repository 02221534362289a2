"""How is a row group of a shard on an object store read? In one request, which is what a request costs there.

The footer is read once. It says where the columns of a row group lie, which is one stretch of the file: it is fetched as a
whole, and Arrow decodes it from memory. What is not wanted between the first and the last wanted column comes along.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from distjet.storage import for_arrow, read_ranges


class RemoteShard:
    """Reads row groups of one shard; has what is needed of the interface of `pq.ParquetFile`."""

    def __init__(self, path: Path) -> None:
        files, name = for_arrow(path)
        self.path = path
        self.metadata = pq.read_metadata(name, filesystem=files)

    def read_row_group(self, number: int, columns: Sequence[str], *, use_threads: bool) -> pa.Table:
        """Fetch and decode some columns of a row group, and compare the checksums of their pages.

        Raises:
            FileNotFoundError: If the shard is gone.
            ConnectionError: If it cannot be fetched, which says nothing about the shard.
            pyarrow.ArrowInvalid: If its bytes make no sense.
        """
        begin, end = self._stretch(number, set(columns))
        try:
            [content] = read_ranges([(self.path, begin, end)])
        except FileNotFoundError:
            raise
        except OSError as error:
            raise ConnectionError(f"{self.path}: {error}") from error
        with pq.ParquetFile(_Window(begin, content), metadata=self.metadata, page_checksum_verification=True) as file:
            return file.read_row_group(number, columns=columns, use_threads=use_threads)

    def close(self) -> None:
        """Do nothing: there is no connection of its own."""

    def _stretch(self, number: int, columns: set[str]) -> tuple[int, int]:
        """Return the first byte of the wanted columns of a row group, and one past the last."""
        group = self.metadata.row_group(number)
        chunks = [group.column(place) for place in range(group.num_columns)]
        wanted = [chunk for chunk in chunks if chunk.path_in_schema.partition(".")[0] in columns]
        starts = [min(filter(None, (chunk.dictionary_page_offset, chunk.data_page_offset))) for chunk in wanted]
        ends = [start + chunk.total_compressed_size for start, chunk in zip(starts, wanted, strict=True)]
        return min(starts), max(ends)


class _Window(io.RawIOBase):
    """A stretch of a file as if it were the file: positions count from the file's beginning."""

    def __init__(self, begin: int, content: bytes) -> None:
        self.begin, self.content, self.position = begin, memoryview(content), begin

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.begin + len(self.content)}[whence]
        self.position = origin + offset
        return self.position

    def read(self, size: int = -1) -> bytes:
        first = self.position - self.begin
        if first < 0:
            raise OSError(f"byte {self.position} was not fetched, the first one that was is {self.begin}")
        part = bytes(self.content[first:] if size < 0 else self.content[first : first + size])
        self.position += len(part)
        return part
