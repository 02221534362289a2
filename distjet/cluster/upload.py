"""What does a job take along to a Ray cluster, and which paths mean something there?

A job runs in a copy of the working directory, without the data: what is left out is listed in conf/runtime_env.yaml. The copy
is deleted some time after the job, so a relative `output` would be lost with it; that is an error here, before the upload, and
in the job itself, because a job can be submitted without distjet.

The files are listed by the functions with which Ray makes its package (private ones; the version of Ray is pinned): a list made
by others would differ where patterns are subtle, and what is said here would not be what Ray does.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from distjet.config import Config, find_file
from distjet.errors import ConfigError

RUNTIME_ENV = Path("conf/runtime_env.yaml")
"In the working directory; where it has none, the one that comes with distjet."

LARGEST_UPLOAD_MIB = 100
"Ray would take 500 MiB, but keeps them in the memory of its head; code and configurations are a few MiB."

NUM_SHOWN = 5
"So many of the largest files are named."

COPIES = "working_dir_files"
"Ray's folder of copies of working directories."


@dataclass(frozen=True)
class Upload:
    """Files that travel with a job: paths relative to the working directory, and sizes in bytes."""

    folder: Path
    sizes: Mapping[Path, int]
    runtime_env: Mapping[str, Any]

    def check_size(self) -> None:
        """Refuse what is too large, by name.

        Raises:
            ConfigError: If the files have more than LARGEST_UPLOAD_MIB.
        """
        if (total := sum(self.sizes.values())) <= LARGEST_UPLOAD_MIB * 2**20:
            return
        largest = sorted(self.sizes, key=lambda path: -self.sizes[path])[:NUM_SHOWN]
        named = "\n".join(f"  {self.sizes[path] / 2**20:8.1f} MiB  {path}" for path in largest)
        raise ConfigError(
            f"{self.folder} has {total / 2**20:.0f} MiB to upload, at most {LARGEST_UPLOAD_MIB} are allowed. The largest of "
            f"its {len(self.sizes)} files:\n{named}\nAdd what a job does not need to `excludes` in {RUNTIME_ENV}, and keep "
            "data on a file system that the cluster sees."
        )

    def check_files(self, files: Sequence[Path]) -> None:
        """Refuse configuration files that the job would not find; absolute paths are taken to exist there as well.

        Raises:
            ConfigError: If a file is not part of the upload.
        """
        for file in files:
            comes_with_distjet = find_file(file) != file
            if not (file in self.sizes or file.is_absolute() or comes_with_distjet):
                raise ConfigError(
                    f"{file} does not travel with the job: it is outside of {self.folder}, or left out by {RUNTIME_ENV} or "
                    ".gitignore. Copy it into this folder, or give a path that the cluster sees."
                )


def upload_of(folder: Path) -> Upload:
    """List what a job that is submitted in `folder` takes along.

    Raises:
        ConfigError: If conf/runtime_env.yaml is not a mapping.
    """
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    runtime_env = read_runtime_env(find_file(RUNTIME_ENV))
    excludes = [*get_runtime_env_default_excludes(), *runtime_env.get("excludes", [])]
    sizes: dict[Path, int] = {}

    def note(path: Path) -> None:
        if path.is_file():
            sizes[path.relative_to(folder)] = path.stat().st_size

    _dir_travel(folder, [_get_excludes(folder, excludes)], note, include_gitignore=True)
    return Upload(folder, sizes, {**runtime_env, "working_dir": str(folder)})


def read_runtime_env(file: Path) -> dict[str, Any]:
    """Read a runtime environment.

    Raises:
        ConfigError: If the file does not hold a mapping.
    """
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file} must hold a mapping with excludes and env_vars (got {content!r})")
    return content


def check_paths(config: Config, *, travelling: Mapping[Path, int] | None = None) -> None:
    """Refuse relative paths in the configuration of a job, except to files that travel with it.

    Args:
        config: The verb's configuration.
        travelling: Files of the upload; null: the process is in the job, and what is here has travelled.

    Raises:
        ConfigError: With every such key.
    """
    lost = {
        key: path for key, path in relative_paths(config) if not (path.is_file() if travelling is None else path in travelling)
    }
    if not lost:
        return
    named = ", ".join(f"{key}={path}" for key, path in lost.items())
    key, path = next(iter(lost.items()))
    here = f"; {key}={path.resolve()} if the nodes see this folder" if travelling is not None else ""
    raise ConfigError(
        f"{named}: a job runs in a copy of the folder from which it was submitted, and the copy is deleted afterwards. Give "
        f"absolute paths on a file system that all nodes see, e.g. {key}=/shared/{path}{here}"
    )


def check_paths_in_job(config: Config) -> None:
    """Refuse relative paths if this process is a job in a copy of a working directory; see `check_paths`."""
    if COPIES in Path.cwd().parts:
        check_paths(config)


def relative_paths(content: Any, key: str = "") -> Iterator[tuple[str, Path]]:
    """Find the relative paths in a configuration, with their dotted keys."""
    if isinstance(content, Path):
        if not content.is_absolute():
            yield key, content
    elif isinstance(content, Config | Mapping):
        for name, value in content.items() if isinstance(content, Mapping) else content:
            yield from relative_paths(value, f"{key}.{name}".lstrip("."))
    elif isinstance(content, list | tuple):
        for index, value in enumerate(content):
            yield from relative_paths(value, f"{key}.{index}")
