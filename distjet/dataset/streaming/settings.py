"""What can be configured about reading a split?

This file imports neither torch nor pyarrow, so that a wrong key is reported at once.
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from distjet.config import Config


class CacheConfig(Config):
    """Decoded row groups on a local disk, for all epochs and processes but the first to need them."""

    directory: Path
    "An absolute path on a fast disk of this machine; every node fills its own."
    max_bytes: int = Field(default=100 * 2**30, ge=1)
    "All that may lie in the directory. Row groups that do not fit are decoded in every epoch."
    dtype: Literal["float32", "float16"] = "float32"
    "float16 halves the features; they are rounded also where they are read from Parquet, so that the cache changes no batch."

    @field_validator("directory")
    @classmethod
    def _is_absolute(cls, value: Path) -> Path:
        if not value.is_absolute():
            raise ValueError(f"must be an absolute path, because workers run in other directories (got {value})")
        return value


class ReadConfig(Config):
    """Memory and speed of a stream; what defines the order of the rows says so."""

    lanes: int = Field(default=240, ge=1, le=10_000)
    """Row groups that are mixed at a time, and the largest number of workers. Many divisors are good: workers whose number
    divides it share every step equally. Defines the order."""
    max_bytes: int = Field(default=2 * 2**30, ge=1)
    """Decoded row groups held in memory, by all workers together (workers of one to three lanes hold up to three row groups
    more). If the lanes need more, the largest divisor of their number that fits is used; so it defines the order, too. A step
    with more rows than this holds is made nevertheless."""
    num_threads: int = Field(default=2, ge=1)
    "Threads of each worker that decode; one more makes batches of what they decoded."
    prefetch_bytes: int = Field(default=64 * 2**20, ge=1)
    "Finished batches that wait for a worker; one always may."
    cache: CacheConfig | None = None
    "null: every epoch decodes Parquet, unless the split fits in max_bytes as a whole."

    def identity(self) -> dict[str, Any]:
        """Return what defines the content and the order of batches."""
        rounded = self.cache is not None and self.cache.dtype == "float16"
        return {"lanes": self.lanes, "max_bytes": self.max_bytes, "dtype": "float16" if rounded else "float32"}


class StreamConfig(ReadConfig):
    """How a split is read."""

    batch_size: int = Field(default=512, ge=1)
    "Graphs in a global batch, over all workers."
    max_nodes: int | None = Field(default=None, ge=1)
    "Nodes in a global batch instead: graphs are added as long as they fit; null: batches are counted in graphs."
    shuffle: bool = True
    "Draw a new order every epoch; without it, rows come in the order of the shards, each worker reading its part of them."
    standardise: bool = False
    "Features leave as (value - mean) / std of the training split; distjet's own models do this themselves."
    row_columns: tuple[str, ...] = ()
    "Identifiers and spectators that are passed along as numpy arrays (for predictions)."
