"""Where tasks run; no part of what they compute."""

from typing import Literal

from pydantic import Field

from distjet.config import Config


class TasksConfig(Config):
    """Workers for `distjet simulate` and `distjet prepare`."""

    scheduler: str = Field(default="local", pattern=r"^(local|in_process|(tcp|tls)://.+)$")
    "local: Dask workers on this machine; in_process: none, one task after the other; tcp://host:port: a running Dask cluster."
    num_workers: int | None = Field(default=None, ge=1)
    "Worker processes of a local cluster, one thread each; null: one for each core."
    retries: int = Field(default=1, ge=0)
    "How often a task that raised is tried again."
    progress: Literal["auto", "off"] = "auto"
    "A progress bar, if the output is a terminal."
