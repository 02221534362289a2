"""How do YAML files and `key=value` overrides become one validated configuration?

OmegaConf merges the files left to right, then the overrides; pydantic validates the result and reports every problem at once,
each with its dotted key, the file it came from, the allowed choices and the nearest spelling. Components (a model, a loss) are
named by a short name from one table or by an import path `package.module:Class`; nothing registers itself on import, because
a side effect in a driver does not reach a worker.

This module and all files that define configurations import neither torch nor ray, so that help and errors come at once.
"""

import difflib
import importlib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import pydantic
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from distjet.errors import ConfigError
from distjet.storage import without_secrets

Model = TypeVar("Model", bound="Config")

LONGEST_LIST = 12
"Where defaults are listed, a list with more items is shown by its ends."


class Config(pydantic.BaseModel):
    """Base of all configurations: frozen, and a key it does not know is an error."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)

    def parts(self) -> Mapping[str, "Config"]:
        """Build the configurations that stand in this one as plain mappings, by key.

        Raises:
            ConfigError: If one is not valid.
        """
        return {}


class ComponentConfig(Config):
    """Configuration of a component that is chosen by name."""

    name: str
    "A short name from the component's table, or an import path `package.module:Class`."


class Component(NamedTuple):
    """One row of a component table: two import paths, so that a configuration can be checked without the implementation."""

    config: str
    implementation: str


class ComponentField:
    """Validates a mapping with a `name` against the configuration of the component that the name stands for."""

    def __init__(self, kind: str, table: Mapping[str, Component], default: str) -> None:
        self.kind, self.table, self.default = kind, table, default

    def config_class(self, data: Mapping[str, Any]) -> type[ComponentConfig]:
        """Find the configuration class for `data["name"]`, or for the default name."""
        name = str(data.get("name", self.default))
        if name in self.table:
            return import_path(self.table[name].config)
        if ":" not in name:
            raise ValueError(unknown(self.kind, name, self.table) + " or an import path 'package.module:Class'")
        config = getattr(import_path(name), "Config", None)
        if not (isinstance(config, type) and issubclass(config, ComponentConfig)):
            raise ValueError(f"{name} needs a nested class Config derived from distjet.config.ComponentConfig")
        return config

    def validate(self, data: Any) -> Any:
        """Validate a mapping; a finished configuration passes through, and null to the check of the type."""
        if data is None or isinstance(data, Config):
            return data
        if not isinstance(data, Mapping):
            raise ValueError(f"expected a mapping with a name (got {data!r})")
        return self.config_class(data).model_validate(data)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        """Run `validate` before pydantic's own check of the type."""
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(self.validate, handler(source))


def component_type(kind: str, table: Mapping[str, Component], default: str, *, optional: bool = False) -> Any:
    """Return the annotation of a configuration field that holds a component's configuration.

    Args:
        kind: What the component is, for messages.
        table: Components by short name.
        default: The name that is meant where none is given.
        optional: Whether null is allowed.
    """
    held: Any = pydantic.SerializeAsAny[ComponentConfig]
    return Annotated[held | None if optional else held, ComponentField(kind, table, default)]


def implementation(name: str, table: Mapping[str, Component]) -> Any:
    """Import the class behind a component's name (already validated)."""
    return import_path(table[name].implementation if name in table else name)


def import_path(path: str) -> Any:
    """Import `package.module:Attribute`.

    Raises:
        ConfigError: If the module or the attribute does not exist. An error inside the module keeps its traceback.
    """
    module_name, _, attribute = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not module_name.startswith(error.name):
            raise
        raise ConfigError(f"cannot import {path!r}: there is no module {error.name!r}") from error
    if not hasattr(module, attribute):
        raise ConfigError(f"cannot import {path!r}: {module_name} has no {attribute!r}{did_you_mean(attribute, dir(module))}")
    return getattr(module, attribute)


def load(
    model: type[Model],
    files: Sequence[str | Path],
    overrides: Sequence[str] = (),
    *,
    section: Mapping[str, Any] | None = None,
    prefix: str = "",
) -> Model:
    """Merge files and overrides and validate them.

    A layer that names another component (`model: {name: ...}`) starts from that component's defaults: the keys that earlier
    layers set for the old one do not apply to it.

    Args:
        model: The configuration class of the verb.
        files: YAML files; later ones win.
        overrides: `dotted.key=value` strings; they win over files.
        section: Keys from a part of a larger configuration; they win over files, and overrides over them.
        prefix: Where `section` stands in the larger configuration, for messages, e.g. `train.`.

    Raises:
        ConfigError: With every problem found, one a line.
    """
    merged: Any = OmegaConf.create({})
    origin: dict[str, str] = {}
    components = _components(model)
    for file in files:
        layer = _read_yaml(Path(file))
        origin.update(dict.fromkeys(_leaf_keys(OmegaConf.to_container(layer, resolve=False)), str(file)))
        merged = _merge(merged, layer, components)
    if section:
        merged = _merge(merged, OmegaConf.create(dict(section)), components)
    if overrides:
        layer = OmegaConf.merge(*(_parse_override(override) for override in overrides))
        origin.update(dict.fromkeys((override.partition("=")[0] for override in overrides), "command line"))
        merged = _merge(merged, layer, components)
    try:
        data = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError(f"cannot resolve the configuration: {error}") from error
    return validate(model, data, origin, prefix)


