"""Where tasks run; no part of what they compute."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from distjet.config import Config

ONLY_FOR = {"slurm": ("queue", "account", "walltime"), "htcondor": ("disk",)}
"Keys that one batch system has and the other has not."

DERIVED = ("processes", "n_workers")
"Arguments of dask-jobqueue that follow from ours: as many processes as cores, as many workers as the jobs hold."


MALLOC = ("MALLOC_MMAP_THRESHOLD_", str(2**25))
"""Environment variable of workers: arrays below 32 MB come from the heap, as they do in a process that is left alone. Dask
makes workers give memory back early (MALLOC_TRIM_THRESHOLD_), and with that glibc no longer adapts: each array of more than
128 kB would come from the kernel, page by page, for a fifth more CPU time."""


class JobQueueConfig(Config):
    """Jobs of a batch system in which Dask workers run; what is null is what dask-jobqueue's own configuration says."""

    num_jobs: int = Field(default=1, ge=1)
    "Jobs in the queue. One that ended, for example at its wall time, is submitted again while there is work."
    cores: int = Field(default=1, ge=1)
    "Cores of a job: so many workers of one thread run in it."
    memory: str = "2GB"
    "Memory of a job, shared equally by its workers."
    queue: str | None = None
    "Partition. SLURM."
    account: str | None = None
    "Who pays. SLURM."
    walltime: str | None = None
    "Longest time that a job runs, e.g. 04:00:00. SLURM."
    disk: str | None = None
    "Disk of a job, e.g. 2GB. HTCondor."
    log_directory: Path | None = None
    "Where the jobs' output goes."
    interface: str | None = None
    "Network interface over which workers and this process talk, e.g. ib0; null: the one with a route to the outside."
    extra: dict[str, Any] = Field(default_factory=dict)
    "Further arguments of dask_jobqueue.SLURMCluster or HTCondorCluster, e.g. job_extra_directives, job_script_prologue."

    @field_validator("walltime", mode="before")
    @classmethod
    def _is_not_base_60(cls, given: Any) -> Any:
        if isinstance(given, int):
            raise ValueError("YAML reads digits and colons as a number in base 60; write days as well, e.g. 0-10:00:00")
        return given


class TasksConfig(Config):
    """Workers for `distjet simulate`, `distjet prepare` and `distjet verify`."""

    scheduler: str = Field(default="local", pattern=r"^(local|in_process|slurm|htcondor|(tcp|tls)://.+)$")
    """local: Dask workers on this machine; in_process: none, one task after the other; tcp://host:port: a running Dask cluster;
    slurm, htcondor: workers in jobs of a batch system, see jobqueue."""
    num_workers: int | None = Field(default=None, ge=1)
    "Worker processes of a local cluster, one thread and an equal share of the memory each; null: one for each core."
    jobqueue: JobQueueConfig = JobQueueConfig()
    "Jobs for slurm and htcondor."
    retries: int = Field(default=1, ge=0)
    "How often a task that raised is tried again."
    progress: Literal["auto", "off"] = "auto"
    "A progress bar if the output is a terminal, else a line now and then."
    dashboard: bool = False
    "Serve Dask's dashboard on 127.0.0.1, and say at which address."
    performance_report: Path | None = None
    "An HTML page on what the workers did when, written at the end."

    @field_validator("progress", mode="before")
    @classmethod
    def _off_is_a_word(cls, given: Any) -> Any:
        return "off" if given is False else given  # YAML reads `off` as false

    @property
    def is_batch(self) -> bool:
        """Whether workers run in jobs of a batch system."""
        return self.scheduler in ONLY_FOR

    @model_validator(mode="after")
    def _fits_the_batch_system(self) -> "TasksConfig":
        if not self.is_batch:
            return self
        for system, keys in ONLY_FOR.items():
            for key in keys:
                if system != self.scheduler and getattr(self.jobqueue, key) is not None:
                    raise ValueError(f"jobqueue.{key} is for {system}; for {self.scheduler}, use jobqueue.extra")
        ours = {*JobQueueConfig.model_fields, *DERIVED}
        if taken := sorted(ours & set(self.jobqueue.extra)):
            raise ValueError(f"jobqueue.extra must not hold {', '.join(taken)}: distjet sets it")
        if self.scheduler == "htcondor" and self.jobqueue.disk is None:
            raise ValueError("htcondor needs jobqueue.disk, the disk of a job, e.g. 2GB")
        return self

    @model_validator(mode="after")
    def _has_workers_to_report_on(self) -> "TasksConfig":
        if self.scheduler == "in_process" and (self.performance_report is not None or self.dashboard):
            raise ValueError("performance_report and dashboard are of Dask's workers, and scheduler=in_process has none")
        return self
