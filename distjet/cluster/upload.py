"""What does a job take along to a Ray cluster, and which paths mean something there?

A job runs in a copy of the working directory, without the data: what is left out is listed in conf/runtime_env.yaml. The copy
is deleted some time after the job, so a relative `output` would be lost with it; that is an error here, before the upload, and
in the job itself, because a job can be submitted without distjet.

The files are listed by the functions with which Ray makes its package (private ones; the version of Ray is pinned): a list made
by others would differ where patterns are subtle, and what is said here would not be what Ray does.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr

from distjet.config import Config, find_file
from distjet.errors import ConfigError
from distjet.storage import Place, check_options

RUNTIME_ENV = Path("conf/runtime_env.yaml")
"In the working directory; where it has none, the one that comes with distjet."

LARGEST_UPLOAD_MIB = 100
"Ray would take 500 MiB, but keeps them in the memory of its head; code and configurations are a few MiB."

NUM_SHOWN = 5
"So many of the largest files are named."

KEYS = (
    *(".env*", ".netrc", "_netrc", ".pypirc", ".npmrc", ".git-credentials", ".htpasswd", ".pgpass"),
    *("auth_token", "credentials", "id_rsa*", "id_ecdsa*", "id_ed25519*", "x509up_u*"),
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.ppk", "*.kdbx", "*.keytab"),
)
KEY_FOLDERS = (".aws", ".azure", ".gnupg", ".globus", ".kube", ".ray", ".ssh")
"Names of files and folders that hold keys, tokens and passwords; conf/runtime_env.yaml leaves them out."

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

    def check_secrets(self) -> None:
        """Refuse files that look like keys: the head serves an upload to every process of the cluster, for as long as it runs.

        Raises:
            ConfigError: If there are some, by name.
        """
        found = [path for path in self.sizes if any(map(path.match, KEYS)) or not set(KEY_FOLDERS).isdisjoint(path.parts)]
        if found:
            raise ConfigError(
                f"{', '.join(map(str, found))}: this looks like keys or passwords, which do not belong into an upload. Move "
                f"it out of {self.folder}, or add it to `excludes` in {RUNTIME_ENV}"
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
        ConfigError: If the folder is a home, or conf/runtime_env.yaml is not a mapping or holds a secret.
    """
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import _dir_travel, _get_excludes

    if Path.home().resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"{folder} is, or holds, your home folder, which would be uploaded. Submit from a project's folder")
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
        ConfigError: If the file does not hold a mapping, or holds a secret.
    """
    try:
        content = yaml.safe_load(file.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file} must hold a mapping with excludes and env_vars (got {content!r})")
    try:
        check_options(content)
    except ValueError as error:
        raise ConfigError(f"{file}: {error} of the nodes. Everybody who sees the dashboard can read this file") from error
    return content


@dataclass(frozen=True)
class RelativePath:
    """A relative path in a configuration."""

    key: str
    "Dotted; of what is in a list, that of the list."
    path: Path
    scheme: str = ""
    "What stands before the path, `sqlite:///` or nothing."

    def at(self, path: Path | str) -> str:
        """Write the key with another path."""
        return f"{self.key}={self.scheme}{path}"


def check_paths(config: Config, *, travelling: Mapping[Path, int] | None = None) -> None:
    """Refuse relative paths in the configuration of a job and in its parts, except to files that travel with it.

    Args:
        config: The verb's configuration.
        travelling: Files of the upload; null: the process is in the job, and what is here has travelled.

    Raises:
        ConfigError: With every such key.
    """

    def lost_in(content: Config, key: str = "") -> list[RelativePath]:
        found = relative_paths(content, key)
        return [item for item in found if not (item.path.is_file() if travelling is None else item.path in travelling)]

    lost = lost_in(config)
    roots = [item.path for item in lost]  # parts repeat these, with folders below
    for name, part in config.parts().items():
        lost += [item for item in lost_in(part, name) if not any(item.path.is_relative_to(root) for root in roots)]
    if not lost:
        return
    named = ", ".join(item.at(item.path) for item in lost)
    first = lost[0]
    here = f"; {first.at(first.path.resolve())} if the nodes see this folder" if travelling is not None else ""
    raise ConfigError(
        f"{named}: a job runs in a copy of the folder from which it was submitted, and the copy is deleted afterwards. Give "
        f"absolute paths on a file system that all nodes see, e.g. {first.at(Path('/shared', first.path))}{here}"
    )


def check_paths_in_job(config: Config) -> None:
    """Refuse relative paths if this process is a job in a copy of a working directory; see `check_paths`."""
    if COPIES in Path.cwd().parts:
        check_paths(config)


def relative_paths(content: Any, key: str = "") -> Iterator[RelativePath]:
    """Find the relative paths in a configuration: those that are paths, and the texts of fields that are marked as `Place`."""
    if isinstance(content, Path):
        if not content.is_absolute():
            yield RelativePath(key, content)
    elif isinstance(content, Config):
        for name, value in content:
            place = next((mark for mark in type(content).model_fields[name].metadata if isinstance(mark, Place)), None)
            below = f"{key}.{name}".lstrip(".")
            yield from relative_paths(value, below) if place is None else _relative_texts(value, below, place)
    elif isinstance(content, Mapping):
        for name, value in content.items():
            yield from relative_paths(value, f"{key}.{name}".lstrip("."))
    elif isinstance(content, list | tuple):
        yield from (replace(found, key=key) for value in content for found in relative_paths(value, key))


def _relative_texts(value: Any, key: str, place: Place) -> Iterator[RelativePath]:
    """Find the relative paths in the value of a field that is marked: a text, several, or a mapping with texts as its keys."""
    shown = value.get_secret_value() if isinstance(value, SecretStr) else value
    for text in [shown] if isinstance(shown, str | Path) else shown or ():
        found = ("", text) if isinstance(text, Path) else place.local(text)
        if found is not None and not found[1].is_absolute():
            yield RelativePath(key, found[1], found[0])