def top_level_keys(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> set[str]:
    """Return the keys at the top of all files and overrides, without a look at their values.

    Raises:
        ConfigError: If a file cannot be read, or an override is none.
    """
    layers = [*(_read_yaml(Path(file)) for file in files), *(_parse_override(override) for override in overrides)]
    return {str(key) for layer in layers for key in layer}


def find_file(path: Path) -> Path:
    """Find `conf/...` among the configurations that come with distjet, where the working directory has no such file."""
    package = Path(__file__).parent
    shipped = (package if (package / "conf").is_dir() else package.parent) / path
    return shipped if not path.exists() and path.parts[:1] == ("conf",) and shipped.exists() else path


def validate(model: type[Model], data: Any, origin: Mapping[str, str] | None = None, prefix: str = "") -> Model:
    """Validate plain data against a configuration class.

    Args:
        model: The configuration class.
        data: Nested mappings and plain values.
        origin: Which file a dotted key came from, for messages.
        prefix: What stands before the keys of `data`, for messages, e.g. `train.`.

    Raises:
        ConfigError: With every problem found, one a line.
    """
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as error:
        problems = [_describe(model, data, item, origin or {}, prefix) for item in error.errors()]
    raise ConfigError(without_secrets("\n".join(problems)))


def unknown(what: str, name: str, choices: typing.Iterable[str]) -> str:
    """Say that a name is not among the choices, with the nearest one."""
    known = sorted(choices)
    return f"unknown {what} {name!r}{did_you_mean(name, known)}; expected one of {known}"


def did_you_mean(name: str, choices: typing.Iterable[str]) -> str:
    """Return `, did you mean X` where a choice is close, else nothing."""
    close = difflib.get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f", did you mean {close[0]!r}" if close else ""


def nearest_path(path: Path) -> str:
    """Return `, did you mean X` for a path that does not exist: X is what its first missing part may have meant."""
    missing = next((part for part in [*reversed(path.parents), path] if not part.exists()), None)
    if missing is None:
        return ""
    siblings = sorted(item.name for item in missing.parent.iterdir()) if missing.parent.is_dir() else []
    close = difflib.get_close_matches(missing.name, siblings, n=1, cutoff=0.6)
    return f", did you mean {str(missing.parent / close[0])!r}" if close else ""


def describe_keys(model: type[Config], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """List (dotted key, default, description) of a configuration; the keys of components are those of their default."""
    for name, field in model.model_fields.items():
        components = [extra for extra in field.metadata if isinstance(extra, ComponentField)]
        inner = components[0].config_class({}) if components else _without_none(field.annotation)
        default = "required" if field.is_required() else _plain(field.get_default(call_default_factory=True))
        nested = isinstance(inner, type) and issubclass(inner, Config)
        text = [" ".join((field.description or "").split())]
        if components:
            names = ", ".join(components[0].table)
            text.append(f"One of {names}, or package.module:Class; the keys of {components[0].default}:")
        elif typing.get_origin(inner) is typing.Literal:
            text.append(f"One of {', '.join(map(str, typing.get_args(inner)))}.")
        yield f"{prefix}{name}", "" if nested else default, " ".join(filter(None, text))
        if nested:
            yield from describe_keys(inner, f"{prefix}{name}.")


def _plain(value: Any) -> str:
    """Write a default as it would stand on the command line, a long list by its ends."""
    if value is None:
        return "null"
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value]
        return f"[{','.join(items if len(items) <= LONGEST_LIST else [*items[:3], '...', items[-1]])}]"
    if isinstance(value, Config):
        return f"{{{', '.join(f'{name}: {_plain(item)}' for name, item in value)}}}"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read_yaml(path: Path) -> Any:
    path = find_file(path)
    if not path.is_file():
        raise ConfigError(f"configuration file {path} does not exist{nearest_path(path)}")
    try:
        content = OmegaConf.load(path)
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not OmegaConf.is_dict(content):
        raise ConfigError(f"{path} must hold a mapping of keys (got a list or a single value)")
    return content


def _parse_override(override: str) -> Any:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise ConfigError(without_secrets(f"expected FILE.yaml or dotted.key=value (got {override!r})"))
    try:
        return OmegaConf.from_dotlist([f"{key}={value}"])
    except (YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(without_secrets(f"override {override!r} is not valid: {error}")) from error


def _merge(merged: Any, layer: Any, components: Mapping[str, ComponentField]) -> Any:
    """Merge a layer; where it names another component than before, what was set for the old one goes."""
    for key, field in components.items():
        before, after = OmegaConf.select(merged, key), OmegaConf.select(layer, key)
        both = OmegaConf.is_dict(before) and OmegaConf.is_dict(after)
        if both and after.get("name", before.get("name", field.default)) != before.get("name", field.default):
            OmegaConf.update(merged, key, {}, merge=False)
    _make_way(merged, layer)
    return OmegaConf.merge(merged, layer)


def _make_way(merged: Any, layer: Any, prefix: str = "") -> None:
    """Let a list in a layer replace a mapping, which OmegaConf cannot merge; keys in a list are a mistake.

    Raises:
        ConfigError: If the layer sets a key inside of a list.
    """
    for key in layer:
        before, after = (part._get_node(key) for part in (merged, layer))
        if OmegaConf.is_dict(before) and OmegaConf.is_dict(after):
            _make_way(before, after, f"{prefix}{key}.")
        elif OmegaConf.is_dict(before) and OmegaConf.is_list(after):
            merged[key] = None
        elif OmegaConf.is_list(before) and OmegaConf.is_dict(after):
            raise ConfigError(
                f"{prefix}{key} is a list, in which {', '.join(map(str, after))} cannot be set; give the whole list"
            )


def _components(model: type[Config], prefix: str = "") -> dict[str, ComponentField]:
    """Find the fields that hold components, by dotted key."""
    found: dict[str, ComponentField] = {}
    for name, field in model.model_fields.items():
        found |= {f"{prefix}{name}": extra for extra in field.metadata if isinstance(extra, ComponentField)}
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            found |= _components(field.annotation, f"{prefix}{name}.")
    return found


def _leaf_keys(data: Any, prefix: str = "") -> list[str]:
    if not isinstance(data, Mapping):
        return [prefix.rstrip(".")]
    return [prefix.rstrip("."), *(key for name, value in data.items() for key in _leaf_keys(value, f"{prefix}{name}."))]


def _describe(model: type[Config], data: Any, item: Any, origin: Mapping[str, str], before: str) -> str:
    """Turn one pydantic error into `where: dotted.key: what was expected, what came, what is near`."""
    location = [str(part) for part in item["loc"]]
    key = before + ".".join(location)
    where = _origin_of(location, origin)
    prefix = f"{where}: {key}" if where else key
    if item["type"] == "extra_forbidden":
        owner, fields = _owner(model, data, location[:-1])
        return f"{prefix} is not a field of {owner}{did_you_mean(location[-1], fields)}; fields: {', '.join(fields)}"
    if item["type"] == "missing":
        return f"{prefix} is required and missing"
    message = item["msg"].removeprefix("Value error, ")
    got = "" if isinstance(item["input"], Mapping | Config) else f" (got {item['input']!r})"
    return f"{prefix}: {message}{got}" if key else f"{message}{got}"


def _origin_of(location: Sequence[str], origin: Mapping[str, str]) -> str:
    for length in range(len(location), 0, -1):
        if (found := origin.get(".".join(location[:length]))) is not None:
            return found
    return ""


def _owner(model: type[Config], data: Any, location: Sequence[str]) -> tuple[str, list[str]]:
    """Find the configuration class at a location, to list its fields."""
    current: Any = model
    for part in location:
        data = data[part] if isinstance(data, Mapping) and part in data else None
        if isinstance(current, type) and issubclass(current, Config):
            field = current.model_fields[part]
            components = [extra for extra in field.metadata if isinstance(extra, ComponentField)]
            current = components[0].config_class(data) if components and isinstance(data, Mapping) else field.annotation
        else:
            current = typing.get_args(current)[-1] if typing.get_args(current) else None
        current = _without_none(current)
    if isinstance(current, type) and issubclass(current, Config):
        return current.__name__, list(current.model_fields)
    return "this mapping", []


def _without_none(annotation: Any) -> Any:
    """Reduce `X | None` to `X`, and an annotated type to the type."""
    if typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        options = [option for option in typing.get_args(annotation) if option is not type(None)]
        return options[0] if len(options) == 1 else annotation
    return annotation
